//! What happens once a step has failed.

use std::time::Duration;

use rollback_core::{
    Error, ErrorKind, FailurePolicy, Outcome, Plan, Rollbackable, Step, StepEvent, StepOutcome as O,
};
use rollback_testkit::{MemoryComponent, Settling};

use crate::world::{WRITES, assert_error, component, options, outcomes, parts, plan, recorded, run, step};

fn forbidden() -> Error {
    Error::new(ErrorKind::PermissionDenied, "may not")
}

fn three() -> [MemoryComponent; 3] {
    ["a", "b", "c"].map(component)
}

async fn chain(policy: FailurePolicy, [a, b, c]: &[MemoryComponent; 3]) -> Plan {
    plan(policy, &[(a, &[]), (b, &["a"]), (c, &["b"])]).await
}

fn compensations(entries: &[rollback_core::Entry]) -> Vec<&str> {
    recorded(entries, |event| matches!(event, StepEvent::CompensationStarted { .. }))
}

#[tokio::test(start_paused = true)]
async fn halt_keeps_what_is_done_and_skips_the_rest() {
    let all = three();
    let plan = chain(FailurePolicy::Halt, &all).await;
    let [a, b, c] = &all;
    b.fail_write(2, forbidden());
    let (report, _) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    assert_eq!(outcomes(&report), [("a", O::Verified), ("b", O::Failed), ("c", O::Skipped)]);
    assert!(report.changed());
    assert_error(step(&report, "b"), ErrorKind::PermissionDenied, "may not");
    assert_eq!((a.live(), a.writes(), b.writes(), c.write_attempts()), (parts(2), WRITES, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_finished_and_nothing_new_starts() {
    let [a, b, c] = &three();
    b.set_settling(Settling::After(Duration::from_secs(60)));
    let plan = plan(FailurePolicy::Halt, &[(a, &[]), (b, &[]), (c, &["b"])]).await;
    a.fail_write(1, forbidden());
    let (report, _) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    assert_eq!(outcomes(&report), [("a", O::Refused), ("b", O::Verified), ("c", O::Skipped)]);
    assert_eq!(c.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn continue_goes_on_with_what_does_not_depend_on_the_failed_step() {
    let [a, b, c] = &three();
    let d = &component("d");
    let plan = plan(FailurePolicy::Continue, &[(a, &[]), (b, &["a"]), (c, &[]), (d, &["c"])]).await;
    a.fail_write(1, forbidden());
    let (report, _) = run(&plan, &[a, b, c, d], options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    let expected = [("a", O::Refused), ("b", O::Skipped), ("c", O::Verified), ("d", O::Verified)];
    assert_eq!(outcomes(&report), expected);
}

#[tokio::test(start_paused = true)]
async fn compensation_reverses_the_failed_step_first_and_then_the_last_applied() {
    let all = three();
    let plan = chain(FailurePolicy::Compensate, &all).await;
    let [a, b, c] = &all;
    c.fail_write(2, forbidden());
    let (report, entries) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Compensated);
    assert_eq!(outcomes(&report), [("a", O::Compensated), ("b", O::Compensated), ("c", O::Compensated)]);
    assert_eq!(compensations(&entries), ["c", "b", "a"]);
    assert!(!report.changed());
    for component in [a, b, c] {
        assert_eq!(component.live(), parts(3), "{component:?}");
    }
    assert_eq!(c.writes(), 2, "one there and one back");
    assert_error(step(&report, "c"), ErrorKind::PermissionDenied, "may not");
}

#[tokio::test(start_paused = true)]
async fn compensation_goes_by_when_a_step_was_applied_and_not_by_its_place_in_the_plan() {
    let [a, b, c] = &three();
    let plan = plan(FailurePolicy::Compensate, &[(a, &[]), (b, &[]), (c, &["a", "b"])]).await;
    a.set_latency(Duration::from_secs(10));
    c.set_settling_of("v2", Settling::Fails("crashes".into()));
    let (report, entries) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Compensated);
    assert_eq!(compensations(&entries), ["c", "a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_compensated_where_nothing_changed() {
    let all = three();
    let plan = chain(FailurePolicy::Compensate, &all).await;
    let [a, b, c] = &all;
    a.fail_write(1, forbidden());
    let (report, entries) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    assert_eq!(outcomes(&report), [("a", O::Refused), ("b", O::Skipped), ("c", O::Skipped)]);
    assert_eq!(compensations(&entries), [""; 0]);
    assert!(!report.changed());
}

#[tokio::test(start_paused = true)]
async fn a_compensation_that_fails_leaves_the_run_stuck() {
    let all = three();
    let plan = chain(FailurePolicy::Compensate, &all).await;
    let [a, b, c] = &all;
    c.fail_write(2, forbidden());
    b.fail_write(WRITES + 2, Error::new(ErrorKind::Refused, "frozen"));
    let (report, entries) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Stuck);
    assert_eq!(outcomes(&report), [("a", O::Verified), ("b", O::CompensationFailed), ("c", O::Compensated)]);
    assert_eq!(compensations(&entries), ["c", "b"], "a human decides about the rest");
    assert_error(step(&report, "b"), ErrorKind::Refused, "frozen");
    assert!(step(&report, "a").changed && step(&report, "b").changed && !step(&report, "c").changed);
}

#[tokio::test(start_paused = true)]
async fn a_compensation_that_does_not_settle_leaves_the_run_stuck() {
    let all = three();
    let plan = chain(FailurePolicy::Compensate, &all).await;
    let [a, b, c] = &all;
    b.fail_write(2, forbidden());
    b.set_settling(Settling::Never);
    let (report, _) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(report.outcome, Outcome::Stuck);
    assert_error(step(&report, "b"), ErrorKind::Timeout, "v3 is starting");
}

#[tokio::test(start_paused = true)]
async fn what_only_a_human_can_finish_is_stuck_whatever_the_policy() {
    for policy in [FailurePolicy::Halt, FailurePolicy::Compensate, FailurePolicy::Continue] {
        let all = three();
        let plan = chain(policy, &all).await;
        let [a, b, c] = &all;
        b.fail_write(2, Error::new(ErrorKind::Conflict, "half here, half there").stuck());
        let (report, entries) = run(&plan, &[a, b, c], options()).await;
        assert_eq!(report.outcome, Outcome::Stuck, "{policy:?}");
        assert_eq!(compensations(&entries), [""; 0], "nothing automatic goes further");
        assert_eq!(b.write_attempts(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reversed_stays_and_is_said_to_have_changed() {
    let all = three();
    let planned = chain(FailurePolicy::Compensate, &all).await;
    let [a, b, c] = &all;
    let mut steps: Vec<Step> = planned.steps().to_vec();
    steps[0].change.irreversible = Some("the column is dropped".into());
    let plan = Plan::new(steps, FailurePolicy::Compensate).unwrap();
    c.fail_write(1, forbidden());
    let (report, entries) = run(&plan, &[a, b, c], options()).await;
    assert_eq!(compensations(&entries), ["b"]);
    assert_eq!(outcomes(&report), [("a", O::Verified), ("b", O::Compensated), ("c", O::Refused)]);
    assert!(step(&report, "a").changed && report.changed());
    assert_eq!(report.outcome, Outcome::Halted);
    assert_eq!(a.live(), parts(2));
    assert_eq!(a.id().name(), "a");
}
