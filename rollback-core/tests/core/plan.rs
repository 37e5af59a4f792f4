//! Plans as data: what is checked, their digest, and the way back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rollback_core::{
    Change, ChangeKind, ComponentId, ErrorKind, FailurePolicy, FieldChange, Fingerprint, Plan, Realm,
    Snapshot, Step, StepId,
};
use serde_json::{Value, json};

use crate::world::id;

fn snapshot(content: Value) -> Snapshot {
    Snapshot { id: "v".into(), fingerprint: Fingerprint::of(&content), summary: "a state".into(), content }
}

fn change(component: &str) -> Change {
    Change {
        component: ComponentId::new("memory", None, component).unwrap(),
        realm: Realm::new("memory"),
        kind: ChangeKind::Rollback,
        from: snapshot(json!([component, 2])),
        to: snapshot(json!([component, 1])),
        identity: Some("1".into()),
        diff: vec![FieldChange { path: "/image".into(), from: Some(2.into()), to: None }],
        warnings: Vec::new(),
        touches: Vec::new(),
        irreversible: None,
        passage: rollback_core::Passage::default(),
        hint: None,
    }
}

/// A step that changes a component of its own name.
fn step(name: &str, after: &[&str]) -> Step {
    Step { id: id(name), change: change(name), after: after.iter().map(|name| id(name)).collect() }
}

fn halt(steps: Vec<Step>) -> Result<Plan, rollback_core::Error> {
    Plan::new(steps, FailurePolicy::Halt)
}

#[track_caller]
fn assert_invalid(steps: Vec<Step>, text: &str) {
    let error = halt(steps).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPlan);
    assert!(error.to_string().contains(text), "{error}");
}

#[test]
fn a_plan_that_contradicts_itself_is_invalid_and_says_where() {
    assert_invalid(vec![], "at least one step");
    assert_invalid(vec![step("a", &[]), step("a", &[])], "two steps are named a");
    assert_invalid(vec![step("a", &["z"])], "a comes after z");
    assert_invalid(vec![step("a", &["a"])], "cycle: a");
    assert_invalid(vec![step("free", &[]), step("a", &["b"]), step("b", &["a"])], "cycle: a, b");
}

#[test]
fn two_steps_of_one_component_need_an_order() {
    let of_web = |name, after: &[&str]| Step { change: change("web"), ..step(name, after) };
    assert_invalid(vec![of_web("a", &[]), of_web("b", &[])], "steps a and b both change memory/web");
    assert_invalid(vec![step("x", &[]), of_web("a", &["x"]), of_web("b", &["x"])], "no order between");
    halt(vec![of_web("b", &["between"]), step("between", &["a"]), of_web("a", &[])]).unwrap();
}

#[test]
fn steps_come_after_their_predecessors_and_otherwise_as_given() {
    let plan = halt(vec![step("c", &["b"]), step("z", &[]), step("b", &["z"]), step("a", &[])]).unwrap();
    let order: Vec<_> = plan.steps().iter().map(|step| step.id.as_str()).collect();
    assert_eq!(order, ["z", "b", "c", "a"]);
}

#[test]
fn the_digest_ignores_names_hints_warnings_diffs_and_texts() {
    let plan = halt(vec![step("a", &[]), step("b", &["a"])]).unwrap();
    let mut steps = vec![step("a", &[]), step("b", &["a"])];
    steps[0].id = id("renamed");
    steps[1].after = vec![id("renamed"), id("renamed")];
    for Step { change, .. } in &mut steps {
        change.hint = Some(json!(7));
        change.warnings.push("careful".into());
        change.diff.clear();
        change.to.summary = "another text".into();
        change.to.id = "renumbered".into();
    }
    assert_eq!(halt(steps).unwrap().digest(), plan.digest());
}

#[test]
fn the_digest_tells_apart_whatever_changes_what_is_done() {
    let both = || vec![step("a", &[]), step("b", &["a"])];
    let with = |edit: fn(&mut Change)| {
        let mut steps = both();
        edit(&mut steps[1].change);
        halt(steps).unwrap()
    };
    let plans = [
        halt(both()).unwrap(),
        Plan::new(both(), FailurePolicy::Compensate).unwrap(),
        Plan::new(both(), FailurePolicy::Continue).unwrap(),
        halt(vec![step("a", &[]), step("b", &[])]).unwrap(),
        halt(vec![step("a", &["b"]), step("b", &[])]).unwrap(),
        halt(vec![step("a", &[])]).unwrap(),
        with(|change| change.realm = Realm::new("other")),
        with(|change| change.component = ComponentId::new("memory", None, "c").unwrap()),
        with(|change| change.kind = ChangeKind::Restart),
        with(|change| change.from = snapshot(json!(9))),
        with(|change| change.to = snapshot(json!(9))),
        halt(both()).unwrap().reversed().unwrap(),
    ];
    let digests: BTreeSet<_> = plans.iter().map(Plan::digest).collect();
    assert_eq!(digests.len(), plans.len());
}

