//! What a component brings along to be tested.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Access, Rollbackable, Target};
use serde_json::Value;

/// A component in a world of its own, made anew for every case and torn down when dropped.
///
/// It starts settled, with at least three distinct revisions, the newest in place.
///
/// Methods that answer `None` by default are abilities: a case that needs one fails where it is missing,
/// so the case has to be skipped by name, with the reason.
#[async_trait]
pub trait Fixture: Send + Sync + Sized + 'static {
    /// Makes the world and waits until the component has settled.
    async fn new() -> Self;

    /// A fresh handle to the component, sharing nothing with the others in this process, as another
    /// process would have.
    async fn component(&self) -> Arc<dyn Rollbackable>;

    /// A revision that is not in place, settles, and takes as many writes as this component can need.
    fn older(&self) -> Deployed;

    /// The live content that a change is about, without bookkeeping such as revision numbers, such that
    /// the same state always gives the same value. Read past the component, straight from the system.
    async fn observe(&self) -> Value;

    /// How long applying or settling may take in this world. Default: 30 s.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// How long to watch what is not expected to settle. Default: 2 s.
    fn glance(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// A target that is well-formed and does not exist. Default: revision `987654321`.
    fn unknown(&self) -> Target {
        Target::Revision("987654321".into())
    }

    /// How many writes the system has accepted so far, counted on its side.
    async fn writes(&self) -> Option<u64> {
        None
    }

    /// Gives a part that a change to [`older`](Self::older) touches a third value, past the component.
    async fn edit_touched(&self) -> Option<()> {
        None
    }

    /// Edits something that no change touches, past the component, such as a number of replicas.
    async fn edit_untouched(&self) -> Option<()> {
        None
    }

    /// The live value of what [`edit_untouched`](Self::edit_untouched) edits.
    async fn untouched(&self) -> Option<Value> {
        None
    }

    /// Deletes the object and makes another of the same name and content.
    async fn recreate(&self) -> Option<()> {
        None
    }

    /// From the next write on, serves one write and loses its response.
    async fn lose_next_response(&self) -> Option<()> {
        None
    }

    /// Answers every request of this sort with the status and serves none, until told `None`. The
    /// answer is for the component's requests only, and speaks as the real server would.
    async fn answer(&self, access: Access, status: Option<u16>) -> Option<()> {
        let _ = (access, status);
        None
    }

    /// A revision that, once in place, neither settles nor fails.
    async fn never_settles(&self) -> Option<Target> {
        None
    }

    /// Secrets planted where the component meets them: its credentials, values in its content. None of
    /// them may be shown.
    async fn secrets(&self) -> Option<Vec<String>> {
        None
    }
}

/// A revision that a fixture has deployed.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// How to return to it.
    pub target: Target,
    /// What [`Fixture::observe`] gives while it is in place.
    pub content: Value,
}
