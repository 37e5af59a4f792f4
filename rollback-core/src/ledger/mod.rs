//! What is known of each component's revisions: marks, snapshots, and when each was in place. Apart from
//! the journal, so that pruning runs forgets no mark.

mod choose;
mod record;

use std::fmt;

use async_trait::async_trait;

use crate::{ComponentId, Realm, Result};

pub(crate) use choose::resolve;
pub use choose::{join, snapshot_of};
pub use record::{Fact, Known, Leaving, Marking, Note, Record};

/// Keeps what is known of components.
///
/// A journal keeps the ledger too, in the same place: [`MemoryJournal`](crate::MemoryJournal), and
/// `SqliteJournal` in its file.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Ledger: fmt::Debug + Send + Sync {
    /// What is known of a component; of one never heard of, nothing. Read-only.
    ///
    /// # Errors
    /// `Journal` when it cannot be read.
    async fn record(&self, realm: &Realm, component: &ComponentId) -> Result<Record>;

    /// Adds to what is known of a component: all of it or nothing, also beside others who do the same. When
    /// it returns, that is as durable as the ledger is. Safe to repeat: what is known already changes nothing.
    ///
    /// # Errors
    /// `Journal` when it cannot be written.
    async fn note(&self, realm: &Realm, component: &ComponentId, notes: Vec<Note>) -> Result<()>;
}

const _: Option<&dyn Ledger> = None;
