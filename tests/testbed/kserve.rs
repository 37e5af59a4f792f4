//! A stand-in for the controllers of KServe and Knative Serving, so far as rollbacks meet them, on real objects of
//! the real API server.
//!
//! It plays KServe 0.15 to 0.20: what is written to the children, and the rules by which traffic moves, are those of
//! `ksvc_reconciler.go` and `PropagateStatus`, one step for each reconciliation, so that what takes KServe two takes
//! it two. Deployments are real; Knative Revisions are objects that become ready by the name of their model, as pods
//! do by the tag of their image. The webhooks that set defaults are not played.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The kind of `InferenceServices`, as [`Namespace`](crate::Namespace) takes it.
///
/// The last part of a model's URI tells what serves it: it is ready at once, unless it begins with `slow` (ready
/// after some seconds), `never-ready` (neither ready nor failed) or `crash-loop` (fails).
pub const SERVICES: &str = "serving.kserve.io/v1beta1/InferenceService";
/// The kind of Knative Revisions.
pub const REVISIONS: &str = "serving.knative.dev/v1/Revision";
/// The annotation of an `InferenceService` that keeps the controller away, as if it had crashed.
pub const PAUSED: &str = "rollback.test/paused";

/// The annotation of an `InferenceService` that scales Knative revisions which have traffic: a JSON object of their
/// names and numbers of pods.
pub const SCALED: &str = "rollback.test/scaled";

pub(crate) const SOURCE_URI: &str = "internal.serving.kserve.io/storage-initializer-sourceuri";
const OWNER_LABEL: &str = "serving.kserve.io/inferenceservice";
const SLOW: Duration = Duration::from_secs(2);

type Key = (String, String);

pub(crate) async fn start(client: Client) {
    for (group, kind, plural, version, status) in [
        ("serving.kserve.io", "InferenceService", "inferenceservices", "v1beta1", true),
        ("serving.knative.dev", "Revision", "revisions", "v1", false),
    ] {
        install(&client, group, kind, plural, version, status).await;
    }
    let (sender, receiver) = unbounded_channel();
    let services = ApiResource {
        group: "serving.kserve.io".into(),
        version: "v1beta1".into(),
        api_version: "serving.kserve.io/v1beta1".into(),
        kind: "InferenceService".into(),
        plural: "inferenceservices".into(),
    };
    let deployments = ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&());
    tokio::spawn(follow(client.clone(), services, sender.clone(), |object| object.metadata.name.clone()));
    tokio::spawn(follow(client.clone(), deployments, sender.clone(), |object| {
        object.metadata.labels.as_ref()?.get(OWNER_LABEL).cloned()
    }));
    tokio::spawn(work(client, sender, receiver));
}

async fn install(client: &Client, group: &str, kind: &str, plural: &str, version: &str, status: bool) {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut served = json!({
        "name": version, "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open, "status": open}}},
    });
    if status {
        served["subresources"] = json!({"status": {}});
    }
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "versions": [served],
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(client, Method::POST, path, "application/json", &definition).await.expect("install a definition");
    let list = format!("/apis/{group}/{version}/{plural}");
    while send(client, Method::GET, &list, "application/json", &Value::Null).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn follow(
    client: Client,
    resource: ApiResource,
    sender: UnboundedSender<Key>,
    name: fn(&DynamicObject) -> Option<String>,
) {
    let api = Api::<DynamicObject>::all_with(client, &resource);
    watcher(api, watcher::Config::default())
        .default_backoff()
        .for_each(|event| {
            if let Ok(
                watcher::Event::Apply(object)
                | watcher::Event::InitApply(object)
                | watcher::Event::Delete(object),
            ) = event
                && let (Some(namespace), Some(name)) = (object.metadata.namespace.clone(), name(&object))
            {
                let _ = sender.send((namespace, name));
            }
            std::future::ready(())
        })
        .await;
}

/// Reconciles one after the other; what fails, or has to wait, comes again.
async fn work(client: Client, sender: UnboundedSender<Key>, mut receiver: UnboundedReceiver<Key>) {
    let mut due = Vec::new();
    while receiver.recv_many(&mut due, 1000).await > 0 {
        let keys: HashSet<Key> = due.drain(..).collect();
        for key in keys {
            // Gone, or changed meanwhile, or there is something to wait for.
            if !matches!(reconcile(&client, &key.0, &key.1).await, Ok(false)) {
                let sender = sender.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = sender.send(key);
                });
            }
        }
    }
}

