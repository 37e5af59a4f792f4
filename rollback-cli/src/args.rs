//! What is typed.

mod choices;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use rollback_core::{Clock as _, Error, ErrorKind, SystemClock, Timestamp};
use rollback_git::Pick;

use crate::complete;
use crate::exit::Failure;
use crate::runbook;

pub(crate) use choices::{
    Artifacts, Compat, Conflicts, DryRun, Format, GitOps, GoodOrBad, OnFailure, ReportFormat,
};

#[derive(Debug, Parser)]
#[command(
    name = "rollback",
    version,
    about = "Returns Kubernetes workloads, InferenceServices, MLflow models and git-pinned environments to an earlier revision: \
             shows what will change, asks, changes it, and watches until it has settled",
    max_term_width = 100,
    after_help = "In an emergency:
  rollback undo deployment/web -n shop        to the revision before the current one
  rollback history deployment/web -n shop     which revisions there are
  rollback status deployment/web -n shop      is it settled?
  rollback resume                             goes on with a run that was interrupted
  rollback revert RUN                         takes back what a run changed; rollback runs lists them

Exit codes: 0 done or nothing to do; 1 refused, failed or answered no, nothing was changed;
2 usage, configuration or connection; 3 changed and reversed again; 4 changed and not in a good
state, the message says what to do next; 130 interrupted, and can be resumed."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Namespace of components written as TYPE/NAME [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAMESPACE", add = complete::namespaces(), help_heading = "Connection and output")]
    pub(crate) namespace: Option<String>,
    /// The runbook, whose components and plans are known by their names [default: rollback.yaml where it is there]
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) file: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true, value_name = "CONTEXT", add = complete::contexts(), help_heading = "Connection and output")]
    pub(crate) context: Option<String>,
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection and output")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How to print the result
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Connection and output"
    )]
    pub(crate) output: Format,
    #[arg(
        long,
        global = true,
        value_name = "PATH|kubernetes|memory",
        help_heading = "Connection and output",
        help = "Where runs and marks are kept: a file, `kubernetes:NAMESPACE` for the cluster, or `memory` for \
                nowhere, and every event is printed on stderr [default: $ROLLBACK_JOURNAL, else \
                rollback/rollback.db in $XDG_STATE_HOME or ~/.local/state]"
    )]
    pub(crate) journal: Option<PathBuf>,
    /// Stage of components written as model/NAME [default: Production]
    #[arg(long, global = true, value_name = "STAGE", conflicts_with = "alias", help_heading = "Models")]
    pub(crate) stage: Option<String>,
    /// Alias of components written as model/NAME, in place of a stage
    #[arg(long, global = true, value_name = "ALIAS", help_heading = "Models")]
    pub(crate) alias: Option<String>,
    #[arg(
        long,
        global = true,
        value_name = "URI",
        help_heading = "Models",
        help = "MLflow tracking server [default: $MLFLOW_TRACKING_URI]; credentials as MLflow's own clients take them"
    )]
    pub(crate) tracking_uri: Option<String>,
    /// The repository of an environment: a folder of it, or a URL, which is fetched [default: the runbook's, else .]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Environments")]
    pub(crate) repo: Option<String>,
    /// No progress on stderr
    #[arg(short, long, global = true, help_heading = "Connection and output")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists the revisions of a component, newest first
    #[command(after_help = "Example:
  rollback history deployment/web -n shop")]
    History(HistoryArgs),
    /// Shows what an undo would change, and changes nothing
    #[command(after_help = "Examples:
  rollback plan deployment/web -n shop
  rollback plan deploy/web sts/db -n shop --to-revision deploy/web=3
  rollback plan deployment/web --out plan.json    then: rollback undo --plan plan.json")]
    Plan(PlanArgs),
    /// Returns components to an earlier revision, and watches until they have settled
    #[command(after_help = "Examples:
  rollback undo deployment/web -n shop                    to the revision before the current one
  rollback undo deployment/web -n shop --to-revision 3    to revision 3
  rollback undo model/baseline --to-revision 4            version 4 of a model to Production
  rollback undo model/baseline --alias champion           an alias to the version before
  rollback undo --plan plan.json --yes                    exactly what was planned")]
    Undo(UndoArgs),
    /// Tells whether a rollout is done
    #[command(after_help = "Examples:
  rollback status deployment/web -n shop
  rollback status deployment/web -n shop --watch --timeout 5m    exit code 1 unless it settles
  rollback status -f rollback.yaml                               all components of the runbook")]
    Status(StatusArgs),
    /// Restarts the pods of a component that are not ready, one at a time, or all of them
    #[command(after_help = "Examples:
  rollback restart deployment/web -n shop          the pods that are not ready
  rollback restart deployment/web -n shop --all    all pods, as a rollout")]
    Restart(RestartArgs),
    /// Takes back what a run changed, as a new run
    #[command(after_help = "Examples:
  rollback revert 0199f3c2-6e0f-7a41-9d53-0c5f0f6f4d11    shows what will change, and asks
  rollback revert 0f6f4d11 --yes                          the beginning or the end of its id will do")]
    Revert(RevertArgs),
    /// Lists the runs that the journal holds, newest first
    #[command(after_help = "Examples:
  rollback runs
  rollback runs -o json")]
    Runs,
    /// Shows one run: how each of its steps went, and what comes next
    #[command(after_help = "Example:
  rollback show 0199f3c2-6e0f-7a41-9d53-0c5f0f6f4d11")]
    Show(ShowArgs),
    /// Goes on with an unfinished run, in the cluster where it began; nothing is done twice
    #[command(after_help = "Examples:
  rollback resume                                         the only unfinished run
  rollback resume 0199f3c2-6e0f-7a41-9d53-0c5f0f6f4d11    this one")]
    Resume(ResumeArgs),
    /// Closes an unfinished run as it stands; nothing is changed back
    #[command(after_help = "Example:
  rollback abandon 0199f3c2-6e0f-7a41-9d53-0c5f0f6f4d11 --reason 'mended by hand'")]
    Abandon(AbandonArgs),
    /// Marks a revision good or bad: --last-good returns to the newest good one, and none returns to a bad one
    #[command(after_help = "Examples:
  rollback mark deployment/web -n shop --revision 7 good
  rollback mark deployment/web -n shop --revision 8 bad --reason 'leaks memory'")]
    Mark(MarkArgs),
    /// Records the revision in place and its whole state, such as at the end of a deployment pipeline: it can be
    /// returned to also once the cluster has forgotten it
    #[command(after_help = "Example:
  rollback record deployment/web -n shop")]
    Record(RecordArgs),
    /// Watches what the policies of the runbook say, and acts as they say, until it is stopped
    #[command(after_help = "Examples:
  rollback watch -f rollback.yaml --observe                 says what it would do, and writes nothing
  rollback watch -f rollback.yaml --listen 0.0.0.0:8080     with /healthz, /readyz and /metrics")]
    Watch(WatchArgs),
    /// Lists what changed lately, over all components of the runbook, and which policies are beyond their limits
    #[command(after_help = "Example:
  rollback changes --since 2h")]
    Changes(ChangesArgs),
    /// Keeps automation from doing anything with a component, or with all; it goes on to observe and to tell
    #[command(after_help = "Examples:
  rollback hold inference-service --for 1h --reason 'deploying a fix by hand'
  rollback hold --all --for 30m --reason 'network maintenance'")]
    Hold(HoldArgs),
    /// Lets automation act again
    #[command(after_help = "Example:
  rollback unhold inference-service")]
    Unhold(UnholdArgs),
    /// Lists what is held
    #[command(after_help = "Example:
  rollback holds -o json")]
    Holds,
    /// Prints the incident report of a run, by hand or automatic
    #[command(after_help = "Examples:
  rollback report 0199f3c2-6e0f-7a41-9d53-0c5f0f6f4d11
  rollback report 0f6f4d11 --format html > incident.html")]
    Report(ReportArgs),
    /// Checks the runbook before it is needed: components, rights, something to return to, metrics, who is told
    #[command(after_help = "Examples:
  rollback check -f rollback.yaml
  rollback check --notify    also sends a test message")]
    Check(CheckArgs),
    /// Prints what a cluster needs for runs to be kept in it
    #[command(after_help = "Example:
  rollback crd | kubectl apply -f -")]
    Crd,
    /// Prints the JSON Schema of the runbook, by which editors complete and check it
    #[command(after_help = "Example:
  rollback schema > runbook.schema.json")]
    Schema,
    /// Prints the completion script of a shell
    #[command(after_help = "Example:
  source <(rollback completions bash)    at the start of each shell: the script belongs to this version")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", required = true, num_args = 1..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", required = true, add = complete::components_and_plans())]
    pub(crate) components: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Keep the plan in this new file, for `rollback undo --plan`. It holds the pod templates as they are
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", required_unless_present = "plan", add = complete::components_and_plans())]
    pub(crate) components: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Carry out exactly the plan that `rollback plan --out` kept
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all =
            ["components", "to_revision", "last_good", "as_of", "compat", "declarative", "gitops", "uri_only", "artifact_check",
             "force", "on_failure", "to_path", "prune", "include_crds", "only", "exclude", "replace", "conflicts"]
    )]
    pub(crate) plan: Option<PathBuf>,
    /// Stop after the server accepted a dry run; nothing is changed
    #[arg(long, value_name = "WHERE")]
    pub(crate) dry_run: Option<DryRun>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) why: WhyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<String>,
    /// The incident that it belongs to, put on record before the reason
    #[arg(long, value_name = "ID", value_parser = reason)]
    pub(crate) incident: Option<String>,
    /// Go on although another run holds the component, or nobody can tell who does; put on record with the reason
    #[arg(long, requires = "reason")]
    pub(crate) break_lease: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MarkArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", add = complete::components())]
    pub(crate) component: String,
    /// Which revision, as `rollback history` lists it
    #[arg(long, value_name = "R", add = complete::revisions())]
    pub(crate) revision: String,
    /// What it is
    pub(crate) mark: GoodOrBad,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RecordArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", required = true, num_args = 1..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct TargetArgs {
    /// Return to revision R; 0 is the previous one, `none` empties the stage of a model. With several components:
    /// NAME=R, may be repeated
    #[arg(long, value_name = "[NAME=]R", add = complete::revisions(), allow_negative_numbers = true)]
    pub(crate) to_revision: Vec<String>,
    /// Return to the newest revision marked good that is not in place
    #[arg(long, conflicts_with = "to_revision")]
    pub(crate) last_good: bool,
    /// Return to what was in place at this time, such as 2026-11-23T03:00:00Z, or so long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["to_revision", "last_good"])]
    pub(crate) as_of: Option<Timestamp>,
    /// What to do once a component has failed [default: as the runbook says, else halt]
    #[arg(long, value_name = "POLICY")]
    pub(crate) on_failure: Option<OnFailure>,
    /// Go on past a refusal that names this option, such as a revision marked bad or a missing ConfigMap
    #[arg(long)]
    pub(crate) force: bool,
    /// What to do where the artifact store of a model cannot be asked; an absent artifact is refused
    #[arg(long, value_name = "POLICY", default_value = "warn")]
    pub(crate) artifact_check: Artifacts,
    /// Of an InferenceService, move the model alone: a patch of its URI with a test of the old value
    #[arg(long)]
    pub(crate) uri_only: bool,
    /// What to do with an object that Argo CD, Flux or the like would take back
    #[arg(long, value_name = "POLICY", default_value = "refuse")]
    pub(crate) gitops: GitOps,
    /// Of an environment, return to this other folder of the repository
    #[arg(long, value_name = "DIR")]
    pub(crate) to_path: Option<PathBuf>,
    /// Of an environment, delete what the target does not have, last and only once the rest has settled
    #[arg(long)]
    pub(crate) prune: bool,
    /// Of an environment, also take back definitions of custom resources, with what that may mean for their objects
    #[arg(long)]
    pub(crate) include_crds: bool,
    /// Of an environment, return these objects alone: KIND/NAME or LABEL=VALUE; may be repeated
    #[arg(long, value_name = "PICK")]
    pub(crate) only: Vec<Pick>,
    /// Of an environment, leave these objects as they are: KIND/NAME or LABEL=VALUE; may be repeated
    #[arg(long, value_name = "PICK")]
    pub(crate) exclude: Vec<Pick>,
    /// Of an environment, delete and create again these objects where the server refuses to change them: KIND/NAME or
    /// LABEL=VALUE; may be repeated
    #[arg(long, value_name = "PICK")]
    pub(crate) replace: Vec<Pick>,
    /// Of an environment, what to do with fields that somebody else owns
    #[arg(long, value_name = "POLICY", default_value = "keep")]
    pub(crate) conflicts: Conflicts,
    /// Also move the last-applied annotation, so that the next `kubectl apply` removes what it should
    #[arg(long)]
    pub(crate) declarative: bool,
    /// Leave the object exactly as this tool's undo does
    #[arg(long, value_name = "TOOL")]
    pub(crate) compat: Option<Compat>,
}

