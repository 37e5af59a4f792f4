//! Watching a rollout: done when it is done, failed as soon as it cannot get there, honest at the deadline.

use std::time::{Duration, Instant};

use rollback_core::{FailurePolicy, Outcome, Rollbackable, StepOutcome, Target, VerificationState};
use rollback_k8s::{Workload, WorkloadKind, WorkloadOptions};
use rollback_tests::{Fault, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::{cluster, connect, context, context_of, deployment, image, rolled_out, undo, workload};

/// Rolls back from `app:2` to a revision that runs `broken`, and answers how verification ended.
async fn return_to(broken: &str) -> (Namespace, rollback_core::RunReport, Duration) {
    let (namespace, web) = rolled_out("verify", &[broken, "app:2"], 2).await;
    let started = Instant::now();
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    (namespace, report, started.elapsed())
}

async fn with_grace(namespace: &Namespace, grace: Duration) -> Workload {
    let mut options = WorkloadOptions::default();
    options.grace = grace;
    let cluster = cluster(Testbed::shared().await).await;
    Workload::new(&cluster, WorkloadKind::Deployment, namespace.name(), "web", options).unwrap()
}

#[tokio::test]
async fn pods_that_cannot_start_fail_the_rollout_at_once_and_say_why() {
    for (image, reason) in [
        ("app:crash-loop", "CrashLoopBackOff"),
        ("app:pull-error", "ImagePullBackOff"),
        ("app:config-error", "CreateContainerConfigError"),
    ] {
        let (_, report, took) = return_to(image).await;
        assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
        let error = report.steps[0].error.as_ref().unwrap();
        assert!(error.message.contains(reason), "{error:?}");
        assert!(took < Duration::from_secs(6), "{reason} took {took:?}");
        assert!(report.changed());
    }
}

#[tokio::test]
async fn pods_that_never_get_ready_fail_the_rollout_at_its_deadline() {
    let (namespace, report, took) = return_to("app:never-ready").await;
    assert_eq!((report.outcome, report.steps[0].outcome), (Outcome::Halted, StepOutcome::Failed));
    let error = report.steps[0].error.as_ref().unwrap();
    assert_eq!(error.kind, rollback_core::ErrorKind::Timeout);
    assert!(error.message.contains("not settled after") && error.message.contains("replicas"), "{error}");
    assert!(took >= Duration::from_secs(20), "{took:?}");
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:never-ready");
}

#[tokio::test]
async fn a_failed_rollout_is_compensated_on_request_and_the_object_is_as_before() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("compensate").await;
    deployment(&namespace, &["app:never-ready", "app:2"], 2).await;
    let before = namespace.rolled_out("Deployment", "web").await;
    let web = workload(&cluster(testbed).await, WorkloadKind::Deployment, &namespace, "web");
    let report = undo(&web, Target::Previous, FailurePolicy::Compensate).await;
    assert_eq!((report.outcome, report.steps[0].outcome), (Outcome::Compensated, StepOutcome::Compensated));
    assert!(!report.changed());
    let after = namespace.rolled_out("Deployment", "web").await;
    assert_eq!(before["spec"], after["spec"]);
    let annotations = |object: &Value| {
        let mut all = object["metadata"]["annotations"].as_object().unwrap().clone();
        all.retain(|key, _| !key.starts_with("deployment.kubernetes.io/revision"));
        all
    };
    assert_eq!(annotations(&before), annotations(&after));
}

#[tokio::test]
async fn a_pod_that_no_node_takes_fails_the_rollout_after_a_grace() {
    let (namespace, _) = rolled_out("unschedulable", &["app:unschedulable", "app:2"], 1).await;
    let web = with_grace(&namespace, Duration::from_secs(3)).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let cx = context_of(Duration::from_secs(40));
    let started = Instant::now();
    let seen = web.verify(&cx, &change).await.unwrap();
    assert_eq!(seen.state, VerificationState::Failed, "{seen:?}");
    assert!(seen.message.contains("unschedulable"), "{seen:?}");
    assert!(started.elapsed() >= Duration::from_secs(3), "a node may still be added");
}

