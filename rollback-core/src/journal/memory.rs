use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Claim, Entry, Journal, Outcome, RunState, RunSummary, executed, overlaps, unfinished};
use crate::{ComponentId, Error, ErrorKind, Ledger, Note, Realm, Record, Result, RunId};

/// A journal and ledger that live and die with the process: for tests, and for when nothing else can be written.
#[derive(Default)]
pub struct MemoryJournal {
    runs: Mutex<BTreeMap<RunId, (Vec<Entry>, RunState)>>,
    claimed: Arc<Mutex<BTreeSet<RunId>>>,
    known: Mutex<BTreeMap<(Realm, ComponentId), Record>>,
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
            if let Some((_, component)) = other.plan.moves().intersection(&state.plan.moves()).next() {
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
            return Err(executed(run));
        }
        Ok(Claim::new(Claimed { run, all: self.claimed.clone() }))
    }

    async fn forget(&self, forgotten: &[RunId]) -> Result<()> {
        let mut runs = self.lock();
        let is_open = |run: &&RunId| runs.get(run).is_some_and(|(_, run)| run.outcome == Outcome::Unfinished);
        if let Some(run) = forgotten.iter().find(is_open) {
            return Err(unfinished(*run));
        }
        runs.retain(|run, _| !forgotten.contains(run));
        Ok(())
    }
}

#[async_trait]
impl Ledger for MemoryJournal {
    async fn record(&self, realm: &Realm, component: &ComponentId) -> Result<Record> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.get(&(realm.clone(), component.clone())).cloned().unwrap_or_default())
    }

    async fn note(&self, realm: &Realm, component: &ComponentId, notes: Vec<Note>) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let record = known.entry((realm.clone(), component.clone())).or_default();
        for note in notes {
            record.add(note);
        }
        Ok(())
    }
}
