//! Making a change: once, and only from where it was planned.

use rollback_core::{Change, Disposition, ErrorKind, Position, Target};

use super::{
    able, apply, assert_kind, carry_out, context, err, finish, locate, ok, prepare, reversed, to_older,
    writes,
};
use crate::Fixture;

async fn assert_current<F: Fixture>(fixture: &F, change: &Change) {
    let history = ok("history", fixture.component().await.history().await);
    let current: Vec<_> = history.iter().filter(|revision| revision.current).collect();
    let [current] = current.as_slice() else { panic!("exactly one revision is in place: {history:?}") };
    assert_eq!(current.fingerprint, change.to.fingerprint, "history should show what was applied");
}

/// Applying moves the component from `From` to `To`, where it settles with exactly the target's content,
/// and the reversed changes bring back exactly what was there.
pub async fn apply_reaches_the_target<F: Fixture>() {
    let fixture = F::new().await;
    let before = fixture.observe().await;
    let older = fixture.older();
    assert_ne!(before, older.content, "Fixture::older must not be in place");
    let changes = to_older(&fixture).await;
    carry_out(&fixture, &changes).await;
    assert_eq!(fixture.observe().await, older.content);
    if let Some(last) = changes.last() {
        assert_current(&fixture, last).await;
    }
    carry_out(&fixture, &reversed(&changes)).await;
    assert_eq!(fixture.observe().await, before, "the reversed change should restore what was there");
}

/// What a change recorded as its `from` is a target: the way back after the fact.
pub async fn a_recorded_snapshot_can_be_returned_to<F: Fixture>() {
    let fixture = F::new().await;
    let before = fixture.observe().await;
    let changes = to_older(&fixture).await;
    carry_out(&fixture, &changes).await;
    let recorded = changes.first().map(|change| change.from.clone());
    let recorded = recorded.unwrap_or_else(|| panic!("prepare gave no change"));
    let back = prepare(&fixture, &Target::Snapshot(Box::new(recorded.clone()))).await;
    let reached = back.last().map(|change| &change.to.fingerprint);
    assert_eq!(reached, Some(&recorded.fingerprint), "the change should lead to the recorded state");
    carry_out(&fixture, &back).await;
    assert_eq!(fixture.observe().await, before);
}

/// As many writes are announced by `before_write` as the system accepts, and one at least.
pub async fn every_write_is_announced<F: Fixture>() {
    let fixture = F::new().await;
    let changes = to_older(&fixture).await;
    for change in changes.iter().cloned().chain(reversed(&changes)) {
        let written = writes(&fixture).await;
        let cx = context(&fixture);
        ok("apply", fixture.component().await.apply(&cx, &change).await);
        assert!(cx.writes() > 0, "a change was made and no write announced");
        let made = writes(&fixture).await - written;
        assert_eq!(u64::from(cx.writes()), made, "writes announced, and writes that the system saw");
    }
}

/// Applying again, in another process, writes nothing.
pub async fn applying_twice_is_applying_once<F: Fixture>() {
    let fixture = F::new().await;
    for change in to_older(&fixture).await {
        finish(&fixture, &change).await;
        let (content, written) = (fixture.observe().await, writes(&fixture).await);
        finish(&fixture, &change).await;
        assert_eq!(writes(&fixture).await, written, "applying again wrote");
        assert_eq!(fixture.observe().await, content);
    }
    assert_eq!(fixture.observe().await, fixture.older().content);
}

/// When the response of a write is lost, the error says that it may have happened, and applying again
/// ends where applying once does, with as many writes.
pub async fn a_lost_response_and_apply_again_is_applying_once<F: Fixture>() {
    let fixture = F::new().await;
    for change in to_older(&fixture).await {
        let written = writes(&fixture).await;
        finish(&fixture, &change).await;
        let undisturbed = writes(&fixture).await - written;
        finish(&fixture, &change.reversed()).await;

        let written = writes(&fixture).await;
        able("lose_next_response", fixture.lose_next_response().await);
        // Finding out by itself that the write was made is as good as saying that it may have been.
        if let Err(error) = apply(&fixture, &change).await {
            assert_eq!(error.disposition(), Disposition::Indeterminate, "{error:?}");
        }
        assert!(writes(&fixture).await > written, "the write whose response is lost was not made");
        let position = locate(&fixture, &change).await;
        assert!(matches!(position, Position::Between | Position::To), "after a write, at {position:?}");
        finish(&fixture, &change).await;
        assert_eq!(writes(&fixture).await - written, undisturbed, "writes in all");
    }
    assert_eq!(fixture.observe().await, fixture.older().content);
}

async fn assert_conflict<F: Fixture>(fixture: &F, changes: &[Change]) {
    let Some(change) = changes.first() else { panic!("prepare gave no change") };
    let (content, written) = (fixture.observe().await, writes(fixture).await);
    for change in [change.clone(), change.reversed()] {
        let position = locate(fixture, &change).await;
        assert!(
            matches!(position, Position::Elsewhere(_)),
            "it was moved, and is said to be at {position:?}"
        );
        let error = err("apply", apply(fixture, &change).await);
        assert_kind(&error, ErrorKind::Conflict);
        assert_eq!(error.disposition(), Disposition::Permanent, "{error:?}");
        assert_eq!(writes(fixture).await, written, "a conflict must write nothing");
        assert_eq!(fixture.observe().await, content);
    }
}

/// When a part that the change touches has a third value, `locate` says so, and neither the change nor its
/// reversal writes anything.
pub async fn an_edit_of_what_the_change_touches_is_a_conflict<F: Fixture>() {
    let fixture = F::new().await;
    let before = fixture.observe().await;
    let changes = to_older(&fixture).await;
    able("edit_touched", fixture.edit_touched().await);
    assert_ne!(fixture.observe().await, before, "Fixture::edit_touched should have edited something");
    assert_conflict(&fixture, &changes).await;
}

/// When the object was replaced by another of the same name, the change is a conflict whatever its content.
pub async fn another_object_of_the_same_name_is_a_conflict<F: Fixture>() {
    let fixture = F::new().await;
    let changes = to_older(&fixture).await;
    able("recreate", fixture.recreate().await);
    assert_conflict(&fixture, &changes).await;
}

/// An edit of something else stands in nobody's way, and survives.
pub async fn an_edit_of_anything_else_is_no_conflict<F: Fixture>() {
    let fixture = F::new().await;
    let changes = to_older(&fixture).await;
    let before = able("untouched", fixture.untouched().await);
    able("edit_untouched", fixture.edit_untouched().await);
    let edited = fixture.untouched().await;
    assert_ne!(edited.as_ref(), Some(&before), "Fixture::edit_untouched should have edited something");
    carry_out(&fixture, &changes).await;
    assert_eq!(fixture.observe().await, fixture.older().content);
    assert_eq!(fixture.untouched().await, edited, "the edit should have survived");
}
