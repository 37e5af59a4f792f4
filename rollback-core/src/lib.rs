#![doc = include_str!("../README.md")]

mod change;
mod component;
mod engine;
mod error;
mod journal;
mod lease;
mod ledger;
mod plan;
mod planner;
mod retry;
mod revision;
mod rollbackable;
mod time;
pub mod trigger;

pub use change::{Change, ChangeKind, FieldChange, Passage, Position};
pub use component::{ComponentId, Realm};
pub use engine::{Engine, Progress, RunOptions, RunReport, StepReport};
pub use error::{Access, Disposition, Error, ErrorKind, ErrorReport, Result};
#[cfg(feature = "mock")]
pub use journal::MockJournal;
#[cfg(feature = "sqlite")]
pub use journal::SqliteJournal;
pub use journal::{
    BrokenLease, Claim, Entry, Event, Journal, Locator, MemoryJournal, Outcome, Retention, RunSettings,
    RunState, RunSummary, StepEvent, StepOutcome, StepState, overlaps,
};
pub use lease::{Hold, Lease, LeaseRequest, LeaseTerm, LocalLease, MemoryLease};
#[cfg(feature = "mock")]
pub use lease::{MockHold, MockLease};
#[cfg(feature = "mock")]
pub use ledger::MockLedger;
pub use ledger::{Fact, Known, Leaving, Ledger, Marking, Note, Record, join, snapshot_of};
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
