#![doc = include_str!("../README.md")]

mod alertmanager;
mod connection;
mod signature;
mod slack;
mod webhook;

pub use alertmanager::{Alertmanager, AlertmanagerConfig};
pub use signature::{SIGNATURE_HEADER, verify_signature};
pub use slack::{Slack, SlackConfig};
pub use webhook::{Webhook, WebhookConfig};
