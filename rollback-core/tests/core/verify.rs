//! Watching until a change has settled.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Entry, Error, ErrorKind, Event, FailurePolicy, Outcome, RunOptions, RunReport, StepEvent, StepOutcome,
};
use rollback_testkit::{MemoryComponent, Settling};
use tokio::time::Instant;

use crate::world::{
    Listening, assert_error, component, components, engine, options, options_with, plan, run, step,
};

const MINUTE: Duration = Duration::from_secs(60);

async fn run_web(web: &MemoryComponent) -> (RunReport, Duration) {
    let plan = plan(FailurePolicy::Halt, &[(web, &[])]).await;
    let start = Instant::now();
    let (report, _) = run(&plan, &[web], options_with(|settings| settings.verify_timeout = MINUTE)).await;
    (report, start.elapsed())
}

/// Turns a knob once the change is applied, before it is verified.
async fn once_applied(web: &MemoryComponent, knob: fn(&MemoryComponent)) -> (RunReport, Duration) {
    let plan = plan(FailurePolicy::Halt, &[(web, &[])]).await;
    let hooked = web.clone();
    let journal = Listening::new(move |_, entry: &Entry| {
        if matches!(&entry.event, Event::Step { event: StepEvent::Applied, .. }) {
            knob(&hooked);
        }
        Ok(())
    });
    let start = Instant::now();
    let options = options_with(|settings| settings.verify_timeout = MINUTE);
    let report = engine(journal).execute(&plan, &components(&[web]), options).await.unwrap();
    (report, start.elapsed())
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "connection refused").temporary(None)
}

#[tokio::test(start_paused = true)]
async fn a_step_is_verified_once_it_has_settled() {
    let web = component("web");
    web.set_settling(Settling::After(Duration::from_secs(42)));
    let (report, elapsed) = run_web(&web).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(step(&report, "web").message.as_deref(), Some("v2 is serving"));
    assert_eq!(elapsed.as_secs(), 42);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_settle_fails_at_the_deadline_and_says_what_it_waited_for() {
    let web = component("web");
    web.set_settling(Settling::Never);
    let (report, elapsed) = run_web(&web).await;
    assert_eq!(report.outcome, Outcome::Halted);
    let web_step = step(&report, "web");
    assert_eq!((web_step.outcome, web_step.changed), (StepOutcome::Failed, true));
    assert_error(web_step, ErrorKind::Timeout, "not settled after 1m: v2 is starting");
    assert!(web_step.error.as_ref().unwrap().hint.is_some());
    assert_eq!(elapsed.as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn what_fails_to_settle_fails_at_once_with_its_own_reason() {
    let web = component("web");
    web.set_settling(Settling::Fails("v2 crashes on start".into()));
    let (report, elapsed) = run_web(&web).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Failed);
    assert_error(step(&report, "web"), ErrorKind::Unavailable, "v2 crashes on start");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_before_it_has_settled_is_not_verified() {
    let web = component("web");
    let (report, _) = once_applied(&web, |web| web.edit("image", "hotfix".into())).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Failed);
    assert_error(step(&report, "web"), ErrorKind::Unavailable, "image");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_reading_is_asked_again_and_is_no_failure() {
    let web = component("web");
    let (report, elapsed) = once_applied(&web, |web| web.fail_reads((0..5).map(|_| unavailable()))).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert_eq!(step(&report, "web").attempts, 1, "the change is not made again");
    assert!(elapsed > Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn reading_again_waits_as_long_as_the_server_asks() {
    let web = component("web");
    let busy = |web: &MemoryComponent| {
        let error = Error::new(ErrorKind::RateLimited, "busy").temporary(Some(Duration::from_secs(25)));
        web.fail_reads([error]);
    };
    let (report, elapsed) = once_applied(&web, busy).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!((25..27).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn errors_of_reading_until_the_deadline_are_a_timeout_that_names_them() {
    let web = component("web");
    let (report, elapsed) = once_applied(&web, |web| web.fail_reads((0..1000).map(|_| unavailable()))).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Failed);
    assert_error(step(&report, "web"), ErrorKind::Timeout, "connection refused");
    assert!((40..=60).contains(&elapsed.as_secs()), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_of_reading_fails_at_once() {
    let web = component("web");
    let denied =
        |web: &MemoryComponent| web.fail_reads([Error::new(ErrorKind::PermissionDenied, "may not read")]);
    let (report, elapsed) = once_applied(&web, denied).await;
    assert_eq!(step(&report, "web").outcome, StepOutcome::Failed);
    assert_error(step(&report, "web"), ErrorKind::PermissionDenied, "may not read");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_step_waits_for_is_told_as_it_happens() {
    let web = component("web");
    web.set_settling(Settling::After(Duration::from_secs(1)));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let journal = Arc::new(rollback_core::MemoryJournal::new());
    let options = RunOptions { progress: Some(sender), ..options() };
    let report = engine(journal).execute(&plan, &components(&[&web]), options).await.unwrap();
    let mut notes = Vec::new();
    let mut last = None;
    while let Ok(progress) = told.try_recv() {
        match progress {
            rollback_core::Progress::Note { text, .. } => notes.push(text),
            rollback_core::Progress::Recorded(entry) => last = Some(entry.event),
        }
    }
    assert!(notes.contains(&"set image of memory/web".to_owned()), "{notes:?}");
    assert!(notes.contains(&"v2 is starting".to_owned()), "{notes:?}");
    assert_eq!(last, Some(Event::RunFinished { outcome: report.outcome, reason: None }));
}
