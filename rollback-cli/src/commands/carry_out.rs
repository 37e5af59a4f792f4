//! Carries out a plan: shows it, asks, executes it, and tells how it went.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;

use dialoguer::{Confirm, Input};
use futures::future::join_all;
use rollback_core::{
    ChangeKind, ComponentId, Components, Engine, Error, ErrorKind, Locator, Plan, Retention, RunId,
    RunOptions, RunReport, Step,
};

use super::next::{self, Way};
use crate::aftermath::Aftermath;
use crate::args::{Format, RunArgs, WhyArgs};
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::lease::Leases;
use crate::output::progress::{self, Mode};
use crate::output::{self, json, table};
use crate::parts::{Part, Servers};
use crate::session::{self, App};

/// A plan, and what it takes to carry it out.
pub(crate) struct Prepared {
    pub(crate) servers: Servers,
    pub(crate) parts: Vec<Part>,
    pub(crate) plan: Plan,
    /// Where another command finds the components again.
    pub(crate) locators: Vec<Locator>,
    /// What it crosses of what the runbook says cannot be taken back.
    pub(crate) irreversible: Vec<String>,
}

impl Prepared {
    /// With what the runbook says of it that cannot be taken back.
    pub(crate) async fn guarded(mut self, app: &App) -> Result<Self, Failure> {
        for (id, warning) in super::plan::crossed(app, &self.servers, &self.plan).await? {
            self.plan.warn(&id, &warning);
            self.irreversible.push(format!("{id}: {warning}"));
        }
        Ok(self)
    }

    pub(crate) fn part(&self, id: &ComponentId) -> Option<&Part> {
        self.parts.iter().find(|part| part.id() == id)
    }
}

/// How a plan is to be carried out.
#[derive(Default)]
pub(crate) struct How<'a> {
    /// What was typed; nothing of it where a run goes on as it began.
    pub(crate) run: Option<&'a RunArgs>,
    /// The run that goes on; a new one begins otherwise.
    pub(crate) resumed: Option<RunId>,
    pub(crate) reason: Option<String>,
    /// The incident that it belongs to.
    pub(crate) incident: Option<String>,
    /// Why leases are not respected.
    pub(crate) break_lease: Option<String>,
    /// What another undo of the same components has to say as well.
    pub(crate) undo_flags: &'static str,
    /// Whether nobody is told.
    pub(crate) no_notify: bool,
}

impl<'a> How<'a> {
    /// As it was typed.
    pub(crate) fn of(run: &'a RunArgs) -> Self {
        Self { run: Some(run), no_notify: run.no_notify, ..Self::default() }
    }

    /// As it began.
    pub(crate) fn resuming(run: RunId) -> Self {
        Self { resumed: Some(run), ..Self::default() }
    }

    /// For this reason, and past leases where that is asked for.
    pub(crate) fn because(self, why: WhyArgs) -> Self {
        let break_lease = why.reason.clone().filter(|_| why.break_lease);
        Self { reason: why.reason, incident: why.incident, break_lease, ..self }
    }

    fn options(&self, app: &App, prepared: &Prepared) -> RunOptions {
        let mut options = RunOptions::by(session::actor());
        options.run = self.resumed.unwrap_or(options.run);
        let said: Vec<_> = self.incident.iter().chain(&self.reason).map(String::as_str).collect();
        options.reason = Some(said.join(": ")).filter(|said| !said.is_empty());
        options.break_lease.clone_from(&self.break_lease);
        options.locators.clone_from(&prepared.locators);
        if let Some(run) = self.run {
            options.settings.verify = !run.no_verify;
            options.settings.verify_timeout = run.timeout;
        }
        let settings = &mut options.settings;
        let restarts = |step: &Step| step.change.kind == ChangeKind::Restart;
        if prepared.plan.steps().iter().any(restarts) {
            // Evicting one pod after the other waits for each to be replaced.
            settings.apply_timeout = settings.apply_timeout.max(settings.verify_timeout);
        }
        options.cancellation = app.stop.clone();
        options
    }
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

/// Shows the plan, asks, and carries it out.
pub(crate) async fn run(
    app: &App,
    prepared: &Prepared,
    kept: &Kept,
    mut how: How<'_>,
) -> Result<Exit, Failure> {
    let plan = &prepared.plan;
    app.until_stopped(kept.check_free(app, &prepared.parts)).await?;
    let asks = !how.run.is_some_and(|run| run.yes) && !plan.is_noop();
    if asks || !is_quiet(app, plan) {
        output::say(table::plan(plan, console::colors_enabled_stderr()).trim_end());
    }
    if let (Some(crossed), None) = (prepared.irreversible.first(), &how.reason) {
        let refused = || {
            Error::new(ErrorKind::Refused, crossed.clone())
                .with_hint("go on all the same with: --reason TEXT, which is put on record")
        };
        how.reason =
            Some(if asks { app.until_stopped(ask_why()).await? } else { return Err(refused().into()) });
    }
    if asks {
        let answer = app.until_stopped(confirm(prepared, kept)).await;
        if answer.as_ref().is_err_and(|failure| failure.exit() == Exit::Interrupted) {
            // Ctrl-C leaves the prompt as it is: its line unfinished, the cursor hidden.
            let _ = console::Term::stderr().show_cursor();
            output::say("");
        }
        answer?;
    }
    go(app, prepared, kept, how).await
}

/// Carries a plan out, or goes on with it, and tells how that went.
pub(crate) async fn go(app: &App, prepared: &Prepared, kept: &Kept, how: How<'_>) -> Result<Exit, Failure> {
    let Prepared { parts, plan, .. } = prepared;
    let (sender, events) = tokio::sync::mpsc::unbounded_channel();
    let mut options = how.options(app, prepared);
    options.progress = Some(sender);
    let components: Components = parts.iter().map(Part::component).collect();
    let engine = Engine::new(kept.journal.clone())
        .with_ledger(kept.ledger.clone())
        .with_lease(Arc::new(Leases::new(prepared.servers.cluster(), plan)));
    let aftermath = Aftermath::new(app, kept, how.no_notify);
    let run = options.run;
    aftermath.begins(plan, &options, how.resumed.is_some()).await;
    let work = Box::pin(async {
        match how.resumed {
            Some(run) => engine.resume(run, &components, options).await,
            None => engine.execute(plan, &components, options).await,
        }
    });
    let mode = Mode::choose(is_quiet(app, plan), console::user_attended_stderr());
    let shown = progress::show(events, plan, mode, &app.stop, !kept.durable);
    let (report, ()) = aftermath.beside(async { tokio::join!(work, shown) }).await;
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            aftermath.refused(run, how.resumed.is_some(), &error).await;
            return Err(journal::unusable(error));
        }
    };
    let way =
        if kept.durable { Way::kept(app, kept, how.undo_flags) } else { Way::lost(app, how.undo_flags) };
    let way = way.at(app, prepared.servers.cluster());
    tell(app, plan, &report, &way);
    announce(prepared, &report).await;
    aftermath.ended(plan, &report).await;
    if let Err(error) = engine.prune(Retention::default()).await {
        output::say(&format!("warning: old runs are not removed: {}", output::told(&error.report().message)));
    }
    Ok(Exit::of_run(&report))
}

