#![doc = include_str!("../README.md")]
#![allow(
    clippy::indexing_slicing,
    reason = "objects are raw JSON, and reading a member of a serde_json::Value cannot fail; nothing else is indexed"
)]

mod apply;
mod cluster;
mod error;
mod fields;
mod guard;
mod journal;
pub mod json;
mod kinds;
mod lease;
mod left;
mod ownership;
#[cfg(feature = "probe")]
pub mod probe;
mod rights;
mod watch;
mod workload;

/// What other backends that live in a cluster are built from. Objects are raw JSON.
pub mod backend {
    pub use crate::apply::{FieldConflict, applied_part, field_conflicts, foreign_owner};
    pub use crate::cluster::MANAGER;
    pub use crate::fields::overlay;
    pub use crate::guard::{conflict, refuse_another, refuse_dying};
    pub use crate::kinds::Served;
    pub use crate::ownership::{helm_release, last_writer};
    pub use crate::watch::Changes;
    pub use crate::workload::{RecordedTemplate, check_names, needs, settled};
}

pub use cluster::{Cluster, ConnectOptions};
pub use journal::{CUSTOM_RESOURCE_DEFINITION, KubernetesJournal};
pub use lease::KubernetesLease;
pub use rights::Right;
pub use workload::{GitOps, UndoMode, Workload, WorkloadKind, WorkloadOptions};

/// A segment of a path, encoded: names of roles and the like may hold more than names of hosts.
fn encode_segment(text: &str) -> String {
    encode(text).replace('+', "%20")
}

/// A query value, encoded.
fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