#[tokio::test]
async fn pods_that_a_quota_forbids_fail_the_rollout_after_a_grace() {
    let (namespace, _) = rolled_out("quota", &["app:1", "app:2"], 2).await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "2"}},
    });
    namespace.create(&quota).await;
    namespace.wait("ResourceQuota", "none", "it is counted", |q| q["status"]["used"]["pods"] == "2").await;
    let web = with_grace(&namespace, Duration::from_secs(3)).await;
    // With no surge allowed to succeed and none unavailable, the rollout cannot move.
    let strategy = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}});
    namespace.patch("Deployment", "web", &strategy).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let cx = context_of(Duration::from_secs(40));
    let seen = web.verify(&cx, &change).await.unwrap();
    assert_eq!(seen.state, VerificationState::Failed, "{seen:?}");
    assert!(seen.message.contains("exceeded quota"), "{seen:?}");
}

#[tokio::test]
async fn a_watch_that_expires_breaks_or_is_throttled_is_taken_up_again() {
    let (namespace, _) = rolled_out("watch", &["app:slow", "app:2"], 2).await;
    let proxy = Testbed::shared().await.proxy().await;
    proxy.fault(Matcher::watch().nth(1), Fault::Gone);
    proxy.fault(Matcher::watch().nth(2), Fault::CutStreamAfter(100));
    proxy.fault(Matcher::watch().nth(3), Fault::Status { code: 429, retry_after: Some(1) });
    proxy.fault(Matcher::watch().nth(4), Fault::Reset);
    let web = workload(&connect(proxy.kubeconfig()).await, WorkloadKind::Deployment, &namespace, "web");
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let watches = proxy.requests().into_iter().filter(|r| r.query.contains("watch=")).count();
    assert!(watches >= 4, "only {watches} watches: the faults were not met");
}

#[tokio::test]
async fn one_watch_for_each_kind_serves_all_workloads_of_a_namespace() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("shared").await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        namespace.create(&objects::deployment(name, "app:1", 1)).await;
    }
    for name in names {
        namespace.rolled_out("Deployment", name).await;
        namespace.patch("Deployment", name, &objects::image_patch("app:2")).await;
        namespace.rolled_out("Deployment", name).await;
    }
    let proxy = testbed.proxy().await;
    let cluster = connect(proxy.kubeconfig()).await;
    let all: Vec<std::sync::Arc<dyn Rollbackable>> = names
        .iter()
        .map(|name| std::sync::Arc::new(workload(&cluster, WorkloadKind::Deployment, &namespace, name)) as _)
        .collect();
    let planner = all.iter().fold(rollback_core::Planner::new(), |planner, component| {
        planner.rollback(component.id().name(), component.clone(), Target::Previous, &[])
    });
    let plan = planner.plan().await.unwrap();
    let lists = |plural: &str| proxy.requests().iter().filter(|r| r.path.ends_with(plural)).count();
    assert_eq!((lists("/pods"), lists("/horizontalpodautoscalers")), (1, 1));
    let engine = rollback_core::Engine::new(std::sync::Arc::new(rollback_core::MemoryJournal::new()));
    let components = all.into_iter().collect();
    let report = engine.execute(&plan, &components, rollback_core::RunOptions::by("tests")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let watches = |plural: &str| {
        let all = proxy.requests();
        all.iter().filter(|r| r.path.ends_with(plural) && r.query.contains("watch=")).count()
    };
    assert_eq!((watches("/deployments"), watches("/pods")), (1, 1));
}

#[tokio::test]
async fn a_deployment_replaced_or_deleted_while_watched_is_a_failure_that_says_so() {
    let (namespace, web) = rolled_out("replaced", &["app:never-ready", "app:2"], 1).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let replace = async {
        Testbed::shared().await.pause(Duration::from_millis(500)).await;
        namespace.delete("Deployment", "web").await;
        namespace.create(&objects::deployment("web", "app:never-ready", 1)).await;
    };
    let cx = context();
    let (seen, ()) = tokio::join!(web.verify(&cx, &change), replace);
    let seen = seen.unwrap();
    assert_eq!(seen.state, VerificationState::Failed, "{seen:?}");
    assert!(seen.message.contains("replaced") || seen.message.contains("deleted"), "{seen:?}");
}

