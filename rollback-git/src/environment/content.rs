//! What a snapshot of an environment holds: a commit and what it renders, as references and hashes, and no copies.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Change, Error, ErrorKind, FieldChange, Fingerprint, Position, Result, Snapshot};
use rollback_k8s::json;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::key::Key;
use super::pin::Pin;
use super::wanted::Spot;

/// A state of an environment, as far as a change is about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Content {
    /// The tag, branch or commit by which people know it.
    pub(crate) revision: String,
    pub(crate) commit: String,
    /// The folder, from the root of the repository.
    pub(crate) path: String,
    /// The identity of the files that render it.
    pub(crate) files: Fingerprint,
    pub(crate) renderer: String,
    /// The identity of what they render.
    pub(crate) digest: Fingerprint,
    /// The namespace of the pin.
    #[serde(default)]
    pub(crate) home: Option<String>,
    /// What the pin says; none where there is no pin.
    pub(crate) pin: Option<Pin>,
    /// What is otherwise than its revision has it, and cannot be brought back from here: objects that are missing, and
    /// Secrets with other data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) differs: Vec<Key>,
    /// The objects that a partial change is restricted to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) picked: Vec<String>,
    /// Whether objects keep the annotation of client-side apply.
    pub(crate) last_applied: bool,
    /// Whether fields that others own are set all the same.
    #[serde(default)]
    pub(crate) forced: bool,
    /// Whether it is a state on the way, in which nothing is pruned yet.
    #[serde(default)]
    pub(crate) unpruned: bool,
    /// The objects that the change touches; none for one that is absent.
    pub(crate) objects: BTreeMap<Key, Option<Object>>,
    /// What another revision has left, and that is to be pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leftovers: Option<Leftovers>,
}

/// Objects that another revision renders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leftovers {
    pub(crate) commit: String,
    pub(crate) path: String,
    pub(crate) digest: Fingerprint,
    /// As in the state itself.
    pub(crate) objects: BTreeMap<Key, Option<Object>>,
}

/// One object in such a state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Object {
    pub(crate) api_version: String,
    pub(crate) plural: String,
    /// A hash of its UID, where the change may touch no other object of this name. The UID itself keys the hashes of
    /// its values, and stays in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<Fingerprint>,
    /// A hash of the UID of the object in whose place another is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<Fingerprint>,
    /// Whether the server assigns node ports to it, which no manifest says.
    #[serde(default)]
    pub(crate) assigned: bool,
    /// Hashes of the values that the change touches, by JSON pointer, with whatever else will do; none of what is
    /// absent. No values at all where they cannot be known beforehand: then it is enough that the object is there.
    pub(crate) values: BTreeMap<String, Vec<Option<Fingerprint>>>,
    /// What is different from the rendering, as a JSON Merge Patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drift: Option<Value>,
    /// Fields that others own and keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<String>,
}

impl Object {
    /// One of which nothing is known but where it is.
    pub(crate) fn at(spot: &Spot) -> Self {
        Self {
            api_version: spot.api_version.clone(),
            plural: spot.served.plural().to_owned(),
            uid: None,
            replaces: None,
            assigned: false,
            values: BTreeMap::new(),
            drift: None,
            kept: Vec::new(),
        }
    }
}

impl Content {
    /// The identity of the state: that of the files, unless there is more to it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let drift: BTreeMap<String, &Value> = self
            .objects
            .iter()
            .filter_map(|(key, object)| Some((String::from(key.clone()), object.as_ref()?.drift.as_ref()?)))
            .collect();
        if drift.is_empty() && self.picked.is_empty() && self.differs.is_empty() && !self.unpruned {
            return self.files.clone();
        }
        Fingerprint::of(&json!({
            "files": self.files, "drift": drift, "picked": self.picked, "differs": self.differs,
            "unpruned": self.unpruned,
        }))
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        let leftovers = self.leftovers.as_ref().into_iter().flat_map(|leftovers| leftovers.objects.keys());
        self.objects.keys().chain(leftovers)
    }

    /// An object of this state; none where it is absent.
    pub(crate) fn object(&self, key: &Key) -> Option<&Object> {
        let leftovers = || self.leftovers.as_ref()?.objects.get(key);
        self.objects.get(key).or_else(leftovers)?.as_ref()
    }

    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        let content: Self = Deserialize::deserialize(&snapshot.content).map_err(|e| {
            Error::new(ErrorKind::InvalidPlan, "the snapshot does not hold an environment").with_source(e)
        })?;
        if content.fingerprint() == snapshot.fingerprint {
            return Ok(content);
        }
        let message = format!("the content of revision {} is not what was planned", snapshot.id);
        Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let short = self.commit.get(..12).unwrap_or(&self.commit);
        Snapshot {
            id: format!("{}{}", self.revision, if self.unpruned { ", not pruned" } else { "" }),
            fingerprint: self.fingerprint(),
            summary: format!("{} at {short}", self.path),
            content: serde_json::to_value(self).unwrap_or_default(),
        }
    }
}

