//! Notifiers before a server that records what it is told, and answers as the test says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod alertmanager;
mod server;
mod slack;
mod webhook;

use rollback_core::{Error, Notification, Timestamp};
use serde_json::json;

/// What no output may show.
pub(crate) const SECRET: &str = "hunter2";

/// What happened to a run.
pub(crate) fn notification(event: &str) -> Notification {
    serde_json::from_value(json!({
        "id": format!("run-1 {event}"),
        "at": "2026-11-23T03:00:00Z",
        "event": event,
        "thread": "run-1",
        "summary": "web returns to 2 & stays <!here>",
        "details": ["error rate 12 % for 2 min"],
        "policy": "web-errors",
        "components": [{"kind": "deployment", "scope": "shop", "name": "web"}],
        "moves": [{
            "component": {"kind": "deployment", "scope": "shop", "name": "web"},
            "from": "3",
            "to": "2",
        }],
        "next": ["rollback status"],
    }))
    .unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000).unwrap()
}

/// Everything that anybody could see of an error.
pub(crate) fn all_of(error: &Error) -> String {
    format!("{error} {error:?} {:?}", error.report())
}
