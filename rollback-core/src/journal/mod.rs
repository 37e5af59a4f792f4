//! What runs did: append-only, and durable before the next effect.

mod event;
mod memory;

use std::fmt;

use async_trait::async_trait;

use crate::{Result, RunId};

pub use event::{Entry, Event, Outcome, RunState, StepEvent, StepOutcome, StepState};
pub use memory::MemoryJournal;

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

    /// Records the next entry of a run.
    ///
    /// # Errors
    /// `Journal` when the event is not legal after those before it, or cannot be recorded.
    async fn append(&self, run: RunId, entry: Entry) -> Result<()>;

    /// The entries of a run, in order.
    ///
    /// # Errors
    /// `NotFound` for an unknown run.
    async fn entries(&self, run: RunId) -> Result<Vec<Entry>>;

    /// The ids of all runs, newest first.
    ///
    /// # Errors
    /// `Journal` when it cannot be read.
    async fn runs(&self) -> Result<Vec<RunId>>;
}

const _: Option<&dyn Journal> = None;
