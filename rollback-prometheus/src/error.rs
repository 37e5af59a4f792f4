//! From the answers of Prometheus to our errors, in one place.

use std::time::Duration;

use rollback_core::{Access, Error, ErrorKind};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Told {
    error_type: String,
    error: String,
}

/// An answer that is no success.
pub(crate) fn from_response(status: u16, retry_after: Option<Duration>, body: &str) -> Error {
    let told: Option<Told> =
        serde_json::from_str(body).ok().filter(|told: &Told| !told.error_type.is_empty());
    let Some(Told { error_type, error }) = told else {
        // What stands before it, or something else altogether.
        let message = format!("Prometheus answered {status}");
        let error = Error::from_http_status(status, retry_after, Access::Read, message);
        return match status {
            404 => Error::new(ErrorKind::InvalidConfig, "there is no API of Prometheus at this address")
                .with_hint("check host, port and path"),
            401 => error.with_hint("give a user and password, or a token"),
            _ => error,
        };
    };
    let message = format!("the query failed: {error}");
    match error_type.as_str() {
        "bad_data" => Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("try the query in the Prometheus expression browser"),
        // What a query meets in the data, such as labels that match several series.
        "execution" => Error::new(ErrorKind::Refused, message),
        "timeout" | "canceled" => Error::new(ErrorKind::Timeout, message).temporary(retry_after),
        _ => Error::from_http_status(status, retry_after, Access::Read, message),
    }
}

/// A request that got no answer.
pub(crate) fn from_reqwest(error: reqwest::Error) -> Error {
    let late = error.is_timeout() && !error.is_connect();
    let (kind, message) = if late {
        (ErrorKind::Timeout, "Prometheus did not answer in time")
    } else {
        (ErrorKind::Unavailable, "Prometheus does not answer")
    };
    let error = Error::new(kind, message).with_source(error.without_url());
    error.with_hint("check its address, and that it runs").temporary(None)
}

#[cfg(test)]
mod tests {
    use rollback_core::Disposition;

    use super::*;

    #[test]
    fn answers_are_told_by_what_prometheus_says_of_them() {
        let told = |status, body| from_response(status, None, body);
        let late = told(
            503,
            r#"{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}"#,
        );
        assert_eq!((late.kind(), late.disposition()), (ErrorKind::Timeout, Disposition::Temporary(None)));
        let many = told(
            422,
            r#"{"status":"error","errorType":"execution","error":"many-to-many matching not allowed"}"#,
        );
        assert_eq!(many.kind(), ErrorKind::Refused);
        let bad = told(400, r#"{"status":"error","errorType":"bad_data","error":"1:7: parse error"}"#);
        assert_eq!(
            (bad.kind(), bad.to_string()),
            (ErrorKind::InvalidConfig, "the query failed: 1:7: parse error".into())
        );
        for (status, kind) in [
            (401, ErrorKind::Unauthenticated),
            (403, ErrorKind::PermissionDenied),
            (404, ErrorKind::InvalidConfig),
            (502, ErrorKind::Unavailable),
        ] {
            assert_eq!(told(status, "<html>").kind(), kind, "{status}");
        }
    }
}
