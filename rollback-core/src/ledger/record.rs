//! What is known of one component, folded from what was noted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Change, Error, ErrorKind, Fingerprint, Mark, Result, RunId, Snapshot, Timestamp};

/// Something that became known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// Who or what noted it.
    pub by: String,
    /// What.
    pub fact: Fact,
}

/// What can be known of a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Fact {
    /// A revision is in place, since the time of the note or earlier.
    InPlace {
        /// Its whole state.
        snapshot: Snapshot,
    },
    /// A revision is good or bad, as somebody says.
    Marked {
        /// The id of the revision then.
        id: String,
        /// Its identity.
        fingerprint: Fingerprint,
        /// What it is.
        mark: Mark,
        /// Why.
        why: Option<String>,
        /// Its whole state, where it could be had.
        snapshot: Option<Snapshot>,
    },
    /// A rollback moved away from a revision.
    Left {
        /// Its whole state.
        snapshot: Snapshot,
        /// The rollback.
        run: RunId,
    },
    /// What a policy has to remember; null forgets it.
    Memory {
        /// Which policy.
        policy: String,
        /// What, in the policy's own form.
        value: Value,
    },
}

/// What is known of one component.
///
/// Bounded, because a store is: the last 50 revisions without a good or bad mark, the last 300 marked good and
/// the last 300 marked bad; of snapshots as many as fit into 256 KiB, the one marked good last before all others;
/// and the last 200 changes of what is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    revisions: BTreeMap<Fingerprint, Known>,
    in_place: Vec<(Timestamp, Fingerprint)>,
    memory: BTreeMap<String, Value>,
}

/// What is known of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// The id that it had last.
    pub id: String,
    /// Whether it is good or bad, as somebody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marking: Option<Marking>,
    /// Which rollback moved away from it, unless it was seen in place since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Leaving>,
    /// Its whole state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// When something was last noted of it.
    pub noted: Timestamp,
}

/// What somebody says of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marking {
    /// What it is.
    pub mark: Mark,
    /// Since when.
    pub at: Timestamp,
    /// Who says so.
    pub by: String,
    /// Why.
    pub why: Option<String>,
}

/// A rollback that moved away from a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// The id that the revision had: deployed again, most systems give it another.
    pub id: String,
    /// The rollback.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
    /// Who or what carried it out.
    pub by: String,
}

const MOST_UNMARKED: usize = 50;
const MOST_MARKED: usize = 300;
const MOST_CHANGES: usize = 200;
const MOST_SNAPSHOT_BYTES: usize = 256 * 1024;

impl Record {
    /// What is known of a revision.
    pub fn known(&self, fingerprint: &Fingerprint) -> Option<&Known> {
        self.revisions.get(fingerprint)
    }

    /// All revisions that something is known of, in no order.
    pub fn revisions(&self) -> impl Iterator<Item = (&Fingerprint, &Known)> {
        self.revisions.iter()
    }

    /// The mark that somebody gave a revision.
    pub fn mark(&self, fingerprint: &Fingerprint) -> Option<Mark> {
        Some(self.known(fingerprint)?.marking.as_ref()?.mark)
    }

    /// Whether a revision is marked bad.
    pub fn is_bad(&self, fingerprint: &Fingerprint) -> bool {
        self.mark(fingerprint) == Some(Mark::Bad)
    }

    /// Refuses a change that ends at what is marked bad.
    ///
    /// # Errors
    /// `Refused`, with who marked it, when and why.
    pub fn refuse_bad(&self, change: &Change) -> Result<()> {
        let to = &change.to;
        let marking = self.known(&to.fingerprint).and_then(|known| known.marking.as_ref());
        let Some(marking) = marking.filter(|marking| marking.mark == Mark::Bad) else { return Ok(()) };
        let why = marking.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!("revision {} is marked bad, by {} at {}{why}", to.id, marking.by, marking.at);
        Err(Error::new(ErrorKind::Refused, message)
            .with_component(&change.component)
            .with_hint("name another revision, or return to it all the same with --force"))
    }

