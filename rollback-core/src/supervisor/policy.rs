//! What is watched, and what is done about it.

use std::sync::Arc;
use std::time::Duration;

use crate::trigger::Trigger;
use crate::{ComponentId, Error, ErrorKind, FailurePolicy, Result, Target, Timestamp};

/// Ties a trigger to what is done once it fires.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Policy {
    /// Its name, unique among those of a supervisor.
    pub name: String,
    /// What it watches.
    pub trigger: Arc<dyn Trigger>,
    /// What is done.
    pub actions: Vec<Action>,
    /// What a rollback moves, where that is more than the component whose trigger fires.
    pub plan: Option<Blueprint>,
    /// What a rollback returns to. Default: the last good revision.
    pub goal: Goal,
    /// What keeps it from acting.
    pub guards: Guards,
    /// Which instances a restart restarts. Default: those that failed.
    pub restarts: Restarts,
    /// Whether it only says what it would do. Default: no.
    pub observe: bool,
}

impl Policy {
    /// One with the default guards.
    pub fn new(name: impl Into<String>, trigger: Arc<dyn Trigger>, actions: impl Into<Vec<Action>>) -> Self {
        Self {
            name: name.into(),
            trigger,
            actions: actions.into(),
            plan: None,
            goal: Goal::default(),
            guards: Guards::default(),
            restarts: Restarts::default(),
            observe: false,
        }
    }

    pub(super) fn does(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    /// Whether it may come to a rollback.
    pub(super) fn may_roll_back(&self) -> bool {
        self.actions.iter().any(|action| *action != Action::Alert)
    }
}

/// What is done once a trigger fires. Whatever it is, people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing else.
    Alert,
    /// The component, or the plan, returns to an earlier state.
    Rollback,
    /// The instances that fail are restarted; where that does not help and the component has just changed, it is rolled
    /// back.
    Restart,
    /// The plan of a rollback is kept, and people are told the command that carries it out.
    Propose,
}

/// What an automatic rollback returns to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The newest revision that is recorded good.
    #[default]
    LastGood,
    /// The one before the current one.
    Previous,
}

impl From<Goal> for Target {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::LastGood => Self::LastGood,
            Goal::Previous => Self::Previous,
        }
    }
}

/// Which instances a restart restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Restarts {
    /// Those that failed, one at a time.
    #[default]
    Failed,
    /// All of them, as a rollout: where one address is probed, and not each instance.
    All,
}

/// What keeps a policy from acting. Everything held back is recorded and told, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guards {
    /// A component is rolled back only when it changed within this time, and before the symptom began. Default: 1 hour.
    pub changed_within: Duration,
    /// How long after an automatic rollback none follows of the same component. Default: 30 minutes.
    pub cooldown: Duration,
    /// How many automatic rollbacks of one component there are in 24 hours. Default: 2.
    pub max_attempts: usize,
    /// How many components are rolled back at once: more than that have something else in common. Default: 3.
    pub max_at_once: usize,
    /// When nothing is done.
    pub freezes: Vec<Freeze>,
    /// How many automatic restarts of one component there are in an hour. Default: 3.
    pub restarts_per_hour: usize,
    /// After how many restarts that did not help a component that has just changed is rolled back. Default: 2.
    pub restarts_before_rollback: usize,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            changed_within: Duration::from_secs(3600),
            cooldown: Duration::from_secs(1800),
            max_attempts: 2,
            max_at_once: 3,
            freezes: Vec::new(),
            restarts_per_hour: 3,
            restarts_before_rollback: 2,
        }
    }
}

/// A time in which nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
}

/// A plan to be made once it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blueprint {
    /// Its name.
    pub name: String,
    /// What to do once a step has failed.
    pub on_failure: FailurePolicy,
    /// Its steps.
    pub steps: Vec<BlueprintStep>,
}

/// A step of a plan to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlueprintStep {
    /// Its name.
    pub id: String,
    /// Of which component it is.
    pub component: ComponentId,
    /// What it does.
    pub does: Does,
    /// The steps that come before it.
    pub after: Vec<String>,
}

/// What a step of a plan does with its component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// It returns to what the policy returns to.
    Return,
    /// It goes to what the step of this name leads to.
    Follow(String),
    /// It restarts.
    Restart,
}

