//! Where the runs of a sweep are recorded.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use rollback_core::{Claim, Entry, Journal, MemoryJournal, Result, RunId, RunSummary};

use super::meddle::Point;

/// A journal that can be opened anew, as by the next process.
pub trait Journals: Send + Sync + Sized + 'static {
    /// A place for a journal, with none in it yet.
    fn new() -> Self;

    /// Opens it.
    fn open(&self) -> Arc<dyn Journal>;
}

/// A journal in memory, which the next process finds as it was.
#[derive(Debug)]
pub struct InMemory(Arc<MemoryJournal>);

impl Journals for InMemory {
    fn new() -> Self {
        Self(Arc::new(MemoryJournal::new()))
    }

    fn open(&self) -> Arc<dyn Journal> {
        self.0.clone()
    }
}

/// A journal that records an entry, and then the process dies.
pub(super) struct Fatal {
    pub(super) inner: Arc<dyn Journal>,
    pub(super) point: Arc<Point>,
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Journal for Fatal {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        self.inner.begin(run, entry).await?;
        self.point.die_here().await;
        Ok(())
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        self.inner.append(run, entry).await?;
        self.point.die_here().await;
        Ok(())
    }

    async fn entries(&self, run: RunId) -> Result<Vec<Entry>> {
        self.inner.entries(run).await
    }

    async fn runs(&self) -> Result<Vec<RunSummary>> {
        self.inner.runs().await
    }

    async fn claim(&self, run: RunId) -> Result<Claim> {
        self.inner.claim(run).await
    }

    async fn forget(&self, runs: &[RunId]) -> Result<()> {
        self.inner.forget(runs).await
    }
}
