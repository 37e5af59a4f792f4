#![doc = include_str!("../README.md")]
#![allow(
    clippy::indexing_slicing,
    reason = "objects are raw JSON, and reading a member of a serde_json::Value cannot fail; nothing else is indexed"
)]

mod environment;
mod error;
mod kustomization;
mod render;
mod repository;
mod state;
mod tree;
mod yaml;

pub use environment::{EnvironmentOptions, KustomizeEnvironment, Pick};
pub use render::{Kustomize, Renderer, Rendering};
pub use repository::{Commit, Repository, Tag};
pub use tree::{Folder, Limits};
