//! Every kind of workload keeps every promise of a component, on the real API server.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Access, Rollbackable, Target};
use rollback_k8s::WorkloadKind;
use rollback_testkit::{Deployed, Fixture};
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::{connect, workload};

const PASSWORD: &str = "correct-horse-battery-staple";

pub(crate) trait Shape: Send + Sync + 'static {
    const KIND: &'static str;
    const WORKLOAD: WorkloadKind;
    /// Whether the newest revision blocks, so that going back takes the deletion of a pod too.
    const STUCK: bool = false;
}

pub(crate) struct OfDeployment;
struct OfStatefulSet;
struct OfStuckStatefulSet;
struct OfDaemonSet;

impl Shape for OfDeployment {
    const KIND: &'static str = "Deployment";
    const WORKLOAD: WorkloadKind = WorkloadKind::Deployment;
}

impl Shape for OfStatefulSet {
    const KIND: &'static str = "StatefulSet";
    const WORKLOAD: WorkloadKind = WorkloadKind::StatefulSet;
}

impl Shape for OfStuckStatefulSet {
    const KIND: &'static str = "StatefulSet";
    const WORKLOAD: WorkloadKind = WorkloadKind::StatefulSet;
    const STUCK: bool = true;
}

impl Shape for OfDaemonSet {
    const KIND: &'static str = "DaemonSet";
    const WORKLOAD: WorkloadKind = WorkloadKind::DaemonSet;
}

pub(crate) struct World<S> {
    namespace: Namespace,
    proxy: FaultProxy,
    /// Writes seen before the proxy was told to forget.
    writes: AtomicU64,
    older: Value,
    shape: PhantomData<S>,
}

fn template(object: &Value) -> Value {
    let text = object["spec"]["template"].to_string().replace("\"creationTimestamp\":null,", "");
    serde_json::from_str(&text).unwrap()
}

impl<S: Shape> World<S> {
    fn object() -> Value {
        let mut object = match S::WORKLOAD {
            WorkloadKind::Deployment => objects::deployment("web", "app:1", 1),
            WorkloadKind::StatefulSet => objects::stateful_set("web", "app:1", 1),
            WorkloadKind::DaemonSet => objects::daemon_set("web", "app:1"),
        };
        object["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "DB_PASSWORD", "value": PASSWORD}]);
        if S::WORKLOAD == WorkloadKind::StatefulSet && !S::STUCK {
            object["spec"]["podManagementPolicy"] = json!("Parallel");
        }
        object
    }

    async fn deploy(namespace: &Namespace, image: &str, revisions: usize) {
        namespace.patch(S::KIND, "web", &objects::image_patch(image)).await;
        let history = match S::WORKLOAD {
            WorkloadKind::Deployment => "ReplicaSet",
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => "ControllerRevision",
        };
        namespace.wait_list(history, "app=web", "it is recorded", |all| all.len() == revisions).await;
    }

    fn count(&self) -> u64 {
        let accepted = |status: Option<u16>| status.is_some_and(|code| code < 300);
        self.proxy.writes().iter().filter(|request| accepted(request.status)).count() as u64
    }
}

#[async_trait]
impl<S: Shape> Fixture for World<S> {
    async fn new() -> Self {
        let testbed = Testbed::shared().await;
        let namespace = testbed.namespace("conformance").await;
        namespace.create(&Self::object()).await;
        let older = template(&namespace.rolled_out(S::KIND, "web").await);
        if S::STUCK {
            Self::deploy(&namespace, "app:2", 2).await;
            namespace.rolled_out(S::KIND, "web").await;
            Self::deploy(&namespace, "app:never-ready", 3).await;
            let is_bad = |pod: &Value| {
                pod["spec"]["containers"][0]["image"] == "app:never-ready"
                    && pod["status"]["phase"] == "Running"
            };
            namespace.wait("Pod", "web-0", "it blocks", is_bad).await;
        } else {
            Self::deploy(&namespace, "app:never-ready", 2).await;
            Self::deploy(&namespace, "app:3", 3).await;
            namespace.rolled_out(S::KIND, "web").await;
        }
        let proxy = testbed.proxy().await;
        Self { namespace, proxy, writes: AtomicU64::new(0), older, shape: PhantomData }
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        let cluster = connect(self.proxy.kubeconfig()).await;
        Arc::new(workload(&cluster, S::WORKLOAD, &self.namespace, "web"))
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("1".into()), content: self.older.clone() }
    }

