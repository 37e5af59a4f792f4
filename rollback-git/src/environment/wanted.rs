//! The objects that a revision renders, and what of them is applied.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Error, ErrorKind, Result};
use rollback_k8s::backend::{FieldConflict, Served, foreign_owner};
use rollback_k8s::{Cluster, json};
use serde_json::{Value, json};

use super::content::merge;
use super::key::{Key, group_of};
use super::pin::PART_OF;

/// The annotation by which client-side apply knows what it applied last.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How long all annotations of an object may be together.
const LONGEST_ANNOTATION: usize = 200 << 10;

/// Where an object is found.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) api_version: String,
    pub(crate) served: Served,
}

impl Spot {
    pub(crate) fn path(&self, key: &Key) -> String {
        self.served.path(key.namespace.as_deref(), Some(&key.name))
    }
}

/// One object of a rendering. It may be a Secret, so it has no Debug.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) object: Value,
    pub(crate) spot: Spot,
    /// Whether the cluster serves its kind already.
    pub(crate) is_served: bool,
}

/// The objects of a rendering by their names. Those of unknown kinds are left out where that is asked for.
pub(crate) async fn by_key(
    cluster: &Cluster,
    objects: &[Value],
    namespace: &str,
    lenient: bool,
) -> Result<BTreeMap<Key, Wanted>> {
    let mut all = BTreeMap::new();
    for object in objects {
        let text = |pointer: &str| json::text(object, pointer).unwrap_or_default();
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let maps: &[&str] = match kind {
            "Secret" => &["/metadata/labels", "/metadata/annotations", "/data"],
            _ => &["/metadata/labels", "/metadata/annotations"],
        };
        let is_wrong = |value: &Value| !value.is_object() && !value.is_null();
        if let Some(pointer) = maps.iter().find(|pointer| object.pointer(pointer).is_some_and(is_wrong)) {
            let message = format!("{kind} {}: {pointer} is no map", text("/metadata/name"));
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let served = cluster.served(api_version, kind).await?;
        let is_served = served.is_some();
        let Some(served) = served.or_else(|| of_definition(objects, api_version, kind)) else {
            if lenient {
                continue;
            }
            let message =
                format!("the cluster knows no {kind} of {api_version}, which {} is", text("/metadata/name"));
            return Err(Error::new(ErrorKind::Refused, message)
                .with_hint("install its CustomResourceDefinition first, or hold it in the environment"));
        };
        let own = json::text(object, "/metadata/namespace").unwrap_or(namespace);
        let key = Key {
            group: group_of(api_version).to_owned(),
            kind: kind.to_owned(),
            namespace: served.namespaced.then(|| own.to_owned()),
            name: json::name(object).to_owned(),
        };
        let mut object = object.clone();
        if let Some(namespace) = &key.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let spot = Spot { api_version: api_version.to_owned(), served };
        if all.insert(key.clone(), Wanted { object, spot, is_served }).is_some() {
            return Err(Error::new(ErrorKind::Refused, format!("{key} is rendered twice")));
        }
    }
    Ok(all)
}

/// Where a kind will be served whose definition is in the same rendering.
fn of_definition(objects: &[Value], api_version: &str, kind: &str) -> Option<Served> {
    let group = group_of(api_version);
    let definition = objects.iter().find(|object| {
        object["kind"] == "CustomResourceDefinition"
            && object["spec"]["group"] == group
            && object["spec"]["names"]["kind"] == kind
    })?;
    let plural = json::text(definition, "/spec/names/plural")?;
    Some(Served::new(api_version, plural, definition["spec"]["scope"] == "Namespaced"))
}

/// What all configurations of one side of a change have in common.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    /// The `ApplySet` to which objects belong, where there is a pin.
    pub(crate) part_of: Option<String>,
    pub(crate) last_applied: bool,
}

