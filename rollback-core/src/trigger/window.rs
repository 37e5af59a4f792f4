//! How long, or how often, before it counts: a small pure state machine.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What must have been seen to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Window {
    /// Breaches alone for this long. One good sample begins anew; what is unknown neither fires nor counts, and begins
    /// anew once it has lasted longer than two intervals.
    For(Duration),
    /// So many breaches in a row.
    InARow(u32),
    /// So many breaches among the last so many known samples: what tolerates a good one between.
    MOfN {
        /// How many breaches.
        m: u32,
        /// Among how many.
        n: u32,
    },
}

/// What one sample amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Beyond the limit.
    Breach,
    /// Within it.
    Good,
    /// It cannot be told.
    Unknown,
}

/// Where a window stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// All is well.
    #[default]
    Hold,
    /// Breached since then, and not yet for long enough.
    Pending(Timestamp),
    /// Breached since then.
    Firing(Timestamp),
    /// It cannot be told.
    Unknown,
}

/// What a window remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// When it was evaluated last.
    last: Option<Timestamp>,
    /// When something was known last.
    known: Option<Timestamp>,
    /// Since when all that is known was a breach; of m of n, the first breach among the last when there were
    /// enough of them, or are now.
    since: Option<Timestamp>,
    /// How many breaches in a row that are.
    row: u32,
    /// The last known samples, the newest at the end.
    recent: VecDeque<(Timestamp, bool)>,
    phase: Phase,
}

impl Window {
    /// For how long a metric that is evaluated at this interval is looked at before it can fire.
    pub fn length(self, interval: Duration) -> Duration {
        match self {
            Self::For(time) => time,
            Self::InARow(count) => interval.saturating_mul(count.saturating_sub(1)),
            Self::MOfN { n, .. } => interval.saturating_mul(n.saturating_sub(1)),
        }
    }

    /// Takes one sample in, of a metric that is evaluated at this interval.
    ///
    /// What came before is forgotten when the last evaluation is longer ago than two intervals, or when the clock was
    /// set back by more than that. A sample from the time of the last one, or a little before it, is late or repeated:
    /// it changes nothing.
    pub fn observe(self, interval: Duration, progress: &mut Progress, at: Timestamp, seen: Seen) -> Phase {
        let patience = interval.saturating_mul(2);
        if let Some(last) = progress.last {
            if at <= last && last.since(at) <= patience {
                return progress.phase;
            }
            if at < last || at.since(last) > patience {
                *progress = Progress::default();
            }
        }
        progress.last = Some(at);
        progress.phase = match seen {
            Seen::Unknown => {
                if progress.known.is_some_and(|known| at.since(known) > patience) {
                    progress.forget();
                }
                Phase::Unknown
            }
            Seen::Good => {
                progress.take(self, at, false);
                progress.phase_of(self, at)
            }
            Seen::Breach => {
                progress.take(self, at, true);
                progress.phase_of(self, at)
            }
        };
        progress.phase
    }
}

