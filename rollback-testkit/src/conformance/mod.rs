//! What every [`Rollbackable`](rollback_core::Rollbackable) must hold, one public function per promise.
//!
//! [`conformance!`](crate::conformance!) makes a test of each. A function makes its own [`Fixture`],
//! and panics, saying what it saw, where the promise is broken or an ability that it needs is missing.
#![allow(clippy::panic, clippy::missing_panics_doc, reason = "a case that fails panics")]

mod apply;
mod faults;
mod read;
mod stop;
mod verify;

use rollback_core::{
    Change, Error, ErrorKind, Position, Result, RunId, StepContext, StepId, Target, Verification,
};

pub use apply::{
    a_lost_response_and_apply_again_is_applying_once, a_recorded_snapshot_can_be_returned_to,
    an_edit_of_anything_else_is_no_conflict, an_edit_of_what_the_change_touches_is_a_conflict,
    another_object_of_the_same_name_is_a_conflict, apply_reaches_the_target, applying_twice_is_applying_once,
    every_write_is_announced,
};
pub use faults::{http_statuses_map_to_kind_and_disposition, no_secret_is_shown};
pub use read::{
    an_unknown_revision_is_not_found, history_lists_each_revision_once,
    prepare_is_deterministic_and_round_trips, reads_do_not_write,
    returning_to_the_current_revision_is_nothing_to_do,
};
pub use stop::{
    dropped_at_any_await_apply_finishes, stopped_after_any_write_apply_finishes,
    stopped_after_any_write_the_reversed_change_restores,
};
pub use verify::{
    verify_ends_converged, what_is_not_applied_is_not_verified,
    what_never_settles_is_progressing_at_the_deadline,
};

use crate::Fixture;

#[track_caller]
fn ok<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what} failed: {error:?}"))
}

#[track_caller]
fn err<T: std::fmt::Debug>(what: &str, result: Result<T>) -> Error {
    match result {
        Ok(value) => panic!("{what} should have failed, and gave {value:?}"),
        Err(error) => error,
    }
}

#[track_caller]
pub(crate) fn able<T>(ability: &str, answer: Option<T>) -> T {
    answer.unwrap_or_else(|| {
        panic!("this case needs Fixture::{ability}: implement it, or skip the case with the reason")
    })
}

fn context<F: Fixture>(fixture: &F) -> StepContext {
    StepContext::new(RunId::random(), StepId::new("conformance"), fixture.patience())
}

async fn prepare<F: Fixture>(fixture: &F, target: &Target) -> Vec<Change> {
    let changes = ok("prepare", fixture.component().await.prepare(target).await);
    assert!(!changes.is_empty(), "prepare gave no change");
    changes
}

async fn to_older<F: Fixture>(fixture: &F) -> Vec<Change> {
    let changes = prepare(fixture, &fixture.older().target).await;
    assert!(
        changes.iter().all(|change| !change.is_noop()),
        "Fixture::older must not be in place, and every change must do something: {changes:?}"
    );
    changes
}

async fn locate<F: Fixture>(fixture: &F, change: &Change) -> Position {
    ok("locate", fixture.component().await.locate(change).await)
}

async fn apply<F: Fixture>(fixture: &F, change: &Change) -> Result<()> {
    fixture.component().await.apply(&context(fixture), change).await
}

async fn verify<F: Fixture>(fixture: &F, change: &Change) -> Verification {
    ok("verify", fixture.component().await.verify(&context(fixture), change).await)
}

/// Applies the changes in order, each from `From` to `To`, verified.
async fn carry_out<F: Fixture>(fixture: &F, changes: &[Change]) {
    for change in changes {
        assert_eq!(locate(fixture, change).await, Position::From, "before apply");
        ok("apply", apply(fixture, change).await);
        assert_eq!(locate(fixture, change).await, Position::To, "after apply");
        let seen = verify(fixture, change).await;
        assert!(seen.is_converged(), "what was applied should have settled: {seen:?}");
    }
}

/// Applies one change without waiting for it to settle.
async fn finish<F: Fixture>(fixture: &F, change: &Change) {
    ok("apply", apply(fixture, change).await);
    assert_eq!(locate(fixture, change).await, Position::To, "after apply");
}

fn reversed(changes: &[Change]) -> Vec<Change> {
    changes.iter().rev().map(Change::reversed).collect()
}

async fn writes<F: Fixture>(fixture: &F) -> u64 {
    able("writes", fixture.writes().await)
}

#[track_caller]
fn assert_kind(error: &Error, kind: ErrorKind) {
    assert_eq!(error.kind(), kind, "{error:?}");
}
