//! `rollback resume`

use rollback_core::{Clock as _, Outcome, RunId, RunReport, RunState, SystemClock};

use super::carry_out::{self, How};
use crate::args::ResumeArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::output::{self, table};
use crate::place;
use crate::session::App;

pub(crate) async fn run(app: &App, args: ResumeArgs) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let (run, prepared, state) = app
        .until_stopped(async {
            let (run, state) = which(&kept, args.run.as_deref()).await?;
            if state.outcome != Outcome::Unfinished {
                return Err(journal::ended(run, state.outcome));
            }
            let prepared = place::rebuild(app, &state.locators, state.plan.clone(), None).await?;
            Ok((run, prepared, state))
        })
        .await?;
    if !app.global.quiet {
        let report = RunReport::new(run, &state);
        let (actor, begun) = (output::told(&report.actor), table::ago(report.started_at, SystemClock.now()));
        output::say(&format!("goes on with run {run} by {actor}, begun {begun}:"));
        output::say(table::plan(&prepared.plan, console::colors_enabled_stderr()).trim_end());
    }
    let undo_flags = place::undo_flags(&state.locators);
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
