//! What a proxy does wrong, and to which requests.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::proxy::Recorded;

/// Which requests a fault hits: all those that fit, unless [`nth`](Self::nth) or
/// [`times`](Self::times) says fewer.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    method: Option<String>,
    path: Vec<String>,
    query: Vec<String>,
    without_query: Option<String>,
    body: Vec<String>,
    skip: usize,
    times: Option<usize>,
}

impl Matcher {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of a method, such as `PATCH`.
    pub fn method(method: &str) -> Self {
        Self { method: Some(method.to_owned()), ..Self::default() }
    }

    /// Watches.
    pub fn watch() -> Self {
        Self::method("GET").query("watch=")
    }

    /// Only those whose path contains this.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.path.push(part.to_owned());
        self
    }

    /// Only those whose query contains this.
    #[must_use]
    pub fn query(mut self, part: &str) -> Self {
        self.query.push(part.to_owned());
        self
    }

    /// Only those whose query does not contain this.
    #[must_use]
    pub fn without_query(mut self, part: &str) -> Self {
        self.without_query = Some(part.to_owned());
        self
    }

    /// Only those whose body contains this.
    #[must_use]
    pub fn body(mut self, part: &str) -> Self {
        self.body.push(part.to_owned());
        self
    }

    /// Only the nth of those that fit, counted from 1 and from when the fault was set.
    #[must_use]
    pub fn nth(self, n: usize) -> Self {
        assert!(n > 0, "counted from 1");
        Self { skip: n - 1, times: Some(1), ..self }
    }

    /// Only so many of those that fit.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Whether the request is hit, which counts it.
    pub(crate) fn hits(&mut self, request: &Recorded) -> bool {
        let has = |text: &str, parts: &[String]| parts.iter().all(|part| text.contains(part.as_str()));
        let fits = self.method.as_ref().is_none_or(|method| *method == request.method)
            && has(&request.path, &self.path)
            && has(&request.query, &self.query)
            && self.without_query.as_ref().is_none_or(|part| !request.query.contains(part.as_str()))
            && has(&request.body_text(), &self.body);
        if !fits || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is forwarded after this real time.
    Delay(Duration),
    /// It is forwarded and served, but the connection ends without an answer.
    DropResponse,
    /// As [`DropResponse`](Self::DropResponse), of the first request that the server accepts: those that it
    /// refuses pass, and so do all after it.
    DropAccepted,
    /// The connection ends, and the server never sees it.
    Reset,
    /// The proxy answers with a `Status` of this code; the server never sees it.
    Status {
        /// The HTTP status.
        code: u16,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// It is answered with this JSON; the server never sees it.
    Answer {
        /// The HTTP status.
        code: u16,
        /// The body.
        body: Value,
    },
    /// The answer's body breaks off after so many bytes.
    CutStreamAfter(usize),
    /// The version asked for is gone: a watch gets an ERROR event of 410, anything else the status 410.
    Gone,
}

/// The body of an error of the API server.
pub(crate) fn status_body(code: u16) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        413 => "RequestEntityTooLarge",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    };
    let text = StatusCode::from_u16(code).ok().and_then(|code| code.canonical_reason()).unwrap_or("");
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("fault of the test: {text}"), "reason": reason, "code": code,
    })
}
