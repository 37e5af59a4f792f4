//! Tests against a real Kubernetes control plane.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod api_server;
mod apply;
mod conformance;
mod deploy;
mod differential;
mod journal;
mod lease;
mod ledger;
mod plan;
mod probes;
mod proxy;
mod rights;
mod sets;
mod sweeps;
mod testbed;
mod undo;
mod verify;