fn is_quiet(app: &App, plan: &Plan) -> bool {
    app.global.quiet || plan.is_noop()
}

async fn confirm(prepared: &Prepared, kept: &Kept) -> Result<(), Failure> {
    let plan = &prepared.plan;
    if let Some(cluster) = prepared.servers.cluster() {
        output::say(&surroundings(cluster.context(), cluster.server(), plan));
    }
    let registries: BTreeSet<&str> = prepared
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Model(model) => Some(model.tracking_uri.as_str()),
            Part::Workload(_) | Part::Service(_) | Part::Environment(_) => None,
        })
        .collect();
    for registry in registries {
        output::say(&format!("registry   {registry}"));
    }
    if !kept.durable {
        output::say("journal    memory: nothing of this run can be resumed");
    }
    let question = question(plan);
    let answer =
        tokio::task::spawn_blocking(move || Confirm::new().with_prompt(question).default(false).interact());
    match answer.await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(Error::new(ErrorKind::Refused, "answered no, nothing was changed").into()),
        Ok(Err(_)) | Err(_) => Err(Failure::interrupted()),
    }
}

/// Has the reason typed for what cannot be taken back.
async fn ask_why() -> Result<String, Failure> {
    let prompt = "It crosses what cannot be taken back. Why all the same?";
    let typed =
        tokio::task::spawn_blocking(move || Input::<String>::new().with_prompt(prompt).interact_text());
    match typed.await {
        Ok(Ok(reason)) if !reason.trim().is_empty() => Ok(reason),
        _ => Err(Failure::interrupted()),
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
                ChangeKind::Rollback if component.kind() == "model" && change.to.id == "none" => {
                    let (name, pointer) =
                        component.name().rsplit_once('@').unwrap_or((component.name(), "its stage"));
                    format!("Archive version {} of {name}? The stage {pointer} will be empty", change.from.id)
                }
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

/// How a run went, and what comes next.
pub(crate) fn tell(app: &App, plan: &Plan, report: &RunReport, way: &Way) {
    let next = next::commands(plan, report, way);
    output::result(app.global.output, &json::run(report, &next), || table::run(plan, report));
    for warning in &report.warnings {
        output::say(&format!("warning: {}", output::told(warning)));
    }
    if app.global.output == Format::Json {
        let mut errors =
            report.error.iter().chain(report.steps.iter().filter_map(|step| step.error.as_ref()));
        if let Some(error) = errors.next().filter(|_| Exit::of_run(report) != Exit::Done) {
            output::say(&serde_json::json!({"error": json::error(error)}).to_string());
        }
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
    output::say_lines(&next::listed(&next));
}

/// Tells the cluster, where others look.
async fn announce(prepared: &Prepared, report: &RunReport) {
    let posted = report.steps.iter().filter_map(|step| match prepared.part(&step.component)? {
        Part::Workload(workload) => Some(workload.announce(report.run, step)),
        Part::Service(_) | Part::Model(_) | Part::Environment(_) => None,
    });
    for error in join_all(posted).await.into_iter().filter_map(Result::err) {
        output::say(&format!("warning: no Event was posted: {}", output::told(&error.report().message)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_question_says_where_and_what() {
        let plan = testing::plan();
        assert_eq!(
            surroundings(Some("prod"), "https://k:6443/", &plan),
            "context    prod\nserver     https://k:6443/\nnamespace  shop"
        );
        assert_eq!(question(&plan), "Return deployment/shop/web from revision 5 to 4?");
        let mut emptied = testing::change("5", "none");
        emptied.component = ComponentId::new("model", None, "baseline@production").unwrap();
        assert_eq!(
            question(&testing::plan_of(emptied)),
            "Archive version 5 of baseline? The stage production will be empty"
        );
        let mut restart = testing::change("2 not ready", "replaced");
        restart.kind = ChangeKind::Restart;
        assert_eq!(
            question(&testing::plan_of(restart)),
            "Restart deployment/shop/web (2 not ready → replaced)?"
        );
    }
}
