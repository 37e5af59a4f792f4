#![doc = include_str!("../README.md")]
#![allow(
    clippy::indexing_slicing,
    reason = "objects are raw JSON, and reading a member of a serde_json::Value cannot fail; nothing else is indexed"
)]

mod apply;
mod cluster;
mod error;
mod guard;
mod journal;
pub mod json;
mod lease;
mod left;
mod ownership;
mod watch;
mod workload;

/// What other backends that live in a cluster are built from. Objects are raw JSON.
pub mod backend {
    pub use crate::cluster::MANAGER;
    pub use crate::guard::{conflict, refuse_another, refuse_dying};
    pub use crate::watch::Changes;
    pub use crate::workload::{RecordedTemplate, check_names};
}

pub use cluster::{Cluster, ConnectOptions};
pub use journal::{CUSTOM_RESOURCE_DEFINITION, KubernetesJournal};
pub use lease::KubernetesLease;
pub use workload::{GitOps, UndoMode, Workload, WorkloadKind, WorkloadOptions};

/// A query value, encoded.
fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
