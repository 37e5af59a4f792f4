//! The change that a return takes, and what to know before agreeing to it.

use std::collections::BTreeMap;

use rollback_core::{Change, ChangeKind, FieldChange, Result, Target};
use serde_json::{Value, json};

use super::choose::{Choice, UNRECORDED};
use super::content::{Content, PodRef};
use super::history::{CHANGE_CAUSE, History, Record};
use super::last_applied::{self, LAST_APPLIED};
use super::template::{self, exact, identity, restorable};
use super::{UndoMode, Workload, WorkloadKind, lookups, patch, pods, status};
use crate::json::diff;
use crate::left::{LEFT, LeftEntry, LeftRecord};
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
        let mut warnings = choice.notes.clone();
        let from = Content {
            template: Some(live),
            exact: is_exact,
            was_in_place: true,
            recorded: json::annotations(&object).into_iter().filter(|(key, _)| !self.is_kept(key)).collect(),
            ..Content::default()
        };
        // kubectl refuses a paused object before it looks for a difference.
        let (from, to) = if same && !(is_exact && json::flag(&object, "/spec/paused")) {
            let gone = self.blocking_pods(&object, choice.record.as_ref()).await;
            let to = Content { was_in_place: false, gone, ..from.clone() };
            (from, to)
        } else {
            self.refuse_unfit(&object, &mut warnings)?;
            self.warn(&object, choice.record.as_ref(), &mut warnings);
            let last_ran = choice.record.as_ref().map(|record| history.last_ran(record));
            let found =
                lookups::look_up(&self.cluster, self.kind, &self.id, &choice.template, last_ran).await;
            found.judge(&choice.id, &self.options, &mut warnings)?;
            self.states(&object, &history, from, &choice, &found)
        };
        let diff = differences(&from, &to);
        warnings.extend(to.gone.iter().map(|pod| {
            format!(
                "pod {} is not ready and blocks the rollout: it is deleted once the template is in place",
                pod.name
            )
        }));
        let from_id = history.current().map_or_else(|| UNRECORDED.to_owned(), |r| r.number.to_string());
        let to_id = if same { from_id.clone() } else { choice.id };
        let images = |content: &Content| content.template.as_ref().map(template::images).unwrap_or_default();
        let names = [(from_id, images(&from)), (to_id, images(&to))];
        let [from, to] = Content::snapshots(from, to, names);
        Ok(Change {
            component: self.id.clone(),
            realm,
            kind: ChangeKind::Rollback,
            from,
            to,
            identity: Some(json::uid(&object).to_owned()),
            diff,
            warnings,
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: (!same).then(|| patch::hint(&object)),
        })
    }

    /// The two states, with everything that the change touches in both.
    fn states(
        &self,
        object: &Value,
        history: &History,
        mut from: Content,
        choice: &Choice,
        found: &lookups::Found,
    ) -> (Content, Content) {
        let held = json::annotations(object);
        let mut to = Content {
            template: Some(choice.template.clone()),
            was_in_place: false,
            recorded: choice.annotations.clone(),
            digests: choice.digests.clone(),
            ..from.clone()
        };
        to.annotations = self.restored_annotations(&held, &from, &to);
        from.annotations = to.annotations.keys().map(|key| (key.clone(), held.get(key).cloned())).collect();
        if self.options.mode == UndoMode::Guarded {
            let newest = history.current().or(history.records.first());
            // What is not recorded yet gets the next number.
            let number = newest.map_or(1, |newest| newest.number + i64::from(history.current.is_none()));
            from.left = LeftRecord::Restore(held.get(LEFT).cloned());
            to.left = LeftRecord::Add(LeftEntry {
                revision: history.current().map_or_else(|| UNRECORDED.to_owned(), |r| r.number.to_string()),
                number,
                fingerprint: identity(from.template.as_ref().unwrap_or(&Value::Null)),
                run: None,
                by: None,
                at: None,
            });
        }
        if let Some(all) = &found.pods {
            let of_hash = |record: Option<&Record>| {
                let hash = record.and_then(|record| record.hash.as_deref());
                let fits = |pod: &&Value| hash.is_some() && json::label(pod, self.kind.hash_label()) == hash;
                pods::digests(all.iter().filter(fits))
            };
            from.digests = of_hash(history.current());
            to.digests.extend(of_hash(choice.record.as_ref()));
            to.gone = self.blocking(object, all, choice.record.as_ref());
        }
        (from, to)
    }

    fn blocking(&self, object: &Value, all: &[Value], wanted: Option<&Record>) -> Vec<PodRef> {
        if self.kind != WorkloadKind::StatefulSet {
            return Vec::new();
        }
        let wanted = wanted.and_then(|record| record.hash.as_deref());
        pods::blocking(object, all, wanted).into_iter().map(PodRef::of).collect()
    }

    /// The pods that keep a template from rolling out which is in place already, as kubectl's undo leaves it.
    async fn blocking_pods(&self, object: &Value, wanted: Option<&Record>) -> Vec<PodRef> {
        if self.kind != WorkloadKind::StatefulSet || status::rollout(self.kind, object).is_converged() {
            return Vec::new();
        }
        let all = self.cluster.lookup(&self.pods_path(), "listing pods").await;
        all.map(|all| self.blocking(object, &all, wanted)).unwrap_or_default()
    }

    /// Whether an annotation is none of a revision's.
    fn is_kept(&self, key: &str) -> bool {
        KEPT.contains(&key) || (key == LEFT && self.options.mode == UndoMode::Guarded)
    }

    fn refuse_unfit(&self, object: &Value, warnings: &mut Vec<String>) -> Result<()> {
        self.refuse_unfit_to_roll(object)?;
        self.options.gitops.judge(object, warnings)
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
        held: &BTreeMap<String, String>,
        from: &Content,
        to: &Content,
    ) -> BTreeMap<String, Option<String>> {
        let mut moved = BTreeMap::new();
        if self.kind == WorkloadKind::Deployment {
            for (key, value) in to.recorded.iter().filter(|(key, _)| !self.is_kept(key)) {
                if held.get(key) != Some(value) {
                    moved.insert(key.clone(), Some(value.clone()));
                }
            }
            // kubectl drops every annotation that the record lacks. Ours are other people's too, but a
            // change-cause that speaks of the revision that is left would mislead.
            for key in held.keys().filter(|key| !self.is_kept(key) && !to.recorded.contains_key(*key)) {
                if self.options.mode == UndoMode::Kubectl || key == CHANGE_CAUSE {
                    moved.insert(key.clone(), None);
                }
            }
        }
        if self.options.declarative
            && let (Some(applied), Some(from), Some(to)) =
                (held.get(LAST_APPLIED), &from.template, &to.template)
            && let Some(after) = last_applied::moved(applied, from, to)
            && after != *applied
        {
            moved.insert(LAST_APPLIED.to_owned(), Some(after));
        }
        moved
    }
}

/// What differs between two states, for people.
fn differences(from: &Content, to: &Content) -> Vec<FieldChange> {
    let mut all = diff("/spec/template", from.template.as_ref(), to.template.as_ref());
    for (key, after) in &to.annotations {
        let path = format!("/metadata/annotations/{}", json::token(key));
        let before = from.annotations.get(key).cloned().flatten().map(Value::from);
        let after = after.clone().map(Value::from);
        all.extend(diff(&path, before.as_ref(), after.as_ref()));
    }
    all.extend(pods_going(&to.gone));
    all
}

/// The pods that a change removes, for people.
pub(super) fn pods_going(gone: &[PodRef]) -> impl Iterator<Item = FieldChange> {
    gone.iter().map(|pod| FieldChange {
        path: format!("/pods/{}", pod.name),
        from: Some(json!(pod.uid)),
        to: None,
    })
}
