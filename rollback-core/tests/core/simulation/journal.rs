//! A journal that is slow, and that fails: before it has recorded, or after.

use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures::FutureExt;
use rollback_core::{
    Claim, Entry, Error, ErrorKind, Journal, MemoryJournal, Result, RunId, RunState, RunSummary, StepId,
};

use super::world::World;

pub(crate) struct Frail {
    inner: MemoryJournal,
    world: Weak<World>,
}

impl Frail {
    pub(crate) fn new(world: Weak<World>) -> Arc<Self> {
        Arc::new(Self { inner: MemoryJournal::new(), world })
    }

    /// Whether the step is recorded as begun and, where a write that comes too late is refused, as one that may
    /// have an effect at this moment.
    pub(crate) fn knows_of(&self, (run, step): &(RunId, StepId), refuses_late: bool) -> bool {
        let state = self.state(*run);
        let step = state.as_ref().and_then(|state| state.step(step));
        step.is_some_and(|step| step.in_flight || step.changed || (!refuses_late && step.attempts > 0))
    }

    /// A run, as it is recorded.
    pub(crate) fn state(&self, run: RunId) -> Option<RunState> {
        let entries = self.inner.entries(run).now_or_never()?.ok()?;
        Some(RunState::replay(&entries).expect("a legal history"))
    }

    async fn record(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let Some(world) = self.world.upgrade() else { return work.await };
        world.travel().await;
        let failed = || Err(Error::new(ErrorKind::Journal, "the disk is gone"));
        if world.goes_wrong(4, "journal failed") {
            return failed();
        }
        work.await?;
        if world.goes_wrong(4, "journal failed") { failed() } else { Ok(()) }
    }
}

impl fmt::Debug for Frail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Journal for Frail {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        self.record(self.inner.begin(run, entry)).await
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        self.record(self.inner.append(run, entry)).await
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
