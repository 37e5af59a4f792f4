//! Leases of one machine.

use std::future::pending;
use std::path::PathBuf;

use async_trait::async_trait;

use super::file::FileLock;
use super::{Hold, Lease, LeaseRequest};
use crate::{Error, ErrorKind, Fingerprint, Result};

/// Leases among the processes of one machine: a locked file for each component, in one folder. They need no
/// renewal and do not expire: the operating system ends them with their process.
///
/// The folder belongs on a local disk. Processes of several users share it only where its mode lets them.
///
/// ```
/// use rollback_core::{Engine, LocalLease, MemoryJournal};
/// use std::sync::Arc;
///
/// let folder = std::env::temp_dir().join("rollback-leases");
/// let engine = Engine::new(Arc::new(MemoryJournal::new())).with_lease(Arc::new(LocalLease::new(folder)));
/// ```
#[derive(Clone, Debug)]
pub struct LocalLease {
    folder: PathBuf,
}

impl LocalLease {
    /// Leases that live in this folder, which is made with the first of them.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

#[async_trait]
impl Lease for LocalLease {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        let name = Fingerprint::of(&serde_json::json!([request.realm, request.component]));
        let name = name.as_str().trim_start_matches("sha256:").to_owned();
        let path = self.folder.join(format!("{name}.lock"));
        let locked = FileLock::try_new(&path, &request.holder()).map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("cannot lock {}", path.display()))
                .with_component(&request.component)
                .with_source(error)
        })?;
        let (lock, broken) = match (locked, FileLock::text(&path).filter(|_| request.break_reason.is_some()))
        {
            (Some(lock), _) => (Some(lock), None),
            // A living process has it, and cannot be made to let it go.
            (None, Some(holder)) => (None, Some(holder)),
            (None, None) => {
                let holder = FileLock::text(&path).unwrap_or_else(|| "another process".to_owned());
                return Err(request.refused(&holder));
            }
        };
        Ok(Box::new(Held { _lock: lock, broken }))
    }
}

#[derive(Debug)]
struct Held {
    _lock: Option<FileLock>,
    broken: Option<String>,
}

#[async_trait]
impl Hold for Held {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn keep(&self) -> Error {
        pending().await
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    // Dropping it does.
    async fn release(&self) {}
}
