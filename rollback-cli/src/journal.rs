//! Where runs are kept, and how one of them is found there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollback_core::{
    Error, ErrorKind, Journal, Ledger, MemoryJournal, Outcome, RunId, RunState, RunSummary, SqliteJournal,
    Step,
};
use rollback_k8s::KubernetesJournal;

use crate::args::Format;
use crate::commands::Way;
use crate::exit::Failure;
use crate::output;
use crate::parts::Part;
use crate::session::{self, App};

const ELSEWHERE: &str = "record elsewhere with `--journal PATH`, or nowhere with `--journal memory`";

/// Where a journal in the cluster is, unless another namespace is named.
const NAMESPACE: &str = "rollback-system";

/// The journal and ledger that a command uses.
pub(crate) struct Kept {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Whether they outlive the process.
    pub(crate) durable: bool,
    /// Where they are, where that is not what the command was told.
    pub(crate) instead: Option<PathBuf>,
    /// Whether they are in the cluster, where every run of one component is known to all.
    pub(crate) in_cluster: bool,
    /// The namespace there.
    pub(crate) namespace: Option<String>,
}

/// Where runs are to be kept.
#[derive(Debug, PartialEq, Eq)]
enum Where {
    Nowhere,
    File(PathBuf),
    /// In this namespace of the cluster.
    Cluster(String),
}

/// The journal for a run that is about to begin. What cannot be kept in the cluster is kept on this machine: an
/// emergency is no time to refuse.
pub(crate) async fn open(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::Nowhere => Ok(Kept::nowhere()),
        Where::File(path) => {
            if app.journal_is_typed && !app.global.quiet && !path.try_exists().unwrap_or(true) {
                output::say(&format!("this is the first run that is kept in {}", path.display()));
            }
            at(&path)
        }
        Where::Cluster(namespace) => {
            let failure = match in_cluster(app, &namespace).await {
                Ok(kept) => return Ok(kept),
                Err(failure) => failure,
            };
            let Some(Where::File(path)) = by_default() else { return Err(failure) };
            output::say(&format!(
                "warning: this run is kept in {} on this machine: {}",
                path.display(),
                output::told(&failure.error.report().message)
            ));
            Ok(Kept { instead: Some(path.clone()), ..at(&path)? })
        }
    }
}

/// The journal of runs that were: one that is not there yet holds none, and is not made.
pub(crate) async fn existing(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::Nowhere => Err(session::usage("a journal in memory holds no run of another command")),
        Where::Cluster(namespace) => in_cluster(app, &namespace).await,
        // What cannot even be looked for is told by the attempt to open it.
        Where::File(path) if path.try_exists().unwrap_or(true) => at(&path),
        Where::File(path) if app.journal_is_typed => {
            Err(session::usage(format!("there is no journal {}", path.display())))
        }
        Where::File(path) => {
            if !app.global.quiet && app.global.output == Format::Table {
                output::say(&format!("no run was kept in {} yet: there is no such file", path.display()));
            }
            Ok(Kept::nowhere())
        }
    }
}

/// What is known of components, for a command that only reads: as far as there is a ledger.
pub(crate) async fn known(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::File(path) if !path.try_exists().unwrap_or(true) => Ok(Kept::nowhere()),
        Where::Nowhere => Ok(Kept::nowhere()),
        _ => existing(app).await,
    }
}

/// Where marks are kept for longer than this command.
pub(crate) async fn lasting(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::Nowhere => {
            Err(session::usage("what is kept in memory is forgotten at once: name a --journal"))
        }
        Where::File(path) => at(&path),
        Where::Cluster(namespace) => in_cluster(app, &namespace).await,
    }
}

/// The file that runs are kept in, where it is one.
pub(crate) fn file(app: &App) -> Option<PathBuf> {
    match find_out(app) {
        Ok(Where::File(path)) => Some(path),
        Ok(Where::Nowhere | Where::Cluster(_)) | Err(_) => None,
    }
}

