//! Who executes a run: a lock of the operating system, which ends with its process however that ends.

use std::path::Path;

use super::fault::{Broken, Fault};
use crate::RunId;
use crate::journal::executed;
use crate::lease::file::FileLock;

/// Takes a run of the journal at `journal`. The lock of each run is a file of its own beside the journal:
/// locking the journal's file would interfere with `SQLite`'s locks.
pub(super) fn claim(journal: &Path, run: RunId) -> Result<FileLock, Fault> {
    let mut folder = journal.as_os_str().to_owned();
    folder.push("-locks");
    let path = Path::new(&folder).join(format!("{run}.lock"));
    match FileLock::try_new(&path, "") {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(executed(run).into()),
        Err(error) => Err(Fault::Told(Broken::from(error).at(&path))),
    }
}
