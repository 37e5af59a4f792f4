//! How one address is asked over HTTP.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Response, Url, redirect};
use rollback_core::Result;
use rollback_core::trigger::Health;
use secrecy::{ExposeSecret, SecretString};

use super::{invalid, refuse_no_time};

const USER_AGENT: &str = "rollback-probe";

/// How much of an answer is searched.
const MOST_BYTES: usize = 64 * 1024;

/// How something is asked over HTTP, by GET, and which answer is a good one.
///
/// A redirect (3xx) is never a good answer, whatever [`statuses`](Self::statuses) says: it is not followed, since who
/// answers elsewhere says nothing of who was asked.
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpCheck {
    /// The path, with its query where there is one. Default: `/`. For pods; an [address](super::AddressProbe) brings its
    /// own.
    pub path: String,
    /// Whether by TLS. Default: no. For pods; an address brings its own.
    pub scheme: Scheme,
    /// The good statuses, as far as they are no redirects. Default: 200 to 399, as for a kubelet.
    pub statuses: RangeInclusive<u16>,
    /// A text that a good answer contains in its first 64 KiB.
    pub body: Option<String>,
    /// How long all of it may take, from the connection to the end of the answer. Default: 2 s.
    pub timeout: Duration,
    /// Headers to send, by name. Their values are shown nowhere.
    pub headers: BTreeMap<String, SecretString>,
    /// Whether a certificate that nobody vouches for is accepted, such as pods sign themselves. Default: no.
    pub insecure_tls: bool,
}

/// Whether by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Without.
    #[default]
    Http,
    /// With.
    Https,
}

impl HttpCheck {
    /// That of a path, by the defaults.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

impl Default for HttpCheck {
    fn default() -> Self {
        Self {
            path: "/".into(),
            scheme: Scheme::Http,
            statuses: 200..=399,
            body: None,
            timeout: Duration::from_secs(2),
            headers: BTreeMap::new(),
            insecure_tls: false,
        }
    }
}

impl fmt::Debug for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a token.
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        f.debug_struct("HttpCheck")
            .field("path", &path)
            .field("scheme", &self.scheme)
            .field("statuses", &self.statuses)
            .field("body", &self.body)
            .field("timeout", &self.timeout)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("insecure_tls", &self.insecure_tls)
            .finish()
    }
}

/// A check, and the client that makes it.
#[derive(Clone)]
pub(crate) struct HttpProbe {
    client: Client,
    check: HttpCheck,
}

impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.check, f)
    }
}

impl HttpProbe {
    pub(crate) fn new(check: HttpCheck) -> Result<Self> {
        refuse_no_time(check.timeout)?;
        let is_good = |status: u16| (200..300).contains(&status) || (400..1000).contains(&status);
        if !check.statuses.clone().any(is_good) {
            let message = format!("no answer has a status of {:?} and is no redirect", check.statuses);
            return Err(invalid(message));
        }
        // The one of the Kubernetes client; a program that has chosen another keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers(&check)?)
            .no_proxy()
            .redirect(redirect::Policy::none())
            // What answers on an old connection may take no new one any more.
            .pool_max_idle_per_host(0)
            .danger_accept_invalid_certs(check.insecure_tls);
        if check.scheme == Scheme::Http {
            // So that it works where the system has no certificates.
            client = client.tls_certs_only(Vec::<Certificate>::new());
        }
        let client = client
            .build()
            .map_err(|e| invalid("the settings of the check cannot be used").with_source(e.without_url()))?;
        Ok(Self { client, check })
    }

    pub(crate) fn limit(&self) -> Duration {
        self.check.timeout
    }

    /// Where the check's path is on a server.
    pub(crate) fn url_on(&self, server: SocketAddr) -> Result<Url> {
        let scheme = match self.check.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let unusable = || invalid("the path of a check cannot be used").with_hint("write it as /healthz");
        if !self.check.path.starts_with('/') {
            return Err(unusable());
        }
        Url::parse(&format!("{scheme}://{server}{}", self.check.path)).map_err(|_| unusable())
    }

