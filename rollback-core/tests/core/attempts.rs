//! What is tried again, when, and what is not.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Error, ErrorKind, FailurePolicy, Journal, MemoryJournal, Outcome, RunOptions, RunReport,
    StepOutcome,
};
use rollback_testkit::MemoryComponent;
use tokio::time::Instant;

use crate::world::{
    WRITES, Watched, assert_error, assert_retold, component, engine, options, options_with, parts, plan, run,
    step,
};

async fn watched(web: &MemoryComponent, options: RunOptions) -> (RunReport, Vec<&'static str>) {
    let plan = plan(FailurePolicy::Halt, &[(web, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let watched = Watched::new(web);
    let components = Components::new().with(watched.clone());
    let report = engine(journal.clone()).execute(&plan, &components, options).await.unwrap();
    assert_retold(&report, &journal.entries(report.run).await.unwrap());
    (report, watched.calls())
}

fn busy(seconds: Option<u64>) -> Error {
    Error::new(ErrorKind::RateLimited, "too many requests").temporary(seconds.map(Duration::from_secs))
}

#[tokio::test(start_paused = true)]
async fn a_temporary_failure_is_repeated_no_sooner_than_the_server_asks() {
    let web = component("web");
    web.fail_write(1, busy(Some(30)));
    web.fail_write(3, busy(Some(40)));
    let start = Instant::now();
    let (report, calls) = watched(&web, options()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert_eq!(calls, ["apply", "apply", "apply", "verify"]);
    assert_eq!(step(&report, "web").attempts, 3);
    assert_eq!((web.write_attempts(), web.writes()), (4, WRITES));
    let elapsed = start.elapsed().as_secs();
    assert!((70..75).contains(&elapsed), "{elapsed}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_stays_is_given_up_and_left_nothing() {
    let web = component("web");
    (1..100).for_each(|nth| web.fail_write(nth, busy(None)));
    let (report, _) = watched(&web, options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    let web_step = step(&report, "web");
    assert_eq!((web_step.outcome, web_step.changed), (StepOutcome::Refused, false));
    assert_error(web_step, ErrorKind::RateLimited, "too many requests");
    assert!((10..60).contains(&web_step.attempts), "{}", web_step.attempts);
    assert_eq!(web.write_attempts(), u64::from(web_step.attempts));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_past_the_deadline() {
    let web = component("web");
    web.fail_write(1, busy(Some(400)));
    let start = Instant::now();
    let (report, _) = watched(&web, options()).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Refused);
    assert_eq!(web.write_attempts(), 1);
    assert!(start.elapsed() < Duration::from_secs(300), "waiting would have been in vain");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_not_repeated() {
    let web = component("web");
    web.fail_write(1, Error::new(ErrorKind::PermissionDenied, "may not"));
    let (report, calls) = watched(&web, options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    let web_step = step(&report, "web");
    assert_eq!((web_step.outcome, web_step.changed, web_step.attempts), (StepOutcome::Refused, false, 1));
    assert_error(web_step, ErrorKind::PermissionDenied, "may not");
    assert_eq!(web.write_attempts(), 1);
    assert_eq!(calls, ["apply", "locate"], "located to know whether anything stands");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_half_way_is_a_failed_step_that_changed_something() {
    let web = component("web");
    web.fail_write(2, Error::new(ErrorKind::PermissionDenied, "may not"));
    let (report, _) = watched(&web, options()).await;
    let web_step = step(&report, "web");
    assert_eq!((web_step.outcome, web_step.changed), (StepOutcome::Failed, true));
    assert_eq!((web.write_attempts(), web.writes()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_refused_and_writes_nothing() {
    let web = component("web");
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    web.edit("image", "hotfix".into());
    let (report, _) = run(&plan, &[&web], options()).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Refused);
    assert_error(step(&report, "web"), ErrorKind::Conflict, "image");
    assert_eq!(web.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_response_it_is_located_before_anything_else() {
    let web = component("web");
    web.lose_response(1);
    let (report, calls) = watched(&web, options()).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(calls, ["apply", "locate", "apply", "verify"]);
    assert_eq!(web.writes(), WRITES, "nothing is written twice");
}

#[tokio::test(start_paused = true)]
async fn after_the_last_response_is_lost_nothing_is_applied_again() {
    let web = component("web");
    web.lose_response(WRITES);
    let (report, calls) = watched(&web, options()).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(calls, ["apply", "locate", "verify"]);
    assert_eq!(web.write_attempts(), WRITES);
    assert_eq!(web.live(), parts(2));
}

#[tokio::test(start_paused = true)]
async fn an_apply_that_never_answers_fails_at_the_deadline_as_what_it_left() {
    let expect = [(1, StepOutcome::Failed), (WRITES, StepOutcome::Verified)];
    for (nth, outcome) in expect {
        let web = component("web");
        web.hang_after_write(nth);
        let start = Instant::now();
        let (report, _) =
            watched(&web, options_with(|settings| settings.apply_timeout = Duration::from_secs(60))).await;
        let web_step = step(&report, "web");
        assert_eq!((web_step.outcome, web_step.changed), (outcome, true), "{web_step:?}");
        assert!((60..70).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        if outcome == StepOutcome::Failed {
            assert_error(web_step, ErrorKind::Timeout, "took too long");
        }
    }
}
