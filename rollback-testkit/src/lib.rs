#![doc = include_str!("../README.md")]

pub mod conformance;
mod faults;
mod fixture;
mod macros;
mod memory;
pub mod sweeps;

pub use faults::{StopAfter, poll_times};
pub use fixture::{Deployed, Fixture};
#[doc(hidden)]
pub use macros::within_limit;
pub use memory::{MemoryComponent, Settling};
#[doc(hidden)]
pub use tokio;
