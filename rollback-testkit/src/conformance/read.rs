//! Looking and planning.

use std::collections::BTreeSet;

use rollback_core::{Change, Disposition, ErrorKind, Position, Target};

use super::{apply, assert_kind, err, locate, ok, prepare, to_older, writes};
use crate::Fixture;

/// Realm, history, prepare, locate and status leave the system as it was.
pub async fn reads_do_not_write<F: Fixture>() {
    let fixture = F::new().await;
    let (content, written) = (fixture.observe().await, writes(&fixture).await);
    let component = fixture.component().await;
    let realm = ok("realm", component.realm().await);
    ok("history", component.history().await);
    let status = ok("status", component.status().await);
    assert!(status.is_converged(), "a fixture starts settled: {status:?}");
    for change in to_older(&fixture).await {
        assert_eq!(change.realm, realm, "a change names the realm that it was planned in");
        assert_eq!(change.component, *component.id());
        locate(&fixture, &change).await;
        locate(&fixture, &change.reversed()).await;
    }
    assert_eq!(writes(&fixture).await, written, "a read wrote");
    assert_eq!(fixture.observe().await, content, "a read changed something");
}

/// History gives every revision once, newest first where times are known, with exactly one in place.
pub async fn history_lists_each_revision_once<F: Fixture>() {
    let fixture = F::new().await;
    let history = ok("history", fixture.component().await.history().await);
    assert!(history.len() >= 3, "a fixture has at least three revisions: {history:?}");
    let current: Vec<_> = history.iter().filter(|revision| revision.current).collect();
    assert_eq!(current.len(), 1, "exactly one revision of a settled component is in place: {current:?}");
    let ids: BTreeSet<_> = history.iter().map(|revision| &revision.id).collect();
    assert_eq!(ids.len(), history.len(), "an id names one revision: {history:?}");
    let states: BTreeSet<_> = history.iter().map(|revision| &revision.fingerprint).collect();
    assert!(states.len() >= 3, "a fixture has at least three distinct revisions: {history:?}");
    let created: Vec<_> = history.iter().filter_map(|revision| revision.created).collect();
    assert!(created.is_sorted_by(|newer, older| newer >= older), "newest first: {history:?}");
}

/// Planning twice, in two processes, gives the same; a change survives being stored and read, and
/// reversing twice.
pub async fn prepare_is_deterministic_and_round_trips<F: Fixture>() {
    let fixture = F::new().await;
    for target in [fixture.older().target, Target::Previous] {
        let [first, second] = [prepare(&fixture, &target).await, prepare(&fixture, &target).await];
        assert_eq!(without_hints(&first), without_hints(&second), "{target:?} prepared twice");
        for change in &first {
            assert!(!change.is_noop(), "{target:?} is not in place");
            let stored = serde_json::to_string(change).map_err(|e| e.to_string());
            let read = stored.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
            assert_eq!(read.as_ref(), Ok(change), "stored and read again");
            let back = change.reversed();
            assert_eq!((&back.from, &back.to), (&change.to, &change.from));
        }
        // The others begin where the first one ends.
        if let Some(change) = first.first() {
            assert_eq!(locate(&fixture, change).await, Position::From, "as stored");
        }
    }
}

fn without_hints(changes: &[Change]) -> Vec<Change> {
    changes.iter().map(|change| Change { hint: None, ..change.clone() }).collect()
}

/// The revision in place as target gives one change with nothing to do, and applying that writes nothing.
pub async fn returning_to_the_current_revision_is_nothing_to_do<F: Fixture>() {
    let fixture = F::new().await;
    let history = ok("history", fixture.component().await.history().await);
    let current = history.iter().find(|revision| revision.current).map(|revision| revision.id.clone());
    let current = current.unwrap_or_else(|| panic!("no revision is in place: {history:?}"));
    let changes = prepare(&fixture, &Target::Revision(current)).await;
    let [change] = changes.as_slice() else { panic!("nothing to do is one change: {changes:?}") };
    assert!(change.is_noop(), "{change:?}");
    assert_eq!(locate(&fixture, change).await, Position::To);
    let (content, written) = (fixture.observe().await, writes(&fixture).await);
    ok("apply", apply(&fixture, change).await);
    assert_eq!(writes(&fixture).await, written, "applying nothing wrote");
    assert_eq!(fixture.observe().await, content);
}

/// A revision that does not exist is `NotFound`, for good.
pub async fn an_unknown_revision_is_not_found<F: Fixture>() {
    let fixture = F::new().await;
    let target = fixture.unknown();
    let error = err("prepare", fixture.component().await.prepare(&target).await);
    assert_kind(&error, ErrorKind::NotFound);
    assert_eq!(error.disposition(), Disposition::Permanent, "{error:?}");
}
