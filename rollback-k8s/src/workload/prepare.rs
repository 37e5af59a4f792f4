//! Which revision to return to, and the change that takes.

use std::collections::BTreeMap;

use rollback_core::{Change, ChangeKind, Error, ErrorKind, FieldChange, Result, Revision, Snapshot, Target};
use serde_json::{Value, json};

use super::content::{Content, LEFT, LeftEntry, LeftRecord, PodRef, left_entries};
use super::history::{CHANGE_CAUSE, History, Record};
use super::last_applied::{self, LAST_APPLIED};
use super::template::{self, diff, exact, identity, restart_only, restorable};
use super::{UndoMode, Workload, WorkloadKind, lookups, patch, pods, status};
use crate::{json, ownership};

/// Annotations that kubectl's undo keeps as the live object has them.
const KEPT: [&str; 6] = [
    LAST_APPLIED,
    "deployment.kubernetes.io/revision",
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// The numbers of the revisions that a rollback left and that were not deployed again since: deploying
/// one again gives it a new number.
pub(crate) fn left_revisions(object: &Value, history: &History) -> Vec<i64> {
    let entries = left_entries(object);
    let is_left = |record: &&Record| {
        entries.iter().any(|e| e.fingerprint == record.identity && e.revision == record.number.to_string())
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

const UNRECORDED: &str = "unrecorded";

/// What was chosen, and what to say about the choice.
struct Choice {
    id: String,
    template: Value,
    /// The annotations recorded with it, where they are to be restored.
    annotations: BTreeMap<String, String>,
    digests: BTreeMap<String, std::collections::BTreeSet<String>>,
    record: Option<Record>,
    notes: Vec<String>,
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
    pub(crate) async fn prepare_undo(&self, target: &Target) -> Result<Change> {
        let object = self.read().await?;
        let history = self.read_history(&object).await?;
        let choice = self.choose(target, &object, &history)?;
        let realm = self.cluster.realm().await?;

        let live = restorable(object["spec"]["template"].clone());
        let is_exact = self.options.mode == UndoMode::Kubectl;
        let same = if is_exact {
            exact(&live) == exact(&choice.template)
        } else {
            identity(&live) == identity(&choice.template)
        };
        let from_id = history.current().map_or_else(|| UNRECORDED.to_owned(), |r| r.number.to_string());
        let mut from = Content {
            template: live.clone(),
            exact: is_exact,
            annotations: BTreeMap::new(),
            left: LeftRecord::Untouched,
            gone: Vec::new(),
            ready_too: false,
            digests: BTreeMap::new(),
        };
        let mut change = Change {
            component: self.id.clone(),
            realm,
            kind: ChangeKind::Rollback,
            from: from.clone().snapshot(from_id.clone(), template::images(&live)),
            to: from.clone().snapshot(from_id.clone(), template::images(&live)),
            identity: Some(json::uid(&object).to_owned()),
            diff: Vec::new(),
            warnings: choice.notes,
            touches: Vec::new(),
            irreversible: None,
            hint: None,
        };
        // kubectl refuses a paused object before it looks for a difference.
        if same && !(is_exact && json::flag(&object, "/spec/paused")) {
            return Ok(change);
        }
        self.refuse_unfit(&object, &mut change.warnings)?;
        self.warn(&object, choice.record.as_ref(), &mut change.warnings);
        let last_ran = choice.record.as_ref().map(|record| history.last_ran(record));
        let lookups = lookups::look_up(&self.cluster, self.kind, &self.id, &choice.template, last_ran).await;
        lookups.judge(&choice.id, &self.options, &mut change.warnings)?;

        let mut to = Content { template: choice.template, digests: choice.digests, ..from.clone() };
        to.annotations = self.restored_annotations(&object, &choice.annotations, &live, &to.template);
        let held = json::annotations(&object);
        from.annotations = to.annotations.keys().map(|key| (key.clone(), held.get(key).cloned())).collect();
        if self.options.mode == UndoMode::Guarded {
            from.left = LeftRecord::Restore(held.get(LEFT).cloned());
            to.left = LeftRecord::Add(LeftEntry {
                revision: from_id.clone(),
                fingerprint: identity(&live),
                run: None,
                by: None,
                at: None,
            });
        }
        if let Some(pods) = &lookups.pods {
            let of_hash = |record: Option<&Record>| {
                let hash = record.and_then(|record| record.hash.as_deref());
                let fits = |pod: &&Value| hash.is_some() && json::label(pod, self.kind.hash_label()) == hash;
                pods::digests(pods.iter().filter(fits))
            };
            from.digests = of_hash(history.current());
            to.digests.extend(of_hash(choice.record.as_ref()));
            if self.kind == WorkloadKind::StatefulSet {
                let wanted = choice.record.as_ref().and_then(|record| record.hash.as_deref());
                to.gone = pods::blocking(&object, pods, wanted).into_iter().map(PodRef::of).collect();
            }
        }

        change.diff = diff("/spec/template", Some(&live), Some(&to.template));
        for (key, wanted) in &to.annotations {
            let path = format!("/metadata/annotations/{}", json::token(key));
            let [before, after] = [held.get(key), wanted.as_ref()].map(|value| value.map(|text| json!(text)));
            change.diff.extend(diff(&path, before.as_ref(), after.as_ref()));
        }
        for pod in &to.gone {
            change.warnings.push(format!(
                "pod {} is not ready and blocks the rollout: it is deleted once the template is restored",
                pod.name
            ));
            change.diff.push(FieldChange {
                path: format!("/pods/{}", pod.name),
                from: Some(json!(pod.uid)),
                to: None,
            });
        }
        let images = template::images(&to.template);
        change.hint = Some(patch::hint(&object));
        change.from = from.snapshot(from_id, template::images(&live));
        change.to = to.snapshot(choice.id, images);
        Ok(change)
    }

    fn choose(&self, target: &Target, object: &Value, history: &History) -> Result<Choice> {
        match target {
            Target::Revision(id) if id == UNRECORDED && history.current.is_none() => {
                let template = restorable(object["spec"]["template"].clone());
                let snapshot_of = Choice {
                    id: UNRECORDED.into(),
                    template,
                    annotations: BTreeMap::new(),
                    digests: BTreeMap::new(),
                    record: None,
                    notes: Vec::new(),
                };
                Ok(snapshot_of)
            }
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
            Target::Previous => self.previous(object, history),
            Target::Snapshot(snapshot) => self.recorded(snapshot, history),
            Target::LastGood | Target::AsOf(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "this target needs records of what was in place, and is resolved from those",
            )),
        }
    }

    /// kubectl's rule, but for restarts, for what a rollback left, and for rollouts under way.
    #[allow(clippy::unused_self, reason = "the rule of a workload")]
    fn previous(&self, object: &Value, history: &History) -> Result<Choice> {
        let live = restorable(object["spec"]["template"].clone());
        let left = left_revisions(object, history);
        let current = history.current().map_or(i64::MAX, |record| record.number);
        let mut notes = Vec::new();
        let mut candidates = Vec::new();
        for (index, record) in history.records.iter().enumerate() {
            if history.current == Some(index) || exact(&record.template) == exact(&live) {
                continue;
            }
            if restart_only(&record.template, &live) {
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
        if chosen.number > current {
            notes.push(format!("revision {} is newer than the current one", chosen.number));
        }
        Ok(Choice::of(chosen, notes))
    }

    fn recorded(&self, snapshot: &Snapshot, history: &History) -> Result<Choice> {
        let content = Content::of(snapshot)?;
        let wanted = identity(&content.template);
        if let Some(record) = history.records.iter().find(|record| record.identity == wanted) {
            return Ok(Choice { digests: content.digests, ..Choice::of(record, Vec::new()) });
        }
        Ok(Choice {
            id: snapshot.id.clone(),
            template: content.template,
            annotations: content.annotations.into_iter().filter_map(|(k, v)| Some((k, v?))).collect(),
            digests: content.digests,
            record: None,
            notes: vec![format!(
                "{} no longer keeps revision {}: it comes from the record",
                self.id, snapshot.id
            )],
        })
    }

    fn refuse_unfit(&self, object: &Value, warnings: &mut Vec<String>) -> Result<()> {
        let refused = |message: String| Error::new(ErrorKind::Refused, message);
        if let Some(since) = json::text(object, "/metadata/deletionTimestamp") {
            return Err(refused(format!("it is being deleted since {since}"))
                .with_hint("wait until it is gone, then create it again"));
        }
        if json::flag(object, "/spec/paused") {
            let (kind, name, namespace) = (self.kind, self.id.name(), self.namespace());
            return Err(refused("it is paused: a rollback would not roll out".into())
                .with_hint(format!("kubectl rollout resume {kind}/{name} -n {namespace}")));
        }
        match ownership::reconciler(object) {
            Some(reconciler) => reconciler.judge(self.options.gitops, warnings),
            None => Ok(()),
        }
    }

    fn warn(&self, object: &Value, record: Option<&Record>, warnings: &mut Vec<String>) {
        if let Some(release) = ownership::helm_release(object) {
            warnings.push(format!(
                "Helm release {release} does not learn of this: its next upgrade starts from what it holds"
            ));
        }
        if json::annotation(object, LAST_APPLIED).is_some() && !self.options.declarative {
            warnings.push(
                "it was applied from a manifest (last-applied annotation): the next `kubectl apply` may keep fields that this undo brings back; --declarative moves the annotation along"
                    .into(),
            );
        }
        if let Some(limit @ (0 | 1)) = json::number(object, "/spec/revisionHistoryLimit") {
            warnings
                .push(format!("revisionHistoryLimit is {limit}: hardly a way back remains, now or later"));
        }
        if json::text(object, "/spec/strategy/type") == Some("Recreate") {
            warnings.push("strategy Recreate: all pods stop before new ones start".into());
        }
        if status::is_on_delete(object) {
            warnings.push(
                "strategy OnDelete: pods do not change by themselves; restart them to bring them to the revision"
                    .into(),
            );
        }
        if let Some(record) = record
            && let Some((wanted, 0)) = record.replicas
            && wanted > 0
        {
            warnings.push(format!(
                "revision {} has {wanted} pods now and none is available: it may never have worked",
                record.number
            ));
        }
    }

    /// The annotations of the object that move with the template.
    fn restored_annotations(
        &self,
        object: &Value,
        recorded: &BTreeMap<String, String>,
        live: &Value,
        wanted: &Value,
    ) -> BTreeMap<String, Option<String>> {
        let held = json::annotations(object);
        let mut moved = BTreeMap::new();
        if self.kind == WorkloadKind::Deployment {
            let is_own = |key: &str| KEPT.contains(&key) || key == LEFT;
            for (key, value) in recorded.iter().filter(|(key, _)| !is_own(key)) {
                if held.get(key) != Some(value) {
                    moved.insert(key.clone(), Some(value.clone()));
                }
            }
            // kubectl drops every annotation that the record lacks. Ours are other people's too, but a
            // change-cause that speaks of the revision that is left would mislead.
            for key in held.keys().filter(|key| !is_own(key) && !recorded.contains_key(*key)) {
                if self.options.mode == UndoMode::Kubectl || key == CHANGE_CAUSE {
                    moved.insert(key.clone(), None);
                }
            }
        }
        if self.options.declarative
            && let Some(applied) = held.get(LAST_APPLIED)
            && let Some(after) = last_applied::moved(applied, live, wanted)
            && after != *applied
        {
            moved.insert(LAST_APPLIED.to_owned(), Some(after));
        }
        moved
    }
}

fn nothing_earlier() -> Error {
    Error::new(ErrorKind::NotFound, "no earlier revision to return to")
        .with_hint("see the history; spec.revisionHistoryLimit says how many revisions are kept")
}
