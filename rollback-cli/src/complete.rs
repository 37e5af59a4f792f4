//! What a shell completes beside words of the command line itself: names of components, of their revisions, of runs.
//!
//! It asks the same servers as the command that is being typed, within [`PATIENCE`]; what cannot be found out is not
//! offered, and nothing is said. Whom a runbook names that nobody has named on the line is not asked: the folder may be
//! a clone of somebody else's, and a key pressed for a hint is no consent to send credentials there.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use rollback_core::{Outcome, RunSummary, join};
use rollback_git::Repository;
use rollback_k8s::{Cluster, Workload};
use rollback_kserve::InferenceService;
use rollback_mlflow::{Registry, RegistryConfig};
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Global};
use crate::naming::{self, Named};
use crate::parts::{self, Servers, Settings};
use crate::runbook::Runbook;
use crate::session::App;
use crate::{journal, output};

/// How long somebody who pressed a key waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers a shell that asks, and ends the program then.
pub(crate) fn answer() {
    CompleteEnv::with_factory(Cli::command).complete();
}

/// The script that makes a shell ask the command of this name.
pub(crate) fn script(shell: Shell, bin: &str) -> String {
    let mut script = Vec::new();
    if let Some(shell) = Shells::builtins().completer(&shell.to_string()) {
        // Writing to memory does not fail.
        let _ = shell.write_registration("COMPLETE", bin, bin, bin, &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}

pub(crate) fn components() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        ask(async |typed| typed.components(current.to_str()?, false).await)
    })
}

/// Components, and the plans of the runbook.
pub(crate) fn components_and_plans() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        ask(async |typed| typed.components(current.to_str()?, true).await)
    })
}

pub(crate) fn revisions() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(async |typed| typed.revisions().await))
}

pub(crate) fn runs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(async |typed| typed.runs(|_| true).await))
}

pub(crate) fn unfinished_runs() -> ArgValueCandidates {
    ArgValueCandidates::new(|| ask(async |typed| typed.runs(|run| run.outcome == Outcome::Unfinished).await))
}

pub(crate) fn namespaces() -> ArgValueCandidates {
    let list = async |typed: Typed| {
        let names = typed.app.connect().await.ok()?.names("/api/v1/namespaces").await.ok()?;
        Some(names.into_iter().map(CompletionCandidate::new).collect())
    };
    ArgValueCandidates::new(move || ask(list))
}

pub(crate) fn contexts() -> ArgValueCandidates {
    let list = async |typed: Typed| {
        let names = Cluster::contexts(typed.app.global.kubeconfig.as_deref()).ok()?;
        Some(names.into_iter().map(CompletionCandidate::new).collect())
    };
    ArgValueCandidates::new(move || ask(list))
}

fn ask(list: impl AsyncFnOnce(Typed) -> Option<Vec<CompletionCandidate>>) -> Vec<CompletionCandidate> {
    let found = tokio::runtime::Builder::new_current_thread().enable_all().build().ok().and_then(|runtime| {
        let found = runtime.block_on(async {
            let list = async { list(Typed::read(std::env::args_os())?).await };
            tokio::time::timeout(PATIENCE, list).await.ok()?
        });
        // A thread that reads a repository may take longer.
        runtime.shutdown_background();
        found
    });
    found.unwrap_or_default()
}

/// What stands on the command line so far.
struct Typed {
    app: App,
    /// Offers its names, and has no say in anything else, unless it was named.
    runbook: Option<Runbook>,
    words: Vec<OsString>,
    matches: ArgMatches,
}

impl Typed {
    /// After `--`, a shell repeats what is being typed.
    fn read(args: impl Iterator<Item = OsString>) -> Option<Self> {
        let words: Vec<_> = args.skip_while(|arg| arg != "--").skip(1).collect();
        let command: Command = Cli::command().ignore_errors(true);
        let matches = command.try_get_matches_from(&words).ok()?;
        let global = Global::from_arg_matches(&matches).ok()?;
        let is_named = global.file.is_some();
        let mut app = App::silent(global, CancellationToken::new()).ok()?;
        let runbook = if is_named { None } else { app.runbook.take() };
        Some(Self { app, runbook, words, matches })
    }

    fn runbook(&self) -> Option<&Runbook> {
        self.runbook.as_ref().or(self.app.runbook.as_ref())
    }

    /// Whether runs and marks are kept where the line or the environment says, and not where a folder does.
    fn may_open_journal(&self) -> bool {
        let is_elsewhere = self.runbook.as_ref().is_some_and(|runbook| runbook.journal().is_some());
        self.app.journal_is_typed || !is_elsewhere
    }