    /// The rollback that left the revision of this id, unless it was deployed again since.
    pub fn left(&self, fingerprint: &Fingerprint, id: &str) -> Option<&Leaving> {
        self.known(fingerprint)?.left.as_ref().filter(|left| left.id == id)
    }

    /// Since when what was in place, oldest first, as far as it was seen.
    pub fn in_place(&self) -> &[(Timestamp, Fingerprint)] {
        &self.in_place
    }

    /// What a policy has to remember.
    pub fn memory(&self, policy: &str) -> Option<&Value> {
        self.memory.get(policy)
    }

    /// Adds what became known.
    pub fn add(&mut self, note: Note) {
        let Note { at, by, fact } = note;
        match fact {
            Fact::InPlace { snapshot } => {
                let fingerprint = snapshot.fingerprint.clone();
                if self.in_place.contains(&(at, fingerprint.clone())) {
                    return;
                }
                let known = self.entry(&fingerprint, &snapshot.id, at);
                known.left = None;
                known.snapshot = Some(snapshot);
                // The clocks of those who note need not agree.
                let at = self.in_place.last().map_or(at, |(last, _)| at.max(*last));
                if self.in_place.last().is_none_or(|(_, last)| *last != fingerprint) {
                    self.in_place.push((at, fingerprint));
                }
            }
            Fact::Marked { id, fingerprint, mark, why, snapshot } => {
                let known = self.entry(&fingerprint, &id, at);
                known.marking = Some(Marking { mark, at, by, why });
                known.snapshot = snapshot.or_else(|| known.snapshot.take());
            }
            Fact::Left { snapshot, run } => {
                let fingerprint = snapshot.fingerprint.clone();
                let last = self.in_place.iter().rev().find(|(_, known)| *known == fingerprint);
                if last.is_some_and(|(since, _)| *since > at) {
                    return;
                }
                let known = self.entry(&fingerprint, &snapshot.id, at);
                known.left = Some(Leaving { id: snapshot.id.clone(), run, at, by });
                known.snapshot = Some(snapshot);
            }
            Fact::Memory { policy, value: Value::Null } => {
                self.memory.remove(&policy);
            }
            Fact::Memory { policy, value } => {
                self.memory.insert(policy, value);
            }
        }
        self.trim();
    }

    fn entry(&mut self, fingerprint: &Fingerprint, id: &str, at: Timestamp) -> &mut Known {
        let new = || Known { id: id.to_owned(), marking: None, left: None, snapshot: None, noted: at };
        let known = self.revisions.entry(fingerprint.clone()).or_insert_with(new);
        id.clone_into(&mut known.id);
        known.noted = known.noted.max(at);
        known
    }