#[test]
fn a_plan_survives_being_stored_and_is_checked_when_it_is_read() {
    let plan = Plan::new(vec![step("a", &[]), step("b", &["a"])], FailurePolicy::Compensate).unwrap();
    let stored = serde_json::to_value(&plan).unwrap();
    assert_eq!(serde_json::from_value::<Plan>(stored.clone()).unwrap(), plan);
    let mut cycle = stored;
    cycle["steps"][0]["after"] = json!(["b"]);
    let error = serde_json::from_value::<Plan>(cycle).unwrap_err();
    assert!(error.to_string().contains("cycle"), "{error}");
}

#[test]
fn a_plan_with_a_change_that_cannot_be_reversed_has_no_way_back() {
    let mut steps = vec![step("a", &[]), step("b", &["a"])];
    steps[1].change.irreversible = Some("the column is dropped".into());
    let error = halt(steps).unwrap().reversed().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("step b cannot be reversed: the column is dropped"), "{error}");
}

#[test]
fn debug_of_a_plan_shows_no_content() {
    let mut secret = step("a", &[]);
    secret.change.from = snapshot(json!({"password": "hunter2"}));
    secret.change.diff[0].from = Some("hunter2".into());
    assert!(!format!("{:?}", halt(vec![secret]).unwrap()).contains("hunter2"));
}

type Relations = BTreeMap<StepId, BTreeSet<StepId>>;

fn relations(plan: &Plan) -> Relations {
    plan.steps().iter().map(|step| (step.id.clone(), step.after.iter().cloned().collect())).collect()
}

/// Steps in any order, each after some of those with a lower number.
fn graph() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<u16>(), 1..10)
        .prop_map(|edges| {
            let after = |n: usize, bits: u16| (0..n).filter(move |before| bits & (1 << before) != 0);
            let names = |n, bits| after(n, bits).map(|before| id(&before.to_string())).collect();
            let steps = edges.iter().enumerate();
            steps.map(|(n, bits)| Step { after: names(n, *bits), ..step(&n.to_string(), &[]) }).collect()
        })
        .prop_flat_map(|steps: Vec<Step>| Just(steps).prop_shuffle())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_graph_without_a_cycle_is_put_in_order(steps in graph()) {
        let plan = halt(steps.clone()).unwrap();
        prop_assert_eq!(plan.steps().len(), steps.len());
        let mut placed = BTreeSet::new();
        for step in plan.steps() {
            prop_assert!(step.after.iter().all(|before| placed.contains(before)), "{} too early", step.id);
            placed.insert(step.id.clone());
        }
        let again = halt(plan.steps().to_vec()).unwrap();
        prop_assert_eq!(again.digest(), plan.digest());
    }

    #[test]
    fn any_relation_that_also_holds_the_other_way_round_is_a_cycle(steps in graph(), at in any::<prop::sample::Index>()) {
        let mut steps = steps;
        let Step { id: later, after, .. } = at.get(&steps).clone();
        let earlier = after.first().unwrap_or(&later).clone();
        steps.iter_mut().find(|step| step.id == earlier).unwrap().after.push(later);
        let error = halt(steps).unwrap_err();
        prop_assert!(error.to_string().contains("cycle"), "{error}");
    }

    #[test]
    fn reversing_turns_every_relation_round_and_reversing_twice_is_the_plan(steps in graph()) {
        let plan = halt(steps).unwrap();
        let back = plan.reversed().unwrap();
        let mut turned: Relations = relations(&plan).into_keys().map(|id| (id, BTreeSet::new())).collect();
        for (id, after) in relations(&plan) {
            for before in after {
                turned.get_mut(&before).unwrap().insert(id.clone());
            }
        }
        prop_assert_eq!(relations(&back), turned);
        for step in back.steps() {
            let there = &plan.step(&step.id).unwrap().change;
            prop_assert_eq!((&step.change.from, &step.change.to), (&there.to, &there.from));
        }
        let twice = back.reversed().unwrap();
        prop_assert_eq!(relations(&twice), relations(&plan));
        prop_assert_eq!(twice.digest(), plan.digest());
    }

    #[test]
    fn a_stored_plan_is_the_same_plan(steps in graph()) {
        let plan = halt(steps).unwrap();
        let read: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        prop_assert_eq!(read.digest(), plan.digest());
        prop_assert_eq!(read, plan);
    }
}