/// The two states of a change.
pub(crate) struct Ends {
    pub(crate) from: Content,
    pub(crate) to: Content,
}

impl Ends {
    pub(crate) fn of(change: &Change) -> Result<Self> {
        Ok(Self { from: Content::of(&change.from)?, to: Content::of(&change.to)? })
    }

    /// Where each object that either state touches is found.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&Key, Option<&Object>, Option<&Object>)> {
        let keys: BTreeSet<&Key> = self.from.keys().chain(self.to.keys()).collect();
        keys.into_iter().map(|key| (key, self.from.object(key), self.to.object(key)))
    }

    /// The first object that is as neither state has it.
    pub(crate) fn strange(&self, live: &BTreeMap<Key, Value>) -> Option<&Key> {
        let mut objects = self.objects();
        let is_strange = |(key, from, to): &(&Key, Option<&Object>, Option<&Object>)| {
            let live = live.get(*key);
            mismatch(key, *from, live).is_some() && mismatch(key, *to, live).is_some()
        };
        objects.find(is_strange).map(|(key, ..)| key)
    }

    /// Where the cluster stands.
    pub(crate) fn position(&self, live: &BTreeMap<Key, Value>, pin: Option<&Pin>) -> Position {
        let mut parts = Vec::new();
        for (key, from, to) in self.objects() {
            let live = live.get(key);
            // Between the old object and the new one there is none.
            let is_gone = to.is_some_and(|to| to.replaces.is_some()) && live.is_none_or(is_dying);
            let from = mismatch(key, from, live).filter(|_| !is_gone);
            let to = mismatch(key, to, live);
            let name = match (&from, &to) {
                (Some(from), Some(_)) => format!("{key} ({from})"),
                _ => key.to_string(),
            };
            parts.push((name, from.is_none(), to.is_none()));
        }
        if self.from.pin != self.to.pin {
            let says = pin.map_or_else(|| "nothing".to_owned(), |pin| pin.revision.clone());
            let is = |side: &Option<Pin>| side.as_ref() == pin;
            parts.push((format!("the pin says {says}"), is(&self.from.pin), is(&self.to.pin)));
        }
        Position::of_parts(parts)
    }
}

/// How a live object differs from a state; none where it does not.
pub(crate) fn mismatch(key: &Key, wanted: Option<&Object>, live: Option<&Value>) -> Option<String> {
    let live = live.filter(|live| !is_dying(live));
    match (wanted, live) {
        (None, None) => None,
        (None, Some(_)) if is_never_pruned(key) => None,
        (None, Some(_)) => Some("it is there".to_owned()),
        (Some(_), None) => Some("it is not there".to_owned()),
        (Some(wanted_object), Some(live)) => {
            let wanted = wanted_object;
            let uid = json::uid(live);
            if wanted.uid.as_ref().is_some_and(|wanted| *wanted != Fingerprint::of(&json!(uid))) {
                return Some("another object of the same name".to_owned());
            }
            if wanted.replaces == Some(Fingerprint::of(&json!(uid))) {
                return Some("it is not replaced".to_owned());
            }
            let key = if wanted.uid.is_some() { uid } else { "" };
            let differs = |(path, wanted): (&String, &Vec<Option<Fingerprint>>)| {
                let found = at(live, path).map(|value| print(key, value, wanted_object.assigned));
                (!wanted.contains(&found)).then(|| path.clone())
            };
            wanted.values.iter().find_map(differs)
        }
    }
}

/// Whether an object is on its way out.
pub(crate) fn is_dying(object: &Value) -> bool {
    json::text(object, "/metadata/deletionTimestamp").is_some()
}

