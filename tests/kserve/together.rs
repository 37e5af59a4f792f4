//! The pointer of a registry and the service that follows it, in one run.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Planner, RestartScope,
    Rollbackable, RunOptions, StepOutcome, Target,
};
use rollback_k8s::{Workload, WorkloadKind, WorkloadOptions};
use rollback_mlflow::{ArtifactCheck, ModelPointer, PointerOptions, Registry, RegistryConfig, Stage};
use rollback_tests::{Mlflow, MlflowVersion, PAUSED, SERVICES, Testbed, objects};
use serde_json::{Value, json};

use crate::world::{NAME, cluster, deployed, execute, service, uri, warnings, with_models};

/// A model whose versions have the artifacts of these names, the last in Production.
async fn registry(server: &Mlflow, models: &[&str]) -> (String, Arc<ModelPointer>) {
    let sources: Vec<_> = models.iter().map(|model| uri(model)).collect();
    let name = server.model(&sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.stage(&name, &models.len().to_string(), "Production", true).await;
    let registry = Registry::new(RegistryConfig::new(server.url())).unwrap();
    let mut options = PointerOptions::default();
    options.artifact_check = ArtifactCheck::Skip;
    options.settle = Duration::from_millis(200);
    let pointer = ModelPointer::stage(&registry, &name, Stage::Production, options).unwrap();
    (name, Arc::new(pointer))
}

#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../../examples/model_and_service.rs"]
mod example;

#[tokio::test]
async fn the_example_returns_a_model_and_its_service() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let (_, pointer) = registry(server, &["v1", "v2"]).await;
    let namespace = with_models("Standard", &["v1", "v2"]).await;
    let service = service(&cluster().await, &namespace);
    let mut out = Vec::new();
    example::undo((*pointer).clone(), service, "1", &mut out).await.unwrap();
    let told = String::from_utf8(out).unwrap();
    assert!(told.contains("2 to 1: Verified") && told.ends_with("Completed\n"), "{told}");
}

#[tokio::test]
async fn to_version_2_is_said_once_and_the_service_follows() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    for mode in ["Knative", "Standard"] {
        let (_, pointer) = registry(server, &["v1", "v2", "v3"]).await;
        let namespace = with_models(mode, &["v1", "v2", "v3"]).await;
        let service = Arc::new(service(&cluster().await, &namespace).following(pointer.clone()));
        let labelled: Vec<_> = service.history().await.unwrap().into_iter().map(|r| r.summary).collect();
        assert_eq!(labelled[0], format!("{} (version 3)", uri("v3")), "{labelled:?}");

        let plan = Planner::new()
            .rollback("registry", pointer.clone(), Target::Revision("2".into()), &[])
            .follow("serving", service.clone(), "registry", &[])
            .plan()
            .await
            .unwrap();
        assert_eq!(plan.steps()[0].id.as_str(), "registry");
        assert_eq!(plan.steps()[1].after[0].as_str(), "registry");
        let components = Components::new().with(pointer.clone()).with(service.clone());
        let engine = Engine::new(Arc::new(MemoryJournal::new()));
        let report = engine.execute(&plan, &components, RunOptions::by("ann@here")).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
        let current =
            |history: Vec<rollback_core::Revision>| history.into_iter().find(|r| r.current).unwrap();
        assert_eq!(current(pointer.history().await.unwrap()).id, "2", "{mode}");
        let live = namespace.get(SERVICES, NAME).await;
        assert_eq!(live["spec"]["predictor"]["model"]["storageUri"], uri("v2"), "{mode}");
    }
}

#[tokio::test]
async fn where_serving_does_not_converge_the_policy_decides_about_the_pointer() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    for (policy, version, outcome) in [
        (FailurePolicy::Halt, "1", StepOutcome::Verified),
        (FailurePolicy::Compensate, "2", StepOutcome::Compensated),
    ] {
        let (_, pointer) = registry(server, &["v1", "v2"]).await;
        let namespace = with_models("Standard", &["v1", "v2"]).await;
        let service = Arc::new(service(&cluster().await, &namespace));
        let plan = Planner::new()
            .on_failure(policy)
            .rollback("registry", pointer.clone(), Target::Previous, &[])
            .follow("serving", service.clone(), "registry", &[])
            .plan()
            .await
            .unwrap();
        // Its controller has crashed: what is asked for is not carried out.
        namespace.merge(SERVICES, NAME, &json!({"metadata": {"annotations": {PAUSED: "true"}}})).await;
        let components = Components::new().with(pointer.clone()).with(service);
        let mut options = RunOptions::by("ann@here");
        options.settings.verify_timeout = Duration::from_secs(3);
        let report =
            Engine::new(Arc::new(MemoryJournal::new())).execute(&plan, &components, options).await.unwrap();
        assert_eq!(report.steps[0].outcome, outcome, "{report:#?}");
        let history = pointer.history().await.unwrap();
        assert_eq!(history.iter().find(|r| r.current).unwrap().id, version, "{policy:?}");
    }
}

