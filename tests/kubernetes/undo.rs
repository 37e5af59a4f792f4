//! Undoing a workload, through the library.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Planner, Rollbackable, RunId,
    RunOptions, RunReport, StepContext, StepId, StepOutcome, Target,
};
use rollback_k8s::{Cluster, ConnectOptions, Workload, WorkloadKind, WorkloadOptions};
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

pub(crate) async fn cluster(testbed: &Testbed) -> Cluster {
    connect(testbed.kubeconfig()).await
}

pub(crate) async fn connect(kubeconfig: &std::path::Path) -> Cluster {
    let options = ConnectOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    Cluster::connect(options).await.unwrap()
}

pub(crate) fn workload(cluster: &Cluster, kind: WorkloadKind, namespace: &Namespace, name: &str) -> Workload {
    Workload::new(cluster, kind, namespace.name(), name, WorkloadOptions::default()).unwrap()
}

/// A Deployment `web` whose revisions run these images, in order.
pub(crate) async fn deployment(namespace: &Namespace, images: &[&str], replicas: u32) {
    let (first, rest) = images.split_first().unwrap();
    namespace.create(&objects::deployment("web", first, replicas)).await;
    recorded(namespace, 1).await;
    for (index, image) in rest.iter().enumerate() {
        namespace.patch("Deployment", "web", &objects::image_patch(image)).await;
        recorded(namespace, index + 2).await;
    }
}

async fn recorded(namespace: &Namespace, revision: usize) {
    let wanted = Value::from(revision.to_string());
    namespace
        .wait("Deployment", "web", "its revision is recorded", |object| {
            object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == wanted
        })
        .await;
}

pub(crate) fn context() -> StepContext {
    context_of(Duration::from_secs(10))
}

/// What a step knows that may take so long.
pub(crate) fn context_of(timeout: Duration) -> StepContext {
    StepContext::new(RunId::random(), StepId::new("web"), timeout)
}

/// A Deployment `web` whose revisions ran these images, in order, rolled out in a namespace of its own.
pub(crate) async fn rolled_out(prefix: &str, images: &[&str], replicas: u32) -> (Namespace, Workload) {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace(prefix).await;
    deployment(&namespace, images, replicas).await;
    namespace.rolled_out("Deployment", "web").await;
    let web = workload(&cluster(testbed).await, WorkloadKind::Deployment, &namespace, "web");
    (namespace, web)
}

pub(crate) fn image(object: &Value) -> &str {
    object.pointer("/spec/template/spec/containers/0/image").unwrap().as_str().unwrap()
}

pub(crate) async fn undo(component: &Workload, target: Target, policy: FailurePolicy) -> RunReport {
    let component: Arc<dyn Rollbackable> = Arc::new(component.clone());
    let plan = Planner::new()
        .on_failure(policy)
        .rollback("web", component.clone(), target, &[])
        .plan()
        .await
        .unwrap();
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let mut options = RunOptions::by("tests");
    options.settings.verify_timeout = Duration::from_secs(20);
    engine.execute(&plan, &Components::new().with(component), options).await.unwrap()
}

async fn proxied(prefix: &str, images: &[&str]) -> (Namespace, FaultProxy, Workload) {
    let (namespace, _) = rolled_out(prefix, images, 2).await;
    let proxy = Testbed::shared().await.proxy().await;
    let cluster = connect(proxy.kubeconfig()).await;
    let web = workload(&cluster, WorkloadKind::Deployment, &namespace, "web");
    (namespace, proxy, web)
}

#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../../examples/undo_deployment.rs"]
mod example;

#[tokio::test]
async fn the_example_returns_a_deployment() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("example").await;
    deployment(&namespace, &["app:1", "app:2"], 2).await;
    let cluster = cluster(testbed).await;
    let mut out = Vec::new();
    example::undo(&cluster, namespace.name(), "web", &mut out).await.unwrap();
    let told = String::from_utf8(out).unwrap();
    assert!(told.contains("app:2 to app:1") && told.ends_with("Completed\n"), "{told}");
}

