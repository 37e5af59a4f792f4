//! Runs and their entries in the file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::fault::{Broken, Fault};
use super::open;
use crate::journal::{overlaps, unfinished};
use crate::{
    ComponentId, Entry, Error, ErrorKind, Event, Note, Outcome, Realm, Record, Result, RunId, RunState,
    RunSummary,
};

/// Something to make durable.
#[derive(Debug)]
pub(super) enum Write {
    /// The first entry of a run.
    Begin(RunEntry),
    /// A further one.
    Append(RunEntry),
    /// That this process executes a run from here on.
    Claim(RunId),
    /// Runs that go.
    Forget(Vec<RunId>),
    /// What became known of a component.
    Note(Realm, ComponentId, Vec<Note>),
}

/// An entry of a run, with its columns.
#[derive(Debug)]
pub(super) struct RunEntry {
    run: RunId,
    entry: Entry,
    at: String,
    event: String,
}

impl RunEntry {
    /// Refuses what would not come back as it went: a history that cannot be read helps nobody.
    pub(super) fn new(run: RunId, entry: Entry) -> Result<Self> {
        let unfit = || Error::new(ErrorKind::Journal, "the entry would not come back from JSON as it is");
        let event = serde_json::to_string(&entry.event).map_err(|error| unfit().with_source(error))?;
        let read: Event = serde_json::from_str(&event).map_err(|error| unfit().with_source(error))?;
        if read != entry.event {
            return Err(unfit());
        }
        Ok(Self { run, at: entry.at.to_string(), entry, event })
    }
}

/// A run that is being written.
#[derive(Debug)]
struct Known {
    state: RunState,
    /// The number of its last entry.
    last: i64,
}

/// The file, with what is known of the runs that are being written.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    path: PathBuf,
    identity: Identity,
    known: HashMap<RunId, Known>,
    /// By which of its claims this process executes a run.
    claims: HashMap<RunId, i64>,
}

/// Which file it is, whatever its name.
type Identity = Option<(u64, u64)>;

