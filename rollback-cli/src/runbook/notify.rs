//! Who is told, where reports go, and how the supervisor works.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rollback_core::incident::IncidentFolder;
use rollback_core::supervisor::Options;
use rollback_core::{Alert, Notification, Notifier, Result};
use rollback_notify::{Alertmanager, AlertmanagerConfig, Slack, SlackConfig, Webhook, WebhookConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Runbook;
use super::units::{Secret, Time};
use crate::journal::Kept;
use crate::place;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NotifyEntry {
    slack: Option<SlackEntry>,
    alertmanager: Option<AlertmanagerEntry>,
    webhook: Option<WebhookEntry>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SlackEntry {
    token: Option<Secret>,
    channel: Option<String>,
    webhook_url: Option<Secret>,
    api_url: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AlertmanagerEntry {
    url: String,
    username: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    #[serde(default)]
    insecure_tls: bool,
    ca_path: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookEntry {
    url: String,
    secret: Option<Secret>,
    ca_path: Option<PathBuf>,
}

/// Where the reports of incidents go.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IncidentsEntry {
    directory: PathBuf,
    root_cause_within: Option<Time>,
}

/// How the supervisor works.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct SupervisorEntry {
    observe_every: Option<Time>,
    soak: Option<Time>,
    settle: Option<Time>,
    blind_after: Option<Time>,
    repeat_alerts: Option<Time>,
    verify_timeout: Option<Time>,
}

impl NotifyEntry {
    pub(super) fn check(&self, place: &str, faults: &mut Vec<String>) {
        let mut fault = |what: &str| faults.push(format!("{place}: {what}"));
        let kinds = [self.slack.is_some(), self.alertmanager.is_some(), self.webhook.is_some()];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            fault("it is one of slack, alertmanager or webhook");
        }
        if let Some(slack) = &self.slack {
            if slack.token.is_some() == slack.webhook_url.is_some() {
                fault("slack takes the token of a bot, or the webhookUrl of an incoming webhook");
            }
            if slack.token.is_some() && slack.channel.is_none() {
                fault("a bot takes the channel to post in");
            }
        }
        if let Some(alertmanager) = &self.alertmanager
            && (alertmanager.username.is_some() != alertmanager.password.is_some()
                || (alertmanager.token.is_some() && alertmanager.username.is_some()))
        {
            fault("alertmanager takes a username and its password, or a token");
        }
        let addresses = [
            self.slack.as_ref().and_then(|slack| slack.api_url.as_ref()),
            self.alertmanager.as_ref().map(|alertmanager| &alertmanager.url),
            self.webhook.as_ref().map(|webhook| &webhook.url),
        ];
        for url in addresses.into_iter().flatten() {
            if place::without_user(url) != *url {
                fault("its address holds a user or a password: a secret is given by env or file");
            }
            if !url.starts_with("http://") && !url.starts_with("https://") {
                fault("its address begins with http:// or https://");
            }
        }
        let of_slack = self.slack.iter().flat_map(|slack| slack.token.iter().chain(&slack.webhook_url));
        let of_alertmanager = self.alertmanager.iter().flat_map(|one| one.password.iter().chain(&one.token));
        let of_webhook = self.webhook.iter().flat_map(|webhook| &webhook.secret);
        for secret in of_slack.chain(of_alertmanager).chain(of_webhook) {
            if let Some(what) = secret.fault() {
                fault(what);
            }
        }
    }

    fn notifier(&self, folder: &Path) -> Result<Option<Arc<dyn Notifier>>> {
        let read = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.read(folder)).transpose();
        if let Some(slack) = &self.slack {
            let mut config = match (read(&slack.token)?, read(&slack.webhook_url)?) {
                (Some(token), _) => SlackConfig::bot(slack.channel.clone().unwrap_or_default(), token),
                (None, url) => SlackConfig::webhook(url.unwrap_or_default()),
            };
            config.channel.clone_from(&slack.channel);
            config.api_url.clone_from(&slack.api_url);
            return Ok(Some(Arc::new(Slack::new(config)?)));
        }
        if let Some(alertmanager) = &self.alertmanager {
            let mut config = AlertmanagerConfig::new(&alertmanager.url);
            config.username.clone_from(&alertmanager.username);
            config.password = read(&alertmanager.password)?.map(Into::into);
            config.token = read(&alertmanager.token)?.map(Into::into);
            config.insecure_tls = alertmanager.insecure_tls;
            config.ca_path = alertmanager.ca_path.as_ref().map(|path| folder.join(path));
            return Ok(Some(Arc::new(Alertmanager::new(config)?)));
        }
        if let Some(webhook) = &self.webhook {
            let mut config = WebhookConfig::new(&webhook.url);
            config.secret = read(&webhook.secret)?.map(Into::into);
            config.ca_path = webhook.ca_path.as_ref().map(|path| folder.join(path));
            return Ok(Some(Arc::new(Webhook::new(config)?)));
        }
        Ok(None)
    }
}

