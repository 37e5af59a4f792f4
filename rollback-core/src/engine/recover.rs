//! Going on with a run that another process began, or closing it.

use tokio_util::sync::CancellationToken;

use super::execute::{Run, check_realms};
use super::holds::Holds;
use super::{Engine, RunOptions, RunReport};
use crate::{Claim, Components, Entry, Error, ErrorKind, Event, Outcome, Result, RunId, RunState};

/// A run that has not ended, and the right to execute it.
async fn take(engine: &Engine, run: RunId, stop: &CancellationToken) -> Result<(Claim, RunState)> {
    // Read only once it is ours: whoever had it may just have ended it.
    let claim = super::claim(engine, run, stop).await?;
    let state = RunState::replay(&engine.journal.entries(run).await?)?;
    if state.outcome == Outcome::Unfinished {
        return Ok((claim, state));
    }
    let message = format!("run {run} has ended: {:?}", state.outcome);
    Err(Error::new(ErrorKind::Refused, message).with_hint("only an unfinished run can go on or be closed"))
}

pub(super) async fn resume(
    engine: &Engine,
    run: RunId,
    components: &Components,
    options: RunOptions,
) -> Result<RunReport> {
    let (claim, state) = take(engine, run, &options.cancellation).await?;
    check_realms(&state.plan, components).await?;
    let actor = options.actor.clone();
    let settings = state.settings.clone();
    let options = RunOptions { run, settings, ..options };
    let holds = Holds::take(engine, &state.plan, &options).await?;
    let run = Run::new(engine, components, options, state, claim, holds);
    Ok(run.report(Some(Event::RunResumed { actor })).await)
}

pub(super) async fn abandon(engine: &Engine, run: RunId, reason: &str) -> Result<RunReport> {
    let (claim, mut state) = take(engine, run, &CancellationToken::new()).await?;
    let event = Event::RunFinished { outcome: Outcome::Abandoned, reason: Some(reason.to_owned()) };
    let entry = Entry { at: engine.clock.now(), event };
    engine.journal.append(run, entry.clone()).await?;
    state.record(&entry)?;
    claim.release().await;
    Ok(RunReport::new(run, &state))
}
