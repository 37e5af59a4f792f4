//! What must hold at the end of every world.

use std::sync::Arc;

use rollback_core::{FailurePolicy, Journal, Outcome, RunId, RunState, Step, StepOutcome, StepState};

use super::component::{Content, Effect, sides};
use super::world::{World, id, lock};

pub(crate) async fn all(world: &Arc<World>) {
    for (place, server) in world.servers.iter().enumerate() {
        let server = lock(server);
        for effect in &server.effects {
            every_effect_was_intended_and_landed_on_what_was_located(effect, server.compares);
        }
        nothing_takes_effect_twice(&server.effects, place);
    }
    for journal in &world.journals {
        for run in journal.runs().await.unwrap() {
            let state = journal.state(run.run).unwrap();
            assert_ne!(state.outcome, Outcome::Unfinished, "{} can be ended", run.run);
            world.count(word(state.outcome));
            for step in state.plan.steps() {
                the_journal_tells_what_happened(world, run.run, &state, step);
            }
            the_outcome_fits_the_policy(&state);
        }
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NothingToDo => "NothingToDo",
        Outcome::Completed => "Completed",
        Outcome::Halted => "Halted",
        Outcome::Compensated => "Compensated",
        Outcome::Stuck => "Stuck",
        Outcome::Unfinished => "Unfinished",
        Outcome::Abandoned => "Abandoned",
    }
}

fn every_effect_was_intended_and_landed_on_what_was_located(effect: &Effect, compares: bool) {
    let Some(sides) = effect.sides else { return };
    assert!(effect.was_intended, "an effect without a durable intent: {effect:?}");
    if compares {
        assert!(!effect.is_late, "a write on content that was not looked at: {effect:?}");
        let of_the_change = sides.iter().any(|side| side[effect.part] == effect.before);
        assert!(of_the_change, "somebody's change overwritten: {effect:?}");
    }
}

/// Between two effects of one run on a part in the same direction somebody else must have moved it back.
fn nothing_takes_effect_twice(effects: &[Effect], place: usize) {
    for (index, later) in effects.iter().enumerate() {
        let earlier = effects[..index].iter().rposition(|e| e.by == later.by && e.part == later.part);
        let Some(earlier) = earlier.filter(|_| later.by.is_some()) else { continue };
        if effects[earlier].after == later.after {
            let moved = effects[earlier + 1..index].iter().any(|e| e.part == later.part && e.by != later.by);
            assert!(moved, "c{place}: twice: {later:?}");
        }
    }
}

fn the_journal_tells_what_happened(world: &World, run: RunId, state: &RunState, step: &Step) {
    let place = (0..world.servers.len()).find(|place| id(*place) == step.change.component).unwrap();
    let server = lock(&world.servers[place]);
    let known = state.step(&step.id).unwrap();
    // A server that takes every write takes that of a dead process at any later time: nobody can know.
    let is_own = |e: &&Effect| e.by == Some((run, step.id.clone())) && (server.compares || !e.is_orphan);
    let own: Vec<&Effect> = server.effects.iter().filter(is_own).collect();
    let told = || format!("run {run}, step {}, {known:?}, effects {own:?}", step.id);
    let [from, to] = sides(&step.change);
    // By itself, or by somebody else who was faster.
    let went_back = || {
        let last = server.effects.iter().rposition(|e| is_own(&e) && e.sides == Some([from, to]));
        last.is_none_or(|last| server.effects[last..].iter().any(|effect: &Effect| effect.content == from))
    };
    match known.outcome {
        StepOutcome::NothingToDo | StepOutcome::Skipped => {
            assert!(own.is_empty() && !known.changed, "said to be untouched: {}", told());
        }
        StepOutcome::Refused => assert!(went_back() && !known.changed, "said to be untouched: {}", told()),
        StepOutcome::Compensated => assert!(went_back() && !known.changed, "said to be reversed: {}", told()),
        StepOutcome::Verified | StepOutcome::Applied => {
            assert!(was_there(&server.effects, to), "said to be made: {}", told());
            if !server.compares && known.outcome == StepOutcome::Verified {
                let overwrote =
                    |effect: &&Effect| effect.before != from[effect.part] && effect.before != to[effect.part];
                assert!(!own.iter().any(overwrote), "an overlap called {:?}: {}", known.outcome, told());
            }
        }
        StepOutcome::Failed | StepOutcome::CompensationFailed => {
            assert!(known.changed, "{}", told());
        }
        // Closed by a person.
        StepOutcome::Pending => assert!(own.is_empty() || maybe_changed(known), "{}", told()),
    }
}

fn maybe_changed(step: &StepState) -> bool {
    step.changed || step.in_flight
}

/// Whether the content was ever this; what there was at the beginning counts as well.
fn was_there(effects: &[Effect], content: Content) -> bool {
    let first = effects.first().map(|effect| {
        let mut first = effect.content;
        first[effect.part] = effect.before;
        first
    });
    first.is_none_or(|first| first == content) || effects.iter().any(|effect| effect.content == content)
}

fn the_outcome_fits_the_policy(state: &RunState) {
    let outcomes: Vec<_> =
        state.plan.steps().iter().map(|step| state.step(&step.id).unwrap().outcome).collect();
    let has = |wanted: StepOutcome| outcomes.contains(&wanted);
    match state.outcome {
        Outcome::Compensated => assert_eq!(state.plan.on_failure(), FailurePolicy::Compensate),
        Outcome::Stuck => assert!(has(StepOutcome::CompensationFailed), "{outcomes:?}"),
        Outcome::Halted => assert!(
            has(StepOutcome::Failed) || has(StepOutcome::Refused) || has(StepOutcome::Compensated),
            "{outcomes:?}"
        ),
        Outcome::Completed => {
            let good = |o: &StepOutcome| matches!(o, StepOutcome::Verified | StepOutcome::NothingToDo);
            assert!(outcomes.iter().all(good), "{outcomes:?}");
        }
        _ => {}
    }
}
