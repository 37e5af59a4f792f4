//! Going back in Knative mode: traffic first, then the spec.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    ErrorKind, FailurePolicy, Ledger, MemoryJournal, Outcome, Plan, Planner, Rollbackable, RunId,
    StepContext, StepId, StepOutcome, Target, snapshot_of,
};
use rollback_k8s::GitOps;
use rollback_tests::{Namespace, PAUSED, REVISIONS, SCALED, SERVICES, Testbed};
use serde_json::{Value, json};

use crate::world::{
    NAME, cluster, connect, deploy, deployed, execute, plan, predictor, service, service_with, undo, uri,
    warnings, with_models,
};

fn traffic(object: &Value) -> Vec<(String, i64)> {
    let all = object["status"]["components"]["predictor"]["traffic"].as_array().cloned().unwrap_or_default();
    let share = |entry: &Value| {
        (entry["revisionName"].as_str().unwrap().to_owned(), entry["percent"].as_i64().unwrap())
    };
    all.iter().map(share).filter(|(_, percent)| *percent > 0).collect()
}

async fn model(namespace: &Namespace) -> Value {
    namespace.get(SERVICES, NAME).await["spec"]["predictor"]["model"]["storageUri"].clone()
}

/// Carries a plan out, while what has traffic is looked at all the time.
async fn completes_while(
    namespace: &Namespace,
    service: &rollback_kserve::InferenceService,
    plan: &Plan,
    look: impl Fn(&str, i64),
) {
    let looks = async {
        loop {
            for (name, percent) in traffic(&namespace.get(SERVICES, NAME).await) {
                look(&name, percent);
            }
            Testbed::shared().await.pause(Duration::from_millis(20)).await;
        }
    };
    let components: [Arc<dyn Rollbackable>; 1] = [Arc::new(service.clone())];
    let report = tokio::select! {
        report = execute(plan, &components, 60) => report,
        () = looks => unreachable!(),
    };
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
}

