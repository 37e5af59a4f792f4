//! What the engine makes of a component when things go wrong, at every point where they can: one public
//! function per sort of fault.
//!
//! [`sweeps!`](crate::sweeps!) makes a test of each. A plan moves three components of a [`Fixture`], the
//! second and the third after the first. The fault moves on, point by point, until a run completes without
//! meeting it; a sweep that met none fails, because it proves nothing.
#![allow(clippy::panic, clippy::missing_panics_doc, reason = "a sweep that fails panics")]

mod crash;
mod failure;
mod journals;
mod lease;
mod meddle;
mod world;

pub use crash::{
    crashed_after_any_entry_of_the_journal_a_run_is_resumed,
    crashed_before_or_after_any_write_a_run_is_resumed, the_response_of_any_write_lost_the_run_completes,
};
pub use failure::{
    any_compensation_failed_the_run_is_stuck_there, any_step_failed_the_policy_decides,
    any_step_repeated_changes_nothing_more,
};
pub use journals::{InMemory, Journals};
pub use lease::the_lease_lost_at_any_moment_the_run_stops_and_can_be_resumed;

use crate::Fixture;
use world::World;

/// More points than any run has.
const MOST_POINTS: usize = 10_000;
