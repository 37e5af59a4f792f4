//! A disk without room.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use futures::future::poll_immediate;
use rollback_core::{Disposition, Journal, SqliteJournal};
use serde_json::json;

use crate::child;
use crate::world::{Home, assert_told, block_on, finished, id, plan_with, start, start_of, started};

#[test]
fn a_full_disk_is_told_and_the_journal_works_again_once_there_is_room() {
    let home = Home::new();
    // A disk of its own, in a mount namespace that ends with the process.
    let script = r#"mount -t tmpfs -o size=2m none "$DISK" && exec "$0" "$@""#;
    let root = fs::metadata(home.0.path()).unwrap().uid() == 0;
    let mut command = Command::new("unshare");
    command.args([if root { "-m" } else { "-Urm" }, "sh", "-c", script]);
    command.arg(std::env::current_exe().unwrap()).env("DISK", home.0.path());
    child::prepare(&mut command, "full", &home.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("worked again"),
        "a small file system is needed, from `unshare` and `mount`: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Leaves this many bytes.
fn fill(path: &Path, leave: usize) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(leave as u64)).unwrap();
}

pub(crate) fn fills_up(path: &Path) {
    let filler = path.with_file_name("filler");
    block_on(async {
        let journal = SqliteJournal::open(path).unwrap();
        let run = id();
        journal.begin(run, start(&["a"])).await.unwrap();
        fill(&filler, 0);
        let mut recorded = 0;
        let error = loop {
            match journal.append(run, started("a", recorded + 1)).await {
                Ok(()) => recorded += 1,
                Err(error) => break error,
            }
            assert!(recorded < 1000, "the disk does not fill up");
        };
        assert_told(&error, path, "no space");
        assert_eq!(error.disposition(), Disposition::Temporary(None));
        for _ in 0..3 {
            assert_told(&journal.begin(id(), start(&["b"])).await.unwrap_err(), path, "no space");
        }
        let entries = journal.entries(run).await.unwrap();
        assert_eq!(entries.len() as u64, 1 + u64::from(recorded), "nothing half recorded");
        assert_eq!(journal.runs().await.unwrap().len(), 1);
        let new = path.with_file_name("new.db");
        assert_told(&SqliteJournal::open(&new).unwrap_err(), &new, "no space");

        // Room for the small one, and not for the large one that waits beside it.
        fs::remove_file(&filler).unwrap();
        fill(&filler, 100_000);
        let large = start_of(plan_with(&["b"], &json!({"text": "x".repeat(400_000)})));
        let lock = rusqlite::Connection::open(path).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        let large_run = id();
        let mut both = Box::pin(async {
            tokio::join!(
                journal.begin(large_run, large.clone()),
                journal.append(run, started("a", recorded + 1))
            )
        });
        assert!(poll_immediate(&mut both).await.is_none());
        lock.execute_batch("ROLLBACK").unwrap();
        drop(lock);
        let (too_large, small) = both.await;
        assert_told(&too_large.unwrap_err(), path, "no space");
        small.unwrap();

        File::options().write(true).open(&filler).unwrap().set_len(0).unwrap();
        journal.begin(large_run, large).await.unwrap();
        journal.append(run, started("a", recorded + 2)).await.unwrap();
        journal.append(run, finished(rollback_core::Outcome::Abandoned)).await.unwrap();
        let before = journal.entries(run).await.unwrap();
        drop(journal);
        let journal = SqliteJournal::open(path).unwrap();
        assert_eq!(journal.entries(run).await.unwrap(), before);
        assert_eq!(before.len() as u64, 4 + u64::from(recorded));
        assert_eq!(journal.runs().await.unwrap().len(), 2);
        SqliteJournal::open(path.with_file_name("new.db")).unwrap();
    });
    child::say("worked again");
}
