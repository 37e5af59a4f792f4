//! Who carries out a run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rollback_core::{ErrorKind, Journal};

use crate::child::Process;
use crate::world::{Home, block_on, id, start, started};

fn locks(home: &Home) -> PathBuf {
    home.0.path().join("journal.db-locks")
}

#[tokio::test]
async fn a_claim_excludes_other_handles_until_it_is_dropped() {
    let home = Home::new();
    let (one, two) = (home.open(), home.open());
    let run = id();
    let claim = one.claim(run).await.unwrap();
    for journal in [&one, &two] {
        let error = journal.claim(run).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("being executed"), "{error}");
    }
    let other = two.claim(id()).await.unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(locks(&home)), 0o700);
    assert_eq!(mode(locks(&home).join(format!("{run}.lock"))), 0o600);
    drop(one);
    assert_eq!(two.claim(run).await.unwrap_err().kind(), ErrorKind::Refused, "it outlives its journal");
    drop(claim);
    drop(two.claim(run).await.unwrap());
    drop(other);
    assert_eq!(fs::read_dir(locks(&home)).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_link_to_the_journal_leads_to_the_same_claims() {
    let home = Home::new();
    let one = home.open();
    let link = home.0.path().join("link.db");
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    let two = rollback_core::SqliteJournal::open(&link).unwrap();
    assert_eq!(one.path(), two.path());
    let run = id();
    let _claim = one.claim(run).await.unwrap();
    assert_eq!(two.claim(run).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[test]
fn a_killed_process_gives_its_run_back() {
    let home = Home::new();
    let journal = home.open();
    for run in [id(), id()] {
        let mut process = Process::start("claim", &home.path(), run);
        process.wait_for("claimed");
        assert_eq!(block_on(journal.claim(run)).unwrap_err().kind(), ErrorKind::Refused);
        process.kill();
        drop(block_on(journal.claim(run)).unwrap());
    }
}

#[test]
fn never_do_two_hold_a_run_while_claims_come_and_go() {
    let home = Home::new();
    let run = id();
    let (held, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let journal = home.open();
                for _ in 0..300 {
                    if let Ok(claim) = block_on(journal.claim(run)) {
                        assert!(!held.swap(true, Ordering::SeqCst), "two hold it");
                        taken.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        assert!(held.swap(false, Ordering::SeqCst));
                        drop(claim);
                    }
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 8);
}

#[tokio::test]
async fn whoever_had_a_run_before_records_nothing_more_although_its_lock_was_removed() {
    let home = Home::new();
    let (first, second) = (home.open(), home.open());
    let run = id();
    let _first = first.claim(run).await.unwrap();
    first.begin(run, start(&["web"])).await.unwrap();
    fs::remove_dir_all(locks(&home)).unwrap();
    let _second = second.claim(run).await.unwrap();
    let error = first.append(run, started("web", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost, "{error:?}");
    second.append(run, started("web", 1)).await.unwrap();
    assert_eq!(second.entries(run).await.unwrap().len(), 2);
}
