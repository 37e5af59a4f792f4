//! Where a registry is, and who asks.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rollback_core::{Error, ErrorKind, Result};
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

/// How a registry is reached, as MLflow's own clients take it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct RegistryConfig {
    /// The tracking server, such as `http://mlflow:5000`.
    pub tracking_uri: String,
    /// The user for basic authentication.
    #[serde(default)]
    pub username: Option<String>,
    /// Their password.
    #[serde(skip)]
    pub password: Option<SecretString>,
    /// A bearer token, where there are not both user and password.
    #[serde(skip)]
    pub token: Option<SecretString>,
    /// Whether a certificate that nobody vouches for is accepted. Default: no.
    #[serde(default)]
    pub insecure_tls: bool,
    /// A PEM file of the authorities that vouch for the server, in place of the system's.
    #[serde(default)]
    pub server_cert_path: Option<PathBuf>,
    /// How long one request may take. Default: 30 s; a server whose SQLite is locked takes 20 s to say so.
    #[serde(skip, default = "timeout")]
    pub timeout: Duration,
    /// How many versions or models are asked for in one request, from 1. Default: 1000, which all servers take.
    #[serde(skip, default = "page_size")]
    pub page_size: u32,
}

fn timeout() -> Duration {
    Duration::from_secs(30)
}

fn page_size() -> u32 {
    1000
}

impl RegistryConfig {
    /// A registry without credentials.
    pub fn new(tracking_uri: impl Into<String>) -> Self {
        Self {
            tracking_uri: tracking_uri.into(),
            username: None,
            password: None,
            token: None,
            insecure_tls: false,
            server_cert_path: None,
            timeout: timeout(),
            page_size: page_size(),
        }
    }

    /// What the environment says: `MLFLOW_TRACKING_URI`, unless one is given, `MLFLOW_TRACKING_USERNAME`,
    /// `_PASSWORD`, `_TOKEN`, `_INSECURE_TLS` and `_SERVER_CERT_PATH`.
    ///
    /// # Errors
    /// `InvalidConfig` when neither the caller nor the environment says where the registry is.
    pub fn from_env(tracking_uri: Option<&str>) -> Result<Self> {
        Self::from_variables(tracking_uri, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(tracking_uri: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let uri = tracking_uri.map(str::to_owned).or_else(|| variable("MLFLOW_TRACKING_URI"));
        let uri = uri.ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, "no MLflow tracking server is named")
                .with_hint("set MLFLOW_TRACKING_URI, or pass --tracking-uri")
        })?;
        let secret = |name| variable(name).map(SecretString::from);
        Ok(Self {
            username: variable("MLFLOW_TRACKING_USERNAME"),
            password: secret("MLFLOW_TRACKING_PASSWORD"),
            token: secret("MLFLOW_TRACKING_TOKEN"),
            insecure_tls: variable("MLFLOW_TRACKING_INSECURE_TLS")
                .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1")),
            server_cert_path: variable("MLFLOW_TRACKING_SERVER_CERT_PATH").map(PathBuf::from),
            ..Self::new(uri)
        })
    }

    /// The address, without the user that it may name.
    pub(crate) fn url(&self) -> Result<Url> {
        let invalid = |why: &str| {
            let message = format!("the tracking URI cannot be used: {why}");
            Error::new(ErrorKind::InvalidConfig, message).with_hint("write it as http://mlflow:5000")
        };
        let mut url: Url = self.tracking_uri.parse().map_err(|_| invalid("it is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(invalid("only http and https servers can be asked"));
        }
        if url.password().is_some() || !url.username().is_empty() {
            return Err(invalid("it holds credentials; give them by MLFLOW_TRACKING_USERNAME and _PASSWORD"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it has a query or a fragment, which no MLflow server reads"));
        }
        let path = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(url)
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("insecure_tls", &self.insecure_tls)
            .field("server_cert_path", &self.server_cert_path)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_mlflows_clients_read_it_and_shows_no_secret() {
        let variable = |name: &str| {
            let value = match name {
                "MLFLOW_TRACKING_URI" => "http://mlflow:5000/",
                "MLFLOW_TRACKING_USERNAME" => "ann",
                "MLFLOW_TRACKING_PASSWORD" => "hunter2",
                "MLFLOW_TRACKING_INSECURE_TLS" => "True",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let config = RegistryConfig::from_variables(None, variable).unwrap();
        assert_eq!(config.url().unwrap().as_str(), "http://mlflow:5000/");
        assert!(config.insecure_tls && config.username.as_deref() == Some("ann"));
        assert!(!format!("{config:?}").contains("hunter2"));
        let named = RegistryConfig::from_variables(Some("https://other/prefix"), variable).unwrap();
        assert_eq!(named.url().unwrap().as_str(), "https://other/prefix/");
        assert!(RegistryConfig::from_variables(None, |_| None).unwrap_err().hint().is_some());
    }

    #[test]
    fn what_is_no_server_is_refused_without_showing_credentials() {
        for uri in
            ["", "mlruns", "file:///mlruns", "sqlite:///m.db", "databricks", "http://me:hunter2@mlflow"]
        {
            let error = RegistryConfig::new(uri).url().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{uri}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
