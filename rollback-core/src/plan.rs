//! Steps and the order between them, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Change, ComponentId, Error, ErrorKind, Fingerprint, Realm, Result, Snapshot};

/// The name of a step, unique within its plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(String);

impl StepId {
    /// The step of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One change, and the steps that must have been verified before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub id: StepId,
    /// What it does.
    pub change: Change,
    /// The steps that come before it.
    #[serde(default)]
    pub after: Vec<StepId>,
}

/// What to do once a step has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailurePolicy {
    /// Stop. In an emergency, reverting what was just mended is often worse than stopping.
    #[default]
    Halt,
    /// Stop, and reverse what was applied, the failed step first.
    Compensate,
    /// Go on with the steps that do not depend on the failed one.
    Continue,
}

/// An ordered set of changes, checked: no duplicate, no cycle, no unknown predecessor.
///
/// Two steps of one component must be ordered, so that never two changes of it run side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Unchecked")]
pub struct Plan {
    steps: Vec<Step>,
    on_failure: FailurePolicy,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Unchecked {
    steps: Vec<Step>,
    #[serde(default)]
    on_failure: FailurePolicy,
}

impl TryFrom<Unchecked> for Plan {
    type Error = Error;

    fn try_from(plan: Unchecked) -> Result<Self> {
        Self::new(plan.steps, plan.on_failure)
    }
}

impl Plan {
    /// Checks the steps and puts them in an order that respects `after`, otherwise as given.
    ///
    /// # Errors
    /// `InvalidPlan` for no steps, a step named twice, an unknown predecessor, a cycle, or two steps of
    /// one component without an order between them.
    pub fn new(steps: Vec<Step>, on_failure: FailurePolicy) -> Result<Self> {
        let invalid = |message: String| Err(Error::new(ErrorKind::InvalidPlan, message));
        if steps.is_empty() {
            return invalid("a plan needs at least one step".into());
        }
        let mut ids = BTreeSet::new();
        for step in &steps {
            if !ids.insert(step.id.clone()) {
                return invalid(format!("two steps are named {}", step.id));
            }
        }
        for step in &steps {
            if let Some(unknown) = step.after.iter().find(|id| !ids.contains(id)) {
                return invalid(format!("step {} comes after {unknown}, which is no step", step.id));
            }
        }
        let steps = sorted(steps)?;
        let plan = Self { steps, on_failure };
        let ancestors = plan.ancestors();
        let mut last_of: BTreeMap<&ComponentId, &StepId> = BTreeMap::new();
        for step in &plan.steps {
            if let Some(earlier) = last_of.insert(&step.change.component, &step.id)
                && !ancestors.get(&step.id).is_some_and(|all| all.contains(earlier))
            {
                return invalid(format!(
                    "steps {earlier} and {} both change {} and have no order between them",
                    step.id, step.change.component
                ));
            }
        }
        Ok(plan)
    }

    fn ancestors(&self) -> BTreeMap<&StepId, BTreeSet<&StepId>> {
        let mut all: BTreeMap<&StepId, BTreeSet<&StepId>> = BTreeMap::new();
        for step in &self.steps {
            let mut own = BTreeSet::new();
            for before in &step.after {
                own.insert(before);
                own.extend(all.get(before).into_iter().flatten().copied());
            }
            all.insert(&step.id, own);
        }
        all
    }

    /// The steps, every one after its predecessors.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The step of this name.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }

    /// The changes of a component, in order.
    pub fn changes_of(&self, component: &ComponentId) -> impl Iterator<Item = &Change> {
        let changes = self.steps.iter().map(|step| &step.change);
        changes.filter(move |change| change.component == *component)
    }

    /// The revision at which the changes of the component begin that lead to this one; none where they begin at a
    /// state on the way.
    pub(crate) fn origin<'a>(&'a self, change: &'a Change) -> Option<&'a Snapshot> {
        if !change.passage.from_between {
            return Some(&change.from);
        }
        let before: Vec<_> =
            self.changes_of(&change.component).take_while(|other| *other != change).collect();
        before.into_iter().rev().find(|other| !other.passage.from_between).map(|begin| &begin.from)
    }

    /// Adds a warning, which its digest does not cover, to the first change of a component, unless it is there.
    pub fn warn(&mut self, component: &ComponentId, warning: &str) {
        let mut own = self.steps.iter_mut().map(|step| &mut step.change);
        let first = own.find(|change| change.component == *component);
        if let Some(change) = first.filter(|change| !change.warnings.iter().any(|known| known == warning)) {
            change.warnings.push(warning.to_owned());
        }
    }

