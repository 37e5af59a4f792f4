//! Carries out a plan: shows it, asks, executes it, and tells how it went.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use dialoguer::Confirm;
use futures::future::join_all;
use rollback_core::{
    ChangeKind, ComponentId, Components, Engine, Error, ErrorKind, MemoryJournal, Outcome, Plan,
    Rollbackable, RunOptions, RunReport, StepOutcome,
};
use rollback_k8s::{Cluster, Workload};

use crate::args::{Format, RunArgs};
use crate::exit::{Exit, Failure};
use crate::output::progress::{self, Mode};
use crate::output::{self, json, table};
use crate::session::{self, App};

/// A plan, and what it takes to carry it out.
pub(crate) struct Prepared {
    pub(crate) cluster: Cluster,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) plan: Plan,
}

impl Prepared {
    pub(crate) fn workload(&self, id: &ComponentId) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.id() == id)
    }
}

/// How a plan is to be carried out.
pub(crate) struct How<'a> {
    pub(crate) run: &'a RunArgs,
    pub(crate) reason: Option<String>,
    /// What another undo of the same components has to say as well.
    pub(crate) undo_flags: &'a str,
    /// How long making each change may take, where that includes waiting.
    pub(crate) apply_timeout: Option<Duration>,
}

/// Refuses to act unasked where nobody can be asked.
pub(crate) fn refuse_silence(yes: bool, command: &str) -> Result<(), Failure> {
    if yes || (std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(session::usage(format!(
        "nobody can be asked here, there is no terminal: `rollback {command}` needs --yes"
    )))
}

pub(crate) async fn run(app: &App, prepared: &Prepared, how: How<'_>) -> Result<Exit, Failure> {
    let Prepared { cluster, workloads, plan } = prepared;
    let asks = !how.run.yes && !plan.is_noop();
    let is_quiet = app.global.quiet || plan.is_noop();
    if asks || !is_quiet {
        output::say(table::plan(plan, console::colors_enabled_stderr()).trim_end());
    }
    if asks {
        let answer = app.until_stopped(confirm(cluster, plan)).await;
        if answer.as_ref().is_err_and(|failure| failure.exit() == Exit::Interrupted) {
            // Ctrl-C leaves the prompt as it is: its line unfinished, the cursor hidden.
            let _ = console::Term::stderr().show_cursor();
            output::say("");
        }
        answer?;
    }

    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let mut options = RunOptions::by(actor());
    options.reason = how.reason;
    options.verify = !how.run.no_verify;
    options.verify_timeout = how.run.timeout;
    options.apply_timeout = how.apply_timeout.unwrap_or(options.apply_timeout);
    options.cancellation = app.stop.clone();
    options.progress = Some(sender);
    let components: Components =
        workloads.iter().map(|workload| Arc::new(workload.clone()) as Arc<dyn Rollbackable>).collect();
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let mode = Mode::choose(is_quiet, console::user_attended_stderr());
    let (report, ()) = tokio::join!(
        engine.execute(plan, &components, options),
        progress::show(events, plan, mode, &app.stop)
    );
    let report = report?;
    tell(app, plan, &report, how.undo_flags);
    announce(prepared, &report).await;
    Ok(Exit::of_run(&report))
}

async fn confirm(cluster: &Cluster, plan: &Plan) -> Result<(), Failure> {
    output::say(&surroundings(cluster.context(), cluster.server(), plan));
    let question = question(plan);
    let answer =
        tokio::task::spawn_blocking(move || Confirm::new().with_prompt(question).default(false).interact());
    match answer.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(Error::new(ErrorKind::Refused, "answered no, nothing was changed").into()),
        Ok(Err(_)) | Err(_) => Err(Failure::interrupted()),
    }
}

/// Where it is about to happen.
fn surroundings(context: Option<&str>, server: &str, plan: &Plan) -> String {
    let namespaces: BTreeSet<_> = plan.components().into_iter().filter_map(ComponentId::scope).collect();
    let namespaces: Vec<_> = namespaces.into_iter().collect();
    format!(
        "context    {}\nserver     {server}\nnamespace  {}",
        context.unwrap_or("(none: in the cluster)"),
        namespaces.join(", ")
    )
}

