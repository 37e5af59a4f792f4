//! Where runs are kept, and how one of them is found there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollback_core::{
    Error, ErrorKind, Journal, MemoryJournal, Outcome, Rollbackable as _, RunId, RunState, RunSummary,
    SqliteJournal, Step,
};
use rollback_k8s::Workload;

use crate::commands::Way;
use crate::exit::Failure;
use crate::session::{self, App};

const ELSEWHERE: &str = "record elsewhere with `--journal PATH`, or nowhere with `--journal memory`";

/// The journal that a command uses.
pub(crate) struct Kept {
    pub(crate) journal: Arc<dyn Journal>,
    /// Whether it outlives the process.
    pub(crate) durable: bool,
}

/// Where runs are to be kept.
#[derive(Debug, PartialEq, Eq)]
enum Where {
    Nowhere,
    File(PathBuf),
}

/// The journal for a run that is about to begin.
pub(crate) fn open(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::Nowhere => Ok(Kept::nowhere()),
        Where::File(path) => at(&path),
    }
}

/// The journal of runs that were: one that is not there yet holds none, and is not made.
pub(crate) fn existing(app: &App) -> Result<Kept, Failure> {
    match find_out(app)? {
        Where::Nowhere => Err(session::usage("a journal in memory holds no run of another command")),
        // What cannot even be looked for is told by the attempt to open it.
        Where::File(path) if path.try_exists().unwrap_or(true) => at(&path),
        Where::File(path) if app.global.journal.is_some() => {
            Err(session::usage(format!("there is no journal {}", path.display())))
        }
        Where::File(_) => Ok(Kept::nowhere()),
    }
}

fn find_out(app: &App) -> Result<Where, Failure> {
    let asked = app.global.journal.clone().map(PathBuf::into_os_string);
    let asked = asked.or_else(|| variable("ROLLBACK_JOURNAL"));
    choose(asked, variable("XDG_STATE_HOME"), std::env::home_dir()).ok_or_else(|| {
        let error = Error::new(ErrorKind::InvalidConfig, "no folder is known to keep runs in");
        Failure::setup(error.with_hint(ELSEWHERE))
    })
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn choose(asked: Option<OsString>, state: Option<OsString>, home: Option<PathBuf>) -> Option<Where> {
    if let Some(asked) = asked {
        return Some(if asked == "memory" { Where::Nowhere } else { Where::File(asked.into()) });
    }
    // The XDG specification has relative paths ignored.
    let state = state.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.or_else(|| Some(home?.join(".local/state")).filter(|path| path.is_absolute()))?;
    Some(Where::File(state.join("rollback/rollback.db")))
}

fn at(path: &Path) -> Result<Kept, Failure> {
    let journal = SqliteJournal::open(path).map_err(unusable)?;
    Ok(Kept { journal: Arc::new(journal), durable: true })
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
        Self { journal: Arc::new(MemoryJournal::new()), durable: false }
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
    pub(crate) async fn check_free(&self, app: &App, workloads: &[Workload]) -> Result<(), Failure> {
        let runs = self.journal.runs().await.map_err(unusable)?;
        for run in runs.iter().filter(|run| run.outcome == Outcome::Unfinished) {
            for workload in workloads.iter().filter(|workload| run.components.contains(workload.id())) {
                let (run, state) = self.state(run.run).await?;
                // The same name elsewhere is another component.
                let realm = workload.realm().await?;
                let same =
                    |step: &Step| step.change.component == *workload.id() && step.change.realm == realm;
                if state.plan.steps().iter().any(same) {
                    return Err(in_the_way(run, &Way::kept(app)).with_component(workload.id()).into());
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

    fn chosen(asked: Option<&str>, state: Option<&str>, home: Option<&str>) -> Option<Where> {
        choose(asked.map(Into::into), state.map(Into::into), home.map(Into::into))
    }

    #[test]
    fn runs_are_kept_where_asked_else_in_the_state_folder() {
        let file = |path: &str| Some(Where::File(path.into()));
        assert_eq!(chosen(Some("j.db"), Some("/s"), Some("/h")), file("j.db"));
        assert_eq!(chosen(Some("memory"), None, None), Some(Where::Nowhere));
        assert_eq!(chosen(None, Some("/s"), Some("/h")), file("/s/rollback/rollback.db"));
        assert_eq!(chosen(None, None, Some("/h")), file("/h/.local/state/rollback/rollback.db"));
        assert_eq!(chosen(None, Some("s"), Some("/h")), file("/h/.local/state/rollback/rollback.db"));
        assert_eq!(chosen(None, None, None), None);
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
