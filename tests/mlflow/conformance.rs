//! Aliases and stages keep every promise of a component, on real servers of both versions.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use rollback_core::{Access, Rollbackable, Target};
use rollback_mlflow::{ModelPointer, Registry, RegistryConfig, Stage};
use rollback_testkit::{Deployed, Fixture};
use rollback_tests::{Fault, FaultProxy, Matcher, Mlflow, MlflowVersion};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::world::options;

const PASSWORD: &str = "correct-horse-battery-staple";

trait Shape: Send + Sync + 'static {
    const VERSION: MlflowVersion;
    const IS_ALIAS: bool;
}

struct StageOf3;
struct AliasOf3;
struct StageOf2;
struct AliasOf2;

impl Shape for StageOf3 {
    const VERSION: MlflowVersion = MlflowVersion::Three;
    const IS_ALIAS: bool = false;
}

impl Shape for AliasOf3 {
    const VERSION: MlflowVersion = MlflowVersion::Three;
    const IS_ALIAS: bool = true;
}

impl Shape for StageOf2 {
    const VERSION: MlflowVersion = MlflowVersion::Two;
    const IS_ALIAS: bool = false;
}

impl Shape for AliasOf2 {
    const VERSION: MlflowVersion = MlflowVersion::Two;
    const IS_ALIAS: bool = true;
}

struct World<S> {
    server: &'static Mlflow,
    proxy: FaultProxy,
    model: String,
    older: Value,
    /// Writes seen before the proxy was told to forget.
    writes: AtomicU64,
    shape: PhantomData<S>,
}

impl<S: Shape> World<S> {
    fn count(&self) -> u64 {
        let accepted = |status: Option<u16>| status.is_some_and(|code| code < 300);
        self.proxy.writes().iter().filter(|request| accepted(request.status)).count() as u64
    }

    async fn deploy(server: &Mlflow, model: &str) {
        if S::IS_ALIAS {
            server.alias(model, "champion", "4").await;
        } else {
            // Its reversal takes more than one transition.
            server.stage(model, "1", "Staging", false).await;
            server.stage(model, "4", "Production", true).await;
        }
    }
}

#[async_trait]
impl<S: Shape> Fixture for World<S> {
    async fn new() -> Self {
        let server = Mlflow::shared(S::VERSION).await;
        let model = server.model(&["s3://m/v1", "s3://m/v2", "s3://m/v3", "s3://m/v4"]).await;
        Self::deploy(server, &model).await;
        let mut older = server.observe(&model).await;
        if S::IS_ALIAS {
            older["aliases"][0]["version"] = json!("1");
        } else {
            older["stages"]["1"] = json!("Production");
            older["stages"]["4"] = json!("Archived");
        }
        let proxy = server.proxy().await;
        Self { server, proxy, model, older, writes: AtomicU64::new(0), shape: PhantomData }
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        let mut config = RegistryConfig::new(self.proxy.url());
        config.username = Some("ann".into());
        config.password = Some(SecretString::from(PASSWORD));
        let registry = Registry::new(config).unwrap();
        Arc::new(if S::IS_ALIAS {
            ModelPointer::alias(&registry, &self.model, "champion", options()).unwrap()
        } else {
            ModelPointer::stage(&registry, &self.model, Stage::Production, options()).unwrap()
        })
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("1".into()), content: self.older.clone() }
    }

    async fn observe(&self) -> Value {
        self.server.observe(&self.model).await
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.writes.load(Ordering::SeqCst) + self.count())
    }

    async fn edit_touched(&self) -> Option<()> {
        if S::IS_ALIAS {
            self.server.alias(&self.model, "champion", "2").await;
        } else {
            self.server.stage(&self.model, "2", "Production", true).await;
        }
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        let body = json!({"name": self.model, "version": "3", "description": "edited"});
        self.server.call("PATCH", "model-versions/update", &body).await;
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        let query = json!({"name": self.model, "version": "3"});
        let version = self.server.call("GET", "model-versions/get", &query).await;
        Some(version["model_version"]["description"].clone())
    }

    async fn recreate(&self) -> Option<()> {
        self.server.call("DELETE", "registered-models/delete", &json!({"name": self.model})).await;
        let sources = ["s3://m/v1", "s3://m/v2", "s3://m/v3", "s3://m/v4"];
        self.server.model_named(&self.model, &sources).await;
        Self::deploy(self.server, &self.model).await;
        Some(())
    }

    async fn lose_next_response(&self) -> Option<()> {
        for method in ["POST", "DELETE"] {
            self.proxy.fault(Matcher::method(method), Fault::DropAccepted);
        }
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
            Access::Write => &["POST", "DELETE"],
        };
        for method in methods {
            let body = json!({"error_code": "SOMETHING", "message": format!("fault {code} of the test")});
            self.proxy.fault(Matcher::method(method), Fault::Answer { code, body });
        }
        Some(())
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        use base64::Engine as _;
        let basic = base64::prelude::BASE64_STANDARD.encode(format!("ann:{PASSWORD}"));
        Some(vec![PASSWORD.into(), basic])
    }
}

macro_rules! shapes {
    ($($name:ident: $shape:ty;)*) => { $(
        mod $name {
            type World = super::World<$shape>;
            rollback_testkit::conformance!(
                World,
                skip {
                    what_never_settles_is_progressing_at_the_deadline: "a pointer that was moved has settled",
                }
            );
        }
    )* };
}

shapes! {
    stage_of_3: super::StageOf3;
    alias_of_3: super::AliasOf3;
    stage_of_2: super::StageOf2;
    alias_of_2: super::AliasOf2;
}

mod swept_stage {
    rollback_testkit::sweeps!(super::World<super::StageOf3>, rollback_testkit::sweeps::InMemory);
}

mod swept_alias {
    rollback_testkit::sweeps!(
        super::World<super::AliasOf3>,
        rollback_testkit::sweeps::InMemory,
        ignore "takes minutes: ./dev long"
    );
}
