//! What the snapshots of an `InferenceService` hold, where a live object stands between two of them, and the patch
//! that leads from one to the other.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Change, Error, ErrorKind, FieldChange, Fingerprint, Position, Result, Snapshot};
use rollback_k8s::json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::spec::{self, PERCENT, model_pointers, models, with_scaling};

/// The content of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Content {
    /// The specs of its components, raw, without what belongs to no revision.
    pub(crate) specs: BTreeMap<String, Value>,
    /// The canaries of Standard mode.
    pub(crate) canary: Option<Value>,
    /// The traffic that the newest revision gets, in percent, by component.
    pub(crate) percents: BTreeMap<String, i64>,
    /// Whether this is a state on the way, with all traffic held elsewhere.
    pub(crate) passing: bool,
    /// The Knative revision that has all traffic in this state, by component.
    pub(crate) pinned: BTreeMap<String, String>,
    /// The identity of the template that runs in this state, by component, where it is known.
    pub(crate) runs: BTreeMap<String, Fingerprint>,
    /// Whether nothing but the place of the model is written.
    pub(crate) uri_only: bool,
    /// How its components are scaled in this state, which counts only where one comes back that was gone.
    pub(crate) scaling: BTreeMap<String, Value>,
}

impl Content {
    /// What is live.
    pub(crate) fn live(object: &Value) -> Self {
        let percents = spec::percents(object);
        Self {
            specs: spec::specs(object),
            canary: spec::canary(object),
            scaling: spec::scalings(object),
            passing: percents.values().any(|percent| *percent == 0),
            percents,
            ..Self::default()
        }
    }

    /// The identity of the state. At an end of the way it is what runs; the share of a canary belongs to no revision.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let percents = self.passing.then_some(&self.percents);
        Fingerprint::of(&json!({"specs": self.specs, "canary": self.canary, "percents": percents}))
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        let content: Self = Deserialize::deserialize(&snapshot.content).map_err(|e| {
            Error::new(ErrorKind::InvalidPlan, "the snapshot does not hold an InferenceService")
                .with_source(e)
        })?;
        if content.fingerprint() == snapshot.fingerprint {
            return Ok(content);
        }
        let message = format!("the content of revision {} is not what was planned", snapshot.id);
        Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"))
    }

    pub(crate) fn snapshot(self, id: impl Into<String>) -> Snapshot {
        Snapshot {
            id: id.into(),
            fingerprint: self.fingerprint(),
            summary: self.summary(),
            content: serde_json::to_value(self).unwrap_or_default(),
        }
    }

    /// What it runs, in one line.
    pub(crate) fn summary(&self) -> String {
        let named = |(name, spec): (&String, &Value)| {
            let models = models(spec).join(", ");
            let images = json::items(spec, "/containers").iter().filter_map(|c| c["image"].as_str());
            let what = if models.is_empty() { images.collect::<Vec<_>>().join(", ") } else { models };
            if name == "predictor" { what } else { format!("{name}: {what}") }
        };
        let all: Vec<_> = self.specs.iter().map(named).filter(|text| !text.is_empty()).collect();
        let canaries = json::items(self.canary.as_ref().unwrap_or(&Value::Null), "").iter().map(|canary| {
            let share = canary["trafficPercent"].as_i64().unwrap_or_default();
            format!("canary at {share} %: {}", models(&canary["predictor"]).join(", "))
        });
        all.into_iter().chain(canaries).collect::<Vec<_>>().join("; ")
    }
}

/// The two ends of a change.
pub(crate) struct Ends {
    pub(crate) from: Content,
    pub(crate) to: Content,
}

impl Ends {
    pub(crate) fn of(change: &Change) -> Result<Self> {
        Ok(Self { from: Content::of(&change.from)?, to: Content::of(&change.to)? })
    }

    fn components(&self) -> BTreeSet<&String> {
        self.from.specs.keys().chain(self.to.specs.keys()).collect()
    }

    /// The components whose specs differ.
    pub(crate) fn moving(&self) -> Vec<&str> {
        let moves = |name: &&String| self.from.specs.get(*name) != self.to.specs.get(*name);
        self.components().into_iter().filter(moves).map(String::as_str).collect()
    }

