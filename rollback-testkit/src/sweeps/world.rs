//! Three components, a plan that moves them, and a journal.

use std::marker::PhantomData;
use std::sync::Arc;

use rollback_core::{
    Change, ComponentId, Components, Engine, FailurePolicy, Journal, Outcome, Plan, Planner, Position,
    Rollbackable, RunId, RunOptions, RunReport, RunState, Step, StepContext, StepId, Verification,
};
use serde_json::Value;

use super::Journals;
use super::meddle::{Calm, Meddle, Meddled};
use crate::Fixture;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Whether a step moves this component.
pub(super) fn is_of(step: &StepId, place: usize) -> bool {
    NAMES.get(place).is_some_and(|name| step.as_str().starts_with(name))
}

pub(super) struct World<F, J> {
    fixtures: Vec<Arc<F>>,
    /// What was in place before.
    newer: Vec<Value>,
    journals: PhantomData<J>,
}

impl<F: Fixture, J: Journals> World<F, J> {
    pub(super) async fn new() -> Self {
        let (mut fixtures, mut newer) = (Vec::new(), Vec::new());
        for _ in NAMES {
            let fixture = F::new().await;
            newer.push(fixture.observe().await);
            fixtures.push(Arc::new(fixture));
        }
        Self { fixtures, newer, journals: PhantomData }
    }

    /// The way to the older revision of each.
    pub(super) async fn plan(&self, policy: FailurePolicy) -> Plan {
        let mut planner = Planner::new().on_failure(policy);
        for (index, (name, fixture)) in NAMES.into_iter().zip(&self.fixtures).enumerate() {
            let after: &[&str] = if index == 0 { &[] } else { &["a"] };
            planner = planner.rollback(name, fixture.component().await, fixture.older().target, after);
        }
        let plan = planner.plan().await.unwrap_or_else(|error| panic!("cannot plan: {error:?}"));
        assert!(
            plan.steps().iter().all(|step| !step.change.is_noop()),
            "Fixture::older must not be in place"
        );
        plan
    }

    /// Fresh handles, and what happens to them.
    pub(super) async fn components(&self, meddle: &Arc<dyn Meddle>, twice: bool) -> Components {
        let mut all = Components::new();
        for fixture in &self.fixtures {
            let inner = fixture.component().await;
            all = all.with(Arc::new(Meddled { inner, meddle: meddle.clone(), twice }));
        }
        all
    }

    pub(super) async fn calm(&self) -> Components {
        let calm: Arc<dyn Meddle> = Arc::new(Calm);
        self.components(&calm, false).await
    }

    pub(super) fn options(&self) -> RunOptions {
        let mut options = RunOptions::by("sweep");
        if let Some(fixture) = self.fixtures.first() {
            options.settings.verify_timeout = fixture.patience();
            options.settings.apply_timeout = fixture.patience();
        }
        options
    }

    /// Executes a plan with a journal of its own.
    pub(super) async fn run(&self, plan: &Plan, components: &Components) -> RunReport {
        let journals = J::new();
        let engine = Engine::new(journals.open());
        let report = engine.execute(plan, components, self.options()).await;
        report.unwrap_or_else(|error| panic!("the run did not begin: {error:?}"))
    }

    /// Goes on with the one run of a journal, as the next process would; answers how it ended in the end.
    pub(super) async fn resume(&self, journal: Arc<dyn Journal>) -> (RunId, Outcome) {
        let runs = journal.runs().await.unwrap_or_else(|error| panic!("the journal is lost: {error:?}"));
        let [run] = runs.as_slice() else { panic!("one run was begun, and not {runs:?}") };
        let run = run.run;
        let entries = journal.entries(run).await.unwrap_or_else(|error| panic!("the run is lost: {error:?}"));
        let state = RunState::replay(&entries).unwrap_or_else(|error| panic!("illegal: {error:?}"));
        if state.outcome != Outcome::Unfinished {
            return (run, state.outcome);
        }
        let report = Engine::new(journal).resume(run, &self.calm().await, self.options()).await;
        let report = report.unwrap_or_else(|error| panic!("the run did not go on: {error:?}"));
        (run, report.outcome)
    }

    /// How many writes the systems have accepted, where they count them.
    pub(super) async fn writes(&self) -> Option<u64> {
        let mut sum = 0;
        for fixture in &self.fixtures {
            sum += fixture.writes().await?;
        }
        Some(sum)
    }

    pub(super) fn len(&self) -> usize {
        self.fixtures.len()
    }

    fn fixture(&self, place: usize) -> &F {
        self.fixtures.get(place).unwrap_or_else(|| panic!("there is no component {place}"))
    }

    /// The worlds in which the components live.
    pub(super) async fn worlds(&self) -> Vec<(ComponentId, Arc<F>)> {
        let mut worlds = Vec::new();
        for fixture in &self.fixtures {
            worlds.push((fixture.component().await.id().clone(), fixture.clone()));
        }
        worlds
    }

    /// Whether all components have what was asked for.
    pub(super) async fn assert_older(&self, when: &str) {
        for fixture in &self.fixtures {
            assert_eq!(fixture.observe().await, fixture.older().content, "{when}");
        }
    }

    /// Whether one component has what it had before.
    pub(super) async fn assert_newer(&self, place: usize, when: &str) {
        assert_eq!(Some(&self.fixture(place).observe().await), self.newer.get(place), "{when}");
    }

    /// Brings everything back to where it was.
    pub(super) async fn reset(&self, plan: &Plan) {
        let components = self.calm().await;
        for Step { change, .. } in plan.steps().iter().rev() {
            let component = components.get(&change.component).unwrap_or_else(|error| panic!("{error:?}"));
            bring(&**component, &change.reversed(), self.options()).await;
        }
        for place in 0..self.len() {
            self.assert_newer(place, "brought back").await;
        }
    }
}

async fn bring(component: &dyn Rollbackable, change: &Change, options: RunOptions) {
    // Of several changes of a component, the later ones may not have been begun.
    if matches!(component.locate(change).await, Ok(Position::Elsewhere(_))) {
        return;
    }
    let cx = StepContext::new(options.run, StepId::new("reset"), options.settings.verify_timeout);
    component.apply(&cx, change).await.unwrap_or_else(|error| panic!("cannot be brought back: {error:?}"));
    let seen = component.verify(&cx, change).await;
    assert!(seen.as_ref().is_ok_and(Verification::is_converged), "cannot be brought back: {seen:?}");
}