#[tokio::test]
async fn a_workload_that_loads_the_model_at_its_start_is_restarted_after_the_move() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let (_, pointer) = registry(server, &["v1", "v2"]).await;
    let namespace = Testbed::shared().await.namespace("loader").await;
    namespace.create(&objects::deployment("loader", "app:1", 2)).await;
    namespace.rolled_out("Deployment", "loader").await;
    let before: Vec<_> = namespace.list("Pod", "app=loader").await.iter().map(uid).collect();
    let kind = WorkloadKind::Deployment;
    let loader =
        Workload::new(&cluster().await, kind, namespace.name(), "loader", WorkloadOptions::default());
    let loader = Arc::new(loader.unwrap());
    let plan = Planner::new()
        .rollback("registry", pointer.clone(), Target::Previous, &[])
        .restart("loader", loader.clone(), RestartScope::All, &["registry"])
        .plan()
        .await
        .unwrap();
    let components = Components::new().with(pointer).with(loader);
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let report = engine.execute(&plan, &components, RunOptions::by("ann@here")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let is_new = |pods: &[Value]| pods.len() == 2 && pods.iter().all(|pod| !before.contains(&uid(pod)));
    namespace.wait_list("Pod", "app=loader", "younger than the move", is_new).await;
}

fn uid(object: &Value) -> Value {
    object["metadata"]["uid"].clone()
}

#[tokio::test]
async fn what_no_artifact_tells_is_not_followed() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let (_, pointer) = registry(server, &["v1", "v2"]).await;
    let namespace = with_models("Standard", &["v1", "v2"]).await;
    let service: Arc<dyn Rollbackable> = Arc::new(service(&cluster().await, &namespace));
    let none = Planner::new()
        .rollback("registry", pointer.clone(), Target::Revision("none".into()), &[])
        .follow("serving", service.clone(), "registry", &[]);
    let error = none.plan().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("stands for no artifact"), "{error}");
    let nobody = Planner::new().follow("serving", service, "registry", &[]).plan().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::InvalidPlan, "{nobody:?}");
    assert!(nobody.to_string().contains("registry, which is not in the plan"), "{nobody}");
}

#[tokio::test]
async fn what_names_its_model_by_a_storage_follows_within_it_and_several_models_are_refused() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let storage = |path: &str| {
        json!({"predictor": {"model": {
            "modelFormat": {"name": "xgboost"}, "storage": {"key": "minio", "path": path, "parameters": {"bucket": "models"}},
        }}})
    };
    let (_, pointer) = registry(server, &["v1", "v2", "v3"]).await;
    let namespace = deployed("Standard", &[storage("baseline/v2"), storage("baseline/v3")]).await;
    let service = Arc::new(service(&cluster().await, &namespace).following(pointer.clone()));
    let labelled: Vec<_> = service.history().await.unwrap().into_iter().map(|r| r.summary).collect();
    assert!(labelled[0].ends_with("(version 3)") && labelled[1].ends_with("(version 2)"), "{labelled:?}");
    let to = async |version: &str| {
        let planner =
            Planner::new().rollback("registry", pointer.clone(), Target::Revision(version.into()), &[]);
        planner.follow("serving", service.clone(), "registry", &[]).plan().await.unwrap()
    };
    let known = to("2").await;
    assert_eq!(known.steps()[1].change.to.id, "1", "the revision that ran it: {known:?}");
    assert!(warnings(&known).contains("told by its path alone"), "{}", warnings(&known));
    let unknown = to("1").await;
    assert!(warnings(&unknown).contains("its storage stays as it is"), "{}", warnings(&unknown));
    let components: [Arc<dyn Rollbackable>; 2] = [pointer.clone(), service.clone()];
    let report = execute(&unknown, &components, 60).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(namespace.get(SERVICES, NAME).await["spec"], storage("baseline/v1"));

    let several = json!({"predictor": {
        "model": {"modelFormat": {"name": "xgboost"}},
        "storageUris": [{"uri": uri("v3"), "mountPath": "/mnt/a"}, {"uri": uri("lookup"), "mountPath": "/mnt/b"}],
    }});
    let namespace = deployed("Standard", std::slice::from_ref(&several)).await;
    let service = Arc::new(crate::world::service(&cluster().await, &namespace));
    let planner = Planner::new().rollback("registry", pointer.clone(), Target::Revision("2".into()), &[]);
    let error = planner.follow("serving", service, "registry", &[]).plan().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("several models"), "{error:?}");
}