/// What may hold data of people or what others live in: never deleted here.
pub(crate) fn is_never_pruned(key: &Key) -> bool {
    key.is_crd()
        || matches!(
            (key.group.as_str(), key.kind.as_str()),
            ("", "PersistentVolumeClaim" | "PersistentVolume" | "Namespace")
        )
}

/// The hash of a value, keyed so that it cannot be guessed from the hash alone; without node ports where the server
/// assigns them.
pub(crate) fn print(key: &str, value: &Value, assigned: bool) -> Fingerprint {
    let Some(ports) = value.as_array().filter(|_| assigned) else {
        return Fingerprint::of(&json!([key, value]));
    };
    let mut ports = ports.clone();
    for port in ports.iter_mut().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
    Fingerprint::of(&json!([key, ports]))
}

/// The value at a path as [`json::diff`] writes it: items of lists by their names.
pub(crate) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    for token in path.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        value = match value {
            Value::Array(items) => items.iter().find(|item| item["name"] == token.as_str())?,
            value => value.get(&token)?,
        };
    }
    Some(value).filter(|value| !is_empty(value))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// What differs between a live object and what it would become, but for what servers write.
pub(crate) fn differences(live: &Value, result: &Value) -> Vec<FieldChange> {
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(members) = object.as_object_mut() {
            members.remove("status");
        }
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            for field in
                ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"]
            {
                metadata.remove(field);
            }
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.remove(super::wanted::LAST_APPLIED);
                if annotations.is_empty() {
                    metadata.remove("annotations");
                }
            }
        }
        object
    };
    let changes = json::diff("", Some(&plain(live)), Some(&plain(result)));
    // Each label and annotation is one of its own: others may add theirs beside it.
    let mut split = Vec::new();
    for change in changes {
        if !matches!(change.path.as_str(), "/metadata/labels" | "/metadata/annotations") {
            split.push(change);
            continue;
        }
        let members =
            |side: &Option<Value>| side.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        let (from, to) = (members(&change.from), members(&change.to));
        let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
        split.extend(keys.into_iter().filter(|key| from.get(*key) != to.get(*key)).map(|key| FieldChange {
            path: format!("{}/{}", change.path, json::token(key)),
            from: from.get(key).cloned(),
            to: to.get(key).cloned(),
        }));
    }
    let mut changes = split;
    // An empty list and none are the same.
    changes.retain(|change| {
        let given = |side: &Option<Value>| side.as_ref().is_some_and(|value| !is_empty(value));
        given(&change.from) || given(&change.to)
    });
    changes
}

/// The JSON Merge Patch (RFC 7386) that makes one value of another.
pub(crate) fn merge_patch(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (from, to) if from == to => None,
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = serde_json::Map::new();
            for (key, value) in to {
                let changed = match from.get(key) {
                    Some(before) => merge_patch(before, value),
                    None => Some(value.clone()),
                };
                patch.extend(changed.map(|changed| (key.clone(), changed)));
            }
            patch.extend(
                from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null)),
            );
            Some(Value::Object(patch)).filter(|patch| !is_empty(patch))
        }
        (_, to) => Some(to.clone()),
    }
}

/// Carries out a JSON Merge Patch.
pub(crate) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Value::Object(members) = value else { return };
    for (key, change) in patch {
        if change.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_makes_one_value_of_another() {
        let values = [
            json!({"a": 1, "b": {"c": [1], "d": 2}}),
            json!({"b": {"c": [2], "e": {}}, "f": "x"}),
            json!({}),
            json!({"a": {"b": 1}}),
        ];
        for from in &values {
            for to in &values {
                let mut value = from.clone();
                if let Some(patch) = merge_patch(from, to) {
                    merge(&mut value, &patch);
                }
                assert_eq!(&value, to);
            }
        }
    }

    #[test]
    fn a_value_is_found_by_the_path_that_a_difference_has() {
        let object = json!({"spec": {"list": [{"name": "a", "x": {"y/z": 1}}, {"name": "b"}], "none": []}});
        assert_eq!(at(&object, "/spec/list/a/x/y~1z"), Some(&json!(1)));
        assert_eq!(at(&object, "/spec/none"), None);
        assert_eq!(at(&object, "/spec/list/c"), None);
    }
}
