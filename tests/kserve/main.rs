//! Tests of InferenceServices on a real API server, with a stand-in for KServe's controllers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod conformance;
mod knative;
mod rights;
mod standard;
mod sweeps;
mod together;
mod world;
