//! Facts about the API server that the design relies on.

use http::Method;
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";

async fn deployment(namespace: &Namespace) -> (String, Value) {
    namespace.create(&objects::deployment("web", "app:1", 1)).await;
    let object = namespace.rolled_out("Deployment", "web").await;
    (namespace.path("Deployment", "web"), object)
}

#[tokio::test]
async fn a_json_patch_that_tests_the_generation_is_a_guard_that_status_updates_leave_alone() {
    let namespace = Testbed::shared().await.namespace("guard").await;
    let (path, object) = deployment(&namespace).await;
    let generation = object["metadata"]["generation"].as_i64().unwrap();
    let guarded = |generation: i64, replicas: u32| {
        json!([
            {"op": "test", "path": "/metadata/uid", "value": object["metadata"]["uid"]},
            {"op": "test", "path": "/metadata/generation", "value": generation},
            {"op": "replace", "path": "/spec/replicas", "value": replicas},
        ])
    };
    namespace.request(Method::PATCH, &path, JSON_PATCH, guarded(generation, 2)).await.unwrap();
    let after = namespace.rolled_out("Deployment", "web").await;
    assert_eq!(after["metadata"]["generation"], generation + 1);
    assert_ne!(after["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);

    let refusal =
        namespace.request(Method::PATCH, &path, JSON_PATCH, guarded(generation, 3)).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (422, "Invalid"));
    assert_eq!(namespace.get("Deployment", "web").await["spec"]["replicas"], 2);

    namespace.request(Method::PATCH, &path, JSON_PATCH, guarded(generation + 1, 3)).await.unwrap();
    assert_eq!(namespace.get("Deployment", "web").await["spec"]["replicas"], 3);
}

#[tokio::test]
async fn a_merge_patch_of_a_stale_version_conflicts() {
    let namespace = Testbed::shared().await.namespace("stale").await;
    let (path, object) = deployment(&namespace).await;
    let change = json!({
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
        "spec": {"replicas": 2},
    });
    namespace.request(Method::PATCH, &path, MERGE_PATCH, change.clone()).await.unwrap();
    let refusal = namespace.request(Method::PATCH, &path, MERGE_PATCH, change).await.unwrap_err();
    assert_eq!((refusal.code, refusal.reason.as_str()), (409, "Conflict"));
}

#[tokio::test]
async fn server_side_apply_keeps_fields_that_client_side_apply_set() {
    let namespace = Testbed::shared().await.namespace("managers").await;
    let mut newer = objects::deployment("web", "app:2", 1);
    newer["spec"]["template"]["spec"]["containers"] = json!([
        {"name": "app", "image": "app:2", "env": [{"name": "NEWER", "value": "1"}]},
        {"name": "sidecar", "image": "app:2"},
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.json");
    let apply = async |object: &Value, flags: &[&str]| {
        std::fs::write(&file, object.to_string()).unwrap();
        let args = [&["apply", "-f", file.to_str().unwrap()], flags].concat();
        namespace.kubectl(&args).await.ok();
        namespace.get("Deployment", "web").await["spec"]["template"]["spec"]["containers"].clone()
    };
    apply(&newer, &[]).await;

    // By the API alone, as a controller would.
    let older = objects::deployment("web", "app:1", 1);
    let kept = namespace.apply(&older).await;
    let containers = kept["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers[0]["image"], "app:1");
    assert_eq!(containers[0]["env"][0]["name"], "NEWER");
    assert_eq!(containers.len(), 2);

    // kubectl first moves the fields of client-side apply to the new manager.
    let moved = apply(&older, &["--server-side", "--field-manager=other", "--force-conflicts"]).await;
    assert_eq!(moved.as_array().unwrap().len(), 1, "{moved:#}");
    assert!(moved[0]["env"].is_null(), "{moved:#}");
}
