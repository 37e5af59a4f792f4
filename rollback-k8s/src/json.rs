//! Small readings of raw Kubernetes objects. Objects stay raw because a typed copy drops the fields that
//! it doesn't know, and would restore a broken pod.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{FieldChange, Timestamp};
use serde_json::Value;

/// The string at a JSON pointer.
pub fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

/// The whole number at a JSON pointer.
pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer)?.as_i64()
}

/// Whether there is `true` at a JSON pointer.
pub fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The time at a JSON pointer.
pub fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer)?.parse().ok()
}

/// The items of the list at a JSON pointer; none where there is no list.
pub fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name").unwrap_or_default()
}

/// The UID of an object.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid").unwrap_or_default()
}

/// The generation of an object.
pub fn generation(object: &Value) -> i64 {
    number(object, "/metadata/generation").unwrap_or_default()
}

/// The label of this key.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(key)?.as_str()
}

/// The annotation of this key.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

/// All annotations.
pub fn annotations(object: &Value) -> BTreeMap<String, String> {
    strings(object, "/metadata/annotations")
}

/// The members that are strings of the object at a JSON pointer.
pub fn strings(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// The condition of this type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").iter().find(|c| c["type"] == kind)
}

/// Whether the condition Ready is true.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// The UID of the owner that controls the object.
pub fn controller_uid(object: &Value) -> Option<&str> {
    controller(object)?["uid"].as_str()
}

/// The owner that controls the object.
pub fn controller(object: &Value) -> Option<&Value> {
    items(object, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true)
}

/// Without null members, which Go prints for absent values, at any depth.
pub fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, member)| !member.is_null())
            .map(|(key, member)| (key, without_nulls(member)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

/// A key as one token of a JSON pointer.
pub fn token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The field changes between two values. Items of lists are known by their name where all have one, so
/// that a path tells what it is about and survives a reordering.
pub fn diff(path: &str, from: Option<&Value>, to: Option<&Value>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    walk(path.to_owned(), from, to, &mut changes);
    changes
}

fn walk(path: String, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<FieldChange>) {
    if from == to {
        return;
    }
    if let (Some(a), Some(b)) = (from, to)
        && let (Some(a), Some(b)) = (members(a), members(b))
    {
        let mut keys: Vec<&str> = a.iter().chain(&b).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let find = |all: &[(&str, &Value)], key: &str| -> Option<Value> {
            all.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).clone())
        };
        let before = changes.len();
        for key in keys {
            let (from, to) = (find(&a, key), find(&b, key));
            walk(format!("{path}/{}", token(key)), from.as_ref(), to.as_ref(), changes);
        }
        if changes.len() > before {
            return;
        }
    }
    changes.push(FieldChange { path, from: from.cloned(), to: to.cloned() });
}

fn members(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(members) => Some(members.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Value::Array(items) if !items.is_empty() => {
            let named: Option<Vec<_>> =
                items.iter().map(|item| Some((item.get("name")?.as_str()?, item))).collect();
            named.filter(|all| all.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>().len() == all.len())
        }
        _ => None,
    }
}
