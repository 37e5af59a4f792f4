#![doc = include_str!("../README.md")]
#![allow(
    clippy::indexing_slicing,
    reason = "objects are raw JSON, and reading a member of a serde_json::Value cannot fail; nothing else is indexed"
)]

mod choose;
mod content;
mod history;
mod mode;
mod prepare;
mod service;
mod spec;
mod template;
mod verify;

pub use service::{InferenceService, ServiceOptions};
