//! Slack: as a bot, with a thread for what belongs together, or by an incoming webhook.

mod blocks;
mod config;
mod error;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Client, header};
use rollback_core::{Error, ErrorKind, Notification, Notifier, Result, retry_read};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

pub use self::config::SlackConfig;
use crate::connection;

/// Slack warns of a type without a charset.
const JSON: &str = "application/json; charset=utf-8";

/// A channel of Slack. Cloning is cheap.
///
/// A bot makes one thread for what has the same [`thread`](Notification::thread): the first message is its root. What
/// needs somebody (stuck, failed, not recovered) is shown in the channel, too. An incoming webhook has no threads.
///
/// A message of which the answer was lost is posted again and then stands there twice, because Slack recognizes none.
#[derive(Clone)]
pub struct Slack(Arc<Inner>);

struct Inner {
    client: Client,
    config: SlackConfig,
    way: Way,
    name: String,
}

enum Way {
    Bot(Bot),
    Webhook(Url),
}

struct Bot {
    token: SecretString,
    channel: String,
    post: Url,
    test: Url,
}

/// Where a thread is, as the notifier's caller keeps it: the ID of the channel and the time of the root.
#[derive(Clone, Copy)]
struct Thread<'a> {
    channel: &'a str,
    root: &'a str,
}

impl<'a> Thread<'a> {
    /// Nothing of what is no thread: a message by itself is better than none.
    fn read(text: &'a str) -> Option<Self> {
        let (channel, root) = text.split_once(' ')?;
        let is_time = !root.is_empty() && root.chars().all(|c| c.is_ascii_digit() || c == '.');
        (is_time && !channel.is_empty()).then_some(Self { channel, root })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    ok: bool,
    error: Option<String>,
    needed: Option<String>,
    channel: Option<String>,
    ts: String,
    message: Option<Posted>,
    #[serde(skip)]
    scopes: Option<String>,
}

#[derive(Deserialize)]
struct Posted {
    #[serde(default)]
    thread_ts: Option<String>,
}

impl Slack {
    /// Makes a client. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration cannot be used.
    pub fn new(config: SlackConfig) -> Result<Self> {
        let invalid =
            |message: &str, hint: &str| Error::new(ErrorKind::InvalidConfig, message).with_hint(hint);
        let (way, name) = match (&config.token, &config.webhook_url) {
            (Some(token), None) => {
                let channel =
                    config.channel.clone().filter(|channel| !channel.trim().is_empty()).ok_or_else(|| {
                        invalid(
                            "there is no channel for the bot token of Slack",
                            "name one, such as #incidents, or its ID",
                        )
                    })?;
                let is_bad = |c: char| c.is_whitespace() || c.is_control();
                if token.expose_secret().is_empty() || token.expose_secret().contains(is_bad) {
                    return Err(invalid(
                        "the bot token of Slack is empty or holds white space",
                        "give the token alone, without the end of its line",
                    ));
                }
                let api = config.api()?;
                let (post, test) =
                    (connection::below(&api, "chat.postMessage")?, connection::below(&api, "auth.test")?);
                let name = format!("slack {channel}");
                (Way::Bot(Bot { token: token.clone(), channel, post, test }), name)
            }
            (None, Some(url)) => {
                let url = url.expose_secret();
                let url = connection::address(
                    url,
                    "the incoming webhook of Slack",
                    "https://hooks.slack.com/services/…",
                )?;
                (Way::Webhook(url), "slack webhook".to_owned())
            }
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "there are both a bot token and an incoming webhook for Slack",
                    "give one of them; only a bot token makes threads",
                ));
            }
            (None, None) => {
                return Err(invalid(
                    "there is neither a bot token nor an incoming webhook for Slack",
                    "give the token of a bot with the scope chat:write, or the URL of an incoming webhook",
                ));
            }
        };
        let client = connection::client(config.timeout, false, None)?;
        Ok(Self(Arc::new(Inner { client, config, way, name })))
    }

    /// Posts, and answers where the thread is.
    async fn post(&self, bot: &Bot, message: &Notification, thread: Option<Thread<'_>>) -> Result<String> {
        // A channel may have got another name since, or another may have got its name.
        let channel = thread.map_or(bot.channel.as_str(), |thread| thread.channel);
        let mut body = blocks::payload(message);
        body.insert("channel".into(), channel.into());
        if let Some(thread) = thread {
            body.insert("thread_ts".into(), thread.root.into());
            if blocks::is_loud(message.event) {
                body.insert("reply_broadcast".into(), true.into());
            }
        }
        let answer = self.call(bot, &bot.post, &body, channel).await?;
        let root: &str = match (&answer.message, thread) {
            // A reply to what was deleted stands by itself, and nothing but this says so.
            (Some(posted), _) => posted.thread_ts.as_deref().unwrap_or(&answer.ts),
            (None, Some(thread)) => thread.root,
            (None, None) => &answer.ts,
        };
        Ok(format!("{} {root}", answer.channel.as_deref().unwrap_or(channel)))
    }

    /// Calls a method of the API.
    async fn call(
        &self,
        bot: &Bot,
        method: &Url,
        body: &Map<String, Value>,
        channel: &str,
    ) -> Result<Answer> {
        let request = self.0.client.post(method.clone()).bearer_auth(bot.token.expose_secret());
        let request = request.header(header::CONTENT_TYPE, JSON).json(body);
        let response = connection::send(request, "Slack").await?;
        let (status, retry_after) = (response.status(), connection::retry_after(&response));
        let scopes = response.headers().get("x-oauth-scopes").and_then(|value| value.to_str().ok());
        let scopes = scopes.map(str::to_owned);
        let body = connection::body(response, "Slack").await?;
        if status.as_u16() == 429 {
            return Err(error::limited(retry_after));
        }
        let answer = serde_json::from_str::<Answer>(&body);
        let word = answer
            .as_ref()
            .ok()
            .and_then(|answer| answer.error.as_deref())
            .filter(|word| error::is_word(word));
        if !status.is_success() {
            return Err(error::from_status(status.as_u16(), retry_after, word));
        }
        let word = word.unwrap_or("unknown_error").to_owned();
        match answer {
            Ok(answer) if answer.ok => Ok(Answer { scopes, ..answer }),
            Ok(Answer { needed, .. }) => {
                let needed = needed.as_deref().filter(|needed| !needed.is_empty());
                Err(error::from_word(&word, needed, &format!("the channel {channel}"), retry_after))
            }
            Err(e) => Err(Error::new(ErrorKind::InvalidConfig, "the answer is not that of Slack")
                .with_source(e)
                .with_hint("check the address of the API, and what is between here and there")),
        }
    }

    async fn post_to_webhook(&self, url: &Url, message: &Notification) -> Result<()> {
        let request = self.0.client.post(url.clone()).header(header::CONTENT_TYPE, JSON);
        let response = connection::send(request.json(&blocks::payload(message)), "Slack").await?;
        let (status, retry_after) = (response.status(), connection::retry_after(&response));
        if status.is_success() {
            return Ok(());
        }
        let body = connection::body(response, "Slack").await.unwrap_or_default();
        Err(error::from_webhook(status.as_u16(), retry_after, &body))
    }
}

