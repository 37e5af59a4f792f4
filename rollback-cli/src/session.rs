//! The cluster that a command talks to.

use std::future::Future;
use std::path::{Path, PathBuf};

use rollback_core::{Error, ErrorKind};
use rollback_k8s::{Cluster, ConnectOptions};
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::exit::Failure;
use crate::naming::{self, Component};
use crate::output;
use crate::runbook::{self, Runbook};

/// What every command knows.
pub(crate) struct App {
    pub(crate) global: Global,
    /// Cancelled by Ctrl-C.
    pub(crate) stop: CancellationToken,
    /// The runbook, where there is one.
    pub(crate) runbook: Option<Runbook>,
    /// Why the runbook that is there cannot be used: where runs are kept is not known then.
    pub(crate) broken: Option<Failure>,
    /// Whether the journal was typed, and not read in the runbook.
    pub(crate) journal_is_typed: bool,
}

impl App {
    /// With the runbook that is named, or that is there.
    pub(crate) fn new(global: Global, stop: CancellationToken) -> Result<Self, Failure> {
        Self::with(global, stop, output::say)
    }

    /// The same for a shell that completes, which has no place for warnings.
    pub(crate) fn silent(global: Global, stop: CancellationToken) -> Result<Self, Failure> {
        Self::with(global, stop, |_| ())
    }

    fn with(mut global: Global, stop: CancellationToken, say: fn(&str)) -> Result<Self, Failure> {
        let found = global.file.clone().or_else(|| {
            let path = PathBuf::from(runbook::DEFAULT);
            path.is_file().then_some(path)
        });
        let is_named = global.file.is_some();
        let found = found.filter(|path| is_named || is_trusted(path, say));
        let (runbook, broken) = match found.as_deref().map(Runbook::read) {
            None => (None, None),
            Some(Ok(runbook)) => (Some(runbook), None),
            Some(Err(failure)) if is_named => return Err(failure),
            // What is typed in full does not need it.
            Some(Err(failure)) => {
                let head = failure.lines.first().cloned().unwrap_or_else(|| failure.error.to_string());
                say(&format!("warning: {}: see `rollback check`", output::told(&head)));
                (None, Some(failure))
            }
        };
        let is_typed = global.journal.is_some();
        global.journal = global.journal.or_else(|| runbook.as_ref()?.journal());
        Ok(Self { global, stop, runbook, broken, journal_is_typed: is_typed })
    }

    /// The runbook, for what cannot be done without one: what that is.
    pub(crate) fn runbook(&self, missing: &str) -> Result<&Runbook, Failure> {
        self.runbook.as_ref().ok_or_else(|| match &self.broken {
            Some(broken) => usage(broken.error.report().message).in_lines(broken.lines.clone()),
            None => usage(format!("{missing}: name one with -f")),
        })
    }

