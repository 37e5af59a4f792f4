//! Pod templates as KServe's controllers record them: what they run, and what differs between two of them.

use rollback_core::Fingerprint;
use rollback_k8s::json;
use serde_json::{Map, Value, json};

use crate::spec::{Observed, STORAGE, has_several, models, same_models, with_model};

const SOURCE_URI: &str = "internal.serving.kserve.io/storage-initializer-sourceuri";
const STORAGE_KEY: &str = "internal.serving.kserve.io/storage-spec-key";
const STORAGE_PARAMETERS: &str = "internal.serving.kserve.io/storage-spec-param";
/// What tells of the model, and follows from where the spec names it.
const OF_MODEL: [&str; 7] = [
    SOURCE_URI,
    STORAGE_KEY,
    STORAGE_PARAMETERS,
    "internal.serving.kserve.io/storage-spec",
    "internal.serving.kserve.io/localmodel",
    "internal.serving.kserve.io/localmodel-sourceuri",
    "internal.serving.kserve.io/localmodel-pvc-name",
];
const INITIALIZER: &str = "storage-initializer";
/// What stands in the annotation for the scheme that the storage's Secret holds.
const SCHEME_PLACEHOLDER: &str = "<scheme-placeholder>://";

/// The keys that tell nothing of what runs: bookkeeping of controllers and of rollbacks, and how many pods there
/// are.
fn is_bookkeeping(key: &str) -> bool {
    let prefixes = [
        "serving.knative.dev/",
        "autoscaling.knative.dev/",
        "client.knative.dev/",
        "deployment.kubernetes.io/",
    ];
    prefixes.iter().any(|prefix| key.starts_with(prefix))
        || matches!(key, "pod-template-hash" | "isvc.generation" | "kubectl.kubernetes.io/restartedAt")
}

/// What a template runs, without bookkeeping.
fn normalized(template: &Value) -> Value {
    let map = |kind: &str| {
        let held =
            template.pointer("/metadata").and_then(|metadata| metadata.get(kind)).and_then(Value::as_object);
        let held = held.into_iter().flatten().filter(|(key, _)| !is_bookkeeping(key));
        held.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>()
    };
    let spec = json::without_nulls(template["spec"].clone());
    json!({"metadata": {"labels": map("labels"), "annotations": map("annotations")}, "spec": spec})
}

/// The identity of what a template runs.
pub(crate) fn identity(template: &Value) -> Fingerprint {
    Fingerprint::of(&normalized(template))
}

/// The model that it runs.
pub(crate) fn observed(template: &Value) -> Observed {
    let annotation = |key: &str| json::annotation(template, key);
    let key = annotation(STORAGE_KEY).map(str::to_owned);
    let parameters = annotation(STORAGE_PARAMETERS).and_then(|text| serde_json::from_str(text).ok());
    if let Some(uri) = annotation(SOURCE_URI) {
        let model = match uri.strip_prefix(SCHEME_PLACEHOLDER) {
            Some(path) => format!("{STORAGE}{path}"),
            None => uri.to_owned(),
        };
        let is_storage = model.starts_with(STORAGE);
        return Observed { models: vec![model], key, parameters, is_storage, mounts: Vec::new() };
    }
    // Several are downloaded by init containers, whose arguments are pairs of URI and mount path.
    let mut all = Observed { key, ..Observed::default() };
    for container in initializers(template) {
        let mut args = json::items(container, "/args").iter().filter_map(Value::as_str);
        while let (Some(uri), Some(mount)) = (args.next(), args.next()) {
            all.models.push(uri.to_owned());
            all.mounts.push(mount.to_owned());
        }
    }
    all
}

fn initializers(template: &Value) -> impl Iterator<Item = &Value> {
    let all = json::items(template, "/spec/initContainers").iter();
    all.filter(|container| container["name"].as_str().is_some_and(|name| name.starts_with(INITIALIZER)))
}