#[tokio::test]
async fn a_deployment_returns_to_its_previous_revision_with_four_requests_before_verification() {
    let (namespace, proxy, web) = proxied("undo", &["app:1", "app:2"]).await;
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let step = &report.steps[0];
    assert_eq!((step.from.as_str(), step.to.as_str(), step.outcome), ("2", "1", StepOutcome::Verified));
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:1");

    let before_verification: Vec<_> =
        proxy.requests().into_iter().take_while(|r| !r.query.contains("watch=")).collect();
    let patch = before_verification.iter().position(|r| r.method == "PATCH").unwrap();
    let own: Vec<_> = before_verification[..=patch]
        .iter()
        .map(|r| format!("{} {}", r.method, r.path))
        .filter(|r| !r.ends_with("/pods") && !r.ends_with("autoscalers") && !r.ends_with("/rollouts"))
        .collect();
    assert_eq!(own.len(), 4, "{own:#?}");
}

#[tokio::test]
async fn a_second_undo_does_not_return_to_what_the_first_left() {
    let (namespace, _proxy, web) = proxied("flipflop", &["app:1", "app:2", "app:3"]).await;
    for (from, to, runs) in [("3", "2", "app:2"), ("4", "1", "app:1")] {
        let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        assert_eq!((report.steps[0].from.as_str(), report.steps[0].to.as_str()), (from, to));
        assert_eq!(image(&namespace.get("Deployment", "web").await), runs);
    }
    let error = web.prepare(&Target::Previous).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    // Deployed again, the bad one is an ordinary revision, and the previous one when the next comes.
    for (index, image) in ["app:3", "app:5"].iter().enumerate() {
        namespace.patch("Deployment", "web", &objects::image_patch(image)).await;
        recorded(&namespace, index + 6).await;
        namespace.rolled_out("Deployment", "web").await;
    }
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    assert_eq!(change.to.summary, "app:3", "{:#?}", change.warnings);
}

#[tokio::test]
async fn an_annotation_that_was_absent_when_planned_is_guarded_too() {
    let (namespace, _proxy, web) = proxied("absent", &["app:1"]).await;
    let cause = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "second"}}});
    namespace.patch("Deployment", "web", &json!({"metadata": {"annotations": {"team": "a"}}})).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    namespace.patch("Deployment", "web", &cause).await;
    recorded(&namespace, 2).await;
    namespace.patch("Deployment", "web", &json!({"metadata": {"annotations": {"team": null}}})).await;
    namespace.rolled_out("Deployment", "web").await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    namespace.patch("Deployment", "web", &json!({"metadata": {"annotations": {"team": "b"}}})).await;
    let error = web.apply(&context(), &change).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:2");
}

#[tokio::test]
async fn a_patch_whose_response_is_lost_is_found_done_and_not_made_again() {
    let (namespace, proxy, web) = proxied("lost", &["app:1", "app:2"]).await;
    let before = namespace.get("Deployment", "web").await;
    proxy.fault(Matcher::method("PATCH"), Fault::DropAccepted);
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!((proxy.writes().len(), report.steps[0].attempts), (1, 1));
    let left = &namespace.get("Deployment", "web").await["metadata"]["annotations"]["rollback.dev/left"];
    assert_eq!(left.as_str().unwrap().matches("fingerprint").count(), 1);
    assert_ne!(
        before["metadata"]["generation"],
        namespace.get("Deployment", "web").await["metadata"]["generation"]
    );
}

#[tokio::test]
async fn a_server_that_is_busy_or_failing_is_asked_again_when_it_says_so() {
    let (_namespace, proxy, web) = proxied("busy", &["app:1", "app:2"]).await;
    proxy.fault(Matcher::method("PATCH").nth(1), Fault::Status { code: 429, retry_after: Some(2) });
    proxy.fault(Matcher::method("PATCH").nth(1), Fault::Status { code: 500, retry_after: None });
    proxy.fault(Matcher::method("PATCH").nth(1), Fault::Reset);
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!((report.outcome, report.steps[0].attempts), (Outcome::Completed, 4), "{report:#?}");
    let patches: Vec<_> = proxy.writes();
    assert_eq!(patches.len(), 4);
    assert!(patches[1].started - patches[0].started >= Duration::from_secs(2), "Retry-After is honoured");
}