    /// The components on the line.
    fn written(&self) -> Vec<String> {
        let Some((_, args)) = self.matches.subcommand() else { return Vec::new() };
        let of = |id| args.try_get_many::<String>(id).ok().flatten().into_iter().flatten().cloned();
        of("components").chain(of("component")).collect()
    }

    async fn components(&self, current: &str, with_plans: bool) -> Option<Vec<CompletionCandidate>> {
        if let Some((kind, rest)) = current.split_once('/') {
            let (place, namespace) = match rest.split_once('/') {
                Some((namespace, _)) => (format!("{kind}/{namespace}"), Some(namespace)),
                None => (kind.to_owned(), None),
            };
            let named = naming::type_named(kind)?;
            let place = if named == Named::Environment { kind.to_owned() } else { place };
            return Some(begin_with(current, self.names(named, namespace).await?, |name| {
                format!("{place}/{name}")
            }));
        }
        // `deployment web`, as for kubectl.
        let mut before = self.words.iter().rev().filter(|word| *word != current);
        let before = before.find_map(|word| naming::type_named(word.to_str()?));
        if let Some(named) = before {
            return Some(begin_with(current, self.names(named, None).await?, |name| name));
        }
        let mut found = Vec::new();
        if let Some(runbook) = self.runbook() {
            let own = runbook.all().iter().map(|component| component.written.clone());
            let plans = runbook.plans().filter(|_| with_plans).map(str::to_owned);
            found.extend(begin_with(current, own.chain(plans), |name| name));
        }
        let types = naming::TYPES.iter().map(|name| (*name).to_owned());
        found.extend(begin_with(current, types, |name| format!("{name}/")));
        Some(found)
    }

    /// What there is of a type.
    async fn names(&self, named: Named, namespace: Option<&str>) -> Option<Vec<String>> {
        let global = &self.app.global;
        let namespace = namespace.or(global.namespace.as_deref());
        let listed = match named {
            Named::Workload(kind) => {
                let cluster = self.app.connect().await.ok()?;
                Workload::names(&cluster, kind, namespace.unwrap_or(cluster.default_namespace())).await
            }
            Named::Service => {
                let cluster = self.app.connect().await.ok()?;
                InferenceService::names(&cluster, namespace.unwrap_or(cluster.default_namespace())).await
            }
            Named::Model => {
                let of_runbook = self.app.runbook.as_ref().and_then(Runbook::tracking_uri);
                let config = RegistryConfig::from_env(global.tracking_uri.as_deref().or(of_runbook)).ok()?;
                Registry::new(config).ok()?.model_names().await
            }
            Named::Environment => {
                let folder = global.repo.as_deref().unwrap_or(".");
                if parts::is_url(folder) {
                    return None;
                }
                Repository::local(folder).ok()?.kustomizations().await
            }
        };
        listed.ok()
    }

    /// The revisions of the one component on the line, with what they ran.
    async fn revisions(&self) -> Option<Vec<CompletionCandidate>> {
        if !self.may_open_journal() {
            return None;
        }
        let name = self.app.component(&self.written()).ok()?;
        let component =
            Servers::default().part(&self.app, &name, &Settings::default()).await.ok()?.component();
        let kept = journal::known(&self.app).await.ok()?;
        let record = kept.ledger.record(&component.realm().await.ok()?, component.id()).await.ok()?;
        let revisions = join(component.history().await.ok()?, &record);
        let others = revisions.into_iter().filter(|revision| !revision.current);
        Some(others.map(|revision| told(revision.id, &revision.summary)).collect())
    }

    async fn runs(&self, fits: impl Fn(&RunSummary) -> bool) -> Option<Vec<CompletionCandidate>> {
        if !self.may_open_journal() {
            return None;
        }
        let kept = journal::existing(&self.app).await.ok()?;
        let runs = kept.journal.runs().await.ok()?;
        let candidate = |run: &RunSummary| {
            let names: Vec<_> = run.components.iter().map(ToString::to_string).collect();
            told(run.run.to_string(), &format!("{:?} {} {}", run.outcome, run.started_at, names.join(" ")))
        };
        Some(runs.iter().filter(|run| fits(run)).map(candidate).collect())
    }
}

fn begin_with(
    current: &str,
    names: impl IntoIterator<Item = String>,
    written: impl Fn(String) -> String,
) -> Vec<CompletionCandidate> {
    let all = names.into_iter().map(written).filter(|name| name.starts_with(current));
    all.map(CompletionCandidate::new).collect()
}

fn told(name: String, help: &str) -> CompletionCandidate {
    CompletionCandidate::new(name).help(Some(output::told(help).into()))
}