    /// Asks, for as long as it takes.
    pub(crate) async fn ask(&self, url: Url) -> Health {
        let response = match self.client.get(url).send().await {
            Ok(response) => response,
            Err(error) => return unanswered(error),
        };
        let status = response.status();
        if status.is_redirection() {
            return Health::Failed(format!("answered {status}, and redirects are not followed"));
        }
        if !self.check.statuses.contains(&status.as_u16()) {
            return Health::Failed(format!("answered {status}"));
        }
        let Some(text) = &self.check.body else { return Health::Healthy };
        match beginning(response).await {
            Ok(body) if body.contains(text.as_str()) => Health::Healthy,
            Ok(_) => Health::Failed(format!("answered {status}, without the text {text:?}")),
            Err(error) => unanswered(error),
        }
    }

    /// The same, of the check's path on a server.
    pub(crate) async fn ask_server(&self, server: SocketAddr) -> Health {
        match self.url_on(server) {
            Ok(url) => self.ask(url).await,
            Err(error) => Health::Unknown(error.to_string()),
        }
    }
}

fn headers(check: &HttpCheck) -> Result<HeaderMap> {
    let mut all = HeaderMap::new();
    for (name, value) in &check.headers {
        let Ok(key) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(invalid(format!("{name:?} cannot be the name of a header")));
        };
        let Ok(mut value) = HeaderValue::from_str(value.expose_secret()) else {
            return Err(invalid(format!("the value of the header {name} cannot be sent")));
        };
        value.set_sensitive(true);
        all.insert(key, value);
    }
    Ok(all)
}

async fn beginning(mut response: Response) -> reqwest::Result<String> {
    let mut body = Vec::new();
    while body.len() < MOST_BYTES {
        let Some(chunk) = response.chunk().await? else { break };
        body.extend_from_slice(&chunk);
    }
    body.truncate(MOST_BYTES);
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn unanswered(error: reqwest::Error) -> Health {
    let error = error.without_url();
    // What is around it says only that something was asked.
    let mut cause: &dyn StdError = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_builder() {
        return Health::Unknown(format!("cannot be asked: {cause}"));
    }
    if error.is_dns() {
        return Health::Unknown(format!("its name cannot be resolved: {cause}"));
    }
    if error.is_connect() {
        return Health::Failed(format!("cannot be reached: {cause}"));
    }
    Health::Failed(format!("does not answer properly: {cause}"))
}

#[cfg(test)]
mod tests {
    use rollback_core::ErrorKind;

    use super::*;

    #[test]
    fn a_check_that_cannot_be_made_is_refused_and_no_secret_is_shown() {
        let of = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), SecretString::from(value))]);
        for check in [
            HttpCheck { timeout: Duration::ZERO, ..HttpCheck::default() },
            HttpCheck { statuses: 300..=399, ..HttpCheck::default() },
            HttpCheck { headers: of("two words", "hunter2"), ..HttpCheck::default() },
            HttpCheck { headers: of("X-Token", "hunter2\n"), ..HttpCheck::new("/?key=hunter2") },
        ] {
            let error = HttpProbe::new(check.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{check:?}");
            assert!(!format!("{error:?} {check:?}").contains("hunter2"), "{error:?} {check:?}");
        }
        let server = "10.244.1.2:80".parse().unwrap();
        for path in ["", "healthz", "@elsewhere/", ":1/"] {
            let error = HttpProbe::new(HttpCheck::new(path)).unwrap().url_on(server).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{path}");
        }
    }

    #[test]
    fn an_address_of_ipv6_is_in_brackets() {
        let probe = |scheme: Scheme| {
            HttpProbe::new(HttpCheck { scheme, insecure_tls: true, ..HttpCheck::new("/a?b=c") }).unwrap()
        };
        let url = |scheme: Scheme, server: &str| probe(scheme).url_on(server.parse().unwrap()).unwrap();
        assert_eq!(url(Scheme::Http, "[fd00::2]:8080").as_str(), "http://[fd00::2]:8080/a?b=c");
        assert_eq!(url(Scheme::Https, "10.244.1.2:8443").as_str(), "https://10.244.1.2:8443/a?b=c");
    }
}
