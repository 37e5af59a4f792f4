//! How to test a service of your own that rolls something back.
//!
//! - `MemoryComponent` of `rollback-testkit` behaves: it has revisions, takes writes, settles or fails to. Take it
//!   where the library is to do its work, such as through a `Planner` and an `Engine`.
//! - The mocks of `rollback-core` (feature `mock`) answer what they are told to, and fail the test for any other
//!   call. Take them for what must not happen, for answers that are hard to bring about, and for what is told to
//!   people. Their expectations give plain values where the trait is async.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly, in its helpers too")]

use std::sync::Arc;

use rollback_core::{
    ComponentId, Components, Engine, Error, ErrorKind, Happening, Journal, MemoryJournal, MockJournal,
    MockNotifier, MockRollbackable, Move, Notification, Notifier, Outcome, Planner, Result, Rollbackable,
    RunOptions, Target, Verification, VerificationState,
};
use rollback_testkit::{MemoryComponent, Settling};
use serde_json::json;

/// The code to test: takes the last release back, and tells whoever is on call.
async fn undo(
    service: Arc<dyn Rollbackable>,
    journal: Arc<dyn Journal>,
    pager: &dyn Notifier,
) -> Result<Outcome> {
    if is_on_its_way(&*service).await? {
        let error = Error::new(ErrorKind::Refused, "the service is starting: wait until it has settled");
        return Err(error.with_component(service.id()));
    }
    if journal.runs().await?.iter().any(|run| run.outcome == Outcome::Unfinished) {
        return Err(Error::new(ErrorKind::Refused, "another rollback has not ended"));
    }
    let plan = Planner::new().rollback("service", service.clone(), Target::Previous, &[]).plan().await?;
    let components = Components::new().with(service);
    let report = Engine::new(journal).execute(&plan, &components, RunOptions::by("undo button")).await?;
    let message = Notification::of_run(&report, &Move::all(&plan), None);
    if let Err(error) = pager.notify(&message, None).await {
        // What is rolled back stays so. In earnest an `Outbox` tries again.
        eprintln!("nobody was told: {error}");
    }
    Ok(report.outcome)
}

async fn is_on_its_way(service: &dyn Rollbackable) -> Result<bool> {
    Ok(service.status().await?.state == VerificationState::Progressing)
}

fn id() -> ComponentId {
    ComponentId::new("memory", None, "web").unwrap()
}

fn web() -> MemoryComponent {
    let web = MemoryComponent::new(id());
    web.deploy("v1", &json!({"image": "web:1"}));
    web.deploy("v2", &json!({"image": "web:2"}));
    web
}

/// A pager that is to be told of this, once.
fn pager_told(event: Happening) -> MockNotifier {
    let mut pager = MockNotifier::new();
    pager.expect_notify().withf(move |message, _| message.event == event).times(1).returning(|_, _| Ok(None));
    pager
}

/// A pager that is not to be told of anything.
fn silent() -> MockNotifier {
    let mut pager = MockNotifier::new();
    pager.expect_notify().never();
    pager
}

#[tokio::test]
async fn the_last_release_is_taken_back_and_people_are_told() {
    let (web, journal) = (web(), Arc::new(MemoryJournal::new()));
    let pager = pager_told(Happening::Converged);
    let outcome = undo(Arc::new(web.clone()), journal.clone(), &pager).await.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(web.live(), json!({"image": "web:1"}));
    assert_eq!(journal.runs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_release_that_does_not_start_is_told_as_a_failure() {
    let web = web();
    web.set_settling_of("v1", Settling::Fails("v1 does not start".into()));
    let pager = pager_told(Happening::Failed);
    let outcome = undo(Arc::new(web), Arc::new(MemoryJournal::new()), &pager).await.unwrap();
    assert_eq!(outcome, Outcome::Halted);
}

#[tokio::test]
async fn a_pager_that_is_down_does_not_undo_the_rollback() {
    let web = web();
    let mut pager = MockNotifier::new();
    pager.expect_notify().times(1).returning(|_, _| {
        Err(Error::new(ErrorKind::Unavailable, "the pager does not answer").temporary(None))
    });
    let outcome = undo(Arc::new(web.clone()), Arc::new(MemoryJournal::new()), &pager).await.unwrap();
    assert_eq!(outcome, Outcome::Completed);
    assert_eq!(web.live(), json!({"image": "web:1"}));
}

#[tokio::test]
async fn a_service_that_is_starting_is_left_alone() {
    let mut web = MockRollbackable::new();
    // What is returned by reference is given once.
    web.expect_id().return_const(id());
    web.expect_status().times(1).returning(|| Ok(Verification::progressing("v2 is starting")));
    web.expect_prepare().never();
    web.expect_apply().never();
    let error = undo(Arc::new(web), Arc::new(MemoryJournal::new()), &silent()).await.unwrap_err();
    assert_eq!((error.kind(), error.component()), (ErrorKind::Refused, Some(&id())));
}

#[tokio::test]
async fn without_a_journal_nothing_is_done() {
    let web = web();
    let mut journal = MockJournal::new();
    journal.expect_runs().returning(|| Err(Error::new(ErrorKind::Journal, "the disk is full")));
    journal.expect_begin().never();
    let error = undo(Arc::new(web.clone()), Arc::new(journal), &silent()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(web.writes(), 0);
}

#[tokio::test]
async fn a_mock_is_enough_for_what_only_looks() {
    let mut web = MockRollbackable::new();
    web.expect_status().returning(|| Ok(Verification::converged("v2 is serving")));
    assert!(!is_on_its_way(&web).await.unwrap());
}
