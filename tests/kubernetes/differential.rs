//! What kubectl does and what we do, on the same histories: each is built twice, in two namespaces, undone by
//! kubectl in one and by us in the other, and compared.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use rollback_core::{ErrorKind, Rollbackable, Target, VerificationState};
use rollback_k8s::{UndoMode, Workload, WorkloadKind, WorkloadOptions};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::{cluster, context};

/// How many histories are undone side by side.
const SIDE_BY_SIDE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployments_are_left_exactly_as_kubectl_leaves_them() {
    compare(WorkloadKind::Deployment, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_sets_are_left_exactly_as_kubectl_leaves_them() {
    compare(WorkloadKind::StatefulSet, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_sets_are_left_exactly_as_kubectl_leaves_them() {
    compare(WorkloadKind::DaemonSet, 30).await;
}

async fn compare(kind: WorkloadKind, histories: u64) {
    let testbed = Testbed::shared().await;
    let [theirs, ours] = [testbed.namespace("kubectl").await, testbed.namespace("ours").await];
    let cluster = cluster(testbed).await;
    let cases = stream::iter(0..histories).map(async |seed| {
        let case = Case { kind, name: format!("w{seed}"), rng: fastrand::Rng::with_seed(seed) };
        case.run(&theirs, &ours, &cluster).await
    });
    let done: Vec<Undone> = cases.buffer_unordered(SIDE_BY_SIDE).collect().await;
    let count = |wanted| done.iter().filter(|done| **done == wanted).count();
    let (back, skipped, failed) = (count(Undone::Back), count(Undone::Skipped), count(Undone::Failed));
    println!("{kind}: {back} rolled back, {skipped} skipped, {failed} failed alike");
    // A generator that never gets somewhere proves nothing there.
    assert!(back * 2 > done.len() && failed > 0, "{back} {skipped} {failed}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undone {
    Back,
    Skipped,
    Failed,
}

struct Case {
    kind: WorkloadKind,
    name: String,
    rng: fastrand::Rng,
}

impl Case {
    fn kind_name(&self) -> &'static str {
        match self.kind {
            WorkloadKind::Deployment => "Deployment",
            WorkloadKind::StatefulSet => "StatefulSet",
            WorkloadKind::DaemonSet => "DaemonSet",
        }
    }

    async fn run(mut self, theirs: &Namespace, ours: &Namespace, cluster: &rollback_k8s::Cluster) -> Undone {
        // Drawn apart: how often building takes on a busy machine decides nothing else.
        let mut choices = self.rng.fork();
        while !self.build(theirs, ours).await {
            self.name.push('a');
        }
        let component = |mode| {
            let mut options = WorkloadOptions::default();
            options.mode = mode;
            Workload::new(cluster, self.kind, ours.name(), &self.name, options).unwrap()
        };
        let object = format!("{}/{}", self.kind, self.name);
        let exact = component(UndoMode::Kubectl);
        let kept = self.same_history(theirs, &object, &exact).await;

        let number = match choices.u8(0..8) {
            0..=3 => "0".to_owned(),
            4 => "99".to_owned(),
            _ => choices.choice(&kept).cloned().unwrap_or_default(),
        };
        let target = if number == "0" { Target::Previous } else { Target::Revision(number.clone()) };
        let guarded = component(UndoMode::Guarded).prepare(&target).await;
        let flag = format!("--to-revision={number}");
        let kubectl = theirs.kubectl(&["rollout", "undo", &object, &flag]).await;
        let told = format!("{} seed {} to {number} of {kept:?}: {kubectl:?}", self.kind, self.name);
        let undone = match exact.prepare(&target).await {
            Err(error) => {
                assert_ne!(kubectl.code, 0, "{told} {error:?}");
                let expected =
                    if kubectl.stderr.contains("paused") { ErrorKind::Refused } else { ErrorKind::NotFound };
                assert_eq!(error.kind(), expected, "{told}");
                Undone::Failed
            }
            Ok(changes) => {
                assert_eq!(kubectl.code, 0, "{told}");
                assert_eq!(changes[0].is_noop(), kubectl.stdout.contains("skipped rollback"), "{told}");
                exact.apply(&context(), &changes[0]).await.unwrap();
                if changes[0].is_noop() { Undone::Skipped } else { Undone::Back }
            }
        };
        let [left, mine] = [self.settled(theirs).await, self.settled(ours).await];
        assert_eq!(left, mine, "{told}");
        if undone == Undone::Back
            && let Ok(guarded) = guarded
            && !guarded[0].warnings.iter().any(|w| w.contains("skipped"))
            && !guarded[0].is_noop()
        {
            let template = &guarded[0].to.content["template"];
            let without_nulls = |value: &Value| {
                let text = value.to_string().replace("\"creationTimestamp\":null,", "");
                serde_json::from_str::<Value>(&text).unwrap()
            };
            assert_eq!(without_nulls(template), without_nulls(&left["spec"]["template"]), "guarded: {told}");
        }
        self.same_status(theirs, &object, &exact).await;
        undone
    }

    /// Builds the same history in both namespaces; answers whether that came out. Controllers order by
    /// creation times of whole seconds, so that two histories built alike can be trimmed differently.
    async fn build(&mut self, theirs: &Namespace, ours: &Namespace) -> bool {
        let mut object = match self.kind {
            WorkloadKind::Deployment => objects::deployment(&self.name, "app:0", 0),
            WorkloadKind::StatefulSet => objects::stateful_set(&self.name, "app:0", 0),
            WorkloadKind::DaemonSet => {
                let mut object = objects::daemon_set(&self.name, "app:0");
                object["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "node"});
                object
            }
        };
        if let Some(limit) =
            [None, None, None, None, Some(0), Some(1), Some(2), Some(10)][self.rng.usize(0..8)]
        {
            object["spec"]["revisionHistoryLimit"] = json!(limit);
        }
        if self.rng.u8(0..3) == 0 {
            object["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "first"});
        }
        theirs.create(&object).await;
        ours.create(&object).await;
        self.both_settled(theirs, ours).await;
        let steps = self.rng.usize(1..12);
        for step in 1..=steps {
            let change = self.change(step);
            for namespace in [theirs, ours] {
                namespace.patch(self.kind_name(), &self.name, &change).await;
            }
            self.both_settled(theirs, ours).await;
        }
        if self.kind == WorkloadKind::Deployment && self.rng.u8(0..10) == 0 {
            for namespace in [theirs, ours] {
                namespace.patch(self.kind_name(), &self.name, &json!({"spec": {"paused": true}})).await;
            }
            self.both_settled(theirs, ours).await;
        }
        // What exceeds the limit goes a moment later.
        let most = object["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10) + 1;
        for _ in 0..40 {
            let all = [self.kept(theirs).await, self.kept(ours).await];
            if all.iter().all(|kept| kept.len() as u64 <= most) {
                break;
            }
            Testbed::shared().await.pause(Duration::from_millis(250)).await;
        }
        self.kept(theirs).await == self.kept(ours).await
    }

    /// The name and number of every recorded revision.
    async fn kept(&self, namespace: &Namespace) -> BTreeSet<(String, String)> {
        let kind = match self.kind {
            WorkloadKind::Deployment => "ReplicaSet",
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => "ControllerRevision",
        };
        let recorded = namespace.list(kind, &format!("app={}", self.name)).await;
        let number = |item: &Value| match item.get("revision") {
            Some(number) => number.to_string(),
            None => item["metadata"]["annotations"]["deployment.kubernetes.io/revision"].to_string(),
        };
        recorded.iter().map(|item| (item["metadata"]["name"].to_string(), number(item))).collect()
    }

    /// A strategic merge patch: mostly of the template, which repeats now and then, with annotations.
    fn change(&mut self, step: usize) -> Value {
        let mut change = match self.rng.u8(0..8) {
            0 => json!({"spec": {"template": {"metadata": {"labels": {"extra": self.word()}}}}}),
            1 => json!({"spec": {"template": {"metadata": {"annotations": {"note": self.word()}}}}}),
            2 => {
                let at = format!("2026-01-01T00:00:{step:02}Z");
                let restart = json!({"kubectl.kubernetes.io/restartedAt": at});
                json!({"spec": {"template": {"metadata": {"annotations": restart}}}})
            }
            3 => {
                let env = json!([{"name": "MODE", "value": self.word()}]);
                json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "env": env}]}}}})
            }
            _ => objects::image_patch(&format!("app:{}", self.rng.u8(0..5))),
        };
        if self.rng.bool() {
            let cause = format!("step {step}");
            let value = [json!(null), json!(cause), json!(self.word())][self.rng.usize(0..3)].clone();
            let key = ["kubernetes.io/change-cause", "team", "a/b"][self.rng.usize(0..3)];
            change["metadata"] = json!({"annotations": {key: value}});
        }
        change
    }

    fn word(&mut self) -> &'static str {
        ["blue", "green", "red"][self.rng.usize(0..3)]
    }

    async fn both_settled(&self, theirs: &Namespace, ours: &Namespace) {
        let (a, b) = (self.settled(theirs).await, self.settled(ours).await);
        assert_eq!(a, b, "the two histories differ before anything was undone");
    }

    /// The object once its controller is done with it, without what differs from object to object.
    async fn settled(&self, namespace: &Namespace) -> Value {
        let is_settled = |object: &Value| {
            let observed = &object["status"]["observedGeneration"];
            let recorded = self.kind != WorkloadKind::Deployment
                || object["spec"]["paused"] == true
                || object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].is_string();
            *observed == object["metadata"]["generation"] && recorded
        };
        let mut object =
            namespace.wait(self.kind_name(), &self.name, "its controller has seen it", is_settled).await;
        for field in
            ["namespace", "uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"]
        {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        object.as_object_mut().unwrap().remove("status");
        object
    }

    /// Asserts that kubectl lists what we list; answers the numbers.
    async fn same_history(&self, theirs: &Namespace, object: &str, ours: &Workload) -> Vec<String> {
        let kubectl = theirs.kubectl(&["rollout", "history", object]).await.ok();
        let mut rows: Vec<(String, Option<String>)> = kubectl
            .lines()
            .skip_while(|line| !line.starts_with("REVISION"))
            .skip(1)
            .filter_map(|line| line.split_once(char::is_whitespace))
            .map(|(number, cause)| {
                (number.to_owned(), Some(cause.trim().to_owned()).filter(|c| c != "<none>"))
            })
            .collect();
        rows.reverse();
        let history = ours.history().await.unwrap();
        let history: Vec<_> = history
            .into_iter()
            .filter(|revision| revision.id != "unrecorded")
            .map(|revision| (revision.id, revision.cause))
            .collect();
        assert_eq!(rows, history, "{object}");
        history.into_iter().map(|(number, _)| number).collect()
    }

    async fn same_status(&self, theirs: &Namespace, object: &str, ours: &Workload) {
        let kubectl = theirs.kubectl(&["rollout", "status", object, "--watch=false"]).await.ok();
        let mine = ours.status().await.unwrap();
        assert_eq!(kubectl.trim(), mine.message, "{object}");
        assert_ne!(mine.state, VerificationState::Failed, "{object}");
    }
}
