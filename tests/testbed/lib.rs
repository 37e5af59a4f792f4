//! A real Kubernetes control plane for tests, started once per test process.
//!
//! etcd, kube-apiserver and kube-controller-manager are the real programs; only the kubelets (and
//! the scheduler) are replaced, by [a stand-in](crate::Testbed::has_stand_in) that sets the status
//! of pods from the tag of their images. So every rule of a rollout is the controllers' own, no
//! image is pulled, and hundreds of Deployments settle in seconds.
//!
//! Where the control plane comes from, in this order:
//! 1. the cluster of the kubeconfig that `ROLLBACK_TEST_KUBECONFIG` names;
//! 2. a `kind` cluster, when a Docker engine answers and `kind` is on the `PATH`;
//! 3. the programs in the folder that `KUBEBUILDER_ASSETS` names;
//! 4. those that `scripts/test-tools` builds.
//!
//! When none can be had, the tests fail; they are never skipped.
//!
//! The servers end, and their folder goes, when the test process ends in whatever way.
//! `ROLLBACK_TEST_LOGS` names a folder that gets their logs then.
//!
//! Everything long-lived runs on a runtime of its own, so that each test may have its own runtime,
//! even one whose clock is paused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "test support fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod alertmanager;
mod control_plane;
mod fault;
mod keeper;
mod kserve;
mod kubeconfig;
mod kubelet;
mod mlflow;
mod namespace;
pub mod objects;
mod pod_status;
mod prometheus;
mod proxy;
mod receiver;
mod repo;
mod testbed;
mod tools;
mod user;

pub use alertmanager::AlertmanagerServer;
pub use fault::{Fault, Matcher};
pub use kserve::{PAUSED, REVISIONS, SCALED, SERVICES};
pub use kubelet::{NODES, READY_ANNOTATION};
pub use mlflow::{Mlflow, MlflowVersion, ObjectStore};
pub use namespace::Namespace;
pub use prometheus::PrometheusServer;
pub use proxy::{FaultProxy, Hold, Recorded};
pub use receiver::Receiver;
pub use repo::{Repo, git};
pub use testbed::Testbed;
pub use tools::{Output, kubectl, kustomize};
pub use user::RestrictedUser;
