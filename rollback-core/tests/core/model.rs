//! The engine against a model of a few lines, over random graphs in which random steps go wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use rollback_core::{
    Error, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Plan, StepId, StepOutcome as O,
};
use rollback_testkit::{MemoryComponent, Settling};
use tokio::runtime::Builder;

use crate::world::{component, components, engine, options, parts, plan};

/// What a step does of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Works,
    /// Its first write is turned down.
    Refuses,
    /// Its second write is turned down.
    FailsHalfWay,
    /// It does not settle.
    FailsAfter,
}

#[derive(Clone, Debug)]
struct Case {
    /// For each step what it does, and which of those before it come first.
    steps: Vec<(Nature, u8)>,
    policy: FailurePolicy,
    concurrency: usize,
}

fn case() -> impl Strategy<Value = Case> {
    use Nature::{FailsAfter, FailsHalfWay, Refuses, Works};
    let nature = prop::sample::select(vec![Works, Works, Works, Works, Refuses, FailsHalfWay, FailsAfter]);
    let policy =
        prop::sample::select(vec![FailurePolicy::Halt, FailurePolicy::Compensate, FailurePolicy::Continue]);
    (prop::collection::vec((nature, any::<u8>()), 1..7), policy, 1..4_usize)
        .prop_map(|(steps, policy, concurrency)| Case { steps, policy, concurrency })
}

fn spoil(component: &MemoryComponent, nature: Nature) {
    let denied = || Error::new(ErrorKind::PermissionDenied, "no");
    match nature {
        Nature::Works => {}
        Nature::Refuses => component.fail_write(1, denied()),
        Nature::FailsHalfWay => component.fail_write(2, denied()),
        Nature::FailsAfter => component.set_settling_of("v2", Settling::Fails("no".into())),
    }
}

/// What a step comes to, where all steps that can run do.
fn model(plan: &Plan, natures: &BTreeMap<StepId, Nature>) -> BTreeMap<StepId, O> {
    let mut all = BTreeMap::new();
    for step in plan.steps() {
        let runs = step.after.iter().all(|before| all.get(before) == Some(&O::Verified));
        let outcome = match natures[&step.id] {
            _ if !runs => O::Skipped,
            Nature::Works => O::Verified,
            Nature::Refuses => O::Refused,
            Nature::FailsHalfWay | Nature::FailsAfter => O::Failed,
        };
        all.insert(step.id.clone(), outcome);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_step_and_the_run_end_as_a_model_says(case in case()) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(&case));
    }
}

async fn check(case: &Case) {
    let names: Vec<String> = (0..case.steps.len()).map(|n| format!("s{n}")).collect();
    let all: Vec<MemoryComponent> = names.iter().map(|name| component(name)).collect();
    let before: Vec<Vec<&str>> = case
        .steps
        .iter()
        .enumerate()
        .map(|(n, (_, bits))| (0..n).filter(|m| bits >> m & 1 == 1).map(|m| names[m].as_str()).collect())
        .collect();
    let steps: Vec<(_, &[&str])> =
        all.iter().zip(&before).map(|(c, before)| (c, before.as_slice())).collect();
    let plan = plan(case.policy, &steps).await;
    let natures: BTreeMap<_, _> =
        names.iter().zip(&case.steps).map(|(name, (nature, _))| (StepId::new(name), *nature)).collect();
    for (component, (nature, _)) in all.iter().zip(&case.steps) {
        spoil(component, *nature);
    }
    let refs: Vec<_> = all.iter().collect();
    let engine = engine(Arc::new(MemoryJournal::new())).with_concurrency(case.concurrency);
    let report = engine.execute(&plan, &components(&refs), options()).await.unwrap();

    let modelled = model(&plan, &natures);
    let is_bad = |outcome: &O| matches!(outcome, O::Refused | O::Failed);
    let fails = modelled.values().any(is_bad);
    let changed = report.steps.iter().any(|step| matches!(step.outcome, O::Verified | O::Failed));
    for (step, component) in plan.steps().iter().map(|step| (step, &all[number(&step.id)])) {
        let seen = report.steps.iter().find(|report| report.id == step.id).unwrap().outcome;
        let legal: Vec<O> = match (modelled[&step.id], case.policy, fails) {
            (outcome, _, false) | (outcome, FailurePolicy::Continue, _) => vec![outcome],
            // It may not have begun before another failed.
            (outcome, FailurePolicy::Halt, _) => vec![outcome, O::Skipped],
            (O::Verified | O::Failed, ..) => vec![O::Compensated, O::Skipped],
            (outcome, ..) => vec![outcome, O::Skipped],
        };
        assert!(legal.contains(&seen), "{}: {seen:?}, legal {legal:?}, {case:?}", step.id);
        match seen {
            O::Verified => assert_eq!(component.live(), parts(2), "{case:?}"),
            O::Refused | O::Skipped | O::Compensated => assert_eq!(component.live(), parts(3), "{case:?}"),
            _ => {}
        }
    }
    let outcome = match (fails, case.policy) {
        (false, _) => Outcome::Completed,
        (true, FailurePolicy::Compensate) if report.steps.iter().any(|s| s.outcome == O::Compensated) => {
            assert!(!changed, "{report:?}");
            Outcome::Compensated
        }
        (true, _) => Outcome::Halted,
    };
    assert_eq!(report.outcome, outcome, "{case:?} {report:?}");
}

fn number(id: &StepId) -> usize {
    id.as_str().trim_start_matches('s').parse().unwrap()
}
