//! What is recorded, and who sees it.

use std::thread;

use futures::future::poll_immediate;
use rollback_core::{ErrorKind, Event, Journal, Outcome, RunState, SqliteJournal, StepEvent};
use serde_json::json;

use crate::child::Process;
use crate::world::{Home, block_on, entry, finished, id, plan_with, start, start_of, started, step};

#[tokio::test]
async fn what_was_recorded_survives_the_journal() {
    let home = Home::new();
    // Fractions that a quick parser misses by one bit, numbers at their limits, and depth.
    let mut content = json!({"a": 0.1, "b": f64::MAX, "c": u64::MAX, "d": i64::MIN});
    content["e"] = json!((0..500).map(|_| fastrand::f64() * 1e6).collect::<Vec<_>>());
    content["f"] = (0..60).fold(json!("x"), |inner, _| json!({"x": inner}));
    let first = [
        start_of(plan_with(&["a", "b"], &content)),
        started("a", 1),
        entry(Event::RunResumed { actor: "other".into() }),
        step("a", StepEvent::Applied),
        step("a", StepEvent::Verified { message: "2 of 2".into(), notes: vec!["slow".into()] }),
        step("b", StepEvent::NothingToDo),
        finished(Outcome::Completed),
    ];
    let second = [start(&["a"]), started("a", 1)];
    let runs = [id(), id()];
    let journal = home.open();
    for (run, entries) in [(runs[0], &first[..]), (runs[1], &second[..])] {
        journal.begin(run, entries[0].clone()).await.unwrap();
        for entry in &entries[1..] {
            journal.append(run, entry.clone()).await.unwrap();
        }
    }
    let before = journal.runs().await.unwrap();
    drop(journal);
    let journal = home.open();
    assert_eq!(journal.entries(runs[0]).await.unwrap(), first);
    assert_eq!(journal.entries(runs[1]).await.unwrap(), second);
    let summaries = journal.runs().await.unwrap();
    assert_eq!(summaries, before);
    assert_eq!(summaries.iter().map(|run| run.run).collect::<Vec<_>>(), [runs[1], runs[0]]);
    assert_eq!((summaries[1].outcome, summaries[0].outcome), (Outcome::Completed, Outcome::Unfinished));
    assert_eq!((summaries[1].finished_at, summaries[0].finished_at), (Some(first[6].at), None));
    assert_eq!((summaries[1].components.len(), summaries[0].components.len()), (2, 1));
    journal.append(runs[1], step("a", StepEvent::Applied)).await.unwrap();
    assert_eq!(journal.entries(id()).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(journal.append(id(), started("a", 1)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn another_handle_reads_while_a_run_goes_on() {
    let home = Home::new();
    let (writer, reader) = (home.open(), home.open());
    let run = id();
    writer.begin(run, start(&["a"])).await.unwrap();
    for attempt in 1..=20 {
        writer.append(run, started("a", attempt)).await.unwrap();
        let entries = reader.entries(run).await.unwrap();
        assert_eq!(entries.len() as u64, 1 + u64::from(attempt));
        assert_eq!(RunState::replay(&entries).unwrap().outcome, Outcome::Unfinished);
    }
    writer.append(run, finished(Outcome::Abandoned)).await.unwrap();
    assert_eq!(reader.runs().await.unwrap()[0].outcome, Outcome::Abandoned);
}

#[tokio::test]
async fn a_handle_reads_while_another_has_the_lock() {
    let home = Home::new();
    let journal = home.open();
    let run = id();
    journal.begin(run, start(&["a"])).await.unwrap();
    let other = rusqlite::Connection::open(home.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; UPDATE runs SET outcome = 'Stuck'").unwrap();
    assert_eq!(journal.runs().await.unwrap()[0].outcome, Outcome::Unfinished, "not committed yet");
    assert_eq!(journal.entries(run).await.unwrap().len(), 1);
}

#[tokio::test]
async fn handles_take_turns_with_one_run_and_judge_it_whole() {
    let home = Home::new();
    let handles = [home.open(), home.open()];
    let run = id();
    handles[0].begin(run, start(&["a", "b"])).await.unwrap();
    handles[1].append(run, started("a", 1)).await.unwrap();
    handles[0].append(run, step("a", StepEvent::Applied)).await.unwrap();
    for journal in &handles {
        let error = journal.append(run, step("a", StepEvent::Applied)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal);
        assert!(error.to_string().contains("cannot become"), "{error}");
    }
    handles[1].append(run, step("b", StepEvent::Skipped)).await.unwrap();
    handles[0].append(run, finished(Outcome::Halted)).await.unwrap();
    let error = handles[1].append(run, started("b", 1)).await.unwrap_err();
    assert!(error.to_string().contains("follows the end"), "{error}");
    assert_eq!(handles[1].entries(run).await.unwrap().len(), 5);
    // Whether it helped is told later, once, and stays.
    let judgement = || rollback_core::Judgement {
        recovery: rollback_core::Recovery::NotRecovered,
        message: "the symptom stays".into(),
        points: Vec::new(),
    };
    let engine = rollback_core::Engine::new(std::sync::Arc::new(home.open()));
    engine.judge(run, judgement()).await.unwrap();
    assert_eq!(engine.judge(run, judgement()).await.unwrap_err().kind(), ErrorKind::Journal);
    let state = rollback_core::RunState::replay(&home.open().entries(run).await.unwrap()).unwrap();
    assert_eq!((state.outcome, state.judged), (Outcome::Halted, Some(judgement())));
}

#[tokio::test]
async fn an_illegal_event_is_refused_and_not_stored() {
    let home = Home::new();
    let journal = home.open();
    let run = id();
    assert_eq!(journal.begin(run, started("a", 1)).await.unwrap_err().kind(), ErrorKind::Journal);
    assert_eq!(journal.runs().await.unwrap(), []);
    journal.begin(run, start(&["a"])).await.unwrap();
    let illegal = [
        start(&["a"]),
        step("a", StepEvent::Applied),
        started("z", 1),
        finished(Outcome::Completed),
        finished(Outcome::Unfinished),
    ];
    for entry in illegal {
        assert_eq!(journal.append(run, entry).await.unwrap_err().kind(), ErrorKind::Journal);
    }
    assert_eq!(journal.begin(run, start(&["b"])).await.unwrap_err().kind(), ErrorKind::Journal);
    assert_eq!(journal.entries(run).await.unwrap(), [start(&["a"])]);
    journal.append(run, started("a", 1)).await.unwrap();
}

#[tokio::test]
async fn what_would_not_come_back_is_not_recorded() {
    let home = Home::new();
    let journal = home.open();
    let deep = (0..200).fold(json!("x"), |inner, _| json!([inner]));
    let error = journal.begin(id(), start_of(plan_with(&["a"], &deep))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(journal.runs().await.unwrap(), []);
}

#[test]
fn of_overlapping_runs_one_begins() {
    let home = Home::new();
    for round in 0..10 {
        let (own, shared) = (format!("own-{round}"), format!("shared-{round}"));
        let begun: Vec<_> = thread::scope(|scope| {
            let begin = |thread: usize| {
                let (home, own, shared) = (&home, format!("{own}-{thread}"), &shared);
                scope.spawn(move || {
                    let journal = home.open();
                    block_on(journal.begin(id(), start(&[&own, shared])))
                })
            };
            let threads: Vec<_> = (0..4).map(begin).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(begun.iter().filter(|begun| begun.is_ok()).count(), 1, "{begun:?}");
        for error in begun.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.hint().unwrap().contains("rollback resume"), "{error:?}");
        }
    }
}

#[test]
fn of_overlapping_runs_of_several_processes_one_begins() {
    let home = Home::new();
    let mut processes: Vec<_> = (0..4).map(|_| Process::start("begin", &home.path(), id())).collect();
    let begun: Vec<_> = processes.iter_mut().map(|process| process.wait_for("begun")).collect();
    processes.into_iter().for_each(Process::end);
    assert_eq!(begun.iter().filter(|begun| *begun == "true").count(), 1, "{begun:?}");
    let runs = block_on(home.open().runs()).unwrap();
    assert_eq!(runs.len(), 1);
}

#[tokio::test]
async fn a_component_is_free_once_its_run_has_ended() {
    let home = Home::new();
    let (one, two) = (home.open(), home.open());
    let run = id();
    one.begin(run, start(&["a", "b"])).await.unwrap();
    let error = two.begin(id(), start(&["b", "c"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&run.to_string()) && error.component().is_some(), "{error:?}");
    two.begin(id(), start(&["c"])).await.unwrap();
    two.append(run, finished(Outcome::Abandoned)).await.unwrap();
    one.begin(id(), start(&["a"])).await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_is_recorded_although_nobody_waits() {
    let home = Home::new();
    let journal = home.open();
    let run = id();
    journal.begin(run, start(&["a"])).await.unwrap();
    let lock = rusqlite::Connection::open(home.path()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for attempt in 1..=3 {
        assert!(poll_immediate(journal.append(run, started("a", attempt))).await.is_none());
    }
    lock.execute_batch("ROLLBACK").unwrap();
    drop(journal);
    assert_eq!(SqliteJournal::open(home.path()).unwrap().entries(run).await.unwrap().len(), 4);
}
