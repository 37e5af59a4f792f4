//! One change, from intent to settled.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::time::{Instant, timeout_at};

use super::execute::Run;
use crate::{
    Change, Disposition, Error, ErrorKind, Position, Result, Rollbackable, StepContext, StepEvent, StepId,
    Verification, VerificationState,
};

/// Why a change was not carried out.
pub(super) enum Failure {
    /// The run has to stop here and can go on later: cancelled, or the journal or lease is gone.
    Interrupted(Error),
    /// It failed, and certainly nothing of it stands.
    Unchanged(Error),
    /// It failed, and something of it may stand.
    Changed(Error),
}

/// Beyond the deadline that a component was told, in case it does not keep to it.
const GRACE: Duration = Duration::from_secs(5);

/// Whether an error ends the run where it stands.
pub(super) fn interrupts(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Journal | ErrorKind::LeaseLost)
}

/// Records an intent and applies, as often as it takes; `first` is the number of the first attempt.
pub(super) async fn apply(
    run: &Run<'_>,
    id: &StepId,
    component: &Arc<dyn Rollbackable>,
    change: &Change,
    first: u32,
    intent: impl Fn(u32) -> StepEvent,
) -> Result<(), Failure> {
    let deadline = Instant::now() + run.options.settings.apply_timeout;
    let mut backoff = run.engine.backoff.build();
    // An intent without an end, like a request without an answer, may have its effect at any time, also after a
    // look that did not find it.
    let mut uncertain = run.step(id).in_flight;
    let mut writes = 0;
    for attempt in first.. {
        run.record_step(id, intent(attempt)).await.map_err(Failure::Interrupted)?;
        let cx = context(run, id, attempt, deadline).with_gate(run.gate());
        let error = match timeout_at(deadline + GRACE, component.apply(&cx, change)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorKind::Timeout, "applying took too long").indeterminate(),
        };
        writes += cx.writes();
        uncertain |= error.disposition() == Disposition::Indeterminate;
        let error = error.with_component(&change.component).with_operation("apply");
        if interrupts(&error) {
            return Err(Failure::Interrupted(error));
        }
        let retry_after = match error.disposition() {
            Disposition::Permanent | Disposition::Stuck => None,
            Disposition::Temporary(after) => Some(after.unwrap_or_default()),
            Disposition::Indeterminate => {
                // Past the deadline it is still worth knowing that the change was made.
                let until = deadline.max(Instant::now() + GRACE);
                match locate(run, component, change, until).await {
                    Ok(Position::To) => return Ok(()),
                    Ok(Position::From | Position::Between) => Some(Duration::ZERO),
                    Err(e) if interrupts(&e) => return Err(Failure::Interrupted(e)),
                    Ok(Position::Elsewhere(_)) | Err(_) => None,
                }
            }
        };
        let pause = retry_after.and_then(|least| Some(backoff.next()?.max(least)));
        match pause.filter(|pause| Instant::now() + *pause < deadline) {
            Some(pause) => {
                run.note(id, format!("trying again: {}", error.report()));
                if !run.pause(pause).await {
                    let message = "stopped between two attempts";
                    return Err(Failure::Interrupted(Error::new(ErrorKind::Cancelled, message)));
                }
            }
            None if uncertain => return Err(Failure::Changed(in_doubt(error))),
            None if writes == 0 => return Err(Failure::Unchanged(error)),
            None => {
                return Err(match locate(run, component, change, Instant::now() + GRACE).await {
                    Ok(Position::From) => Failure::Unchanged(error),
                    _ => Failure::Changed(error),
                });
            }
        }
    }
    unreachable!("attempts end by returning")
}

/// How long a request may be on its way and still take effect; servers give up on one after a minute.
const REQUEST_LIFETIME: Duration = Duration::from_secs(60);

/// Waits until no write that was sent before can take effect any more, and makes the change once more where one
/// has.
pub(super) async fn wait_out(
    run: &Run<'_>,
    id: &StepId,
    component: &Arc<dyn Rollbackable>,
    change: &Change,
    intent: impl Fn(u32) -> StepEvent,
) -> Result<(), Failure> {
    if !run.pause(REQUEST_LIFETIME).await {
        let message = "stopped while waiting for what may still take effect";
        return Err(Failure::Interrupted(Error::new(ErrorKind::Cancelled, message)));
    }
    match locate(run, component, change, Instant::now() + GRACE).await {
        Ok(Position::To) => Ok(()),
        _ => apply(run, id, component, change, 2, intent).await,
    }
}

