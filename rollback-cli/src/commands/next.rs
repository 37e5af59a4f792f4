//! What can be typed next, once a run is not in a good state.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use rollback_core::{ComponentId, Outcome, Plan, RunId, RunReport, StepOutcome, StepReport};
use rollback_k8s::Cluster;

use crate::journal::Kept;
use crate::session::{self, App};

/// How the next commands reach the same run and the same cluster.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// The options that lead to the cluster.
    connection: String,
    /// The options that lead to the journal, where the run can be found later.
    journal: Option<String>,
    /// What another undo of the same components has to say as well.
    undo: &'static str,
}

impl Way {
    /// To a run that a journal keeps.
    pub(crate) fn kept(app: &App, kept: &Kept, undo: &'static str) -> Self {
        let path = kept.instead.as_ref().or(app.global.journal.as_ref());
        // From wherever it is typed.
        let absolute = |path: &Path| match path.to_str() {
            Some(text) if text == "kubernetes" || text.starts_with("kubernetes:") => path.to_owned(),
            _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        };
        let path = path.map(|path| absolute(path).display().to_string());
        let path = path.map(|path| format!(" --journal {}", session::quoted(&path)));
        // Where it is kept in a cluster, the way there leads to it as well. The runbook says who is told.
        let there = if kept.in_cluster { app.connection_flags() } else { app.file_flag() };
        let journal = path.unwrap_or_default() + &there;
        Self { connection: app.connection_flags(), journal: Some(journal), undo }
    }

    /// In this cluster, whichever context is the current one by then.
    pub(crate) fn at(mut self, app: &App, cluster: Option<&Cluster>) -> Self {
        let context = cluster.and_then(Cluster::context).filter(|_| app.global.context.is_none());
        if let Some(context) = context {
            let _ = write!(self.connection, " --context {}", session::quoted(context));
        }
        self
    }

    /// To what a run left that nothing keeps.
    pub(crate) fn lost(app: &App, undo: &'static str) -> Self {
        Self { connection: app.connection_flags(), journal: None, undo }
    }

    /// What an unfinished run that is kept can become.
    pub(crate) fn open(&self, run: RunId) -> [String; 2] {
        let journal = self.journal.as_deref().unwrap_or_default();
        [format!("rollback resume {run}{journal}"), format!("rollback abandon {run} --reason …{journal}")]
    }
}

/// For a run that is not in a good state: how to look at what it left, and how to go on or back.
pub(crate) fn commands(plan: &Plan, report: &RunReport, way: &Way) -> Vec<String> {
    match (report.outcome, &way.journal) {
        (Outcome::Completed | Outcome::NothingToDo, _) => Vec::new(),
        (Outcome::Unfinished, Some(_)) => way.open(report.run).to_vec(),
        (_, Some(journal)) => {
            let looks = open(report).map(|step| look(step, way));
            let on = unfinished(plan, report)
                .into_iter()
                .map(|component| format!("rollback undo {component}{}{}", way.undo, way.connection));
            let mut changed = report.steps.iter().filter(|step| step.changed).peekable();
            let can_go_back = changed.peek().is_some()
                && changed
                    .all(|step| plan.step(&step.id).is_some_and(|step| step.change.irreversible.is_none()));
            let back = can_go_back.then(|| format!("rollback revert {}{}{journal}", report.run, way.undo));
            looks.chain(on).chain(back).collect()
        }
        (_, None) => open(report)
            .flat_map(|step| {
                let StepReport { component, from, .. } = step;
                // Only a recorded revision can be returned to.
                let is_plain = !from.is_empty() && from.chars().all(|c| c.is_ascii_digit() || c == '.');
                let back = (component.kind() == "model" || is_plain).then(|| {
                    format!("rollback undo {component} --to-revision {from}{}{}", way.undo, way.connection)
                });
                std::iter::once(look(step, way)).chain(back)
            })
            .collect(),
    }
}

/// The components that were left on the way between two revisions: another undo goes on from there.
fn unfinished<'a>(plan: &Plan, report: &'a RunReport) -> BTreeSet<&'a ComponentId> {
    let is_open = |step: &&StepReport| {
        let from_between = plan.step(&step.id).is_some_and(|step| step.change.passage.from_between);
        from_between
            && !matches!(
                step.outcome,
                StepOutcome::Verified | StepOutcome::Applied | StepOutcome::Compensated
            )
    };
    let was_begun = |component: &ComponentId| {
        let mut own = report.steps.iter().filter(|step| step.component == *component);
        own.any(|step| step.changed)
    };
    let components = report.steps.iter().filter(is_open).map(|step| &step.component);
    components.filter(|component| was_begun(component)).collect()
}