/// What is about to happen.
fn question(plan: &Plan) -> String {
    let moving: Vec<_> = plan.steps().iter().filter(|step| !step.change.is_noop()).collect();
    match moving.as_slice() {
        [one] => {
            let (change, component) = (&one.change, &one.change.component);
            match change.kind {
                ChangeKind::Rollback => {
                    format!("Return {component} from revision {} to {}?", change.from.id, change.to.id)
                }
                ChangeKind::Restart => {
                    format!("Restart {component} ({} → {})?", change.from.id, change.to.id)
                }
            }
        }
        several => format!("Carry out these {} steps?", several.len()),
    }
}

fn tell(app: &App, plan: &Plan, report: &RunReport, undo_flags: &str) {
    let next = next_commands(report, &app.connection_flags(), undo_flags);
    output::result(app.global.output, &json::run(report, &next), || table::run(plan, report));
    if app.global.output == Format::Json {
        return;
    }
    for error in report.steps.iter().filter_map(|step| step.error.as_ref()).chain(&report.error) {
        if error.kind != ErrorKind::Cancelled {
            output::say(&output::error(error));
        }
    }
    if Exit::of_run(report) == Exit::Interrupted {
        let left = if report.changed() { "see above how things were left" } else { "nothing was changed" };
        output::say(&format!("interrupted: {left}"));
    }
    if !next.is_empty() {
        output::say(&format!("next, one of:\n  {}", next.join("\n  ")));
    }
}

/// For each step that changed something and is not in a good state: how to look at it, and how to go back.
fn next_commands(report: &RunReport, connection: &str, undo: &str) -> Vec<String> {
    if matches!(report.outcome, Outcome::Completed | Outcome::NothingToDo) {
        return Vec::new();
    }
    let open = report.steps.iter().filter(|step| step.changed && step.outcome != StepOutcome::Verified);
    let commands = open.flat_map(|step| {
        let component = &step.component;
        let look = format!("rollback status {component} --watch{connection}");
        // Only a recorded revision can be returned to.
        let back = step
            .from
            .parse::<u64>()
            .is_ok()
            .then(|| format!("rollback undo {component} --to-revision {}{undo}{connection}", step.from));
        std::iter::once(look).chain(back)
    });
    commands.collect()
}

/// Tells the cluster, where others look.
async fn announce(prepared: &Prepared, report: &RunReport) {
    let posted = report.steps.iter().filter_map(|step| {
        let workload = prepared.workload(&step.component)?;
        Some(workload.announce(report.run, step))
    });
    for error in join_all(posted).await.into_iter().filter_map(Result::err) {
        output::say(&format!("warning: no Event was posted: {}", output::told(&error.report().message)));
    }
}

/// Who acts, for the record.
fn actor() -> String {
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
    use crate::testing;

    #[test]
    fn the_next_commands_are_for_what_changed_and_is_not_good() {
        let report = testing::report(Outcome::Halted, StepOutcome::Failed, true);
        assert_eq!(
            next_commands(&report, " --context a", " --gitops=ignore"),
            [
                "rollback status deployment/shop/web --watch --context a",
                "rollback undo deployment/shop/web --to-revision 5 --gitops=ignore --context a",
            ]
        );
        for (outcome, step, changed) in [
            (Outcome::Completed, StepOutcome::Applied, true),
            (Outcome::Halted, StepOutcome::Verified, true),
            (Outcome::Halted, StepOutcome::Refused, false),
            (Outcome::Compensated, StepOutcome::Compensated, false),
        ] {
            assert!(next_commands(&testing::report(outcome, step, changed), "", "").is_empty());
        }
    }

    #[test]
    fn there_is_no_way_back_to_what_has_no_number() {
        let mut report = testing::report(Outcome::Unfinished, StepOutcome::Pending, true);
        report.steps[0].from = "unrecorded".into();
        assert_eq!(next_commands(&report, "", ""), ["rollback status deployment/shop/web --watch"]);
    }

    #[test]
    fn the_question_says_where_and_what() {
        let plan = testing::plan();
        assert_eq!(
            surroundings(Some("prod"), "https://k:6443/", &plan),
            "context    prod\nserver     https://k:6443/\nnamespace  shop"
        );
        assert_eq!(question(&plan), "Return deployment/shop/web from revision 5 to 4?");
        let mut restart = testing::change("2 not ready", "replaced");
        restart.kind = ChangeKind::Restart;
        assert_eq!(
            question(&testing::plan_of(restart)),
            "Restart deployment/shop/web (2 not ready → replaced)?"
        );
    }

    #[test]
    fn an_actor_is_a_user_at_a_host() {
        assert_eq!(actor_of(Some("ann"), Some("laptop\n")), "ann@laptop");
        assert_eq!(actor_of(None, Some("")), "unknown");
    }
}