impl TargetArgs {
    /// Whether something is asked for that only environments have.
    pub(crate) fn is_of_environments(&self) -> bool {
        self.to_path.is_some()
            || self.prune
            || self.include_crds
            || !self.only.is_empty()
            || !self.exclude.is_empty()
            || !self.replace.is_empty()
            || self.conflicts != Conflicts::Keep
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Ask nothing; needed where stdin is no terminal
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// How long each component may take to settle, such as 30s, 5m or 1h
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Return once the change is made, without watching it settle
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Tell nobody, where the runbook says who is told
    #[arg(long)]
    pub(crate) no_notify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a
    /// name of the runbook [default: all components of the runbook]
    #[arg(value_name = "COMPONENT", num_args = 0..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
    /// Watch until it has settled or failed
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How long to watch, such as 30s, 5m or 1h [default: 10m]
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME, such as deployment/web, sts/db, isvc/baseline, model/baseline or env/PATH; or a name of the runbook
    #[arg(value_name = "COMPONENT", required = true, num_args = 1..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
    /// All pods, as a rollout, and not only those that are not ready
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) why: WhyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The id of the run; its beginning or its end will do
    #[arg(value_name = "RUN", add = complete::runs())]
    pub(crate) run: String,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The id of the run; its beginning or its end will do [default: the only unfinished one]
    #[arg(value_name = "RUN", add = complete::unfinished_runs())]
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) why: WhyArgs,
    /// Tell nobody, where the runbook says who is told
    #[arg(long)]
    pub(crate) no_notify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AbandonArgs {
    /// The id of the run; its beginning or its end will do
    #[arg(value_name = "RUN", add = complete::unfinished_runs())]
    pub(crate) run: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
    /// Tell nobody, where the runbook says who is told
    #[arg(long)]
    pub(crate) no_notify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RevertArgs {
    /// The id of the run; its beginning or its end will do
    #[arg(value_name = "RUN", add = complete::runs())]
    pub(crate) id: String,
    /// What to do once a component has failed
    #[arg(long, value_name = "POLICY", default_value = "halt")]
    pub(crate) on_failure: OnFailure,
    /// Stop after the server accepted a dry run; nothing is changed
    #[arg(long, value_name = "WHERE")]
    pub(crate) dry_run: Option<DryRun>,
    /// Go back also to a revision that is marked bad, or past a refusal that names this option
    #[arg(long)]
    pub(crate) force: bool,
    /// What to do with an object that Argo CD, Flux or the like would take back
    #[arg(long, value_name = "POLICY", default_value = "refuse")]
    pub(crate) gitops: GitOps,
    /// What to do where the artifact store of a model cannot be asked; an absent artifact is refused
    #[arg(long, value_name = "POLICY", default_value = "warn")]
    pub(crate) artifact_check: Artifacts,
    #[command(flatten)]
    pub(crate) implied: ImpliedArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) why: WhyArgs,
}

