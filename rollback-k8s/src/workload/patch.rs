//! The JSON Patch of a change, guarded so that it fails on anything other than what was planned from.

use serde_json::{Value, json};

use super::content::Parsed;
use crate::json::{self, token};

/// What the patch takes as given.
pub(crate) struct Given<'a> {
    /// The UID that the object must have.
    pub(crate) uid: &'a str,
    /// The generation that it must have; its content is then the one seen.
    pub(crate) generation: i64,
    /// The object's annotations as seen; none where it has none.
    pub(crate) annotations: Option<&'a Value>,
    /// Whether the template has to move.
    pub(crate) template: bool,
}

/// A key and the value that it is to have, none where it is to be absent.
pub(crate) type Annotation = (&'static str, Option<String>);

/// The operations that make the change, none when there is nothing to write.
pub(crate) fn build(parsed: &Parsed, given: &Given<'_>, record: Option<&Annotation>) -> Vec<Value> {
    let mut writes = Vec::new();
    if let Some(template) = parsed.to.template.as_ref().filter(|_| given.template) {
        writes.push(json!({"op": "replace", "path": "/spec/template", "value": template}));
    }
    let held = |key: &str| given.annotations?.get(key)?.as_str();
    let mut tests = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": given.uid}),
        json!({"op": "test", "path": "/metadata/generation", "value": given.generation}),
    ];
    let wanted = parsed.to.annotations.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
    let record = record.map(|(key, value)| (*key, value.as_deref()));
    let mut annotations = Vec::new();
    for (key, value) in wanted.chain(record) {
        let path = format!("/metadata/annotations/{}", token(key));
        let before = held(key);
        if before == value {
            continue;
        }
        if let Some(before) = before {
            // Only a Deployment's generation counts its annotations too.
            tests.push(json!({"op": "test", "path": path, "value": before}));
        }
        annotations.push(match value {
            Some(value) => json!({"op": "add", "path": path, "value": value}),
            None => json!({"op": "remove", "path": path}),
        });
    }
    if given.annotations.is_none() && !annotations.is_empty() {
        writes.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    writes.append(&mut annotations);
    if writes.is_empty() {
        return Vec::new();
    }
    tests.append(&mut writes);
    tests
}

/// The annotations that the object has, as [`Given`] wants them.
pub(crate) fn annotations(live: &Value) -> Option<&Value> {
    live.pointer("/metadata/annotations").filter(|map| map.as_object().is_some_and(|map| !map.is_empty()))
}

/// What the component saw when it planned, which saves `apply` a read.
pub(crate) fn hint(object: &Value) -> Value {
    let annotations = annotations(object).cloned();
    let mut hint = json!({"generation": json::generation(object)});
    if let Some(annotations) = annotations {
        hint["annotations"] = annotations;
    }
    hint
}
