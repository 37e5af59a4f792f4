#![doc = include_str!("../README.md")]

mod change;
mod component;
mod engine;
mod error;
mod journal;
mod plan;
mod planner;
mod retry;
mod revision;
mod rollbackable;
mod time;

pub use change::{Change, ChangeKind, FieldChange, Position};
pub use component::{ComponentId, Realm};
pub use engine::{Engine, Progress, RunOptions, RunReport, StepReport};
pub use error::{Access, Disposition, Error, ErrorKind, ErrorReport, Result};
#[cfg(feature = "mock")]
pub use journal::MockJournal;
#[cfg(feature = "sqlite")]
pub use journal::SqliteJournal;
pub use journal::{
    Claim, Entry, Event, Journal, Locator, MemoryJournal, Outcome, RunSettings, RunState, RunSummary,
    StepEvent, StepOutcome, StepState,
};
pub use plan::{FailurePolicy, Plan, Step, StepId};
pub use planner::{Components, Planner};
pub use retry::retry_read;
pub use revision::{Fingerprint, Mark, Revision, Snapshot, Target};
#[cfg(feature = "mock")]
pub use rollbackable::{MockRestartable, MockRollbackable};
pub use rollbackable::{
    ProgressSink, RestartScope, Restartable, Rollbackable, RunId, StepContext, Verification,
    VerificationState, WriteGate,
};
pub use time::{Clock, SystemClock, Timestamp, TokioClock};
