//! Where in Slack, and who posts.

use std::fmt;
use std::time::Duration;

use rollback_core::Result;
use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::connection;

/// Slack's own API.
const API: &str = "https://slack.com/api";

/// How Slack is reached: as a bot in a channel, or by an incoming webhook.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub struct SlackConfig {
    /// The channel in which a bot posts: its ID, such as `C0123456789`, or its name, such as `#incidents`. The ID stays
    /// the same when a channel is renamed.
    #[serde(default)]
    pub channel: Option<String>,
    /// The address of the API. Default: `https://slack.com/api`.
    #[serde(default)]
    pub api_url: Option<String>,
    /// The token of a bot, `xoxb-…`, of an app with the scope `chat:write`.
    #[serde(skip)]
    pub token: Option<SecretString>,
    /// The URL of an incoming webhook, in place of a token. It posts to a channel of its own, and without threads.
    #[serde(skip)]
    pub webhook_url: Option<SecretString>,
    /// How long one request may take. Default: 10 s.
    #[serde(skip, default = "connection::timeout")]
    pub timeout: Duration,
}

impl SlackConfig {
    /// A bot that posts in a channel.
    pub fn bot(channel: impl Into<String>, token: impl Into<SecretString>) -> Self {
        Self { channel: Some(channel.into()), token: Some(token.into()), ..Self::empty() }
    }

    /// An incoming webhook.
    pub fn webhook(url: impl Into<SecretString>) -> Self {
        Self { webhook_url: Some(url.into()), ..Self::empty() }
    }

    fn empty() -> Self {
        Self { channel: None, api_url: None, token: None, webhook_url: None, timeout: connection::timeout() }
    }

    /// The address below which the methods are.
    pub(super) fn api(&self) -> Result<Url> {
        connection::base(self.api_url.as_deref().unwrap_or(API), "the API of Slack", API)
    }
}

impl fmt::Debug for SlackConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address that cannot be used may hold a password.
        f.debug_struct("SlackConfig")
            .field("channel", &self.channel)
            .field("api_url", &self.api().ok().map(|url| url.to_string()))
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("webhook_url", &self.webhook_url.as_ref().map(|_| "…"))
            .field("timeout", &self.timeout)
            .finish()
    }
}