    async fn observe(&self) -> Value {
        template(&self.namespace.get(S::KIND, "web").await)
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.writes.load(Ordering::SeqCst) + self.count())
    }

    async fn edit_touched(&self) -> Option<()> {
        self.namespace.patch(S::KIND, "web", &objects::image_patch("app:elsewhere")).await;
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        let change = match S::WORKLOAD {
            WorkloadKind::DaemonSet => json!({"metadata": {"labels": {"team": "b"}}}),
            WorkloadKind::Deployment | WorkloadKind::StatefulSet => json!({"spec": {"replicas": 2}}),
        };
        self.namespace.patch(S::KIND, "web", &change).await;
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        let object = self.namespace.get(S::KIND, "web").await;
        Some(json!([object["spec"]["replicas"], object["metadata"]["labels"]]))
    }

    async fn recreate(&self) -> Option<()> {
        let live = self.namespace.get(S::KIND, "web").await;
        self.namespace.delete(S::KIND, "web").await;
        let mut object = Self::object();
        object["spec"]["template"] = template(&live);
        self.namespace.create(&object).await;
        Some(())
    }

    async fn lose_next_response(&self) -> Option<()> {
        self.proxy.fault(Matcher::method("PATCH"), Fault::DropAccepted);
        Some(())
    }

    async fn answer(&self, access: Access, status: Option<u16>) -> Option<()> {
        let Some(code) = status else {
            self.writes.fetch_add(self.count(), Ordering::SeqCst);
            self.proxy.clear();
            return Some(());
        };
        let methods: &[&str] = match access {
            Access::Read => &["GET"],
            Access::Write => &["PATCH", "POST", "DELETE"],
        };
        for method in methods {
            self.proxy.fault(Matcher::method(method), Fault::Status { code, retry_after: None });
        }
        Some(())
    }

    async fn never_settles(&self) -> Option<Target> {
        let history = self.component().await.history().await.unwrap();
        let never = history.into_iter().find(|revision| revision.summary == "app:never-ready")?;
        (!S::STUCK).then_some(Target::Revision(never.id))
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        Some(vec![PASSWORD.into(), "token-of-admin".into()])
    }

    fn glance(&self) -> Duration {
        Duration::from_secs(3)
    }
}

mod deployment {
    type World = super::World<super::OfDeployment>;
    rollback_testkit::conformance!(World);
}

mod stateful_set {
    type World = super::World<super::OfStatefulSet>;
    rollback_testkit::conformance!(World);
}

mod stuck_stateful_set {
    type World = super::World<super::OfStuckStatefulSet>;
    rollback_testkit::conformance!(
        World,
        skip {
            reads_do_not_write: "the revision in place is the one that never settles",
            what_never_settles_is_progressing_at_the_deadline: "the revision in place is the one that never settles",
            apply_reaches_the_target: "its way back never settles",
            a_recorded_snapshot_can_be_returned_to: "its way back never settles",
            verify_ends_converged: "its way back never settles",
            stopped_after_any_write_apply_finishes: "a reversal does not bring the deleted pod back; sets.rs has the sweep",
            a_lost_response_and_apply_again_is_applying_once: "a reversal does not bring the deleted pod back; sets.rs has it",
        }
    );
}

mod daemon_set {
    type World = super::World<super::OfDaemonSet>;
    rollback_testkit::conformance!(World);
}
