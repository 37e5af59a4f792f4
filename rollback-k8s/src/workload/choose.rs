//! Which revision to return to.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Error, ErrorKind, Result, Revision, Snapshot, Target};
use serde_json::Value;

use super::content::Content;
use super::history::{CHANGE_CAUSE, History, Record};
use super::template::{self, exact, identity, restorable};
use super::{UndoMode, Workload, status};
use crate::json;
use crate::left::left_entries;

/// The numbers of the revisions that a rollback left and that were not deployed again since: deploying
/// one again gives it a new number.
pub(crate) fn left_revisions(object: &Value, history: &History) -> Vec<i64> {
    let entries = left_entries(object);
    let is_left = |record: &&Record| {
        // A restarted copy of it may have been what was left, under a higher number.
        entries.iter().any(|e| e.fingerprint == record.identity && record.number <= e.number)
    };
    history.records.iter().filter(is_left).map(|record| record.number).collect()
}

/// The current revision, while its controller has not recorded it yet.
pub(crate) fn unrecorded(object: &Value) -> Revision {
    let template = restorable(object["spec"]["template"].clone());
    Revision {
        id: UNRECORDED.into(),
        fingerprint: identity(&template),
        current: true,
        created: None,
        since: None,
        cause: json::annotation(object, CHANGE_CAUSE).map(str::to_owned),
        mark: None,
        summary: template::images(&template),
    }
}

/// The id of a current revision that is not recorded.
pub(super) const UNRECORDED: &str = "unrecorded";

/// What was chosen, and what to say about the choice.
pub(super) struct Choice {
    pub(super) id: String,
    pub(super) template: Value,
    /// The annotations recorded with it, where they are to be restored.
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) digests: BTreeMap<String, BTreeSet<String>>,
    pub(super) record: Option<Record>,
    pub(super) notes: Vec<String>,
}

impl Choice {
    fn of(record: &Record, notes: Vec<String>) -> Self {
        Self {
            id: record.number.to_string(),
            template: record.template.clone(),
            annotations: record.annotations.clone(),
            digests: BTreeMap::new(),
            record: Some(record.clone()),
            notes,
        }
    }
}

impl Workload {
    pub(super) fn choose(&self, target: &Target, object: &Value, history: &History) -> Result<Choice> {
        match target {
            Target::Revision(id) if id == UNRECORDED && history.current.is_none() => Ok(Choice {
                id: UNRECORDED.into(),
                template: restorable(object["spec"]["template"].clone()),
                annotations: BTreeMap::new(),
                digests: BTreeMap::new(),
                record: None,
                notes: Vec::new(),
            }),
            Target::Revision(id) => {
                let number: i64 = id.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                    Error::new(
                        ErrorKind::InvalidConfig,
                        format!("{id:?} is not a revision of a {}", self.kind),
                    )
                    .with_hint("revisions of a workload are numbers from 1; 0 means the previous one")
                })?;
                let found = match self.options.mode {
                    UndoMode::Kubectl => history.records.iter().find(|record| record.number == number),
                    UndoMode::Guarded => history.by_number(number),
                };
                let record = found.ok_or_else(|| {
                    let known: Vec<_> = history.records.iter().map(|r| r.number.to_string()).collect();
                    Error::new(
                        ErrorKind::NotFound,
                        format!("unable to find revision {number} in the history"),
                    )
                    .with_hint(format!("the revisions kept are: {}", known.join(", ")))
                })?;
                let note = (record.number != number)
                    .then(|| format!("revision {number} is number {} since a rollback", record.number));
                Ok(Choice::of(record, note.into_iter().collect()))
            }
            Target::Previous if self.options.mode == UndoMode::Kubectl => {
                history.second_highest().map(|r| Choice::of(r, Vec::new())).ok_or_else(nothing_earlier)
            }
            Target::Previous => previous(object, history),
            Target::Snapshot(snapshot) => self.recorded(snapshot, history),
            Target::Artifact(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "it runs no artifact of its own that another component could name",
            )),
            Target::LastGood | Target::AsOf(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "this target needs records of what was in place, and is resolved from those",
            )),
        }
    }

    fn recorded(&self, snapshot: &Snapshot, history: &History) -> Result<Choice> {
        let content = Content::of(snapshot)?;
        let Some(template) = content.template else {
            let message = format!("the snapshot of {} holds no template", snapshot.id);
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let wanted = identity(&template);
        if let Some(record) = history.records.iter().find(|record| record.identity == wanted) {
            return Ok(Choice { digests: content.digests, ..Choice::of(record, Vec::new()) });
        }
        let note = format!("{} no longer keeps revision {}: it comes from the record", self.id, snapshot.id);
        Ok(Choice {
            id: snapshot.id.clone(),
            template,
            annotations: content.recorded,
            digests: content.digests,
            record: None,
            notes: vec![note],
        })
    }
}

/// kubectl's rule, but for restarts, for what a rollback left, and for rollouts under way.
fn previous(object: &Value, history: &History) -> Result<Choice> {
    let live = restorable(object["spec"]["template"].clone());
    let (live_exact, live_identity) = (exact(&live), identity(&live));
    let left = left_revisions(object, history);
    let current = history.current().map_or(i64::MAX, |record| record.number);
    let mut notes = Vec::new();
    let mut candidates = Vec::new();
    for (index, record) in history.records.iter().enumerate() {
        if history.current == Some(index) || exact(&record.template) == live_exact {
            continue;
        }
        if record.number > current {
            // Somebody went back already, and the controller has not renumbered the current one yet.
            notes.push(format!("revision {} is newer than the current one, and is skipped", record.number));
        } else if record.identity == live_identity {
            notes.push(format!(
                "revision {} differs from the current one only by a restart, and is skipped",
                record.number
            ));
        } else if left.contains(&record.number) {
            let entry = left_entries(object).into_iter().find(|e| e.fingerprint == record.identity);
            let when = entry.and_then(|e| Some(format!(" at {} by {}", e.at?, e.by?)));
            notes.push(format!(
                "revision {} was left by a rollback{}, and is skipped",
                record.number,
                when.unwrap_or_default()
            ));
        } else {
            candidates.push(record);
        }
    }
    // While a rollout is under way, what still serves is what to return to.
    let serving = candidates
        .iter()
        .filter(|record| record.replicas.is_some_and(|(_, available)| available > 0))
        .max_by_key(|r| (r.replicas.map(|(_, available)| available), r.number));
    let stable = json::text(object, "/status/currentRevision")
        // With OnDelete it stays at the first revision for ever.
        .filter(|_| !status::is_on_delete(object))
        .filter(|stable| json::text(object, "/status/updateRevision") != Some(*stable))
        .and_then(|name| candidates.iter().find(|record| record.name == name));
    let by_number = candidates.first();
    let Some(chosen) = serving.or(stable).or(by_number) else {
        let error = nothing_earlier();
        if notes.is_empty() {
            return Err(error);
        }
        return Err(error.with_hint(format!("{}; name one with --to-revision", notes.join("; "))));
    };
    if by_number.is_some_and(|record| record.number != chosen.number) {
        notes.push(format!(
            "a rollout is under way: revision {} is what still serves, so it counts as the previous one",
            chosen.number
        ));
    }
    Ok(Choice::of(chosen, notes))
}

fn nothing_earlier() -> Error {
    Error::new(ErrorKind::NotFound, "no earlier revision to return to")
        .with_hint("see the history; spec.revisionHistoryLimit says how many revisions are kept")
}
