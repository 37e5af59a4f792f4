//! What can go wrong with the file, each with the way out.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rusqlite::ErrorCode;

use crate::{Error, ErrorKind};

/// Why the file cannot be used. Kept apart from [`Error`], because all that waited for one transaction
/// are told the same.
#[derive(Clone, Debug)]
pub(super) enum Broken {
    /// What `SQLite` says.
    Sqlite(Arc<rusqlite::Error>),
    /// What the file system says.
    File(Arc<io::Error>),
    /// It is another program's.
    Foreign,
    /// A newer version of this program has written it.
    Newer,
    /// `SQLite`'s own check has found this.
    Damaged(String),
    /// It can be read and not written.
    ReadOnly,
    /// It is no `SQLite` file.
    NoSqlite,
    /// It is a folder, a pipe or a device.
    NoFile,
    /// The file system offers no write-ahead log.
    NoLog,
    /// The file that was opened is no longer at its path.
    Replaced,
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::File(Arc::new(error))
    }
}

const ELSEWHERE: &str = "record elsewhere with `--journal PATH`, or nowhere with `--journal memory`";
const KEEP: &str = "keep a copy of it with its -wal file, and";

impl Broken {
    /// Whether there was no room.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::File(error) => error.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Whether another process has the lock.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Sqlite(error) = self else { return false };
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// What to tell of the journal at `place`.
    pub(super) fn at(&self, place: &Path) -> Error {
        let path = place.display();
        let (message, first) = match self {
            _ if self.is_full() => (format!("no space is left for the journal {path}"), "make space, or"),
            _ if self.is_busy() => {
                (format!("the journal {path} is locked by another process"), "wait until that has ended, or")
            }
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::NotADatabase) => return Self::NoSqlite.at(place),
                Some(ErrorCode::DatabaseCorrupt) => (format!("the journal {path} is damaged"), KEEP),
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
                    format!("the journal {path} cannot be opened for writing"),
                    "allow this user to write the file and its folder, or",
                ),
                _ => (format!("the journal {path} cannot be read or written"), "look at that disk, or"),
            },
            Self::File(error) if error.kind() == io::ErrorKind::PermissionDenied => (
                format!("the journal {path} cannot be opened for writing"),
                "allow this user to write the file and its folder, or",
            ),
            Self::File(_) => (format!("the journal {path} cannot be opened"), ""),
            Self::Foreign => (format!("{path} is no journal: an SQLite file of another program"), ""),
            Self::Newer => {
                (format!("a newer version of this program has written the journal {path}"), "use that, or")
            }
            Self::Damaged(what) => (format!("the journal {path} is damaged: {what}"), KEEP),
            Self::ReadOnly => (
                format!("the journal {path} is read-only"),
                "allow this user to write the file and its folder, or",
            ),
            Self::NoSqlite => (format!("{path} is no journal: no SQLite file"), ""),
            Self::NoFile => (format!("{path} is no journal: no regular file"), ""),
            Self::NoLog => (
                format!("the file system of the journal {path} offers no write-ahead log"),
                "move it to a local disk, or",
            ),
            Self::Replaced => {
                (format!("the journal {path} was removed or replaced while in use"), "put it back, or")
            }
        };
        let hint = if first.is_empty() { ELSEWHERE.to_owned() } else { format!("{first} {ELSEWHERE}") };
        let mut error = Error::new(ErrorKind::Journal, message).with_hint(hint);
        if let Some(cause) = self.cause() {
            error = error.with_source(cause);
        }
        if self.is_full() || self.is_busy() { error.temporary(None) } else { error }
    }

    fn cause(&self) -> Option<Box<dyn StdError + Send + Sync>> {
        match self {
            Self::Sqlite(error) => Some(Box::new(error.clone())),
            Self::File(error) => Some(Box::new(error.clone())),
            _ => None,
        }
    }
}

/// Why one request cannot be served.
#[derive(Debug)]
pub(super) enum Fault {
    /// Its own fault.
    Told(Error),
    /// The file's.
    Broken(Broken),
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Told(error) => error,
            Self::Broken(broken) => broken.at(path),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error.into())
    }
}
