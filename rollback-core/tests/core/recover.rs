//! Going on with a run that another process began.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Engine, Error, ErrorKind, FailurePolicy, Journal, MemoryJournal, Outcome, Plan, Rollbackable, RunId,
    RunReport, RunState, StepOutcome as O,
};
use rollback_testkit::{MemoryComponent, Settling, poll_times};
use serde_json::json;
use tokio::time::timeout;

use crate::world::{
    Listening, WRITES, assert_retold, component, components, engine, options, options_with, outcomes, parts,
    plan, recorded, step,
};

/// Longer than a run takes, and shorter than its deadlines.
const HUNG: Duration = Duration::from_secs(60);

/// A diamond: `a` before `b` and `c`, both before `d`.
async fn diamond(policy: FailurePolicy, all: &[MemoryComponent; 4]) -> Plan {
    let [a, b, c, d] = all;
    plan(policy, &[(a, &[]), (b, &["a"]), (c, &["a"]), (d, &["b", "c"])]).await
}

fn four() -> [MemoryComponent; 4] {
    ["a", "b", "c", "d"].map(component)
}

async fn only_run(journal: &dyn Journal) -> Option<RunId> {
    journal.runs().await.unwrap().first().map(|summary| summary.run)
}

async fn resume(engine: &Engine, run: RunId, all: &[&MemoryComponent]) -> RunReport {
    let report = engine.resume(run, &components(all), options()).await.unwrap();
    assert_retold(&report, &engine.journal().entries(run).await.unwrap());
    report
}

