//! The specs of an `InferenceService`'s components, and where in them the model is.

use std::collections::BTreeMap;

use rollback_k8s::json;
use serde_json::{Map, Value, json};

/// The components, in the order in which KServe reconciles them.
pub(crate) const COMPONENTS: [&str; 3] = ["predictor", "transformer", "explainer"];

/// How much of the traffic the newest revision gets, in percent; without it all, once it is ready.
pub(crate) const PERCENT: &str = "canaryTrafficPercent";

/// What belongs to no revision: how many pods there are is decided by load and by people, at any time.
pub(crate) const SCALING: [&str; 6] =
    ["minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling"];

/// The specs of its components, without what belongs to no revision.
pub(crate) fn specs(object: &Value) -> BTreeMap<String, Value> {
    let spec = |name: &str| Some((name.to_owned(), of_revision(object.pointer("/spec")?.get(name)?)));
    COMPONENTS.iter().filter_map(|name| spec(name)).filter(|(_, spec)| spec.is_object()).collect()
}

fn of_revision(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(members) = &mut spec {
        members.retain(|key, value| key != PERCENT && !SCALING.contains(&key.as_str()) && !value.is_null());
    }
    spec
}

/// A component's spec with what belongs to no revision as it is live.
pub(crate) fn with_scaling(spec: &Value, live: &Value, percent: Option<i64>) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(members) = &mut spec {
        for key in SCALING {
            if let Some(value) = live.get(key) {
                members.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(percent) = percent {
            members.insert(PERCENT.to_owned(), percent.into());
        }
    }
    spec
}

/// The percentages that are set, by component.
pub(crate) fn percents(object: &Value) -> BTreeMap<String, i64> {
    let percent =
        |name: &&str| Some(((*name).to_owned(), json::number(object, &format!("/spec/{name}/{PERCENT}"))?));
    COMPONENTS.iter().filter_map(percent).collect()
}

/// The canaries of Standard mode.
pub(crate) fn canary(object: &Value) -> Option<Value> {
    object
        .pointer("/spec/canary")
        .filter(|canary| canary.as_array().is_some_and(|all| !all.is_empty()))
        .cloned()
}

/// A place in a component's spec that says which model it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A URI, at this pointer.
    Uri(String),
    /// A path in a storage that a Secret describes: `storage` of this member.
    Storage(String),
    /// Several URIs with their mount paths: `storageUris`.
    Uris,
}

/// Whatever a component says of its model; KServe allows one place, and tells nobody of a second.
fn place(spec: &Value) -> Option<Place> {
    if !json::items(spec, "/storageUris").is_empty() {
        return Some(Place::Uris);
    }
    for (key, member) in spec.as_object().into_iter().flatten().filter(|(key, _)| *key != "logger") {
        if member.get("storageUri").is_some_and(Value::is_string) {
            return Some(Place::Uri(format!("/{}/storageUri", json::token(key))));
        }
        if member.pointer("/storage/path").is_some_and(Value::is_string) {
            return Some(Place::Storage(key.clone()));
        }
    }
    // A container of one's own is told by an environment variable.
    let containers = json::items(spec, "/containers").iter().enumerate();
    containers
        .flat_map(|(index, container)| {
            json::items(container, "/env").iter().enumerate().map(move |(place, env)| (index, place, env))
        })
        .find(|(.., env)| env["name"] == "STORAGE_URI" && env["value"].is_string())
        .map(|(index, place, _)| Place::Uri(format!("/containers/{index}/env/{place}/value")))
}

/// How a model in a storage is written here, since its bucket is in a Secret.
pub(crate) const STORAGE: &str = "storage:";

/// The models that a component's spec names, as it writes them.
pub(crate) fn models(spec: &Value) -> Vec<String> {
    let text = |pointer: &str| json::text(spec, pointer).map(str::to_owned).into_iter().collect();
    match place(spec) {
        None => Vec::new(),
        Some(Place::Uri(pointer)) => text(&pointer),
        Some(Place::Storage(member)) => {
            let path =
                json::text(spec, &format!("/{}/storage/path", json::token(&member))).unwrap_or_default();
            vec![format!("{STORAGE}{path}")]
        }
        Some(Place::Uris) => {
            let all = json::items(spec, "/storageUris").iter();
            all.filter_map(|item| json::text(item, "/uri").map(str::to_owned)).collect()
        }
    }
}

