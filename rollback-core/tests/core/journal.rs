//! Which histories are legal.

use proptest::prelude::*;
use rollback_core::{
    Entry, Error, ErrorKind, Event, FailurePolicy, Journal, MemoryJournal, Outcome, Plan, RunId, RunState,
    StepEvent, StepOutcome,
};

use crate::world::{component, id, options, plan};

/// Where a step can stand, spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Waiting,
    Begun,
    NothingToDo,
    Applied,
    Verified,
    Refused,
    Failed,
    Skipped,
    Reversing,
    Compensated,
    CompensationFailed,
}

/// Every legal transition, one line each. What is not here is illegal.
fn next(at: At, event: &StepEvent) -> Option<At> {
    use At::{
        Applied, Begun, Compensated, CompensationFailed, Failed, NothingToDo, Refused, Reversing, Skipped,
        Verified, Waiting,
    };
    Some(match (at, event) {
        (Waiting | Begun, StepEvent::Started { .. }) => Begun,
        (Waiting, StepEvent::NothingToDo) => NothingToDo,
        (Waiting | Begun, StepEvent::Refused { .. }) => Refused,
        (Waiting, StepEvent::Skipped) => Skipped,
        (Begun, StepEvent::Applied) => Applied,
        (Begun | Applied, StepEvent::Failed { .. }) => Failed,
        (Applied, StepEvent::Verified { .. }) => Verified,
        (Applied | Verified | Failed | Reversing, StepEvent::CompensationStarted { .. }) => Reversing,
        (Reversing, StepEvent::Compensated { .. }) => Compensated,
        (Reversing, StepEvent::CompensationFailed { .. }) => CompensationFailed,
        _ => return None,
    })
}

fn event() -> impl Strategy<Value = StepEvent> {
    let error = || Error::new(ErrorKind::Unavailable, "x").report();
    prop::sample::select(vec![
        StepEvent::Started { attempt: 1 },
        StepEvent::Applied,
        StepEvent::NothingToDo,
        StepEvent::Verified { message: "x".into(), notes: vec![] },
        StepEvent::Refused { error: error() },
        StepEvent::Failed { error: error() },
        StepEvent::Skipped,
        StepEvent::CompensationStarted { attempt: 1 },
        StepEvent::Compensated { message: "x".into() },
        StepEvent::CompensationFailed { error: error() },
    ])
}

fn entry(event: Event) -> Entry {
    Entry { at: "2026-11-23T03:00:00Z".parse().unwrap(), event }
}

