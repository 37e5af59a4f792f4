//! Where the file comes from, and who may use it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use rollback_core::{Journal, SqliteJournal};

use crate::child::{self, Process};
use crate::world::{Home, assert_told, block_on, id, start};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_journal_is_for_its_user_alone() {
    let home = Home::new();
    let folder = home.0.path().join("state/rollback");
    let path = folder.join("journal.db");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.begin(id(), start(&["a"])).await.unwrap();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    assert_eq!((mode(&folder), mode(&home.0.path().join("state"))), (0o700, 0o700));
}

#[tokio::test]
async fn the_mode_of_an_existing_file_stays() {
    let home = Home::new();
    drop(home.open());
    fs::set_permissions(home.path(), Permissions::from_mode(0o640)).unwrap();
    home.open().begin(id(), start(&["a"])).await.unwrap();
    assert_eq!(mode(&home.path()), 0o640);
}

#[test]
fn many_may_create_it_at_once() {
    for _ in 0..5 {
        let home = Home::new();
        thread::scope(|scope| {
            for thread in 0..8 {
                let home = &home;
                scope.spawn(move || {
                    let journal = home.open();
                    block_on(journal.begin(id(), start(&[&format!("c{thread}")]))).unwrap();
                });
            }
        });
        assert_eq!(block_on(home.open().runs()).unwrap().len(), 8);
    }
    let home = Home::new();
    let mut processes: Vec<_> = (0..6).map(|_| Process::start("begin", &home.path(), id())).collect();
    for process in &mut processes {
        process.wait_for("begun");
    }
    processes.into_iter().for_each(Process::end);
}

/// Lets another process try, without the rights of root, which no mode stops.
fn try_without_rights(folder: &Path, path: &Path) {
    const NOBODY: u32 = 65534;
    let mut program = std::env::current_exe().unwrap();
    let root = fs::metadata(folder).unwrap().uid() == 0;
    let bin = tempfile::tempdir().unwrap();
    if root {
        // The build may be where only root can look.
        fs::set_permissions(bin.path(), Permissions::from_mode(0o755)).unwrap();
        program = bin.path().join("tests");
        // Not by this process: what a test beside this one starts just then would hold the copy open for
        // writing, and such a file cannot be executed.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status();
        assert!(copied.unwrap().success());
        for file in fs::read_dir(folder).unwrap() {
            chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = Command::new(program);
    child::prepare(&mut command, "denied", path);
    if root {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("told"), "{said}");
}

pub(crate) fn is_denied(path: &Path) {
    let error = SqliteJournal::open(path).unwrap_err();
    assert_told(&error, path, "");
    assert!(error.hint().unwrap().contains("allow this user to write"), "{error:?}");
    child::say(&format!("told {error}"));
}

#[test]
fn what_this_user_may_not_write_is_told() {
    for (folder_mode, file_mode) in
        [(0o700, Some(0o400)), (0o500, Some(0o600)), (0o500, None), (0o000, Some(0o600))]
    {
        let home = Home::new();
        if let Some(mode) = file_mode {
            drop(home.open());
            fs::set_permissions(home.path(), Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(home.0.path(), Permissions::from_mode(folder_mode)).unwrap();
        try_without_rights(home.0.path(), &home.path());
        fs::set_permissions(home.0.path(), Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_place_where_no_file_can_be_is_told() {
    let home = Home::new();
    let file = home.0.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.join("journal.db"), "/proc/journal.db".into(), "/dev/null".into()] {
        assert_told(&SqliteJournal::open(&path).unwrap_err(), &path, "journal");
    }
    assert_told(&SqliteJournal::open(home.0.path()).unwrap_err(), home.0.path(), "no regular file");
}
