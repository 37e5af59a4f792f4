use serde::{Deserialize, Serialize};

use crate::{
    BrokenLease, ChangeKind, ComponentId, ErrorReport, Fingerprint, Outcome, RunId, RunState, StepId,
    StepOutcome, Timestamp,
};

/// How a run went, as its journal tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Which run.
    pub run: RunId,
    /// The digest of its plan.
    pub plan: Fingerprint,
    /// How it ended, or where it stands.
    pub outcome: Outcome,
    /// Who or what began it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its steps, in the order of the plan.
    pub steps: Vec<StepReport>,
    /// What stopped the run itself, such as a journal that cannot be written.
    pub error: Option<ErrorReport>,
    /// The leases that it did not respect.
    #[serde(default)]
    pub broken_leases: Vec<BrokenLease>,
    /// What else went wrong beside the steps, and is not in the journal.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// Which step.
    pub id: StepId,
    /// What it moved.
    pub component: ComponentId,
    /// What sort of move it was.
    pub kind: ChangeKind,
    /// The revision that it moved from.
    pub from: String,
    /// The revision that it moved to.
    pub to: String,
    /// How it ended, or where it stands.
    pub outcome: StepOutcome,
    /// Whether it may have changed something that was not reversed since.
    pub changed: bool,
    /// How often it was begun.
    pub attempts: u32,
    /// What verification saw.
    pub message: Option<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// What failed.
    pub error: Option<ErrorReport>,
}

impl RunReport {
    /// The report of a run from its folded history.
    pub fn new(run: RunId, state: &RunState) -> Self {
        Self {
            run,
            plan: state.plan.digest(),
            outcome: state.outcome,
            actor: state.actor.clone(),
            reason: state.reason.clone(),
            started_at: state.started_at,
            finished_at: state.finished_at,
            steps: state.plan.steps().iter().filter_map(|step| StepReport::new(state, &step.id)).collect(),
            error: None,
            broken_leases: state.broken_leases.clone(),
            warnings: Vec::new(),
        }
    }

    /// Whether the run may have changed something that was not reversed since.
    pub fn changed(&self) -> bool {
        self.steps.iter().any(|step| step.changed)
    }
}

impl StepReport {
    /// How a step stands, by the folded history; none where the plan has no such step.
    pub fn new(state: &RunState, id: &StepId) -> Option<Self> {
        let step = state.plan.step(id)?;
        let known = state.step(id)?;
        Some(Self {
            id: step.id.clone(),
            component: step.change.component.clone(),
            kind: step.change.kind,
            from: step.change.from.id.clone(),
            to: step.change.to.id.clone(),
            outcome: known.outcome,
            changed: known.changed || known.in_flight,
            attempts: known.attempts,
            message: known.message.clone(),
            notes: known.notes.clone(),
            error: known.error.clone(),
        })
    }
}
