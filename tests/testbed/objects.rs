//! Builders of the objects that tests start from; a test changes the JSON as it likes.

use serde_json::{Value, json};

/// A Deployment of one container named `app`, whose pods carry the label `app: <name>`.
pub fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    workload("Deployment", name, image, &json!({"replicas": replicas}))
}

/// A StatefulSet of one container named `app`, whose pods carry the label `app: <name>`.
pub fn stateful_set(name: &str, image: &str, replicas: u32) -> Value {
    workload("StatefulSet", name, image, &json!({"replicas": replicas, "serviceName": name}))
}

/// A DaemonSet of one container named `app`, whose pods carry the label `app: <name>`.
pub fn daemon_set(name: &str, image: &str) -> Value {
    workload("DaemonSet", name, image, &json!({}))
}

/// A `ConfigMap`.
pub fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// The merge patch that sets the image of the container `app` of a workload.
pub fn image_patch(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}})
}

fn workload(kind: &str, name: &str, image: &str, spec: &Value) -> Value {
    let labels = json!({"app": name});
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    });
    object["spec"]["selector"] = json!({"matchLabels": labels});
    object["spec"]["template"] = json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "app", "image": image}]},
    });
    object
}