/// What is applied of an object: the rendering with what the change adds to it. `rendered` is null where the state holds
/// the whole object as its difference.
pub(crate) fn configuration(
    rendered: &Value,
    drift: Option<&Value>,
    kept: &[String],
    marks: &Marks,
) -> Value {
    // The server encodes what comes as text only after it has noted who owns what.
    let mut object =
        if rendered["kind"] == "Secret" { with_encoded_data(rendered) } else { rendered.clone() };
    let text = format!("{rendered}\n");
    if let Some(drift) = drift {
        merge(&mut object, drift);
    }
    if let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for field in ["creationTimestamp", "managedFields", "resourceVersion", "uid", "generation"] {
            metadata.remove(field);
        }
    }
    name_protocols(&mut object);
    if let Some(id) = &marks.part_of {
        object["metadata"]["labels"][PART_OF] = json!(id);
    }
    if marks.last_applied && !rendered.is_null() && text.len() < LONGEST_ANNOTATION {
        object["metadata"]["annotations"][LAST_APPLIED] = json!(text);
    }
    for field in kept {
        remove_field(&mut object, field);
    }
    object
}

/// Older servers, such as 1.20, do not know that the protocol of a port has a default, when it is a key of the port's item.
fn name_protocols(object: &mut Value) {
    let name = |ports: Option<&mut Value>| {
        let Some(Value::Array(ports)) = ports else { return };
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.entry("protocol").or_insert(json!("TCP"));
        }
    };
    if object["kind"] == "Service" {
        name(object.pointer_mut("/spec/ports"));
    }
    for pod in ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"] {
        for list in ["containers", "initContainers"] {
            let Some(Value::Array(containers)) = object.pointer_mut(&format!("{pod}/{list}")) else {
                continue;
            };
            for container in containers {
                name(container.get_mut("ports"));
            }
        }
    }
}

/// Never fewer replicas than there are, of what an autoscaler scales. Where it has set the number itself, it stays its
/// own; else the number is as high as either says.
pub(crate) fn keep_replicas(configuration: &mut Value, live: Option<&Value>) {
    let Some(live) = live else { return };
    let Some(Value::Object(spec)) = configuration.get_mut("spec") else { return };
    if foreign_owner(live, &["spec", "replicas"]).is_some() {
        spec.remove("replicas");
        return;
    }
    let wanted = spec.get("replicas").and_then(Value::as_i64).unwrap_or_default();
    if let Some(now) = json::number(live, "/spec/replicas") {
        spec.insert("replicas".to_owned(), json!(now.max(wanted)));
    }
}

/// What autoscalers scale, of those in the cluster and of those rendered.
pub(crate) async fn scaled(
    cluster: &Cluster,
    rendered: &BTreeMap<Key, Wanted>,
    namespaces: &BTreeSet<String>,
) -> Result<BTreeSet<(String, String, String)>> {
    let mut scalers: Vec<(String, Value)> = rendered
        .iter()
        .filter(|(key, _)| matches!(key.kind.as_str(), "HorizontalPodAutoscaler" | "ScaledObject"))
        .filter_map(|(key, wanted)| Some((key.namespace.clone()?, wanted.object.clone())))
        .collect();
    for namespace in namespaces {
        for path in [
            // autoscaling/v1 is the one version that every server offers.
            format!("/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers"),
            format!("/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects"),
        ] {
            match cluster.list(&path, "", "listing autoscalers").await {
                Ok(found) => scalers.extend(found.into_iter().map(|scaler| (namespace.clone(), scaler))),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                // Most clusters have no KEDA, and then the right to list its objects is missing too.
                Err(e) if e.kind() == ErrorKind::PermissionDenied && path.contains("keda.sh") => {}
                Err(e) => return Err(e),
            }
        }
    }
    let target = |(namespace, scaler): (String, Value)| {
        let target = scaler.pointer("/spec/scaleTargetRef")?;
        let kind = target["kind"].as_str().unwrap_or("Deployment").to_owned();
        Some((kind, namespace, target["name"].as_str()?.to_owned()))
    };
    Ok(scalers.into_iter().filter_map(target).collect())
}

/// Whether an autoscaler scales it.
pub(crate) fn is_scaled(scaled: &BTreeSet<(String, String, String)>, key: &Key) -> bool {
    let Some(namespace) = &key.namespace else { return false };
    scaled.contains(&(key.kind.clone(), namespace.clone(), key.name.clone()))
}

