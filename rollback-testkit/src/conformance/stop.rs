//! Stopping anywhere: between any two writes, at any await.
//!
//! A sweep moves its point on until the change completes without reaching it, and fails when it never
//! reached one: a test that always stops at the same place proves little.

use std::sync::Arc;

use async_trait::async_trait;
use rollback_core::{Change, ErrorKind, Position, Result, WriteGate};

use super::{assert_kind, context, finish, locate, to_older};
use crate::{Fixture, StopAfter, poll_times};

const MOST_WRITES: u32 = 1_000;
const MOST_POLLS: usize = 10_000;

/// Applies until `writes` writes are announced; false when the change took no more than that.
async fn stops_after<F: Fixture>(fixture: &F, change: &Change, writes: u32) -> bool {
    let gate = Arc::new(StopAfter::new(writes));
    let before = fixture.observe().await;
    let cx = context(fixture).with_gate(gate.clone());
    let Err(error) = fixture.component().await.apply(&cx, change).await else {
        assert!(!gate.has_stopped(), "apply went on although write {} was refused", writes + 1);
        return false;
    };
    assert!(gate.has_stopped(), "apply failed by itself after {} writes: {error:?}", cx.writes());
    assert_kind(&error, ErrorKind::Cancelled);
    // A write can be announced and then turned down by its own guard.
    assert!(cx.writes() <= writes, "{} writes were let pass, {writes} were allowed", cx.writes());
    let position = locate(fixture, change).await;
    match cx.writes() {
        0 => {
            assert_eq!(position, Position::From, "stopped before the first write that had an effect");
            assert_eq!(fixture.observe().await, before, "a write was made without being announced");
        }
        _ => assert!(!matches!(position, Position::Elsewhere(_)), "after {writes} writes: {position:?}"),
    }
    true
}

/// Stops after every write in turn, and lets `back` bring the component to where it was.
async fn sweep<F: Fixture>(back: impl AsyncFn(&F, &Change)) {
    let fixture = F::new().await;
    for change in to_older(&fixture).await {
        let before = fixture.observe().await;
        for writes in 0..MOST_WRITES {
            if !stops_after(&fixture, &change, writes).await {
                assert!(writes > 0, "apply made no write that it announced");
                break;
            }
            back(&fixture, &change).await;
            assert_eq!(locate(&fixture, &change).await, Position::From, "back after {writes} writes");
            assert_eq!(fixture.observe().await, before, "back after {writes} writes");
        }
        assert_eq!(locate(&fixture, &change).await, Position::To, "completed");
    }
    assert_eq!(fixture.observe().await, fixture.older().content);
}

/// Stopped after every write in turn, `locate` explains the state, and applying again, in another
/// process, finishes.
pub async fn stopped_after_any_write_apply_finishes<F: Fixture>() {
    sweep::<F>(async |fixture, change| {
        finish(fixture, change).await;
        finish(fixture, &change.reversed()).await;
    })
    .await;
}

/// Stopped after every write in turn, applying the reversed change restores what was there.
pub async fn stopped_after_any_write_the_reversed_change_restores<F: Fixture>() {
    sweep::<F>(async |fixture, change| finish(fixture, &change.reversed()).await).await;
}

/// Waits once before every write, as a gate that asks a server does.
#[derive(Debug)]
struct Waits;

#[async_trait]
impl WriteGate for Waits {
    async fn before_write(&self, _: &str) -> Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// Dropped at every await in turn, as by a lost leader or a closed terminal, `locate` explains the state,
/// and applying again finishes.
pub async fn dropped_at_any_await_apply_finishes<F: Fixture>() {
    let fixture = F::new().await;
    for change in to_older(&fixture).await {
        let mut dropped = 0;
        for polls in 1..MOST_POLLS {
            let component = fixture.component().await;
            let cx = context(&fixture).with_gate(Arc::new(Waits));
            if poll_times(component.apply(&cx, &change), polls).await.is_some() {
                break;
            }
            dropped += 1;
            let position = locate(&fixture, &change).await;
            assert!(
                !matches!(position, Position::Elsewhere(_)),
                "dropped at await {polls}, {} writes announced: {position:?}",
                cx.writes()
            );
            finish(&fixture, &change).await;
            finish(&fixture, &change.reversed()).await;
        }
        assert!(dropped > 0, "apply never waited, so it was dropped nowhere");
        finish(&fixture, &change).await;
    }
    assert_eq!(fixture.observe().await, fixture.older().content);
}
