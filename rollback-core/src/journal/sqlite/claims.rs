//! Who executes a run: a lock of the operating system, which ends with its process however that ends.

use std::path::Path;

use super::fault::{Broken, Fault};
use crate::lease::file::FileLock;
use crate::{Error, ErrorKind, RunId};

/// Takes a run of the journal at `journal`. The lock of each run is a file of its own beside the journal:
/// locking the journal's file would interfere with `SQLite`'s locks.
pub(super) fn claim(journal: &Path, run: RunId) -> Result<FileLock, Fault> {
    let mut folder = journal.as_os_str().to_owned();
    folder.push("-locks");
    let path = Path::new(&folder).join(format!("{run}.lock"));
    match FileLock::try_new(&path, "") {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => {
            let message = format!("run {run} is being executed already");
            Err(Error::new(ErrorKind::Refused, message).into())
        }
        Err(error) => Err(Fault::Told(Broken::from(error).at(&path))),
    }
}
