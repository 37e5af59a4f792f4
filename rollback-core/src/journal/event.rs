//! What a run did, and which histories are legal.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::trigger::{Evidence, Point};
use crate::{ComponentId, Error, ErrorKind, ErrorReport, Plan, Result, StepId, Timestamp};

/// One entry of a run's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Event {
    /// The run begins: always the first event, and never again.
    #[serde(rename_all = "camelCase")]
    RunStarted {
        /// What is to be done.
        plan: Box<Plan>,
        /// Who or what began it.
        actor: String,
        /// Why, in their words.
        reason: Option<String>,
        /// How its steps are carried out.
        settings: RunSettings,
        /// Where each component is found again, by another process. No secrets.
        #[serde(default)]
        locators: Vec<Locator>,
        /// By what it was begun, where no human did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Box<Cause>>,
    },
    /// Another process goes on with it.
    #[serde(rename_all = "camelCase")]
    RunResumed {
        /// Who or what goes on.
        actor: String,
    },
    /// A lease was not respected.
    LeaseBroken(BrokenLease),
    /// Something happened to a step.
    Step {
        /// Which step.
        step: StepId,
        /// What happened to it.
        event: StepEvent,
    },
    /// The run ends. Only how the symptom went on may follow.
    #[serde(rename_all = "camelCase")]
    RunFinished {
        /// How.
        outcome: Outcome,
        /// Why, where a human closed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Whether it helped, told some time after its end.
    Judged(Judgement),
}

/// Why a run was begun without being asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The policy that decided.
    pub policy: String,
    /// The component whose trigger fired.
    pub component: ComponentId,
    /// By what it fired.
    pub evidence: Evidence,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// When the component had changed, as far as is known: the first moment at which it may have.
    pub changed_at: Option<Timestamp>,
}

/// How the symptom went on after a run that it had caused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// In a word.
    pub recovery: Recovery,
    /// What was seen, in one line.
    pub message: String,
    /// The metric since the run, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
}

/// Whether a rollback helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Recovery {
    /// All was well for a whole window of the trigger.
    Recovered,
    /// The trigger fires again: the rollback held, and the symptom stays.
    NotRecovered,
    /// It cannot be told.
    Unknown,
}

/// A component that a run took although another holder had it, or although nobody could be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenLease {
    /// Which component.
    pub component: ComponentId,
    /// Who had it, or why that is not known.
    pub holder: String,
    /// Why it was taken.
    pub reason: String,
}

/// How the steps of a run are carried out, the same after a resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSettings {
    /// Whether to watch until each step has settled.
    pub verify: bool,
    /// How long a step may take to settle, from its last write.
    pub verify_timeout: Duration,
    /// How long applying one step may take, with all its attempts.
    pub apply_timeout: Duration,
}

impl Default for RunSettings {
    /// Verified, with 5 minutes to apply and 10 to settle.
    fn default() -> Self {
        Self {
            verify: true,
            verify_timeout: Duration::from_secs(600),
            apply_timeout: Duration::from_secs(300),
        }
    }
}

/// Where a component is found again: the entry from which it was built, such as that of a runbook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// Which component.
    pub component: ComponentId,
    /// In the form that its maker reads. No secrets.
    pub entry: Value,
}

/// What happened to a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum StepEvent {
    /// The intent: from here on an effect is possible.
    Started {
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// The change is made.
    Applied,
    /// The component was there already; nothing was written.
    NothingToDo,
    /// It has settled.
    Verified {
        /// What was seen.
        message: String,
        /// What else a person should know.
        notes: Vec<String>,
    },
    /// The change was turned down, and certainly nothing was written.
    Refused {
        /// Why.
        error: ErrorReport,
    },
    /// Applying or verifying failed; something may have been written.
    Failed {
        /// Why.
        error: ErrorReport,
    },
    /// It was not started, because of what happened before it.
    Skipped,
    /// The intent to reverse.
    CompensationStarted {
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// The reversed change is made and has settled.
    Compensated {
        /// What was seen.
        message: String,
    },
    /// The reversal failed: a human must finish it.
    CompensationFailed {
        /// Why.
        error: ErrorReport,
    },
}

/// How a run ended, or where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Every component was there already.
    NothingToDo,
    /// Every step is verified, or applied where verification was not asked for.
    Completed,
    /// A step failed; what was done before it stands.
    Halted,
    /// A step failed, and what was done is reversed.
    Compensated,
    /// A human must finish it.
    Stuck,
    /// It stopped before its end and can go on.
    Unfinished,
    /// A human closed it.
    Abandoned,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StepOutcome {
    /// Not begun, or begun and not ended.
    #[default]
    Pending,
    /// The component was there already.
    NothingToDo,
    /// The change is made.
    Applied,
    /// The change is made and has settled.
    Verified,
    /// It was turned down with nothing written.
    Refused,
    /// It failed; something may have been written.
    Failed,
    /// It was not started.
    Skipped,
    /// It was reversed.
    Compensated,
    /// Its reversal failed.
    CompensationFailed,
}

/// Where a step stands, with what the journal says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// Where it stands.
    pub outcome: StepOutcome,
    /// Whether an intent is recorded whose end is not: an effect is possible.
    pub in_flight: bool,
    /// Whether it may have changed something that was not reversed since.
    pub changed: bool,
    /// How often it was begun.
    pub attempts: u32,
    /// What failed last.
    pub error: Option<ErrorReport>,
    /// What verification saw.
    pub message: Option<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The place of its application among all, for reversing in the opposite order.
    pub(crate) applied: Option<usize>,
}