    /// Where the live object stands.
    pub(crate) fn position(&self, object: &Value) -> Position {
        let live = Content::live(object);
        let mut parts = Vec::new();
        for name in self.components() {
            let spec = live.specs.get(name);
            let is = |side: &Content| side.specs.get(name) == spec;
            parts.push((format!("/spec/{name}"), is(&self.from), is(&self.to)));
        }
        for name in self.from.percents.keys().chain(self.to.percents.keys()).collect::<BTreeSet<_>>() {
            let percent = live.percents.get(name);
            let is = |side: &Content| side.percents.get(name) == percent;
            parts.push((format!("/spec/{name}/{PERCENT}"), is(&self.from), is(&self.to)));
        }
        let is = |side: &Content| side.canary == live.canary;
        parts.push(("/spec/canary".to_owned(), is(&self.from), is(&self.to)));
        Position::of_parts(parts)
    }

    /// The patch that leads from the live object to `to`, with the tests that guard it; none when there is nothing to
    /// write.
    pub(crate) fn operations(&self, object: &Value) -> Vec<Value> {
        let live = Content::live(object);
        let mut tests = vec![
            json!({"op": "test", "path": "/metadata/uid", "value": json::uid(object)}),
            json!({"op": "test", "path": "/metadata/generation", "value": json::generation(object)}),
        ];
        let mut writes = Vec::new();
        for name in self.components() {
            let path = format!("/spec/{name}");
            let held = object.pointer(&path);
            let (before, after) = (live.specs.get(name), self.to.specs.get(name));
            // Percents that no side speaks of are somebody else's.
            let speaks = self.from.percents.contains_key(name) || self.to.percents.contains_key(name);
            let share = live.percents.get(name).copied();
            let percent = if speaks { self.to.percents.get(name).copied() } else { share };
            match (before, after) {
                (before, after) if before == after => {
                    let path = format!("{path}/{PERCENT}");
                    match percent {
                        percent if percent == share => {}
                        Some(percent) => writes.push(json!({"op": "add", "path": path, "value": percent})),
                        None => writes.push(json!({"op": "remove", "path": path})),
                    }
                }
                (Some(before), Some(after)) if self.to.uri_only => {
                    let pointers: BTreeSet<_> =
                        model_pointers(before).into_iter().chain(model_pointers(after)).collect();
                    for pointer in pointers {
                        let path = format!("{path}{pointer}");
                        match (before.pointer(&pointer), after.pointer(&pointer)) {
                            (before, after) if before == after => {}
                            (Some(before), Some(after)) => {
                                tests.push(json!({"op": "test", "path": path, "value": before}));
                                writes.push(json!({"op": "replace", "path": path, "value": after}));
                            }
                            (Some(before), None) => {
                                tests.push(json!({"op": "test", "path": path, "value": before}));
                                writes.push(json!({"op": "remove", "path": path}));
                            }
                            (None, after) => writes.push(json!({"op": "add", "path": path, "value": after})),
                        }
                    }
                    let share_path = format!("{path}/{PERCENT}");
                    match percent {
                        _ if percent == share => {}
                        Some(percent) => {
                            writes.push(json!({"op": "add", "path": share_path, "value": percent}));
                        }
                        None => writes.push(json!({"op": "remove", "path": share_path})),
                    }
                }
                (_, Some(after)) => {
                    let scaling = held.or_else(|| self.to.scaling.get(name)).unwrap_or(&Value::Null);
                    let value = with_scaling(after, scaling, percent);
                    writes.push(json!({"op": "add", "path": path, "value": value}));
                }
                (Some(_), None) => writes.push(json!({"op": "remove", "path": path})),
                (None, None) => {}
            }
        }
        if live.canary != self.to.canary {
            writes.push(match &self.to.canary {
                Some(canary) => json!({"op": "add", "path": "/spec/canary", "value": canary}),
                None => json!({"op": "remove", "path": "/spec/canary"}),
            });
        }
        if writes.is_empty() {
            return writes;
        }
        tests.append(&mut writes);
        tests
    }

    /// What differs, for people.
    pub(crate) fn differences(&self) -> Vec<FieldChange> {
        let mut all = Vec::new();
        for name in self.components() {
            let path = format!("/spec/{name}");
            all.extend(json::diff(&path, self.from.specs.get(name), self.to.specs.get(name)));
            let percent = |side: &Content| side.percents.get(name).map(|percent| json!(percent));
            let path = format!("{path}/{PERCENT}");
            all.extend(json::diff(&path, percent(&self.from).as_ref(), percent(&self.to).as_ref()));
        }
        all.extend(json::diff("/spec/canary", self.from.canary.as_ref(), self.to.canary.as_ref()));
        all
    }
}
