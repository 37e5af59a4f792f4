//! InferenceServices as the tests deploy them.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, FailurePolicy, Fingerprint, MemoryJournal, Plan, Planner, Rollbackable, RunOptions,
    RunReport, Target,
};
use rollback_k8s::{Cluster, ConnectOptions};
use rollback_kserve::{InferenceService, ServiceOptions};
use rollback_tests::{Namespace, SERVICES, Testbed};
use serde_json::{Value, json};

pub(crate) const NAME: &str = "inflow-baseline";

/// The URI of a model.
pub(crate) fn uri(model: &str) -> String {
    format!("s3://models/baseline/{model}")
}

/// A predictor with a model.
pub(crate) fn predictor(model: &str) -> Value {
    json!({"minReplicas": 1, "model": {"modelFormat": {"name": "xgboost"}, "storageUri": uri(model)}})
}

pub(crate) fn object(mode: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": NAME, "annotations": {"serving.kserve.io/deploymentMode": mode}},
        "spec": spec,
    })
}

/// An InferenceService whose revisions ran these specs, in order.
pub(crate) async fn deployed(mode: &str, specs: &[Value]) -> Namespace {
    let testbed = Testbed::shared().await;
    testbed.kserve().await;
    let namespace = testbed.namespace("kserve").await;
    let (first, rest) = specs.split_first().unwrap();
    namespace.create(&object(mode, first)).await;
    taken_up(&namespace, first, None).await;
    for spec in rest {
        deploy(&namespace, spec).await;
    }
    namespace
}

/// The same, of models alone.
pub(crate) async fn with_models(mode: &str, models: &[&str]) -> Namespace {
    let specs: Vec<Value> = models.iter().map(|model| json!({"predictor": predictor(model)})).collect();
    deployed(mode, &specs).await
}

/// Replaces the spec, as a person with a manifest does, and waits until the controllers have taken it up.
pub(crate) async fn deploy(namespace: &Namespace, spec: &Value) {
    let before = current(&service(&cluster().await, namespace)).await;
    let replace = json!([{"op": "replace", "path": "/spec", "value": spec}]);
    let (path, kind) = (namespace.path(SERVICES, NAME), "application/json-patch+json");
    namespace.request(http::Method::PATCH, &path, kind, replace).await.unwrap();
    taken_up(namespace, spec, before).await;
}

/// The revision in place, once it is recorded. A Deployment of another name counts its revisions from one again.
async fn current(service: &InferenceService) -> Option<(String, Fingerprint)> {
    let history = service.history().await.unwrap().into_iter();
    let mut recorded = history.filter(|revision| revision.current && revision.id != "unrecorded");
    recorded.next().map(|revision| (revision.id, revision.fingerprint))
}

/// Waits until the children run a spec, as another revision than `before`, and those that can be ready are.
async fn taken_up(namespace: &Namespace, spec: &Value, before: Option<(String, Fingerprint)>) {
    let text = spec.to_string();
    let can_settle = !text.contains("never-ready") && !text.contains("crash-loop");
    namespace
        .wait(SERVICES, NAME, "taken up", |object| {
            if object["status"]["deploymentMode"].is_null() {
                return false;
            }
            let state = &object["status"]["modelStatus"]["transitionStatus"];
            !can_settle || state == "UpToDate"
        })
        .await;
    // What KServe says may be of before; the children are what counts.
    let service = service(&cluster().await, namespace);
    for _ in 0..600 {
        // One of the same model looks recorded before it is.
        let now = current(&service).await;
        let recorded = now.is_some() && now != before;
        let settled = !can_settle || service.status().await.unwrap().is_converged();
        if recorded && settled {
            return;
        }
        Testbed::shared().await.pause(Duration::from_millis(50)).await;
    }
    panic!("not taken up: {:#}", namespace.get(SERVICES, NAME).await);
}

pub(crate) async fn cluster() -> Cluster {
    connect(Testbed::shared().await.kubeconfig()).await
}

pub(crate) async fn connect(kubeconfig: &std::path::Path) -> Cluster {
    let options = ConnectOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    Cluster::connect(options).await.unwrap()
}

pub(crate) fn service(cluster: &Cluster, namespace: &Namespace) -> InferenceService {
    service_with(cluster, namespace, |_| {})
}

pub(crate) fn service_with(
    cluster: &Cluster,
    namespace: &Namespace,
    set: impl FnOnce(&mut ServiceOptions),
) -> InferenceService {
    let mut options = ServiceOptions::default();
    options.grace = Duration::from_secs(1);
    set(&mut options);
    InferenceService::new(cluster, namespace.name(), NAME, options).unwrap()
}

pub(crate) async fn plan(service: &InferenceService, target: Target, policy: FailurePolicy) -> Plan {
    let component: Arc<dyn Rollbackable> = Arc::new(service.clone());
    Planner::new().on_failure(policy).rollback("serving", component, target, &[]).plan().await.unwrap()
}

/// Executes a plan, with so many seconds to settle.
pub(crate) async fn execute(plan: &Plan, components: &[Arc<dyn Rollbackable>], seconds: u64) -> RunReport {
    let components: Components = components.iter().cloned().collect();
    let mut options = RunOptions::by("ann@here");
    options.settings.verify_timeout = Duration::from_secs(seconds);
    Engine::new(Arc::new(MemoryJournal::new())).execute(plan, &components, options).await.unwrap()
}

pub(crate) async fn undo(service: &InferenceService, target: Target) -> RunReport {
    let plan = plan(service, target, FailurePolicy::Halt).await;
    execute(&plan, &[Arc::new(service.clone())], 60).await
}

/// The warnings of a plan.
pub(crate) fn warnings(plan: &Plan) -> String {
    plan.steps().iter().flat_map(|step| step.change.warnings.clone()).collect::<Vec<_>>().join("\n")
}