async fn in_cluster(app: &App, namespace: &str) -> Result<Kept, Failure> {
    let cluster = app.connect().await?;
    let mut journal = KubernetesJournal::new(&cluster, namespace, session::actor());
    if !app.global.quiet {
        journal = journal.with_waiting(Arc::new(|text| output::say(&output::told(&text))));
    }
    app.until_stopped(async { journal.check().await.map_err(unusable) }).await?;
    let journal = Arc::new(journal);
    Ok(Kept {
        journal: journal.clone(),
        ledger: journal,
        durable: true,
        instead: None,
        in_cluster: true,
        namespace: Some(namespace.to_owned()),
    })
}

fn find_out(app: &App) -> Result<Where, Failure> {
    if let (None, Some(broken)) = (&app.global.journal, &app.broken) {
        let message = format!("where runs are kept is not known: {}", broken.error.report().message);
        return Err(Failure::setup(Error::new(ErrorKind::InvalidConfig, message).with_hint(ELSEWHERE)));
    }
    let asked = app.global.journal.clone().map(PathBuf::into_os_string);
    let asked = asked.or_else(|| variable("ROLLBACK_JOURNAL"));
    asked.map(named).or_else(by_default).ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidConfig, "no folder is known to keep runs in");
        Failure::setup(error.with_hint(ELSEWHERE))
    })
}

/// The folder for what this user keeps on this machine.
pub(crate) fn state_folder() -> Option<PathBuf> {
    folder(variable("XDG_STATE_HOME"), std::env::home_dir())
}

fn by_default() -> Option<Where> {
    Some(Where::File(state_folder()?.join("rollback.db")))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn named(asked: OsString) -> Where {
    match asked.to_str() {
        Some("memory") => Where::Nowhere,
        Some("kubernetes") => Where::Cluster(NAMESPACE.to_owned()),
        text => match text.and_then(|text| text.strip_prefix("kubernetes:")) {
            Some(namespace) => Where::Cluster(namespace.to_owned()),
            None => Where::File(asked.into()),
        },
    }
}

fn folder(state: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG specification has relative paths ignored.
    let state = state.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(home?.join(".local/state")).filter(|path| path.is_absolute()))?;
    Some(state.join("rollback"))
}

fn at(path: &Path) -> Result<Kept, Failure> {
    let journal = Arc::new(SqliteJournal::open(path).map_err(unusable)?);
    Ok(Kept {
        journal: journal.clone(),
        ledger: journal,
        durable: true,
        instead: None,
        in_cluster: false,
        namespace: None,
    })
}

/// A journal that fails before a run began is a matter of set-up.
pub(crate) fn unusable(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Journal if error.hint().is_none() => Failure::setup(error.with_hint(ELSEWHERE)),
        ErrorKind::Journal => Failure::setup(error),
        _ => error.into(),
    }
}

/// Why nothing else may be done meanwhile, and what to do about it.
pub(crate) fn in_the_way(run: RunId, way: &Way) -> Error {
    let [resume, abandon] = way.open(run);
    let error = Error::new(ErrorKind::Refused, format!("run {run} is unfinished"));
    error.with_hint(format!("first finish it with `{resume}`, or close it with `{abandon}`"))
}

/// Why a run does not go on.
pub(crate) fn ended(run: RunId, outcome: Outcome) -> Failure {
    let error = Error::new(ErrorKind::Refused, format!("run {run} has ended: {outcome:?}"));
    error.with_hint(format!("see how with: rollback show {run}")).into()
}

impl Kept {
    fn nowhere() -> Self {
        let journal = Arc::new(MemoryJournal::new());
        Self {
            journal: journal.clone(),
            ledger: journal,
            durable: false,
            instead: None,
            in_cluster: false,
            namespace: None,
        }
    }

    /// The run of this id, or of an id that begins or ends so.
    pub(crate) async fn find(&self, written: &str) -> Result<(RunId, RunState), Failure> {
        let runs = self.journal.runs().await.map_err(unusable)?;
        self.state(pick(&runs, written)?).await
    }

    /// The one run that can go on.
    pub(crate) async fn only_unfinished(&self) -> Result<(RunId, RunState), Failure> {
        let runs = self.journal.runs().await.map_err(unusable)?;
        let open: Vec<_> = runs.iter().filter(|run| run.outcome == Outcome::Unfinished).collect();
        match open.as_slice() {
            [one] => self.state(one.run).await,
            [] => {
                let error = Error::new(ErrorKind::NotFound, "no run is unfinished");
                Err(error.with_hint("list all with: rollback runs").into())
            }
            several => Err(session::usage(format!("several runs are unfinished: {}", listed(several)))),
        }
    }

