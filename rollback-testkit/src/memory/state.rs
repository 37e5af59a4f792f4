//! The content of a component in memory, as its server would keep it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rollback_core::{
    Access, Change, Error, ErrorKind, FieldChange, Fingerprint, Position, Result, Snapshot, Target,
    Verification,
};
use serde_json::Value;
use tokio::time::Instant;

use super::Settling;

/// Parts and their values. A part that is absent is null.
pub(super) type Parts = BTreeMap<String, Value>;

pub(super) enum Fault {
    Fail(Error),
    Lose,
    Hang,
}

pub(super) struct State {
    pub(super) uid: u64,
    pub(super) live: Parts,
    /// Oldest first.
    pub(super) revisions: Vec<(String, Parts)>,
    pub(super) writes: u64,
    pub(super) attempts: u64,
    pub(super) reads: u64,
    pub(super) read_errors: VecDeque<Error>,
    pub(super) latency: Duration,
    pub(super) settling: Settling,
    pub(super) settling_of: BTreeMap<String, Settling>,
    last_write: Option<Instant>,
    faults: BTreeMap<u64, Fault>,
    read_status: Option<u16>,
    write_status: Option<u16>,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            uid: 1,
            live: Parts::new(),
            revisions: Vec::new(),
            writes: 0,
            attempts: 0,
            reads: 0,
            read_errors: VecDeque::new(),
            latency: Duration::ZERO,
            settling: Settling::After(Duration::ZERO),
            settling_of: BTreeMap::new(),
            last_write: None,
            faults: BTreeMap::new(),
            read_status: None,
            write_status: None,
        }
    }

    pub(super) fn deploy(&mut self, id: &str, parts: Parts) {
        for part in self.tracked() {
            self.live.remove(&part);
        }
        self.live.extend(parts.clone());
        self.revisions.push((id.into(), parts));
    }

    pub(super) fn set(&mut self, part: &str, value: Value) {
        if value.is_null() {
            self.live.remove(part);
        } else {
            self.live.insert(part.into(), value);
        }
    }

    fn value(&self, part: &str) -> Value {
        self.live.get(part).cloned().unwrap_or_default()
    }

    /// The parts that some revision names, and so a rollback restores.
    fn tracked(&self) -> BTreeSet<String> {
        self.revisions.iter().flat_map(|(_, parts)| parts.keys().cloned()).collect()
    }

    fn tracked_parts(&self) -> Parts {
        let live = |part: String| Some((part.clone(), self.live.get(&part)?.clone()));
        self.tracked().into_iter().filter_map(live).collect()
    }

    pub(super) fn current(&self) -> Option<&(String, Parts)> {
        let live = self.tracked_parts();
        self.revisions.iter().rev().find(|(_, parts)| *parts == live)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let id = self.current().map_or("edited", |(id, _)| id);
        snapshot(id, &self.tracked_parts())
    }

    pub(super) fn resolve(&self, target: &Target) -> Result<Snapshot> {
        let unknown = |what: String| Err(Error::new(ErrorKind::NotFound, what));
        match target {
            Target::Previous => {
                let current = self.current().map(|(id, _)| id);
                let older = self.revisions.iter().rev().skip_while(|(id, _)| Some(id) != current).nth(1);
                older.map_or_else(
                    || unknown("no revision is older than the one in place".into()),
                    |(id, parts)| Ok(snapshot(id, parts)),
                )
            }
            Target::Revision(wanted) => match self.revisions.iter().find(|(id, _)| id == wanted) {
                Some((id, parts)) => Ok(snapshot(id, parts)),
                None => unknown(format!("no revision {wanted}")),
            },
            Target::Snapshot(recorded) => Ok((**recorded).clone()),
            Target::LastGood | Target::AsOf(_) | Target::Artifact(_) => {
                Err(Error::new(ErrorKind::Unsupported, "needs records that a component does not have"))
            }
        }
    }

    pub(super) fn locate(&self, change: &Change) -> Position {
        if change.identity.as_deref() != Some(self.uid.to_string().as_str()) {
            return Position::Elsewhere("another object of the same name".into());
        }
        Position::of_parts(sides(change).into_iter().map(|(part, (from, to))| {
            let live = self.value(&part);
            (part, live == from, live == to)
        }))
    }

    /// What has still to be written, part by part.
    pub(super) fn left(&self, change: &Change) -> Vec<(String, Value)> {
        let sides = sides(change).into_iter();
        sides.filter(|(part, (_, to))| self.value(part) != *to).map(|(part, (_, to))| (part, to)).collect()
    }

    pub(super) fn settled(&self) -> Verification {
        let own = self.current().and_then(|(id, _)| self.settling_of.get(id));
        let id = self.snapshot().id;
        match own.unwrap_or(&self.settling) {
            Settling::After(time) => match self.last_write.map(|at| at.elapsed()) {
                Some(passed) if passed < *time => Verification::progressing(format!("{id} is starting")),
                _ => Verification::converged(format!("{id} is serving")),
            },
            Settling::Never => Verification::progressing(format!("{id} is starting")),
            Settling::Fails(why) => Verification::failed(why),
        }
    }

    pub(super) fn on_write(&mut self, nth: u64, fault: Fault) {
        self.faults.insert(self.attempts + nth, fault);
    }

    pub(super) fn answer(&mut self, access: Access, status: Option<u16>) {
        match access {
            Access::Read => self.read_status = status,
            Access::Write => self.write_status = status,
        }
    }

    pub(super) fn read(&mut self) -> Result<()> {
        self.reads += 1;
        if let Some(status) = self.read_status {
            return Err(Error::from_http_status(status, None, Access::Read, "reading"));
        }
        self.read_errors.pop_front().map_or(Ok(()), Err)
    }

    /// Counts a write, and says what goes wrong with it.
    pub(super) fn next_write(&mut self) -> Option<Fault> {
        self.attempts += 1;
        if let Some(status) = self.write_status {
            return Some(Fault::Fail(Error::from_http_status(status, None, Access::Write, "writing")));
        }
        self.faults.remove(&self.attempts)
    }

    pub(super) fn compare_and_set(&mut self, change: &Change, part: &str, value: Value) -> Result<()> {
        let live = self.value(part);
        let sides = sides(change);
        let expected = sides.get(part).is_some_and(|(from, to)| live == *from || live == *to);
        if !expected || change.identity.as_deref() != Some(self.uid.to_string().as_str()) {
            let message = format!("changed since it was planned: {part}");
            return Err(Error::new(ErrorKind::Conflict, message).with_component(&change.component));
        }
        self.set(part, value);
        self.writes += 1;
        self.last_write = Some(Instant::now());
        Ok(())
    }
}

