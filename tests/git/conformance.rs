//! An environment keeps every promise of a component, on the real API server and with the real kustomize.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Access, Rollbackable, RunId, StepContext, StepId, Target};
use rollback_testkit::{Deployed, Fixture};
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::environment::{connect, environment};
use crate::world::Repo;

const PASSWORD: &str = "correct-horse-battery-staple";

/// What the environment of a world holds.
pub(crate) trait Shape: Send + Sync + 'static {
    /// Whether it holds a workload and a Secret, and not settings alone.
    const WHOLE: bool;
}

pub(crate) struct Whole;
/// For what takes many worlds.
pub(crate) struct Settings;

impl Shape for Whole {
    const WHOLE: bool = true;
}

impl Shape for Settings {
    const WHOLE: bool = false;
}

pub(crate) struct World<S> {
    shape: PhantomData<S>,
    repo: Repo,
    namespace: Namespace,
    proxy: FaultProxy,
    /// Writes seen before the proxy was told to forget.
    writes: AtomicU64,
    older: Value,
}

/// What people ask for of the objects, without bookkeeping.
async fn content(namespace: &Namespace) -> Value {
    let mut seen = json!({});
    for (kind, name) in
        [("Deployment", "web"), ("ConfigMap", "settings"), ("Secret", "login"), ("ConfigMap", "added")]
    {
        let object = namespace.get_if_exists(kind, name).await;
        seen[format!("{kind}/{name}")] =
            if kind == "Deployment" { object["spec"]["template"].clone() } else { object["data"].clone() };
    }
    seen
}

impl<S: Shape> World<S> {
    /// A path of its own, since environments of one path are one component.
    fn path(namespace: &str) -> String {
        format!("infra/environments/{namespace}")
    }

    fn release(repo: &Repo, namespace: &str, tag: &str, image: &str, more: &[Value]) {
        let mut web = objects::deployment("web", image, 1);
        // Whoever scales it has the number.
        web["spec"].as_object_mut().unwrap().remove("replicas");
        web["spec"]["template"]["spec"]["containers"][0]["env"] =
            json!([{"name": "DB_PASSWORD", "value": PASSWORD}]);
        let mut all = vec![
            objects::config_map("settings", &json!({"image": image})),
            web,
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
                "stringData": {"password": PASSWORD, "for": image}}),
            objects::config_map("same", &json!({"a": "1"})),
        ];
        if !S::WHOLE {
            all.truncate(1);
        }
        all.extend(more.iter().cloned());
        let text: Vec<_> = all.iter().map(Value::to_string).collect();
        let path = Self::path(namespace);
        repo.write(&format!("{path}/all.yaml"), text.join("\n---\n"));
        let kustomization = format!("namespace: {namespace}\nresources: [all.yaml]\n");
        repo.write(&format!("{path}/kustomization.yaml"), kustomization);
        repo.commit(image);
        repo.git(&["tag", tag]);
    }

    fn count(&self) -> u64 {
        let is_real = |query: &str| !query.contains("dryRun");
        let accepted = |status: Option<u16>| status.is_some_and(|code| code < 300);
        let writes = self.proxy.writes();
        writes.iter().filter(|request| accepted(request.status) && is_real(&request.query)).count() as u64
    }
}

#[async_trait]
impl<S: Shape> Fixture for World<S> {
    async fn new() -> Self {
        let testbed = Testbed::shared().await;
        let namespace = testbed.namespace("environment").await;
        let repo = Repo::new();
        Self::release(
            &repo,
            namespace.name(),
            "v1.0.0",
            "app:1",
            &[objects::config_map("added", &json!({"b": "2"}))],
        );
        Self::release(&repo, namespace.name(), "v1.1.0", "app:never-ready", &[]);
        Self::release(&repo, namespace.name(), "v1.2.0", "app:3", &[]);
        let cluster = connect(testbed.kubeconfig()).await;
        let component = environment(&cluster, &repo, &Self::path(namespace.name()), |_| {});
        let mut older = Value::Null;
        let tags: &[&str] = if S::WHOLE { &["v1.0.0", "v1.2.0"] } else { &["v1.2.0"] };
        if !S::WHOLE {
            older = content(&namespace).await;
            older["ConfigMap/settings"] = json!({"image": "app:1"});
            older["ConfigMap/added"] = json!({"b": "2"});
        }
        for tag in tags {
            let target = Target::Revision((*tag).into());
            for change in component.prepare(&target).await.unwrap() {
                let cx = StepContext::new(RunId::random(), StepId::new("deploy"), Duration::from_secs(60));
                component.apply(&cx, &change).await.unwrap();
                assert!(component.verify(&cx, &change).await.unwrap().is_converged());
            }
            if older.is_null() {
                older = content(&namespace).await;
                namespace.delete("ConfigMap", "added").await;
            }
        }
        let proxy = testbed.proxy().await;
        Self { shape: PhantomData, repo, namespace, proxy, writes: AtomicU64::new(0), older }
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        let cluster = connect(self.proxy.kubeconfig()).await;
        let path = Self::path(self.namespace.name());
        Arc::new(environment(&cluster, &self.repo, &path, |options| options.prune = true))
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("v1.0.0".into()), content: self.older.clone() }
    }

    async fn observe(&self) -> Value {
        content(&self.namespace).await
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.writes.load(Ordering::SeqCst) + self.count())
    }

    async fn edit_touched(&self) -> Option<()> {
        self.namespace.merge("ConfigMap", "settings", &json!({"data": {"image": "elsewhere"}})).await;
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        self.namespace.patch("Deployment", "web", &json!({"spec": {"replicas": 2}})).await;
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        Some(self.namespace.get("Deployment", "web").await["spec"]["replicas"].clone())
    }

    async fn recreate(&self) -> Option<()> {
        let mut object = self.namespace.get("ConfigMap", "settings").await;
        self.namespace.delete("ConfigMap", "settings").await;
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            object["metadata"].as_object_mut().unwrap().remove(field);
        }
        self.namespace.create(&object).await;
        Some(())
    }

    async fn lose_next_response(&self) -> Option<()> {
        self.proxy.fault(Matcher::method("PATCH").without_query("dryRun"), Fault::DropAccepted);
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
            Access::Write => &["PATCH", "PUT", "POST", "DELETE"],
        };
        for method in methods {
            self.proxy.fault(Matcher::method(method), Fault::Status { code, retry_after: None });
        }
        Some(())
    }

    async fn never_settles(&self) -> Option<Target> {
        Some(Target::Revision("v1.1.0".into()))
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        Some(vec![PASSWORD.into(), "token-of-admin".into()])
    }

    fn glance(&self) -> Duration {
        Duration::from_secs(3)
    }
}

type Env = World<Whole>;
rollback_testkit::conformance!(Env);
