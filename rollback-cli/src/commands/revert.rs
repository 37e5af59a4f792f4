//! `rollback revert`

use rollback_core::{Ledger, Outcome, Plan};

use super::carry_out::{self, How};
use super::next::Way;
use super::undo;
use crate::args::RevertArgs;
use crate::exit::{Exit, Failure};
use crate::session::App;
use crate::{journal, place};

pub(crate) async fn run(app: &App, args: RevertArgs) -> Result<Exit, Failure> {
    if args.dry_run.is_none() {
        carry_out::refuse_silence(args.run.yes, "revert")?;
    }
    let kept = journal::existing(app).await?;
    let prepared = app
        .until_stopped(async {
            let (run, state) = kept.find(&args.id).await?;
            if state.outcome == Outcome::Unfinished {
                return Err(journal::in_the_way(run, &Way::kept(app, &kept, "")).into());
            }
            let back = state.reversal()?;
            let back = Plan::new(back.steps().to_vec(), args.on_failure.into())?;
            if !args.force {
                refuse_bad(&*kept.ledger, &back).await?;
            }
            place::rebuild(app, &state.locators, back).await?.guarded(app).await
        })
        .await?;
    if args.dry_run.is_some() {
        return app.until_stopped(undo::dry_run(app, &prepared)).await;
    }
    let how = How::of(&args.run).because(args.why);
    carry_out::run(app, &prepared, &kept, how).await
}

/// What a run changed may have been marked bad since.
async fn refuse_bad(ledger: &dyn Ledger, plan: &Plan) -> rollback_core::Result<()> {
    for (realm, component) in plan.moves() {
        let record = ledger.record(&realm, &component).await?;
        let changes = plan.steps().iter().map(|step| &step.change);
        let last = changes.rev().find(|change| change.component == component && !change.is_noop());
        last.map_or(Ok(()), |change| record.refuse_bad(change))?;
    }
    Ok(())
}
