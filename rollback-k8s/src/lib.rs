#![doc = include_str!("../README.md")]
#![allow(
    clippy::indexing_slicing,
    reason = "objects are raw JSON, and reading a member of a serde_json::Value cannot fail; nothing else is indexed"
)]

mod cluster;
mod error;
mod journal;
mod json;
mod lease;
mod ownership;
mod watch;
mod workload;

pub use cluster::{Cluster, ConnectOptions};
pub use journal::{CUSTOM_RESOURCE_DEFINITION, KubernetesJournal};
pub use lease::KubernetesLease;
pub use workload::{GitOps, UndoMode, Workload, WorkloadKind, WorkloadOptions};

/// A query value, encoded.
fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
