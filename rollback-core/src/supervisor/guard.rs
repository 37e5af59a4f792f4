//! Whether a change is to blame, and what keeps a policy from acting. Pure: what is known in, a reason out.

use std::time::Duration;

use super::hold::Holding;
use super::policy::Guards;
use super::reason::Reason;
use super::standing::Standing;
use crate::{Record, Revision, Timestamp};

/// In which time attempts count.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is known of a component when it comes to acting on it.
pub(super) struct Facts<'a> {
    pub(super) at: Timestamp,
    pub(super) history: &'a [Revision],
    pub(super) record: &'a Record,
    pub(super) standing: &'a Standing,
    /// Since when the symptom is seen.
    pub(super) since: Timestamp,
    /// When it was last seen to be well.
    pub(super) well_at: Option<Timestamp>,
    /// For how long nothing may have been seen between that and the symptom.
    pub(super) patience: Duration,
}

/// When what is in place came there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// At the first time or later, and by the second one.
    At(Timestamp, Timestamp),
    /// At some time before.
    Before(Timestamp),
    /// Since it was looked at last.
    New,
    Unknown,
}

impl Facts<'_> {
    pub(super) fn current(&self) -> Option<&Revision> {
        self.history.iter().find(|revision| revision.current)
    }

    /// Why the change of the component is not what to take back; else when it was.
    pub(super) fn blame(&self, guards: &Guards) -> Result<Timestamp, Reason> {
        let within = || format!("{} s", guards.changed_within.as_secs());
        if let Some(current) = self.current()
            && self.standing.result.as_ref() == Some(&current.fingerprint)
        {
            return Err(Reason::OwnResult { id: current.id.clone() });
        }
        let (changed, by) = match changed(self.history, self.record, self.standing) {
            Changed::At(at, _) | Changed::Before(at) if self.at.since(at) > guards.changed_within => {
                return Err(Reason::NotChanged { since: at, within: within() });
            }
            Changed::At(at, by) => (at, by),
            Changed::New => return Err(Reason::NotLooked),
            Changed::Before(_) | Changed::Unknown => return Err(Reason::ChangeUnknown),
        };
        if self.since < changed {
            return Err(Reason::FailedBefore { since: self.since, changed });
        }
        // Else it may have failed all the time, with nobody looking.
        let is_new = self.well_at.is_some_and(|well| well >= by || self.since.since(well) <= self.patience);
        if !is_new {
            return Err(Reason::NeverWell);
        }
        Ok(changed)
    }
}

/// When what is in place came there: a restart, which makes the same revision anew, does not count.
fn changed(history: &[Revision], record: &Record, standing: &Standing) -> Changed {
    let Some(current) = history.iter().find(|revision| revision.current) else { return Changed::Unknown };
    let same = history.iter().skip_while(|revision| !revision.current);
    let same = same.take_while(|revision| revision.fingerprint == current.fingerprint);
    let by_system = current.since.map(|since| {
        same.filter_map(|revision| revision.since.or(revision.created)).min().unwrap_or(since).min(since)
    });
    let in_place = record.in_place();
    let noted = in_place.last().filter(|(_, print)| *print == current.fingerprint).map(|(at, _)| *at);
    let seen = standing.changed.as_ref().filter(|seen| seen.fingerprint == current.fingerprint);
    match (by_system, noted, seen) {
        (Some(at), noted, _) => {
            let at = noted.map_or(at, |noted| noted.min(at));
            Changed::At(at, at)
        }
        (None, _, Some(seen)) => Changed::At(seen.after, seen.by),
        (None, Some(noted), None) if in_place.len() > 1 => Changed::At(noted, noted),
        (None, Some(noted), None) => Changed::Before(noted),
        (None, None, None) if in_place.is_empty() => Changed::Unknown,
        (None, None, None) => Changed::New,
    }
}

/// When a component changed last, where that is known.
pub(super) fn changed_at(history: &[Revision], record: &Record, standing: &Standing) -> Option<Timestamp> {
    match changed(history, record, standing) {
        Changed::At(at, _) => Some(at),
        Changed::Before(_) | Changed::New | Changed::Unknown => None,
    }
}

/// What keeps automation from changing a component now, whatever is to blame.
pub(super) fn barred(
    guards: &Guards,
    at: Timestamp,
    standing: &Standing,
    held: Option<Holding>,
) -> Option<Reason> {
    if let Some(Holding { by, until, reason, .. }) = held {
        return Some(Reason::Held { by, until, why: reason });
    }
    let freeze = guards.freezes.iter().find(|freeze| freeze.from <= at && at < freeze.until);
    if let Some(freeze) = freeze {
        return Some(Reason::Frozen { until: freeze.until, why: freeze.reason.clone() });
    }
    let rollbacks = || standing.attempts.iter().filter(|attempt| !attempt.restart);
    // One that a clock set back has put into the future counts as well.
    let count = rollbacks().filter(|attempt| at.since(attempt.at) < DAY).count();
    if count >= guards.max_attempts {
        return Some(Reason::Attempts { count });
    }
    let until = rollbacks().map(|attempt| attempt.at.saturating_add(guards.cooldown)).max();
    until.filter(|until| *until > at).map(|until| Reason::Cooldown { until })
}