async fn send(client: &Client, method: Method, path: &str, kind: &str, body: &Value) -> kube::Result<Value> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body);
    client.request(request.expect("build a request")).await
}

async fn get(client: &Client, path: &str) -> kube::Result<Option<Value>> {
    match send(client, Method::GET, path, "application/json", &Value::Null).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        other => other.map(Some),
    }
}

/// One reconciliation; whether it has to come again without anything changing.
async fn reconcile(client: &Client, namespace: &str, name: &str) -> kube::Result<bool> {
    let path = format!("/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}");
    let Some(service) = get(client, &path).await? else { return Ok(false) };
    let metadata = &service["metadata"];
    if metadata["annotations"][PAUSED] == "true" || !metadata["deletionTimestamp"].is_null() {
        return Ok(metadata["annotations"][PAUSED] == "true");
    }
    let mode = metadata["annotations"]["serving.kserve.io/deploymentMode"].as_str().unwrap_or("Standard");
    let mut status = service["status"].clone();
    if status.is_null() {
        status = json!({"conditions": [{"type": "Ready", "status": "Unknown"}], "components": {}});
    }
    status["deploymentMode"] = json!(mode);
    let mut again = false;
    let components = ["predictor", "transformer", "explainer"];
    if service["spec"].to_string().contains("ftp://") {
        // What it cannot download, it says and leaves alone.
        status["modelStatus"] = json!({
            "transitionStatus": "InvalidSpec",
            "states": {"activeModelState": "Loaded", "targetModelState": ""},
            "lastFailureInfo": {"reason": "InvalidStorageURI", "message": "StorageURI not supported"},
        });
        return set_status(client, &path, &service, &status).await.map(|()| false);
    }
    for component in components.into_iter().filter(|component| service["spec"][component].is_object()) {
        again |= match mode {
            "Knative" | "Serverless" => knative(client, namespace, &service, component, &mut status).await?,
            _ => standard(client, namespace, &service, component, &mut status).await?,
        };
    }
    set_status(client, &path, &service, &status).await?;
    Ok(again)
}

async fn set_status(client: &Client, path: &str, service: &Value, status: &Value) -> kube::Result<()> {
    if *status != service["status"] {
        let version = service["metadata"]["resourceVersion"].clone();
        let change = without_old(&service["status"], status);
        let change = json!({"metadata": {"resourceVersion": version}, "status": change});
        send(client, Method::PATCH, &format!("{path}/status"), "application/merge-patch+json", &change)
            .await?;
    }
    Ok(())
}

/// A merge patch keeps what it does not name.
fn without_old(before: &Value, after: &Value) -> Value {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return after.clone() };
    let mut patch: Map<String, Value> = new
        .iter()
        .map(|(key, value)| (key.clone(), without_old(&old.get(key).cloned().unwrap_or_default(), value)))
        .collect();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch.into()
}