/// The options of an undo of which a revert has none to choose: it puts back exactly what the run changed, in the way in
/// which the run changed it.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct ImpliedArgs {
    #[arg(long, hide = true)]
    compat: Option<Compat>,
    #[arg(long, hide = true)]
    declarative: bool,
    #[arg(long, hide = true)]
    prune: bool,
    #[arg(long, hide = true)]
    include_crds: bool,
    #[arg(long, hide = true)]
    uri_only: bool,
    #[arg(long, hide = true)]
    only: Vec<Pick>,
    #[arg(long, hide = true)]
    exclude: Vec<Pick>,
}

impl ImpliedArgs {
    /// Those that are given and change nothing.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--compat", self.compat.is_some()),
            ("--declarative", self.declarative),
            ("--prune", self.prune),
            ("--include-crds", self.include_crds),
            ("--uri-only", self.uri_only),
        ];
        all.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }

    /// Whether a part of what the run changed is asked for.
    pub(crate) fn is_partial(&self) -> bool {
        !self.only.is_empty() || !self.exclude.is_empty()
    }
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only say what would be done; nothing is written, in the ledger neither, and nobody is told
    #[arg(long)]
    pub(crate) observe: bool,
    /// Serve /healthz, /readyz and /metrics at this address, such as 127.0.0.1:8080, or :8080 for every IPv4 address
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// How far back, such as 30m or 2h
    #[arg(long, value_name = "DURATION", default_value = "2h", value_parser = duration)]
    pub(crate) since: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME; or a name of the runbook
    #[arg(value_name = "COMPONENT", required_unless_present = "all", num_args = 1..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
    /// All components
    #[arg(long, conflicts_with = "component")]
    pub(crate) all: bool,
    /// For how long, such as 30m or 1h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub(crate) r#for: Duration,
    /// Why, for the others
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct UnholdArgs {
    /// TYPE/NAME or TYPE/NAMESPACE/NAME; or a name of the runbook
    #[arg(value_name = "COMPONENT", required_unless_present = "all", num_args = 1..=2, add = complete::components())]
    pub(crate) component: Vec<String>,
    /// All components
    #[arg(long, conflicts_with = "component")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The id of the run; its beginning or its end will do
    #[arg(value_name = "RUN", add = complete::runs())]
    pub(crate) run: String,
    /// In which form [default: markdown, or json with -o json]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<ReportFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Also send a test message to everybody who is told
    #[arg(long)]
    pub(crate) notify: bool,
}

