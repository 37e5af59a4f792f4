//! Crashes and lost responses.

use std::sync::Arc;

use async_trait::async_trait;
use rollback_core::{Change, ComponentId, Engine, FailurePolicy, Journal, Outcome, Plan, Result};

use super::journals::Fatal;
use super::meddle::{Calm, Meddle, Moment, Point};
use super::{Fixture, Journals, MOST_POINTS, World};
use crate::conformance::able;

/// Runs a plan that dies at a point, and lets the next process finish it. False when it did not die.
async fn dies_and_is_resumed<F: Fixture, J: Journals>(
    world: &World<F, J>,
    plan: &Plan,
    point: &Arc<Point>,
    meddle: Arc<dyn Meddle>,
    journal: impl FnOnce(Arc<dyn Journal>) -> Arc<dyn Journal>,
) -> bool {
    let journals = J::new();
    let outcome = {
        let engine = Engine::new(journal(journals.open()));
        let components = world.components(&meddle, false).await;
        point.survive(engine.execute(plan, &components, world.options())).await
    };
    if let Some(report) = outcome {
        let report = report.unwrap_or_else(|error| panic!("the run did not begin: {error:?}"));
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        return false;
    }
    let (_, outcome) = world.resume(journals.open()).await;
    assert_eq!(outcome, Outcome::Completed, "resumed after {point:?}");
    true
}

/// Moves the point on until a run does not meet it. The systems accept as many writes as in a calm run.
async fn sweep<F: Fixture, J: Journals>(run: impl AsyncFn(&World<F, J>, &Plan, &Arc<Point>) -> bool) {
    let world = World::<F, J>::new().await;
    let calm = {
        let before = world.writes().await;
        let plan = world.plan(FailurePolicy::Halt).await;
        assert!(!run(&world, &plan, &Point::new(MOST_POINTS)).await, "a run has fewer points");
        let writes = writes_since(before, world.writes().await);
        world.reset(&plan).await;
        writes
    };
    for nth in 0..MOST_POINTS {
        let (plan, point) = (world.plan(FailurePolicy::Halt).await, Point::new(nth));
        let before = world.writes().await;
        let met = run(&world, &plan, &point).await;
        let when = format!("point {nth}");
        world.assert_older(&when).await;
        // A write of the dead process may have been served and, by some systems, not counted.
        let writes = writes_since(before, world.writes().await);
        assert!(writes <= calm, "writes, {when}: {writes:?}, in a calm run {calm:?}");
        world.reset(&plan).await;
        if !met {
            assert!(nth > 0, "there was no point to be met");
            return;
        }
    }
}

fn writes_since(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    after?.checked_sub(before?)
}

/// The process dies after each entry of the journal in turn, the last included. The next one finds the run,
/// finishes it, and writes nothing twice.
pub async fn crashed_after_any_entry_of_the_journal_a_run_is_resumed<F: Fixture, J: Journals>() {
    sweep::<F, J>(async |world, plan, point| {
        let journal = |inner| Arc::new(Fatal { inner, point: point.clone() }) as Arc<dyn Journal>;
        dies_and_is_resumed(world, plan, point, Arc::new(Calm), journal).await
    })
    .await;
}

/// Dies at the point.
struct Dies(Arc<Point>);

#[async_trait]
impl Meddle for Dies {
    async fn at(&self, moment: Moment, _: &Change) -> Result<()> {
        if moment != Moment::Before {
            self.0.die_here().await;
        }
        Ok(())
    }
}

/// The process dies before each write in turn, and after the last write of each change. The next one finds
/// the run, finishes it, and writes nothing twice.
pub async fn crashed_before_or_after_any_write_a_run_is_resumed<F: Fixture, J: Journals>() {
    sweep::<F, J>(async |world, plan, point| {
        let dies = Arc::new(Dies(point.clone()));
        dies_and_is_resumed(world, plan, point, dies, |journal| journal).await
    })
    .await;
}

/// Loses the response of the write at the point.
struct Loses<F> {
    /// The components, and the worlds that they live in.
    worlds: Vec<(ComponentId, Arc<F>)>,
    point: Arc<Point>,
}

#[async_trait]
impl<F: Fixture> Meddle for Loses<F> {
    async fn at(&self, moment: Moment, change: &Change) -> Result<()> {
        if moment == Moment::Write && self.point.is_here() {
            let world = self.worlds.iter().find(|(component, _)| *component == change.component);
            let (_, world) = world.unwrap_or_else(|| panic!("{} is not in the plan", change.component));
            able("lose_next_response", world.lose_next_response().await);
        }
        Ok(())
    }
}

/// The response of each write in turn is lost. The run completes all the same, and writes nothing twice.
pub async fn the_response_of_any_write_lost_the_run_completes<F: Fixture, J: Journals>() {
    sweep::<F, J>(async |world, plan, point| {
        let loses: Arc<dyn Meddle> = Arc::new(Loses { worlds: world.worlds().await, point: point.clone() });
        let report = world.run(plan, &world.components(&loses, false).await).await;
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        point.was_met()
    })
    .await;
}
