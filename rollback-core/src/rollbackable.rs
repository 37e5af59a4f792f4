//! What a backend implements.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Change, Clock, ComponentId, Error, ErrorKind, Position, Realm, Result, Revision, StepId, SystemClock,
    Target, Timestamp,
};

/// A component that can be returned to an earlier state.
///
/// # Expected flow
/// 1. [`prepare`](Self::prepare) resolves a target to changes; people see them.
/// 2. [`apply`](Self::apply) carries one out, any number of times, in any process.
/// 3. [`verify`](Self::verify) watches until the component has settled.
/// 4. Where it has to go back, `apply` and `verify` get [`Change::reversed`].
///
/// # Guarantees of the engine
/// `apply` is called only with the intent durable in the journal, never twice at once for one component,
/// and again after a failure, a crash or a lost response.
///
/// # What every implementation must hold
/// The conformance suite of `rollback-testkit` tests all of this: reads never write; every write is
/// announced by [`StepContext::before_write`]; dropping any future at any await leaves a state that
/// [`locate`](Self::locate) explains.
///
/// What `locate`, `apply` and `verify` decide on is read from the system itself, never from a cache or a replica
/// that lags behind: a state of before the change would be taken for the way back. A list for planning may be
/// old, because the write's precondition finds that.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Rollbackable: fmt::Debug + Send + Sync {
    /// The component's name.
    fn id(&self) -> &ComponentId;

    /// The system in which it lives. Read-only.
    ///
    /// # Errors
    /// As the system answers.
    async fn realm(&self) -> Result<Realm>;

    /// Its revisions, newest first; at most one is current. Read-only.
    ///
    /// # Errors
    /// `NotFound` when the component does not exist.
    async fn history(&self) -> Result<Vec<Revision>>;

    /// What would be done to reach the target. Read-only and deterministic; never empty: nothing to do
    /// is one change whose `from` is its `to`. One change as a rule; several in order where a state
    /// between them must itself be verified.
    ///
    /// Backends resolve `Previous`, `Revision`, `Snapshot` and, where they run artifacts, `Artifact`. `LastGood`
    /// and `AsOf` need records of what was in place, and are resolved before they reach a backend.
    ///
    /// # Errors
    /// `NotFound` for an unknown component or revision, `Refused` where a rule forbids it, with the way
    /// out as hint, and `Unsupported` for a target that this component has no notion of.
    async fn prepare(&self, target: &Target) -> Result<Vec<Change>>;

    /// Where the live component stands. Read-only.
    ///
    /// # Errors
    /// `NotFound` when the component does not exist.
    async fn locate(&self, change: &Change) -> Result<Position>;

    /// Makes the change. Idempotent: from `From` and `Between` it brings the component to `To`, at `To`
    /// it returns at once.
    ///
    /// # Errors
    /// `Conflict`, with nothing written, when the component is elsewhere or another object of the same
    /// name. An error is `Indeterminate` when a write may have happened; whatever the error, an earlier
    /// write of this call may stand.
    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()>;

    /// Watches until the change has settled: `Converged` or `Failed`; `Progressing`, with the last
    /// reason, only at the deadline of `cx`. Read-only.
    ///
    /// # Errors
    /// When it cannot be seen; the engine asks again until the deadline unless the error is permanent.
    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification>;

    /// One look: is the component settled, whatever led there? Read-only.
    ///
    /// # Errors
    /// `NotFound` when the component does not exist.
    async fn status(&self) -> Result<Verification>;

    /// The URI of what a revision of this component stands for, such as the artifact of a model's version: what
    /// a component that follows it is to run. None where it stands for nothing that others run. Read-only.
    ///
    /// # Errors
    /// `NotFound` for an unknown revision, or as the system answers.
    async fn artifact(&self, revision: &str) -> Result<Option<String>> {
        let _ = revision;
        Ok(None)
    }

    /// Whether the system itself records what was in place before. Where it does not, `Previous` goes by what the
    /// ledger knows before it is asked of the component, whose answer is a guess.
    fn keeps_history(&self) -> bool {
        true
    }
}

/// A component that can be restarted with the revision that it has.
///
/// The change names what it restarts, so that making it again does nothing more; the component's own
/// [`apply`](Rollbackable::apply), [`locate`](Rollbackable::locate) and [`verify`](Rollbackable::verify)
/// carry it out.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Restartable: fmt::Debug + Send + Sync {
    /// What a restart would do. Read-only; with nothing to restart, a change whose `from` is its `to`.
    ///
    /// # Errors
    /// As [`Rollbackable::prepare`].
    async fn prepare_restart(&self, scope: RestartScope) -> Result<Change>;
}

/// What a restart restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartScope {
    /// The instances that are not ready, one at a time.
    Unready,
    /// These and no others, one at a time: each named as the [probe](crate::trigger::HealthProbe) that found it failing
    /// names it, which tells one incarnation from the next.
    Instances(Vec<String>),
    /// Everything, as a rollout.
    All,
}

