#![doc = include_str!("../README.md")]

mod error;
mod render;
mod repository;
mod tree;

pub use render::{Kustomize, Renderer, Rendering};
pub use repository::{Commit, Repository, Tag};
pub use tree::{Folder, Limits};
