//! What runs did: append-only, and durable before the next effect.

mod event;
mod memory;
mod retention;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;

use serde::{Deserialize, Serialize};

use crate::{ComponentId, Error, ErrorKind, Result, RunId, Timestamp};

pub use event::{
    BrokenLease, Cause, Entry, Event, Judgement, Locator, Outcome, Recovery, RunSettings, RunState,
    StepEvent, StepOutcome, StepState,
};
pub use memory::MemoryJournal;
pub use retention::Retention;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteJournal;

/// Records runs.
///
/// When a call returns, what it was given survives whatever the journal is made to survive: nothing but
/// the process for [`MemoryJournal`].
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync {
    /// Records the first entry of a new run.
    ///
    /// # Errors
    /// `Refused`, naming the run, when an unfinished run touches one of the plan's components; `Journal`
    /// when the entry is no start or cannot be recorded.
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()>;

    /// Records the next entry of a run, in the process that has claimed it.
    ///
    /// # Errors
    /// `Journal` when the event is not legal after those before it, or cannot be recorded; `LeaseLost` when
    /// the run was claimed from elsewhere since this journal claimed it.
    async fn append(&self, run: RunId, entry: Entry) -> Result<()>;

    /// The entries of a run, in order.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn entries(&self, run: RunId) -> Result<Vec<Entry>>;

    /// All runs, newest first.
    ///
    /// # Errors
    /// `Journal` when it cannot be read.
    async fn runs(&self) -> Result<Vec<RunSummary>>;

    /// Takes a run for this process to execute, until the claim is dropped or the process ends.
    ///
    /// # Errors
    /// `Refused` while another holder has it.
    async fn claim(&self, run: RunId) -> Result<Claim>;

    /// Removes runs that have ended, with all their entries. One that is not there is none to remove.
    ///
    /// # Errors
    /// `Refused`, with nothing removed, when one of them is unfinished; `Journal` when it cannot be done.
    async fn forget(&self, runs: &[RunId]) -> Result<()>;
}

/// The right to execute a run, given back when released or dropped.
pub struct Claim {
    #[allow(dead_code, reason = "held for its destructor")]
    held: Box<dyn Send + Sync>,
    check: Box<dyn Fn() -> Result<()> + Send + Sync>,
    release: Option<Mutex<BoxFuture<'static, ()>>>,
}

impl Claim {
    /// A claim that lasts as long as `held`.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self { held: Box::new(held), check: Box::new(|| Ok(())), release: None }
    }

    /// A claim that can be lost: `check` says so, without asking anybody.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// A claim that takes this to be given back; dropped without it, it expires.
    #[must_use]
    pub fn with_release(mut self, release: impl Future<Output = ()> + Send + 'static) -> Self {
        self.release = Some(Mutex::new(Box::pin(release)));
        self
    }

    /// Whether it still holds.
    ///
    /// # Errors
    /// `LeaseLost` once it does not, or may not.
    pub fn check(&self) -> Result<()> {
        (self.check)()
    }

    /// Gives it back.
    pub async fn release(mut self) {
        if let Some(release) = self.release.take() {
            release.into_inner().unwrap_or_else(PoisonError::into_inner).await;
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// A run, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    /// Which run.
    pub run: RunId,
    /// How it ended, or `Unfinished`.
    pub outcome: Outcome,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it moves.
    pub components: Vec<ComponentId>,
}

impl RunSummary {
    /// The summary of a run from its folded history.
    pub fn new(run: RunId, state: &RunState) -> Self {
        Self {
            run,
            outcome: state.outcome,
            started_at: state.started_at,
            finished_at: state.finished_at,
            components: state.plan.components().into_iter().cloned().collect(),
        }
    }
}

/// Why a run may not begin: the answer of a [`Journal`] that holds an unfinished run of a component.
pub fn overlaps(run: RunId, component: &ComponentId) -> Error {
    let message = format!("run {run} touches {component} and is unfinished");
    Error::new(ErrorKind::Refused, message).with_component(component).with_hint(format!(
        "finish it with `rollback resume {run}`, or close it with `rollback abandon {run} --reason …`"
    ))
}

fn executed(run: RunId) -> Error {
    Error::new(ErrorKind::Refused, format!("run {run} is being executed already"))
        .with_hint("wait until that process has ended")
}

fn unfinished(run: RunId) -> Error {
    Error::new(ErrorKind::Refused, format!("run {run} is unfinished and cannot be removed"))
}

const _: Option<&dyn Journal> = None;