fn identity(path: &Path) -> Identity {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        path.metadata().ok().map(|data| (data.dev(), data.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (connection, path) = open::open(path).map_err(|broken| broken.at(path))?;
        Ok(Self {
            identity: identity(&path),
            connection,
            path,
            known: HashMap::new(),
            claims: HashMap::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the right to write, for which other processes wait.
    pub(super) fn lock(&mut self) -> Result<(), Broken> {
        // What could not be rolled back before, such as for a failing disk, may be by now.
        self.undo_unless_done();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        // SQLite would go on writing to a file that nobody finds again.
        let checked = if identity(&self.path) == self.identity {
            open::check_version(&self.connection)
        } else {
            Err(Broken::Replaced)
        };
        if checked.is_err() {
            self.undo();
        }
        checked
    }

    /// Records what may be recorded and makes all of it durable, or none of it. Needs the lock, and gives
    /// it back.
    pub(super) fn commit(&mut self, writes: &[Write]) -> Result<Vec<Result<()>>, Broken> {
        let done = writes.iter().map(|write| self.record(write)).collect::<Result<Vec<_>, _>>();
        let done = done.and_then(|results| {
            self.connection.execute_batch("COMMIT")?;
            Ok(results)
        });
        if done.is_err() {
            self.undo();
        }
        done
    }

    fn undo(&mut self) {
        self.known.clear();
        self.undo_unless_done();
    }

    fn undo_unless_done(&self) {
        if !self.connection.is_autocommit() {
            // What stands in the way stands in that of the next BEGIN too, which tells it.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Records one, or leaves no trace of it. The outer error is that the whole transaction is lost.
    fn record(&mut self, write: &Write) -> Result<Result<()>, Broken> {
        self.connection.execute_batch("SAVEPOINT entry")?;
        let recorded = match write {
            Write::Begin(entry) => self.begin(entry),
            Write::Append(entry) => self.append(entry),
            Write::Claim(run) => self.claim(*run),
            Write::Forget(runs) => self.forget(runs),
            Write::Note(realm, component, notes) => self.note(realm, component, notes),
        };
        let fault = match recorded {
            Ok(()) => {
                self.connection.execute_batch("RELEASE entry")?;
                return Ok(Ok(()));
            }
            Err(fault) => fault,
        };
        if let Fault::Broken(broken) = &fault {
            self.known.clear();
            if self.connection.is_autocommit() {
                return Err(broken.clone());
            }
        }
        self.connection.execute_batch("ROLLBACK TO entry; RELEASE entry")?;
        Ok(Err(fault.at(&self.path)))
    }

    fn begin(&mut self, write: &RunEntry) -> Result<(), Fault> {
        let run = write.run;
        let state = RunState::begin(&write.entry)?;
        if self.last(run)?.is_some() {
            return Err(Error::new(ErrorKind::Journal, format!("run {run} began already")).into());
        }
        let moves = state.plan.moves();
        for (other, theirs) in self.unfinished()? {
            if let Some((_, component)) = theirs.intersection(&moves).next() {
                return Err(overlaps(other, component).into());
            }
        }
        self.connection.execute(
            "INSERT INTO runs (run, outcome, started_at) VALUES (?1, ?2, ?3)",
            params![run.to_string(), word(state.outcome)?, write.at],
        )?;
        for (realm, component) in &moves {
            self.connection.execute(
                "INSERT INTO components (run, realm, component) VALUES (?1, ?2, ?3)",
                params![run.to_string(), realm.as_str(), json(component)?],
            )?;
        }
        self.insert(write, 1)?;
        self.known.insert(run, Known { state, last: 1 });
        Ok(())
    }

    fn append(&mut self, write: &RunEntry) -> Result<(), Fault> {
        let run = write.run;
        let last = self.last(run)?.ok_or_else(|| unknown(run))?;
        let claims = "SELECT claims FROM runs WHERE run = ?1";
        let claims: i64 = self.connection.query_row(claims, [run.to_string()], |row| row.get(0))?;
        if claims > self.claims.get(&run).copied().unwrap_or_default() {
            let message = format!("run {run} was taken over by another process");
            return Err(Error::new(ErrorKind::LeaseLost, message).into());
        }
        // Another process may have gone on with it.
        let mut known = match self.known.remove(&run) {
            Some(known) if known.last == last => known,
            _ => Known { state: RunState::replay(&self.entries(run)?).map_err(damaged)?, last },
        };
        if let Err(error) = known.state.record(&write.entry) {
            self.keep(run, known);
            return Err(error.into());
        }
        known.last += 1;
        self.insert(write, known.last)?;
        if known.state.outcome != Outcome::Unfinished {
            self.connection.execute(
                "UPDATE runs SET outcome = ?2, finished_at = ?3 WHERE run = ?1",
                params![run.to_string(), word(known.state.outcome)?, write.at],
            )?;
        }
        self.keep(run, known);
        Ok(())
    }

    /// What has ended is not written any more.
    fn keep(&mut self, run: RunId, known: Known) {
        if known.state.outcome == Outcome::Unfinished {
            self.known.insert(run, known);
        }
    }

    fn insert(&self, write: &RunEntry, seq: i64) -> Result<(), Fault> {
        self.connection.execute(
            "INSERT INTO entries (run, seq, at, event) VALUES (?1, ?2, ?3, ?4)",
            params![write.run.to_string(), seq, write.at, write.event],
        )?;
        Ok(())
    }

    /// Counts the claim, so that whoever had the run before is told when it goes on. A run that has not begun
    /// had nobody.
    fn claim(&mut self, run: RunId) -> Result<(), Fault> {
        let count = "UPDATE runs SET claims = claims + 1 WHERE run = ?1 RETURNING claims";
        let claims = self.connection.query_row(count, [run.to_string()], |row| row.get(0)).optional()?;
        self.claims.insert(run, claims.unwrap_or_default());
        Ok(())
    }

    fn forget(&mut self, runs: &[RunId]) -> Result<(), Fault> {
        for run in runs {
            let name = run.to_string();
            let outcome = "SELECT outcome FROM runs WHERE run = ?1";
            let outcome =
                self.connection.query_row(outcome, [&name], |row| row.get::<_, String>(0)).optional()?;
            if outcome == Some(word(Outcome::Unfinished)?) {
                return Err(unfinished(*run).into());
            }
            for table in ["entries", "components", "runs"] {
                self.connection.execute(&format!("DELETE FROM {table} WHERE run = ?1"), [&name])?;
            }
            self.claims.remove(run);
        }
        Ok(())
    }

    fn note(&mut self, realm: &Realm, component: &ComponentId, notes: &[Note]) -> Result<(), Fault> {
        let mut record = self.ledger(realm, component)?;
        for note in notes {
            record.add(note.clone());
        }
        self.connection.execute(
            "INSERT OR REPLACE INTO ledger (realm, component, record) VALUES (?1, ?2, ?3)",
            params![realm.as_str(), json(component)?, json(&record)?],
        )?;
        Ok(())
    }

    /// What is known of a component.
    pub(super) fn ledger(&self, realm: &Realm, component: &ComponentId) -> Result<Record, Fault> {
        let record = "SELECT record FROM ledger WHERE realm = ?1 AND component = ?2";
        let keys = params![realm.as_str(), json(component)?];
        let text = self.connection.query_row(record, keys, |row| row.get::<_, String>(0)).optional()?;
        text.map_or_else(|| Ok(Record::default()), |text| serde_json::from_str(&text).map_err(damaged))
    }

    fn last(&self, run: RunId) -> Result<Option<i64>, Fault> {
        let last = "SELECT max(seq) FROM entries WHERE run = ?1";
        Ok(self.connection.query_row(last, [run.to_string()], |row| row.get(0)).optional()?.flatten())
    }

    /// What unfinished runs move.
    fn unfinished(&self) -> Result<BTreeMap<RunId, BTreeSet<(Realm, ComponentId)>>, Fault> {
        let mut all: BTreeMap<RunId, BTreeSet<_>> = BTreeMap::new();
        let mut statement = self.connection.prepare(
            "SELECT run, realm, component FROM runs JOIN components USING (run) WHERE outcome = 'Unfinished'",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let run = row.get::<_, String>(0)?.parse().map_err(damaged)?;
            let component = serde_json::from_str(&row.get::<_, String>(2)?).map_err(damaged)?;
            all.entry(run).or_default().insert((Realm::new(row.get::<_, String>(1)?), component));
        }
        Ok(all)
    }

    /// The entries of a run, in order.
    pub(super) fn entries(&self, run: RunId) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::new();
        let mut statement =
            self.connection.prepare("SELECT seq, at, event FROM entries WHERE run = ?1 ORDER BY seq")?;
        let mut rows = statement.query([run.to_string()])?;
        while let Some(row) = rows.next()? {
            let next = entries.len() + 1;
            let unreadable =
                |error: &dyn fmt::Display| damaged(format!("entry {next} of run {run}: {error}"));
            if usize::try_from(row.get::<_, i64>(0)?) != Ok(next) {
                return Err(unreadable(&"missing"));
            }
            entries.push(Entry {
                at: row.get::<_, String>(1)?.parse().map_err(|error: Error| unreadable(&error))?,
                event: serde_json::from_str(&row.get::<_, String>(2)?).map_err(|error| unreadable(&error))?,
            });
        }
        if entries.is_empty() { Err(unknown(run).into()) } else { Ok(entries) }
    }

    /// All runs, newest first: ids sort by time.
    pub(super) fn runs(&self) -> Result<Vec<RunSummary>, Fault> {
        let mut all: Vec<(RunSummary, BTreeSet<ComponentId>)> = Vec::new();
        let mut statement = self.connection.prepare(
            "SELECT run, outcome, started_at, finished_at, component FROM runs JOIN components USING (run)
             ORDER BY run DESC",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let run: RunId = row.get::<_, String>(0)?.parse().map_err(damaged)?;
            let component = serde_json::from_str(&row.get::<_, String>(4)?).map_err(damaged)?;
            if let Some((_, components)) = all.last_mut().filter(|(last, _)| last.run == run) {
                components.insert(component);
                continue;
            }
            let finished: Option<String> = row.get(3)?;
            let summary = RunSummary {
                run,
                outcome: serde_json::from_value(Value::String(row.get(1)?)).map_err(damaged)?,
                started_at: row.get::<_, String>(2)?.parse().map_err(damaged)?,
                finished_at: finished.map(|text| text.parse()).transpose().map_err(damaged)?,
                components: Vec::new(),
            };
            all.push((summary, BTreeSet::from([component])));
        }
        let whole = |(summary, components): (RunSummary, BTreeSet<_>)| RunSummary {
            components: components.into_iter().collect(),
            ..summary
        };
        Ok(all.into_iter().map(whole).collect())
    }
}

fn unknown(run: RunId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no run {run}"))
}

/// What is stored does not mean anything here.
fn damaged(error: impl fmt::Display) -> Fault {
    Fault::Broken(Broken::Damaged(error.to_string()))
}

/// As JSON text.
fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(unwritable)
}

/// The outcome as the word that it is in JSON.
fn word(outcome: Outcome) -> Result<String> {
    serde_json::from_value(serde_json::to_value(outcome).map_err(unwritable)?).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Journal, "the run cannot be stored as JSON").with_source(error)
}
