//! What is particular about StatefulSets, DaemonSets and restarts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Disposition, Engine, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Planner, Position,
    RestartScope, Restartable, Rollbackable, RunOptions, RunReport, Target,
};
use rollback_k8s::{UndoMode, Workload, WorkloadKind, WorkloadOptions};
use rollback_tests::{Fault, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::{cluster, context, context_of, image, rolled_out, undo, workload};

async fn stateful_set(prefix: &str, first: &str, second: &str) -> (Namespace, Workload) {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace(prefix).await;
    let mut object = objects::stateful_set("db", first, 3);
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    namespace.create(&object).await;
    if first.contains("never-ready") {
        namespace.wait_list("ControllerRevision", "app=db", "it is recorded", |all| all.len() == 1).await;
    } else {
        namespace.rolled_out("StatefulSet", "db").await;
    }
    namespace.patch("StatefulSet", "db", &objects::image_patch(second)).await;
    let db = workload(&cluster(testbed).await, WorkloadKind::StatefulSet, &namespace, "db");
    (namespace, db)
}

fn pod_image(pod: &Value) -> &str {
    pod.pointer("/spec/containers/0/image").and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test]
async fn a_stateful_set_stuck_on_a_pod_that_never_gets_ready_is_freed() {
    let (namespace, db) = stateful_set("stuck", "app:1", "app:never-ready").await;
    let bad = namespace
        .wait("Pod", "db-2", "it runs the new image", |pod| {
            pod["spec"]["containers"][0]["image"] == "app:never-ready" && pod["status"]["phase"] == "Running"
        })
        .await;
    let change = db.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(change.warnings.iter().any(|w| w.contains("pod db-2 is not ready and blocks")), "{change:?}");
    assert!(change.diff.iter().any(|field| field.path == "/pods/db-2" && field.to.is_none()));
    assert_eq!(db.locate(&change).await.unwrap(), Position::From);
    let report = undo(&db, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let pod = namespace.get("Pod", "db-2").await;
    assert_eq!(pod_image(&pod), "app:1");
    assert_ne!(pod["metadata"]["uid"], bad["metadata"]["uid"]);
}

/// Lets so many writes be announced, and stops before the next.
#[derive(Debug)]
struct StopAfter(std::sync::atomic::AtomicU32);

#[async_trait::async_trait]
impl rollback_core::WriteGate for StopAfter {
    async fn before_write(&self, what: &str) -> rollback_core::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| rollback_core::Error::new(ErrorKind::Cancelled, what))
    }
}

#[tokio::test]
async fn stopped_between_template_and_pod_it_is_between_and_either_way_is_open() {
    let testbed = Testbed::shared().await;
    for finish in [true, false] {
        let (namespace, _) = stateful_set("between", "app:1", "app:never-ready").await;
        let is_bad = |pod: &Value| pod_image(pod) == "app:never-ready" && pod["status"]["phase"] == "Running";
        namespace.wait("Pod", "db-2", "it runs the new image", is_bad).await;
        let proxy = testbed.proxy().await;
        let cluster = crate::undo::connect(proxy.kubeconfig()).await;
        let db = workload(&cluster, WorkloadKind::StatefulSet, &namespace, "db");
        let change = db.prepare(&Target::Previous).await.unwrap().remove(0);
        let before = namespace.get("StatefulSet", "db").await["spec"]["template"].clone();
        let stopped = context().with_gate(Arc::new(StopAfter(1.into())));
        assert_eq!(db.apply(&stopped, &change).await.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(stopped.writes(), 1);
        assert_eq!(db.locate(&change).await.unwrap(), Position::Between);
        if finish {
            // The response of the deletion is lost, and applying again finds it done.
            proxy.fault(Matcher::method("DELETE"), Fault::DropAccepted);
            let error = db.apply(&context(), &change).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Indeterminate, "{error:?}");
            db.apply(&context(), &change).await.unwrap();
            assert_eq!(db.locate(&change).await.unwrap(), Position::To);
            assert!(db.verify(&context(), &change).await.unwrap().is_converged());
        } else {
            db.apply(&context(), &change.reversed()).await.unwrap();
            assert_eq!(db.locate(&change).await.unwrap(), Position::From);
            assert_eq!(namespace.get("StatefulSet", "db").await["spec"]["template"], before);
        }
    }
}

