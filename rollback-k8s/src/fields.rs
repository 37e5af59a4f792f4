//! Sets of fields as `managedFields` holds them (`fieldsV1`): tries whose keys name a member (`f:`), an item of a list
//! by its keys (`k:`) or by its value (`v:`), and, as `.`, the place itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What one manager owns.
pub(crate) type Fields = Map<String, Value>;

/// Adds what another set holds.
pub(crate) fn union(all: &mut Fields, more: &Fields) {
    for (key, value) in more {
        match (all.get_mut(key), value) {
            (Some(Value::Object(own)), Value::Object(more)) => union(own, more),
            (Some(_), _) => {}
            (None, value) => drop(all.insert(key.clone(), value.clone())),
        }
    }
}

/// Takes away what is in one set and in none of the others, as the server does when its last manager lets go of it.
pub(crate) fn remove(value: &mut Value, gone: &Fields, kept: &[&Fields]) {
    for (key, below) in gone {
        let below = below.as_object();
        let is_whole = below.is_none_or(|below| below.is_empty() || below.contains_key("."));
        if is_whole && !kept.iter().any(|kept| kept.contains_key(key)) {
            delete(value, key);
        } else if let (Some(below), Some(child)) = (below, find_mut(value, key)) {
            let kept: Vec<&Fields> = kept.iter().filter_map(|kept| kept.get(key)?.as_object()).collect();
            remove(child, below, &kept);
        }
    }
}

/// Takes away what is in a set, and neither in a configuration nor in one of the others.
pub(crate) fn remove_stale(value: &mut Value, gone: &Fields, wanted: Option<&Value>, others: &[&Fields]) {
    for (key, below) in gone {
        let below = below.as_object();
        let is_whole = below.is_none_or(|below| below.is_empty() || below.contains_key("."));
        let wanted = wanted.and_then(|wanted| find(wanted, key));
        if is_whole && wanted.is_none() && !others.iter().any(|others| others.contains_key(key)) {
            delete(value, key);
        } else if let (Some(below), Some(child)) = (below, find_mut(value, key)) {
            let others: Vec<&Fields> =
                others.iter().filter_map(|others| others.get(key)?.as_object()).collect();
            remove_stale(child, below, wanted, &others);
        }
    }
}

/// Puts a configuration over an object, as far as that can be done without the server: items of lists are known by their
/// names, or as ports.
pub fn overlay(value: &mut Value, configuration: &Value) {
    match (value, configuration) {
        (Value::Object(members), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                overlay(members.entry(key.clone()).or_insert(Value::Null), wanted);
            }
        }
        (Value::Array(items), Value::Array(wanted)) if wanted.iter().all(|item| known_by(item).is_some()) => {
            for wanted in wanted {
                match items.iter_mut().find(|item| known_by(item) == known_by(wanted)) {
                    Some(item) => overlay(item, wanted),
                    None => items.push(wanted.clone()),
                }
            }
        }
        (value, wanted) => *value = wanted.clone(),
    }
}

fn known_by(item: &Value) -> Option<(&Value, Option<&Value>)> {
    match (item.get("name"), item.get("port").or_else(|| item.get("containerPort"))) {
        (Some(name), _) => Some((name, None)),
        (None, Some(port)) => Some((port, item.get("protocol"))),
        (None, None) => None,
    }
}

/// The part of a value that a set names.
pub(crate) fn extract(value: &Value, owned: &Fields) -> Value {
    if owned.is_empty() {
        return value.clone();
    }
    match value {
        Value::Object(members) => members
            .iter()
            .filter_map(|(name, member)| {
                let below = owned.get(&format!("f:{name}"))?.as_object()?;
                Some((name.clone(), extract(member, below)))
            })
            .collect(),
        Value::Array(items) => items
            .iter()
            .filter_map(|item| {
                let (key, below) = owned.iter().find(|(key, _)| is_item(item, key))?;
                let mut own = extract(item, below.as_object()?);
                if let (Some(Value::Object(keys)), Value::Object(own)) = (keys_of(key), &mut own) {
                    own.extend(keys);
                }
                Some(own)
            })
            .collect(),
        scalar => scalar.clone(),
    }
}

/// Puts the items of lists that are known by their names into the order in which a configuration has them; others come
/// after them. Older servers, such as 1.20, leave the items that were there where they were, and the order of variables tells
/// which can refer to which.
pub(crate) fn put_in_order(value: &mut Value, configuration: &Value) {
    match (value, configuration) {
        (Value::Object(members), Value::Object(wanted)) => {
            for (key, member) in members {
                if let Some(wanted) = wanted.get(key) {
                    put_in_order(member, wanted);
                }
            }
        }
        (Value::Array(items), Value::Array(wanted)) => {
            let name = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
            let names = |items: &[Value]| -> Option<Vec<String>> { items.iter().map(name).collect() };
            let (Some(own), Some(order)) = (names(items), names(wanted)) else { return };
            let is_repeated = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() < names.len();
            if is_repeated(&own) || is_repeated(&order) {
                return;
            }
            let place = |item: &Value| {
                let name = name(item);
                order.iter().position(|wanted| Some(wanted) == name.as_ref()).unwrap_or(order.len())
            };
            items.sort_by_key(place);
            for item in items {
                if let Some(wanted) = wanted.get(place(item)) {
                    put_in_order(item, wanted);
                }
            }
        }
        _ => {}
    }
}

