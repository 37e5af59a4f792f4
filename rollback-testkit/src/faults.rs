//! Stopping a component at an exact point.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;

use async_trait::async_trait;
use rollback_core::{Error, ErrorKind, Result, WriteGate};

/// Lets a number of writes pass and stops before the next one, as a crash between two writes would.
#[derive(Debug)]
pub struct StopAfter {
    left: AtomicU32,
    stopped: AtomicBool,
}

impl StopAfter {
    /// Stops after `writes` writes; 0 lets none pass.
    pub fn new(writes: u32) -> Self {
        Self { left: AtomicU32::new(writes), stopped: AtomicBool::new(false) }
    }

    /// Whether it has stopped a write: a sweep that never reaches its point proves nothing.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl WriteGate for StopAfter {
    async fn before_write(&self, what: &str) -> Result<()> {
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Ok(());
        }
        self.stopped.store(true, Ordering::SeqCst);
        Err(Error::new(ErrorKind::Cancelled, format!("stopped by the test before: {what}")))
    }
}

/// Polls the future at most `polls` times and drops it at the await where it then stands; none when it
/// was dropped.
pub async fn poll_times<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|cx| {
        polled += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
