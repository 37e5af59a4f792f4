//! A namespace of a test's own, and what tests do in it.

use std::time::{Duration, Instant};

use http::Method;
use kube::core::Status;
use serde_json::{Value, json};

use crate::kubelet::READY_ANNOTATION;
use crate::testbed::Testbed;

/// How long [`Namespace::wait`] waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of a test's own. Its helpers use the administrator's connection, never a proxy, and
/// panic on an error of the server; [`Namespace::request`] returns the error.
#[derive(Debug)]
pub struct Namespace {
    testbed: &'static Testbed,
    name: String,
}

impl Namespace {
    pub(crate) async fn create_in(testbed: &'static Testbed, name: String) -> Self {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "labels": {"rollback.test/testbed": "true"},
        }});
        testbed.request(Method::POST, "/api/v1/namespaces", "application/json", object).await.unwrap();
        Self { testbed, name }
    }

    /// The name of the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of an object, or of the list of its kind when the name is empty, here if the kind is
    /// a namespaced one. The kind is a kind's name; one that isn't built in is written
    /// `group/version/Kind`.
    pub fn path(&self, kind: &str, name: &str) -> String {
        let (base, plural, namespaced) = resource(kind);
        let scope = if namespaced { format!("/namespaces/{}", self.name) } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{base}{scope}/{plural}{name}")
    }

    /// One request on the administrator's connection.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Value,
    ) -> Result<Value, Box<Status>> {
        self.testbed.request(method, path, content_type, body).await
    }

    /// Creates an object.
    pub async fn create(&self, object: &Value) -> Value {
        let path = self.path(&kind_of(object), "");
        must(self.request(Method::POST, &path, "application/json", object.clone()).await, &path)
    }

    /// Creates or changes an object by server-side apply, as field manager `rollback-tests`.
    pub async fn apply(&self, object: &Value) -> Value {
        let name = object["metadata"]["name"].as_str().expect("an object with a name");
        let path = format!("{}?fieldManager=rollback-tests&force=true", self.path(&kind_of(object), name));
        let content_type = "application/apply-patch+yaml";
        must(self.request(Method::PATCH, &path, content_type, object.clone()).await, &path)
    }

    /// Changes an object by a JSON merge patch.
    pub async fn merge(&self, kind: &str, name: &str, change: &Value) -> Value {
        let path = self.path(kind, name);
        let content_type = "application/merge-patch+json";
        must(self.request(Method::PATCH, &path, content_type, change.clone()).await, &path)
    }

    /// Changes an object by a strategic merge patch, which merges containers by name.
    pub async fn patch(&self, kind: &str, name: &str, change: &Value) -> Value {
        let path = self.path(kind, name);
        let content_type = "application/strategic-merge-patch+json";
        must(self.request(Method::PATCH, &path, content_type, change.clone()).await, &path)
    }

    /// Reads an object that exists.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let path = self.path(kind, name);
        must(self.request(Method::GET, &path, "application/json", Value::Null).await, &path)
    }

    /// Reads an object; none is null.
    pub async fn get_if_exists(&self, kind: &str, name: &str) -> Value {
        let path = self.path(kind, name);
        match self.request(Method::GET, &path, "application/json", Value::Null).await {
            Err(status) if status.code == 404 => Value::Null,
            result => must(result, &path),
        }
    }

    /// Lists the objects of a kind that a label selector (may be empty) selects.
    pub async fn list(&self, kind: &str, selector: &str) -> Vec<Value> {
        let selector = selector.replace('=', "%3D").replace(',', "%2C");
        let path = format!("{}?labelSelector={selector}", self.path(kind, ""));
        let mut list = must(self.request(Method::GET, &path, "application/json", Value::Null).await, &path);
        serde_json::from_value(list["items"].take()).expect("a list has items")
    }

    /// Deletes an object in the background.
    pub async fn delete(&self, kind: &str, name: &str) {
        let path = self.path(kind, name);
        let options = json!({"propagationPolicy": "Background"});
        must(self.request(Method::DELETE, &path, "application/json", options).await, &path);
    }

    /// Waits until an object is as wanted, and returns it; null stands for none. Panics with the
    /// last object after a minute.
    pub async fn wait(&self, kind: &str, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let object = self.get_if_exists(kind, name).await;
            if wanted(&object) {
                return object;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{kind} {}/{name} is not {what} after {PATIENCE:?}: {object:#}",
                self.name
            );
            self.testbed.pause(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a list is as wanted, and returns it. Panics with the last list after a minute.
    pub async fn wait_list(
        &self,
        kind: &str,
        selector: &str,
        what: &str,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let begin = Instant::now();
        loop {
            let list = self.list(kind, selector).await;
            if wanted(&list) {
                return list;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{kind} in {} ({selector}) are not {what} after {PATIENCE:?}: {:#}",
                self.name,
                Value::from(list)
            );
            self.testbed.pause(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet has rolled out whole, and returns it.
    pub async fn rolled_out(&self, kind: &str, name: &str) -> Value {
        self.wait(kind, name, "rolled out", is_rolled_out).await
    }

    /// Overrides the readiness of a pod from here on.
    pub async fn set_ready(&self, pod: &str, ready: bool) {
        let patch = json!({"metadata": {"annotations": {READY_ANNOTATION: ready.to_string()}}});
        self.merge("Pod", pod, &patch).await;
    }

    /// Calls kubectl in this namespace.
    pub async fn kubectl(&self, args: &[&str]) -> crate::Output {
        self.testbed.kubectl(&[&["-n", &self.name], args].concat()).await
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.testbed.forget_namespace(&self.name);
    }
}

/// Whether all pods of a workload are of its newest template and available.
fn is_rolled_out(object: &Value) -> bool {
    let (spec, status) = (&object["spec"], &object["status"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    if object["metadata"]["generation"] != status["observedGeneration"] {
        return false;
    }
    if object["kind"] == "DaemonSet" {
        let desired = count("desiredNumberScheduled");
        return count("updatedNumberScheduled") == desired && count("numberAvailable") == desired;
    }
    let desired = spec["replicas"].as_u64().unwrap_or(1);
    // A StatefulSet counts available pods only since 1.22.
    let serving = if object["kind"] == "StatefulSet" { "readyReplicas" } else { "availableReplicas" };
    count("replicas") == desired && count("updatedReplicas") == desired && count(serving) == desired
}

fn must(result: Result<Value, Box<Status>>, path: &str) -> Value {
    result.unwrap_or_else(|status| panic!("{path}: {} {}: {}", status.code, status.reason, status.message))
}

fn kind_of(object: &Value) -> String {
    let version = object["apiVersion"].as_str().expect("an object with an apiVersion");
    let kind = object["kind"].as_str().expect("an object with a kind");
    format!("{version}/{kind}")
}

/// The path before the namespace, the plural, and whether the kind is namespaced.
fn resource(kind: &str) -> (String, String, bool) {
    let (version, kind) = match kind.rsplit_once('/') {
        Some((version, kind)) => (version, kind),
        None => (api_version(kind), kind),
    };
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let cluster = [
        "Namespace",
        "Node",
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "PriorityClass",
        "ValidatingWebhookConfiguration",
    ];
    let lower = kind.to_lowercase();
    let plural = match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if lower.ends_with('s') => format!("{lower}es"),
        None => format!("{lower}s"),
    };
    (base, plural, !cluster.contains(&kind))
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ControllerRevision" => "apps/v1",
        "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => "rbac.authorization.k8s.io/v1",
        "Lease" => "coordination.k8s.io/v1",
        "Job" => "batch/v1",
        "HorizontalPodAutoscaler" => "autoscaling/v1",
        // The only version that the server of 1.20 has.
        "PodDisruptionBudget" => "policy/v1beta1",
        "CustomResourceDefinition" => "apiextensions.k8s.io/v1",
        "Pod" | "ConfigMap" | "Secret" | "Service" | "ServiceAccount" | "ResourceQuota" | "Event"
        | "Node" | "Namespace" => "v1",
        _ => panic!("{kind} is not built in: write group/version/Kind"),
    }
}
