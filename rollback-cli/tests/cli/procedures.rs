//! The procedures that people carry out by hand, word for word.

use rollback_tests::{Namespace, Testbed};
use serde_json::{Value, json};

use crate::{deployed, image, json, rollback, rollback_in};

const STAGING: &str = "inflow-staging";

/// The namespace of the procedures; one test has it, so its name may be fixed.
async fn staging() -> Namespace {
    Testbed::shared().await.namespace_named(STAGING).await
}

#[tokio::test]
async fn the_service_procedure_works_word_for_word() {
    let namespace = staging().await;
    crate::deploy(&namespace, "inference-service", &["app:1", "app:2", "app:3"]).await;
    namespace.rolled_out("Deployment", "inference-service").await;
    let service = "deployment/inference-service";

    let history = rollback(&["history", service, "-n", STAGING]).await.ok();
    assert!(history.contains("app:3") && history.contains("app:1"), "{history}");
    let status = rollback(&["status", service, "-n", STAGING]).await.ok();
    assert!(status.contains("successfully rolled out"), "{status}");

    let undo = rollback(&["undo", service, "-n", STAGING, "--yes"]).await;
    assert_eq!((undo.code, image(&namespace, "inference-service").await.as_str()), (0, "app:2"), "{undo:?}");
    assert!(undo.stdout.contains("rolled back (3 → 2)"), "{undo:?}");

    // After that undo, revision 2 is number 4: kubectl would not find it any more.
    let kubectl = namespace.kubectl(&["rollout", "undo", service, "--to-revision=2"]).await;
    assert_ne!(kubectl.code, 0, "{kubectl:?}");
    let again = rollback(&["undo", service, "-n", STAGING, "--to-revision=2", "--yes"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.stdout.contains("nothing to do"), "{again:?}");

    let first = rollback(&["undo", service, "-n", STAGING, "--to-revision=1", "--yes"]).await;
    assert_eq!(
        (first.code, image(&namespace, "inference-service").await.as_str()),
        (0, "app:1"),
        "{first:?}"
    );
    let status = rollback(&["status", service, "-n", STAGING, "--watch"]).await;
    assert_eq!(status.code, 0, "{status:?}");
}

#[tokio::test]
async fn json_has_the_shapes_that_programs_read() {
    let namespace = deployed("web", &["nginx:1.26", "nginx:1.27"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let component = format!("deployment/{}/web", namespace.name());

    let history = json(&rollback_in(&namespace, &["history", "deploy/web", "-o", "json"]).await.ok());
    assert_eq!(history["component"], component.as_str());
    let newest = &history["revisions"][0];
    assert_eq!(
        (&newest["id"], &newest["current"], &newest["cause"], &newest["mark"], &newest["summary"]),
        (&json!("2"), &json!(true), &Value::Null, &Value::Null, &json!("nginx:1.27"))
    );
    assert!(newest["created"].is_string());

    let plan = json(&rollback_in(&namespace, &["plan", "deploy/web", "-o", "json"]).await.ok());
    assert!(plan["digest"].as_str().unwrap().starts_with("sha256:"));
    let step = &plan["steps"][0];
    assert_eq!(
        (&step["component"], &step["from"], &step["to"], &step["noop"], &step["after"]),
        (&json!(component), &json!("2"), &json!("1"), &json!(false), &json!([]))
    );
    let image = json!({
        "path": "/spec/template/spec/containers/app/image", "from": "nginx:1.27", "to": "nginx:1.26",
    });
    assert_eq!(step["changes"], json!([image]));
    assert!(step["warnings"].is_array());

    let status = json(&rollback_in(&namespace, &["status", "deploy/web", "-o", "json"]).await.ok());
    assert_eq!(
        (&status["component"], &status["settled"], &status["state"]),
        (&json!(component), &json!(true), &json!("Converged"))
    );

    let undo = rollback_in(&namespace, &["undo", "deploy/web", "-o", "json", "--yes"]).await;
    let run = json(&undo.stdout);
    assert_eq!(
        (&run["outcome"], &run["plan"], &run["next"]),
        (&json!("Completed"), &plan["digest"], &json!([]))
    );
    assert!(run["run"].is_string() && run["startedAt"].is_string() && run["finishedAt"].is_string());
    let step = &run["steps"][0];
    assert_eq!(
        (&step["component"], &step["from"], &step["to"], &step["outcome"], &step["attempts"], &step["error"]),
        (&json!(component), &json!("2"), &json!("1"), &json!("Verified"), &json!(1), &Value::Null)
    );

    let missing = rollback_in(&namespace, &["undo", "deploy/none", "-o", "json", "--yes"]).await;
    let error = &json(&missing.stderr)["error"];
    assert_eq!((missing.code, &error["kind"]), (1, &json!("NotFound")));
    assert_eq!(error["component"], format!("deployment/{}/none", namespace.name()).as_str());
    assert!(error["message"].is_string() && error.get("hint").is_some());
}

#[tokio::test]
async fn yaml_says_the_same_as_json() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let yaml = rollback_in(&namespace, &["history", "deployment/web", "-o", "yaml"]).await.ok();
    let as_json = json(&rollback_in(&namespace, &["history", "deployment/web", "-o", "json"]).await.ok());
    let as_yaml: Value = serde_yaml_ng::from_str(&yaml).unwrap();
    assert_eq!(as_yaml, as_json);
}

#[tokio::test]
async fn an_undo_as_kubectl_does_it_leaves_no_trace_of_its_own() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let undo = rollback_in(&namespace, &["undo", "deploy/web", "--compat=kubectl", "--yes"]).await;
    assert_eq!(undo.code, 0, "{undo:?}");
    let annotations = namespace.get("Deployment", "web").await["metadata"]["annotations"].clone();
    let keys: Vec<_> = annotations.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["deployment.kubernetes.io/revision"]);
}
