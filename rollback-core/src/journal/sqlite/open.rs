//! The file: where it comes from, and whether it is a journal that this version can continue.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::fault::Broken;
use crate::lease::file::create_folder;

/// `rlbk` in ASCII: what tells a journal from other `SQLite` files.
const APPLICATION: i64 = 0x726c_626b;

/// How to come from each version to the next, from an empty file on. Steps that were released stay as
/// they are: files in the field have taken them.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE runs (
        run         TEXT NOT NULL PRIMARY KEY,
        outcome     TEXT NOT NULL,
        started_at  TEXT NOT NULL,
        finished_at TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX unfinished ON runs (run) WHERE outcome = 'Unfinished';
    CREATE TABLE components (
        run       TEXT NOT NULL REFERENCES runs (run),
        realm     TEXT NOT NULL,
        component TEXT NOT NULL,
        PRIMARY KEY (run, realm, component)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE entries (
        run   TEXT    NOT NULL REFERENCES runs (run),
        seq   INTEGER NOT NULL,
        at    TEXT    NOT NULL,
        event TEXT    NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT;
",
    "
    ALTER TABLE runs ADD COLUMN claims INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE ledger (
        realm     TEXT NOT NULL,
        component TEXT NOT NULL,
        record    TEXT NOT NULL,
        PRIMARY KEY (realm, component)
    ) STRICT, WITHOUT ROWID;
",
];

/// How long to wait while another process writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// One at a time in a process: closing a file that `SQLite` has open elsewhere in the process would give up
/// `SQLite`'s locks (POSIX), and creating the file closes it. For the same reason nothing else here may ever
/// open the file itself.
static OPENING: Mutex<()> = Mutex::new(());

/// Opens or creates the journal; also says where it really is.
pub(super) fn open(path: &Path) -> Result<(Connection, PathBuf), Broken> {
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    create(path)?;
    let path = path.canonicalize()?;
    let data = path.metadata()?;
    if !data.is_file() {
        return Err(Broken::NoFile);
    }
    // SQLite takes a file smaller than its smallest page for an empty one, and would overwrite it.
    if (1..512).contains(&data.len()) {
        return Err(Broken::NoSqlite);
    }
    // Without CREATE, which would let the file come back readable for everyone had it vanished by now.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags)?;
    // SQLite falls back to reading without a word.
    if connection.is_readonly("main")? {
        return Err(Broken::ReadOnly);
    }
    connection.busy_timeout(PATIENCE)?;
    migrate(&mut connection)?;
    write_ahead(&connection)?;
    // An answer of a disk that only has it in its cache is none (fullfsync is for macOS).
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
         PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
    )?;
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Broken::Damaged(found.lines().map(str::trim).collect::<Vec<_>>().join(" ")));
    }
    Ok((connection, path))
}

/// Makes sure that there is a file, readable by nobody else from its first moment on.
fn create(path: &Path) -> Result<(), Broken> {
    if path.try_exists()? {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// How many migrations the file has taken.
fn version(connection: &Connection) -> Result<usize, Broken> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application != APPLICATION {
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        return if (application, version, tables) == (0, 0, 0) { Ok(0) } else { Err(Broken::Foreign) };
    }
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        Ok(_) => Err(Broken::Newer),
        Err(_) => Err(Broken::Foreign),
    }
}

/// Fails once a newer version of this program has changed the file.
pub(super) fn check_version(connection: &Connection) -> Result<(), Broken> {
    match version(connection)? {
        known if known == MIGRATIONS.len() => Ok(()),
        _ => Err(Broken::Replaced),
    }
}

/// Brings the file to this version, all steps or none.
fn migrate(connection: &mut Connection) -> Result<(), Broken> {
    // Read in one transaction: another process may be just creating it.
    let seen = version(&*connection.transaction()?)?;
    if seen == MIGRATIONS.len() {
        return Ok(());
    }
    let changes = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in MIGRATIONS.iter().skip(version(&changes)?) {
        changes.execute_batch(step)?;
    }
    changes.pragma_update(None, "application_id", APPLICATION)?;
    changes.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    Ok(changes.commit()?)
}

/// Switches to the write-ahead log, which lets others read while one writes. It stays that way.
fn write_ahead(connection: &Connection) -> Result<(), Broken> {
    let started = Instant::now();
    loop {
        let switched =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
        match switched.map_err(Broken::from) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(_) => return Err(Broken::NoLog),
            // SQLite does not wait here by itself.
            Err(broken) if broken.is_busy() && started.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(10));
            }
            Err(broken) => return Err(broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_waits_for_the_disk() {
        let home = tempfile::tempdir().unwrap();
        // Of these the first belongs to the file, the second to each connection.
        for _ in 0..2 {
            let (connection, _) = open(&home.path().join("journal.db")).unwrap();
            let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
            let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
            assert_eq!((mode.as_str(), synchronous), ("wal", 2));
        }
    }
}