/// Whether models are the same: a folder is with and without a slash at its end.
pub(crate) fn same_models(a: &[String], b: &[String]) -> bool {
    let plain = |all: &[String]| all.iter().map(|uri| plain(uri)).collect::<Vec<_>>();
    plain(a) == plain(b)
}

/// A URI as it is compared.
pub(crate) fn plain(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// A URI as a storage names it that has a bucket of its own; none where it has no bucket.
pub(crate) fn in_storage(uri: &str) -> Option<String> {
    let (_, path) = uri.split_once("://")?.1.split_once('/')?;
    Some(format!("{STORAGE}{path}"))
}

/// What belongs to no revision, by component.
pub(crate) fn scalings(object: &Value) -> BTreeMap<String, Value> {
    let scaling = |name: &&str| {
        let mut own = object.pointer(&format!("/spec/{name}"))?.as_object()?.clone();
        own.retain(|key, _| SCALING.contains(&key.as_str()));
        Some(((*name).to_owned(), Value::Object(own)))
    };
    COMPONENTS.iter().filter_map(scaling).collect()
}

/// The models that a pod downloads; what is mounted leaves no trace in a list of several.
pub(crate) fn downloaded(spec: &Value) -> Vec<String> {
    let mut all = models(spec);
    if place(spec) == Some(Place::Uris) {
        all.retain(|uri| !uri.starts_with("pvc://") && !uri.starts_with("oci://"));
    }
    all
}

/// Whether the component has several models, which are told by the arguments of its init containers.
pub(crate) fn has_several(spec: &Value) -> bool {
    place(spec) == Some(Place::Uris)
}

/// The model as a template tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The URIs, with `storage:` before what is a path in a storage.
    pub(crate) models: Vec<String>,
    /// Which entry of the Secret describes the storage, where the template says so.
    pub(crate) key: Option<String>,
    /// What overrides that entry.
    pub(crate) parameters: Option<Value>,
    /// Whether key and parameters are told: then one that is absent is not there.
    pub(crate) is_storage: bool,
    /// Where each is mounted, where the template says so.
    pub(crate) mounts: Vec<String>,
}

/// The spec with another model in the place where it names one now, never in a second place. None where it has no
/// such place, or what was observed does not fit into it.
pub(crate) fn with_model(spec: &Value, observed: &Observed) -> Option<Value> {
    let place = place(spec)?;
    let is_storage = matches!(place, Place::Storage(_));
    if same_models(&models(spec), &observed.models) && !is_storage {
        return Some(spec.clone());
    }
    let mut spec = spec.clone();
    match (place, observed.models.as_slice()) {
        (Place::Uris, wanted) => {
            let held = json::items(&spec, "/storageUris").to_vec();
            let item = |(index, uri): (usize, &String)| {
                // A mount path that is written stays.
                let mut item = held.get(index).cloned().unwrap_or_else(|| json!({}));
                item["uri"] = json!(uri);
                if let Some(mount) = observed.mounts.get(index) {
                    item["mountPath"] = json!(mount);
                }
                item
            };
            spec["storageUris"] = wanted.iter().enumerate().map(item).collect();
        }
        (Place::Uri(pointer), [one]) => {
            match (one.strip_prefix(STORAGE), pointer.strip_suffix("/storageUri")) {
                (None, _) => *spec.pointer_mut(&pointer)? = json!(one),
                (Some(path), Some(member)) => {
                    let member = spec.pointer_mut(member)?.as_object_mut()?;
                    member.remove("storageUri");
                    member.insert("storage".to_owned(), storage(Map::new(), path, observed));
                }
                (Some(_), None) => return None,
            }
        }
        (Place::Storage(member), [one]) => {
            let member = spec.get_mut(&member)?.as_object_mut()?;
            let held = member.remove("storage");
            match one.strip_prefix(STORAGE) {
                Some(path) => {
                    let held = held.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
                    member.insert("storage".to_owned(), storage(held, path, observed));
                }
                None => {
                    member.insert("storageUri".to_owned(), json!(one));
                }
            }
        }
        (Place::Uri(_) | Place::Storage(_), _) => return None,
    }
    Some(spec)
}

