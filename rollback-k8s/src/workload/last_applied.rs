//! The annotation by which client-side apply knows what it applied last.
//!
//! kubectl's undo leaves it at the newer manifest, so that the next `kubectl apply` does not remove what
//! the undo brought back (kubernetes/kubectl#1301). Moving it along mends that.

use serde_json::{Map, Value};

pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The annotation after the template has moved from `from` to `to`: what it holds and what the move brings
/// back take their restored values, what the move takes away is dropped, and fields that were not applied
/// stay out. None when it holds no template or cannot be read.
pub(crate) fn moved(annotation: &str, from: &Value, to: &Value) -> Option<String> {
    let mut applied: Value = serde_json::from_str(annotation).ok()?;
    let held = applied.pointer_mut("/spec/template")?;
    *held = merge(held, Some(from), to);
    // kubectl ends the annotation with a line break.
    Some(format!("{applied}\n"))
}

fn merge(held: &Value, from: Option<&Value>, to: &Value) -> Value {
    if from == Some(to) {
        return held.clone();
    }
    match (held, to) {
        (Value::Object(held), Value::Object(to)) => {
            let mut merged = Map::new();
            for (key, to) in to {
                let from = from.and_then(|from| from.get(key));
                match held.get(key) {
                    Some(held) => merged.insert(key.clone(), merge(held, from, to)),
                    // The move brings it back, so it was applied before.
                    None if from.is_none() => merged.insert(key.clone(), to.clone()),
                    None => None,
                };
            }
            Value::Object(merged)
        }
        (Value::Array(held), Value::Array(to)) => {
            let find = |items: Option<&Vec<Value>>, wanted: &Value| {
                let wanted = merge_key(wanted)?;
                items?.iter().find(|item| merge_key(item) == Some(wanted)).cloned()
            };
            let from = from.and_then(Value::as_array);
            let merged = to.iter().filter_map(|to| {
                if merge_key(to).is_none() {
                    return Some(to.clone());
                }
                match (find(Some(held), to), find(from, to)) {
                    (Some(held), from) => Some(merge(&held, from.as_ref(), to)),
                    (None, None) => Some(to.clone()),
                    (None, Some(_)) => None,
                }
            });
            Value::Array(merged.collect())
        }
        _ => to.clone(),
    }
}

/// What identifies an item of a list to strategic merge.
fn merge_key(item: &Value) -> Option<&Value> {
    ["name", "mountPath", "containerPort", "devicePath", "ip", "topologyKey"]
        .iter()
        .find_map(|key| item.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_renamed_sidecar_and_a_removed_variable_come_back_and_defaults_stay_out() {
        let applied = json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [
            {"name": "app", "image": "app:2"},
            {"name": "new-sidecar", "image": "s:2"},
        ]}}}});
        let from = json!({"spec": {"restartPolicy": "Always", "containers": [
            {"name": "app", "image": "app:2", "imagePullPolicy": "Always"},
            {"name": "new-sidecar", "image": "s:2"},
        ]}});
        let to = json!({"spec": {"restartPolicy": "Always", "containers": [
            {"name": "app", "image": "app:1", "imagePullPolicy": "Always", "env": [{"name": "A", "value": "1"}]},
            {"name": "old-sidecar", "image": "s:1"},
        ]}});
        let moved: Value = serde_json::from_str(&moved(&applied.to_string(), &from, &to).unwrap()).unwrap();
        assert_eq!(
            moved,
            json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [
                {"name": "app", "image": "app:1", "env": [{"name": "A", "value": "1"}]},
                {"name": "old-sidecar", "image": "s:1"},
            ]}}}})
        );
    }
}