/// Leads the readers of a message, wherever they are, to the journal in the cluster.
#[derive(Debug)]
struct Led {
    to: Arc<dyn Notifier>,
    /// The option that leads there.
    journal: String,
}

impl Led {
    /// The same message, whose commands about runs name the journal.
    fn led(&self, message: &Notification) -> Notification {
        let mut message = message.clone();
        let is_of_run = |command: &str| {
            let word = command.split(' ').nth(1).unwrap_or_default();
            matches!(word, "show" | "resume" | "revert" | "abandon") && !command.contains("--journal")
        };
        for command in message.next.iter_mut().filter(|command| is_of_run(command)) {
            command.push_str(&self.journal);
        }
        message
    }
}

#[async_trait]
impl Notifier for Led {
    fn name(&self) -> &str {
        self.to.name()
    }

    async fn notify<'a>(
        &'a self,
        message: &'a Notification,
        thread: Option<&'a str>,
    ) -> Result<Option<String>> {
        self.to.notify(&self.led(message), thread).await
    }

    async fn alerts<'a>(&'a self, alerts: &'a [Alert]) -> Result<()> {
        self.to.alerts(alerts).await
    }

    async fn check(&self) -> Result<Vec<String>> {
        self.to.check().await
    }
}

/// Where the reports of incidents go, and how long after one its root cause is to be known.
pub(crate) struct Incidents {
    pub(crate) folder: PathBuf,
    pub(crate) due: Option<std::time::Duration>,
}

impl Incidents {
    /// The reports of what is kept there.
    pub(crate) fn reports(self, kept: &Kept) -> IncidentFolder {
        let folder = IncidentFolder::new(self.folder, kept.journal.clone(), kept.ledger.clone());
        match self.due {
            Some(due) => folder.with_due(due),
            None => folder,
        }
    }
}

impl Runbook {
    /// Those that are told, of runs that are kept there.
    ///
    /// # Errors
    /// `InvalidConfig` for a secret that is not there, or an address that is none.
    pub(crate) fn notifiers(&self, kept: Option<&Kept>) -> Result<Vec<Arc<dyn Notifier>>> {
        let made = self.notify.iter().map(|entry| entry.notifier(self.folder()));
        let made = made.collect::<Result<Vec<_>>>()?.into_iter().flatten();
        let Some(namespace) = kept.and_then(|kept| kept.namespace.as_ref()) else {
            return Ok(made.collect());
        };
        let journal = format!(" --journal kubernetes:{namespace}");
        Ok(made.map(|to| Arc::new(Led { to, journal: journal.clone() }) as Arc<dyn Notifier>).collect())
    }

    /// Where reports go.
    pub(crate) fn incidents(&self) -> Option<Incidents> {
        let IncidentsEntry { directory, root_cause_within } = self.incidents.as_ref()?;
        Some(Incidents { folder: self.folder().join(directory), due: root_cause_within.map(|time| time.0) })
    }

    /// How the supervisor works.
    pub(crate) fn supervisor(&self, actor: String) -> Options {
        let mut options = Options::default();
        options.actor = actor;
        let given = &self.supervisor;
        let of = [
            (&mut options.observe_every, given.observe_every),
            (&mut options.soak, given.soak),
            (&mut options.settle, given.settle),
            (&mut options.blind_after, given.blind_after),
            (&mut options.repeat_alerts, given.repeat_alerts),
            (&mut options.settings.verify_timeout, given.verify_timeout),
        ];
        for (time, given) in of {
            if let Some(Time(given)) = given {
                *time = given;
            }
        }
        options
    }
}
