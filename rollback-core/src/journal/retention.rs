//! How long runs are kept.

use std::time::Duration;

use crate::{Outcome, RunId, RunSummary, Timestamp};

/// How many runs a journal keeps, and for how long. Unfinished ones stay, and marks are not kept there.
///
/// ```
/// use rollback_core::Retention;
/// let kept = Retention::default();
/// assert_eq!((kept.runs, kept.age.as_secs() / 86_400), (1_000, 365));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How many that have ended, the newest first.
    pub runs: usize,
    /// For how long after their end.
    pub age: Duration,
}

impl Default for Retention {
    /// The last 1,000, for a year.
    fn default() -> Self {
        Self { runs: 1_000, age: Duration::from_secs(365 * 86_400) }
    }
}

impl Retention {
    /// Those of a list, newest first, that are not kept any more.
    pub fn expired(&self, runs: &[RunSummary], now: Timestamp) -> Vec<RunId> {
        let ended = runs.iter().filter(|run| run.outcome != Outcome::Unfinished);
        let expired = ended.enumerate().filter(|(place, run)| {
            *place >= self.runs || run.finished_at.is_some_and(|end| now.since(end) > self.age)
        });
        expired.map(|(_, run)| run.run).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_runs_go_by_number_and_by_age_and_unfinished_ones_stay() {
        let at = |second: i64| Timestamp::from_unix_millis(second * 1000).unwrap();
        let run = |end: Option<i64>| RunSummary {
            run: RunId::random(),
            outcome: if end.is_some() { Outcome::Completed } else { Outcome::Unfinished },
            started_at: at(0),
            finished_at: end.map(at),
            components: Vec::new(),
        };
        let runs = [None, Some(90), Some(80), None, Some(10), Some(5)].map(run);
        let expired = |runs_kept, age| {
            let kept = Retention { runs: runs_kept, age: Duration::from_secs(age) };
            kept.expired(&runs, at(100))
        };
        let ids = |places: &[usize]| places.iter().map(|place| runs[*place].run).collect::<Vec<_>>();
        assert_eq!(expired(10, 1_000), ids(&[]));
        assert_eq!(expired(2, 1_000), ids(&[4, 5]));
        assert_eq!(expired(10, 15), ids(&[2, 4, 5]));
    }
}
