//! What the snapshots of a workload hold, and where a live object stands between two of them.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Change, Error, ErrorKind, Fingerprint, Position, Result, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::template::{exact, identity, restorable};
use crate::json;
use crate::left::LeftRecord;

const TEMPLATE: &str = "/spec/template";

/// The content of a workload's snapshot. Everything that a change touches is in both of its snapshots.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Content {
    /// The pod template, raw; none where the change leaves the template alone.
    pub(crate) template: Option<Value>,
    /// Whether this state was in place when the change was planned, so that reaching it is a way back.
    #[serde(default)]
    pub(crate) was_in_place: bool,
    /// Whether templates that differ only by a restart are told apart.
    #[serde(default)]
    pub(crate) exact: bool,
    /// The annotations that belong to this state, whether the change touches them or not.
    #[serde(default)]
    pub(crate) recorded: BTreeMap<String, String>,
    /// The annotations that the change touches, in this state; none for one that is absent.
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

    /// The identity of the state, when reached from one with this template. Pods count only where the
    /// template stays: otherwise it is the template that tells the states apart, and its revision.
    fn fingerprint(&self, from: Option<&Value>) -> Fingerprint {
        let template = self.template.as_ref().map(|template| self.template_fingerprint(template));
        let stays = template == from.map(|from| self.template_fingerprint(from));
        match template {
            Some(template) if !stays || self.gone.is_empty() => template,
            template => Fingerprint::of(&json!({"template": template, "gone": self.gone})),
        }
    }

    fn template_fingerprint(&self, template: &Value) -> Fingerprint {
        if self.exact { exact(template) } else { identity(template) }
    }

    /// The snapshots of a change between two states.
    pub(crate) fn snapshots(from: Self, to: Self, names: [(String, String); 2]) -> [Snapshot; 2] {
        let fingerprints = [from.fingerprint(to.template.as_ref()), to.fingerprint(from.template.as_ref())];
        let [(from_id, from_summary), (to_id, to_summary)] = names;
        let [from_print, to_print] = fingerprints;
        // Structs of strings, maps and JSON always serialize.
        let snapshot = |content: Self, fingerprint, id, summary| Snapshot {
            id,
            fingerprint,
            summary,
            content: serde_json::to_value(content).unwrap_or_default(),
        };
        [snapshot(from, from_print, from_id, from_summary), snapshot(to, to_print, to_id, to_summary)]
    }
}

/// The parts of a change that are fields of the object.
pub(crate) fn locate_fields(from: &Content, to: &Content, live: &Value) -> Vec<(String, bool, bool)> {
    let mut parts = Vec::new();
    if let (Some(before), Some(after)) = (&from.template, &to.template) {
        let live = to.template_fingerprint(&restorable(live["spec"]["template"].clone()));
        let is = |template| to.template_fingerprint(template) == live;
        parts.push((TEMPLATE.to_owned(), is(before), is(after)));
    }
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
        let Self { from, to } = &parsed;
        // A fingerprint is what was agreed to: content that does not fit it is another state.
        for (content, other, snapshot) in [(from, to, &change.from), (to, from, &change.to)] {
            if content.fingerprint(other.template.as_ref()) != snapshot.fingerprint {
                let message = format!("the content of revision {} is not what was planned", snapshot.id);
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
        let parts = locate_fields(&self.from, &self.to, live);
        parts.iter().all(|(name, _, is_to)| *is_to || name != TEMPLATE)
    }
}
