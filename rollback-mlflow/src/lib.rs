#![doc = include_str!("../README.md")]

mod artifact;
mod client;
mod config;
mod error;
mod model;
mod moves;
mod pointer;
mod wire;

pub use artifact::{ArtifactCheck, StoreOptions};
pub use client::Registry;
pub use config::RegistryConfig;
pub use model::Stage;
pub use pointer::{ModelPointer, PointerOptions};