/// The error of a step of which an earlier attempt may have an effect, unless only a human can go on anyway.
fn in_doubt(error: Error) -> Error {
    if error.disposition() == Disposition::Stuck {
        return error;
    }
    let hint = "whether an attempt took effect is not certain: look at the component's status";
    let hint = error.hint().map_or_else(|| hint.to_owned(), |own| format!("{own}; {hint}"));
    error.indeterminate().with_hint(hint)
}

/// Watches until the change has settled.
pub(super) async fn verify(
    run: &Run<'_>,
    id: &StepId,
    component: &Arc<dyn Rollbackable>,
    change: &Change,
) -> Result<Verification, Failure> {
    let deadline = Instant::now() + run.options.settings.verify_timeout;
    let changed =
        |error: Error| Failure::Changed(error.with_component(&change.component).with_operation("verify"));
    let late = |why: &str| {
        let limit = jiff::SignedDuration::try_from(run.options.settings.verify_timeout).unwrap_or_default();
        let message = format!("not settled after {limit:#}: {why}");
        changed(Error::new(ErrorKind::Timeout, message).with_hint(
            "it may still settle: look at its status, and at its events and logs, before going further",
        ))
    };
    let mut backoff = run.engine.backoff.without_max_times().build();
    for attempt in 1.. {
        let cx = context(run, id, attempt, deadline);
        let seen = tokio::select! {
            biased;
            seen = timeout_at(deadline + GRACE, component.verify(&cx, change)) => seen,
            () = run.stop.cancelled() => {
                let message = "stopped while waiting for the change to settle";
                return Err(Failure::Interrupted(Error::new(ErrorKind::Cancelled, message)));
            }
        };
        let error = match seen {
            Ok(Ok(seen)) => match seen.state {
                VerificationState::Converged => return Ok(seen),
                VerificationState::Failed => {
                    return Err(changed(Error::new(ErrorKind::Unavailable, seen.message)));
                }
                VerificationState::Progressing => return Err(late(&seen.message)),
            },
            Ok(Err(error)) => error,
            Err(_) => return Err(late("it did not say why")),
        };
        if error.kind() == ErrorKind::Cancelled {
            return Err(Failure::Interrupted(error));
        }
        if matches!(error.disposition(), Disposition::Permanent | Disposition::Stuck) {
            return Err(changed(error));
        }
        let least = match error.disposition() {
            Disposition::Temporary(Some(after)) => after,
            _ => Duration::ZERO,
        };
        let pause = backoff.next().unwrap_or(GRACE).max(least);
        if Instant::now() + pause >= deadline {
            return Err(late(&error.report().message));
        }
        run.note(id, format!("cannot see it, asking again: {}", error.report()));
        run.pause(pause).await;
    }
    unreachable!("attempts end by returning")
}

/// Locates, repeating what is not permanent until the deadline or until the run is cancelled.
pub(super) async fn locate(
    run: &Run<'_>,
    component: &Arc<dyn Rollbackable>,
    change: &Change,
    deadline: Instant,
) -> Result<Position> {
    let mut backoff = run.engine.backoff.build();
    loop {
        let located = tokio::select! {
            biased;
            located = timeout_at(deadline, component.locate(change)) => located,
            () = run.stop.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, "stopped while locating the component"));
            }
        };
        let error = match located {
            Ok(Ok(position)) => return Ok(position),
            Ok(Err(error)) => error,
            Err(_) => return Err(Error::new(ErrorKind::Timeout, "locating the component took too long")),
        };
        let least = match error.disposition() {
            Disposition::Permanent | Disposition::Stuck => return Err(error),
            Disposition::Temporary(after) => after.unwrap_or_default(),
            Disposition::Indeterminate => Duration::ZERO,
        };
        match backoff.next() {
            Some(pause) if Instant::now() + pause.max(least) < deadline => {
                run.pause(pause.max(least)).await;
            }
            _ => return Err(error),
        }
    }
}

fn context(run: &Run<'_>, id: &StepId, attempt: u32, deadline: Instant) -> StepContext {
    let cx = StepContext::new(run.id(), id.clone(), deadline.saturating_duration_since(Instant::now()))
        .with_attempt(attempt)
        .with_clock(run.engine.clock.clone())
        .with_cancellation(run.stop.clone())
        .with_actor(run.options.actor.as_str())
        .with_reason(run.reason().as_deref());
    match run.options.progress.clone() {
        Some(sender) => cx.with_progress(super::notes_of(id, sender)),
        None => cx,
    }
}
