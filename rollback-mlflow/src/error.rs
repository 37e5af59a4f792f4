//! From MLflow's answers to our errors, in one place. Not every answer is JSON: the server before it, its
//! authentication and its host check answer in HTML or plain text.

use std::time::Duration;

use rollback_core::{Access, Error, ErrorKind};
use rustls::CertificateError;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    error_code: String,
    message: String,
}

/// An answer that is no success.
pub(crate) fn from_response(
    status: u16,
    retry_after: Option<Duration>,
    body: &str,
    access: Access,
    what: &str,
) -> Error {
    let told: Option<Told> = serde_json::from_str(body).ok();
    let is_json = told.is_some();
    let Told { error_code, message } = told.unwrap_or_default();
    let message = match (is_json, message.is_empty()) {
        (true, false) => format!("{what}: {message}"),
        _ => format!("{what}: the server answered {status}{}", excerpt(body)),
    };
    let classified = |status| Error::from_http_status(status, retry_after, access, message.clone());
    match (status, error_code.as_str()) {
        // A missing alias is told as a bad parameter.
        (400, "INVALID_PARAMETER_VALUE") if message.contains("alias") && message.contains("not found") => {
            classified(404)
        }
        (_, "RESOURCE_DOES_NOT_EXIST") => classified(404),
        (_, "RESOURCE_ALREADY_EXISTS") => classified(409),
        (_, "PERMISSION_DENIED") => classified(403),
        (401, _) => classified(401).with_hint(
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        ),
        (403, _) if body.contains("Invalid Host header") => classified(403).with_hint(
            "the server does not answer to this name: start it with --allowed-hosts, or reach it by an address that it allows",
        ),
        (403, _) => classified(403).with_hint("ask for the permission to edit this registered model"),
        (404 | 405, code) if !is_json || code == "ENDPOINT_NOT_FOUND" => Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("there is no MLflow REST API at this tracking URI: check host, port and path"),
        _ => classified(status),
    }
}

/// The beginning of what is no JSON, as text.
fn excerpt(body: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for c in body.chars() {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                text.push(' ');
            }
            c if !in_tag => text.push(c),
            _ => {}
        }
    }
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// A request that got no answer.
pub(crate) fn from_reqwest(error: reqwest::Error, access: Access, what: &str) -> Error {
    let unsent = error.is_connect() || error.is_builder();
    let late = error.is_timeout() && !error.is_connect();
    // Its address may hold what only the caller should know.
    let error = error.without_url();
    if let Some(fault) = certificate_fault(&error) {
        let hint = match fault {
            CertificateError::UnknownIssuer => {
                "name the file of its authority in MLFLOW_TRACKING_SERVER_CERT_PATH"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "reach it by a name that its certificate has"
            }
            _ => "see whether it has to be renewed, and whether the clocks are right",
        };
        let message = format!("{what}: the server's certificate is not accepted");
        return Error::new(ErrorKind::Unavailable, message).with_source(error).with_hint(hint);
    }
    let (kind, message) = if late {
        (ErrorKind::Timeout, format!("{what}: no answer in time"))
    } else {
        (ErrorKind::Unavailable, format!("{what}: MLflow does not answer"))
    };
    let told = Error::new(kind, message)
        .with_source(error)
        .with_hint("check the tracking URI, and that the server runs");
    match access {
        Access::Write if !unsent => told.indeterminate(),
        _ => told.temporary(None),
    }
}

/// What is wrong with the server's certificate, where that is why there was no answer.
fn certificate_fault<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return if let rustls::Error::InvalidCertificate(fault) = tls { Some(fault) } else { None };
    }
    // The source of an I/O error is not what it wraps, but the source of that.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(within) => certificate_fault(within),
        None => certificate_fault(error.source()?),
    }
}

#[cfg(test)]
mod tests {
    use rollback_core::Disposition;

    use super::*;

    #[test]
    fn every_sort_of_answer_is_told_with_a_way_out() {
        let told = |status, body| from_response(status, None, body, Access::Read, "reading x");
        let alias = r#"{"error_code":"INVALID_PARAMETER_VALUE","message":"Registered model alias champion not found."}"#;
        assert_eq!(told(400, alias).kind(), ErrorKind::NotFound);
        let missing = r#"{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Registered Model with name=nope not found"}"#;
        assert_eq!(told(404, missing).to_string(), "reading x: Registered Model with name=nope not found");
        for (status, body, kind, hint) in [
            (401, "You are not authenticated.", ErrorKind::Unauthenticated, "MLFLOW_TRACKING_USERNAME"),
            (
                403,
                "Invalid Host header - possible DNS rebinding",
                ErrorKind::PermissionDenied,
                "--allowed-hosts",
            ),
            (403, "Permission denied", ErrorKind::PermissionDenied, "permission"),
            (404, "<html><h1>Not Found</h1></html>", ErrorKind::InvalidConfig, "check host, port and path"),
        ] {
            let error = told(status, body);
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.hint().unwrap().contains(hint) && !error.to_string().contains('<'), "{error:?}");
        }
        let locked = r#"{"error_code":"TEMPORARILY_UNAVAILABLE","message":"database is locked"}"#;
        assert_eq!(told(503, locked).disposition(), Disposition::Temporary(None));
        let written = from_response(503, None, locked, Access::Write, "x");
        assert_eq!(written.disposition(), Disposition::Indeterminate);
    }
}
