//! Whole worlds, each from a seed: several operators with plans of the same components, whose processes die or
//! are paused, on a network that loses and delays, with journals that fail, leases that expire, and people who
//! edit beside them. After each, what the journals say must be what happened.
//!
//! `ROLLBACK_TEST_SCHEDULES` says how many worlds (10,000), `ROLLBACK_TEST_SEED` replays one and tells it.

mod check;
mod component;
mod journal;
mod operator;
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::thread;

use world::{Tally, World};

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// One world, from its beginning until all runs have ended and were checked.
fn simulate(seed: u64, told: bool) -> (Vec<String>, Tally) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let world = World::new(seed, told);
        operator::live(&world).await;
        check::all(&world).await;
        world.end()
    })
}

#[test]
fn what_the_journals_say_is_what_happened_in_every_world() {
    if let Some(seed) = number("ROLLBACK_TEST_SEED") {
        simulate(seed, true);
        return;
    }
    let schedules = number("ROLLBACK_TEST_SCHEDULES").unwrap_or(10_000);
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let tallies = thread::scope(|scope| {
        let part = |first: u64| {
            let mut sum: Tally = BTreeMap::new();
            for seed in (first..schedules).step_by(usize::try_from(threads).unwrap()) {
                let done = std::panic::catch_unwind(AssertUnwindSafe(|| simulate(seed, false)));
                let Ok((_, tally)) = done else { panic!("replay it with ROLLBACK_TEST_SEED={seed}") };
                for (what, count) in tally {
                    *sum.entry(what).or_default() += count;
                }
            }
            sum
        };
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    let mut sum: Tally = BTreeMap::new();
    for (what, count) in tallies.into_iter().flatten() {
        *sum.entry(what).or_default() += count;
    }
    println!("{schedules} schedules: {sum:?}");
    // A simulation in which nothing happens proves nothing.
    for what in [
        "process died",
        "process paused",
        "response lost",
        "request lost",
        "read stale",
        "edit by hand",
        "journal failed",
        "lease lost",
        "lease refused",
        "lease broken",
        "overlap without compare-and-set",
        "resumed",
        "abandoned",
        "reverted",
        "Completed",
        "Halted",
        "Compensated",
        "Stuck",
    ] {
        let count = sum.get(what).copied().unwrap_or_default();
        assert!(count * 1_000 >= schedules, "{what}: only {count} times in {schedules} schedules: {sum:?}");
    }
}

#[test]
fn a_seed_replays_the_same_world() {
    for seed in 0..50 {
        let [first, second] = [(); 2].map(|()| simulate(seed, false).0);
        assert!(!first.is_empty());
        assert_eq!(first, second, "seed {seed}");
    }
}
