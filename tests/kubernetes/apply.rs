//! Applying a configuration over what other tools made.

use std::time::Duration;

use rollback_core::{ComponentId, ErrorKind, RunId, StepContext, StepId};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::cluster;

fn older() -> Value {
    let mut older = objects::deployment("web", "app:1", 1);
    older["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    older
}

/// With another image, another variable, a sidecar, a label and an annotation.
fn newer() -> Value {
    let mut newer = older();
    newer["metadata"]["labels"]["team"] = json!("b");
    newer["spec"]["template"]["metadata"]["annotations"] = json!({"added": "yes"});
    let containers = newer["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap();
    containers[0]["image"] = json!("app:2");
    containers[0]["env"] = json!([{"name": "A", "value": "2"}, {"name": "B", "value": "new"}]);
    containers.push(json!({"name": "sidecar", "image": "side:1"}));
    newer
}

/// Applies with kubectl, in one of its ways.
async fn kubectl(namespace: &Namespace, object: &Value, how: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.json");
    std::fs::write(&path, object.to_string()).unwrap();
    let file = path.to_str().unwrap();
    namespace.kubectl(&[how, &["-f", file]].concat()).await.ok();
}

/// What people ask for, without bookkeeping.
async fn observed(namespace: &Namespace) -> Value {
    let object = namespace.get("Deployment", "web").await;
    json!({"labels": object["metadata"]["labels"], "spec": object["spec"]})
}

async fn apply(namespace: &Namespace, object: &Value, force: bool) -> Result<u32, rollback_core::Error> {
    let component = ComponentId::new("environment", None, "staging").unwrap();
    let cx = StepContext::new(RunId::random(), StepId::new("x"), Duration::from_secs(30));
    let path = namespace.path("Deployment", "web");
    let cluster = cluster(Testbed::shared().await).await;
    cluster
        .apply(&cx, &component, (&path, "applying web"), force, |_| Ok(object.clone()))
        .await
        .map(|_| cx.writes())
}

#[tokio::test]
async fn what_the_newer_version_added_is_gone_however_it_was_applied() {
    let testbed = Testbed::shared().await;
    let plain = testbed.namespace("apply").await;
    kubectl(&plain, &older(), &["apply"]).await;
    let expected = observed(&plain).await;
    for how in [
        &["apply"][..],
        &["create", "--save-config"],
        &["create"],
        &["apply", "--server-side"],
        &["apply", "--server-side", "--field-manager=kubectl"],
    ] {
        let namespace = testbed.namespace("apply").await;
        kubectl(&namespace, &newer(), how).await;
        namespace.kubectl(&["set", "env", "deployment/web", "C=by-hand"]).await.ok();
        assert_eq!(apply(&namespace, &older(), false).await.unwrap(), 2, "{how:?}");
        assert_eq!(observed(&namespace).await, expected, "{how:?}");
        // Again there is nothing to take over, and the server writes nothing.
        let version = namespace.get("Deployment", "web").await["metadata"]["generation"].clone();
        assert_eq!(apply(&namespace, &older(), false).await.unwrap(), 1, "{how:?}");
        assert_eq!(namespace.get("Deployment", "web").await["metadata"]["generation"], version, "{how:?}");
    }
}

#[tokio::test]
async fn what_a_controller_owns_is_a_conflict_that_names_it_unless_forced() {
    let namespace = Testbed::shared().await.namespace("apply").await;
    kubectl(&namespace, &newer(), &["apply", "--server-side", "--field-manager=some-operator"]).await;
    let error = apply(&namespace, &older(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.to_string().contains("some-operator"), "{error}");
    assert!(apply(&namespace, &older(), true).await.is_ok());
    assert_eq!(
        namespace.get("Deployment", "web").await["spec"]["template"]["spec"]["containers"][0]["image"],
        "app:1"
    );
}

#[tokio::test]
async fn what_is_not_there_is_made() {
    let namespace = Testbed::shared().await.namespace("apply").await;
    assert_eq!(apply(&namespace, &older(), false).await.unwrap(), 1);
    assert_eq!(namespace.get("Deployment", "web").await["spec"]["replicas"], 1);
}
