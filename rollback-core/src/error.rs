//! The one error type: what failed, on what, and what the caller should do about it.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ComponentId;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The component, a revision or something that it needs does not exist.
    NotFound,
    /// The live state is not the one that the change was planned from.
    Conflict,
    /// The credentials are known and do not suffice.
    PermissionDenied,
    /// The credentials are missing, wrong or expired.
    Unauthenticated,
    /// Too many requests.
    RateLimited,
    /// The server cannot be reached or does not answer properly.
    Unavailable,
    /// A deadline passed.
    Timeout,
    /// What the caller configured or typed cannot be used.
    InvalidConfig,
    /// The plan contradicts itself.
    InvalidPlan,
    /// It could be done, and should not be: a rule or the server forbids it.
    Refused,
    /// The system does not offer this.
    Unsupported,
    /// Another holder took over the component.
    LeaseLost,
    /// The journal cannot be read or written, or its history is illegal.
    Journal,
    /// The caller asked to stop.
    Cancelled,
    /// Anything else.
    Unexpected,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// Repeating the same will fail in the same way.
    Permanent,
    /// Nothing happened; repeating may succeed, not before this long from now where it is given.
    Temporary(Option<Duration>),
    /// The effect may have happened, because the connection broke after the request was sent or the
    /// server failed while serving it: locate before anything else.
    Indeterminate,
    /// Nothing automatic may go further, neither on nor back: a human must finish it, as the hint says.
    /// The run becomes [`Stuck`](crate::Outcome::Stuck) whatever its failure policy.
    Stuck,
}

/// Whether a request reads or writes: a failed read had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The request only reads.
    Read,
    /// The request may change something.
    Write,
}