#[tokio::test]
async fn a_failed_return_of_a_stateful_set_is_compensated_although_its_pod_blocks() {
    let (namespace, db) = stateful_set("way-back", "app:never-ready-1", "app:2").await;
    // The first revision never got ready, so its pods are replaced by hand to let the second run.
    namespace.kubectl(&["delete", "pod", "-l", "app=db", "--wait=true"]).await.ok();
    let before = namespace.rolled_out("StatefulSet", "db").await;
    let report = undo(&db, Target::Previous, FailurePolicy::Compensate).await;
    assert_eq!(report.outcome, Outcome::Compensated, "{report:#?}");
    let after = namespace.rolled_out("StatefulSet", "db").await;
    assert_eq!(before["spec"], after["spec"]);
    let all_run = |pods: &[Value]| pods.len() == 3 && pods.iter().all(|pod| pod_image(pod) == "app:2");
    namespace.wait_list("Pod", "app=db", "all run app:2", all_run).await;
}

#[tokio::test]
async fn a_stateful_set_that_kubectl_left_stuck_is_freed_by_returning_to_where_it_is() {
    let (namespace, db) = stateful_set("left-stuck", "app:1", "app:never-ready").await;
    let is_bad = |pod: &Value| pod_image(pod) == "app:never-ready" && pod["status"]["phase"] == "Running";
    namespace.wait("Pod", "db-2", "it runs the new image", is_bad).await;
    namespace.kubectl(&["rollout", "undo", "statefulset/db"]).await.ok();
    let current = namespace
        .wait_list("ControllerRevision", "app=db", "it is renumbered", |all| {
            all.iter().any(|revision| revision["revision"] == 3)
        })
        .await;
    assert_eq!(current.len(), 2);
    let report = undo(&db, Target::Revision("3".into()), FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(pod_image(&namespace.get("Pod", "db-2").await), "app:1");
}

#[tokio::test]
async fn kubectl_alone_leaves_that_stateful_set_stuck() {
    let (namespace, _) = stateful_set("kubectl-stuck", "app:1", "app:never-ready").await;
    namespace.wait("Pod", "db-2", "it runs the new image", |pod| pod_image(pod) == "app:never-ready").await;
    namespace.kubectl(&["rollout", "undo", "statefulset/db"]).await.ok();
    let status = namespace.kubectl(&["rollout", "status", "statefulset/db", "--timeout=3s"]).await;
    assert_ne!(status.code, 0, "{status:?}");
    assert_eq!(pod_image(&namespace.get("Pod", "db-2").await), "app:never-ready");
}

#[tokio::test]
async fn a_pod_that_does_not_end_leaves_a_stuck_run_with_the_commands() {
    let (namespace, db) = stateful_set("unreachable", "app:1", "app:stuck-terminating").await;
    namespace
        .wait("Pod", "db-2", "it runs the new image", |pod| pod_image(pod) == "app:stuck-terminating")
        .await;
    namespace.set_ready("db-2", false).await;
    let change = db.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(change.diff.iter().any(|field| field.path == "/pods/db-2"), "{:?}", change.diff);
    let cx = context_of(Duration::from_secs(100));
    let error = db.apply(&cx, &change).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Stuck, "{error:?}");
    assert!(error.hint().unwrap().contains("kubectl delete pod db-2"), "{error:?}");
    let position = db.locate(&change).await.unwrap();
    assert_eq!(position, Position::Between);
}

