//! The file behaves as the journal in memory does.

use futures::future::join_all;
use proptest::prelude::*;
use proptest::sample::select;
use rollback_core::{
    Entry, Error, ErrorKind, Event, Journal, MemoryJournal, Outcome, Result, RunId, StepEvent,
};

use crate::world::{Home, block_on, entry, finished, id, start, step};

#[derive(Clone, Debug)]
enum Call {
    Begin(usize, Entry),
    Append(usize, Entry),
}

fn step_event() -> impl Strategy<Value = StepEvent> {
    let error = || Error::new(ErrorKind::Unavailable, "x").with_hint("y").report();
    select(vec![
        StepEvent::Started { attempt: 1 },
        StepEvent::Started { attempt: 2 },
        StepEvent::Applied,
        StepEvent::Applied,
        StepEvent::NothingToDo,
        StepEvent::Verified { message: "x".into(), notes: vec!["y".into()] },
        StepEvent::Refused { error: error() },
        StepEvent::Failed { error: error() },
        StepEvent::Skipped,
        StepEvent::CompensationStarted { attempt: 1 },
        StepEvent::Compensated { message: "x".into() },
        StepEvent::CompensationFailed { error: error() },
    ])
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use Outcome::{Abandoned, Compensated, Completed, Halted, NothingToDo, Stuck, Unfinished};
    select(vec![NothingToDo, Completed, Halted, Compensated, Stuck, Unfinished, Abandoned])
}

/// Calls for one of three runs, with plans of which some overlap.
fn call() -> impl Strategy<Value = Call> {
    let names = select(vec![vec!["a"], vec!["b"], vec!["a", "b"], vec!["c"]]);
    let event = prop_oneof![
        20 => (select(vec!["a", "b"]), step_event()).prop_map(|(name, event)| step(name, event)),
        2 => outcome().prop_map(finished),
        1 => Just(entry(Event::RunResumed { actor: "x".into() })),
        1 => Just(start(&["a"])),
    ];
    prop_oneof![
        1 => (0..3_usize, names).prop_map(|(run, names)| Call::Begin(run, start(&names))),
        9 => (0..3_usize, event).prop_map(|(run, entry)| Call::Append(run, entry)),
    ]
}

async fn make(journal: &dyn Journal, runs: &[RunId], call: Call) -> Result<(), (ErrorKind, String)> {
    let done = match call {
        Call::Begin(run, entry) => journal.begin(runs[run], entry).await,
        Call::Append(run, entry) => journal.append(runs[run], entry).await,
    };
    done.map_err(|error| (error.kind(), error.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Calls of one group are made side by side, and each group by another handle.
    #[test]
    fn random_calls_have_the_same_answers_as_in_memory(
        groups in prop::collection::vec(prop::collection::vec(call(), 1..20), 1..8)
    ) {
        let home = Home::new();
        let (memory, handles) = (MemoryJournal::new(), [home.open(), home.open()]);
        let runs = [id(), id(), id()];
        block_on(async {
            for (group, journal) in groups.into_iter().zip(handles.iter().cycle()) {
                let expected = join_all(group.iter().cloned().map(|call| make(&memory, &runs, call))).await;
                let seen = join_all(group.iter().cloned().map(|call| make(journal, &runs, call))).await;
                prop_assert_eq!(seen, expected, "{:?}", group);
            }
            for journal in handles.iter().chain([&home.open()]) {
                prop_assert_eq!(journal.runs().await.unwrap(), memory.runs().await.unwrap());
                for run in runs {
                    prop_assert_eq!(journal.entries(run).await.ok(), memory.entries(run).await.ok());
                }
            }
            Ok(())
        })?;
    }
}
