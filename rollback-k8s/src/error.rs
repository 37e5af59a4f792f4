//! From kube's errors to ours, in one place.

use std::error::Error as StdError;
use std::time::Duration;

use http::StatusCode;
use rollback_core::{Access, Error, ErrorKind};
use serde_json::Value;

use crate::json;

/// A response that is no success.
pub(crate) fn from_response(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
    access: Access,
    what: &str,
) -> Error {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match parsed["message"].as_str() {
        Some(message) => format!("{what}: {message}"),
        None => format!("{what}: the API server answered {status}"),
    };
    let seconds = parsed.pointer("/details/retryAfterSeconds").and_then(Value::as_u64);
    let retry_after = retry_after.or(seconds.map(Duration::from_secs));
    let mut error = Error::from_http_status(status.as_u16(), retry_after, access, message);
    for cause in json::items(&parsed, "/details/causes") {
        // `conflict with "kubectl" with subresource "scale" using apps/v1`
        let mut quoted = cause["message"].as_str().unwrap_or_default().split('"').skip(1).step_by(2);
        let manager = quoted.next().map(|manager| match quoted.next() {
            Some(subresource) => format!("{manager}/{subresource}"),
            None => manager.to_owned(),
        });
        if let (Some("FieldManagerConflict"), Some(manager), Some(field)) =
            (cause["reason"].as_str(), manager, cause["field"].as_str())
        {
            error = error.with_context("manager", manager).with_context("field", field);
        }
    }
    match status {
        StatusCode::UNAUTHORIZED => error.with_hint("log in again, or check the token of this context"),
        StatusCode::FORBIDDEN => {
            error.with_hint("ask for the right that the message names; rbac/ holds the manifests")
        }
        _ => error,
    }
}

/// A request that got no response.
pub(crate) fn from_kube(error: kube::Error, access: Access, what: &str) -> Error {
    let mut unsent = matches!(error, kube::Error::Auth(_) | kube::Error::BuildRequest(_));
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(current) = cause {
        unsent |= current
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect);
        cause = current.source();
    }
    if matches!(error, kube::Error::Auth(_)) {
        return Error::new(ErrorKind::Unauthenticated, format!("{what}: no credentials could be obtained"))
            .with_source(error)
            .with_hint("check the credential plugin or token of this context");
    }
    let unavailable = Error::new(ErrorKind::Unavailable, format!("{what}: the API server does not answer"))
        .with_source(error)
        .with_hint("check the server address of this context and the network");
    match access {
        Access::Write if !unsent => unavailable.indeterminate(),
        _ => unavailable.temporary(None),
    }
}

/// A request that took longer than it may.
pub(crate) fn timed_out(after: Duration, access: Access, what: &str) -> Error {
    let message = format!("{what}: no answer within {} s", after.as_secs());
    let error = Error::new(ErrorKind::Timeout, message);
    match access {
        Access::Read => error.temporary(None),
        Access::Write => error.indeterminate(),
    }
}
