//! Where a Prometheus is, and who asks.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rollback_core::{Error, ErrorKind, Result};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

/// How a Prometheus is reached.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct PrometheusConfig {
    /// Its address, such as `http://prometheus:9090`; with the path below which its API is, where there is one.
    pub url: String,
    /// The user for basic authentication.
    #[serde(default)]
    pub username: Option<String>,
    /// Their password.
    #[serde(skip)]
    pub password: Option<SecretString>,
    /// A bearer token, where there is no user.
    #[serde(skip)]
    pub token: Option<SecretString>,
    /// Whether a certificate that nobody vouches for is accepted. Default: no.
    #[serde(default)]
    pub insecure_tls: bool,
    /// A PEM file of the authorities that vouch for the server, in place of the system's.
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
    /// How long one query may take, there and on the way. Default: 10 s.
    #[serde(skip, default = "timeout")]
    pub timeout: Duration,
}

fn timeout() -> Duration {
    Duration::from_secs(10)
}

impl PrometheusConfig {
    /// One without credentials.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            token: None,
            insecure_tls: false,
            ca_path: None,
            timeout: timeout(),
        }
    }

    /// The address below which the API is.
    pub(crate) fn base(&self) -> Result<Url> {
        let invalid = |why: &str| {
            let message = format!("the address of Prometheus cannot be used: {why}");
            Error::new(ErrorKind::InvalidConfig, message).with_hint("write it as http://prometheus:9090")
        };
        let mut url: Url = self.url.parse().map_err(|_| invalid("it is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(invalid("only http and https servers can be asked"));
        }
        if url.password().is_some() || !url.username().is_empty() {
            return Err(invalid("it holds credentials, which belong into fields of their own"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it has a query or a fragment"));
        }
        let path = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(url)
    }
}

impl fmt::Debug for PrometheusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address that cannot be used may hold a password.
        f.debug_struct("PrometheusConfig")
            .field("url", &self.base().ok().map(|url| url.to_string()))
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("insecure_tls", &self.insecure_tls)
            .field("ca_path", &self.ca_path)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_server_is_refused_and_no_secret_is_shown() {
        for url in ["", "prometheus:9090", "ftp://p", "http://ann:hunter2@p", "http://p/?x=1"] {
            let config = PrometheusConfig::new(url);
            let error = config.base().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error:?} {config:?}").contains("hunter2"), "{url}");
        }
        assert_eq!(PrometheusConfig::new("https://p/prefix").base().unwrap().as_str(), "https://p/prefix/");
        let mut config = PrometheusConfig::new("http://p");
        config.token = Some("hunter2".into());
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
