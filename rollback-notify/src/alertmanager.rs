//! Alertmanager, by version 2 of its API.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder};
use rollback_core::{Alert, Error, ErrorKind, Notification, Notifier, Result, Timestamp, retry_read};
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::connection;

/// The longest reason that an error repeats.
const MOST_CHARS: usize = 300;

/// How an Alertmanager is reached.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct AlertmanagerConfig {
    /// Its address, such as `http://alertmanager:9093`; with the path below which its API is, where there is one.
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
    /// How long one request may take. Default: 10 s.
    #[serde(skip, default = "connection::timeout")]
    pub timeout: Duration,
}

impl AlertmanagerConfig {
    /// One without credentials.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            token: None,
            insecure_tls: false,
            ca_path: None,
            timeout: connection::timeout(),
        }
    }

    fn base(&self) -> Result<Url> {
        connection::base(&self.url, "Alertmanager", "http://alertmanager:9093")
    }
}

impl fmt::Debug for AlertmanagerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address that cannot be used may hold a password.
        f.debug_struct("AlertmanagerConfig")
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

/// An Alertmanager. It is told which alerts stand, and not of events. Cloning is cheap.
#[derive(Clone)]
pub struct Alertmanager(Arc<Inner>);

struct Inner {
    client: Client,
    config: AlertmanagerConfig,
    alerts: Url,
    status: Url,
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Posted<'a> {
    labels: BTreeMap<String, &'a str>,
    annotations: BTreeMap<String, &'a str>,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

impl<'a> Posted<'a> {
    fn of(alert: &'a Alert) -> Self {
        Self {
            labels: clean(&alert.labels),
            annotations: clean(&alert.annotations),
            starts_at: alert.starts_at,
            // One that ends before it starts would be refused, on a clock that was set back.
            ends_at: alert.ends_at.max(alert.starts_at),
        }
    }
}

/// What every Alertmanager says of itself.
#[derive(Deserialize)]
struct Status {
    #[serde(rename = "versionInfo")]
    _version_info: IgnoredAny,
}

impl Alertmanager {
    /// Makes a client. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration cannot be used.
    pub fn new(config: AlertmanagerConfig) -> Result<Self> {
        let base = config.base()?;
        let client = connection::client(config.timeout, config.insecure_tls, config.ca_path.as_deref())?;
        let alerts = connection::below(&base, "api/v2/alerts")?;
        let status = connection::below(&base, "api/v2/status")?;
        let name = format!("alertmanager {}", base.as_str().trim_end_matches('/'));
        Ok(Self(Arc::new(Inner { client, config, alerts, status, name })))
    }

    /// The body of a success.
    async fn ask(&self, request: RequestBuilder) -> Result<String> {
        let config = &self.0.config;
        let request = match (&config.username, &config.password, &config.token) {
            (Some(user), password, _) => {
                request.basic_auth(user, password.as_ref().map(ExposeSecret::expose_secret))
            }
            (None, _, Some(token)) => request.bearer_auth(token.expose_secret()),
            (None, _, None) => request,
        };
        let response = connection::send(request, "Alertmanager").await?;
        let (status, retry_after) = (response.status(), connection::retry_after(&response));
        let body = connection::body(response, "Alertmanager").await;
        if status.is_success() {
            body
        } else {
            Err(refused(status.as_u16(), retry_after, &body.unwrap_or_default()))
        }
    }
}

#[async_trait]
impl Notifier for Alertmanager {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn notify<'a>(
        &'a self,
        _message: &'a Notification,
        _thread: Option<&'a str>,
    ) -> Result<Option<String>> {
        Ok(None)
    }

    async fn alerts<'a>(&'a self, alerts: &'a [Alert]) -> Result<()> {
        if alerts.is_empty() {
            return Ok(());
        }
        let posted: Vec<_> = alerts.iter().map(Posted::of).collect();
        // A success has no body.
        self.ask(self.0.client.post(self.0.alerts.clone()).json(&posted)).await.map(drop)
    }

    async fn check(&self) -> Result<Vec<String>> {
        let body = retry_read(|| self.ask(self.0.client.get(self.0.status.clone()))).await?;
        match serde_json::from_str::<Status>(&body) {
            Ok(_) => Ok(Vec::new()),
            Err(e) => Err(elsewhere("the answer is not that of Alertmanager").with_source(e)),
        }
    }
}

impl fmt::Debug for Alertmanager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alertmanager").field("config", &self.0.config).finish_non_exhaustive()
    }
}

fn elsewhere(message: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message).with_hint("check host, port and path")
}

/// Labels or annotations as the server takes them: it refuses other names, and those without a value are none.
fn clean(all: &BTreeMap<String, String>) -> BTreeMap<String, &str> {
    let mut cleaned = BTreeMap::new();
    for (name, value) in all.iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()) {
        let clean = clean_name(name);
        // A name that was right keeps its value when another becomes the same.
        if clean == *name || !cleaned.contains_key(&clean) {
            cleaned.insert(clean, value.as_str());
        }
    }
    cleaned
}