fn start(plan: &Plan) -> Entry {
    entry(Event::RunStarted {
        plan: Box::new(plan.clone()),
        actor: "test".into(),
        reason: None,
        settings: options().settings,
        locators: Vec::new(),
        cause: None,
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn two_steps() -> Plan {
    let [a, b] = ["a", "b"].map(component);
    block_on(plan(FailurePolicy::Compensate, &[(&a, &[]), (&b, &["a"])]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_the_illegal_events_are_rejected_and_leave_no_trace(
        events in proptest::collection::vec((any::<bool>(), event()), 0..60)
    ) {
        let plan = two_steps();
        let run = RunId::random();
        let journal = MemoryJournal::new();
        block_on(journal.begin(run, start(&plan))).unwrap();
        let mut state = RunState::begin(&start(&plan)).unwrap();
        let mut model = [At::Waiting; 2];
        for (second, event) in events {
            let at = &mut model[usize::from(second)];
            let step = id(if second { "b" } else { "a" });
            let before = state.clone();
            let recorded = entry(Event::Step { step, event: event.clone() });
            let accepted = state.record(&recorded);
            prop_assert_eq!(block_on(journal.append(run, recorded)).is_ok(), accepted.is_ok());
            match (next(*at, &event), accepted) {
                (Some(there), Ok(())) => *at = there,
                (None, Err(error)) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Journal);
                    prop_assert_eq!(&state, &before, "a rejected event left a trace");
                }
                (expected, seen) => {
                    prop_assert!(false, "{event:?} at {at:?}: expected {expected:?}, seen {seen:?}");
                }
            }
        }
        let entries = block_on(journal.entries(run)).unwrap();
        prop_assert_eq!(RunState::replay(&entries).unwrap(), state.clone());
        for (name, at) in ["a", "b"].into_iter().zip(model) {
            let known = state.step(&id(name)).unwrap();
            prop_assert_eq!(known.in_flight, matches!(at, At::Begun | At::Reversing));
            let outcome = match at {
                At::Waiting | At::Begun => StepOutcome::Pending,
                At::NothingToDo => StepOutcome::NothingToDo,
                At::Applied => StepOutcome::Applied,
                At::Verified => StepOutcome::Verified,
                At::Refused => StepOutcome::Refused,
                At::Failed => StepOutcome::Failed,
                At::Skipped => StepOutcome::Skipped,
                At::Compensated => StepOutcome::Compensated,
                At::CompensationFailed => StepOutcome::CompensationFailed,
                At::Reversing => known.outcome,
            };
            prop_assert_eq!(known.outcome, outcome);
        }
    }

    #[test]
    fn a_stored_entry_is_the_same_entry(event in event()) {
        let entry = entry(Event::Step { step: id("a"), event });
        let read: Entry = serde_json::from_str(&serde_json::to_string(&entry).unwrap()).unwrap();
        prop_assert_eq!(read, entry);
    }
}

#[track_caller]
fn assert_illegal(entries: &[Entry], text: &str) {
    let error = RunState::replay(entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn a_history_has_one_start_and_one_end() {
    let plan = two_steps();
    let begun = entry(Event::Step { step: id("a"), event: StepEvent::Started { attempt: 1 } });
    let unknown = entry(Event::Step { step: id("z"), event: StepEvent::Skipped });
    let end = |outcome| entry(Event::RunFinished { outcome, reason: None });
    assert_illegal(&[], "empty");
    assert_illegal(std::slice::from_ref(&begun), "begins with the start");
    assert_illegal(&[start(&plan), start(&plan)], "starts once");
    assert_illegal(&[start(&plan), unknown], "no step is named z");
    let closed = [start(&plan), end(Outcome::Abandoned)];
    for more in [begun.clone(), end(Outcome::Abandoned)] {
        assert_illegal(&[&closed[..], &[more]].concat(), "follows the end");
    }
    let state = RunState::replay(&[start(&plan), begun, end(Outcome::Abandoned)]).unwrap();
    assert_eq!(state.outcome, Outcome::Abandoned);
}

#[test]
fn a_run_ends_only_as_its_steps_stand() {
    use Outcome::{Abandoned, Compensated, Completed, Halted, NothingToDo, Stuck, Unfinished};
    let plan = two_steps();
    let error = || Error::new(ErrorKind::Unavailable, "x").report();
    let applied = [StepEvent::Started { attempt: 1 }, StepEvent::Applied];
    let failed = [&applied[..], &[StepEvent::Failed { error: error() }]].concat();
    let reversing = [&failed[..], &[StepEvent::CompensationStarted { attempt: 1 }]].concat();
    let reversed = [&reversing[..], &[StepEvent::Compensated { message: "x".into() }]].concat();
    let noop = vec![StepEvent::NothingToDo];
    let skipped = vec![StepEvent::Skipped];
    let cases = [
        (vec![], vec![], vec![Stuck, Abandoned]),
        (noop.clone(), noop.clone(), vec![NothingToDo, Completed, Halted, Compensated, Stuck, Abandoned]),
        (noop, applied.to_vec(), vec![Completed, Halted, Stuck, Abandoned]),
        (failed, skipped.clone(), vec![Halted, Stuck, Abandoned]),
        (reversing, skipped.clone(), vec![Stuck, Abandoned]),
        (reversed, skipped, vec![Halted, Compensated, Stuck, Abandoned]),
    ];
    for (a, b, legal) in cases {
        let mut entries = vec![start(&plan)];
        for (step, events) in [("a", a), ("b", b)] {
            entries.extend(events.into_iter().map(|event| entry(Event::Step { step: id(step), event })));
        }
        for outcome in [NothingToDo, Completed, Halted, Compensated, Stuck, Unfinished, Abandoned] {
            let ended = [&entries[..], &[entry(Event::RunFinished { outcome, reason: None })]].concat();
            assert_eq!(RunState::replay(&ended).is_ok(), legal.contains(&outcome), "{outcome:?} {ended:#?}");
        }
    }
}

#[tokio::test]
async fn a_journal_keeps_runs_apart_and_lists_the_newest_first() {
    let [a, b] = ["a", "b"].map(component);
    let first = plan(FailurePolicy::Halt, &[(&a, &[])]).await;
    let second = plan(FailurePolicy::Halt, &[(&b, &[])]).await;
    let journal = MemoryJournal::new();
    let runs = [options().run, options().run];
    journal.begin(runs[0], start(&first)).await.unwrap();
    journal.begin(runs[1], start(&second)).await.unwrap();
    assert_eq!(journal.begin(runs[0], start(&second)).await.unwrap_err().kind(), ErrorKind::Journal);
    assert_eq!(journal.begin(options().run, start(&first)).await.unwrap_err().kind(), ErrorKind::Refused);
    let begun = entry(Event::Step { step: id("a"), event: StepEvent::Started { attempt: 1 } });
    journal.append(runs[0], begun.clone()).await.unwrap();
    assert_eq!(journal.append(runs[1], begun).await.unwrap_err().kind(), ErrorKind::Journal);
    let listed: Vec<_> = journal.runs().await.unwrap().into_iter().map(|summary| summary.run).collect();
    assert_eq!(listed, [runs[1], runs[0]]);
    assert_eq!(journal.entries(runs[0]).await.unwrap().len(), 2);
    assert_eq!(journal.entries(options().run).await.unwrap_err().kind(), ErrorKind::NotFound);
    let end = entry(Event::RunFinished { outcome: Outcome::Abandoned, reason: None });
    journal.append(runs[0], end).await.unwrap();
    journal.begin(options().run, start(&first)).await.unwrap();
}
