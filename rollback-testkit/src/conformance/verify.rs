//! Watching until a change has settled.

use std::time::Duration;

use rollback_core::{RunId, StepContext, StepId, VerificationState};
use tokio::time::Instant;

use super::{able, apply, carry_out, finish, ok, prepare, to_older, verify};
use crate::Fixture;

/// What the engine allows a component beyond its deadline.
const GRACE: Duration = Duration::from_secs(5);

fn glance<F: Fixture>(fixture: &F) -> StepContext {
    StepContext::new(RunId::random(), StepId::new("conformance"), fixture.glance())
}

/// A change that settles is `Converged`, each time it is asked, there and back; then `status` says so too.
pub async fn verify_ends_converged<F: Fixture>() {
    let fixture = F::new().await;
    let changes = to_older(&fixture).await;
    carry_out(&fixture, &changes).await;
    if let Some(last) = changes.last() {
        let again = verify(&fixture, last).await;
        assert!(again.is_converged(), "asked again: {again:?}");
    }
    let status = ok("status", fixture.component().await.status().await);
    assert!(status.is_converged(), "{status:?}");
    carry_out(&fixture, &super::reversed(&changes)).await;
}

/// A change that is not applied, or no longer, is never `Converged`, however settled the component is.
pub async fn what_is_not_applied_is_not_verified<F: Fixture>() {
    let fixture = F::new().await;
    let component = fixture.component().await;
    for change in to_older(&fixture).await {
        let seen = ok("verify", component.verify(&glance(&fixture), &change).await);
        assert!(!seen.is_converged(), "before apply: {seen:?}");
        finish(&fixture, &change).await;
        let seen = ok("verify", component.verify(&glance(&fixture), &change.reversed()).await);
        assert!(!seen.is_converged(), "the reversal, before it is applied: {seen:?}");
    }
}

/// What neither settles nor fails is `Progressing`, with a reason, at the deadline and not before.
pub async fn what_never_settles_is_progressing_at_the_deadline<F: Fixture>() {
    let fixture = F::new().await;
    let target = able("never_settles", fixture.never_settles().await);
    let changes = prepare(&fixture, &target).await;
    let Some((last, before)) = changes.split_last() else { panic!("prepare gave no change") };
    for change in before {
        finish(&fixture, change).await;
    }
    ok("apply", apply(&fixture, last).await);
    let cx = glance(&fixture);
    let seen = ok("verify", fixture.component().await.verify(&cx, last).await);
    let end = Instant::now();
    assert_eq!(seen.state, VerificationState::Progressing, "{seen:?}");
    assert!(!seen.message.is_empty(), "it should say what it waits for");
    assert!(end >= cx.deadline(), "{:?} before the deadline", cx.deadline() - end);
    assert!(end < cx.deadline() + GRACE, "{:?} after the deadline", end - cx.deadline());
    let status = ok("status", fixture.component().await.status().await);
    assert!(!status.is_converged(), "{status:?}");
}
