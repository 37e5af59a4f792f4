//! A lock of the operating system, which ends with its process however that ends.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// A locked file, removed when dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    /// Open as long as the lock is held.
    _file: File,
    path: PathBuf,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Before the lock is given up, so that the file removed is the one locked. Elsewhere an open file
        // cannot be removed, or not be told from its successor.
        if cfg!(unix) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl FileLock {
    /// Locks the file, made where it is missing, with its folder; it then holds `text`. None while another
    /// process, or another part of this one, has it locked.
    pub(crate) fn try_new(path: &Path, text: &str) -> io::Result<Option<Self>> {
        loop {
            create_folder(path.parent().unwrap_or(Path::new(".")))?;
            let mut file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The holder before may have removed the file after it was opened here.
            if is_at(&file, path) {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(text.as_bytes())?;
                return Ok(Some(Self { _file: file, path: path.to_owned() }));
            }
        }
    }

    /// What the holder has written, for people.
    pub(crate) fn text(path: &Path) -> Option<String> {
        let mut text = String::new();
        File::open(path).ok()?.take(1_000).read_to_string(&mut text).ok()?;
        Some(text).filter(|text| !text.is_empty())
    }
}

fn open(path: &Path) -> io::Result<File> {
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

/// Creates a folder that only this user may enter, with those above it.
pub(crate) fn create_folder(folder: &Path) -> io::Result<()> {
    let Some(above) = folder.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    create_folder(above)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => Err(error),
        _ => {
            sync_folder(above);
            Ok(())
        }
    }
}

/// Makes the names in a folder durable, where the system lets it.
fn sync_folder(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}
