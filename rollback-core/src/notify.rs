//! Telling people, and the systems that tell people.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ComponentId, Outcome, Plan, Result, RunId, RunReport, StepOutcome, Timestamp, mask};

/// Tells people what happens: a chat, a pager, another program.
///
/// A notifier tells of events, of what stands, or of both; what it does not tell of it accepts and does nothing with.
/// Repeating is left to the [`Outbox`](crate::Outbox), which records what was not delivered.
#[cfg_attr(feature = "mock", mockall::automock)]
#[cfg_attr(feature = "mock", allow(clippy::ref_option_ref, reason = "mockall writes it so"))]
#[async_trait]
pub trait Notifier: fmt::Debug + Send + Sync {
    /// What it is called in logs and records, such as `slack #incidents`; no secrets. Unique among those of one outbox.
    fn name(&self) -> &str;

    /// Tells of an event. May be repeated with the same [`id`](Notification::id) after an answer was lost. `thread` is
    /// what an earlier call for the same [`thread`](Notification::thread) returned, so that what belongs together is
    /// shown together.
    ///
    /// # Errors
    /// `Temporary` (with its time, where the receiver names one) when it is worth trying again; anything else is not
    /// tried again before a restart.
    async fn notify<'a>(
        &'a self,
        message: &'a Notification,
        thread: Option<&'a str>,
    ) -> Result<Option<String>>;

    /// Tells which alerts stand: all that do, and once more those that ended, with their end. Called again and again, so
    /// that what is not repeated counts as over.
    ///
    /// # Errors
    /// As the receiver answers. It is called again with what stands then.
    async fn alerts<'a>(&'a self, alerts: &'a [Alert]) -> Result<()> {
        let _ = alerts;
        Ok(())
    }

    /// Whether what it needs is there, without telling anybody anything; what it answers is for people, such as what a
    /// setting does not do. Default: nothing to say.
    ///
    /// # Errors
    /// As the receiver answers.
    async fn check(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Something that people are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its identity: one that arrives twice is one.
    pub id: String,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: Happening,
    /// What it belongs to: of one run all is the same.
    pub thread: String,
    /// What happened, in one line.
    pub summary: String,
    /// Why, by whom, or what to know.
    #[serde(default)]
    pub details: Vec<String>,
    /// Which policy it is about.
    #[serde(default)]
    pub policy: Option<String>,
    /// The components that it is about.
    #[serde(default)]
    pub components: Vec<ComponentId>,
    /// What moves, or moved.
    #[serde(default)]
    pub moves: Vec<Move>,
    /// Which run it is about.
    #[serde(default)]
    pub run: Option<RunId>,
    /// Who or what acts.
    #[serde(default)]
    pub actor: Option<String>,
    /// The commands that come next.
    #[serde(default)]
    pub next: Vec<String>,
    /// Where the incident report is.
    #[serde(default)]
    pub report: Option<String>,
}

/// What people are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// A trigger fires.
    Firing,
    /// It does not any more, without a rollback.
    Resolved,
    /// It fires, and nothing is done: the summary says why.
    HeldBack,
    /// A plan is kept for people to decide on.
    Proposed,
    /// A run begins.
    Started,
    /// A run has ended as planned.
    Converged,
    /// A run has failed.
    Failed,
    /// A run needs a human.
    Stuck,
    /// After a rollback all is well again.
    Recovered,
    /// After a rollback the symptom stays.
    NotRecovered,
    /// After a rollback it cannot be told whether all is well.
    RecoveryUnknown,
    /// For a while it cannot be told whether a trigger should fire.
    Blind,
    /// Something is wrong with the supervisor itself, such as its runbook.
    Trouble,
    /// A test of whether this arrives.
    Test,
}

/// What moves of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which component.
    pub component: ComponentId,
    /// The revision that it moves from.
    pub from: String,
    /// The revision that it moves to.
    pub to: String,
}

impl Move {
    /// What a plan moves, each component once.
    pub fn all(plan: &Plan) -> Vec<Self> {
        let of = |component: &ComponentId| {
            let mut changes = plan.changes_of(component).filter(|change| !change.is_noop());
            let first = changes.next()?;
            let last = changes.last().unwrap_or(first);
            Some(Self { component: component.clone(), from: first.from.id.clone(), to: last.to.id.clone() })
        };
        plan.components().into_iter().filter_map(of).collect()
    }
}