/// The spec of a component of then, so far as templates tell.
pub(crate) struct Carried {
    pub(crate) spec: Value,
    /// Where the templates differ in what cannot be told from them.
    pub(crate) beyond: Vec<String>,
    /// The labels and annotations that differ: most are the object's own, which KServe copies, and belong to no spec.
    pub(crate) aside: Vec<String>,
}

/// The spec of a component as it was when it ran `then`, made from what it is while it runs `now`.
///
/// `object` is the InferenceService, whose own labels and annotations KServe copies.
pub(crate) fn carried(object: &Value, spec: &Value, now: &Value, then: &Value) -> Carried {
    let model = observed(then);
    let current = observed(now);
    // Of several, what is mounted shows nowhere: only a list that is wholly told can be put back.
    let is_told = !has_several(spec) || same_models(&current.models, &models(spec));
    let mut carried = match with_model(spec, &model).filter(|_| is_told) {
        Some(with_model) => with_model,
        None if model == current => spec.clone(),
        None => {
            let beyond = vec!["place of its model".into()];
            return Carried { spec: spec.clone(), beyond, aside: Vec::new() };
        }
    };
    let (mut now, mut then) = (without_model(now), without_model(then));
    carry_containers(&mut carried, &mut now, &mut then);
    carry_metadata(&mut carried, &mut now, &mut then);
    let differ = json::diff("", Some(&now), Some(&then)).into_iter().map(|field| field.path);
    let (aside, beyond) = differ.partition(|path| is_copied(object, path));
    Carried { spec: carried, beyond, aside }
}

/// Whether a path is that of a label or annotation which the object has itself. Any other one is of some spec.
fn is_copied(object: &Value, path: &str) -> bool {
    let key = |map: &str| {
        let key = path.strip_prefix(&format!("/metadata/{map}/"))?.replace("~1", "/").replace("~0", "~");
        object.pointer(&format!("/metadata/{map}"))?.get(&key)
    };
    key("labels").or_else(|| key("annotations")).is_some()
}

/// Carries the labels and annotations that the component's spec writes out.
fn carry_metadata(spec: &mut Value, now: &mut Value, then: &mut Value) {
    for map in ["labels", "annotations"] {
        let Some(Value::Object(written)) = spec.get_mut(map) else { continue };
        let keys: Vec<String> = written.keys().cloned().collect();
        for key in keys {
            let take = |template: &mut Value| {
                template.pointer_mut(&format!("/metadata/{map}"))?.as_object_mut()?.remove(&key)
            };
            let (before, after) = (take(now), take(then));
            match after {
                after if after == before => {}
                Some(after) => drop(written.insert(key, after)),
                None => drop(written.remove(&key)),
            }
        }
    }
}

/// Without what tells of the model.
fn without_model(template: &Value) -> Value {
    let mut template = normalized(template);
    for map in ["/metadata/annotations", "/metadata/labels"] {
        if let Some(Value::Object(map)) = template.pointer_mut(map) {
            map.retain(|key, _| !OF_MODEL.contains(&key.as_str()));
        }
    }
    if let Some(Value::Array(containers)) = template.pointer_mut("/spec/initContainers") {
        containers.retain(|container| {
            !container["name"].as_str().is_some_and(|name| name.starts_with(INITIALIZER))
        });
        if containers.is_empty()
            && let Some(spec) = template["spec"].as_object_mut()
        {
            spec.remove("initContainers");
        }
    }
    template
}

/// What a container of the pods takes from the component's spec as it is written there.
const AS_WRITTEN: [&str; 5] = ["image", "command", "args", "env", "resources"];
/// The variable that KServe adds to every container.
const SERVICE_NAME: &str = "INFERENCE_SERVICE_NAME";

