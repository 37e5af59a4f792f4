//! A component that something happens to.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use rollback_core::{
    Change, ComponentId, Position, Realm, Result, Revision, Rollbackable, StepContext, Target, Verification,
    WriteGate,
};
use tokio::sync::Notify;

/// When something can happen to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// It is about to be applied.
    Before,
    /// A write of it is about to be made.
    Write,
    /// It has been applied.
    After,
}

/// What happens.
#[async_trait]
pub(super) trait Meddle: Send + Sync {
    async fn at(&self, moment: Moment, change: &Change) -> Result<()>;
}

/// A component, and what happens to it.
#[derive(Clone)]
pub(super) struct Meddled {
    pub(super) inner: Arc<dyn Rollbackable>,
    pub(super) meddle: Arc<dyn Meddle>,
    /// Applied twice.
    pub(super) twice: bool,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

struct Gate {
    meddle: Arc<dyn Meddle>,
    change: Change,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

#[async_trait]
impl WriteGate for Gate {
    async fn before_write(&self, _: &str) -> Result<()> {
        self.meddle.at(Moment::Write, &self.change).await
    }
}

#[async_trait]
impl Rollbackable for Meddled {
    fn id(&self) -> &ComponentId {
        self.inner.id()
    }

    async fn realm(&self) -> Result<Realm> {
        self.inner.realm().await
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        self.inner.history().await
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        self.inner.prepare(target).await
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.inner.locate(change).await
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        self.meddle.at(Moment::Before, change).await?;
        let gate = Gate { meddle: self.meddle.clone(), change: change.clone() };
        let cx = cx.clone().with_gate(Arc::new(gate));
        self.inner.apply(&cx, change).await?;
        if self.twice {
            self.inner.apply(&cx, change).await?;
        }
        self.meddle.at(Moment::After, change).await
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        self.inner.verify(cx, change).await
    }

    async fn status(&self) -> Result<Verification> {
        self.inner.status().await
    }
}

/// Nothing happens.
pub(super) struct Calm;

#[async_trait]
impl Meddle for Calm {
    async fn at(&self, _: Moment, _: &Change) -> Result<()> {
        Ok(())
    }
}

/// The nth of many points, counted from 0, at which the process may die.
#[derive(Debug)]
pub(super) struct Point {
    nth: usize,
    passed: AtomicUsize,
    died: Notify,
}

impl Point {
    pub(super) fn new(nth: usize) -> Arc<Self> {
        Arc::new(Self { nth, passed: AtomicUsize::new(0), died: Notify::new() })
    }

    /// Whether this is the point.
    pub(super) fn is_here(&self) -> bool {
        self.passed.fetch_add(1, Ordering::SeqCst) == self.nth
    }

    /// Whether the point was met.
    pub(super) fn was_met(&self) -> bool {
        self.passed.load(Ordering::SeqCst) > self.nth
    }

    /// Never returns where this is the point.
    pub(super) async fn die_here(&self) {
        if self.is_here() {
            self.died.notify_one();
            pending::<()>().await;
        }
    }

    /// Does the work unless the process dies during it.
    pub(super) async fn survive<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died.notified() => None,
            done = work => Some(done),
        }
    }
}