/// Drops a run at every await in turn, resumes it in another engine, and answers how often it was dropped.
async fn crash_everywhere(policy: FailurePolicy, spoil: impl Fn(&[MemoryComponent; 4]), end: Outcome) -> u32 {
    let mut dropped = 0;
    for polls in 1.. {
        let all = four();
        spoil(&all);
        let plan = diamond(policy, &all).await;
        let journal = Listening::new(|_, _| Ok(()));
        let refs: Vec<_> = all.iter().collect();
        let first = engine(journal.clone());
        let given = components(&refs);
        if let Some(report) = poll_times(first.execute(&plan, &given, options()), polls).await {
            assert_eq!(report.unwrap().outcome, end);
            break;
        }
        dropped += 1;
        let report = match only_run(&*journal).await {
            None => first.execute(&plan, &given, options()).await.unwrap(),
            Some(run) => {
                let state = RunState::replay(&journal.entries(run).await.unwrap()).unwrap();
                if state.outcome != Outcome::Unfinished {
                    assert_eq!(state.outcome, end, "it had just ended");
                    continue;
                }
                resume(&engine(journal.clone()), run, &refs).await
            }
        };
        assert_eq!(report.outcome, end, "dropped at await {polls}: {report:#?}");
        for component in &all {
            let wanted = if end == Outcome::Completed { parts(2) } else { parts(3) };
            assert_eq!(component.live(), wanted, "dropped at await {polls}");
            let most = if end == Outcome::Completed { WRITES } else { 2 * WRITES };
            assert!(component.writes() <= most, "a part was written twice, dropped at await {polls}");
        }
    }
    dropped
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_a_resumed_run_completes_and_writes_nothing_twice() {
    let dropped = Box::pin(crash_everywhere(FailurePolicy::Halt, |_| {}, Outcome::Completed)).await;
    assert!(dropped > 40, "dropped at {dropped} awaits only");
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_of_a_compensation_a_resumed_run_ends_compensated() {
    let spoil = |all: &[MemoryComponent; 4]| all[3].set_settling_of("v2", Settling::Fails("no".into()));
    let dropped = Box::pin(crash_everywhere(FailurePolicy::Compensate, spoil, Outcome::Compensated)).await;
    assert!(dropped > 60, "dropped at {dropped} awaits only");
}

#[tokio::test(start_paused = true)]
async fn after_a_journal_that_failed_at_any_entry_a_resumed_run_completes() {
    let mut failed = 0;
    for fail_at in 1.. {
        let all = four();
        let refs: Vec<_> = all.iter().collect();
        let plan = diamond(FailurePolicy::Halt, &all).await;
        let journal = Listening::new(move |index, _| {
            if index == fail_at { Err(Error::new(ErrorKind::Journal, "disk full")) } else { Ok(()) }
        });
        let report = engine(journal.clone()).execute(&plan, &components(&refs), options()).await.unwrap();
        if report.outcome == Outcome::Completed {
            break;
        }
        failed += 1;
        assert_eq!(report.outcome, Outcome::Unfinished);
        let report = resume(&engine(journal.clone()), report.run, &refs).await;
        assert_eq!(report.outcome, Outcome::Completed, "failed at entry {fail_at}");
        assert!(all.iter().all(|component| component.live() == parts(2) && component.writes() == WRITES));
    }
    assert!(failed >= 13, "every one of the entries after the first: {failed}");
}

/// A run of one step that crashed after its first write.
async fn half_way() -> (MemoryComponent, Arc<MemoryJournal>, RunId) {
    let web = component("web");
    web.hang_after_write(1);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let engine = engine(journal.clone());
    let given = components(&[&web]);
    assert!(timeout(HUNG, engine.execute(&plan, &given, options())).await.is_err());
    assert_eq!(web.writes(), 1);
    let run = only_run(&*journal).await.unwrap();
    (web, journal, run)
}

#[tokio::test(start_paused = true)]
async fn a_step_stopped_half_way_is_finished() {
    let (web, journal, run) = half_way().await;
    let report = resume(&engine(journal.clone()), run, &[&web]).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!((web.live(), web.writes(), step(&report, "web").attempts), (parts(2), WRITES, 2));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_since_is_not_overwritten_and_counts_as_changed() {
    let (web, journal, run) = half_way().await;
    let part = if web.live()["image"] == json!(2) { "limit" } else { "image" };
    web.edit(part, json!(9));
    let before = web.live();
    let report = resume(&engine(journal.clone()), run, &[&web]).await;
    assert_eq!((report.outcome, step(&report, "web").outcome), (Outcome::Halted, O::Failed));
    assert!(report.changed(), "its first half stands");
    assert_eq!((web.live(), web.writes()), (before, 1));
    assert_eq!(step(&report, "web").error.as_ref().unwrap().kind, ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn another_realm_and_a_run_that_has_ended_are_refused() {
    let (web, journal, run) = half_way().await;
    let elsewhere = web.clone().with_realm(rollback_core::Realm::new("memory:other"));
    let engine = engine(journal.clone());
    let error = engine.resume(run, &components(&[&elsewhere]), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(journal.entries(run).await.unwrap().len(), 2, "nothing was recorded");

    resume(&engine, run, &[&web]).await;
    let error = engine.resume(run, &components(&[&web]), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let error = engine.abandon(run, "over").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let unknown = engine.resume(RunId::random(), &components(&[&web]), options()).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_executed_by_one_at_a_time() {
    let (web, journal, run) = half_way().await;
    let claim = journal.claim(run).await.unwrap();
    let engine = engine(journal.clone());
    let error = engine.resume(run, &components(&[&web]), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(engine.abandon(run, "x").await.unwrap_err().kind(), ErrorKind::Refused);
    drop(claim);
    assert_eq!(resume(&engine, run, &[&web]).await.outcome, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_run_stays_as_it_stands_and_its_component_is_free() {
    let (web, journal, run) = half_way().await;
    let engine = engine(journal.clone());
    let before = web.live();
    let report = engine.abandon(run, "mended by hand").await.unwrap();
    assert_eq!((report.outcome, report.changed(), web.live()), (Outcome::Abandoned, true, before));
    for (part, value) in [("image", 3), ("limit", 3)] {
        web.edit(part, json!(value));
    }
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let report = engine.execute(&plan, &components(&[&web]), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_run_keeps_the_settings_that_it_began_with() {
    let web = component("web");
    web.hang_after_write(2);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let first = engine(journal.clone());
    let unverified = options_with(|settings| settings.verify = false);
    let given = components(&[&web]);
    assert!(timeout(HUNG, first.execute(&plan, &given, unverified)).await.is_err());
    let run = only_run(&*journal).await.unwrap();
    let report = resume(&engine(journal.clone()), run, &[&web]).await;
    assert_eq!(outcomes(&report), [("web", O::Applied)]);
    assert_eq!(report.outcome, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn the_reversal_of_a_run_takes_back_what_it_left_changed_in_the_opposite_order() {
    let all = four();
    all[3].fail_write(1, Error::new(ErrorKind::PermissionDenied, "no"));
    let refs: Vec<_> = all.iter().collect();
    let forward = diamond(FailurePolicy::Halt, &all).await;
    let journal = Arc::new(MemoryJournal::new());
    let engine = engine(journal.clone());
    let report = engine.execute(&forward, &components(&refs), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Halted);
    let state = RunState::replay(&journal.entries(report.run).await.unwrap()).unwrap();
    let back = state.reversal().unwrap();
    assert_eq!(back.components().len(), 3, "d changed nothing");
    let report = engine.execute(&back, &components(&refs), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(all.iter().all(|component| component.live() == parts(3)));
    let order = recorded(&journal.entries(report.run).await.unwrap(), |event| {
        matches!(event, rollback_core::StepEvent::Applied)
    })
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    assert_eq!(order.last().map(String::as_str), Some("a"), "{order:?}");

    let nothing = RunState::replay(&journal.entries(report.run).await.unwrap()).unwrap();
    assert!(nothing.reversal().is_ok(), "what is taken back can be taken back again");
    let (web, journal, run) = half_way().await;
    let unfinished = RunState::replay(&journal.entries(run).await.unwrap()).unwrap();
    assert_eq!(unfinished.reversal().unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(Rollbackable::id(&web).name(), "web");
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_is_cancelled_at_once_leaves_the_run_unfinished() {
    let web = component("web");
    web.set_settling(Settling::Never);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let first = engine(journal.clone());
    let given = components(&[&web]);
    assert!(timeout(HUNG, first.execute(&plan, &given, options())).await.is_err(), "it waits to settle");
    let run = only_run(&*journal).await.unwrap();
    let options = options();
    options.cancellation.cancel();
    let stopped = engine(journal.clone()).resume(run, &given, options).await;
    let outcome = RunState::replay(&journal.entries(run).await.unwrap()).unwrap().outcome;
    assert_eq!(outcome, Outcome::Unfinished, "{stopped:?}");
    let kind = stopped.map_or_else(|error| error.kind(), |report| report.error.unwrap().kind);
    assert_eq!(kind, ErrorKind::Cancelled);
}
