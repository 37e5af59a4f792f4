//! A webhook of one's own: the notification as JSON, signed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, header};
use rollback_core::{Clock, Error, ErrorKind, Notification, Notifier, Result, SystemClock};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::connection;
use crate::signature::{SIGNATURE_HEADER, sign};

/// Of the body, so that receivers can tell a later one apart.
const VERSION: u32 = 1;

/// Where a webhook is, and how a receiver knows who posts.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookConfig {
    /// Its address, such as `https://hooks.example.com/rollback`. Only its host is ever shown, because the rest may be a
    /// secret.
    pub url: String,
    /// With what bodies are signed, where they are.
    #[serde(skip)]
    pub secret: Option<SecretString>,
    /// A PEM file of the authorities that vouch for the server, in place of the system's.
    #[serde(default)]
    pub ca_path: Option<PathBuf>,
    /// How long one request may take. Default: 10 s.
    #[serde(skip, default = "connection::timeout")]
    pub timeout: Duration,
    /// Where the time of signatures comes from. Default: the machine's clock.
    #[serde(skip, default = "clock")]
    pub clock: Arc<dyn Clock>,
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

impl WebhookConfig {
    /// One that is not signed.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), secret: None, ca_path: None, timeout: connection::timeout(), clock: clock() }
    }

    fn address(&self) -> Result<Url> {
        connection::address(&self.url, "the webhook", "https://hooks.example.com/rollback")
    }
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("host", &self.address().ok().map(|url| host(&url)))
            .field("secret", &self.secret.as_ref().map(|_| "…"))
            .field("ca_path", &self.ca_path)
            .field("timeout", &self.timeout)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// The host, with its port where that is not the usual one.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Posts every notification as JSON. Cloning is cheap.
///
/// The body is `{"version":1,"notification":{…}}`, with the fields of [`Notification`]; later versions of this library
/// may add some. The header `Idempotency-Key` has the notification's id: what comes again has the same. Where there is a
/// secret, [`SIGNATURE_HEADER`] has the time and the HMAC-SHA256 of time and body, which
/// [`verify_signature`](crate::verify_signature) checks.
#[derive(Clone)]
pub struct Webhook(Arc<Inner>);

struct Inner {
    client: Client,
    config: WebhookConfig,
    url: Url,
    name: String,
}

#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    notification: &'a Notification,
}

impl Webhook {
    /// Makes a client. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration cannot be used.
    pub fn new(config: WebhookConfig) -> Result<Self> {
        let url = config.address()?;
        if let Some(secret) = &config.secret {
            sign(secret.expose_secret().as_bytes(), 0, b"")?;
        }
        let client = connection::client(config.timeout, false, config.ca_path.as_deref())?;
        let name = format!("webhook {}", host(&url));
        Ok(Self(Arc::new(Inner { client, config, url, name })))
    }
}

#[async_trait]
impl Notifier for Webhook {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn notify<'a>(
        &'a self,
        message: &'a Notification,
        _thread: Option<&'a str>,
    ) -> Result<Option<String>> {
        let Inner { client, config, url, name } = &*self.0;
        let body = Body { version: VERSION, notification: message };
        let body = serde_json::to_vec(&body).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "the notification cannot be written").with_source(e)
        })?;
        let mut request = client
            .post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            // What a header cannot hold is written so that ids which differ still do.
            .header("Idempotency-Key", message.id.escape_default().to_string());
        if let Some(secret) = &config.secret {
            let seconds = config.clock.now().as_unix_millis().div_euclid(1000);
            let signature = sign(secret.expose_secret().as_bytes(), seconds, &body)?;
            request = request.header(SIGNATURE_HEADER, signature);
        }
        let response = connection::send(request.body(body), name).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(None);
        }
        // The body is left out: it may repeat the address.
        let message = format!("{name} answered {}", status.as_u16());
        let error = connection::refused(status.as_u16(), connection::retry_after(&response), message);
        Err(match status.as_u16() {
            401 | 403 => error.with_hint("check the secret here and there"),
            404 | 405 | 410 => error.with_hint("check the address of the webhook"),
            _ => error,
        })
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("config", &self.0.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        let mut config = WebhookConfig::new("https://ann:hunter2@hooks.example.com:8443/hunter2?key=hunter2");
        config.secret = Some("hunter2".into());
        let webhook = Webhook::new(config.clone()).unwrap();
        assert_eq!(webhook.name(), "webhook hooks.example.com:8443");
        assert!(!format!("{config:?} {webhook:?}").contains("hunter2"), "{config:?} {webhook:?}");
        assert_eq!(Webhook::new(WebhookConfig::new("http://p/x")).unwrap().name(), "webhook p");
        for url in ["hunter2", "ftp://hunter2/"] {
            let config = WebhookConfig::new(url);
            let error = Webhook::new(config.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(!format!("{error:?} {config:?}").contains("hunter2"), "{error:?} {config:?}");
        }
    }

    #[test]
    fn an_empty_secret_is_refused_and_one_in_the_file_too() {
        let mut config = WebhookConfig::new("https://p");
        config.secret = Some("".into());
        assert_eq!(Webhook::new(config).unwrap_err().kind(), ErrorKind::InvalidConfig);
        let config: WebhookConfig = serde_json::from_str(r#"{"url":"https://p/x"}"#).unwrap();
        assert_eq!((config.url.as_str(), config.timeout), ("https://p/x", Duration::from_secs(10)));
        serde_json::from_str::<WebhookConfig>(r#"{"url":"https://p","secret":"x"}"#).unwrap_err();
    }
}