/// A failure, with its [kind](ErrorKind), what to do about it ([`Disposition`]), the component, and a
/// hint for the person who reads it.
///
/// `Display` gives this layer only; print the chain of [`source`](StdError::source) once, at the edge.
/// An error is permanent unless it says otherwise.
///
/// ```
/// use rollback_core::{Disposition, Error, ErrorKind};
/// let error = Error::new(ErrorKind::Unavailable, "the registry does not answer").temporary(None);
/// assert_eq!(error.disposition(), Disposition::Temporary(None));
/// assert_eq!(error.to_string(), "the registry does not answer");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    disposition: Disposition,
    message: String,
    component: Option<ComponentId>,
    operation: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A permanent error. The message starts in lower case and ends without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            disposition: Disposition::Permanent,
            message: message.into(),
            component: None,
            operation: None,
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// The error for an HTTP status that is no success: the one place where a status is classified.
    ///
    /// A write that a server failed to serve (5xx, 408) is indeterminate; a read is temporary.
    ///
    /// ```
    /// use rollback_core::{Access, Disposition, Error, ErrorKind};
    /// let error = Error::from_http_status(502, None, Access::Write, "patching web");
    /// assert_eq!((error.kind(), error.disposition()), (ErrorKind::Unavailable, Disposition::Indeterminate));
    /// ```
    pub fn from_http_status(
        status: u16,
        retry_after: Option<Duration>,
        access: Access,
        message: impl Into<String>,
    ) -> Self {
        let served_in_doubt = match access {
            Access::Read => Disposition::Temporary(retry_after),
            Access::Write => Disposition::Indeterminate,
        };
        let (kind, disposition) = match status {
            401 => (ErrorKind::Unauthenticated, Disposition::Permanent),
            403 => (ErrorKind::PermissionDenied, Disposition::Permanent),
            404 => (ErrorKind::NotFound, Disposition::Permanent),
            408 => (ErrorKind::Timeout, served_in_doubt),
            409 | 412 => (ErrorKind::Conflict, Disposition::Permanent),
            410 => (ErrorKind::Unavailable, Disposition::Temporary(retry_after)),
            429 => (ErrorKind::RateLimited, Disposition::Temporary(retry_after)),
            501 => (ErrorKind::Unsupported, Disposition::Permanent),
            500..=599 => (ErrorKind::Unavailable, served_in_doubt),
            400..=499 => (ErrorKind::Refused, Disposition::Permanent),
            _ => (ErrorKind::Unexpected, served_in_doubt),
        };
        let mut error = Self::new(kind, message);
        error.0.disposition = disposition;
        error.with_context("status", status.to_string())
    }

    /// Says that nothing happened and that repeating may help, after `retry_after` where given.
    #[must_use]
    pub fn temporary(mut self, retry_after: Option<Duration>) -> Self {
        self.0.disposition = Disposition::Temporary(retry_after);
        self
    }

    /// Says that the effect may have happened.
    #[must_use]
    pub fn indeterminate(mut self) -> Self {
        self.0.disposition = Disposition::Indeterminate;
        self
    }

    /// Says that only a human can go further; give the exact commands as hint.
    #[must_use]
    pub fn stuck(mut self) -> Self {
        self.0.disposition = Disposition::Stuck;
        self
    }

    /// Names the component, unless one is named already: the innermost knows best.
    #[must_use]
    pub fn with_component(mut self, component: &ComponentId) -> Self {
        self.0.component.get_or_insert_with(|| component.clone());
        self
    }

    /// Names the operation that failed, such as `apply`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds a fact. Never a secret.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.context.push((key, value.into()));
        self
    }

    /// Says what the reader can do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the caller should do.
    pub fn disposition(&self) -> Disposition {
        self.0.disposition
    }

    /// The component on which it failed.
    pub fn component(&self) -> Option<&ComponentId> {
        self.0.component.as_ref()
    }

    /// What the reader can do next.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The facts that were added, in order.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The error as data: what outlives the process in journal and report.
    pub fn report(&self) -> ErrorReport {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some libraries repeat their source in their own text.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        // Some libraries draw pictures; a report is one line.
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        // A server may answer with pages, and a journal keeps what it said.
        let message = message.chars().take(MOST_CHARS).collect();
        ErrorReport {
            kind: self.0.kind,
            disposition: self.0.disposition,
            message,
            component: self.0.component.clone(),
            operation: self.0.operation.map(Into::into),
            context: self.0.context.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            hint: self.0.hint.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, disposition, message, component, operation, context, hint, source } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("disposition", disposition)
            .field("message", message)
            .field("component", &component.as_ref().map(ToString::to_string))
            .field("operation", operation)
            .field("context", context)
            .field("hint", hint)
            .field("source", source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The longest message of a report.
const MOST_CHARS: usize = 2_000;

/// An [`Error`] as data, its chain folded into the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorReport {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What the caller should do.
    pub disposition: Disposition,
    /// What failed, with its causes.
    pub message: String,
    /// The component on which it failed.
    pub component: Option<ComponentId>,
    /// The operation that failed.
    pub operation: Option<String>,
    /// Facts beside the message.
    pub context: Vec<(String, String)>,
    /// What the reader can do next.
    pub hint: Option<String>,
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_is_indeterminate_where_the_server_may_have_served_it() {
        let expect = [
            (400, ErrorKind::Refused, Disposition::Permanent),
            (401, ErrorKind::Unauthenticated, Disposition::Permanent),
            (403, ErrorKind::PermissionDenied, Disposition::Permanent),
            (404, ErrorKind::NotFound, Disposition::Permanent),
            (408, ErrorKind::Timeout, Disposition::Indeterminate),
            (409, ErrorKind::Conflict, Disposition::Permanent),
            (422, ErrorKind::Refused, Disposition::Permanent),
            (429, ErrorKind::RateLimited, Disposition::Temporary(Some(Duration::from_secs(7)))),
            (500, ErrorKind::Unavailable, Disposition::Indeterminate),
            (503, ErrorKind::Unavailable, Disposition::Indeterminate),
        ];
        for (status, kind, disposition) in expect {
            let error = Error::from_http_status(status, Some(Duration::from_secs(7)), Access::Write, "x");
            assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{status}");
        }
    }

    #[test]
    fn a_failed_read_is_temporary_where_the_server_failed() {
        for status in [408, 410, 429, 500, 502, 503, 504] {
            let error = Error::from_http_status(status, None, Access::Read, "x");
            assert_eq!(error.disposition(), Disposition::Temporary(None), "{status}");
        }
    }

    #[test]
    fn a_report_holds_the_chain_once() {
        let inner = Error::new(ErrorKind::Unavailable, "connection refused");
        let outer = Error::new(ErrorKind::Unavailable, "reading web").with_source(inner);
        assert_eq!(outer.to_string(), "reading web");
        assert_eq!(outer.report().message, "reading web: connection refused");
    }
}