/// The steps that changed something and were not seen to settle.
fn open(report: &RunReport) -> impl Iterator<Item = &StepReport> {
    report.steps.iter().filter(|step| step.changed && step.outcome != StepOutcome::Verified)
}

fn look(step: &StepReport, way: &Way) -> String {
    format!("rollback status {} --watch{}", step.component, way.connection)
}

/// The commands as lines, after their heading, each with what it leaves.
pub(crate) fn listed(commands: &[String]) -> String {
    if commands.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = commands.iter().map(|one| format!("  {one}\n      {}\n", leaves(one))).collect();
    format!("next, one of:\n{}", lines.concat())
}

fn leaves(command: &str) -> &'static str {
    match command.split(' ').nth(1).unwrap_or_default() {
        "resume" => "finishes the run from where it stands; nothing is done twice",
        "revert" => "takes back what the run changed, as a new run that is shown first",
        "abandon" => "closes the run and leaves everything as it is now",
        "undo" => "goes on to a revision from what is there now, as a new run that is shown first",
        _ => "watches how it goes on, and changes nothing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn way(journal: Option<&str>) -> Way {
        Way {
            connection: " --context a".into(),
            journal: journal.map(str::to_owned),
            undo: " --gitops=ignore",
        }
    }

    #[test]
    fn an_unfinished_run_goes_on_or_is_closed() {
        for changed in [false, true] {
            let report = testing::report(Outcome::Unfinished, StepOutcome::Pending, changed);
            assert_eq!(
                commands(&testing::plan(), &report, &way(Some(" --journal j.db"))),
                [
                    format!("rollback resume {} --journal j.db", testing::RUN),
                    format!("rollback abandon {} --reason … --journal j.db", testing::RUN),
                ]
            );
        }
    }

    #[test]
    fn what_a_run_left_is_looked_at_or_taken_back() {
        let report = testing::report(Outcome::Halted, StepOutcome::Failed, true);
        assert_eq!(
            commands(&testing::plan(), &report, &way(Some(""))),
            [
                "rollback status deployment/shop/web --watch --context a".to_owned(),
                format!("rollback revert {} --gitops=ignore", testing::RUN),
            ]
        );
        let mut restart = testing::change("2 not ready", "replaced");
        restart.irreversible = Some("pods do not come back".into());
        assert_eq!(commands(&testing::plan_of(restart), &report, &way(Some(""))).len(), 1);
    }

    #[test]
    fn what_was_left_on_the_way_goes_on_by_another_undo() {
        let mut change = testing::change("5, traffic held", "4, traffic held");
        change.passage.from_between = true;
        let report = testing::report(Outcome::Stuck, StepOutcome::Failed, true);
        assert_eq!(
            commands(&testing::plan_of(change), &report, &way(Some(""))),
            [
                "rollback status deployment/shop/web --watch --context a".to_owned(),
                "rollback undo deployment/shop/web --gitops=ignore --context a".to_owned(),
                format!("rollback revert {} --gitops=ignore", testing::RUN),
            ]
        );
    }

    #[test]
    fn without_a_journal_the_revision_itself_is_named() {
        let mut report = testing::report(Outcome::Unfinished, StepOutcome::Pending, true);
        assert_eq!(
            commands(&testing::plan(), &report, &way(None)),
            [
                "rollback status deployment/shop/web --watch --context a",
                "rollback undo deployment/shop/web --to-revision 5 --gitops=ignore --context a",
            ]
        );
        // There is no way back to what has no number.
        report.steps[0].from = "unrecorded".into();
        assert_eq!(commands(&testing::plan(), &report, &way(None)).len(), 1);
    }

    #[test]
    fn a_good_end_needs_no_command() {
        for (outcome, step, changed) in [
            (Outcome::Completed, StepOutcome::Applied, true),
            (Outcome::Halted, StepOutcome::Refused, false),
            (Outcome::Compensated, StepOutcome::Compensated, false),
        ] {
            let report = testing::report(outcome, step, changed);
            for way in [way(Some("")), way(None)] {
                assert!(commands(&testing::plan(), &report, &way).is_empty(), "{outcome:?}");
            }
        }
    }
}
