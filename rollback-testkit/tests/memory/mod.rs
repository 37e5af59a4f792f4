//! A world of one component in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Access, ComponentId, Rollbackable, Target};
use rollback_testkit::{Deployed, Fixture, MemoryComponent, Settling};
use serde_json::{Value, json};

pub(crate) struct Memory(pub(crate) MemoryComponent);

const SECRET: &str = "correct-horse-battery-staple";

fn revision(version: u32) -> Value {
    let mut parts = json!({
        "image": format!("web:{version}"),
        "limit": version,
        "password": format!("{SECRET}-{version}"),
        "port": 80,
    });
    if version == 1 {
        parts["only-in-the-first"] = json!(true);
    }
    parts
}

#[async_trait]
impl Fixture for Memory {
    async fn new() -> Self {
        // A plan of several needs them to have names of their own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("web-{}", COUNT.fetch_add(1, Ordering::SeqCst));
        let component = MemoryComponent::new(ComponentId::new("memory", None, &name).unwrap());
        for version in 1..=4 {
            component.deploy(&format!("v{version}"), &revision(version));
        }
        component.edit("replicas", json!(3));
        component.set_settling(Settling::After(Duration::from_millis(20)));
        component.set_settling_of("v2", Settling::Never);
        Self(component)
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        Arc::new(self.0.clone())
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("v1".into()), content: revision(1) }
    }

    async fn observe(&self) -> Value {
        let mut live = self.0.live();
        live.as_object_mut().unwrap().remove("replicas");
        live
    }

    fn glance(&self) -> Duration {
        Duration::from_millis(50)
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.0.writes())
    }

    async fn edit_touched(&self) -> Option<()> {
        self.0.edit("image", json!("web:hotfix"));
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        self.0.edit("replicas", json!(7));
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        self.0.live().get("replicas").cloned()
    }

    async fn recreate(&self) -> Option<()> {
        self.0.recreate();
        Some(())
    }

    async fn lose_next_response(&self) -> Option<()> {
        self.0.lose_response(1);
        Some(())
    }

    async fn answer(&self, access: Access, status: Option<u16>) -> Option<()> {
        self.0.answer(access, status);
        Some(())
    }

    async fn never_settles(&self) -> Option<Target> {
        Some(Target::Revision("v2".into()))
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        Some(vec![SECRET.into()])
    }
}
