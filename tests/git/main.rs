//! Tests on real git repositories, with the real kustomize.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real programs live in real time")]

mod conformance;
mod differential;
mod environment;
mod hostile;
mod render;
mod repository;
mod rights;
mod sweeps;
mod world;
