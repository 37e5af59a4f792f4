//! Stopping anywhere: cancelled, dropped, or with a journal that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rollback_core::{
    Entry, Error, ErrorKind, Event, FailurePolicy, Journal, Outcome, RunState, RunSummary, StepEvent,
    StepOutcome,
};
use rollback_testkit::{MemoryComponent, poll_times};
use tokio_util::sync::CancellationToken;

use crate::world::{
    Listening, WRITES, assert_retold, component, components, engine, id, options, parts, plan, run, step,
};

const POLICY: FailurePolicy = FailurePolicy::Compensate;

/// Two steps in order, the second of which fails half-way, so that a whole run goes there and back.
fn there_and_back() -> [MemoryComponent; 2] {
    let all = ["a", "b"].map(component);
    all[1].fail_write(2, Error::new(ErrorKind::PermissionDenied, "may not"));
    all
}

async fn entries_of_a_whole_run() -> usize {
    let [a, b] = &there_and_back();
    let plan = plan(POLICY, &[(a, &[]), (b, &["a"])]).await;
    let (report, entries) = run(&plan, &[a, b], options()).await;
    assert_eq!(report.outcome, Outcome::Compensated);
    entries.len()
}

#[tokio::test(start_paused = true)]
async fn cancelled_at_any_entry_no_more_is_written_and_the_journal_tells_where_it_stands() {
    let whole = entries_of_a_whole_run().await;
    let mut finished = 0;
    for nth in 0..whole {
        let [a, b] = there_and_back();
        let plan = plan(POLICY, &[(&a, &[]), (&b, &["a"])]).await;
        let token = CancellationToken::new();
        let written = Arc::new(AtomicU64::new(u64::MAX));
        let hook = (a.clone(), b.clone(), token.clone(), written.clone());
        let journal = Listening::new(move |count, _| {
            let (a, b, token, written) = &hook;
            if count == nth {
                token.cancel();
                written.store(a.writes() + b.writes(), Ordering::SeqCst);
            }
            Ok(())
        });
        let options = rollback_core::RunOptions { cancellation: token, ..options() };
        let report = engine(journal.clone()).execute(&plan, &components(&[&a, &b]), options).await.unwrap();
        let entries = journal.entries(report.run).await.unwrap();
        assert_retold(&report, &entries);
        assert_eq!(a.writes() + b.writes(), written.load(Ordering::SeqCst), "written after entry {nth}");
        match report.error {
            Some(error) => assert_eq!(error.kind, ErrorKind::Cancelled, "at entry {nth}"),
            None => finished += 1,
        }
    }
    assert!(finished < 3, "only at its very end is a run past stopping; {finished} of {whole}");
}

#[tokio::test(start_paused = true)]
async fn cancelled_while_it_settles_a_run_stops_at_once() {
    let web = component("web");
    web.set_settling(rollback_testkit::Settling::Never);
    let plan = plan(POLICY, &[(&web, &[])]).await;
    let options = options();
    let token = options.cancellation.clone();
    let all = [&web];
    let start = tokio::time::Instant::now();
    let later = async {
        tokio::time::sleep(std::time::Duration::from_secs(7)).await;
        token.cancel();
    };
    let ((report, _), ()) = tokio::join!(run(&plan, &all, options), later);
    assert_eq!(report.outcome, Outcome::Unfinished);
    assert_eq!(step(&report, "web").outcome, StepOutcome::Applied);
    assert_eq!(start.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn once_an_entry_cannot_be_recorded_nothing_more_is_written() {
    let whole = entries_of_a_whole_run().await;
    // Entry 0 is the start, whose failure begins nothing.
    for for_good in [true, false] {
        for nth in 1..whole {
            let [a, b] = there_and_back();
            let plan = plan(POLICY, &[(&a, &[]), (&b, &["a"])]).await;
            let written = Arc::new(AtomicU64::new(u64::MAX));
            let hook = (a.clone(), b.clone(), written.clone());
            let journal = Listening::new(move |count, _| {
                let (a, b, written) = &hook;
                if count == nth {
                    written.store(a.writes() + b.writes(), Ordering::SeqCst);
                }
                if count == nth || (count > nth && for_good) {
                    return Err(Error::new(ErrorKind::Journal, "disk full"));
                }
                Ok(())
            });
            let all = components(&[&a, &b]);
            let report = engine(journal.clone()).execute(&plan, &all, options()).await.unwrap();
            assert_retold(&report, &journal.entries(report.run).await.unwrap());
            assert_eq!(report.outcome, Outcome::Unfinished, "failed at entry {nth}");
            let error = report.error.unwrap();
            assert_eq!(
                (error.kind, error.message.as_str()),
                (ErrorKind::Journal, "disk full"),
                "entry {nth}"
            );
            assert_eq!(a.writes() + b.writes(), written.load(Ordering::SeqCst), "written after entry {nth}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn once_an_entry_cannot_be_recorded_a_step_beside_it_makes_no_further_write() {
    let [a, b] = ["a", "b"].map(component);
    let plan = plan(FailurePolicy::Halt, &[(&a, &[]), (&b, &[])]).await;
    // While a is between its first and its second write.
    a.set_latency(std::time::Duration::from_secs(10));
    let hook = a.clone();
    let journal = Listening::new(move |_, entry: &Entry| match &entry.event {
        Event::Step { step, event: StepEvent::Applied } if *step == id("b") => {
            assert_eq!(hook.writes(), 0);
            Err(Error::new(ErrorKind::Journal, "disk full"))
        }
        _ => Ok(()),
    });
    let report = engine(journal.clone()).execute(&plan, &components(&[&a, &b]), options()).await.unwrap();
    assert_retold(&report, &journal.entries(report.run).await.unwrap());
    assert_eq!(report.outcome, Outcome::Unfinished);
    assert!(step(&report, "a").changed && step(&report, "b").changed, "an effect of both is possible");
    assert_eq!((a.write_attempts(), b.writes()), (0, WRITES));
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_the_journal_knows_of_every_write() {
    let mut dropped = 0;
    for polls in 1.. {
        let [a, b] = there_and_back();
        let plan = plan(POLICY, &[(&a, &[]), (&b, &["a"])]).await;
        let journal = Listening::new(|_, _| Ok(()));
        let engine = engine(journal.clone());
        let all = components(&[&a, &b]);
        if poll_times(engine.execute(&plan, &all, options()), polls).await.is_some() {
            break;
        }
        dropped += 1;
        let Some(RunSummary { run, .. }) = journal.runs().await.unwrap().into_iter().next() else {
            assert_eq!(a.write_attempts() + b.write_attempts(), 0, "written before the run was recorded");
            continue;
        };
        let state = RunState::replay(&journal.entries(run).await.unwrap()).unwrap();
        for component in [&a, &b] {
            let known = state.step(&id(rollback_core::Rollbackable::id(component).name())).unwrap();
            let moved = component.live() != parts(3);
            assert!(!moved || known.in_flight || known.changed, "{component:?} moved: {known:?}");
        }
        if state.outcome == Outcome::Unfinished {
            let again = engine.execute(&plan, &all, options()).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Refused, "an unfinished run is first finished or closed");
        }
    }
    assert!(dropped > 30, "dropped at {dropped} awaits only");
}
