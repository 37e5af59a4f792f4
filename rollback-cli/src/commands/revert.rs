//! `rollback revert`

use rollback_core::{ChangeKind, Ledger, Outcome, Plan, Target};

use super::carry_out::{self, How, Prepared};
use super::next::Way;
use super::undo;
use crate::args::RevertArgs;
use crate::exit::{Exit, Failure};
use crate::parts::Part;
use crate::place::Guards;
use crate::session::{self, App};
use crate::{journal, lease, output, place};

pub(crate) async fn run(app: &App, args: RevertArgs) -> Result<Exit, Failure> {
    if args.dry_run.is_none() {
        carry_out::refuse_silence(args.run.yes, "revert")?;
    }
    if args.implied.is_partial() {
        return Err(session::usage(
            "a revert takes back all that the run changed; for a part: rollback undo with --only or --exclude",
        ));
    }
    let given = args.implied.given();
    if !given.is_empty() && !app.global.quiet {
        let given = given.join(", ");
        output::say(&format!("a revert puts back exactly what the run changed, also without {given}"));
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
            let guards = Guards {
                gitops: args.gitops.into(),
                force: args.force,
                artifact_check: args.artifact_check.into(),
            };
            let mut prepared = place::rebuild(app, &state.locators, back, Some(guards)).await?;
            judge(&mut prepared).await?;
            if let Some(cluster) = prepared.servers.cluster() {
                lease::warn(cluster, &mut prepared.plan).await;
            }
            prepared.guarded(app).await
        })
        .await?;
    if args.dry_run.is_some() {
        return app.until_stopped(undo::dry_run(app, &prepared)).await;
    }
    let undo_flags = args.gitops.flag();
    let how = How { undo_flags, ..How::of(&args.run).because(args.why) };
    carry_out::run(app, &prepared, &kept, how).await
}

/// Has each component say what speaks against the state to go back to, as an undo to it would. What was left amid the way
/// between two revisions has nothing to compare with, and of an environment exactly what the run changed goes back.
async fn judge(prepared: &mut Prepared) -> rollback_core::Result<()> {
    for part in prepared.parts.iter().filter(|part| !matches!(part, Part::Environment(_))) {
        let changes = || prepared.plan.changes_of(part.id()).filter(|change| !change.is_noop());
        let (Some(first), Some(last)) = (changes().next(), changes().last()) else { continue };
        let is_whole = !first.passage.from_between && !last.passage.to_between;
        if is_whole && last.kind == ChangeKind::Rollback {
            let target = Target::Snapshot(Box::new(last.to.clone()));
            for change in part.component().prepare(&target).await? {
                change.warnings.iter().for_each(|warning| prepared.plan.warn(part.id(), warning));
            }
        }
    }
    Ok(())
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