/// A run as its journal tells it: the events so far, folded. The only source of what a run did.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    /// What is to be done.
    pub plan: Plan,
    /// Who or what began it.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// How its steps are carried out.
    pub settings: RunSettings,
    /// Where its components are found again.
    pub locators: Vec<Locator>,
    /// By what it was begun, where no human did.
    pub cause: Option<Cause>,
    /// Whether it helped, once that was told.
    pub judged: Option<Judgement>,
    /// The leases that it did not respect.
    pub broken_leases: Vec<BrokenLease>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended, or `Unfinished`.
    pub outcome: Outcome,
    steps: BTreeMap<StepId, StepState>,
    order: usize,
}

impl RunState {
    /// Begins with a run's first entry.
    ///
    /// # Errors
    /// `Journal` when that is not [`Event::RunStarted`].
    pub fn begin(entry: &Entry) -> Result<Self> {
        let Event::RunStarted { plan, actor, reason, settings, locators, cause } = &entry.event else {
            return Err(illegal("a history begins with the start of its run"));
        };
        Ok(Self {
            steps: plan.steps().iter().map(|step| (step.id.clone(), StepState::default())).collect(),
            plan: (**plan).clone(),
            actor: actor.clone(),
            reason: reason.clone(),
            settings: settings.clone(),
            locators: locators.clone(),
            cause: cause.as_deref().cloned(),
            judged: None,
            broken_leases: Vec::new(),
            started_at: entry.at,
            finished_at: None,
            outcome: Outcome::Unfinished,
            order: 0,
        })
    }

    /// Folds a whole history.
    ///
    /// # Errors
    /// `Journal` for an empty or illegal one.
    pub fn replay(entries: &[Entry]) -> Result<Self> {
        let (first, rest) = entries.split_first().ok_or_else(|| illegal("an empty history"))?;
        let mut state = Self::begin(first)?;
        rest.iter().try_for_each(|entry| state.record(entry))?;
        Ok(state)
    }

    /// Where a step stands.
    pub fn step(&self, id: &StepId) -> Option<&StepState> {
        self.steps.get(id)
    }

    /// Whether the run may have changed something that was not reversed since.
    pub fn changed(&self) -> bool {
        self.steps.values().any(|step| step.changed || step.in_flight)
    }

    /// Whether the steps stand as the outcome says.
    fn may_end(&self, outcome: Outcome) -> bool {
        use StepOutcome as O;
        let all = |legal: fn(&StepState) -> bool| self.steps.values().all(legal);
        match outcome {
            Outcome::Unfinished => false,
            Outcome::NothingToDo => all(|step| step.outcome == O::NothingToDo),
            Outcome::Completed => {
                all(|step| matches!(step.outcome, O::NothingToDo | O::Applied | O::Verified))
            }
            Outcome::Halted => all(|step| step.outcome != O::Pending && !step.in_flight),
            Outcome::Compensated => all(|step| step.outcome != O::Pending && !step.changed),
            // A human closes it, wherever it stands.
            Outcome::Stuck | Outcome::Abandoned => true,
        }
    }

