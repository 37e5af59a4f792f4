#![doc = include_str!("../README.md")]

mod change;
mod component;
mod engine;
mod error;
#[cfg(feature = "incident")]
pub mod incident;
mod journal;
mod lease;
mod ledger;
pub mod mask;
mod notify;
mod outbox;
mod plan;
mod planner;
mod retry;
mod revision;
mod rollbackable;
pub mod supervisor;
mod time;
pub mod trigger;
// Its last part takes the mocks.
#[cfg(feature = "mock")]
#[doc = include_str!("../TUTORIAL.md")]
pub mod tutorial {}

pub use change::{Change, ChangeKind, FieldChange, Passage, Position};
pub use component::{ComponentId, Realm};
#[cfg(feature = "mock")]
pub use engine::MockStepPermit;
pub use engine::{Engine, Progress, RunOptions, RunReport, StepPermit, StepReport};
pub use error::{Access, Disposition, Error, ErrorKind, ErrorReport, Result};
#[cfg(feature = "mock")]
pub use journal::MockJournal;
#[cfg(feature = "sqlite")]
pub use journal::SqliteJournal;
pub use journal::{
    BrokenLease, Cause, Claim, Entry, Event, Journal, Judgement, Locator, MemoryJournal, Outcome, Recovery,
    Retention, RunSettings, RunState, RunSummary, StepEvent, StepOutcome, StepState, overlaps,
};
pub use lease::{Hold, Lease, LeaseRequest, LeaseTerm, LocalLease, MemoryLease};
#[cfg(feature = "mock")]
pub use lease::{MockHold, MockLease};
#[cfg(feature = "mock")]
pub use ledger::MockLedger;
pub use ledger::{Fact, Known, Leaving, Ledger, Marking, Note, Record, join, snapshot_of};
#[cfg(feature = "mock")]
pub use notify::MockNotifier;
pub use notify::{Alert, Happening, Move, Notification, Notifier};
pub use outbox::Outbox;
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