/// Undoes while every patch is answered so, for some seconds.
async fn undo_in_vain(code: u16) -> RunReport {
    let (namespace, proxy, web) = proxied("away", &["app:1", "app:2"]).await;
    proxy.fault(Matcher::method("PATCH"), Fault::Status { code, retry_after: None });
    let component: Arc<dyn Rollbackable> = Arc::new(web);
    let plan = Planner::new().rollback("web", component.clone(), Target::Previous, &[]).plan().await.unwrap();
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let mut options = RunOptions::by("tests");
    options.settings.apply_timeout = Duration::from_secs(3);
    let report = engine.execute(&plan, &Components::new().with(component), options).await.unwrap();
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:2");
    report
}

#[tokio::test]
async fn a_server_that_stays_busy_leaves_a_step_that_certainly_changed_nothing() {
    let report = undo_in_vain(429).await;
    assert_eq!((report.outcome, report.steps[0].outcome), (Outcome::Halted, StepOutcome::Refused));
    assert!(!report.changed(), "{report:#?}");
}

#[tokio::test]
async fn a_server_that_keeps_failing_leaves_a_step_in_doubt() {
    let report = undo_in_vain(503).await;
    assert_eq!((report.outcome, report.steps[0].outcome), (Outcome::Halted, StepOutcome::Failed));
    assert!(report.changed(), "{report:#?}");
    assert!(report.steps[0].error.as_ref().unwrap().hint.as_ref().unwrap().contains("not certain"));
}

#[tokio::test]
async fn after_a_restart_of_the_bad_revision_no_undo_returns_to_it() {
    let (namespace, _proxy, web) = proxied("restarted", &["app:0", "app:1", "app:bad"]).await;
    namespace.kubectl(&["rollout", "restart", "deployment/web"]).await.ok();
    recorded(&namespace, 4).await;
    for runs in ["app:1", "app:0"] {
        let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        assert_eq!(image(&namespace.get("Deployment", "web").await), runs);
    }
    let error = web.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.hint().unwrap().contains("left by a rollback"), "{error:?}");
}

#[tokio::test]
async fn paused_between_plan_and_apply_it_is_refused_and_nothing_is_written() {
    let (namespace, _proxy, web) = proxied("paused-late", &["app:1", "app:2"]).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    namespace.kubectl(&["rollout", "pause", "deployment/web"]).await.ok();
    let cx = context();
    assert_eq!(web.apply(&cx, &change).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!((cx.writes(), image(&namespace.get("Deployment", "web").await)), (0, "app:2"));
}

#[tokio::test]
async fn a_read_that_fails_for_the_moment_is_repeated() {
    let (_namespace, proxy, web) = proxied("reads", &["app:1", "app:2"]).await;
    proxy.fault(
        Matcher::method("GET").path("/deployments/").nth(1),
        Fault::Status { code: 429, retry_after: Some(1) },
    );
    proxy.fault(Matcher::method("GET").path("/replicasets").nth(1), Fault::Reset);
    web.prepare(&Target::Previous).await.unwrap();
}

#[tokio::test]
async fn two_undos_at_once_move_the_deployment_once() {
    let (namespace, proxy, web) = proxied("both", &["app:1", "app:2", "app:3"]).await;
    let mut hold = proxy.hold(Matcher::method("PATCH").nth(1));
    let slow = undo(&web, Target::Previous, FailurePolicy::Halt);
    let other = async {
        hold.reached().await;
        let other = undo(&web, Target::Previous, FailurePolicy::Halt).await;
        hold.release();
        other
    };
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!(other.outcome, Outcome::Completed, "{other:#?}");
    // The slow one finds its own target in place.
    assert_eq!(slow.outcome, Outcome::Completed, "{slow:#?}");
    let object = namespace.get("Deployment", "web").await;
    assert_eq!(image(&object), "app:2");
    let left = object["metadata"]["annotations"]["rollback.dev/left"].as_str().unwrap();
    assert_eq!(left.matches("fingerprint").count(), 1, "{left}");
}
