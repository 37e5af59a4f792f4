//! Tests against real MLflow servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod artifacts;
mod concurrency;
mod conformance;
mod faults;
mod procedure;
mod world;