/// How many automatic restarts there were within the hour, and how many of what is in place now.
pub(super) fn restarts(standing: &Standing, at: Timestamp, current: Option<&Revision>) -> (usize, usize) {
    let all = || standing.attempts.iter().filter(|attempt| attempt.restart);
    let recent = all().filter(|attempt| at.since(attempt.at) < Duration::from_secs(3600));
    let of_current = recent.clone().filter(|attempt| Some(&attempt.from) == current.map(|c| &c.fingerprint));
    (recent.count(), of_current.count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::standing::{Attempt, SeenChange};
    use super::*;
    use crate::{Fact, Fingerprint, Note, RunId, Snapshot};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000 + second * 1000).unwrap()
    }

    fn revision(id: &str, print: &str, current: bool, since: Option<i64>) -> Revision {
        Revision {
            id: id.into(),
            fingerprint: Fingerprint::of(&json!(print)),
            current,
            created: since.map(at),
            since: since.map(at).filter(|_| current),
            cause: None,
            mark: None,
            summary: String::new(),
        }
    }

    struct Case {
        history: Vec<Revision>,
        record: Record,
        standing: Standing,
    }

    impl Case {
        fn blame(&self, now: i64, since: i64, well_at: Option<i64>) -> Result<Timestamp, Reason> {
            let facts = Facts {
                at: at(now),
                history: &self.history,
                record: &self.record,
                standing: &self.standing,
                since: at(since),
                well_at: well_at.map(at),
                patience: Duration::from_secs(45),
            };
            facts.blame(&Guards::default())
        }
    }

    fn case(since: Option<i64>) -> Case {
        let history = vec![revision("2", "b", true, since), revision("1", "a", false, Some(-100_000))];
        Case { history, record: Record::default(), standing: Standing::default() }
    }

    fn word(blamed: Result<Timestamp, Reason>) -> &'static str {
        blamed.map_or_else(|reason| reason.word(), |_| "blamed")
    }

    #[test]
    fn a_change_is_to_blame_when_it_is_recent_and_older_than_the_symptom() {
        let case = case(Some(1000));
        assert_eq!(case.blame(1600, 1100, Some(1090)), Ok(at(1000)));
        assert_eq!(word(case.blame(1600, 900, Some(890))), "failedBefore");
        assert_eq!(word(case.blame(1600 + 3600, 1100, Some(1090))), "notChanged");
        // Nobody looked for a while before it began.
        assert_eq!(word(case.blame(1600, 1100, None)), "neverWell");
        assert_eq!(word(case.blame(1600, 1100, Some(900))), "neverWell");
        assert_eq!(word(case.blame(1600, 1001, Some(990))), "blamed");
    }

    #[test]
    fn without_the_systems_word_what_was_seen_counts_and_what_was_not_is_unknown() {
        let mut case = case(None);
        assert_eq!(word(case.blame(1600, 1100, Some(1090))), "changeUnknown");
        let snapshot = |print: &str| Snapshot {
            id: print.into(),
            fingerprint: Fingerprint::of(&json!(print)),
            summary: String::new(),
            content: json!({}),
        };
        let note = |second, print| Note {
            at: at(second),
            by: "me".into(),
            fact: Fact::InPlace { snapshot: snapshot(print) },
        };
        // The first time that it was seen is no change.
        case.record.add(note(1050, "b"));
        assert_eq!(word(case.blame(1600, 1100, Some(1090))), "changeUnknown");
        assert_eq!(word(case.blame(1050 + 3601, 4000, Some(3990))), "notChanged");
        case.record = Record::default();
        case.record.add(note(100, "a"));
        case.record.add(note(1050, "b"));
        assert_eq!(case.blame(1600, 1100, Some(1090)), Ok(at(1050)));
        // It was a while between two looks: it may have been at the beginning of that.
        case.standing.changed =
            Some(SeenChange { fingerprint: Fingerprint::of(&json!("b")), after: at(1020), by: at(1025) });
        assert_eq!(case.blame(1600, 1030, Some(1020)), Ok(at(1020)));
    }

    #[test]
    fn a_restart_is_no_change_and_what_a_rollback_returned_to_is_not_to_blame() {
        let mut case = case(Some(1000));
        case.history.insert(1, revision("1b", "b", false, Some(-90_000)));
        assert_eq!(word(case.blame(1600, 1100, Some(1090))), "notChanged");
        case.history.remove(1);
        case.standing.result = Some(Fingerprint::of(&json!("b")));
        assert_eq!(word(case.blame(1600, 1100, Some(1090))), "ownResult");
    }

    #[test]
    fn cool_down_attempts_and_restarts_count_what_was_done() {
        let guards = Guards::default();
        let attempt = |second, restart| Attempt {
            at: at(second),
            run: RunId::random(),
            policy: "p".into(),
            restart,
            from: Fingerprint::of(&json!("b")),
        };
        let mut standing = Standing::default();
        let word = |standing: &Standing, now| barred(&guards, at(now), standing, None).map(|r| r.word());
        assert_eq!(word(&standing, 0), None);
        standing.attempt(attempt(0, true));
        assert_eq!(word(&standing, 1), None, "a restart is no rollback");
        standing.attempt(attempt(10, false));
        assert_eq!(word(&standing, 5), Some("cooldown"), "the clock was set back");
        assert_eq!(word(&standing, 1809), Some("cooldown"));
        assert_eq!(word(&standing, 1810), None);
        standing.attempt(attempt(5000, false));
        assert_eq!(word(&standing, 9000), Some("attempts"));
        assert_eq!(word(&standing, 10 + 86_400), None);
        let current = revision("2", "b", true, None);
        assert_eq!(restarts(&standing, at(100), Some(&current)), (1, 1));
        assert_eq!(restarts(&standing, at(100), Some(&revision("3", "c", true, None))), (1, 0));
        assert_eq!(restarts(&standing, at(4000), Some(&current)), (0, 0));
    }
}