/// In which wave an object is applied: what others need comes first.
pub(crate) fn wave(key: &Key) -> u8 {
    match key.kind.as_str() {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount"
        | "ConfigMap"
        | "Secret"
        | "ResourceQuota"
        | "LimitRange"
        | "NetworkPolicy"
        | "PriorityClass"
        | "RuntimeClass"
        | "StorageClass"
        | "PersistentVolume"
        | "PersistentVolumeClaim"
        | "ClusterRole"
        | "Role" => 2,
        "ClusterRoleBinding" | "RoleBinding" => 3,
        "Service" => 4,
        "HorizontalPodAutoscaler" | "ScaledObject" | "PodDisruptionBudget" | "Ingress" => 6,
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" | "APIService" => 7,
        _ => 5,
    }
}

/// The wave after which new kinds have to be served.
pub(crate) const DEFINITIONS: u8 = 1;

/// Takes a field out of a configuration, by its path as the server writes it in conflicts. Answers whether it was there.
pub(crate) fn remove_field(value: &mut Value, path: &str) -> bool {
    if let Some(rest) = path.strip_prefix('[') {
        let Some(end) = closing(rest) else { return false };
        let (inner, rest) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
        let Value::Array(items) = value else { return false };
        let Some(index) = items.iter().position(|item| is_item(item, inner)) else { return false };
        if rest.is_empty() {
            items.remove(index);
            return true;
        }
        return items.get_mut(index).is_some_and(|item| remove_field(item, rest));
    }
    let (Some(path), Value::Object(members)) = (path.strip_prefix('.'), value) else { return false };
    // Keys of labels hold dots themselves.
    let fits = |key: &&String| {
        path.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let Some(key) = members.keys().filter(fits).max_by_key(|key| key.len()).cloned() else { return false };
    match path.get(key.len()..).unwrap_or_default() {
        "" => members.remove(&key).is_some(),
        rest => members.get_mut(&key).is_some_and(|member| remove_field(member, rest)),
    }
}

/// Where the bracket closes, other than in a text.
fn closing(text: &str) -> Option<usize> {
    let (mut is_text, mut is_escaped) = (false, false);
    text.char_indices().find_map(|(at, c)| {
        if is_text {
            is_text = is_escaped || c != '"';
            is_escaped = c == '\\' && !is_escaped;
            return None;
        }
        is_text = c == '"';
        (c == ']').then_some(at)
    })
}

/// Whether an item has the keys `a="x",b=1`, or is the value `="x"`.
fn is_item(item: &Value, keys: &str) -> bool {
    if let Some(text) = keys.strip_prefix('=') {
        return serde_json::from_str::<Value>(text).is_ok_and(|value| value == *item);
    }
    keys.split(',').all(|pair| {
        let Some((key, text)) = pair.split_once('=') else { return false };
        // What a manifest leaves out, such as the protocol of a port, has its default in the key.
        item.get(key).is_none_or(|own| serde_json::from_str::<Value>(text).is_ok_and(|value| value == *own))
    })
}

/// What to say of the fields that others own.
pub(crate) fn told(key: &Key, conflicts: &[FieldConflict], forced: bool) -> String {
    let fields: Vec<_> =
        conflicts.iter().map(|conflict| format!("{} ({})", conflict.field, conflict.manager)).collect();
    let fate = if forced { "are taken over" } else { "stay as they are" };
    format!("{key}: fields that others own {fate}: {}", fields.join(", "))
}

/// Whether a live object has everything that is rendered: as far as can be told without the server.
pub(crate) fn covers(rendered: &Value, live: &Value) -> bool {
    match (rendered, live) {
        (Value::Object(rendered), Value::Object(live)) => rendered.iter().all(|(key, value)| {
            key == "status"
                || value.is_null()
                || live.get(key).map_or_else(|| is_nothing(value), |live| covers(value, live))
        }),
        (Value::Array(rendered), Value::Array(live)) => {
            let named = |items: &[Value]| items.iter().all(|item| item.get("name").is_some());
            if named(rendered) && named(live) {
                return rendered.iter().all(|item| {
                    live.iter().any(|live| live.get("name") == item.get("name") && covers(item, live))
                });
            }
            rendered.len() == live.len() && rendered.iter().zip(live).all(|(a, b)| covers(a, b))
        }
        (rendered, live) => {
            rendered == live
                || quantity(rendered)
                    .zip(quantity(live))
                    .is_some_and(|(a, b)| (a - b).abs() <= f64::EPSILON * a.abs().max(b.abs()))
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.values().all(is_nothing),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// A number, or a quantity of Kubernetes such as `500m` or `1Gi`.
fn quantity(value: &Value) -> Option<f64> {
    if let Some(number) = value.as_f64() {
        return Some(number);
    }
    let text = value.as_str()?;
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text.get(..end)?.parse().ok()?;
    let factor = match text.get(end..)? {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    Some(number * factor)
}

/// The data of a Secret as the server keeps it.
pub(crate) fn with_encoded_data(object: &Value) -> Value {
    use base64::Engine as _;
    let mut object = object.clone();
    // What is no text is for the server to refuse.
    let is_text = |texts: &Value| texts.as_object().is_some_and(|texts| texts.values().all(Value::is_string));
    if !object.get("stringData").is_some_and(is_text) {
        return object;
    }
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|members| members.remove("stringData"))
    else {
        return object;
    };
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        object["data"][key] = json!(encoded);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_the_path_of_a_conflict() {
        let object = json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "x", "app": "y"}},
            "spec": {"replicas": 3, "ports": [{"containerPort": 80}, {"containerPort": 81, "protocol": "UDP"}],
                "list": [{"name": "a]\"b", "image": "i"}], "set": ["x", "y"]},
        });
        for (path, pointer) in [
            (".spec.replicas", "/spec/replicas"),
            (".metadata.labels.app.kubernetes.io/name", "/metadata/labels/app.kubernetes.io~1name"),
            (".spec.list[name=\"a]\\\"b\"].image", "/spec/list/0/image"),
        ] {
            let mut without = object.clone();
            assert!(remove_field(&mut without, path), "{path}");
            assert!(
                object.pointer(pointer).is_some() && without.pointer(pointer).is_none(),
                "{path}: {without}"
            );
        }
        let mut without = object.clone();
        assert!(remove_field(&mut without, ".spec.ports[containerPort=80,protocol=\"TCP\"]"));
        assert!(remove_field(&mut without, ".spec.set[=\"x\"]"));
        assert_eq!(without["spec"]["ports"], json!([{"containerPort": 81, "protocol": "UDP"}]));
        assert_eq!(without["spec"]["set"], json!(["y"]));
        assert!(!remove_field(&mut without, ".spec.nothing"));
    }

    #[test]
    fn replicas_are_never_lowered_under_an_autoscaler() {
        let by_scaler = json!([{"manager": "kube-controller-manager", "operation": "Update", "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        for (wanted, owned, expected) in [
            (Some(3), false, Some(20)),
            (Some(30), false, Some(30)),
            (None, false, Some(20)),
            (Some(3), true, None),
            (None, true, None),
        ] {
            let mut configuration = json!({"spec": {"a": 1}});
            if let Some(wanted) = wanted {
                configuration["spec"]["replicas"] = json!(wanted);
            }
            let mut live = json!({"metadata": {}, "spec": {"replicas": 20}});
            if owned {
                live["metadata"]["managedFields"] = by_scaler.clone();
            }
            keep_replicas(&mut configuration, Some(&live));
            assert_eq!(configuration["spec"].get("replicas"), expected.map(|n: i64| json!(n)).as_ref());
        }
    }

    #[test]
    fn what_the_server_adds_and_how_it_writes_quantities_is_no_difference() {
        let live = json!({"spec": {"list": [{"name": "b"}, {"name": "a", "cpu": "500m", "x": 1}], "y": 2}});
        assert!(covers(&json!({"spec": {"list": [{"name": "a", "cpu": 0.5}], "empty": {}}}), &live));
        assert!(!covers(&json!({"spec": {"list": [{"name": "c"}]}}), &live));
        assert!(!covers(&json!({"spec": {"y": 3}}), &live));
    }
}