/// Carries the differences between two templates into the containers that the spec writes out, and takes them out of
/// the templates.
fn carry_containers(spec: &mut Value, now: &mut Value, then: &mut Value) {
    let Some(Value::Array(written)) = spec.get_mut("containers") else { return };
    for container in written {
        // KServe names the first one, where it has no name.
        let name = container["name"].as_str().unwrap_or("kserve-container").to_owned();
        let (Some(now), Some(then)) = (named(now, &name), named(then, &name)) else { continue };
        for key in AS_WRITTEN {
            let held =
                [&mut *now, &mut *then].map(|c| c.as_object_mut().and_then(|members| members.remove(key)));
            let [before, after] = held;
            let same_model = key == "env" && variables(before.as_ref()) == variables(after.as_ref());
            if before == after || same_model {
                continue;
            }
            let after = if key == "env" { Some(variables(after.as_ref()).into()) } else { after };
            match after {
                Some(after) => container[key] = after,
                None => {
                    if let Some(members) = container.as_object_mut() {
                        members.remove(key);
                    }
                }
            }
        }
    }
}

fn named<'a>(template: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let containers = template.pointer_mut("/spec/containers")?.as_array_mut()?;
    containers.iter_mut().find(|container| container["name"] == name)
}

fn variables(env: Option<&Value>) -> Vec<Value> {
    let all = env.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    all.iter().filter(|variable| variable["name"] != SERVICE_NAME).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(uri: &str, image: &str) -> Value {
        json!({
            "metadata": {"annotations": {SOURCE_URI: uri, "autoscaling.knative.dev/min-scale": "1"}},
            "spec": {"containers": [{"name": "kserve-container", "image": image}]},
        })
    }

    #[test]
    fn the_model_is_read_from_the_annotation_or_from_the_arguments_of_the_init_container() {
        assert_eq!(observed(&template("s3://m/v4/", "x")).models, ["s3://m/v4/"]);
        assert_eq!(observed(&template("<scheme-placeholder>://m/v4", "x")).models, ["storage:m/v4"]);
        let several = json!({"spec": {"initContainers": [
            {"name": "other", "args": ["a", "b"]},
            {"name": "storage-initializer", "args": ["s3://m/v4", "/mnt/a", "s3://n/v1", "/mnt/b"]},
        ]}});
        let found = observed(&several);
        assert_eq!(
            (found.models.join(" "), found.mounts.join(" ")),
            ("s3://m/v4 s3://n/v1".into(), "/mnt/a /mnt/b".into())
        );
    }

    #[test]
    fn scaling_is_no_other_template_and_another_image_of_the_runtime_cannot_be_carried() {
        let mut scaled = template("s3://m/v4", "x:1");
        scaled["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] = json!("5");
        assert_eq!(identity(&scaled), identity(&template("s3://m/v4", "x:1")));
        let spec = json!({"model": {"storageUri": "s3://m/v5"}});
        let object = json!({"metadata": {"labels": {"chart": "2"}}});
        let from = |now: &Value| carried(&object, &spec, now, &template("s3://m/v4", "x:1"));
        let back = from(&template("s3://m/v5", "x:1"));
        assert_eq!((&back.spec["model"]["storageUri"], back.beyond.len()), (&json!("s3://m/v4"), 0));
        let mut labelled = template("s3://m/v5", "x:2");
        labelled["metadata"]["labels"] = json!({"chart": "2"});
        let Carried { beyond, aside, .. } = from(&labelled);
        assert_eq!(aside, ["/metadata/labels/chart"]);
        assert_eq!(beyond, ["/spec/containers/kserve-container/image"]);
    }

    #[test]
    fn a_container_that_the_spec_writes_out_comes_back_whole() {
        let pod = |image: &str, env: Value| json!({"spec": {"containers": [{"name": "t", "image": image, "env": env}]}});
        let own = json!({"name": SERVICE_NAME, "value": "m"});
        let spec =
            json!({"containers": [{"name": "t", "image": "t:2", "env": [{"name": "A", "value": "2"}]}]});
        let now = pod("t:2", json!([{"name": "A", "value": "2"}, own]));
        let then = pod("t:1", json!([own]));
        let back = carried(&Value::Null, &spec, &now, &then);
        let whole = json!({"containers": [{"name": "t", "image": "t:1", "env": []}]});
        assert_eq!((back.spec, back.beyond.len()), (whole, 0));
    }
}
