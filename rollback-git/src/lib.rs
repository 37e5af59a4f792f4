#![doc = include_str!("../README.md")]

mod error;
mod kustomization;
mod render;
mod repository;
mod tree;
mod yaml;

pub use render::{Kustomize, Renderer, Rendering};
pub use repository::{Commit, Repository, Tag};
pub use tree::{Folder, Limits};