#[tokio::test]
async fn during_a_partitioned_rollout_what_still_serves_is_the_previous_revision() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("partition").await;
    let mut object = objects::stateful_set("db", "app:1", 2);
    object["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    namespace.create(&object).await;
    namespace.rolled_out("StatefulSet", "db").await;
    for image in ["app:2", "app:3"] {
        namespace.patch("StatefulSet", "db", &objects::image_patch(image)).await;
        namespace
            .wait("Pod", "db-1", "it runs the canary", |pod| {
                pod_image(pod) == image && pod["status"]["phase"] == "Running"
            })
            .await;
    }
    let db = workload(&cluster(testbed).await, WorkloadKind::StatefulSet, &namespace, "db");
    let change = db.prepare(&Target::Previous).await.unwrap().remove(0);
    assert_eq!((change.from.id.as_str(), change.to.summary.as_str()), ("3", "app:1"), "{change:?}");
    let report = undo(&db, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(pod_image(&namespace.get("Pod", "db-1").await), "app:1");
}

#[tokio::test]
async fn with_on_delete_the_plan_says_that_pods_do_not_change_by_themselves() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("on-delete").await;
    let mut object = objects::daemon_set("agent", "app:1");
    object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    namespace.create(&object).await;
    namespace.wait_list("Pod", "app=agent", "they are there", |pods| pods.len() == 2).await;
    namespace.patch("DaemonSet", "agent", &objects::image_patch("app:2")).await;
    namespace.wait_list("ControllerRevision", "app=agent", "both are recorded", |all| all.len() == 2).await;
    let agent = workload(&cluster(testbed).await, WorkloadKind::DaemonSet, &namespace, "agent");
    let change = agent.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(change.warnings.iter().any(|w| w.contains("OnDelete")), "{change:?}");
    let report = undo(&agent, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(report.steps[0].message.as_ref().unwrap().contains("OnDelete"));
    let before = namespace.list("Pod", "app=agent").await;
    let report = restart(&agent, RestartScope::All, Duration::from_secs(20)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let after = namespace.list("Pod", "app=agent").await;
    assert!(uids(&before).keys().all(|name| !uids(&after).contains_key(name)));
    assert!(after.iter().all(|pod| pod_image(pod) == "app:1"), "{after:#?}");
}

#[tokio::test]
async fn a_daemon_set_returns_to_its_previous_revision() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("daemons").await;
    namespace.create(&objects::daemon_set("agent", "app:1")).await;
    namespace.rolled_out("DaemonSet", "agent").await;
    namespace.patch("DaemonSet", "agent", &objects::image_patch("app:crash-loop")).await;
    namespace
        .wait_list("Pod", "app=agent", "one crashes", |pods| {
            pods.iter().any(|pod| pod_image(pod) == "app:crash-loop")
        })
        .await;
    let agent = workload(&cluster(testbed).await, WorkloadKind::DaemonSet, &namespace, "agent");
    let report = undo(&agent, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let all_run = |pods: &[Value]| pods.len() == 2 && pods.iter().all(|pod| pod_image(pod) == "app:1");
    namespace.wait_list("Pod", "app=agent", "all run app:1", all_run).await;
}

pub(crate) async fn restart(component: &Workload, scope: RestartScope, apply_timeout: Duration) -> RunReport {
    let component = Arc::new(component.clone());
    let plan = Planner::new().restart("web", component.clone(), scope, &[]).plan().await.unwrap();
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let mut options = RunOptions::by("tests");
    options.settings.verify_timeout = Duration::from_secs(20);
    options.settings.apply_timeout = apply_timeout;
    engine.execute(&plan, &Components::new().with(component), options).await.unwrap()
}

pub(crate) fn uids(pods: &[Value]) -> std::collections::BTreeMap<String, String> {
    let text = |pod: &Value, field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
    pods.iter().map(|pod| (text(pod, "name"), text(pod, "uid"))).collect()
}

async fn three_pods(prefix: &str) -> (Namespace, Workload, Vec<Value>) {
    let (namespace, web) = rolled_out(prefix, &["app:1"], 3).await;
    let pods = namespace.list("Pod", "app=web").await;
    (namespace, web, pods)
}

#[tokio::test]
async fn a_restart_replaces_exactly_the_pods_that_are_not_ready() {
    let (namespace, web, pods) = three_pods("restart-unready").await;
    let bad = pods[1]["metadata"]["name"].as_str().unwrap();
    namespace.set_ready(bad, false).await;
    namespace.wait("Deployment", "web", "one is not ready", |d| d["status"]["readyReplicas"] == 2).await;
    let report = restart(&web, RestartScope::Unready, Duration::from_secs(20)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let (before, after) = (uids(&pods), uids(&namespace.list("Pod", "app=web").await));
    assert!(!after.contains_key(bad), "{after:?}");
    assert_eq!(before.keys().filter(|name| after.contains_key(*name)).count(), 2);

    let nothing = restart(&web, RestartScope::Unready, Duration::from_secs(20)).await;
    assert_eq!(nothing.outcome, Outcome::NothingToDo);
}

#[tokio::test]
async fn a_disruption_budget_holds_for_restarts() {
    let (namespace, web, pods) = three_pods("budget").await;
    let budget = json!({
        "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}},
    });
    namespace.create(&budget).await;
    namespace
        .wait("PodDisruptionBudget", "web", "it is observed", |b| b["status"]["observedGeneration"] == 1)
        .await;
    let bad = pods[0]["metadata"]["name"].as_str().unwrap();
    namespace.set_ready(bad, false).await;
    namespace.wait("Deployment", "web", "one is not ready", |d| d["status"]["readyReplicas"] == 2).await;
    let report = restart(&web, RestartScope::Unready, Duration::from_secs(4)).await;
    assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
    let error = report.steps[0].error.as_ref().unwrap();
    assert!(error.message.contains("PodDisruptionBudget"), "{error:?}");
    assert!(!report.changed());
    assert_eq!(uids(&pods), uids(&namespace.list("Pod", "app=web").await));
}

#[tokio::test]
async fn a_restart_of_all_is_a_rollout_and_repeating_it_restarts_nothing_more() {
    let (namespace, web, pods) = three_pods("restart-all").await;
    let change = web.prepare_restart(RestartScope::All).await.unwrap();
    web.apply(&context(), &change).await.unwrap();
    assert!(web.verify(&context(), &change).await.unwrap().is_converged());
    let object = namespace.get("Deployment", "web").await;
    let generation = object["metadata"]["generation"].clone();
    let before = uids(&pods);
    // Pods on their way out no longer count, and are still listed.
    let are_new = |pods: &[Value]| uids(pods).keys().all(|name| !before.contains_key(name));
    namespace.wait_list("Pod", "app=web", "all are new", are_new).await;
    web.apply(&context(), &change).await.unwrap();
    assert_eq!(namespace.get("Deployment", "web").await["metadata"]["generation"], generation);
    // Everyone restarts first: the way back is still the way back.
    assert_eq!(image(&object), "app:1");
    assert_eq!(web.prepare(&Target::Previous).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_restart_of_all_is_of_those_below_a_partition_too_which_keep_their_revision() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("restart-partition").await;
    let mut object = objects::stateful_set("db", "app:1", 3);
    object["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    namespace.create(&object).await;
    namespace.rolled_out("StatefulSet", "db").await;
    namespace.patch("StatefulSet", "db", &objects::image_patch("app:2")).await;
    namespace.wait("Pod", "db-2", "it is of the new revision", |pod| pod_image(pod) == "app:2").await;
    namespace.wait("StatefulSet", "db", "all are ready", |set| set["status"]["readyReplicas"] == 3).await;
    let images = async || {
        let pods = namespace.list("Pod", "app=db").await;
        let image = |pod: &Value| (pod["metadata"]["name"].clone(), pod_image(pod).to_owned());
        let images: Vec<_> = pods.iter().map(image).collect();
        (uids(&pods), images)
    };
    let (before, ran) = images().await;
    let db = workload(&cluster(testbed).await, WorkloadKind::StatefulSet, &namespace, "db");
    let report = restart(&db, RestartScope::All, Duration::from_secs(60)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let (after, runs) = images().await;
    assert_eq!(after.len(), 3);
    assert!(after.values().all(|uid| !before.values().any(|old| old == uid)), "{before:?} {after:?}");
    assert_eq!(runs, ran, "each came back with the revision that it had");
}

/// A controller whose cache is behind gives two revisions one number.
#[tokio::test]
async fn of_two_revisions_with_one_number_the_one_that_kubectl_takes_is_previous() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("ties").await;
    let cluster = cluster(testbed).await;
    let mut options = WorkloadOptions::default();
    options.mode = UndoMode::Kubectl;
    let mut ways = BTreeSet::new();
    for round in 0..20 {
        if round >= 6 && ways.len() == 2 {
            break;
        }
        let name = format!("db{round}");
        namespace.create(&objects::stateful_set(&name, "app:1", 0)).await;
        for (recorded, image) in [(1, "app:2"), (2, "app:3")] {
            let selector = format!("app={name}");
            namespace
                .wait_list("ControllerRevision", &selector, "it is recorded", |all| all.len() == recorded)
                .await;
            namespace.patch("StatefulSet", &name, &objects::image_patch(image)).await;
        }
        let selector = format!("app={name}");
        let all = namespace
            .wait_list("ControllerRevision", &selector, "all are recorded", |all| all.len() == 3)
            .await;
        let of = |number: i64| all.iter().find(|item| item["revision"] == number).unwrap();
        let names = [2, 3].map(|number| of(number)["metadata"]["name"].as_str().unwrap());
        let settled = |set: &Value| {
            set["status"]["observedGeneration"] == set["metadata"]["generation"]
                && set["status"]["updateRevision"] == names[1]
        };
        namespace.wait("StatefulSet", &name, "its controller is done with it", settled).await;
        namespace.merge("ControllerRevision", names[0], &json!({"revision": 3})).await;

        let db = Workload::new(&cluster, WorkloadKind::StatefulSet, namespace.name(), &name, options.clone());
        let planned = db.unwrap().prepare(&Target::Previous).await.unwrap().remove(0);
        let undo = ["rollout", "undo", &format!("statefulset/{name}"), "--dry-run=client"];
        let chosen = namespace.kubectl(&undo).await.ok();
        // A controller that looks once more numbers them anew: both have chosen only if it has not until now.
        let now = namespace.list("ControllerRevision", &selector).await;
        if now.iter().filter(|item| item["revision"] == 3).count() != 2 {
            continue;
        }
        ways.insert(names[0] < names[1]);
        let ours = planned.to.content["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
        let images: Vec<_> = chosen.lines().filter_map(|line| line.trim().strip_prefix("Image:")).collect();
        assert_eq!(images.iter().map(|image| image.trim()).collect::<Vec<_>>(), [ours], "{name}: {chosen}");
    }
    assert_eq!(ways.len(), 2, "both orders of their names occur");
}