fn snapshot(id: &str, parts: &Parts) -> Snapshot {
    let content = content(parts);
    Snapshot {
        id: id.into(),
        fingerprint: Fingerprint::of(&content),
        summary: format!("revision {id}"),
        content,
    }
}

pub(super) fn content(parts: &Parts) -> Value {
    parts.iter().map(|(part, value)| (part.clone(), value.clone())).collect()
}

pub(super) fn parts_of(content: &Value) -> Parts {
    let parts = content.as_object().into_iter().flatten();
    parts.filter(|(_, value)| !value.is_null()).map(|(part, value)| (part.clone(), value.clone())).collect()
}

fn both(from: &Value, to: &Value) -> BTreeMap<String, (Value, Value)> {
    let parts = [from, to].into_iter().filter_map(Value::as_object).flat_map(|parts| parts.keys());
    let at = |content: &Value, part: &str| content.get(part).cloned().unwrap_or_default();
    parts.map(|part| (part.clone(), (at(from, part), at(to, part)))).collect()
}

/// The parts that the change is about, with both values.
fn sides(change: &Change) -> BTreeMap<String, (Value, Value)> {
    both(&change.from.content, &change.to.content)
}

pub(super) fn diff(from: &Value, to: &Value) -> Vec<FieldChange> {
    let some = |value: Value| Some(value).filter(|value| !value.is_null());
    let parts = both(from, to).into_iter().filter(|(_, (from, to))| from != to);
    parts
        .map(|(part, (from, to))| FieldChange { path: format!("/{part}"), from: some(from), to: some(to) })
        .collect()
}
