//! Who comes before whom, and how many at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Entry, Event, FailurePolicy, Journal, MemoryJournal, Outcome, Plan, StepEvent, StepOutcome,
};
use rollback_testkit::MemoryComponent;
use tokio::time::Instant;

use crate::world::{component, components, engine, options, outcomes, plan, run};

/// The most steps that were under way at once; panics where one began before a predecessor was verified.
fn most_at_once(plan: &Plan, entries: &[Entry]) -> usize {
    let (mut running, mut done, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
    for entry in entries {
        let Event::Step { step, event } = &entry.event else { continue };
        match event {
            StepEvent::Started { .. } => {
                running.insert(step);
                for before in &plan.step(step).unwrap().after {
                    assert!(done.contains(before), "{step} began before {before} was verified");
                }
            }
            StepEvent::Verified { .. } => {
                running.remove(step);
                done.insert(step);
            }
            _ => {}
        }
        most = most.max(running.len());
    }
    assert_eq!(done.len(), plan.steps().len(), "every step is verified");
    most
}

#[tokio::test(start_paused = true)]
async fn a_step_begins_once_all_before_it_are_verified() {
    let all = ["first", "left", "right", "last"].map(component);
    for (component, seconds) in all.iter().zip([1, 2, 9, 1]) {
        component.set_latency(Duration::from_secs(seconds));
    }
    let [first, left, right, last] = &all;
    let steps: [(_, &[_]); 4] =
        [(last, &["left", "right"]), (right, &["first"]), (left, &["first"]), (first, &[])];
    let plan = plan(FailurePolicy::Halt, &steps).await;
    let (report, entries) = run(&plan, &[first, left, right, last], options()).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == StepOutcome::Verified), "{report:?}");
    assert_eq!(most_at_once(&plan, &entries), 2, "left and right run side by side");
}

#[tokio::test(start_paused = true)]
async fn no_more_steps_run_side_by_side_than_allowed() {
    for allowed in [1, 3, 20] {
        let all: Vec<MemoryComponent> = (0..6).map(|n| component(&format!("c{n}"))).collect();
        let steps: Vec<(_, &[_])> = all.iter().map(|component| (component, [].as_slice())).collect();
        let plan = plan(FailurePolicy::Halt, &steps).await;
        for component in &all {
            component.set_latency(Duration::from_secs(1));
        }
        let journal = Arc::new(MemoryJournal::new());
        let engine = engine(journal.clone()).with_concurrency(allowed);
        let start = Instant::now();
        let all: Vec<_> = all.iter().collect();
        let report = engine.execute(&plan, &components(&all), options()).await.unwrap();
        let entries = journal.entries(report.run).await.unwrap();
        assert_eq!(most_at_once(&plan, &entries), allowed.min(6));
        // The realm is asked of all at once; then each step reads, writes twice and looks, a second each.
        let rounds = 6_u32.div_ceil(u32::try_from(allowed).unwrap());
        assert_eq!(start.elapsed().as_secs(), u64::from(1 + 4 * rounds));
    }
}