/// What watching a component found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Settled, on the way, or not going to settle.
    pub state: VerificationState,
    /// Why, in one line.
    pub message: String,
    /// What else a person should know, such as an image tag that resolves to something new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Whether a component has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VerificationState {
    /// It has settled where it should.
    Converged,
    /// It is on the way.
    Progressing,
    /// It will not get there.
    Failed,
}

impl Verification {
    /// Settled.
    pub fn converged(message: impl Into<String>) -> Self {
        Self { state: VerificationState::Converged, message: message.into(), notes: Vec::new() }
    }

    /// On the way.
    pub fn progressing(message: impl Into<String>) -> Self {
        Self { state: VerificationState::Progressing, message: message.into(), notes: Vec::new() }
    }

    /// Not going to settle.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { state: VerificationState::Failed, message: message.into(), notes: Vec::new() }
    }

    /// Whether it has settled.
    pub fn is_converged(&self) -> bool {
        self.state == VerificationState::Converged
    }
}

/// The id of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// The run of this id; ids that sort by time (UUID version 7) keep lists in order.
    pub fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// A new id.
    #[allow(clippy::disallowed_methods, reason = "this is where ids enter")]
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for RunId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(Self).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("{text:?} is not the id of a run")).with_source(e)
        })
    }
}

/// Asked before every single write: the place where leases are checked and tests inject faults.
#[async_trait]
pub trait WriteGate: fmt::Debug + Send + Sync {
    /// Lets the write described by `what` pass.
    ///
    /// # Errors
    /// Whatever should keep the write from happening.
    async fn before_write(&self, what: &str) -> Result<()>;
}

/// Takes what a step says of its progress.
pub type ProgressSink = Arc<dyn Fn(String) + Send + Sync>;

/// What a step knows of the run that it belongs to.
#[derive(Clone)]
pub struct StepContext {
    run: RunId,
    step: StepId,
    attempt: u32,
    deadline: Instant,
    cancellation: CancellationToken,
    clock: Arc<dyn Clock>,
    gates: Vec<Arc<dyn WriteGate>>,
    progress: Option<ProgressSink>,
    writes: Arc<AtomicU32>,
    actor: Arc<str>,
    reason: Option<Arc<str>>,
}

impl StepContext {
    /// A context for calling a component without an engine: a deadline `timeout` from now, no gate.
    pub fn new(run: RunId, step: StepId, timeout: Duration) -> Self {
        Self {
            run,
            step,
            attempt: 1,
            deadline: Instant::now() + timeout,
            cancellation: CancellationToken::new(),
            clock: Arc::new(SystemClock),
            gates: Vec::new(),
            progress: None,
            writes: Arc::default(),
            actor: Arc::from("unknown"),
            reason: None,
        }
    }

    /// Sets the number of the attempt, from 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets what stops the step.
    #[must_use]
    pub fn with_cancellation(mut self, token: CancellationToken) -> Self {
        self.cancellation = token;
        self
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Adds what is asked before every write, after what was added before.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn WriteGate>) -> Self {
        self.gates.push(gate);
        self
    }

    /// Sets where progress goes.
    #[must_use]
    pub fn with_progress(mut self, sink: ProgressSink) -> Self {
        self.progress = Some(sink);
        self
    }

    /// Sets who is acting, for the record.
    #[must_use]
    pub fn with_actor(mut self, actor: impl Into<Arc<str>>) -> Self {
        self.actor = actor.into();
        self
    }

    /// Sets why the run was begun, for the record.
    #[must_use]
    pub fn with_reason(mut self, reason: Option<&str>) -> Self {
        self.reason = reason.map(Arc::from);
        self
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The step.
    pub fn step(&self) -> &StepId {
        &self.step
    }

    /// The number of the attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Who is acting.
    pub fn actor(&self) -> &str {
        &self.actor
    }

    /// Why the run was begun, in the words of whoever began it.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// When this phase of the step must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Ends when the caller asks the step to stop. Verifying may end early; a write in flight is
    /// finished.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Tells the people who watch what the step waits for.
    pub fn progress(&self, text: impl Into<String>) {
        if let Some(sink) = &self.progress {
            sink(text.into());
        }
    }

    /// To be called before every single write.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout` at the deadline, and what the gate says (`LeaseLost`, `Journal`): then
    /// the write must not happen.
    pub async fn before_write(&self, what: &str) -> Result<()> {
        if self.cancellation.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, format!("stopped before: {what}")));
        }
        if Instant::now() >= self.deadline {
            return Err(Error::new(ErrorKind::Timeout, format!("the deadline passed before: {what}")));
        }
        for gate in &self.gates {
            gate.before_write(what).await?;
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.progress(what);
        Ok(())
    }

    /// Says that the write announced last certainly had no effect, such as one refused by its own
    /// precondition. Not calling it is safe: the step then counts as having changed something.
    pub fn write_rejected(&self) {
        let _ = self.writes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    }

    /// How many writes may have had an effect so far.
    pub fn writes(&self) -> u32 {
        self.writes.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("run", &self.run)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

const _: Option<&dyn Rollbackable> = None;
const _: Option<&dyn Restartable> = None;
