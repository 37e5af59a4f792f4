//! Killed at random moments.

use std::thread::sleep;
use std::time::Duration;

use rollback_core::{Journal, RunState, StepEvent, StepId};

use crate::child::Process;
use crate::world::{Home, block_on, finished, id, started, step};

#[test]
fn everything_acknowledged_survives_a_kill() {
    let home = Home::new();
    let mut lost = 0;
    for round in 0..20 {
        let run = id();
        let mut process = Process::start("append", &home.path(), run);
        process.wait_for("recorded");
        sleep(Duration::from_millis(fastrand::u64(0..120)));
        let said = process.kill();
        let recorded = |line: &String| line.strip_prefix("recorded ").map(|number| number.parse().unwrap());
        let acknowledged: u32 = said.iter().filter_map(recorded).max().unwrap_or(1);

        let journal = home.open();
        let entries = block_on(journal.entries(run)).unwrap();
        let state = RunState::replay(&entries).unwrap();
        let attempts = state.step(&StepId::new("a")).unwrap().attempts;
        assert!(attempts >= acknowledged, "round {round}: {acknowledged} acknowledged, {attempts} there");
        assert_eq!(entries.len(), 1 + attempts as usize);
        for (entry, attempt) in entries[1..].iter().zip(1..) {
            assert_eq!(*entry, started("a", attempt));
        }
        lost += attempts - acknowledged;
        block_on(async {
            journal.append(run, step("a", StepEvent::Applied)).await.unwrap();
            journal.append(run, finished(rollback_core::Outcome::Completed)).await.unwrap();
        });
    }
    // At most one entry is on its way at any time.
    assert!(lost <= 20, "{lost}");
}
