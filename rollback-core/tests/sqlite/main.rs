//! The journal in a file: what survives, what is refused, and what other processes see.
#![cfg(unix)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly, in its helpers too"
)]

mod child;
mod claims;
mod commits;
mod crash;
mod engine;
mod file;
mod full;
mod ledger;
mod model;
mod refused;
mod runs;
mod sweeps;
mod world;
