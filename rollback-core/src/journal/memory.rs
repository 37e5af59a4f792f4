use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Claim, Entry, Journal, Outcome, RunState, RunSummary, moved, overlaps};
use crate::{Error, ErrorKind, Result, RunId};

/// A journal that lives and dies with the process: for tests, and for when nothing else can be written.
#[derive(Default)]
pub struct MemoryJournal {
    runs: Mutex<BTreeMap<RunId, (Vec<Entry>, RunState)>>,
    claimed: Arc<Mutex<BTreeSet<RunId>>>,
}

/// A run that is being executed.
struct Claimed {
    run: RunId,
    all: Arc<Mutex<BTreeSet<RunId>>>,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, (Vec<Entry>, RunState)>> {
        // An entry is added only after everything that can fail, so a poisoned map is still whole.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryJournal").field("runs", &self.lock().len()).finish()
    }
}

fn unknown(run: RunId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no run {run}"))
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        let state = RunState::begin(&entry)?;
        let mut runs = self.lock();
        if runs.contains_key(&run) {
            return Err(Error::new(ErrorKind::Journal, format!("run {run} began already")));
        }
        let unfinished = runs.iter().filter(|(_, (_, other))| other.outcome == Outcome::Unfinished);
        for (id, (_, other)) in unfinished {
            if let Some((_, component)) = moved(&other.plan).intersection(&moved(&state.plan)).next() {
                return Err(overlaps(*id, component));
            }
        }
        runs.insert(run, (vec![entry], state));
        Ok(())
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        let mut runs = self.lock();
        let (entries, state) = runs.get_mut(&run).ok_or_else(|| unknown(run))?;
        state.record(&entry)?;
        entries.push(entry);
        Ok(())
    }

    async fn entries(&self, run: RunId) -> Result<Vec<Entry>> {
        self.lock().get(&run).map(|(entries, _)| entries.clone()).ok_or_else(|| unknown(run))
    }

    async fn runs(&self) -> Result<Vec<RunSummary>> {
        Ok(self.lock().iter().rev().map(|(run, (_, state))| RunSummary::new(*run, state)).collect())
    }

    async fn claim(&self, run: RunId) -> Result<Claim> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if !claimed.insert(run) {
            return Err(Error::new(ErrorKind::Refused, format!("run {run} is being executed already")));
        }
        Ok(Claim::new(Claimed { run, all: self.claimed.clone() }))
    }
}
