//! `rollback revert`

use rollback_core::{Outcome, Plan};

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
            place::rebuild(app, &state.locators, back).await?.guarded(app).await
        })
        .await?;
    if args.dry_run.is_some() {
        return app.until_stopped(undo::dry_run(app, &prepared)).await;
    }
    let how = How::of(&args.run).because(args.why);
    carry_out::run(app, &prepared, &kept, how).await
}