#[async_trait]
impl Notifier for Slack {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn notify<'a>(
        &'a self,
        message: &'a Notification,
        thread: Option<&'a str>,
    ) -> Result<Option<String>> {
        let bot = match &self.0.way {
            Way::Webhook(url) => return self.post_to_webhook(url, message).await.map(|()| None),
            Way::Bot(bot) => bot,
        };
        let thread = thread.and_then(Thread::read);
        let posted = match self.post(bot, message, thread).await {
            Err(error) if thread.is_some() && error::is_of_thread(&error) => {
                self.post(bot, message, None).await
            }
            posted => posted,
        };
        posted.map(Some)
    }

    async fn check(&self) -> Result<Vec<String>> {
        let bot = match &self.0.way {
            Way::Webhook(_) => {
                let note = |channel: &String| {
                    format!(
                        "the channel {channel} has no effect: an incoming webhook has a fixed channel of its own"
                    )
                };
                return Ok(self.0.config.channel.iter().map(note).collect());
            }
            Way::Bot(bot) => bot,
        };
        let nothing = Map::new();
        let scopes = retry_read(|| self.call(bot, &bot.test, &nothing, &bot.channel)).await?.scopes;
        // `bot` is what older apps have in its place.
        let may_post = |scopes: &str| {
            scopes.split(',').map(str::trim).any(|scope| scope == "bot" || scope.starts_with("chat:write"))
        };
        match scopes {
            Some(scopes) if !may_post(&scopes) => {
                let message =
                    "the bot token has not the scope chat:write, without which nothing can be posted";
                Err(Error::new(ErrorKind::PermissionDenied, message)
                    .with_hint("add the scope to the app, and install it again"))
            }
            _ => Ok(Vec::new()),
        }
    }
}

impl fmt::Debug for Slack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slack").field("config", &self.0.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_with_a_way_out_and_no_secret_is_shown() {
        let mut both = SlackConfig::bot("#incidents", "xoxb-hunter2");
        both.webhook_url = Some("https://hooks.slack.com/services/hunter2".into());
        let mut neither = SlackConfig::bot("#incidents", "x");
        neither.token = None;
        let mut nowhere = SlackConfig::bot("", "xoxb-hunter2");
        let mut api = SlackConfig::bot("#incidents", "xoxb-hunter2");
        api.api_url = Some("https://ann:hunter2@slack.example".into());
        for config in [
            both,
            neither,
            nowhere.clone(),
            api,
            SlackConfig::bot("#incidents", "xoxb-hunter2\n"),
            SlackConfig::webhook("hunter2"),
            SlackConfig::webhook("ftp://hunter2"),
        ] {
            let error = Slack::new(config.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
            assert!(error.hint().is_some(), "{error:?}");
            assert!(!format!("{error:?} {config:?}").contains("hunter2"), "{error:?} {config:?}");
        }
        nowhere.channel = Some("#incidents".into());
        let bot = Slack::new(nowhere).unwrap();
        let webhook = Slack::new(SlackConfig::webhook("https://hooks.slack.com/services/hunter2")).unwrap();
        assert_eq!((bot.name(), webhook.name()), ("slack #incidents", "slack webhook"));
        assert!(!format!("{bot:?} {webhook:?}").contains("hunter2"), "{bot:?} {webhook:?}");
    }

    #[test]
    fn secrets_are_not_read_from_files() {
        let config: SlackConfig =
            serde_json::from_str(r#"{"channel":"C1","apiUrl":"https://slack.example/api"}"#).unwrap();
        assert_eq!((config.channel.as_deref(), config.timeout.as_secs()), (Some("C1"), 10));
        for text in [r#"{"token":"x"}"#, r#"{"webhookUrl":"x"}"#] {
            serde_json::from_str::<SlackConfig>(text).unwrap_err();
        }
    }

    #[test]
    fn only_a_thread_is_read_as_one() {
        let thread = Thread::read("C123 1700000000.000100").unwrap();
        assert_eq!((thread.channel, thread.root), ("C123", "1700000000.000100"));
        for text in ["", "C123", "C123 ", " 1.0", "C123 x", "C123 1.0 2.0"] {
            assert!(Thread::read(text).is_none(), "{text}");
        }
    }
}