    fn trim(&mut self) {
        let surplus = self.in_place.len().saturating_sub(MOST_CHANGES);
        self.in_place.drain(..surplus);

        let marked = |known: &Known| known.marking.as_ref().map(|marking| marking.mark);
        for (mark, most) in
            [(None, MOST_UNMARKED), (Some(Mark::Good), MOST_MARKED), (Some(Mark::Bad), MOST_MARKED)]
        {
            let mut alike: Vec<_> =
                self.revisions.iter().filter(|(_, known)| marked(known) == mark).collect();
            alike.sort_by_key(|(_, known)| std::cmp::Reverse(known.noted));
            let surplus: Vec<_> = alike.into_iter().skip(most).map(|(print, _)| print.clone()).collect();
            for fingerprint in surplus {
                self.revisions.remove(&fingerprint);
            }
        }

        let is_good = |known: &Known| {
            known.marking.as_ref().filter(|marking| marking.mark == Mark::Good).map(|marking| marking.at)
        };
        let last_good =
            self.revisions.values().filter(|known| known.snapshot.is_some()).filter_map(is_good).max();
        let mut held: Vec<_> = self.revisions.values_mut().filter(|known| known.snapshot.is_some()).collect();
        held.sort_by_key(|known| {
            let good = is_good(known);
            (std::cmp::Reverse(good.is_some() && good == last_good), std::cmp::Reverse(known.noted))
        });
        let mut bytes = 0;
        for (place, known) in held.into_iter().enumerate() {
            let size = known.snapshot.as_ref().map(|snapshot| snapshot.content.to_string().len());
            bytes += size.unwrap_or_default();
            // The first may take more alone, as much as a store can hold.
            let most = if place == 0 { 2 * MOST_SNAPSHOT_BYTES } else { MOST_SNAPSHOT_BYTES };
            if bytes > most {
                known.snapshot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_millis(second * 1000).unwrap()
    }

    fn snapshot(id: &str, size: usize) -> Snapshot {
        let content = json!({"id": id, "filling": "x".repeat(size)});
        Snapshot { id: id.into(), fingerprint: Fingerprint::of(&json!(id)), summary: id.into(), content }
    }

    fn note(second: i64, fact: Fact) -> Note {
        Note { at: at(second), by: "me".into(), fact }
    }

    fn marked(second: i64, id: &str, mark: Mark) -> Note {
        let Snapshot { id, fingerprint, .. } = snapshot(id, 0);
        note(second, Fact::Marked { id, fingerprint, mark, why: None, snapshot: None })
    }

    #[test]
    fn what_was_left_is_left_until_it_is_in_place_again_or_has_another_id() {
        let (mut record, two) = (Record::default(), snapshot("2", 0));
        let run = RunId::random();
        record.add(note(1, Fact::Left { snapshot: two.clone(), run }));
        assert!(record.left(&two.fingerprint, "2").is_some());
        assert!(record.left(&two.fingerprint, "4").is_none(), "it was deployed again");
        record.add(note(2, Fact::InPlace { snapshot: two.clone() }));
        assert!(record.left(&two.fingerprint, "2").is_none());
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_turn_the_order_around() {
        let mut record = Record::default();
        for (second, id) in [(10, "1"), (5, "2"), (5, "2"), (11, "1")] {
            record.add(note(second, Fact::InPlace { snapshot: snapshot(id, 0) }));
        }
        let times: Vec<_> = record.in_place().iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [at(10), at(10), at(11)]);
    }

    #[test]
    fn marks_and_the_last_good_snapshot_outlast_everything_else() {
        let mut record = Record::default();
        for (second, id) in [(1, "good"), (2, "better"), (3, "bad")] {
            record.add(note(second, Fact::InPlace { snapshot: snapshot(id, 100_000) }));
        }
        for (second, id, mark) in [(4, "good", Mark::Good), (5, "better", Mark::Good), (6, "bad", Mark::Bad)]
        {
            record.add(marked(second, id, mark));
        }
        for n in 0..500 {
            record.add(note(10 + n, Fact::InPlace { snapshot: snapshot(&n.to_string(), 20_000) }));
        }
        let known = |id: &str| record.known(&snapshot(id, 0).fingerprint);
        assert!(record.is_bad(&snapshot("bad", 0).fingerprint));
        assert_eq!(known("good").unwrap().marking.as_ref().unwrap().mark, Mark::Good);
        assert!(known("better").unwrap().snapshot.is_some() && known("good").unwrap().snapshot.is_none());
        assert!(known("499").unwrap().snapshot.is_some() && known("0").is_none());
        assert_eq!((record.revisions().count(), record.in_place().len()), (53, 200));
        let bytes = serde_json::to_string(&record).unwrap().len();
        assert!(bytes < 400 * 1024, "{bytes}");
    }

    #[test]
    fn a_record_comes_back_from_json_and_memory_can_be_forgotten() {
        let mut record = Record::default();
        record.add(note(1, Fact::InPlace { snapshot: snapshot("1", 0) }));
        record.add(marked(2, "1", Mark::Good));
        record.add(note(3, Fact::Memory { policy: "errors".into(), value: json!({"since": 1}) }));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!(record.memory("errors"), Some(&json!({"since": 1})));
        record.add(note(4, Fact::Memory { policy: "errors".into(), value: Value::Null }));
        assert_eq!(record.memory("errors"), None);
    }
}
