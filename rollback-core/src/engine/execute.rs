//! The order of steps, and what happens once one has failed.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::holds::Holds;
use super::step::{self, Failure};
use super::{Engine, Progress, RunOptions, RunReport};
use crate::{
    Change, ChangeKind, Claim, Components, Disposition, Entry, Error, ErrorKind, Event, Fact, FailurePolicy,
    Note, Outcome, Plan, Position, Result, Rollbackable, RunId, RunState, Snapshot, Step, StepEvent, StepId,
    StepOutcome, StepState, WriteGate,
};

pub(super) async fn execute(
    engine: &Engine,
    plan: &Plan,
    components: &Components,
    options: RunOptions,
) -> Result<RunReport> {
    check_realms(plan, components).await?;
    let event = Event::RunStarted {
        plan: Box::new(plan.clone()),
        actor: options.actor.clone(),
        reason: options.reason.clone(),
        settings: options.settings.clone(),
        locators: options.locators.clone(),
        cause: options.cause.clone().map(Box::new),
    };
    let entry = Entry { at: engine.clock.now(), event };
    let state = RunState::begin(&entry)?;
    let claim = super::claim(engine, options.run, &options.cancellation).await?;
    let holds = match Holds::take(engine, plan, &options).await {
        Ok(holds) => holds,
        Err(error) => {
            claim.release().await;
            return Err(error);
        }
    };
    if let Err(error) = holds.beside(engine.journal.begin(options.run, entry.clone())).await {
        holds.release().await;
        claim.release().await;
        return Err(error);
    }
    if let Some(progress) = &options.progress {
        let _ = progress.send(Progress::Recorded(entry));
    }
    Ok(Run::new(engine, components, options, state, claim, holds).report(None).await)
}

/// Refuses a plan that was made elsewhere.
pub(super) async fn check_realms(plan: &Plan, components: &Components) -> Result<()> {
    let checks = plan.steps().iter().map(async |step| {
        let realm = components.get(&step.change.component)?.realm().await?;
        if realm == step.change.realm {
            return Ok(());
        }
        let message = format!("planned in realm {}, connected to {realm}", step.change.realm);
        Err(Error::new(ErrorKind::Refused, message)
            .with_component(&step.change.component)
            .with_hint("connect to where the plan was made, or plan again"))
    });
    try_join_all(checks).await.map(drop)
}

/// How long to ask where a component stands when not knowing is no harm.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a step waits for the ledger: what is not noted is told instead.
const LEDGER_PATIENCE: Duration = Duration::from_secs(30);

/// Whether the journal has failed.
#[derive(Debug, Default)]
struct Health(AtomicBool);

/// Lets no write pass once the journal has failed, since its intent might not be recorded, or once the run or a
/// lease is lost.
#[derive(Debug)]
pub(super) struct RunGate {
    health: Arc<Health>,
    claim: Arc<Claim>,
    holds: Arc<Holds>,
}

#[async_trait]
impl WriteGate for RunGate {
    async fn before_write(&self, what: &str) -> Result<()> {
        if self.health.0.load(Ordering::SeqCst) {
            let message = format!("the journal failed, so this was not begun: {what}");
            return Err(Error::new(ErrorKind::Journal, message));
        }
        self.claim.check()?;
        self.holds.check()
    }
}

pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    plan: Plan,
    components: &'a Components,
    pub(super) options: RunOptions,
    /// Ends the run before its next write: the caller's wish, or a lease that is lost.
    pub(super) stop: CancellationToken,
    claim: Arc<Claim>,
    holds: Arc<Holds>,
    state: Mutex<RunState>,
    warnings: Mutex<Vec<String>>,
    health: Arc<Health>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        components: &'a Components,
        options: RunOptions,
        state: RunState,
        claim: Claim,
        holds: Holds,
    ) -> Self {
        Self {
            engine,
            plan: state.plan.clone(),
            components,
            stop: options.cancellation.child_token(),
            options,
            claim: Arc::new(claim),
            holds: Arc::new(holds),
            state: Mutex::new(state),
            warnings: Mutex::default(),
            health: Arc::default(),
        }
    }

    /// Goes on from where the run stands, as far as it gets; `first` is recorded before anything else.
    pub(super) async fn report(self, first: Option<Event>) -> RunReport {
        let span = tracing::info_span!("run", run = %self.id());
        let kept = async {
            self.holds.keep().await;
            self.stop.cancel();
            std::future::pending::<()>().await;
        };
        let done = tokio::select! {
            biased;
            done = self.go(first).instrument(span) => done,
            () = kept => Ok(()),
        };
        // That a lease is lost is why the rest was stopped.
        let error = done.err().map(|error| self.holds.check().err().unwrap_or(error));
        let mut report = RunReport::new(self.id(), &self.state());
        report.error = error.map(|error| error.report());
        report.warnings = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = Arc::into_inner(self.holds) {
            holds.release().await;
        }
        if let Some(claim) = Arc::into_inner(self.claim) {
            claim.release().await;
        }
        report
    }

    /// What every write asks first.
    pub(super) fn gate(&self) -> Arc<RunGate> {
        Arc::new(RunGate {
            health: self.health.clone(),
            claim: self.claim.clone(),
            holds: self.holds.clone(),
        })
    }

    pub(super) fn id(&self) -> RunId {
        self.options.run
    }

    /// Why the run was begun.
    pub(super) fn reason(&self) -> Option<String> {
        self.state().reason.clone()
    }

    fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a step stands.
    pub(super) fn step(&self, id: &StepId) -> StepState {
        self.state().step(id).cloned().unwrap_or_default()
    }

    fn outcome(&self, id: &StepId) -> StepOutcome {
        self.state().step(id).map(|step| step.outcome).unwrap_or_default()
    }

    pub(super) fn note(&self, step: &StepId, text: String) {
        tracing::debug!(%step, text);
        if let Some(progress) = &self.options.progress {
            let _ = progress.send(Progress::Note { step: step.clone(), text });
        }
    }

    /// Waits; false when the run was cancelled meanwhile.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = sleep(time) => true,
            () = self.stop.cancelled() => false,
        }
    }

    pub(super) async fn record_step(&self, step: &StepId, event: StepEvent) -> Result<()> {
        self.record(Event::Step { step: step.clone(), event }).await
    }

    pub(super) async fn record(&self, event: Event) -> Result<()> {
        // Whoever has the component now may have recorded since.
        self.holds.check()?;
        let entry = Entry { at: self.engine.clock.now(), event };
        if let Err(error) = self.engine.journal.append(self.id(), entry.clone()).await {
            self.health.0.store(true, Ordering::SeqCst);
            return Err(error);
        }
        self.state().record(&entry)?;
        if let Some(progress) = &self.options.progress {
            let _ = progress.send(Progress::Recorded(entry));
        }
        Ok(())
    }

    /// An error means that the run stopped before its end.
    async fn go(&self, first: Option<Event>) -> Result<()> {
        for event in first.into_iter().chain(self.holds.broken.iter().cloned().map(Event::LeaseBroken)) {
            self.record(event).await?;
        }
        self.dispatch().await?;
        let failed = self.steps(has_failed);
        for id in self.steps(|o| o == StepOutcome::Pending) {
            self.record_step(&id, StepEvent::Skipped).await?;
        }
        let is_in = |outcome| failed.iter().any(|id| self.outcome(id) == outcome);
        let outcome = if failed.is_empty() {
            if self.plan.is_noop() { Outcome::NothingToDo } else { Outcome::Completed }
        } else if is_in(StepOutcome::CompensationFailed)
            || failed.iter().any(|id| self.is_failed_with(id, Disposition::Stuck))
        {
            Outcome::Stuck
        } else if self.plan.on_failure() == FailurePolicy::Compensate
            && (self.state().changed() || is_in(StepOutcome::Compensated))
        {
            self.compensate().await?
        } else {
            Outcome::Halted
        };
        self.record(Event::RunFinished { outcome, reason: None }).await
    }

    fn is_failed_with(&self, id: &StepId, disposition: Disposition) -> bool {
        let state = self.state();
        let error = state.step(id).and_then(|step| step.error.as_ref());
        error.is_some_and(|error| error.disposition == disposition)
    }

    fn steps(&self, wanted: impl Fn(StepOutcome) -> bool) -> Vec<StepId> {
        let ids = self.plan.steps().iter().map(|step| step.id.clone());
        ids.filter(|id| wanted(self.outcome(id))).collect()
    }

    /// Starts what may start, until nothing more may.
    async fn dispatch(&self) -> Result<()> {
        // What another process began is ended first, even where nothing new may start.
        let ids = self.plan.steps().iter().map(|step| &step.id);
        let begun: BTreeSet<_> = ids.filter(|id| self.is_begun(id)).collect();
        let mut started = BTreeSet::new();
        let mut running = FuturesUnordered::new();
        let mut interrupted = None;
        loop {
            let stopped = interrupted.is_some() || self.stop.is_cancelled();
            let halted = self.has_halted();
            for step in self.plan.steps() {
                if stopped || running.len() >= self.engine.concurrency {
                    break;
                }
                let may_start = begun.contains(&step.id) || self.may_begin(step, halted);
                if may_start && started.insert(&step.id) {
                    let span = tracing::info_span!("step", step = %step.id);
                    running.push(self.run_step(step).instrument(span));
                }
            }
            match running.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => interrupted = Some(interrupted.unwrap_or(error)),
                None => break,
            }
        }
        let is_open = || self.unfinished() || self.plan.steps().iter().any(|step| self.is_begun(&step.id));
        if interrupted.is_none() && self.stop.is_cancelled() && is_open() {
            interrupted = Some(Error::new(ErrorKind::Cancelled, "stopped before the next step"));
        }
        interrupted.map_or(Ok(()), Err)
    }

    fn unfinished(&self) -> bool {
        let halted = self.has_halted();
        self.plan.steps().iter().any(|step| self.may_begin(step, halted))
    }

    fn may_begin(&self, step: &Step, halted: bool) -> bool {
        (!halted || self.is_under_way(step)) && self.is_ready(step)
    }

    /// Whether a step goes on from a state on the way, at which its component is not to be left because another one
    /// failed: like what is in flight, it is finished, unless it is about to be taken back anyway.
    fn is_under_way(&self, step: &Step) -> bool {
        self.plan.on_failure() == FailurePolicy::Halt
            && step.change.passage.from_between
            && self.plan.steps().iter().all(|other| {
                other.change.component != step.change.component || !has_failed(self.outcome(&other.id))
            })
    }

    /// Whether a step is begun and not ended, once no reversal has begun.
    fn is_begun(&self, id: &StepId) -> bool {
        let step = self.step(id);
        match step.outcome {
            StepOutcome::Pending => step.in_flight,
            StepOutcome::Applied => {
                let change = self.plan.step(id).map(|step| &step.change);
                !step.in_flight && change.is_some_and(|change| self.is_verified(change))
            }
            _ => false,
        }
    }

    /// Whether a failure keeps further steps from starting.
    fn has_halted(&self) -> bool {
        self.plan.on_failure() != FailurePolicy::Continue && !self.steps(has_failed).is_empty()
    }

    fn is_ready(&self, step: &Step) -> bool {
        let ready = |id: &StepId| {
            let done = self.outcome(id);
            matches!(done, StepOutcome::Verified | StepOutcome::NothingToDo)
                || (done == StepOutcome::Applied
                    && self.plan.step(id).is_some_and(|step| !self.is_verified(&step.change)))
        };
        self.outcome(&step.id) == StepOutcome::Pending && step.after.iter().all(ready)
    }

    /// An error means that the run has to stop; a failed step is recorded and none.
    async fn run_step(&self, Step { id, change, .. }: &Step) -> Result<()> {
        let component = self.components.get(&change.component)?;
        if self.outcome(id) == StepOutcome::Applied {
            return self.verify_step(id, component, change).await;
        }
        if change.is_noop() {
            let deadline = tokio::time::Instant::now() + self.options.settings.apply_timeout;
            let event = match step::locate(self, component, change, deadline).await {
                Ok(Position::Elsewhere(what)) => {
                    let message = format!("changed since it was planned: {what}");
                    let error = Error::new(ErrorKind::Conflict, message).with_component(&change.component);
                    StepEvent::Refused { error: error.report() }
                }
                Ok(_) => StepEvent::NothingToDo,
                Err(error) if step::interrupts(&error) => return Err(error),
                Err(error) => StepEvent::Refused { error: error.report() },
            };
            return self.record_step(id, event).await;
        }
        if self.is_passed(id, component, change).await? {
            // It counts as made by this run, like one that is found to be made already.
            self.record_step(id, StepEvent::Started { attempt: 1 }).await?;
            self.record_step(id, StepEvent::Applied).await?;
            let message = "the component is further on its way already".to_owned();
            return self.record_step(id, StepEvent::Verified { message, notes: Vec::new() }).await;
        }
        let known = self.step(id);
        if known.attempts == 0
            && !change.passage.from_between
            && let Some(permit) = &self.options.permit
            && let Err(error) = permit.before_step(change).await
        {
            return self.record_step(id, StepEvent::Refused { error: error.report() }).await;
        }
        let first = known.attempts + 1;
        let applied =
            step::apply(self, id, component, change, first, |attempt| StepEvent::Started { attempt }).await;
        if let Err(failure) = applied {
            return self.record_failure(id, failure).await;
        }
        // Before it counts as applied: what is not recorded so is noted again after a crash.
        let origin = self.plan.origin(change);
        self.note_in_ledger(id, change, origin, |run| {
            let left = origin.map(|origin| Fact::Left { snapshot: origin.clone(), run });
            left.into_iter().chain([Fact::InPlace { snapshot: change.to.clone() }]).collect()
        })
        .await;
        self.record_step(id, StepEvent::Applied).await?;
        if !self.is_verified(change) {
            return Ok(());
        }
        self.verify_step(id, component, change).await
    }

    /// Whether a change is watched until it has settled: what another goes on from always is.
    fn is_verified(&self, change: &Change) -> bool {
        self.options.settings.verify || change.passage.to_between
    }

    /// Whether the component stands further on its way already, where it has several changes.
    async fn is_passed(
        &self,
        id: &StepId,
        component: &Arc<dyn Rollbackable>,
        change: &Change,
    ) -> Result<bool> {
        if self.step(id).attempts > 0 || !change.passage.to_between {
            return Ok(false);
        }
        let deadline = tokio::time::Instant::now() + LOOK_PATIENCE;
        let later = self.plan.changes_of(&change.component).skip_while(|other| *other != change);
        for (place, other) in later.enumerate() {
            match step::locate(self, component, other, deadline).await {
                Ok(Position::Elsewhere(_)) => {}
                Ok(_) => return Ok(place > 0),
                Err(error) if step::interrupts(&error) => return Err(error),
                // Applying meets it again, and says so.
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Tells the ledger what a rollback did, where there is one. What cannot be told is said to people.
    async fn note_in_ledger(
        &self,
        id: &StepId,
        change: &Change,
        origin: Option<&Snapshot>,
        facts: impl FnOnce(RunId) -> Vec<Fact>,
    ) {
        // The same revision, freed of what blocks it, is neither left nor new; nor is a state on the way a revision.
        let moves = change.kind == ChangeKind::Rollback
            && origin.is_none_or(|origin| origin.id != change.to.id)
            && !change.passage.to_between;
        let Some(ledger) = self.engine.ledger.as_ref().filter(|_| moves) else { return };
        let note = |fact| Note { at: self.engine.clock.now(), by: self.options.actor.clone(), fact };
        let notes = facts(self.id()).into_iter().map(note).collect();
        let done = timeout(LEDGER_PATIENCE, ledger.note(&change.realm, &change.component, notes)).await;
        let late = |_| Err(Error::new(ErrorKind::Timeout, "it did not answer in time"));
        if let Err(error) = done.unwrap_or_else(late) {
            let report = error.report();
            tracing::warn!(step = %id, error = %report, "the ledger cannot be written");
            let text = format!("the ledger does not know of step {id}: {report}");
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    async fn verify_step(
        &self,
        id: &StepId,
        component: &Arc<dyn Rollbackable>,
        change: &Change,
    ) -> Result<()> {
        match step::verify(self, id, component, change).await {
            Ok(seen) => {
                let event = StepEvent::Verified { message: seen.message, notes: seen.notes };
                self.record_step(id, event).await
            }
            Err(failure) => self.record_failure(id, failure).await,
        }
    }

    async fn record_failure(&self, id: &StepId, failure: Failure) -> Result<()> {
        let event = match failure {
            Failure::Interrupted(error) => return Err(error),
            Failure::Unchanged(error) => StepEvent::Refused { error: self.held(id, error).await.report() },
            Failure::Changed(error) => StepEvent::Failed { error: self.held(id, error).await.report() },
        };
        self.record_step(id, event).await
    }

    /// The error of a step, which leaves in place what an earlier one has made safe, so long as that is still there.
    async fn held(&self, id: &StepId, error: Error) -> Error {
        let Some(change) = self.plan.step(id).map(|step| &step.change) else { return error };
        let (Some(secured), Ok(component)) =
            (&change.passage.secured, self.components.get(&change.component))
        else {
            return error;
        };
        let deadline = tokio::time::Instant::now() + LOOK_PATIENCE;
        match step::locate(self, component, change, deadline).await {
            Ok(Position::Elsewhere(_)) => return error,
            // The last one gives up what was secured, once it is made.
            Ok(Position::To) if !change.passage.to_between => return error,
            Err(e) if e.kind() == ErrorKind::NotFound => return error,
            // Where it cannot be seen, nobody should take it away.
            Ok(_) | Err(_) => {}
        }
        let (kind, hint) = (error.kind(), error.hint().map(str::to_owned));
        let held = Error::new(kind, secured.clone()).with_component(&change.component).with_source(error);
        match hint {
            Some(hint) => held.with_hint(hint).stuck(),
            None => held.stuck(),
        }
    }

    /// Reverses what was applied: failed steps first, then the others, the last applied first.
    async fn compensate(&self) -> Result<Outcome> {
        let mut steps: Vec<&Step> = {
            let state = self.state();
            let order = |step: &Step| {
                let known = state.step(&step.id)?;
                let place = known.applied.filter(|_| known.changed)?;
                Some((Reverse(known.outcome == StepOutcome::Failed), Reverse(place)))
            };
            let mut steps: Vec<_> =
                self.plan.steps().iter().filter_map(|step| Some((order(step)?, step))).collect();
            steps.sort_by_key(|(order, _)| *order);
            steps.into_iter().map(|(_, step)| step).collect()
        };
        steps.retain(|step| match &step.change.irreversible {
            Some(reason) => {
                self.note(&step.id, format!("not reversed: {reason}"));
                false
            }
            None => true,
        });
        for Step { id, change, .. } in steps {
            let component = self.components.get(&change.component)?;
            let change = change.reversed();
            let intent = |attempt| StepEvent::CompensationStarted { attempt };
            let mut done = step::apply(self, id, component, &change, 1, intent).await.map(|()| None);
            let in_doubt = self.is_failed_with(id, Disposition::Indeterminate) || self.step(id).attempts > 1;
            if done.is_ok() && in_doubt {
                self.note(id, "waiting until no write that was not answered can take effect any more".into());
                done = step::wait_out(self, id, component, &change, intent).await.map(|()| None);
            }
            if done.is_ok() {
                let facts = |_| vec![Fact::InPlace { snapshot: change.to.clone() }];
                self.note_in_ledger(id, &change, Some(&change.from), facts).await;
            }
            if done.is_ok() && self.options.settings.verify {
                done = step::verify(self, id, component, &change).await.map(Some);
            }
            match done {
                Ok(seen) => {
                    let message = seen.map_or_else(|| "reversed".to_owned(), |seen| seen.message);
                    self.record_step(id, StepEvent::Compensated { message }).await?;
                }
                Err(Failure::Interrupted(error)) => return Err(error),
                Err(Failure::Unchanged(error) | Failure::Changed(error)) => {
                    let error = error.report();
                    self.record_step(id, StepEvent::CompensationFailed { error }).await?;
                    return Ok(Outcome::Stuck);
                }
            }
        }
        // What could not be reversed stays, and a human should know.
        Ok(if self.state().changed() { Outcome::Halted } else { Outcome::Compensated })
    }
}

/// Whether a step went wrong, reversed since or not.
fn has_failed(outcome: StepOutcome) -> bool {
    use StepOutcome::{Compensated, CompensationFailed, Failed, Refused};
    matches!(outcome, Refused | Failed | Compensated | CompensationFailed)
}