#[tokio::test]
async fn a_template_changed_by_somebody_else_while_watched_names_the_writer() {
    let (namespace, web) = rolled_out("contested", &["app:never-ready", "app:2"], 1).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let redeploy = async {
        Testbed::shared().await.pause(Duration::from_millis(500)).await;
        namespace.kubectl(&["set", "image", "deployment/web", "app=app:9"]).await.ok();
    };
    let cx = context();
    let (seen, ()) = tokio::join!(web.verify(&cx, &change), redeploy);
    let seen = seen.unwrap();
    assert_eq!(seen.state, VerificationState::Failed, "{seen:?}");
    assert!(seen.message.contains("kubectl-set"), "{seen:?}");
}

#[tokio::test]
async fn a_stale_progress_deadline_is_not_believed() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("stale").await;
    let mut object = objects::deployment("web", "app:1", 1);
    object["spec"]["progressDeadlineSeconds"] = json!(1);
    namespace.create(&object).await;
    let reason = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let progressing = conditions.into_iter().find(|c| c["type"] == "Progressing");
        progressing.map_or_else(String::new, |c| c["reason"].as_str().unwrap_or_default().to_owned())
    };
    let has_ended = |object: &Value| reason(object) == "NewReplicaSetAvailable";
    namespace.wait("Deployment", "web", "its rollout has ended", has_ended).await;
    // The controller can miss the start of a rollout, and never times that one out. It looks at the deadline
    // when something happens to the object.
    for look in 0..120 {
        if look % 20 == 0 {
            let image = format!("app:never-ready-{look}");
            namespace.patch("Deployment", "web", &objects::image_patch(&image)).await;
        }
        testbed.pause(Duration::from_millis(500)).await;
        let object = namespace.get("Deployment", "web").await;
        match reason(&object).as_str() {
            "ProgressDeadlineExceeded" => break,
            "NewReplicaSetAvailable" => {}
            _ => {
                let nudge = json!({"metadata": {"annotations": {"look": look.to_string()}}});
                namespace.patch("Deployment", "web", &nudge).await;
            }
        }
        assert!(look < 119, "the deadline is not exceeded: {object:#}");
    }
    let web = workload(&cluster(testbed).await, WorkloadKind::Deployment, &namespace, "web");
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
}

#[tokio::test]
async fn a_soak_that_the_deadline_cuts_short_is_said_and_no_failure() {
    let (namespace, _) = rolled_out("soak", &["app:1", "app:2"], 1).await;
    let mut options = WorkloadOptions::default();
    options.soak = Duration::from_secs(60);
    let cluster = cluster(Testbed::shared().await).await;
    let web = Workload::new(&cluster, WorkloadKind::Deployment, namespace.name(), "web", options).unwrap();
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let cx = context_of(Duration::from_secs(3));
    let seen = web.verify(&cx, &change).await.unwrap();
    assert!(seen.is_converged() && seen.notes[0].contains("time was up"), "{seen:?}");
}

#[tokio::test]
async fn a_rollout_that_a_broken_watch_does_not_see_is_seen_past_it() {
    let (namespace, _) = rolled_out("blind", &["app:slow", "app:2"], 2).await;
    let proxy = Testbed::shared().await.proxy().await;
    proxy.fault(Matcher::watch(), Fault::Status { code: 500, retry_after: None });
    let web = workload(&connect(proxy.kubeconfig()).await, WorkloadKind::Deployment, &namespace, "web");
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let cx = context_of(Duration::from_secs(30));
    let seen = web.verify(&cx, &change).await.unwrap();
    assert!(seen.is_converged(), "{seen:?}");
}

#[tokio::test]
async fn the_image_digests_that_run_are_told_and_a_moved_tag_stands_out() {
    let (_namespace, web) = rolled_out("digest", &["app:1", "app:2"], 1).await;
    let mut change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    change.to.content["digests"] = json!({"app:1": ["sha256:another"]});
    web.apply(&context(), &change).await.unwrap();
    let seen = web.verify(&context(), &change).await.unwrap();
    assert!(seen.is_converged(), "{seen:?}");
    assert!(seen.notes[0].contains("app:1 is sha256:"), "{seen:?}");
    assert!(seen.notes[0].contains("was sha256:another"), "{seen:?}");
}
