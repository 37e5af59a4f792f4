//! The report of an incident: what happened, what was done about it, and what is left to do.
//!
//! An [`Incident`] is data. Its JSON is serde's; [`markdown`] and [`html`] are for people, and [`chart`] is the picture
//! that goes with the Markdown. Texts in it come from commit messages, metrics and errors, so none is trusted: each is
//! escaped, stripped of control characters, and cut when it is very long.

mod chart;
mod collect;
mod escape;
mod folder;
mod render;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::trigger::Point;

pub use chart::chart;
pub use collect::collect;
pub use folder::IncidentFolder;
pub use render::{html, markdown};

/// A rollback, with what led to it and what followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// The id of the run.
    pub run: String,
    /// What happened, in one line.
    pub title: String,
    /// How the run ended or where it stands: `Completed`, `Halted`, `Compensated`, `Stuck`, `Unfinished`, `Abandoned`
    /// or `NothingToDo`.
    pub outcome: String,
    /// Whether no person started it.
    pub automatic: bool,
    /// Who or what started it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// When the run began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How the metric went on after the rollback.
    pub recovery: Option<Recovery>,
    /// What fired; none where nothing did.
    pub trigger: Option<Fired>,
    /// What happened when.
    pub timeline: Vec<Moment>,
    /// What the steps of the run moved, in the order of the plan.
    pub changes: Vec<Moved>,
    /// What automation would have done and did not.
    pub held_back: Vec<HeldBack>,
    /// The holds on automation that are still in force.
    pub holds: Vec<Holding>,
    /// What people are left to do.
    pub follow_ups: Vec<FollowUp>,
    /// What this report could not find out, and other warnings.
    pub notes: Vec<String>,
}

/// Whether the symptom went away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// `Recovered`, `NotRecovered` or `Unknown`.
    pub verdict: String,
    /// When that was judged.
    pub at: Timestamp,
    /// By what.
    pub message: String,
    /// The metric after the rollback.
    pub points: Vec<Point>,
}

/// The trigger that fired, and its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fired {
    /// The policy that it belongs to.
    pub policy: String,
    /// The component that it is about.
    pub component: String,
    /// What was wrong, in one line.
    pub summary: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it was decided to act.
    pub decided_at: Timestamp,
    /// When the revision that was in place became current.
    pub changed_at: Option<Timestamp>,
    /// The value at the decision.
    pub value: Option<f64>,
    /// The limit that it was beyond.
    pub limit: Option<f64>,
    /// The instances that failed, such as pods.
    pub instances: Vec<String>,
    /// The metric up to the decision.
    pub points: Vec<Point>,
    /// Whether values are shares from 0 to 1, shown in percent.
    pub is_share: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
    /// What else there is to know.
    pub detail: Option<String>,
    /// How to take it.
    pub tone: Tone,
}

/// Whether something is good or bad news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Tone {
    /// Neither.
    #[default]
    Plain,
    /// Good news.
    Good,
    /// Bad news.
    Bad,
    /// To be looked at.
    Warning,
}

/// What a step moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// The id of the step.
    pub step: String,
    /// The component.
    pub component: String,
    /// `rollback` or `restart`.
    pub kind: String,
    /// The revision that it moved from.
    pub from: String,
    /// The revision that it moved to.
    pub to: String,
    /// What the revision that it moved from is.
    pub from_summary: String,
    /// What the revision that it moved to is.
    pub to_summary: String,
    /// How the step ended, such as `Verified`.
    pub outcome: String,
    /// How often it was begun.
    pub attempts: u32,
    /// What verification saw.
    pub message: Option<String>,
    /// What failed.
    pub error: Option<String>,
    /// The fields that it changed.
    pub diff: Vec<FieldDiff>,
    /// What else a person should know.
    pub warnings: Vec<String>,
}

/// A field that differs between two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldDiff {
    /// Where it is.
    pub path: String,
    /// Its value before; none where it was absent.
    pub from: Option<String>,
    /// Its value afterwards; none where it went away.
    pub to: Option<String>,
}

/// An action that a guard, a hold or a mode held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// When.
    pub at: Timestamp,
    /// The policy that would have acted.
    pub policy: String,
    /// On what.
    pub component: String,
    /// Why it did not.
    pub reason: String,
}

/// A hold on automation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holding {
    /// What is held.
    pub component: String,
    /// Until when.
    pub until: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Something that is left to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowUp {
    /// What.
    pub what: String,
    /// By when.
    pub due: Option<Timestamp>,
}