/// The spec with the model of another one.
pub(crate) fn with_model_of(spec: &Value, other: &Value) -> Option<Value> {
    let member = |pointer: &str| match place(other) {
        Some(Place::Storage(member)) => {
            json::text(other, &format!("/{}/storage/{pointer}", json::token(&member)))
        }
        _ => None,
    };
    let mounts = json::items(other, "/storageUris").iter().filter_map(|item| json::text(item, "/mountPath"));
    let observed = Observed {
        models: models(other),
        key: member("key").map(str::to_owned),
        parameters: match place(other) {
            Some(Place::Storage(member)) => {
                other.pointer(&format!("/{}/storage/parameters", json::token(&member))).cloned()
            }
            _ => None,
        },
        is_storage: matches!(place(other), Some(Place::Storage(_))),
        mounts: mounts.map(str::to_owned).collect(),
    };
    with_model(spec, &observed)
}

fn storage(mut held: Map<String, Value>, path: &str, observed: &Observed) -> Value {
    if held.get("path").and_then(Value::as_str).is_none_or(|held| plain(held) != plain(path)) {
        held.insert("path".to_owned(), json!(path));
    }
    for (name, told) in
        [("key", observed.key.as_ref().map(|key| json!(key))), ("parameters", observed.parameters.clone())]
    {
        match told {
            Some(told) => drop(held.insert(name.to_owned(), told)),
            None if observed.is_storage => drop(held.remove(name)),
            None => {}
        }
    }
    Value::Object(held)
}

/// The pointers, within a component's spec, of all that says which model it runs.
pub(crate) fn model_pointers(spec: &Value) -> Vec<String> {
    match place(spec) {
        None => Vec::new(),
        Some(Place::Uri(pointer)) => vec![pointer],
        Some(Place::Storage(member)) => vec![format!("/{}/storage", json::token(&member))],
        Some(Place::Uris) => vec!["/storageUris".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(model: &str) -> Observed {
        Observed { models: vec![model.into()], ..Observed::default() }
    }

    #[test]
    fn a_model_moves_in_the_place_where_it_is_and_in_no_second_one() {
        let cases = [
            (
                json!({"model": {"modelFormat": {"name": "xgboost"}, "storageUri": "s3://m/v5"}}),
                "s3://m/v4",
                json!({"model": {"modelFormat": {"name": "xgboost"}, "storageUri": "s3://m/v4"}}),
            ),
            (
                json!({"xgboost": {"storageUri": "s3://m/v5"}}),
                "s3://m/v4",
                json!({"xgboost": {"storageUri": "s3://m/v4"}}),
            ),
            (
                json!({"model": {"storage": {"key": "minio", "path": "m/v5", "parameters": {"bucket": "b"}}}}),
                "storage:m/v4",
                json!({"model": {"storage": {"key": "minio", "path": "m/v4", "parameters": {"bucket": "b"}}}}),
            ),
            (
                json!({"model": {"storage": {"key": "minio", "path": "m/v5"}}}),
                "s3://m/v4",
                json!({"model": {"storageUri": "s3://m/v4"}}),
            ),
            (
                json!({"model": {"storageUri": "s3://m/v5"}}),
                "storage:m/v4",
                json!({"model": {"storage": {"path": "m/v4"}}}),
            ),
            (
                json!({"storageUris": [{"uri": "s3://m/v5", "mountPath": "/mnt/a"}], "model": {}}),
                "s3://m/v4",
                json!({"storageUris": [{"uri": "s3://m/v4", "mountPath": "/mnt/a"}], "model": {}}),
            ),
            (
                json!({"containers": [{"env": [{"name": "A"}, {"name": "STORAGE_URI", "value": "s3://m/v5"}]}]}),
                "s3://m/v4",
                json!({"containers": [{"env": [{"name": "A"}, {"name": "STORAGE_URI", "value": "s3://m/v4"}]}]}),
            ),
        ];
        for (spec, to, expected) in cases {
            assert_eq!(with_model(&spec, &observed(to)), Some(expected), "{spec}");
        }
        let image_only = json!({"containers": [{"image": "a"}], "logger": {"storage": {"path": "p"}}});
        assert_eq!(with_model(&image_only, &observed("s3://m/v4")), None);
    }

    #[test]
    fn replicas_and_percent_belong_to_no_revision() {
        let live = json!({"spec": {"predictor": {
            "model": {"storageUri": "s3://m/v5"}, "minReplicas": 3, "canaryTrafficPercent": 10, "unknown": {"kept": 1},
        }}});
        let specs = specs(&live);
        assert_eq!(specs["predictor"], json!({"model": {"storageUri": "s3://m/v5"}, "unknown": {"kept": 1}}));
        let written = with_scaling(&specs["predictor"], &live["spec"]["predictor"], Some(0));
        assert_eq!((&written["minReplicas"], &written[PERCENT]), (&json!(3), &json!(0)));
    }
}