fn clean_name(name: &str) -> String {
    let digit = name.starts_with(|c: char| c.is_ascii_digit());
    let rest = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
    digit.then_some('_').into_iter().chain(rest).collect()
}

/// An answer that is no success: a string, an object with a message, a text, or nothing.
fn refused(status: u16, retry_after: Option<Duration>, body: &str) -> Error {
    let message = match reason(body) {
        Some(reason) => format!("Alertmanager answered {status}: {reason}"),
        None => format!("Alertmanager answered {status}"),
    };
    match status {
        404 => elsewhere("there is no API of Alertmanager at this address"),
        401 => connection::refused(status, retry_after, message)
            .with_hint("give a user and password, or a token"),
        _ => connection::refused(status, retry_after, message),
    }
}

fn reason(body: &str) -> Option<String> {
    let text = match serde_json::from_str(body) {
        Ok(Value::String(text)) => text,
        Ok(Value::Object(told)) => told.get("message")?.as_str()?.to_owned(),
        Ok(_) => return None,
        // The page of a server before it.
        Err(_) if body.trim_start().starts_with('<') => return None,
        Err(_) => body.to_owned(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then(|| text.chars().take(MOST_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use rollback_core::Disposition;

    use super::*;

    fn map(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_are_made_such_as_the_server_takes() {
        let all = map(&[
            ("alertname", "RollbackStuck"),
            ("app.kubernetes.io/name", "web"),
            ("2nd", "x"),
            ("größe", "9"),
            ("empty", ""),
            ("", "nameless"),
        ]);
        let cleaned = clean(&all);
        let names: Vec<_> = cleaned.keys().map(String::as_str).collect();
        assert_eq!(names, ["_2nd", "alertname", "app_kubernetes_io_name", "gr__e"]);
        // Either order of the names.
        for (wrong, right) in [("a-b", "a_b"), ("a~b", "a_b")] {
            assert_eq!(clean(&map(&[(wrong, "1"), (right, "2")])), BTreeMap::from([("a_b".to_owned(), "2")]));
        }
    }

    #[test]
    fn no_alert_ends_before_it_starts() {
        let at = |millis| Timestamp::from_unix_millis(millis).unwrap();
        let alert = Alert {
            labels: map(&[("alertname", "x")]),
            annotations: BTreeMap::new(),
            starts_at: at(5_000),
            ends_at: at(4_000),
        };
        assert_eq!(
            serde_json::to_value(Posted::of(&alert)).unwrap(),
            serde_json::json!({
                "labels": {"alertname": "x"},
                "annotations": {},
                "startsAt": "1970-01-01T00:00:05Z",
                "endsAt": "1970-01-01T00:00:05Z",
            })
        );
    }

    #[test]
    fn every_shape_of_an_error_becomes_one() {
        for (status, body, kind, text) in [
            (
                400,
                r#""at least one label pair required""#,
                ErrorKind::Refused,
                "Alertmanager answered 400: at least one label pair required",
            ),
            (
                422,
                r#"{"code":602,"message":"0.labels in body is required"}"#,
                ErrorKind::Refused,
                "Alertmanager answered 422: 0.labels in body is required",
            ),
            (502, "bad  gateway\n", ErrorKind::Unavailable, "Alertmanager answered 502: bad gateway"),
            (503, "", ErrorKind::Unavailable, "Alertmanager answered 503"),
            (403, "<html>", ErrorKind::PermissionDenied, "Alertmanager answered 403"),
            (401, "", ErrorKind::Unauthenticated, "Alertmanager answered 401"),
            (
                404,
                "404 page not found",
                ErrorKind::InvalidConfig,
                "there is no API of Alertmanager at this address",
            ),
        ] {
            let error = refused(status, None, body);
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
        }
        assert_eq!(refused(500, None, "").disposition(), Disposition::Temporary(None));
    }

    #[test]
    fn no_secret_is_shown() {
        let mut config = AlertmanagerConfig::new("http://am:9093/prefix/");
        config.username = Some("ann".into());
        config.password = Some("hunter2".into());
        config.token = Some("hunter2".into());
        let alertmanager = Alertmanager::new(config.clone()).unwrap();
        assert_eq!(alertmanager.name(), "alertmanager http://am:9093/prefix");
        assert!(!format!("{config:?} {alertmanager:?}").contains("hunter2"));
        let config = AlertmanagerConfig::new("http://ann:hunter2@am");
        let error = Alertmanager::new(config.clone()).unwrap_err();
        assert!(!format!("{config:?} {error:?}").contains("hunter2"));
    }
}