    /// What to do once a step has failed.
    pub fn on_failure(&self) -> FailurePolicy {
        self.on_failure
    }

    /// Whether no step has anything to do.
    pub fn is_noop(&self) -> bool {
        self.steps.iter().all(|step| step.change.is_noop())
    }

    /// The components that it changes, each once.
    pub fn components(&self) -> BTreeSet<&ComponentId> {
        self.steps.iter().map(|step| &step.change.component).collect()
    }

    /// What it moves: a component is only known together with where it lives.
    pub fn moves(&self) -> BTreeSet<(Realm, ComponentId)> {
        let changes = self.steps.iter().map(|step| &step.change);
        changes.map(|change| (change.realm.clone(), change.component.clone())).collect()
    }

    /// The identity of what will be done: realm, component, kind of change, order, failure policy and
    /// both fingerprints of every step. Names, times, hints, warnings and diffs do not count, nor the
    /// order in which steps with no order between them were given.
    pub fn digest(&self) -> Fingerprint {
        // Every step is after all its predecessors, so theirs are known.
        let mut digests: BTreeMap<&StepId, Fingerprint> = BTreeMap::new();
        for Step { id, change, after } in &self.steps {
            let after: BTreeSet<_> = after.iter().filter_map(|before| digests.get(before)).collect();
            let step = json!({
                "realm": change.realm, "component": change.component, "kind": change.kind,
                "after": after, "from": change.from.fingerprint, "to": change.to.fingerprint,
            });
            digests.insert(id, Fingerprint::of(&step));
        }
        let mut steps: Vec<_> = digests.into_values().collect();
        steps.sort_unstable();
        Fingerprint::of(&json!({"steps": steps, "onFailure": self.on_failure}))
    }

    /// The plan of the way back: every change reversed, in the opposite order.
    ///
    /// # Errors
    /// `Refused`, naming the step and the reason, when a change cannot be reversed.
    pub fn reversed(&self) -> Result<Self> {
        self.reversed_part(|_| true)
    }

    /// The way back of some of its steps.
    ///
    /// # Errors
    /// As [`reversed`](Self::reversed), and `InvalidPlan` when it is the way back of none.
    pub fn reversed_part(&self, wanted: impl Fn(&StepId) -> bool) -> Result<Self> {
        let part = || self.steps.iter().filter(|step| wanted(&step.id));
        if let Some((step, reason)) = part().find_map(|step| Some((step, step.change.irreversible.as_ref()?)))
        {
            let message = format!("step {} cannot be reversed: {reason}", step.id);
            return Err(Error::new(ErrorKind::Refused, message).with_component(&step.change.component));
        }
        let mut steps: Vec<_> = part()
            .map(|step| Step {
                id: step.id.clone(),
                change: step.change.reversed(),
                after: self.nearest_after(&step.id, &wanted).into_iter().cloned().collect(),
            })
            .collect();
        steps.reverse();
        Self::new(steps, self.on_failure)
    }

    /// The wanted steps that come after a step, with no other wanted one between.
    fn nearest_after(&self, id: &StepId, wanted: &impl Fn(&StepId) -> bool) -> BTreeSet<&StepId> {
        let next = self.steps.iter().filter(|step| step.after.contains(id)).map(|step| &step.id);
        next.flat_map(
            |next| {
                if wanted(next) { BTreeSet::from([next]) } else { self.nearest_after(next, wanted) }
            },
        )
        .collect()
    }
}

fn sorted(mut waiting: Vec<Step>) -> Result<Vec<Step>> {
    let mut done = Vec::with_capacity(waiting.len());
    let mut placed = BTreeSet::new();
    while !waiting.is_empty() {
        let Some(next) =
            waiting.iter().position(|step| step.after.iter().all(|before| placed.contains(before)))
        else {
            let names: Vec<_> = waiting.iter().map(|step| step.id.as_str()).collect();
            return Err(Error::new(
                ErrorKind::InvalidPlan,
                format!("the order of these steps is a cycle: {}", names.join(", ")),
            ));
        };
        let step = waiting.remove(next);
        placed.insert(step.id.clone());
        done.push(step);
    }
    Ok(done)
}
