#![doc = include_str!("../README.md")]

mod client;
mod config;
mod convention;
mod error;

pub use client::Prometheus;
pub use config::PrometheusConfig;
pub use convention::Convention;