    /// The plan that takes back what the run changed and did not reverse itself.
    ///
    /// # Errors
    /// `Refused` while it is unfinished, when it changed nothing, or when a change cannot be reversed.
    pub fn reversal(&self) -> Result<Plan> {
        let refused = |message: &str, hint| Err(Error::new(ErrorKind::Refused, message).with_hint(hint));
        if self.outcome == Outcome::Unfinished {
            return refused("the run is unfinished", "resume or abandon it first");
        }
        if !self.changed() {
            return refused("the run left nothing changed", "there is nothing to take back");
        }
        self.plan.reversed_part(|id| self.steps.get(id).is_some_and(|step| step.changed || step.in_flight))
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// `Journal`, leaving the state as it was, when the event is not legal here.
    pub fn record(&mut self, entry: &Entry) -> Result<()> {
        match &entry.event {
            Event::Judged(_) if self.outcome == Outcome::Unfinished => {
                return Err(illegal("a run is judged once it has ended"));
            }
            Event::Judged(_) if self.judged.is_some() => return Err(illegal("a run is judged once")),
            Event::Judged(judgement) => self.judged = Some(judgement.clone()),
            _ if self.outcome != Outcome::Unfinished => {
                return Err(illegal("nothing but a judgement follows the end of a run"));
            }
            Event::RunStarted { .. } => return Err(illegal("a run starts once")),
            Event::RunResumed { .. } => {}
            Event::LeaseBroken(broken) => self.broken_leases.push(broken.clone()),
            Event::RunFinished { outcome, .. } => {
                if !self.may_end(*outcome) {
                    return Err(illegal(&format!(
                        "a run whose steps stand like this does not end {outcome:?}"
                    )));
                }
                self.outcome = *outcome;
                self.finished_at = Some(entry.at);
            }
            Event::Step { step, event } => {
                let state =
                    self.steps.get_mut(step).ok_or_else(|| illegal(&format!("no step is named {step}")))?;
                if !legal(state, event) {
                    return Err(illegal(&format!(
                        "step {step} is {:?}{} and cannot become {event:?}",
                        state.outcome,
                        if state.in_flight { ", in flight" } else { "" }
                    )));
                }
                state.fold(event, &mut self.order);
            }
        }
        Ok(())
    }
}

/// The table of legal transitions.
fn legal(state: &StepState, event: &StepEvent) -> bool {
    use StepOutcome as O;
    match event {
        StepEvent::Started { .. } | StepEvent::Refused { .. } => state.outcome == O::Pending,
        StepEvent::Applied => state.outcome == O::Pending && state.in_flight,
        StepEvent::Verified { .. } => state.outcome == O::Applied && !state.in_flight,
        StepEvent::Failed { .. } => {
            matches!((state.outcome, state.in_flight), (O::Applied, false) | (O::Pending, true))
        }
        StepEvent::NothingToDo | StepEvent::Skipped => state.outcome == O::Pending && !state.in_flight,
        StepEvent::CompensationStarted { .. } => {
            matches!(state.outcome, O::Applied | O::Verified | O::Failed)
        }
        StepEvent::Compensated { .. } | StepEvent::CompensationFailed { .. } => {
            matches!(state.outcome, O::Applied | O::Verified | O::Failed) && state.in_flight
        }
    }
}

impl StepState {
    fn fold(&mut self, event: &StepEvent, order: &mut usize) {
        use StepOutcome as O;
        let place = |applied: &mut Option<usize>, order: &mut usize| {
            applied.get_or_insert(*order);
            *order += 1;
        };
        self.in_flight = matches!(event, StepEvent::Started { .. } | StepEvent::CompensationStarted { .. });
        match event {
            StepEvent::Started { attempt } => self.attempts = *attempt,
            StepEvent::CompensationStarted { .. } => {}
            StepEvent::NothingToDo => self.outcome = O::NothingToDo,
            StepEvent::Applied => {
                self.outcome = O::Applied;
                self.changed = true;
                place(&mut self.applied, order);
            }
            StepEvent::Verified { message, notes } => {
                self.outcome = O::Verified;
                self.message = Some(message.clone());
                self.notes.clone_from(notes);
            }
            StepEvent::Refused { error } => {
                self.outcome = O::Refused;
                self.error = Some(error.clone());
            }
            StepEvent::Failed { error } => {
                self.outcome = O::Failed;
                self.changed = true;
                place(&mut self.applied, order);
                self.error = Some(error.clone());
            }
            StepEvent::Skipped => self.outcome = O::Skipped,
            StepEvent::Compensated { message } => {
                self.outcome = O::Compensated;
                self.changed = false;
                self.message = Some(message.clone());
            }
            StepEvent::CompensationFailed { error } => {
                self.outcome = O::CompensationFailed;
                self.error = Some(error.clone());
            }
        }
    }
}

fn illegal(message: &str) -> Error {
    Error::new(ErrorKind::Journal, message)
}
