//! InferenceServices of KServe, through the command.

use rollback_tests::{Namespace, SERVICES, Testbed};
use serde_json::{Value, json};

use crate::{json, rollback_in};

const SERVICE: &str = "isvc/inflow-baseline";
const NAME: &str = "inflow-baseline";

/// An InferenceService whose revisions ran these models, in order.
pub(crate) async fn deployed(mode: &str, models: &[&str]) -> Namespace {
    let testbed = Testbed::shared().await;
    testbed.kserve().await;
    let namespace = testbed.namespace("services").await;
    let spec = |model: &str| json!({"predictor": {"xgboost": {"storageUri": format!("s3://models/baseline/{model}")}}});
    namespace
        .create(&json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": {"name": NAME, "annotations": {"serving.kserve.io/deploymentMode": mode}},
            "spec": spec(models[0]),
        }))
        .await;
    settled(&namespace, models[0]).await;
    for model in models.iter().skip(1) {
        namespace.merge(SERVICES, NAME, &json!({"spec": spec(model)})).await;
        settled(&namespace, model).await;
    }
    namespace
}

async fn settled(namespace: &Namespace, model: &str) {
    for _ in 0..300 {
        let history = rollback_in(namespace, &["history", SERVICE, "-o", "json"]).await;
        let status = rollback_in(namespace, &["status", SERVICE, "-o", "json"]).await;
        if history.code == 0 && status.code == 0 {
            let newest = json(&history.stdout)["revisions"][0].clone();
            let is_new = newest["summary"].as_str().unwrap().ends_with(model) && newest["id"] != "unrecorded";
            if is_new && json(&status.stdout)["settled"] == true {
                return;
            }
        }
        Testbed::shared().await.pause(std::time::Duration::from_millis(50)).await;
    }
    panic!("{model} is not taken up: {:#}", namespace.get(SERVICES, NAME).await);
}

pub(crate) async fn model(namespace: &Namespace) -> Value {
    namespace.get(SERVICES, NAME).await["spec"]["predictor"]["xgboost"]["storageUri"].clone()
}

#[tokio::test]
async fn a_service_goes_back_to_the_model_before_and_forth_again() {
    for (mode, steps) in [("Knative", 3), ("Standard", 1)] {
        let namespace = deployed(mode, &["v4", "v5"]).await;
        let id = format!("inferenceservice/{}/{NAME}", namespace.name());
        let history = json(&rollback_in(&namespace, &["history", SERVICE, "-o", "json"]).await.ok());
        assert_eq!(history["component"], id.as_str());
        let listed: Vec<_> = history["revisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|r| (r["id"].clone(), r["current"].clone(), r["summary"].clone()))
            .collect();
        let of = |id: &str, current: bool, model: &str| {
            (json!(id), json!(current), json!(format!("s3://models/baseline/{model}")))
        };
        assert_eq!(listed, [of("2", true, "v5"), of("1", false, "v4")], "{mode}");

        let plan = json(&rollback_in(&namespace, &["plan", SERVICE, "-o", "json"]).await.ok());
        assert_eq!(plan["steps"].as_array().unwrap().len(), steps, "{mode}");
        let dry = rollback_in(&namespace, &["undo", SERVICE, "--dry-run=server"]).await;
        assert_eq!((dry.code, model(&namespace).await), (0, json!("s3://models/baseline/v5")), "{dry:?}");

        let undo = rollback_in(&namespace, &["undo", SERVICE, "--yes", "-o", "json"]).await;
        let run = json(&undo.stdout);
        assert_eq!((undo.code, &run["outcome"]), (0, &json!("Completed")), "{mode}: {undo:?}");
        assert_eq!(model(&namespace).await, "s3://models/baseline/v4", "{mode}");
        let status = rollback_in(&namespace, &["status", SERVICE, "--watch"]).await.ok();
        assert!(status.contains("v4"), "{status}");
        let marks = json(&rollback_in(&namespace, &["history", SERVICE, "-o", "json"]).await.ok());
        let left: Vec<_> =
            marks["revisions"].as_array().unwrap().iter().filter(|r| r["mark"] == "left").collect();
        assert_eq!(left.len(), 1, "{mode}: {marks:#}");

        let revert = rollback_in(&namespace, &["revert", run["run"].as_str().unwrap(), "--yes"]).await;
        assert_eq!(revert.code, 0, "{mode}: {revert:?}");
        assert_eq!(model(&namespace).await, "s3://models/baseline/v5", "{mode}");
    }
}

#[tokio::test]
async fn what_was_recorded_returns_whole() {
    let namespace = deployed("Standard", &["v4"]).await;
    let recorded = rollback_in(&namespace, &["record", SERVICE]).await.ok();
    assert!(recorded.contains("revision 1 is recorded"), "{recorded}");
    let newer = json!({"spec": {"predictor": {"xgboost": {
        "storageUri": "s3://models/baseline/v5", "runtime": "other",
    }}}});
    namespace.merge(SERVICES, NAME, &newer).await;
    settled(&namespace, "v5").await;
    let undo = rollback_in(&namespace, &["undo", SERVICE, "--yes"]).await;
    assert_eq!(undo.code, 0, "{undo:?}");
    let live = namespace.get(SERVICES, NAME).await["spec"].clone();
    assert_eq!(live, json!({"predictor": {"xgboost": {"storageUri": "s3://models/baseline/v4"}}}));
}

#[tokio::test]
async fn bad_input_changes_nothing_and_says_what_to_do() {
    let namespace = deployed("Standard", &["v4"]).await;
    for (args, code, kind, part) in [
        (&["undo", SERVICE, "--yes"][..], 1, "NotFound", "no earlier revision"),
        (&["undo", SERVICE, "--to-revision", "7", "--yes"], 1, "NotFound", "the revisions kept are: 1"),
        (&["undo", SERVICE, "--to-revision", "v4", "--yes"], 2, "InvalidConfig", "v4"),
        (&["undo", "isvc/none", "--yes"], 1, "NotFound", "none"),
        (&["history", "inferenceservice/none"], 1, "NotFound", "none"),
        (&["status", "inferenceservices.serving.kserve.io/none"], 1, "NotFound", "none"),
        (&["undo", SERVICE, "--compat=kubectl", "--yes"], 2, "InvalidConfig", "for workloads"),
        (&["undo", SERVICE, "--declarative", "--yes"], 2, "InvalidConfig", "for workloads"),
        (&["undo", "deploy/web", "--uri-only", "--yes"], 2, "InvalidConfig", "for InferenceServices"),
        (&["restart", SERVICE, "--yes"], 1, "Unsupported", "takes back what is done to its children"),
        (&["undo", "isvc/Inflow", "--yes"], 2, "InvalidConfig", "cannot be the name"),
    ] {
        let output = rollback_in(&namespace, &[args, &["-o", "json"]].concat()).await;
        let error = json(&output.stderr)["error"].clone();
        assert_eq!((output.code, &error["kind"]), (code, &json!(kind)), "{args:?}: {output:?}");
        assert!(error.to_string().contains(part), "{args:?}: {error}");
    }
    assert_eq!(model(&namespace).await, "s3://models/baseline/v4");
}
