//! What a run by hand does beside itself, with a runbook: the same people are told as by the supervisor, the same report is
//! written, and automation leaves its components alone for a while.

use std::time::Duration;

use rollback_core::supervisor::{Holding, Reporter as _};
use rollback_core::{
    Clock as _, Error, Happening, Move, Notification, Outbox, Outcome, Plan, RunId, RunOptions, RunReport,
    SystemClock,
};
use tokio::time::timeout;

use crate::journal::Kept;
use crate::output::{self, told};
use crate::runbook::Runbook;
use crate::session::{self, App};

/// Whose messages are those of runs by hand.
pub(crate) const BY_HAND: &str = "by hand";

/// For how long automation keeps off what a human has changed.
const KEEP_OFF: Duration = Duration::from_secs(3600);

/// How long a run waits before it begins.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last messages may take, once the run has ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// Who is told of a run.
pub(crate) struct Aftermath<'a> {
    app: &'a App,
    kept: &'a Kept,
    outbox: Option<Outbox>,
}

impl<'a> Aftermath<'a> {
    /// Nobody is told without a runbook that says who, or where that was asked for. What keeps a message from being sent
    /// keeps no run from going on.
    pub(crate) fn new(app: &'a App, kept: &'a Kept, no_notify: bool) -> Self {
        let runbook = app.runbook.as_ref().filter(|_| !no_notify);
        let notifiers =
            runbook.map(|runbook| runbook.notifiers(Some(kept))).transpose().unwrap_or_else(|error| {
                output::say(&format!("warning: nobody is told: {}", told(&error.report().message)));
                None
            });
        let outbox = notifiers
            .filter(|all| !all.is_empty())
            .map(|all| Outbox::new(all, kept.ledger.clone()).of(BY_HAND));
        Self { app, kept, outbox }
    }

    /// Tells that a run begins, and keeps automation off its components; the run waits only a moment for it.
    pub(crate) async fn begins(&self, plan: &Plan, options: &RunOptions, resumed: bool) {
        if !plan.is_noop() && timeout(PATIENCE, self.begin(plan, options, resumed)).await.is_err() {
            output::say(
                "warning: what is known of the components is not written in time: automation is not kept off",
            );
        }
    }

    async fn begin(&self, plan: &Plan, options: &RunOptions, resumed: bool) {
        let now = SystemClock.now();
        let is_watched = self.app.runbook.as_ref().is_some_and(Runbook::has_policies);
        if self.kept.durable && (is_watched || self.kept.in_cluster) {
            let holding = Holding {
                by: options.actor.clone(),
                since: now,
                until: now.saturating_add(KEEP_OFF),
                reason: format!("run {} by hand", options.run),
            };
            for (realm, component) in plan.moves() {
                if let Err(error) = holding.place(&*self.kept.ledger, &realm, &component).await {
                    let why = told(&error.report().message);
                    output::say(&format!("warning: automation is not kept off {component}: {why}"));
                }
            }
        }
        // That one goes on is told once it has ended.
        let Some(outbox) = self.outbox.as_ref().filter(|_| !resumed) else { return };
        let moves = Move::all(plan);
        let names: Vec<_> = moves.iter().map(|one| one.component.to_string()).collect();
        let run: RunId = options.run;
        let summary = format!("a run by hand begins: {}", names.join(", "));
        let message = Notification::new(now, Happening::Started, run.to_string(), summary);
        let started = Notification {
            id: format!("{run}-started"),
            details: options.reason.iter().cloned().collect(),
            components: plan.components().into_iter().cloned().collect(),
            moves,
            run: Some(run),
            actor: Some(options.actor.clone()),
            ..message
        };
        outbox.send(started).await;
    }

    /// Tells that a run did not begin after all.
    pub(crate) async fn refused(&self, run: RunId, resumed: bool, error: &Error) {
        let told = self.tell_refused(run, resumed, error);
        let _ = timeout(PATIENCE, told).await;
    }

    async fn tell_refused(&self, run: RunId, resumed: bool, error: &Error) {
        let Some(outbox) = &self.outbox else { return };
        let what =
            if resumed { "the run does not go on" } else { "the run did not begin, and nothing was changed" };
        let summary = format!("{what}: {}", told(&error.report().message));
        let message = Notification::new(SystemClock.now(), Happening::Failed, run.to_string(), summary);
        let message = Notification { id: format!("{run}-refused"), actor: Some(session::actor()), ..message };
        outbox.send(message).await;
        outbox.flush(PATIENCE).await;
    }

    /// Delivers what was sent while the run goes on.
    pub(crate) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(outbox) = &self.outbox else { return work.await };
        tokio::select! {
            done = work => done,
            () = outbox.deliver() => std::future::pending().await,
        }
    }

    /// Writes the report of a run that has ended, and tells how it did.
    pub(crate) async fn ended(&self, plan: &Plan, report: &RunReport) {
        if report.outcome == Outcome::NothingToDo {
            return;
        }
        let incidents = self.app.runbook.as_ref().and_then(Runbook::incidents);
        let written = match incidents.filter(|_| self.kept.durable) {
            Some(incidents) => {
                let folder = incidents.reports(self.kept);
                folder.report(report.run).await.map_or_else(
                    |error| {
                        let why = told(&error.report().message);
                        output::say(&format!("warning: no incident report is written: {why}"));
                        None
                    },
                    Some,
                )
            }
            None => None,
        };
        if let Some(path) = written.as_ref().filter(|_| !self.app.global.quiet) {
            output::say(&format!("incident report: {}", told(path)));
        }
        let Some(outbox) = &self.outbox else { return };
        outbox.send(Notification::of_run(report, &Move::all(plan), written)).await;
        let left = outbox.flush(FAREWELL).await;
        if left > 0 {
            output::say(&format!(
                "warning: {left} messages are not delivered; they are sent with the next run by hand"
            ));
        }
    }
}
