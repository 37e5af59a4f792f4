//! What the snapshots of a workload hold, and where a live object stands between two of them.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Change, ChangeKind, Error, ErrorKind, Fingerprint, Position, Result, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::template::{exact, identity, restorable};
use crate::json;

/// The record of what rollbacks left, newest first, as JSON: an annotation, so that it is seen from any
/// machine.
pub(crate) const LEFT: &str = "rollback.dev/left";

/// The content of a workload's snapshot. Everything that a change touches is in both of its snapshots.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Content {
    /// The pod template, raw.
    pub(crate) template: Value,
    /// Whether templates that differ only by a restart are told apart.
    #[serde(default)]
    pub(crate) exact: bool,
    /// The object's annotations in this state; none for one that is absent.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, Option<String>>,
    /// The record of what was left. Of a state that was: its value, to be put back. Of a state to come:
    /// what to make of it.
    #[serde(default)]
    pub(crate) left: LeftRecord,
    /// Pods that are not there in this state and are in the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone: Vec<PodRef>,
    /// Whether those pods go even where they are ready.
    #[serde(default)]
    pub(crate) ready_too: bool,
    /// The digests that its images had, by image as written, where pods told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) digests: BTreeMap<String, BTreeSet<String>>,
}

/// What a change makes of the record of what rollbacks left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LeftRecord {
    /// Nothing.
    #[default]
    Untouched,
    /// This entry is added in front, completed by run, actor and time.
    Add(LeftEntry),
    /// It becomes exactly this; none where it was absent.
    Restore(Option<String>),
}

/// A revision that a rollback left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeftEntry {
    pub(crate) revision: String,
    pub(crate) fingerprint: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// One pod, not another of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PodRef {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodRef {
    pub(crate) fn of(pod: &Value) -> Self {
        Self { name: json::name(pod).to_owned(), uid: json::uid(pod).to_owned() }
    }
}

impl Content {
    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        serde_json::from_value(snapshot.content.clone()).map_err(|e| {
            Error::new(ErrorKind::InvalidPlan, "the snapshot does not hold a workload").with_source(e)
        })
    }

    fn template_fingerprint(&self, template: &Value) -> Fingerprint {
        if self.exact { exact(template) } else { identity(template) }
    }

    pub(crate) fn snapshot(self, id: String, summary: String) -> Snapshot {
        let fingerprint = self.template_fingerprint(&self.template);
        // A struct of strings, maps and JSON always serializes.
        let content = serde_json::to_value(self).unwrap_or_default();
        Snapshot { id, fingerprint, summary, content }
    }
}

/// The parts of a change that are fields of the object.
pub(crate) fn locate_fields(from: &Content, to: &Content, live: &Value) -> Vec<(String, bool, bool)> {
    let template = to.template_fingerprint(&restorable(live["spec"]["template"].clone()));
    let is = |content: &Content| to.template_fingerprint(&content.template) == template;
    let mut parts = vec![("/spec/template".to_owned(), is(from), is(to))];
    let annotations = json::annotations(live);
    for (key, wanted) in &to.annotations {
        let live = annotations.get(key);
        let before = from.annotations.get(key).cloned().flatten();
        let name = format!("/metadata/annotations/{}", json::token(key));
        parts.push((name, live == before.as_ref(), live == wanted.as_ref()));
    }
    parts
}

/// What a change is about, read out of its snapshots.
pub(crate) struct Parsed {
    pub(crate) from: Content,
    pub(crate) to: Content,
}

impl Parsed {
    pub(crate) fn of(change: &Change) -> Result<Self> {
        let parsed = Self { from: Content::of(&change.from)?, to: Content::of(&change.to)? };
        // A fingerprint is what was agreed to: content that does not fit it is another state.
        for (content, snapshot) in [(&parsed.from, &change.from), (&parsed.to, &change.to)] {
            let intact = content.template_fingerprint(&content.template) == snapshot.fingerprint;
            if change.kind == ChangeKind::Rollback && !intact {
                let message = format!("the template of revision {} is not the one planned", snapshot.id);
                return Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"));
            }
        }
        Ok(parsed)
    }

    /// Where the object's fields stand.
    pub(crate) fn fields(&self, live: &Value) -> Position {
        Position::of_parts(locate_fields(&self.from, &self.to, live))
    }

    /// Whether the object has exactly the template to be reached, restarts aside unless they count.
    pub(crate) fn has_template(&self, live: &Value) -> bool {
        locate_fields(&self.from, &self.to, live).first().is_some_and(|(_, _, is_to)| *is_to)
    }
}

/// The record as the object holds it. What does not parse was not written by this library.
pub(crate) fn left_entries(object: &Value) -> Vec<LeftEntry> {
    json::annotation(object, LEFT).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
