//! Files that are no journal, or no longer.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rollback_core::{Disposition, Journal, Outcome, SqliteJournal};
use rusqlite::Connection;
use serde_json::json;

use crate::world::{Home, assert_told, finished, id, plan_with, start, start_of, started};

#[track_caller]
fn assert_untouched(path: &Path, text: &str) {
    let before = fs::read(path).unwrap();
    assert_told(&SqliteJournal::open(path).unwrap_err(), path, text);
    assert!(fs::read(path).unwrap() == before, "it was written to");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left beside it");
}

#[test]
fn a_file_of_another_program_is_refused_and_left_alone() {
    for log in ["delete", "wal"] {
        let home = Home::new();
        let other = Connection::open(home.path()).unwrap();
        other.pragma_update(None, "journal_mode", log).unwrap();
        other.execute_batch("CREATE TABLE notes (text); INSERT INTO notes VALUES ('x')").unwrap();
        drop(other);
        assert_untouched(&home.path(), "another program");
    }
    for garbage in [&b"x"[..], b"hello, world\n", &[7; 100], &[0; 100], &[7; 10_000]] {
        let home = Home::new();
        fs::write(home.path(), garbage).unwrap();
        assert_untouched(&home.path(), "no SQLite file");
    }
}

#[tokio::test]
async fn a_newer_journal_is_refused_also_once_open() {
    let home = Home::new();
    let journal = home.open();
    let run = id();
    journal.begin(run, start(&["a"])).await.unwrap();
    Connection::open(home.path()).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let path = home.path();
    assert_told(&journal.append(run, started("a", 1)).await.unwrap_err(), &path, "newer version");
    assert_eq!(journal.entries(run).await.unwrap().len(), 1);
    drop(journal);
    assert_told(&SqliteJournal::open(&path).unwrap_err(), &path, "newer version");
}

/// A closed journal of some hundred pages.
async fn grown() -> Home {
    let home = Home::new();
    let journal = home.open();
    for _ in 0..50 {
        let run = id();
        let content = json!({"text": "x".repeat(9_000)});
        journal.begin(run, start_of(plan_with(&["a"], &content))).await.unwrap();
        journal.append(run, finished(Outcome::Abandoned)).await.unwrap();
    }
    home
}

#[tokio::test]
async fn a_damaged_journal_is_told_when_it_is_opened() {
    for damage in ["middle", "end", "tail"] {
        let home = grown().await;
        let mut bytes = fs::read(home.path()).unwrap();
        let (half, len) = (bytes.len() / 2, bytes.len());
        match damage {
            "middle" => bytes[half..half + 40_000].fill_with(|| fastrand::u8(..)),
            "end" => bytes.truncate(half),
            _ => bytes[len - 40_000..].fill(0),
        }
        fs::write(home.path(), &bytes).unwrap();
        let error = SqliteJournal::open(home.path()).unwrap_err();
        assert_told(&error, &home.path(), "damaged");
        assert!(error.hint().unwrap().contains("keep a copy"), "{error:?}");
    }
}

#[tokio::test]
async fn damage_that_only_its_reader_sees_is_told() {
    let home = Home::new();
    let journal = home.open();
    let (run, path) = (id(), home.path());
    journal.begin(run, start(&["a"])).await.unwrap();
    journal.append(run, started("a", 1)).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute("UPDATE entries SET event = '{\"type\": \"dance\"}' WHERE seq = 2", []).unwrap();
    assert_told(&journal.entries(run).await.unwrap_err(), &path, "damaged");
    drop(journal);
    let journal = home.open();
    assert_told(&journal.append(run, started("a", 2)).await.unwrap_err(), &path, "damaged");
    other.execute("DELETE FROM entries WHERE seq = 1", []).unwrap();
    let missing = format!("damaged: entry 1 of run {run}: missing");
    assert_told(&journal.entries(run).await.unwrap_err(), &path, &missing);
    other.execute("UPDATE runs SET outcome = 'Happy'", []).unwrap();
    assert_told(&journal.append(run, started("a", 2)).await.unwrap_err(), &path, "damaged");
    assert_told(&journal.runs().await.unwrap_err(), &path, "damaged");
}

#[tokio::test]
async fn a_journal_locked_for_long_is_told_and_works_again_afterwards() {
    let home = Home::new();
    let journal = home.open();
    let run = id();
    journal.begin(run, start(&["a"])).await.unwrap();
    let other = Connection::open(home.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let since = Instant::now();
    let error = journal.append(run, started("a", 1)).await.unwrap_err();
    assert!((Duration::from_secs(4)..Duration::from_secs(30)).contains(&since.elapsed()));
    assert_told(&error, &home.path(), "locked by another process");
    assert_eq!(error.disposition(), Disposition::Temporary(None));
    other.execute_batch("ROLLBACK").unwrap();
    journal.append(run, started("a", 1)).await.unwrap();
    assert_eq!(journal.entries(run).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_journal_removed_or_replaced_while_open_takes_nothing_more() {
    let home = Home::new();
    let (journal, path) = (home.open(), home.path());
    let run = id();
    journal.begin(run, start(&["a"])).await.unwrap();
    let aside = home.0.path().join("aside.db");
    fs::rename(&path, &aside).unwrap();
    assert_told(&journal.append(run, started("a", 1)).await.unwrap_err(), &path, "removed or replaced");
    fs::copy(&aside, &path).unwrap();
    assert_told(&journal.append(run, started("a", 1)).await.unwrap_err(), &path, "removed or replaced");
    fs::rename(&aside, &path).unwrap();
    journal.append(run, started("a", 1)).await.unwrap();
}
