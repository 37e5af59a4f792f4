//! How often the disk is flushed.

use std::fs;
use std::path::Path;

use futures::future::{join_all, poll_immediate};
use rollback_core::{ErrorKind, Journal, StepEvent};

use crate::world::{Home, id, start, started, step};

/// The transactions in the write-ahead log: its frames that say how large the file is afterwards
/// (<https://www.sqlite.org/fileformat2.html#the_write_ahead_log>).
fn commits(journal: &Path) -> usize {
    let log = fs::read(journal.with_file_name("journal.db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let page = number(8) as usize;
    let salts = &log[16..24];
    (32..log.len())
        .step_by(24 + page)
        .filter(|&frame| &log[frame + 8..frame + 16] == salts && number(frame + 4) != 0)
        .count()
}

#[tokio::test]
async fn steps_side_by_side_share_a_flush() {
    let home = Home::new();
    let journal = home.open();
    let runs: Vec<_> = (0..64).map(|_| id()).collect();
    let names: Vec<_> = (0..64).map(|n| format!("c{n}")).collect();
    join_all(runs.iter().zip(&names).map(|(run, name)| journal.begin(*run, start(&[name]))))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    let before = commits(&home.path());

    // All are waiting before the first can be recorded.
    let lock = rusqlite::Connection::open(home.path()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let append = |(run, name): (&_, &String)| journal.append(*run, started(name, 1));
    let mut waiting: Vec<_> = runs.iter().zip(&names).map(append).collect();
    for append in &mut waiting {
        assert!(poll_immediate(append).await.is_none());
    }
    lock.execute_batch("ROLLBACK").unwrap();
    join_all(waiting).await.into_iter().for_each(Result::unwrap);
    let done = commits(&home.path()) - before;
    assert!((1..=2).contains(&done), "{done} commits for 64 entries");
    for run in runs {
        assert_eq!(journal.entries(run).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn one_refused_entry_leaves_the_others_of_its_commit() {
    let home = Home::new();
    let journal = home.open();
    let (run, other) = (id(), id());
    journal.begin(run, start(&["a"])).await.unwrap();
    let lock = rusqlite::Connection::open(home.path()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let all = async {
        tokio::join!(
            journal.append(run, started("a", 1)),
            journal.append(run, started("z", 1)),
            journal.begin(other, start(&["a"])),
            journal.append(run, step("a", StepEvent::Applied)),
            journal.begin(other, start(&["b"])),
            journal.append(other, started("b", 1)),
        )
    };
    let mut all = Box::pin(all);
    assert!(poll_immediate(&mut all).await.is_none());
    lock.execute_batch("ROLLBACK").unwrap();
    let (a, unknown, overlapping, b, begun, c) = all.await;
    for recorded in [a, b, begun, c] {
        recorded.unwrap();
    }
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Journal);
    assert_eq!(overlapping.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(
        journal.entries(run).await.unwrap(),
        [start(&["a"]), started("a", 1), step("a", StepEvent::Applied)]
    );
    assert_eq!(journal.entries(other).await.unwrap(), [start(&["b"]), started("b", 1)]);
}