/// The pods of a component as KServe writes them.
fn template(service: &Value, component: &str, spec: &Value) -> Value {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let mut annotations: Map<String, Value> =
        service["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|key, _| {
        !key.starts_with("rollback.test/") && key != "kubectl.kubernetes.io/last-applied-configuration"
    });
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for (map, own) in [(&mut annotations, &spec["annotations"]), (&mut labels, &spec["labels"])] {
        map.extend(own.as_object().cloned().unwrap_or_default());
    }
    labels.insert(OWNER_LABEL.into(), json!(name));
    labels.insert("component".into(), json!(component));
    let mut containers = spec["containers"].as_array().cloned().unwrap_or_default();
    for (_, member) in spec.as_object().into_iter().flatten() {
        if !member.is_object()
            || (member["storageUri"].is_null()
                && member["storage"].is_null()
                && member["modelFormat"].is_null())
        {
            continue;
        }
        if let Some(uri) = member["storageUri"].as_str() {
            annotations.insert(SOURCE_URI.into(), json!(uri));
        } else if let Some(path) = member["storage"]["path"].as_str() {
            annotations.insert(SOURCE_URI.into(), json!(format!("<scheme-placeholder>://{path}")));
            annotations.insert("internal.serving.kserve.io/storage-spec".into(), json!("true"));
            for (name, part) in [("key", "storage-spec-key"), ("parameters", "storage-spec-param")] {
                let told = &member["storage"][name];
                if !told.is_null() {
                    let text = told.as_str().map_or_else(|| told.to_string(), str::to_owned);
                    annotations.insert(format!("internal.serving.kserve.io/{part}"), json!(text));
                }
            }
        }
        let runtime = member["runtime"].as_str().unwrap_or("xgbserver-1");
        let mut container = json!({"name": "kserve-container", "image": format!("runtime:{runtime}")});
        if !member["resources"].is_null() {
            container["resources"] = member["resources"].clone();
        }
        containers.push(container);
    }
    for container in &mut containers {
        if container["name"].is_null() {
            container["name"] = json!("kserve-container");
        }
        let mut env = container["env"].as_array().cloned().unwrap_or_default();
        if let Some(uri) = env.iter().find(|variable| variable["name"] == "STORAGE_URI") {
            annotations.insert(SOURCE_URI.into(), uri["value"].clone());
        }
        env.push(json!({"name": "INFERENCE_SERVICE_NAME", "value": name}));
        container["env"] = env.into();
    }
    if !spec["batcher"].is_null() {
        let size = spec["batcher"]["maxBatchSize"].to_string();
        annotations.insert("internal.serving.kserve.io/batcher-max-batchsize".into(), json!(size));
    }
    let mut pods = json!({"containers": containers});
    if let Some(all) = spec["storageUris"].as_array() {
        let args: Vec<&Value> = all.iter().flat_map(|item| [&item["uri"], &item["mountPath"]]).collect();
        pods["initContainers"] = json!([{"name": "storage-initializer", "image": "storage:1", "args": args}]);
    }
    json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": pods})
}

fn owner(service: &Value) -> Value {
    json!([{
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "controller": true,
        "name": service["metadata"]["name"], "uid": service["metadata"]["uid"],
    }])
}