impl Blueprint {
    /// That of one component alone.
    pub(super) fn of(component: &ComponentId) -> Self {
        let id = component.to_string();
        let step = BlueprintStep {
            id: id.clone(),
            component: component.clone(),
            does: Does::Return,
            after: Vec::new(),
        };
        Self { name: id, on_failure: FailurePolicy::Halt, steps: vec![step] }
    }

    /// The same without the returns of components that are not to move, and without what only these call for. The order
    /// between the others stays.
    pub(super) fn only(&self, moves: impl Fn(&ComponentId) -> bool) -> Self {
        let mut kept: Vec<BlueprintStep> = Vec::new();
        let mut dropped: Vec<&BlueprintStep> = Vec::new();
        for step in &self.steps {
            let calls = |name: &String| kept.iter().any(|other| other.id == *name);
            let stays = match &step.does {
                Does::Return => moves(&step.component),
                Does::Follow(followed) => moves(&step.component) || calls(followed),
                Does::Restart => step.after.is_empty() || step.after.iter().any(calls),
            };
            if !stays {
                dropped.push(step);
                continue;
            }
            let mut step = step.clone();
            if let Does::Follow(followed) = &step.does
                && dropped.iter().any(|other| other.id == *followed)
            {
                step.does = Does::Return;
            }
            // What came before a step that is left out comes before those after it.
            while let Some(gone) = dropped.iter().find(|gone| step.after.contains(&gone.id)) {
                step.after.retain(|name| *name != gone.id);
                step.after.extend(gone.after.iter().cloned());
            }
            kept.push(step);
        }
        let is_moved = |step: &BlueprintStep| step.does != Does::Restart;
        if !kept.iter().any(is_moved) {
            kept.clear();
        }
        Self { steps: kept, ..self.clone() }
    }
}

/// Refuses policies that could never act as they say.
pub(super) fn check(policies: &[Policy], knows: impl Fn(&ComponentId) -> bool) -> Result<()> {
    let invalid = |policy: &Policy, what: String| {
        Err(Error::new(ErrorKind::InvalidConfig, format!("policy {}: {what}", policy.name)))
    };
    for (index, policy) in policies.iter().enumerate() {
        if policies.iter().take(index).any(|other| other.name == policy.name) {
            return invalid(policy, "two have this name".into());
        }
        if policy.actions.is_empty() {
            return invalid(policy, "it does nothing: name at least the action alert".into());
        }
        if policy.does(Action::Rollback) && policy.does(Action::Propose) {
            return invalid(policy, "it either rolls back or proposes to".into());
        }
        if policy.plan.is_some() && policy.does(Action::Restart) {
            return invalid(policy, "what restarts is a component, and not a plan".into());
        }
        let of_plan = policy.plan.iter().flat_map(|plan| &plan.steps).map(|step| step.component.clone());
        let acts = policy.may_roll_back();
        let of_trigger = policy.trigger.components().into_iter().filter(|_| acts && policy.plan.is_none());
        if let Some(unknown) = of_plan.chain(of_trigger).find(|component| !knows(component)) {
            return invalid(policy, format!("{unknown} is not among the components"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, does: Does, after: &[&str]) -> BlueprintStep {
        BlueprintStep {
            id: id.into(),
            component: ComponentId::new("memory", None, id).unwrap(),
            does,
            after: after.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn a_plan_keeps_its_order_without_what_does_not_move() {
        let plan = Blueprint {
            name: "model".into(),
            on_failure: FailurePolicy::Halt,
            steps: vec![
                step("a", Does::Return, &[]),
                step("b", Does::Return, &["a"]),
                step("c", Does::Follow("b".into()), &["b"]),
                step("loader", Does::Restart, &["b"]),
            ],
        };
        let ids = |plan: &Blueprint| -> Vec<_> {
            plan.steps.iter().map(|step| (step.id.clone(), step.does.clone(), step.after.clone())).collect()
        };
        assert_eq!(
            ids(&plan.only(|component| ["a", "c"].contains(&component.name()))),
            [("a".into(), Does::Return, vec![]), ("c".into(), Does::Return, vec!["a".into()])]
        );
        let follows = ids(&plan.only(|component| component.name() == "b"));
        assert_eq!(follows.len(), 3, "{follows:?}");
        assert!(plan.only(|_| false).steps.is_empty());
    }
}