#[tokio::test]
async fn traffic_is_held_on_the_old_revision_before_the_spec_returns_and_let_go_after() {
    let namespace = with_models("Knative", &["v3", "v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let way: Vec<_> =
        plan.steps().iter().map(|s| (s.change.from.id.as_str(), s.change.to.id.as_str())).collect();
    assert_eq!(
        way,
        [("3", "3, traffic held"), ("3, traffic held", "2, traffic held"), ("2, traffic held", "2")]
    );
    assert!(warnings(&plan).contains("ready and has 0 pods now, at least 1"), "{}", warnings(&plan));

    // Whoever looks while it goes on sees the two newest revisions, and never none.
    completes_while(&namespace, &service, &plan, |name, _| {
        assert_ne!(name, format!("{NAME}-predictor-00001"));
    })
    .await;
    let object = namespace.get(SERVICES, NAME).await;
    assert_eq!(object["spec"]["predictor"]["canaryTrafficPercent"], Value::Null);
    assert_eq!(traffic(&object), [(format!("{NAME}-predictor-00004"), 100)]);
    assert_eq!(model(&namespace).await, uri("v4"));

    // A second undo goes further back, and not to what was just left.
    let again = undo(&service, Target::Previous).await;
    assert_eq!(again.outcome, Outcome::Completed, "{again:#?}");
    assert_eq!(model(&namespace).await, uri("v3"));
    let history = service.history().await.unwrap();
    let left: Vec<_> = history.iter().filter(|r| r.mark.is_some()).map(|r| r.summary.clone()).collect();
    assert_eq!(left, [uri("v4"), uri("v5"), uri("v4")], "{history:#?}");
}

#[tokio::test]
async fn what_never_became_ready_is_left_while_the_old_revision_goes_on_serving() {
    let namespace = with_models("Serverless", &["v4", "crash-loop"]).await;
    let service = service(&cluster().await, &namespace);
    let status = service.status().await.unwrap();
    assert!(!status.is_converged() && status.message.contains("00002"), "{status:?}");
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(model(&namespace).await, uri("v4"));
}

#[tokio::test]
async fn a_spec_that_is_not_restored_leaves_traffic_safe_and_the_run_stuck() {
    let namespace = with_models("Knative", &["v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Previous, FailurePolicy::Compensate).await;
    let first = &plan.steps()[0].change;
    let cx = StepContext::new(RunId::random(), StepId::new("hold"), Duration::from_secs(30));
    service.apply(&cx, first).await.unwrap();
    assert!(service.verify(&cx, first).await.unwrap().is_converged());
    let paused = json!({"metadata": {"annotations": {PAUSED: "true"}}});
    namespace.merge(SERVICES, NAME, &paused).await;

    let report = execute(&plan, &[Arc::new(service.clone())], 3).await;
    assert_eq!(report.outcome, Outcome::Stuck, "{report:#?}");
    let outcomes: Vec<_> = report.steps.iter().map(|step| step.outcome).collect();
    assert_eq!(outcomes, [StepOutcome::Verified, StepOutcome::Failed, StepOutcome::Skipped]);
    let error = report.steps[1].error.clone().unwrap();
    assert!(error.message.contains("traffic is safe on inflow-baseline-predictor-00001"), "{error:?}");
    assert!(error.message.contains("the restored spec does not serve"), "{error:?}");
    let object = namespace.get(SERVICES, NAME).await;
    assert_eq!(traffic(&object), [(format!("{NAME}-predictor-00001"), 100)]);
    assert_eq!(object["spec"]["predictor"]["canaryTrafficPercent"], 0);

    // The controller is back: another undo finishes what was begun.
    namespace.merge(SERVICES, NAME, &json!({"metadata": {"annotations": {PAUSED: null}}})).await;
    let recorded = format!("{NAME}-predictor-00003");
    namespace.wait(REVISIONS, &recorded, "made", |object| !object.is_null()).await;
    namespace
        .wait(SERVICES, NAME, "taken up", |object| {
            object["status"]["components"]["predictor"]["latestReadyRevision"] == recorded.as_str()
        })
        .await;
    let again = undo(&service, Target::Previous).await;
    assert_eq!(again.outcome, Outcome::Completed, "{again:#?}");
    assert_eq!(model(&namespace).await, uri("v4"));
    assert_eq!(traffic(&namespace.get(SERVICES, NAME).await), [(recorded, 100)]);
}

#[tokio::test]
async fn where_traffic_cannot_be_held_the_plan_says_why_and_it_moves_once_the_spec_serves() {
    let namespace = with_models("Knative", &["v3", "v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Revision("1".into()), FailurePolicy::Halt).await;
    assert_eq!(plan.steps().len(), 1);
    assert!(warnings(&plan).contains("-00002, which runs something else"), "{}", warnings(&plan));
    let report = execute(&plan, &[Arc::new(service)], 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(model(&namespace).await, uri("v3"));
}

#[tokio::test]
async fn by_the_uri_alone_the_patch_is_a_test_and_a_replace() {
    let spec = |model: &str| json!({"predictor": {"xgboost": {"storageUri": uri(model)}}});
    let namespace = deployed("Standard", &[spec("v4"), spec("v5")]).await;
    let proxy = Testbed::shared().await.proxy().await;
    let cluster = connect(proxy.kubeconfig()).await;
    let service = service_with(&cluster, &namespace, |options| options.uri_only = true);
    let there = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let back = there.reversed().unwrap();
    for (plan, before, after) in [(there, uri("v5"), uri("v4")), (back, uri("v4"), uri("v5"))] {
        proxy.clear();
        let report = execute(&plan, &[Arc::new(service.clone())], 60).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        let writes = proxy.writes();
        let [write] = writes.as_slice() else { panic!("one write: {writes:?}") };
        let operations: Vec<Value> = serde_json::from_str(&write.body_text()).unwrap();
        let path = "/spec/predictor/xgboost/storageUri";
        let own: Vec<_> =
            operations.iter().filter(|o| o["path"].as_str().unwrap().starts_with("/spec")).collect();
        assert_eq!(
            json!(own),
            json!([
                {"op": "test", "path": path, "value": before},
                {"op": "replace", "path": path, "value": after},
            ])
        );
    }
    assert_eq!(uri("v4"), "s3://models/baseline/v4");
}

#[tokio::test]
async fn the_plan_says_where_fewer_pods_serve_than_now() {
    let namespace = with_models("Knative", &["v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let scale = async |pods: &Value| {
        let scaled = json!({"metadata": {"annotations": {SCALED: pods.to_string()}}});
        namespace.merge(SERVICES, NAME, &scaled).await;
        for (name, pods) in pods.as_object().unwrap() {
            namespace
                .wait(REVISIONS, name, "scaled", |object| object["status"]["actualReplicas"] == *pods)
                .await;
        }
    };
    let [first, second, third] = [1, 2, 3].map(|n| format!("{NAME}-predictor-0000{n}"));
    scale(&json!({&second: 7})).await;
    let told = warnings(&plan(&service, Target::Previous, FailurePolicy::Halt).await);
    assert!(told.contains("the restored predictor begins with 1 pods where 7 serve now"), "{told}");
    assert!(
        told.contains(&format!("held on {first}, which is ready and has 0 pods now, at least 1")),
        "{told}"
    );
    assert!(told.contains("its first requests wait"), "{told}");

    let mut canary = predictor("v6");
    canary["canaryTrafficPercent"] = json!(10);
    deploy(&namespace, &json!({"predictor": canary})).await;
    scale(&json!({&second: 2, &third: 9})).await;
    let told = warnings(&plan(&service, Target::Previous, FailurePolicy::Halt).await);
    assert!(told.contains(&format!("held on {second}")), "{told}");
    assert!(told.contains("fewer than the 9 of the newest revision"), "{told}");

    scale(&json!({&second: 1, &third: 1})).await;
    let told = warnings(&plan(&service, Target::Previous, FailurePolicy::Halt).await);
    assert!(!told.contains("begins with") && !told.contains("fewer"), "{told}");
}

fn with_runtime(model: &str, runtime: &str) -> Value {
    let mut predictor = predictor(model);
    predictor["model"]["runtime"] = json!(runtime);
    predictor["futureField"] = json!({"kept": [1, {"as": "is"}]});
    json!({"predictor": predictor})
}

#[tokio::test]
async fn another_runtime_comes_back_from_the_record_and_is_refused_without_one() {
    for mode in ["Knative", "Standard"] {
        let namespace = deployed(mode, &[with_runtime("v4", "xgb-1")]).await;
        let journal = Arc::new(MemoryJournal::new());
        let service = service(&cluster().await, &namespace);
        let recording = service.clone().with_ledger(journal.clone());
        let snapshot = snapshot_of(&recording, "1").await.unwrap();
        let realm = recording.realm().await.unwrap();
        let note = rollback_core::Note {
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            by: "pipeline".into(),
            fact: rollback_core::Fact::InPlace { snapshot },
        };
        journal.note(&realm, recording.id(), vec![note]).await.unwrap();
        deploy(&namespace, &with_runtime("v5", "xgb-2")).await;

        let error = service.prepare(&Target::Previous).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(error.to_string().contains("also ran with another image"), "{error}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("--uri-only") && hint.contains("--force"), "{hint}");

        let component: Arc<dyn Rollbackable> = Arc::new(recording.clone());
        let plan = Planner::new()
            .with_ledger(journal.clone())
            .rollback("serving", component.clone(), Target::Previous, &[])
            .plan()
            .await
            .unwrap();
        let report = execute(&plan, &[component], 60).await;
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
        let live = namespace.get(SERVICES, NAME).await;
        assert_eq!(live["spec"], with_runtime("v4", "xgb-1"), "{mode}");
    }
}

#[tokio::test]
async fn a_transformer_or_an_explainer_returns_together_with_the_predictor() {
    for (mode, component) in
        [("Knative", "transformer"), ("Standard", "transformer"), ("Knative", "explainer")]
    {
        let spec = |model: &str, image: &str| {
            let beside = json!({"containers": [{"name": "kserve-container", "image": image}]});
            json!({"predictor": predictor(model), component: beside})
        };
        let specs = [spec("v4", "beside:1"), spec("v5", "beside:2")];
        let namespace = deployed(mode, &specs[..1]).await;
        // The times of objects are whole seconds.
        Testbed::shared().await.pause(Duration::from_secs(2)).await;
        deploy(&namespace, &specs[1]).await;
        let service = service(&cluster().await, &namespace);
        let ids: Vec<_> = service.history().await.unwrap().into_iter().map(|r| (r.id, r.current)).collect();
        assert_eq!(ids, [("2.2".to_owned(), true), ("1.1".to_owned(), false)], "{mode}");
        let report = undo(&service, Target::Previous).await;
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
        let live = namespace.get(SERVICES, NAME).await;
        let mut restored = live["spec"].clone();
        restored[component]["containers"][0].as_object_mut().unwrap().remove("env");
        assert_eq!(restored, specs[0], "{mode} {component}");
    }
}

#[tokio::test]
async fn what_would_be_taken_back_or_cannot_go_back_is_refused_with_the_way_out() {
    let namespace = with_models("Knative", &["v4"]).await;
    let cluster = cluster().await;
    let service = service(&cluster, &namespace);
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no earlier revision"), "{error}");
    let error = service.prepare(&Target::Revision("7".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap_or_default().contains("the revisions kept are: 1"), "{error:?}");
    let error = service.prepare(&Target::Artifact("mlflow-artifacts:/1/m".into())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);

    deploy(&namespace, &json!({"predictor": predictor("v5")})).await;
    let tracked = json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "models:serving.kserve.io/InferenceService:x/y"}}});
    namespace.merge(SERVICES, NAME, &tracked).await;
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("Argo CD application models"), "{error}");
    let ignoring = service_with(&cluster, &namespace, |options| options.gitops = GitOps::Ignore);
    let plan = plan(&ignoring, Target::Previous, FailurePolicy::Halt).await;
    assert!(warnings(&plan).contains("may take the rollback back"), "{}", warnings(&plan));

    let gone = json!({"metadata": {"annotations": {"serving.kserve.io/stop": "true"}}});
    namespace.merge(SERVICES, NAME, &gone).await;
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.to_string().contains("it is stopped"), "{error}");
    assert_eq!(model(&namespace).await, uri("v5"));
}

#[tokio::test]
async fn traffic_is_not_let_go_before_the_restored_revision_can_serve() {
    // The old revision serves; made once more, it does not come up.
    let namespace = with_models("Knative", &["slow-4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let cx = StepContext::new(RunId::random(), StepId::new("hold"), Duration::from_secs(30));
    let [hold, restore, _] = plan.steps() else { panic!("three steps: {plan:?}") };
    service.apply(&cx, &hold.change).await.unwrap();
    // KServe has not moved traffic yet, and with a newer revision it would not any more.
    let moved = service.verify(&cx, &hold.change).await.unwrap();
    assert!(moved.is_converged(), "{moved:?}");
    service.apply(&cx, &restore.change).await.unwrap();
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let object = namespace.get(SERVICES, NAME).await;
    assert_eq!(traffic(&object), [(format!("{NAME}-predictor-00001"), 100)]);
    assert!(service.verify(&cx, &restore.change).await.unwrap().is_converged());
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(traffic(&namespace.get(SERVICES, NAME).await), [(format!("{NAME}-predictor-00003"), 100)]);
}

#[tokio::test]
async fn a_bad_canary_gets_no_more_than_its_share_on_the_way_to_an_older_revision() {
    let namespace = with_models("Knative", &["slow-3", "v4"]).await;
    let mut canary = predictor("v5");
    canary["canaryTrafficPercent"] = json!(10);
    deploy(&namespace, &json!({"predictor": canary})).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Revision("1".into()), FailurePolicy::Halt).await;
    assert_eq!(plan.steps().len(), 2, "{plan:?}");
    completes_while(&namespace, &service, &plan, |name, percent| {
        assert!(!name.ends_with("-00003") || percent <= 10, "{percent} % on {name}");
    })
    .await;
    assert_eq!(model(&namespace).await, uri("slow-3"));
    assert_eq!(traffic(&namespace.get(SERVICES, NAME).await), [(format!("{NAME}-predictor-00004"), 100)]);
}

#[tokio::test]
async fn a_spec_that_kserve_refuses_goes_back_to_what_serves_and_not_further() {
    for mode in ["Knative", "Standard"] {
        let namespace = with_models(mode, &["v3", "v4"]).await;
        let edit = json!({"spec": {"predictor": {"model": {"storageUri": "ftp://nowhere/v5"}}}});
        namespace.merge(SERVICES, NAME, &edit).await;
        let refused = |object: &Value| object["status"]["modelStatus"]["transitionStatus"] == "InvalidSpec";
        namespace.wait(SERVICES, NAME, "refused", refused).await;
        let service = service(&cluster().await, &namespace);
        let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
        assert!(warnings(&plan).contains("has not taken up"), "{mode}: {}", warnings(&plan));
        let report = execute(&plan, &[Arc::new(service)], 60).await;
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
        assert_eq!(model(&namespace).await, uri("v4"), "{mode}");
    }
}

#[tokio::test]
async fn a_change_of_the_transformer_alone_is_undone_alone() {
    let spec = |image: &str| {
        let transformer = json!({"containers": [{"name": "kserve-container", "image": image}]});
        json!({"predictor": predictor("v4"), "transformer": transformer})
    };
    for mode in ["Knative", "Standard"] {
        let namespace = with_models(mode, &["v3"]).await;
        let service = service(&cluster().await, &namespace);
        for image in ["transform:1", "transform:2", "transform:3"] {
            // The times of objects are whole seconds, and what is made within five belongs together.
            Testbed::shared().await.pause(Duration::from_secs(6)).await;
            let before = service.history().await.unwrap().remove(0).id;
            deploy(&namespace, &spec(image)).await;
            if image == "transform:3" {
                let error = service.prepare(&Target::Previous).await.err().map(|error| error.to_string());
                // Where it was not taken up yet, the plan would begin from what was there before.
                assert!(error.is_none_or(|error| error.contains("has just written its spec")));
            }
            while service.history().await.unwrap().remove(0).id == before {
                Testbed::shared().await.pause(Duration::from_millis(100)).await;
            }
        }
        let report = undo(&service, Target::Previous).await;
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
        let live = namespace.get(SERVICES, NAME).await["spec"].clone();
        assert_eq!(live["transformer"]["containers"][0]["image"], "transform:2", "{mode}");
        assert_eq!(live["predictor"], predictor("v4"), "{mode}");
        // Before the transformer was there, its absence is not to be told from what the cluster forgot.
        let first = service.history().await.unwrap().pop().unwrap();
        let error = service.prepare(&Target::Revision(first.id)).await.unwrap_err();
        assert!(error.to_string().contains("transformer"), "{mode}: {error}");
    }
}

#[tokio::test]
async fn another_image_with_the_same_model_is_told_apart_by_its_revision() {
    let spec = |image: &str| {
        let env = json!([{"name": "STORAGE_URI", "value": uri("v4")}]);
        json!({"predictor": {"containers": [{"name": "kserve-container", "image": image, "env": env}]}})
    };
    let namespace = deployed("Knative", &[spec("server:1"), spec("server:2")]).await;
    let service = service(&cluster().await, &namespace);
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let held = report.steps[0].message.clone().unwrap_or_default();
    assert!(held.contains("100 % on inflow-baseline-predictor-00001"), "{held}");
    let live = namespace.get(SERVICES, NAME).await;
    assert_eq!(live["spec"]["predictor"]["containers"][0]["image"], "server:1");
}

#[tokio::test]
async fn what_no_template_gives_back_is_not_left_out_in_silence() {
    let spec = |model: &str, size: u64| {
        let mut predictor = predictor(model);
        predictor["batcher"] = json!({"maxBatchSize": size});
        json!({"predictor": predictor})
    };
    for newer in [spec("v5", 1000), spec("v4", 1000)] {
        let namespace = deployed("Standard", &[spec("v4", 8), newer.clone()]).await;
        let service = service(&cluster().await, &namespace);
        // Of the same model the new spec looks recorded before it is.
        while service.history().await.unwrap().len() < 2 {
            Testbed::shared().await.pause(Duration::from_millis(100)).await;
        }
        let error = service.prepare(&Target::Previous).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert!(error.to_string().contains("batcher"), "{error}");
        assert_eq!(namespace.get(SERVICES, NAME).await["spec"], newer);
    }
}

#[tokio::test]
async fn another_undo_before_traffic_has_moved_waits_and_lets_nothing_go() {
    let namespace = with_models("Knative", &["v3", "v4", "v5"]).await;
    let service = service(&cluster().await, &namespace);
    let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    namespace.merge(SERVICES, NAME, &json!({"metadata": {"annotations": {PAUSED: "true"}}})).await;
    let cx = StepContext::new(RunId::random(), StepId::new("hold"), Duration::from_secs(30));
    service.apply(&cx, &plan.steps()[0].change).await.unwrap();
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Refused && error.to_string().contains("has not moved it"),
        "{error:?}"
    );
    namespace.merge(SERVICES, NAME, &json!({"metadata": {"annotations": {PAUSED: null}}})).await;
    let moved = |object: &Value| traffic(object) == [(format!("{NAME}-predictor-00002"), 100)];
    namespace.wait(SERVICES, NAME, "moved", moved).await;
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(model(&namespace).await, uri("v4"));
}

#[tokio::test]
async fn a_held_transformer_goes_back_to_its_own_revision() {
    let spec = |image: &str| {
        let transformer = json!({"containers": [{"name": "kserve-container", "image": image}]});
        json!({"predictor": predictor("v4"), "transformer": transformer})
    };
    let namespace = deployed("Knative", &[spec("transform:1")]).await;
    let service = service(&cluster().await, &namespace);
    Testbed::shared().await.pause(Duration::from_secs(6)).await;
    deploy(&namespace, &spec("transform:2")).await;
    while service.history().await.unwrap().remove(0).id != "1.2" {
        Testbed::shared().await.pause(Duration::from_millis(100)).await;
    }
    while !service.status().await.unwrap().message.contains("transformer-00002") {
        Testbed::shared().await.pause(Duration::from_millis(100)).await;
    }
    let plan = plan(&service, Target::Previous, FailurePolicy::Halt).await;
    let cx = StepContext::new(RunId::random(), StepId::new("hold"), Duration::from_secs(30));
    let hold = &plan.steps()[0].change;
    service.apply(&cx, hold).await.unwrap();
    assert!(service.verify(&cx, hold).await.unwrap().is_converged());
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let live = namespace.get(SERVICES, NAME).await["spec"].clone();
    assert_eq!(live["transformer"]["containers"][0]["image"], "transform:1");
}

#[tokio::test]
async fn a_canary_of_an_older_model_leaves_the_stable_one() {
    let namespace = with_models("Knative", &["v2", "v3", "v4"]).await;
    let mut canary = predictor("v3");
    canary["canaryTrafficPercent"] = json!(10);
    deploy(&namespace, &json!({"predictor": canary})).await;
    let service = service(&cluster().await, &namespace);
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(model(&namespace).await, uri("v4"));
}

#[tokio::test]
async fn annotations_that_the_spec_writes_out_come_back() {
    let spec = |proxy: Option<&str>| {
        let mut predictor = predictor("v4");
        if let Some(proxy) = proxy {
            predictor["annotations"] = json!({"proxy": proxy});
        }
        json!({"predictor": predictor})
    };
    let namespace = deployed("Standard", &[spec(Some("1")), spec(Some("2"))]).await;
    let service = service(&cluster().await, &namespace);
    while service.history().await.unwrap().remove(0).id != "2" {
        Testbed::shared().await.pause(Duration::from_millis(100)).await;
    }
    let report = undo(&service, Target::Previous).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], spec(Some("1")));
    // One that is not written out any more is nobody's to tell.
    let namespace = deployed("Standard", &[spec(Some("1")), spec(None)]).await;
    let service = world_service(&namespace).await;
    while service.history().await.unwrap().remove(0).id != "2" {
        Testbed::shared().await.pause(Duration::from_millis(100)).await;
    }
    let error = service.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("proxy"), "{error:?}");
}

async fn world_service(namespace: &Namespace) -> rollback_kserve::InferenceService {
    service(&cluster().await, namespace)
}
