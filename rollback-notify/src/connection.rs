//! What all notifiers share: addresses, the client, and what an answer that is no success means.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, header, redirect};
use rollback_core::{Access, Error, ErrorKind, Result};
use url::Url;

/// How much of an answer is read; that of Slack repeats the message.
const MOST_BYTES: usize = 1024 * 1024;

/// The longest pause that a receiver may ask for: what waits behind a message should not wait for days.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// How long a request may take where nothing else is configured.
pub(crate) fn timeout() -> Duration {
    Duration::from_secs(10)
}

pub(crate) fn client(timeout: Duration, insecure_tls: bool, ca_path: Option<&Path>) -> Result<Client> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
    // The one of the Kubernetes client; a program that has chosen another keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = Client::builder()
        .user_agent(concat!("rollback/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .connect_timeout(Duration::from_secs(5))
        // A redirect would take message and credentials along.
        .redirect(redirect::Policy::none())
        .danger_accept_invalid_certs(insecure_tls);
    if let Some(path) = ca_path {
        let bad = |why: String| invalid(format!("cannot use the certificates in {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
        if all.is_empty() {
            return Err(bad("there is none".into()));
        }
        client = client.tls_certs_only(all);
    }
    client.build().map_err(|e| invalid("the connection settings cannot be used".into()).with_source(e))
}

/// The address in a text, which no error repeats: it may hold a secret. `example` is one as it should be.
pub(crate) fn address(text: &str, of: &str, example: &str) -> Result<Url> {
    let url: Url = text.parse().map_err(|_| unusable(of, example, "it is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(unusable(of, example, "only http and https servers can be told"));
    }
    Ok(url)
}

/// The address below which an API is.
pub(crate) fn base(text: &str, of: &str, example: &str) -> Result<Url> {
    let mut url = address(text, of, example)?;
    if url.password().is_some() || !url.username().is_empty() {
        return Err(unusable(of, example, "it holds credentials, which belong into fields of their own"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unusable(of, example, "it has a query or a fragment"));
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

fn unusable(of: &str, example: &str, why: &str) -> Error {
    let message = format!("the address of {of} cannot be used: {why}");
    Error::new(ErrorKind::InvalidConfig, message).with_hint(format!("write it as {example}"))
}

pub(crate) fn below(base: &Url, path: &str) -> Result<Url> {
    base.join(path).map_err(|e| Error::new(ErrorKind::InvalidConfig, "no such address").with_source(e))
}

pub(crate) async fn send(request: RequestBuilder, whom: &str) -> Result<Response> {
    request.send().await.map_err(|error| unanswered(error, whom))
}

/// The beginning of an answer's body.
pub(crate) async fn body(mut response: Response, whom: &str) -> Result<String> {
    let mut body = Vec::new();
    while body.len() < MOST_BYTES {
        let Some(chunk) = response.chunk().await.map_err(|error| unanswered(error, whom))? else { break };
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The time that a receiver asks for, where it does so in seconds.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// A request that got no answer. It may have arrived, and is told again all the same.
fn unanswered(error: reqwest::Error, whom: &str) -> Error {
    if error.is_builder() {
        let message = format!("{whom} cannot be told");
        return Error::new(ErrorKind::InvalidConfig, message).with_source(error.without_url());
    }
    let late = error.is_timeout() && !error.is_connect();
    let (kind, message) = if late {
        (ErrorKind::Timeout, format!("{whom} did not answer in time"))
    } else {
        (ErrorKind::Unavailable, format!("{whom} does not answer"))
    };
    let error = Error::new(kind, message).with_source(error.without_url());
    error.with_hint("check its address, and that it runs").temporary(None)
}

/// An answer that is no success. What may have arrived is told again all the same.
pub(crate) fn refused(status: u16, retry_after: Option<Duration>, message: String) -> Error {
    let permanent =
        |kind, message: String| Error::new(kind, message).with_context("status", status.to_string());
    match status {
        300..=399 => permanent(ErrorKind::InvalidConfig, format!("{message}, which leads elsewhere"))
            .with_hint("redirects are not followed: give the address to which it leads"),
        410 => permanent(ErrorKind::NotFound, message),
        425 | 500..=599 => {
            Error::from_http_status(status, retry_after, Access::Read, message).temporary(retry_after)
        }
        _ => Error::from_http_status(status, retry_after, Access::Read, message),
    }
}

#[cfg(test)]
mod tests {
    use rollback_core::Disposition;

    use super::*;

    #[test]
    fn an_address_that_cannot_be_used_is_not_repeated() {
        for url in ["", "hunter2", "ftp://hunter2", "http://ann:hunter2@p", "http://p/?x=hunter2"] {
            let error = base(url, "the receiver", "https://receiver").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{url}: {error:?}");
        }
        assert_eq!(base("https://p/prefix", "p", "p").unwrap().as_str(), "https://p/prefix/");
        assert_eq!(address("https://p/hook?x=1", "p", "p").unwrap().as_str(), "https://p/hook?x=1");
    }

    #[test]
    fn what_may_pass_is_told_apart_from_what_will_not() {
        let pause = Some(Duration::from_secs(7));
        for status in [408, 425, 429, 500, 501, 502, 503, 504] {
            let error = refused(status, pause, "x".into());
            assert_eq!(error.disposition(), Disposition::Temporary(pause), "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 409, 410, 413, 415, 422] {
            let error = refused(status, pause, "x".into());
            assert_eq!(error.disposition(), Disposition::Permanent, "{status}");
        }
    }
}
