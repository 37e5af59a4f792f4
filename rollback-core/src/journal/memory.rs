use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Entry, Journal, Outcome, RunState};
use crate::{ComponentId, Error, ErrorKind, Plan, Realm, Result, RunId};

/// A journal that lives and dies with the process: for tests, and for when nothing else can be written.
#[derive(Default)]
pub struct MemoryJournal {
    runs: Mutex<BTreeMap<RunId, (Vec<Entry>, RunState)>>,
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
        for (id, (_, other)) in runs.iter().filter(|(_, (_, run))| run.outcome == Outcome::Unfinished) {
            let moved = |plan: &Plan| -> BTreeSet<(Realm, ComponentId)> {
                let steps = plan.steps().iter();
                steps.map(|step| (step.change.realm.clone(), step.change.component.clone())).collect()
            };
            if let Some((_, shared)) = moved(&other.plan).intersection(&moved(&state.plan)).next() {
                let message = format!("run {id} touches {shared} and is unfinished");
                return Err(Error::new(ErrorKind::Refused, message)
                    .with_component(shared)
                    .with_hint("finish or close that run first"));
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

    async fn runs(&self) -> Result<Vec<RunId>> {
        Ok(self.lock().keys().rev().copied().collect())
    }
}
