//! The plan, the engine and the journal, with components in memory and a clock that stands still.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail loudly, in its helpers too"
)]

mod attempts;
mod begin;
mod chain;
mod failure;
mod journal;
mod lease;
mod ledger;
mod model;
mod order;
mod plan;
mod recover;
mod simulation;
mod stop;
mod supervisor;
mod trigger;
mod verify;
mod world;
