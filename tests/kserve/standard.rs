//! Going back in Standard mode: one change, seen through the child Deployment.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Fact, FailurePolicy, Ledger, MemoryJournal, Note, Outcome, Planner, Rollbackable, Target, snapshot_of,
};
use rollback_k8s::GitOps;
use rollback_tests::{SERVICES, Testbed};
use serde_json::{Value, json};

use crate::world::{
    NAME, cluster, connect, deploy, deployed, execute, plan, predictor, service, service_with, undo, uri,
    warnings, with_models,
};

const SOURCE_URI: &str = "internal.serving.kserve.io/storage-initializer-sourceuri";

#[tokio::test]
async fn the_service_is_undone_and_not_its_child() {
    let namespace = with_models("Standard", &["v4", "v5"]).await;
    let child = format!("{NAME}-predictor");
    // What is undone on the child, its controller takes back.
    let said = namespace.kubectl(&["rollout", "undo", &format!("deployment/{child}")]).await.ok();
    assert!(said.contains("rolled back"), "{said}");
    let source = |object: &Value| object["spec"]["template"]["metadata"]["annotations"][SOURCE_URI].clone();
    namespace.wait("Deployment", &child, "taken back", |object| source(object) == uri("v5").as_str()).await;
    namespace.rolled_out("Deployment", &child).await;

    let proxy = Testbed::shared().await.proxy().await;
    let service = service(&connect(proxy.kubeconfig()).await, &namespace);
    let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let report = execute(&plan, &[Arc::new(service.clone())], 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let message = report.steps[0].message.clone().unwrap_or_default();
    assert!(message.contains(&uri("v4")) && message.contains("successfully rolled out"), "{message}");
    assert_eq!(source(&namespace.rolled_out("Deployment", &child).await), uri("v4"));
    assert_eq!(proxy.writes().len(), 1, "one patch, and of the service alone");
    assert!(proxy.writes()[0].path.contains("/inferenceservices/"));
}

#[tokio::test]
async fn ready_is_not_believed_while_new_pods_fail() {
    let namespace = with_models("RawDeployment", &["crash-loop-1", "v4"]).await;
    let service = service(&cluster().await, &namespace);
    let report = undo(&service, Target::Previous).await;
    let object = namespace.get(SERVICES, NAME).await;
    assert_eq!(object["status"]["conditions"][0]["status"], "True", "old pods go on serving");
    assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
    let error = report.steps[0].error.clone().unwrap();
    assert!(error.message.contains("CrashLoopBackOff"), "{error:?}");
    let status = service.status().await.unwrap();
    assert!(!status.is_converged(), "{status:?}");
    // What was left is gone back to only by its name.
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.hint().unwrap_or_default().contains("revision 2 was left"), "{error:?}");
    let report = undo(&service, Target::Revision("2".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
}

#[tokio::test]
async fn every_place_of_a_model_is_found_and_stays_the_only_one() {
    let storage = |path: &str| {
        json!({"predictor": {"model": {
            "modelFormat": {"name": "xgboost"}, "storage": {"key": "minio", "path": path, "parameters": {"bucket": "b"}},
        }}})
    };
    let several = |a: &str, b: &str| {
        json!({"predictor": {
            "model": {"modelFormat": {"name": "xgboost"}},
            "storageUris": [{"uri": uri(a), "mountPath": "/mnt/a"}, {"uri": uri(b), "mountPath": "/mnt/b"}],
        }})
    };
    let cases = [
        [storage("baseline/v4"), storage("baseline/v5")],
        [several("v4", "lookup-1"), several("v5", "lookup-2")],
        // What only the newer one overrides goes.
        [
            json!({"predictor": {"model": {"modelFormat": {"name": "xgboost"}, "storage": {"path": "baseline/v4"}}}}),
            storage("baseline/v5"),
        ],
        // The place itself moved.
        [
            storage("baseline/v4"),
            json!({"predictor": {"model": {"modelFormat": {"name": "xgboost"}, "storageUri": uri("v5")}}}),
        ],
    ];
    for (index, [older, newer]) in cases.into_iter().enumerate() {
        let namespace = deployed("Standard", &[older.clone(), newer]).await;
        let service = service(&cluster().await, &namespace);
        let history = service.history().await.unwrap();
        assert!(history[1].summary.contains("v4"), "{history:#?}");
        let report = undo(&service, Target::Previous).await;
        assert_eq!(report.outcome, Outcome::Completed, "case {index}: {report:#?}");
        let live = namespace.get(SERVICES, NAME).await["spec"].clone();
        let expected = older;
        assert_eq!(live, expected, "case {index}");
    }
}

#[tokio::test]
async fn what_a_promotion_made_the_cluster_forget_comes_back_from_the_record() {
    let named = |model: &str, name: &str| {
        let mut predictor = predictor(model);
        predictor["name"] = json!(name);
        json!({"predictor": predictor})
    };
    let namespace = deployed("Standard", &[named("v4", "a")]).await;
    let journal = Arc::new(MemoryJournal::new());
    let service = Arc::new(service(&cluster().await, &namespace).with_ledger(journal.clone()));
    let snapshot = snapshot_of(&*service, "1").await.unwrap();
    let at = "2026-01-01T00:00:00Z".parse().unwrap();
    let note = Note { at, by: "pipeline".into(), fact: Fact::InPlace { snapshot } };
    journal.note(&service.realm().await.unwrap(), service.id(), vec![note]).await.unwrap();
    // KServe deletes the Deployment of the other name, and its ReplicaSets with it.
    deploy(&namespace, &named("v5", "b")).await;
    namespace.wait("Deployment", &format!("{NAME}-a-predictor"), "gone", Value::is_null).await;

    let planner = || Planner::new().rollback("serving", service.clone(), Target::Previous, &[]);
    assert!(planner().plan().await.is_err(), "the cluster remembers nothing");
    let plan = planner().with_ledger(journal).plan().await.unwrap();
    let component: Arc<dyn Rollbackable> = service;
    let report = execute(&plan, &[component], 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], named("v4", "a"));
}

#[tokio::test]
async fn a_model_that_is_not_in_the_history_moves_alone_and_the_plan_says_so() {
    let namespace = with_models("Standard", &["v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let unknown = plan(&service, Target::Artifact(uri("v2")), FailurePolicy::Halt).await;
    assert!(warnings(&unknown).contains("everything but the model stays as it is"), "{}", warnings(&unknown));
    let known = plan(&service, Target::Artifact(format!("{}/", uri("v4"))), FailurePolicy::Halt).await;
    assert_eq!((known.steps()[0].change.to.id.as_str(), warnings(&known).as_str()), ("1", ""));
    let same = plan(&service, Target::Artifact(uri("v5")), FailurePolicy::Halt).await;
    assert!(same.is_noop());
    let report = execute(&unknown, &[Arc::new(service)], 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"]["predictor"]["model"]["storageUri"], uri("v2"));
}

#[tokio::test]
async fn a_canary_entry_is_removed_and_the_stable_one_does_not_roll() {
    let namespace = with_models("Standard", &["v3", "v4"]).await;
    let stable = format!("{NAME}-predictor");
    let before = namespace.rolled_out("Deployment", &stable).await;
    let mut canary = predictor("v5");
    canary["name"] = json!("next");
    let spec = json!({
        "predictor": predictor("v4"), "canary": [{"trafficPercent": 10, "predictor": canary}],
    });
    let (path, kind) = (namespace.path(SERVICES, NAME), "application/json-patch+json");
    let replace = json!([{"op": "replace", "path": "/spec", "value": spec}]);
    namespace.request(http::Method::PATCH, &path, kind, replace).await.unwrap();
    let child = format!("{NAME}-next-predictor");
    namespace.wait("Deployment", &child, "made", |object| !object.is_null()).await;
    namespace.rolled_out("Deployment", &child).await;

    let service = service(&cluster().await, &namespace);
    let current = service.history().await.unwrap().into_iter().find(|revision| revision.current).unwrap();
    assert!(current.summary.contains(&format!("canary at 10 %: {}", uri("v5"))), "{current:?}");
    let there = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    assert!(warnings(&there).contains("a canary is under way: it is removed"), "{}", warnings(&there));
    let report = execute(&there, &[Arc::new(service.clone())], 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], json!({"predictor": predictor("v4")}));
    namespace.wait("Deployment", &child, "gone", Value::is_null).await;
    let after = namespace.get("Deployment", &stable).await;
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
    assert_eq!(
        after["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        before["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    );
    // With the canary gone, the next undo is of the stable one.
    assert_eq!(service.prepare(&Target::Previous).await.unwrap()[0].to.id, "1");
}

#[tokio::test]
async fn what_a_controller_takes_back_after_it_has_rolled_out_is_seen() {
    let namespace = with_models("Standard", &["v4", "v5"]).await;
    let tracked = json!({"metadata": {"annotations": {
        "argocd.argoproj.io/tracking-id": "models:serving.kserve.io/InferenceService:x/y",
    }}});
    namespace.merge(SERVICES, NAME, &tracked).await;
    // KServe copies it to the pods, which makes another revision.
    let child = format!("{NAME}-predictor");
    let has_it = |object: &Value| object["spec"]["template"].to_string().contains("argocd.argoproj.io");
    namespace.wait("Deployment", &child, "it is copied", has_it).await;
    namespace.rolled_out("Deployment", &child).await;
    let service = service_with(&cluster().await, &namespace, |options| {
        options.gitops = GitOps::Ignore;
        options.contested_soak = Duration::from_secs(60);
    });
    let there = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let heals = async {
        let is_back = |object: &Value| {
            object["spec"]["template"]["metadata"]["annotations"][SOURCE_URI] == uri("v4").as_str()
        };
        namespace.wait("Deployment", &child, "it is back", is_back).await;
        namespace.rolled_out("Deployment", &child).await;
        let edit = json!({"spec": {"predictor": {"model": {"storageUri": uri("v5")}}}});
        namespace.merge(SERVICES, NAME, &edit).await;
    };
    let components: [Arc<dyn Rollbackable>; 1] = [Arc::new(service.clone())];
    let (report, ()) = tokio::join!(execute(&there, &components, 120), heals);
    assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
    let error = report.steps[0].error.clone().unwrap();
    assert!(error.message.contains("changed since") || error.message.contains("taken back"), "{error:?}");
}

#[tokio::test]
async fn a_component_that_came_since_goes_and_comes_back_as_it_was_scaled() {
    let before = json!({"predictor": predictor("v4")});
    let namespace = deployed("Standard", std::slice::from_ref(&before)).await;
    let journal = Arc::new(MemoryJournal::new());
    let service = Arc::new(service(&cluster().await, &namespace).with_ledger(journal.clone()));
    let snapshot = snapshot_of(&*service, "1").await.unwrap();
    let mut beside = json!({"containers": [{"name": "kserve-container", "image": "transform:1"}]});
    beside["minReplicas"] = json!(2);
    beside["maxReplicas"] = json!(9);
    let after = json!({"predictor": predictor("v5"), "transformer": beside});
    deploy(&namespace, &after).await;
    let there = plan(&service, Target::Snapshot(Box::new(snapshot)), FailurePolicy::Halt).await;
    let components: [Arc<dyn Rollbackable>; 1] = [service];
    let report = execute(&there, &components, 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], before);
    let report = execute(&there.reversed().unwrap(), &components, 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], after);
}
