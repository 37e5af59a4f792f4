//! Every point at which a run can go wrong, with its journal in a file that the next process opens anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use rollback_core::{ComponentId, Journal, Rollbackable, Target};
use rollback_testkit::sweeps::Journals;
use rollback_testkit::{Deployed, Fixture, MemoryComponent};
use serde_json::{Value, json};

use crate::world::Home;

struct Memory(MemoryComponent);

#[async_trait]
impl Fixture for Memory {
    async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("web-{}", COUNT.fetch_add(1, Ordering::SeqCst));
        let component = MemoryComponent::new(ComponentId::new("memory", None, &name).unwrap());
        for version in 1..=3 {
            component.deploy(&format!("v{version}"), &json!({"image": version, "limit": version}));
        }
        Self(component)
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        Arc::new(self.0.clone())
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("v1".into()), content: json!({"image": 1, "limit": 1}) }
    }

    async fn observe(&self) -> Value {
        self.0.live()
    }

    async fn writes(&self) -> Option<u64> {
        Some(self.0.writes())
    }

    async fn lose_next_response(&self) -> Option<()> {
        self.0.lose_response(1);
        Some(())
    }
}

impl Journals for Home {
    fn new() -> Self {
        Self::new()
    }

    fn open(&self) -> Arc<dyn Journal> {
        Arc::new(self.open())
    }
}

rollback_testkit::sweeps!(Memory, Home);
