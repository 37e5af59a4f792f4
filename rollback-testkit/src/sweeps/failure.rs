//! Steps and compensations that fail.

use std::sync::Arc;

use async_trait::async_trait;
use rollback_core::{
    Change, Components, Error, ErrorKind, FailurePolicy, Outcome, Plan, Result, RunReport, StepOutcome,
};

use super::meddle::{Calm, Meddle, Moment};
use super::world::is_of;
use super::{Fixture, Journals, World};

const POLICIES: [FailurePolicy; 3] =
    [FailurePolicy::Halt, FailurePolicy::Compensate, FailurePolicy::Continue];

/// What an injected failure says.
const INJECTED: &str = "failed by the sweep";

/// Fails changes, on their way to a state, each at its moment.
struct Fails(Vec<(Change, Moment)>);

fn failing(changes: impl Into<Vec<(Change, Moment)>>) -> Arc<dyn Meddle> {
    Arc::new(Fails(changes.into()))
}

#[async_trait]
impl Meddle for Fails {
    async fn at(&self, moment: Moment, change: &Change) -> Result<()> {
        let is_meant = self.0.iter().any(|(meant, when)| {
            *when == moment
                && meant.component == change.component
                && (&meant.from, &meant.to) == (&change.from, &change.to)
        });
        if is_meant { Err(Error::new(ErrorKind::PermissionDenied, INJECTED)) } else { Ok(()) }
    }
}

/// The changes of one component, in order.
fn changes_of(plan: &Plan, place: usize) -> impl DoubleEndedIterator<Item = &Change> {
    plan.steps().iter().filter(move |step| is_of(&step.id, place)).map(|step| &step.change)
}

/// Every change applied twice, and the whole plan executed once more, writes no more than once.
pub async fn any_step_repeated_changes_nothing_more<F: Fixture, J: Journals>() {
    let world = World::<F, J>::new().await;
    let mut counted = Vec::new();
    for twice in [false, true] {
        let plan = world.plan(FailurePolicy::Halt).await;
        let before = world.writes().await;
        let meddle: Arc<dyn Meddle> = Arc::new(Calm);
        let components = world.components(&meddle, twice).await;
        for _ in 0..=usize::from(twice) {
            let report = world.run(&plan, &components).await;
            assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        }
        let after = world.writes().await;
        counted.push(before.zip(after).map(|(before, after)| after - before));
        world.assert_older("repeated").await;
        world.reset(&plan).await;
    }
    assert_eq!(counted.first(), counted.last(), "writes, once and repeated");
}

fn fails_there(report: &RunReport, plan: &Plan, component: &Change, expected: StepOutcome) {
    let failed: Vec<_> = report.steps.iter().filter(|step| step.error.is_some()).collect();
    let [step] = failed.as_slice() else { panic!("one step should have failed: {report:#?}") };
    assert_eq!((&step.component, step.outcome), (&component.component, expected), "{report:#?}");
    let told = step.error.as_ref().is_some_and(|error| error.message.contains(INJECTED));
    assert!(told, "it failed for another reason: {report:#?}");
    assert_eq!(report.plan, plan.digest());
}

/// Each step in turn fails, before its first write and after its last, under each policy: it fails there and
/// nowhere else, and the others end as the policy says.
pub async fn any_step_failed_the_policy_decides<F: Fixture, J: Journals>() {
    let world = World::<F, J>::new().await;
    for policy in POLICIES {
        for place in 0..world.len() {
            for moment in [Moment::Before, Moment::After] {
                let plan = world.plan(policy).await;
                let Some(change) = changes_of(&plan, place).next() else { panic!("{place} is not moved") };
                let components = world.components(&failing([(change.clone(), moment)]), false).await;
                let report = world.run(&plan, &components).await;
                let wrote = moment == Moment::After;
                let compensates = policy == FailurePolicy::Compensate && (wrote || place > 0);
                let expected = match (wrote, compensates) {
                    (false, _) => StepOutcome::Refused,
                    (true, true) => StepOutcome::Compensated,
                    (true, false) => StepOutcome::Failed,
                };
                fails_there(&report, &plan, change, expected);
                let outcome = if compensates { Outcome::Compensated } else { Outcome::Halted };
                assert_eq!(report.outcome, outcome, "{report:#?}");
                for other in (0..world.len()).filter(|other| *other != place) {
                    assert_other(&report, &world, (policy, place), other).await;
                }
                if compensates {
                    world.assert_newer(place, "compensated").await;
                }
                world.reset(&plan).await;
            }
        }
    }
}

/// How a component ends of which another has failed.
async fn assert_other<F: Fixture, J: Journals>(
    report: &RunReport,
    world: &World<F, J>,
    (policy, failed): (FailurePolicy, usize),
    other: usize,
) {
    use StepOutcome::{Compensated, Skipped, Verified};
    let legal: &[StepOutcome] = match policy {
        // All come after the first.
        _ if failed == 0 => &[Skipped],
        FailurePolicy::Continue => &[Verified],
        // What was in flight is finished.
        FailurePolicy::Halt if other == 0 => &[Verified],
        FailurePolicy::Halt => &[Verified, Skipped],
        FailurePolicy::Compensate if other == 0 => &[Compensated],
        FailurePolicy::Compensate => &[Compensated, Skipped],
    };
    let steps: Vec<_> = report.steps.iter().filter(|step| is_of(&step.id, other)).collect();
    assert!(!steps.is_empty() && steps.iter().all(|step| legal.contains(&step.outcome)), "{report:#?}");
    if steps.iter().all(|step| step.outcome != Verified) {
        world.assert_newer(other, "left alone, or brought back").await;
    }
}

/// The last component fails once it is applied, and of all that is then reversed each in turn fails: the run
/// is stuck there, says so, and what came after it in that order stays.
pub async fn any_compensation_failed_the_run_is_stuck_there<F: Fixture, J: Journals>() {
    let world = World::<F, J>::new().await;
    let last = world.len() - 1;
    for place in 0..world.len() {
        let plan = world.plan(FailurePolicy::Compensate).await;
        let forth = changes_of(&plan, last).next().cloned();
        // Only the first component is through; of the others, the first change at least is there to be reversed.
        let mut changes = changes_of(&plan, place);
        let back = if place == 0 { changes.next_back() } else { changes.next() }.cloned();
        let (Some(forth), Some(back)) = (forth, back.map(|change| change.reversed())) else {
            panic!("{place} is not moved")
        };
        let fails = failing([(forth, Moment::After), (back.clone(), Moment::Before)]);
        let components: Components = world.components(&fails, false).await;
        let report = world.run(&plan, &components).await;
        assert_eq!(report.outcome, Outcome::Stuck, "{report:#?}");
        let stuck: Vec<_> =
            report.steps.iter().filter(|step| step.outcome == StepOutcome::CompensationFailed).collect();
        let [step] = stuck.as_slice() else { panic!("one step should be stuck: {report:#?}") };
        assert_eq!(step.component, back.component, "{report:#?}");
        assert!(step.changed && step.error.as_ref().is_some_and(|error| error.message.contains(INJECTED)));
        assert!(report.changed(), "{report:#?}");
        // The first comes last on the way back, so it stays wherever the way back ended.
        let mut first = report.steps.iter().filter(|step| is_of(&step.id, 0));
        assert!(first.all(|step| step.changed), "{report:#?}");
        world.reset(&plan).await;
    }
}