/// The longest time that may be asked for; beyond, somebody mistyped.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads why: something has to be said.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("it is empty: say why, for the record".into()) } else { Ok(text.to_owned()) }
}

/// Reads a time, or how long ago it was.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Some(ago) = runbook::time(text) {
        return Ok(SystemClock.now().saturating_sub(ago));
    }
    text.parse().map_err(|_| {
        "write it in UTC, as 2026-11-23T03:00:00Z, with an offset, as 2026-11-23T04:00:00+01:00, or how long ago, as 2h"
            .into()
    })
}

/// Reads an address; without a host it is 0.0.0.0.
fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    whole.parse().map_err(|_| "write it as 127.0.0.1:8080, [::]:8080 or :8080".into())
}

/// Reads a duration as people write it: `30s`, `5m`, `1h30m`, `1d12h`.
fn duration(text: &str) -> Result<Duration, String> {
    match runbook::time(text) {
        Some(time) if time.is_zero() => Err("it must be longer than no time".into()),
        Some(time) if time > LONGEST => Err("it must be at most 720h".into()),
        Some(time) => Ok(time),
        None => Err("write it as 30s, 5m or 1h".into()),
    }
}

/// The command line under the name by which it was called: kubectl calls plugins, and people call kubectl.
pub(crate) fn command(called: Option<OsString>) -> clap::Command {
    let is_plugin =
        called.is_some_and(|path| Path::new(&path).file_stem() == Some("kubectl-rollback".as_ref()));
    let command = Cli::command();
    if is_plugin { command.bin_name("kubectl rollback") } else { command }
}