fn keys_of(key: &str) -> Option<Value> {
    serde_json::from_str(key.strip_prefix("k:")?).ok()
}

fn is_item(item: &Value, key: &str) -> bool {
    match (keys_of(key), key.strip_prefix("v:")) {
        (Some(Value::Object(keys)), _) => keys.iter().all(|(name, value)| item.get(name) == Some(value)),
        (_, Some(text)) => serde_json::from_str::<Value>(text).is_ok_and(|value| value == *item),
        _ => false,
    }
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(key.strip_prefix("f:")?),
        Value::Array(items) => items.iter().find(|item| is_item(item, key)),
        _ => None,
    }
}

fn find_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(members) => members.get_mut(key.strip_prefix("f:")?),
        Value::Array(items) => items.iter_mut().find(|item| is_item(item, key)),
        _ => None,
    }
}

fn delete(value: &mut Value, key: &str) {
    match value {
        Value::Object(members) => {
            if let Some(name) = key.strip_prefix("f:") {
                members.remove(name);
            }
        }
        Value::Array(items) => items.retain(|item| !is_item(item, key)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("no set") };
        fields
    }

    #[test]
    fn what_its_last_manager_lets_go_of_is_gone_and_the_rest_stays() {
        let mut object = json!({"labels": {"a": "1", "b": "2"}, "list": [
            {"name": "app", "image": "i", "pull": "Always"}, {"name": "side", "image": "s", "default": true},
        ], "finalizers": ["x", "y"]});
        let gone = fields(json!({
            "f:labels": {".": {}, "f:a": {}, "f:b": {}},
            "f:list": {
                ".": {}, "k:{\"name\":\"side\"}": {".": {}, "f:image": {}, "f:name": {}},
                "k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:pull": {}},
            },
            "f:finalizers": {"v:\"x\"": {}},
        }));
        let kept = fields(json!({
            "f:labels": {"f:b": {}}, "f:list": {"k:{\"name\":\"app\"}": {"f:image": {}}},
        }));
        remove(&mut object, &gone, &[&kept]);
        let left = json!({
            "labels": {"b": "2"}, "list": [{"name": "app", "image": "i"}], "finalizers": ["y"],
        });
        assert_eq!(object, left);
    }

    #[test]
    fn what_a_configuration_no_longer_has_goes_and_the_rest_is_put_over() {
        let mut object =
            json!({"ports": [{"port": 81, "protocol": "TCP", "nodePort": 3}], "a": 1, "theirs": 2});
        let gone = fields(json!({
            "f:ports": {".": {}, "k:{\"port\":81,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
            "f:a": {}, "f:theirs": {},
        }));
        let wanted = json!({"ports": [{"port": 80, "protocol": "TCP"}], "b": 1});
        remove_stale(&mut object, &gone, Some(&wanted), &[&fields(json!({"f:theirs": {}}))]);
        overlay(&mut object, &wanted);
        assert_eq!(object, json!({"ports": [{"port": 80, "protocol": "TCP"}], "theirs": 2, "b": 1}));
    }

    #[test]
    fn items_come_in_the_order_of_the_configuration() {
        let names =
            |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
        let mut object = json!({"list": names(&["x", "b", "a"]), "plain": [2, 1]});
        put_in_order(&mut object, &json!({"list": names(&["a", "b"]), "plain": [1, 2]}));
        assert_eq!(object, json!({"list": names(&["a", "b", "x"]), "plain": [2, 1]}));
    }

    #[test]
    fn a_part_is_what_its_set_names() {
        let object = json!({"spec": {"replicas": 3, "list": [
            {"name": "app", "image": "i", "pull": "Always"}, {"name": "side"},
        ], "atomic": {"a": 1}, "set": ["x", "y"]}});
        let owned = fields(json!({"f:spec": {
            "f:list": {".": {}, "k:{\"name\":\"app\"}": {".": {}, "f:image": {}}},
            "f:atomic": {}, "f:set": {"v:\"y\"": {}},
        }}));
        let part = json!({"spec": {
            "list": [{"name": "app", "image": "i"}], "atomic": {"a": 1}, "set": ["y"],
        }});
        assert_eq!(extract(&object, &owned), part);
    }
}
