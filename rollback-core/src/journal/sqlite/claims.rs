//! Who executes a run: a lock of the operating system, which ends with its process however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::fault::{Broken, Fault};
use super::open::create_folder;
use crate::{Claim, Error, ErrorKind, RunId};

/// The lock of one run, in a file of its own beside the journal: locking the journal's file would
/// interfere with `SQLite`'s locks.
struct Held {
    /// Open as long as the lock is held.
    _file: File,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the lock is given up, so that the file removed is the one locked. Elsewhere an open file
        // cannot be removed, or not be told from its successor.
        if cfg!(unix) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes a run of the journal at `journal`.
pub(super) fn claim(journal: &Path, run: RunId) -> Result<Claim, Fault> {
    let mut folder = journal.as_os_str().to_owned();
    folder.push("-locks");
    let path = Path::new(&folder).join(format!("{run}.lock"));
    let unusable = |error: io::Error| {
        let broken = Broken::from(error);
        Fault::Told(broken.at(&path))
    };
    loop {
        create_folder(Path::new(&folder)).map_err(unusable)?;
        let file = create(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("run {run} is being executed already");
                return Err(Error::new(ErrorKind::Refused, message).into());
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // The holder before may have removed the file after it was opened here.
        if is_at(&file, &path) {
            return Ok(Claim::new(Held { _file: file, path }));
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |data: std::fs::Metadata| (data.dev(), data.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(opened), Ok(there)) => identity(opened) == identity(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}