/// Whether JSON is asked for, also where the rest cannot be parsed.
pub(crate) fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let mut last_is_flag = false;
    for arg in args.take_while(|arg| arg != "--") {
        // Flags without a value may stand before one with a value: -qo json.
        let short = arg.strip_prefix('-').map(|flags| flags.trim_start_matches(['q', 'w', 'y']));
        if matches!(short, Some("ojson" | "o=json"))
            || arg == "--output=json"
            || (last_is_flag && arg == "json")
        {
            return true;
        }
        last_is_flag = short == Some("o") || arg == "--output";
    }
    false
}

/// A usage error as data: its first paragraph, without the usage that clap adds for people.
pub(crate) fn as_failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let message = paragraph.trim().trim_start_matches("error: ").replace('\n', " ");
    Failure::setup(Error::new(ErrorKind::InvalidConfig, message).with_hint("see rollback --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(text.starts_with("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        assert_eq!(["30s", "5m", "1h", "1h30m"].map(seconds), [Some(30), Some(300), Some(3600), Some(5400)]);
        assert_eq!(["2d", "1d12h", "1d 30m"].map(seconds), [Some(172_800), Some(129_600), Some(88_200)]);
        for bad in [
            "",
            "0s",
            "0d",
            "d",
            "1dx",
            "40d",
            "5",
            "-5m",
            "5m ago",
            "soon",
            "9999999h",
            "99999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kept_plan_needs_no_component_and_takes_no_target() {
        assert!(parse("rollback undo --plan p.json --yes").is_ok());
        assert!(parse("rollback undo").is_err());
        assert!(parse("rollback undo deploy/web --plan p.json").is_err());
        assert!(parse("rollback undo --plan p.json --to-revision 3").is_err());
        assert!(parse("rollback undo --plan p.json --force").is_err());
    }

    #[test]
    fn a_negative_revision_reaches_our_own_error() {
        let Ok(Cli { command: Command::Undo(undo), .. }) = parse("rollback undo deploy/web --to-revision -1")
        else {
            panic!("not an undo");
        };
        assert_eq!(undo.target.to_revision, ["-1"]);
    }

    #[test]
    fn json_is_recognized_before_anything_is_parsed() {
        let wants = |line: &str| wants_json(line.split_whitespace().map(str::to_owned));
        for line in [
            "rollback -o json x",
            "rollback x -ojson",
            "rollback --output=json",
            "rollback -o=json",
            "rollback -qo json",
            "rollback x -wqojson",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in ["rollback json", "rollback -o yaml json", "rollback -- -ojson"] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn an_address_without_a_host_is_every_one_of_version_4() {
        assert_eq!(address(":8080").unwrap().to_string(), "0.0.0.0:8080");
        assert_eq!(address("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(address("8080").is_err() && address("host:80").is_err());
    }

    #[test]
    fn a_usage_error_becomes_one_line() {
        let failure = as_failure(&parse("rollback undo deploy/web --timeout soon").unwrap_err());
        let message = failure.error.to_string();
        assert!(message.contains("--timeout") && message.contains("write it as 30s"), "{message}");
        assert!(!message.contains('\n') && !message.starts_with("error"), "{message}");
    }
}