/// Something that stands until it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Its identity: `alertname`, and what tells it from others of that name.
    pub labels: BTreeMap<String, String>,
    /// What people should know of it.
    pub annotations: BTreeMap<String, String>,
    /// Since when.
    pub starts_at: Timestamp,
    /// When it is over, unless it is repeated; for one that has ended, when it did.
    pub ends_at: Timestamp,
}

impl Notification {
    /// One of which no more is known than this, with an identity of its own.
    pub fn new(
        at: Timestamp,
        event: Happening,
        thread: impl Into<String>,
        summary: impl Into<String>,
    ) -> Self {
        Self {
            id: RunId::random().to_string(),
            at,
            event,
            thread: thread.into(),
            summary: summary.into(),
            details: Vec::new(),
            policy: None,
            components: Vec::new(),
            moves: Vec::new(),
            run: None,
            actor: None,
            next: Vec::new(),
            report: None,
        }
    }

    /// The same without what looks like a secret, as it may be shown to anybody.
    #[must_use]
    pub fn masked(mut self) -> Self {
        self.summary = mask::text(&self.summary);
        for line in &mut self.details {
            *line = mask::text(line);
        }
        self
    }

    /// How a run ended, in the words in which people are told. Telling it twice is telling it once.
    pub fn of_run(report: &RunReport, moves: &[Move], written: Option<String>) -> Self {
        let run = report.run;
        let what = format!("{} of {}", what(moves), names(moves));
        let changed = report.changed();
        let (event, summary) = match report.outcome {
            Outcome::NothingToDo => (Happening::Converged, "there was nothing to do".to_owned()),
            Outcome::Completed if report.steps.iter().any(|step| step.outcome == StepOutcome::Applied) => {
                (Happening::Converged, format!("{what} is done, and was not watched until it settled"))
            }
            Outcome::Completed => (Happening::Converged, format!("{what} is done and verified")),
            Outcome::Compensated => {
                (Happening::Failed, format!("{what} failed, and what it had changed is taken back"))
            }
            Outcome::Halted if changed => (Happening::Failed, format!("{what} failed half-way")),
            Outcome::Halted => (Happening::Failed, format!("{what} failed, and nothing was changed")),
            Outcome::Abandoned => (Happening::Failed, format!("{what} was closed by a human as it stood")),
            Outcome::Stuck => (Happening::Stuck, format!("{what} is stuck: a human must finish it")),
            Outcome::Unfinished => {
                (Happening::Stuck, format!("{what} was stopped before its end, and can go on"))
            }
        };
        let failed = report.steps.iter().filter_map(|step| Some((&step.id, step.error.as_ref()?)));
        let mut details: Vec<String> =
            failed.map(|(step, error)| format!("{step}: {}", error.message)).collect();
        details.extend(report.error.iter().map(|error| error.message.clone()));
        details.extend(report.reason.clone());
        let mut next = match report.outcome {
            Outcome::Unfinished => open(run),
            _ => vec![format!("rollback show {run}")],
        };
        if changed && matches!(report.outcome, Outcome::Halted | Outcome::Stuck) {
            next.push(format!("rollback revert {run}"));
        }
        Self {
            id: format!("{run}-{:?}", report.outcome),
            at: report.finished_at.unwrap_or(report.started_at),
            event,
            thread: run.to_string(),
            summary,
            details,
            policy: None,
            components: report.steps.iter().map(|step| step.component.clone()).collect(),
            moves: moves.to_vec(),
            run: Some(run),
            actor: Some(report.actor.clone()),
            next,
            report: written,
        }
    }
}

/// The commands for a run that has not ended.
pub(crate) fn open(run: RunId) -> Vec<String> {
    vec![
        format!("rollback show {run}"),
        format!("rollback resume {run}"),
        format!("rollback abandon {run} --reason TEXT"),
    ]
}

pub(crate) fn what(moves: &[Move]) -> &'static str {
    if moves.iter().all(|one| one.to == "replaced" || one.to == "restarted") && !moves.is_empty() {
        "the restart"
    } else {
        "the rollback"
    }
}

pub(crate) fn names(moves: &[Move]) -> String {
    moves
        .iter()
        .map(|one| format!("{} from {} to {}", one.component, one.from, one.to))
        .collect::<Vec<_>>()
        .join(", ")
}

const _: Option<&dyn Notifier> = None;