    /// Waits for something that changes nothing, or until Ctrl-C.
    pub(crate) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Failure::interrupted()),
        }
    }

    /// The components that were typed.
    pub(crate) fn components(&self, words: &[String]) -> Result<Vec<Component>, Failure> {
        let names = naming::parse_all(words, self.runbook.as_ref()).map_err(Failure::setup)?;
        for Component { written, namespace, .. } in &names {
            self.check_namespace(written, namespace.as_deref())?;
        }
        Ok(names)
    }

    /// The one component that was typed.
    pub(crate) fn component(&self, words: &[String]) -> Result<Component, Failure> {
        match <[Component; 1]>::try_from(self.components(words)?) {
            Ok([name]) => Ok(name),
            Err(_) => Err(usage("this command takes one component")),
        }
    }

    /// Refuses a namespace that contradicts `-n`.
    pub(crate) fn check_namespace(&self, written: &str, own: Option<&str>) -> Result<(), Failure> {
        naming::check_namespace(written, own, self.global.namespace.as_deref()).map_err(Failure::setup)
    }

    /// Connects, without making a request.
    pub(crate) async fn connect(&self) -> Result<Cluster, Failure> {
        let Global { kubeconfig, context, .. } = self.global.clone();
        Cluster::connect(ConnectOptions { kubeconfig, context }).await.map_err(Failure::setup)
    }

    /// The option that leads another command to the same runbook, where it was named.
    pub(crate) fn file_flag(&self) -> String {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let file = self.global.file.as_ref().map(|path| absolute(path).display().to_string());
        file.map(|file| format!(" --file {}", quoted(&file))).unwrap_or_default()
    }

    /// The options that lead another command to the same cluster.
    pub(crate) fn connection_flags(&self) -> String {
        let kubeconfig = self.global.kubeconfig.as_ref().map(|path| path.display().to_string());
        let of_runbook = self.runbook.as_ref().and_then(Runbook::tracking_uri).map(str::to_owned);
        let options = [
            ("--kubeconfig", kubeconfig.as_ref()),
            ("--context", self.global.context.as_ref()),
            ("--repo", self.global.repo.as_ref()),
            ("--tracking-uri", self.global.tracking_uri.as_ref().or(of_runbook.as_ref())),
        ];
        let rest =
            options.iter().filter_map(|(flag, value)| Some(format!(" {flag} {}", quoted(value.as_ref()?))));
        std::iter::once(self.file_flag()).chain(rest).collect()
    }
}

/// Whether a file that nobody named may decide where to connect: it is the user's or the system's own, and nobody else
/// can write it.
pub(crate) fn is_trusted(path: &Path, say: fn(&str)) -> bool {
    #[cfg(unix)]
    let is_safe = std::fs::metadata(path).is_ok_and(|data| {
        use std::os::unix::fs::MetadataExt as _;
        [0, rustix::process::geteuid().as_raw()].contains(&data.uid()) && data.mode() & 0o002 == 0
    });
    // Elsewhere permissions are not told by a mode.
    #[cfg(not(unix))]
    let is_safe = true;
    if !is_safe {
        say(&format!(
            "warning: {} belongs to somebody else or can be written by anybody, and is not used; name it with -f to use it",
            path.display()
        ));
    }
    is_safe
}

/// A usage error.
pub(crate) fn usage(message: impl Into<String>) -> Failure {
    Failure::setup(Error::new(ErrorKind::InvalidConfig, message))
}

/// Text as one word of a shell command.
pub(crate) fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Who acts, for the record.
pub(crate) fn actor() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME")).or_else(|| variable("USERNAME"));
    let host = variable("HOSTNAME").or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    actor_of(user.as_deref(), host.as_deref())
}

fn actor_of(user: Option<&str>, host: Option<&str>) -> String {
    let user = user.unwrap_or("unknown");
    match host.map(str::trim).filter(|host| !host.is_empty()) {
        Some(host) => format!("{user}@{host}"),
        None => user.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Format;

    #[test]
    fn another_command_is_led_to_the_same_cluster() {
        let global = Global {
            namespace: Some("shop".into()),
            context: Some("kind a".into()),
            kubeconfig: Some("/tmp/k".into()),
            output: Format::Table,
            journal: None,
            stage: None,
            alias: None,
            tracking_uri: None,
            quiet: false,
            file: None,
            repo: None,
        };
        let app = App {
            global,
            stop: CancellationToken::new(),
            runbook: None,
            broken: None,
            journal_is_typed: false,
        };
        assert_eq!(app.connection_flags(), " --kubeconfig /tmp/k --context 'kind a'");
    }

    #[test]
    fn a_quoted_word_stays_one_word() {
        assert_eq!(quoted("arn:aws:eks/x@y"), "arn:aws:eks/x@y");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }

    #[test]
    fn an_actor_is_a_user_at_a_host() {
        assert_eq!(actor_of(Some("ann"), Some("laptop\n")), "ann@laptop");
        assert_eq!(actor_of(None, Some("")), "unknown");
    }
}
