//! InferenceServices keep every promise of a component, in both modes, with and without a canary under way.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Access, Rollbackable, Target};
use rollback_testkit::{Deployed, Fixture};
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, SERVICES, Testbed};
use serde_json::{Value, json};

use crate::world::{self, NAME, connect, predictor, uri};

const PASSWORD: &str = "correct-horse-battery-staple";

pub(crate) trait Shape: Send + Sync + 'static {
    const MODE: &'static str;
    /// Whether a canary is under way, so that going back means to drop it.
    const CANARY: bool = false;
}

pub(crate) struct InKnative;
pub(crate) struct InKnativeWithCanary;
pub(crate) struct InStandard;
pub(crate) struct InStandardWithCanary;

impl Shape for InKnative {
    const MODE: &'static str = "Knative";
}

impl Shape for InKnativeWithCanary {
    const MODE: &'static str = "Serverless";
    const CANARY: bool = true;
}

impl Shape for InStandard {
    const MODE: &'static str = "RawDeployment";
}

impl Shape for InStandardWithCanary {
    const MODE: &'static str = "Standard";
    const CANARY: bool = true;
}

pub(crate) struct World<S> {
    namespace: Namespace,
    proxy: FaultProxy,
    /// Writes seen before the proxy was told to forget.
    writes: AtomicU64,
    older: Deployed,
    shape: PhantomData<S>,
}

fn with_secret(model: &str) -> Value {
    let mut predictor = predictor(model);
    predictor["model"]["env"] = json!([{"name": "DB_PASSWORD", "value": PASSWORD}]);
    json!({"predictor": predictor})
}

/// What a change is about: the components, without what belongs to no revision.
fn content(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec.as_object_mut().unwrap().remove("futureField");
    spec
}

impl<S: Shape> World<S> {
    fn count(&self) -> u64 {
        let accepted = |status: Option<u16>| status.is_some_and(|code| code < 300);
        self.proxy.writes().iter().filter(|request| accepted(request.status)).count() as u64
    }

    async fn spec(&self) -> Value {
        self.namespace.get(SERVICES, NAME).await["spec"].clone()
    }
}

#[async_trait]
impl<S: Shape> Fixture for World<S> {
    async fn new() -> Self {
        let specs = ["v1", "never-ready-2", "v3"].map(with_secret);
        let namespace = world::deployed(S::MODE, &specs).await;
        let mut older = Deployed { target: Target::Revision("1".into()), content: specs[0].clone() };
        if S::CANARY {
            older = Deployed { target: Target::Revision("3".into()), content: specs[2].clone() };
            let mut newer = with_secret("v4");
            newer["predictor"]["canaryTrafficPercent"] = json!(10);
            if S::MODE == "Standard" {
                newer = specs[2].clone();
                let mut canary = predictor("v4");
                canary["name"] = json!("next");
                newer["canary"] = json!([{"trafficPercent": 10, "predictor": canary}]);
            }
            world::deploy(&namespace, &newer).await;
        }
        let proxy = Testbed::shared().await.proxy().await;
        Self { namespace, proxy, writes: AtomicU64::new(0), older, shape: PhantomData }
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        let cluster = connect(self.proxy.kubeconfig()).await;
        Arc::new(world::service(&cluster, &self.namespace))
    }

    fn older(&self) -> Deployed {
        self.older.clone()
    }

    async fn observe(&self) -> Value {
        content(&self.spec().await)
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.writes.load(Ordering::SeqCst) + self.count())
    }

    async fn edit_touched(&self) -> Option<()> {
        let edit = json!({"spec": {"predictor": {"model": {"storageUri": uri("elsewhere")}}}});
        self.namespace.merge(SERVICES, NAME, &edit).await;
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        self.namespace.merge(SERVICES, NAME, &json!({"spec": {"futureField": {"a": 1}}})).await;
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        Some(self.spec().await["futureField"].clone())
    }

    async fn recreate(&self) -> Option<()> {
        let spec = self.spec().await;
        self.namespace.delete(SERVICES, NAME).await;
        self.namespace.wait(SERVICES, NAME, "gone", Value::is_null).await;
        self.namespace.create(&world::object(S::MODE, &spec)).await;
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
        let never = history.into_iter().find(|revision| revision.summary.contains("never-ready"))?;
        Some(Target::Revision(never.id))
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        Some(vec![PASSWORD.into(), "token-of-admin".into()])
    }

    fn glance(&self) -> Duration {
        Duration::from_secs(3)
    }
}

mod knative {
    type World = super::World<super::InKnative>;
    rollback_testkit::conformance!(World);
}

mod knative_with_a_canary_at_ten_percent {
    type World = super::World<super::InKnativeWithCanary>;
    rollback_testkit::conformance!(
        World,
        skip {
            a_recorded_snapshot_can_be_returned_to: "the share of a canary belongs to no revision, so it is not recorded",
        }
    );
}

mod standard {
    type World = super::World<super::InStandard>;
    rollback_testkit::conformance!(World);
}

mod standard_with_a_canary_at_ten_percent {
    type World = super::World<super::InStandardWithCanary>;
    rollback_testkit::conformance!(World);
}
