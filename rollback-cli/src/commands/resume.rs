//! `rollback resume`

use rollback_core::{Outcome, RunId, RunState};

use super::carry_out::{self, How};
use crate::args::ResumeArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::place;
use crate::session::App;

pub(crate) async fn run(app: &App, args: ResumeArgs) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let (run, prepared, undo_flags) = app
        .until_stopped(async {
            let (run, state) = which(&kept, args.run.as_deref()).await?;
            if state.outcome != Outcome::Unfinished {
                return Err(journal::ended(run, state.outcome));
            }
            let prepared = place::rebuild(app, &state.locators, state.plan.clone(), None).await?;
            Ok((run, prepared, place::undo_flags(&state.locators)))
        })
        .await?;
    let how = How { no_notify: args.no_notify, undo_flags, ..How::resuming(run).because(args.why) };
    carry_out::go(app, &prepared, &kept, how).await
}

/// The run that is meant: without a name, the only unfinished one.
async fn which(kept: &Kept, written: Option<&str>) -> Result<(RunId, RunState), Failure> {
    match written {
        Some(written) => kept.find(written).await,
        None => kept.only_unfinished().await,
    }
}