impl Progress {
    /// Since when all that is known was a breach.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    fn forget(&mut self) {
        self.since = None;
        self.row = 0;
        self.recent.clear();
    }

    fn take(&mut self, window: Window, at: Timestamp, is_breach: bool) {
        let before = self.since;
        self.known = Some(at);
        if is_breach {
            self.since.get_or_insert(at);
            self.row = self.row.saturating_add(1);
        } else {
            self.since = None;
            self.row = 0;
        }
        if let Window::MOfN { m, n } = window {
            let breaches = |recent: &VecDeque<(Timestamp, bool)>| {
                recent.iter().filter(|(_, is_breach)| *is_breach).count()
            };
            let is_enough = |count: usize| count >= usize::try_from(m.max(1)).unwrap_or(usize::MAX);
            let was_enough = is_enough(breaches(&self.recent));
            self.recent.push_back((at, is_breach));
            while self.recent.len() > usize::try_from(n).unwrap_or(usize::MAX) {
                self.recent.pop_front();
            }
            // What lies further back has nothing to do with it: a service may always have a bad sample now and then.
            let first = self.recent.iter().find(|(_, is_breach)| *is_breach).map(|(at, _)| *at);
            let is_same = was_enough && is_enough(breaches(&self.recent));
            self.since = if is_same { before.or(first) } else { first };
        }
    }

    fn phase_of(&self, window: Window, at: Timestamp) -> Phase {
        let (since, is_enough) = match window {
            Window::For(time) => (self.since, self.since.is_some_and(|since| at.since(since) >= time)),
            Window::InARow(count) => (self.since, self.row >= count.max(1)),
            Window::MOfN { m, .. } => {
                let count = self.recent.iter().filter(|(_, is_breach)| *is_breach).count();
                (self.since, count >= usize::try_from(m.max(1)).unwrap_or(usize::MAX))
            }
        };
        match (since, is_enough) {
            (None, _) => Phase::Hold,
            (Some(since), true) => Phase::Firing(since),
            // Of m of n a good one among the last is as good as any, unless too many are not.
            (Some(_), false) if self.row == 0 => Phase::Hold,
            (Some(since), false) => Phase::Pending(since),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000 + seconds * 1000).unwrap()
    }

    fn run(window: Window, samples: &[(i64, Seen)]) -> Vec<Phase> {
        let mut progress = Progress::default();
        samples
            .iter()
            .map(|(seconds, seen)| window.observe(INTERVAL, &mut progress, at(*seconds), *seen))
            .collect()
    }

    fn is_firing(phase: &Phase) -> bool {
        matches!(phase, Phase::Firing(_))
    }

    #[test]
    fn a_duration_fires_when_it_is_over_and_not_before_and_one_good_sample_begins_anew() {
        let window = Window::For(Duration::from_secs(60));
        let breach = |seconds| (seconds, Seen::Breach);
        let phases = run(window, &[breach(0), breach(15), breach(30), breach(45), breach(60)]);
        assert_eq!(phases.iter().map(is_firing).collect::<Vec<_>>(), [false, false, false, false, true]);
        assert_eq!(phases[4], Phase::Firing(at(0)));
        let phases =
            run(window, &[breach(0), breach(15), (30, Seen::Good), breach(45), breach(60), breach(75)]);
        assert!(!phases.iter().any(is_firing));
    }

    #[test]
    fn what_is_unknown_neither_fires_nor_counts_and_begins_anew_when_it_lasts() {
        let window = Window::InARow(3);
        let short =
            run(window, &[(0, Seen::Breach), (15, Seen::Unknown), (30, Seen::Breach), (45, Seen::Breach)]);
        assert_eq!(
            short,
            [Phase::Pending(at(0)), Phase::Unknown, Phase::Pending(at(0)), Phase::Firing(at(0))]
        );
        let long: Vec<_> =
            [Seen::Breach, Seen::Breach, Seen::Unknown, Seen::Unknown, Seen::Unknown, Seen::Breach]
                .into_iter()
                .zip((0..).step_by(15))
                .map(|(seen, seconds)| (seconds, seen))
                .collect();
        assert_eq!(run(window, &long)[5], Phase::Pending(at(75)));
    }

    #[test]
    fn m_of_n_tolerates_a_good_sample() {
        let window = Window::MOfN { m: 3, n: 4 };
        let all = [Seen::Breach, Seen::Good, Seen::Breach, Seen::Breach, Seen::Good, Seen::Good];
        let samples: Vec<_> = all.into_iter().zip((0..).step_by(15)).map(|(seen, s)| (s, seen)).collect();
        let firing: Vec<_> = run(window, &samples).iter().map(is_firing).collect();
        assert_eq!(firing, [false, false, false, true, false, false]);
    }

    #[test]
    fn a_pending_duration_survives_being_stored_and_a_long_gap_drops_it() {
        let window = Window::For(Duration::from_secs(30));
        let mut progress = Progress::default();
        window.observe(INTERVAL, &mut progress, at(0), Seen::Breach);
        window.observe(INTERVAL, &mut progress, at(15), Seen::Breach);
        let stored = serde_json::to_string(&progress).unwrap();
        let mut taken: Progress = serde_json::from_str(&stored).unwrap();
        assert_eq!(window.observe(INTERVAL, &mut taken, at(45), Seen::Breach), Phase::Firing(at(0)));
        assert_eq!(window.observe(INTERVAL, &mut progress, at(46), Seen::Breach), Phase::Pending(at(46)));
    }

    /// The same by looking at all that was seen, each time anew.
    fn naive(window: Window, history: &[(Timestamp, Seen)]) -> Phase {
        let patience = INTERVAL * 2;
        // What counts begins after the last thing that makes one forget.
        let mut begin = 0;
        let mut known: Option<Timestamp> = None;
        for (index, (at, seen)) in history.iter().enumerate() {
            if let Some((before, _)) = index.checked_sub(1).and_then(|index| history.get(index))
                && (at < before || at.since(*before) > patience)
            {
                (begin, known) = (index, None);
            }
            match seen {
                Seen::Unknown if known.is_some_and(|known| at.since(known) > patience) => begin = index,
                Seen::Unknown => {}
                _ => known = Some(*at),
            }
        }
        let Some((now, last)) = history.last() else { return Phase::Hold };
        if *last == Seen::Unknown {
            return Phase::Unknown;
        }
        let counted: Vec<_> =
            history[begin..].iter().filter(|(_, seen)| *seen != Seen::Unknown).copied().collect();
        let row: Vec<_> = counted.iter().rev().take_while(|(_, seen)| *seen == Seen::Breach).collect();
        let (since, is_enough) = match window {
            Window::For(time) => {
                let since = row.last().map(|(at, _)| *at);
                (since, since.is_some_and(|since| now.since(since) >= time))
            }
            Window::InARow(count) => (row.last().map(|(at, _)| *at), row.len() >= count.max(1) as usize),
            Window::MOfN { m, n } => {
                let breaches = |end: usize| -> Vec<_> {
                    let from = end.saturating_sub(n as usize);
                    counted[from..end].iter().filter(|(_, seen)| *seen == Seen::Breach).collect()
                };
                let is_enough = |end: usize| breaches(end).len() >= m.max(1) as usize;
                // Back to when there began to be enough.
                let end = counted.len();
                let begin = (1..=end).rev().take_while(|end| is_enough(*end)).last().unwrap_or(end);
                (breaches(begin).first().map(|(at, _)| *at), is_enough(end))
            }
        };
        match (since, is_enough) {
            (None, _) => Phase::Hold,
            (Some(since), true) => Phase::Firing(since),
            (Some(_), false) if *last == Seen::Good => Phase::Hold,
            (Some(since), false) => Phase::Pending(since),
        }
    }

    fn windows() -> impl Strategy<Value = Window> {
        prop_oneof![
            (0_u64..120).prop_map(|seconds| Window::For(Duration::from_secs(seconds))),
            (0_u32..6).prop_map(Window::InARow),
            (0_u32..5, 1_u32..6).prop_map(|(m, n)| Window::MOfN { m, n }),
        ]
    }

    /// Steps in seconds: mostly the interval, with jitter, gaps, late and repeated samples, and clocks that jump.
    fn steps() -> impl Strategy<Value = Vec<(i64, Seen)>> {
        let step = prop_oneof![
            8 => 14_i64..17,
            2 => Just(30),
            1 => 31_i64..200,
            1 => Just(0),
            1 => -30_i64..0,
            1 => -5000_i64..-30,
        ];
        let seen = prop_oneof![3 => Just(Seen::Breach), 1 => Just(Seen::Good), 1 => Just(Seen::Unknown)];
        prop::collection::vec((step, seen), 1..60)
    }

    proptest! {
        #[test]
        fn it_says_what_looking_at_everything_says(window in windows(), steps in steps()) {
            let (mut progress, mut history) = (Progress::default(), Vec::<(Timestamp, Seen)>::new());
            let mut now = 100_000;
            for (step, seen) in steps {
                now += step;
                let is_late = history.last().is_some_and(|(last, _)| {
                    at(now) <= *last && last.since(at(now)) <= INTERVAL * 2
                });
                if !is_late {
                    history.push((at(now), seen));
                }
                let phase = window.observe(INTERVAL, &mut progress, at(now), seen);
                prop_assert_eq!(phase, naive(window, &history));
                if is_late {
                    now = history.last().map_or(now, |(last, _)| {
                        (last.as_unix_millis() - at(0).as_unix_millis()) / 1000
                    });
                }
            }
        }
    }
}
