//! The stand-in for scheduler and kubelets: binds pods, sets their status, finishes their deletion.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::pod_status;

/// The nodes that the stand-in registers.
pub const NODES: [&str; 2] = ["node-a", "node-b"];

/// The annotation of a pod that overrides its readiness: `"true"` or `"false"`.
pub const READY_ANNOTATION: &str = "rollback.test/ready";

/// How many pods are worked on at once.
const CONCURRENCY: usize = 32;

/// Registers the nodes and then looks after all pods for ever.
pub(crate) async fn start(client: Client) {
    for name in NODES {
        register(&client, name).await;
    }
    tokio::spawn(run(client));
}

async fn register(client: &Client, name: &str) {
    let room = json!({"cpu": "1000", "memory": "4Ti", "pods": "10000", "ephemeral-storage": "4Ti"});
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": "Testbed", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }},
    }))
    .expect("a node");
    let status = json!({"status": {
        "capacity": room, "allocatable": room,
        "addresses": [{"type": "Hostname", "address": name}],
        "conditions": [
            condition("Ready", "True"), condition("MemoryPressure", "False"),
            condition("DiskPressure", "False"), condition("PIDPressure", "False"),
        ],
    }});
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &node).await.expect("register a node");
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("set the status of a node");
}

async fn run(client: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    watcher(pods, watcher::Config::default())
        .default_backoff()
        .for_each_concurrent(CONCURRENCY, |event| async {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => look_after(client.clone(), pod).await,
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
                Err(error) => eprintln!("testbed: the watch of pods starts again: {error}"),
            }
        })
        .await;
}

/// Takes the one next step of a pod; its effect is a new event, which leads to the one after.
async fn look_after(client: Client, pod: Pod) {
    let Some(namespace) = pod.namespace() else { return };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = pod.name_any();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let now = Timestamp::now();
    if pod.metadata.deletion_timestamp.is_some() {
        if !pod_status::has_tag(&pod, "stuck-terminating") {
            let uid = Preconditions { uid: pod.uid(), resource_version: None };
            let params = DeleteParams::default().grace_period(0).preconditions(uid);
            tolerate("delete", &name, pods.delete(&name, &params).await);
        }
    } else if matches!(phase, Some("Succeeded" | "Failed")) {
        // Its containers have ended for good.
    } else if bound {
        let (patch, again) = pod_status::patch(&pod, now);
        if let Some(patch) = patch {
            set_status(&pods, &name, &patch).await;
        }
        if again {
            tokio::spawn(look_again(client, namespace, name));
        }
    } else if pod_status::has_tag(&pod, "unschedulable") {
        if let Some(patch) = pod_status::unschedulable(&pod, now) {
            set_status(&pods, &name, &patch).await;
        }
    } else {
        bind(&pods, &pod).await;
    }
}

/// A slow pod: nothing else may happen to it, so no event would remind of it.
async fn look_again(client: Client, namespace: String, name: String) {
    tokio::time::sleep(pod_status::SLOW + Duration::from_secs(1)).await;
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let Ok(pod) = pods.get(&name).await else { return };
    if pod.metadata.deletion_timestamp.is_none()
        && let (Some(patch), _) = pod_status::patch(&pod, Timestamp::now())
    {
        set_status(&pods, &name, &patch).await;
    }
}

async fn set_status(pods: &Api<Pod>, name: &str, patch: &serde_json::Value) {
    let done = pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    tolerate("set the status of", name, done);
}

async fn bind(pods: &Api<Pod>, pod: &Pod) {
    let name = pod.name_any();
    let node = wanted_node(pod).unwrap_or_else(|| {
        let turn = pod.uid().unwrap_or_default().bytes().map(usize::from).sum::<usize>();
        NODES[turn % NODES.len()].to_owned()
    });
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let done = pods
        .create_subresource::<_, serde_json::Value>("binding", &name, &PostParams::default(), &binding)
        .await;
    tolerate("bind", &name, done);
}

/// The node that a DaemonSet's pod is for.
fn wanted_node(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == "metadata.name")
        .find_map(|field| field.values.as_ref()?.first().cloned())
}

/// A pod that is gone or has changed brings an event of its own.
fn tolerate<T>(what: &str, name: &str, result: kube::Result<T>) {
    match result {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => eprintln!("testbed: can't {what} pod {name}: {error}"),
    }
}