async fn knative(
    client: &Client,
    namespace: &str,
    service: &Value,
    component: &str,
    status: &mut Value,
) -> kube::Result<bool> {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let spec = &service["spec"][component];
    let mut wanted = template(service, component, spec);
    let least = spec["minReplicas"].as_i64().unwrap_or(1);
    wanted["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] = json!(least.to_string());
    let path = format!("/apis/serving.knative.dev/v1/namespaces/{namespace}/revisions");
    let query = format!("{path}?labelSelector={OWNER_LABEL}%3D{name},component%3D{component}");
    let list = send(client, Method::GET, &query, "application/json", &Value::Null).await?;
    let mut revisions: BTreeMap<i64, Value> = BTreeMap::new();
    for revision in list["items"].as_array().into_iter().flatten() {
        let number = revision["metadata"]["labels"]["serving.knative.dev/configurationGeneration"].as_str();
        revisions.insert(number.and_then(|text| text.parse().ok()).unwrap_or_default(), revision.clone());
    }
    let is_wanted = |revision: &Value| {
        let own = json!({
            "metadata": {"labels": bare(&revision["metadata"]["labels"]), "annotations": bare(&revision["metadata"]["annotations"])},
            "spec": revision["spec"],
        });
        own == wanted
    };
    if !revisions.last_key_value().is_some_and(|(_, newest)| is_wanted(newest)) {
        let number = revisions.last_key_value().map_or(1, |(number, _)| number + 1);
        let mut revision = wanted.clone();
        revision["apiVersion"] = json!("serving.knative.dev/v1");
        revision["kind"] = json!("Revision");
        revision["metadata"]["name"] = json!(format!("{name}-{component}-{number:05}"));
        revision["metadata"]["labels"]["serving.knative.dev/configurationGeneration"] =
            json!(number.to_string());
        revision["metadata"]["annotations"]["serving.knative.dev/creator"] = json!("stand-in");
        revision["metadata"]["ownerReferences"] = owner(service);
        revision["status"] =
            json!({"conditions": [{"type": "Ready", "status": "Unknown"}], "actualReplicas": 0});
        let made = send(client, Method::POST, &path, "application/json", &revision).await?;
        revisions.insert(number, made);
    }
    let mut again = false;
    for revision in revisions.values_mut() {
        again |= run(client, &path, revision, least).await?;
    }
    let own = &mut status["components"][component];
    let text = |own: &Value, key: &str| own[key].as_str().unwrap_or_default().to_owned();
    let is_ready = |revision: &&Value| revision["status"]["conditions"][0]["status"] == "True";
    let named = |revision: &Value| revision["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let latest = revisions.values().next_back().map(named).unwrap_or_default();
    let ready = revisions.values().rev().find(is_ready).map(named).unwrap_or_default();
    own["latestCreatedRevision"] = json!(latest);
    if ready.is_empty() {
        return Ok(again);
    }
    own["latestReadyRevision"] = json!(ready);
    let percent = spec["canaryTrafficPercent"].as_i64();
    let rolled_out = text(own, "latestRolledoutRevision");
    let mut traffic = Vec::new();
    match percent {
        Some(percent) if !rolled_out.is_empty() => {
            traffic.push(json!({"latestRevision": true, "percent": percent, "revisionName": ready}));
            if percent < 100 {
                let rest = 100 - percent;
                traffic.push(json!({"latestRevision": false, "percent": rest, "revisionName": rolled_out, "tag": "prev"}));
            }
        }
        _ => traffic.push(json!({"latestRevision": true, "percent": 100, "revisionName": ready})),
    }
    let scaled = service["metadata"]["annotations"][SCALED].as_str().unwrap_or("{}");
    let scaled: Value = serde_json::from_str(scaled).unwrap_or_default();
    for revision in revisions.values_mut() {
        let name = named(revision);
        let is_routed = traffic.iter().any(|entry| entry["revisionName"] == name && entry["percent"] != 0);
        // Knative lets go of the pods of a revision that gets no traffic, whatever its least number.
        let pods = scaled.get(&name).and_then(Value::as_i64).unwrap_or(least);
        let pods = if is_ready(&&*revision) && (is_routed || name == latest) { pods } else { 0 };
        if revision["status"]["actualReplicas"] != pods {
            let change = json!({"status": {"actualReplicas": pods}});
            *revision = send(
                client,
                Method::PATCH,
                &format!("{path}/{name}"),
                "application/merge-patch+json",
                &change,
            )
            .await?;
        }
    }
    let newest_share = traffic[0]["percent"].as_i64().unwrap_or_default();
    own["traffic"] = json!(traffic);
    let previous = text(own, "previousRolledoutRevision");
    if newest_share == 100 {
        if rolled_out != ready {
            own["previousRolledoutRevision"] = json!(rolled_out);
            own["latestRolledoutRevision"] = json!(ready);
        }
    } else if ready == rolled_out && ready == latest && !previous.is_empty() {
        own["latestRolledoutRevision"] = json!(previous);
    }
    if component == "predictor" {
        let newest = revisions.values().next_back().cloned().unwrap_or_default();
        tell_model(status, newest["status"]["conditions"][0]["status"].as_str().unwrap_or_default(), &latest);
    }
    Ok(again)
}

/// Without what Knative adds.
fn bare(map: &Value) -> Value {
    let kept = map.as_object().into_iter().flatten();
    kept.filter(|(key, _)| !key.starts_with("serving.knative.dev/"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// Lets the pods of a revision come up; whether it is still on the way.
async fn run(client: &Client, path: &str, revision: &mut Value, least: i64) -> kube::Result<bool> {
    if revision["status"]["conditions"][0]["status"] != "Unknown" {
        return Ok(false);
    }
    let uri = revision["metadata"]["annotations"][SOURCE_URI].as_str().unwrap_or_default();
    let model = uri.rsplit('/').next().unwrap_or_default();
    let created: Option<Timestamp> =
        revision["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
    let age = created.map_or(Duration::ZERO, |at| Timestamp::now().duration_since(at).unsigned_abs());
    let state = match model {
        model if model.starts_with("never-ready") => return Ok(false),
        model if model.starts_with("crash-loop") => "False",
        // Times are of whole seconds.
        model if model.starts_with("slow") && age < SLOW + Duration::from_secs(1) => return Ok(true),
        _ => "True",
    };
    let name = revision["metadata"]["name"].as_str().unwrap_or_default();
    let status = json!({
        "conditions": [{"type": "Ready", "status": state}],
        "actualReplicas": if state == "True" { least } else { 0 },
    });
    let change = json!({"status": status});
    *revision =
        send(client, Method::PATCH, &format!("{path}/{name}"), "application/merge-patch+json", &change)
            .await?;
    Ok(false)
}

fn tell_model(status: &mut Value, ready: &str, revision: &str) {
    status["modelStatus"] = match ready {
        "True" => json!({
            "transitionStatus": "UpToDate",
            "states": {"activeModelState": "Loaded", "targetModelState": "Loaded"},
        }),
        "False" => json!({
            "transitionStatus": "BlockedByFailedLoad",
            "states": {"activeModelState": "Loaded", "targetModelState": "FailedToLoad"},
            "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no such model", "modelRevisionName": revision},
        }),
        _ => json!({
            "transitionStatus": "InProgress",
            "states": {"activeModelState": "Loaded", "targetModelState": "Loading"},
        }),
    };
    let ready = if ready == "False" { "False" } else { "True" };
    status["conditions"] = json!([{"type": "Ready", "status": ready}]);
}

async fn standard(
    client: &Client,
    namespace: &str,
    service: &Value,
    component: &str,
    status: &mut Value,
) -> kube::Result<bool> {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let own_name = |spec: &Value| match spec["name"].as_str() {
        Some(own) => format!("{name}-{own}-{component}"),
        None => format!("{name}-{component}"),
    };
    let mut wanted = BTreeMap::from([(own_name(&service["spec"][component]), &service["spec"][component])]);
    let canaries = service["spec"]["canary"].as_array().filter(|_| component == "predictor");
    wanted.extend(
        canaries.into_iter().flatten().map(|canary| (own_name(&canary["predictor"]), &canary["predictor"])),
    );
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let query = format!("{path}?labelSelector={OWNER_LABEL}%3D{name},component%3D{component}");
    let list = send(client, Method::GET, &query, "application/json", &Value::Null).await?;
    let existing: BTreeMap<String, Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| (item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), item.clone()))
        .collect();
    // What is no more wanted is an orphan, and goes with its history.
    for orphan in existing.keys().filter(|name| !wanted.contains_key(*name)) {
        let options = json!({"propagationPolicy": "Background"});
        send(client, Method::DELETE, &format!("{path}/{orphan}"), "application/json", &options).await?;
    }
    let mut canary_statuses = Vec::new();
    for (child, spec) in &wanted {
        let labels = json!({"app": format!("isvc.{child}")});
        let mut pods = template(service, component, spec);
        pods["metadata"]["labels"]["app"] = labels["app"].clone();
        let mut meta = pods["metadata"].clone();
        meta["name"] = json!(child);
        meta["ownerReferences"] = owner(service);
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {
                "replicas": spec["minReplicas"].as_i64().unwrap_or(1), "revisionHistoryLimit": 10,
                "selector": {"matchLabels": labels}, "template": pods,
            },
        });
        // Applied, so that whatever somebody else changed of it is put right.
        let apply = format!("{path}/{child}?fieldManager=kserve-controller&force=true");
        let done = send(client, Method::PATCH, &apply, "application/apply-patch+yaml", &object).await?;
        let main = *child == own_name(&service["spec"][component]);
        let count = |key: &str| done["status"][key].as_i64().unwrap_or_default();
        let replicas = done["spec"]["replicas"].as_i64().unwrap_or_default();
        let is_done = done["status"]["observedGeneration"] == done["metadata"]["generation"]
            && count("updatedReplicas") == replicas
            && count("replicas") == replicas
            && count("availableReplicas") == replicas;
        if !main {
            canary_statuses.push(json!({"name": spec["name"], "ready": count("availableReplicas") > 0}));
        } else if component == "predictor" {
            tell_model(status, if is_done { "True" } else { "Unknown" }, "");
            // As KServe has it: true while any pods are available, old ones too.
            let ready = if count("availableReplicas") > 0 { "True" } else { "False" };
            status["conditions"] = json!([{"type": "Ready", "status": ready}]);
        }
    }
    if component == "predictor" {
        match (canary_statuses.is_empty(), status.as_object_mut()) {
            (true, Some(members)) => drop(members.remove("canaryStatuses")),
            _ => status["canaryStatuses"] = json!(canary_statuses),
        }
    }
    Ok(false)
}