    /// Refuses while an unfinished run touches one of these: it comes first. The engine refuses as well, but
    /// only once it is planned, and what that run left may allow no plan.
    pub(crate) async fn check_free(&self, app: &App, parts: &[Part]) -> Result<(), Failure> {
        let runs = self.journal.runs().await.map_err(unusable)?;
        for run in runs.iter().filter(|run| run.outcome == Outcome::Unfinished) {
            for part in parts.iter().filter(|part| run.components.contains(part.id())) {
                let (run, state) = self.state(run.run).await?;
                // The same name elsewhere is another component.
                let realm = part.component().realm().await?;
                let same = |step: &Step| step.change.component == *part.id() && step.change.realm == realm;
                if state.plan.steps().iter().any(same) {
                    return Err(in_the_way(run, &Way::kept(app, self, "")).with_component(part.id()).into());
                }
            }
        }
        Ok(())
    }

    async fn state(&self, run: RunId) -> Result<(RunId, RunState), Failure> {
        let entries = self.journal.entries(run).await.map_err(unusable)?;
        Ok((run, RunState::replay(&entries)?))
    }
}

fn pick(runs: &[RunSummary], written: &str) -> Result<RunId, Failure> {
    let wanted = written.to_ascii_lowercase();
    let is_meant = |run: &&RunSummary| {
        let id = run.run.to_string();
        id.starts_with(&wanted) || id.ends_with(&wanted)
    };
    let meant: Vec<_> = runs.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [one] => Ok(one.run),
        [] => {
            let error = Error::new(ErrorKind::NotFound, format!("the journal holds no run {written:?}"));
            Err(error.with_hint("list all with: rollback runs").into())
        }
        several => {
            let message = format!("{written:?} may be any of several runs: {}", listed(several));
            Err(session::usage(message))
        }
    }
}

/// Runs in one line, for people; of very many the first few.
fn listed(runs: &[&RunSummary]) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<_> = runs.iter().take(SHOWN).map(|run| run.run.to_string()).collect();
    if runs.len() > SHOWN {
        names.push("…".into());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn runs_are_kept_where_asked_else_in_the_state_folder() {
        for (asked, expect) in [
            ("j.db", Where::File("j.db".into())),
            ("memory", Where::Nowhere),
            ("kubernetes", Where::Cluster("rollback-system".into())),
            ("kubernetes:ops", Where::Cluster("ops".into())),
        ] {
            assert_eq!(named(asked.into()), expect);
        }
        let kept =
            |state: Option<&str>, home: Option<&str>| folder(state.map(Into::into), home.map(Into::into));
        assert_eq!(kept(Some("/s"), Some("/h")), Some("/s/rollback".into()));
        assert_eq!(kept(None, Some("/h")), Some("/h/.local/state/rollback".into()));
        assert_eq!(kept(Some("s"), Some("/h")), Some("/h/.local/state/rollback".into()));
        assert_eq!(kept(None, None), None);
    }

    #[test]
    fn a_run_is_found_by_either_end_of_its_id_unless_that_is_ambiguous() {
        let ids = ["01900000-0000-7000-8000-000000000000", "01900000-0000-7000-8000-00000000000a"];
        let runs: Vec<_> = ids
            .map(|id| RunSummary {
                run: id.parse().unwrap(),
                outcome: Outcome::Completed,
                started_at: testing::at(0),
                finished_at: None,
                components: Vec::new(),
            })
            .into();
        let found = |written| pick(&runs, written).map(|run| run.to_string());
        assert_eq!(found(ids[0]).unwrap(), ids[0]);
        assert_eq!(found("00A").unwrap(), ids[1]);
        assert_eq!(pick(&runs[..1], "0190").unwrap().to_string(), ids[0]);
        for (written, kind) in [
            ("0190", ErrorKind::InvalidConfig),
            ("", ErrorKind::InvalidConfig),
            ("77", ErrorKind::NotFound),
            ("0000-7000", ErrorKind::NotFound),
        ] {
            assert_eq!(found(written).unwrap_err().error.kind(), kind, "{written}");
        }
    }
}
