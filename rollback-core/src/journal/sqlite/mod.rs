//! A journal and ledger in a file, for one machine.

mod claims;
mod fault;
mod open;
mod store;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::fault::Broken;
use self::store::{RunEntry, Store, Write};
use self::writer::Request;
use super::{Claim, Entry, Journal, RunSummary};
use crate::{ComponentId, Error, ErrorKind, Ledger, Note, Realm, Record, Result, RunId};

/// A journal and ledger in an `SQLite` file, which survives the process and the loss of power.
///
/// Several processes on one machine may have it open: all may read while one carries out a run, a run is
/// carried out by one of them, and no two runs that touch the same component begin. What waits to be
/// recorded is recorded together, so that steps side by side share one flush of the disk.
///
/// Belongs on a local disk: network file systems do not keep the promises that this is built on. The file
/// holds snapshots as they are, so it is created readable for this user alone; the mode of a file that
/// exists already stays as it is. Beside `FILE` there are `FILE-wal` and `FILE-shm` while it is open, and
/// `FILE-locks` with a lock for each run that is being carried out.
///
/// Dropping it waits until everything that was accepted is recorded, also what nobody waits for any more.
///
/// ```
/// use rollback_core::{Journal, SqliteJournal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let home = home.path();
/// let journal = SqliteJournal::open(home.join(".local/state/rollback/journal.db"))?;
/// for run in journal.runs().await? {
///     println!("{} {:?}", run.run, run.outcome);
/// }
/// # Ok(())
/// # }
/// ```
pub struct SqliteJournal {
    path: PathBuf,
    /// None only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or creates it, with the folders above it. Checks the whole file, and
    /// waits up to 5 seconds for another process that has it locked: nothing to do on an async thread
    /// that others need.
    ///
    /// # Errors
    /// `Journal`, with the path and a way out, when it cannot be read and written, is damaged, belongs to
    /// another program or to a newer version of this one, or stays locked.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let store = Store::open(path.as_ref())?;
        let path = store.path().to_owned();
        let (requests, waiting) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("rollback-journal".to_owned())
            .spawn(move || writer::serve(store, &waiting))
            .map_err(|error| Broken::from(error).at(&path))?;
        Ok(Self { path, requests: Some(requests), thread: Some(thread) })
    }

    /// Where it is, with links followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let gone = || {
            let message = format!("the thread of the journal {} has ended", self.path.display());
            Error::new(ErrorKind::Journal, message)
        };
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref().and_then(|requests| requests.send(request(reply)).ok()).ok_or_else(gone)?;
        answer.await.map_err(|_| gone())?
    }

    async fn write(&self, write: Write) -> Result<()> {
        self.ask(|reply| Request::Write(Box::new(write), reply)).await
    }
}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteJournal").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was told to those who waited.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        self.write(Write::Begin(RunEntry::new(run, entry)?)).await
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        self.write(Write::Append(RunEntry::new(run, entry)?)).await
    }

    async fn entries(&self, run: RunId) -> Result<Vec<Entry>> {
        self.ask(|reply| Request::Entries(run, reply)).await
    }

    async fn runs(&self) -> Result<Vec<RunSummary>> {
        self.ask(Request::Runs).await
    }

    async fn claim(&self, run: RunId) -> Result<Claim> {
        let lock = self.ask(|reply| Request::Lock(run, reply)).await?;
        self.write(Write::Claim(run)).await?;
        Ok(Claim::new(lock))
    }

    async fn forget(&self, runs: &[RunId]) -> Result<()> {
        self.write(Write::Forget(runs.to_vec())).await
    }
}

#[async_trait]
impl Ledger for SqliteJournal {
    async fn record(&self, realm: &Realm, component: &ComponentId) -> Result<Record> {
        self.ask(|reply| Request::Ledger(realm.clone(), component.clone(), reply)).await
    }

    async fn note(&self, realm: &Realm, component: &ComponentId, notes: Vec<Note>) -> Result<()> {
        self.write(Write::Note(realm.clone(), component.clone(), notes)).await
    }
}
