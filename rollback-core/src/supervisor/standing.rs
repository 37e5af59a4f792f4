//! What a supervisor remembers, so that the next one goes on where it stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::trigger::Memory;
use crate::{Fingerprint, Revision, RunId, Timestamp};

/// How many of the last actions, and of what was held back, are remembered.
const MOST: usize = 50;

/// What is remembered of a component.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Standing {
    /// What was in place when it was looked at last.
    pub(crate) looked: Option<(Timestamp, Fingerprint)>,
    /// The change that was seen last.
    pub(crate) changed: Option<SeenChange>,
    /// What was done without being asked for, the last at the end.
    pub(crate) attempts: Vec<Attempt>,
    /// What an automatic rollback put in place last.
    pub(crate) result: Option<Fingerprint>,
    /// Until when what triggers see is of before, or of the change itself.
    pub(crate) settled_at: Option<Timestamp>,
    /// What was held back, the last at the end.
    pub(crate) held_back: Vec<HeldBack>,
}

/// A change that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SeenChange {
    /// What is in place since.
    pub(crate) fingerprint: Fingerprint,
    /// When it was last seen not to be.
    pub(crate) after: Timestamp,
    /// When it was first seen to be.
    pub(crate) by: Timestamp,
}

/// Something done without being asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) at: Timestamp,
    pub(crate) run: RunId,
    pub(crate) policy: String,
    /// Whether it was a restart.
    pub(crate) restart: bool,
    /// What was in place.
    pub(crate) from: Fingerprint,
}

/// Something that a policy did not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// When.
    pub at: Timestamp,
    /// Which policy.
    pub policy: String,
    /// Why, in one word.
    pub reason: String,
    /// Why.
    pub why: String,
}

impl Standing {
    pub(crate) fn attempt(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        let surplus = self.attempts.len().saturating_sub(MOST);
        self.attempts.drain(..surplus);
    }

    pub(crate) fn hold_back(&mut self, at: Timestamp, policy: &str, reason: &Reason) {
        self.held_back.push(HeldBack {
            at,
            policy: policy.to_owned(),
            reason: reason.word().to_owned(),
            why: reason.to_string(),
        });
        let surplus = self.held_back.len().saturating_sub(MOST);
        self.held_back.drain(..surplus);
    }

    /// Takes in what another one holds of what was held back.
    pub(crate) fn merge_held_back(&mut self, other: &Self) {
        let new: Vec<_> =
            other.held_back.iter().filter(|one| !self.held_back.contains(one)).cloned().collect();
        self.held_back.extend(new);
        let surplus = self.held_back.len().saturating_sub(MOST);
        self.held_back.drain(..surplus);
    }

    /// Takes in what is in place now.
    pub(crate) fn look(&mut self, at: Timestamp, current: &Revision) {
        if let Some((before, fingerprint)) = &self.looked
            && *fingerprint != current.fingerprint
        {
            let fingerprint = current.fingerprint.clone();
            self.changed = Some(SeenChange { fingerprint, after: *before, by: at });
        }
        // What people put in place since is another matter.
        self.result.take_if(|result| *result != current.fingerprint);
        self.looked = Some((at, current.fingerprint.clone()));
    }
}

/// What is remembered of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicyMemory {
    /// That of its trigger.
    pub(super) trigger: Memory,
    /// By component.
    pub(super) watches: BTreeMap<String, Watch>,
}

/// What is remembered of a component under one policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Watch {
    /// When it was last seen to be well.
    pub(super) well_at: Option<Timestamp>,
    /// Since when it was seen to be well each time.
    pub(super) well_since: Option<Timestamp>,
    /// Since when nothing can be told.
    pub(super) blind_since: Option<Timestamp>,
    /// Whether people know of that.
    pub(super) blind_told: bool,
    /// Since when it fires.
    pub(super) firing_since: Option<Timestamp>,
    /// Under which name people are told of it.
    pub(super) thread: Option<String>,
    /// Why nothing is done, as far as people were told.
    #[serde(rename = "toldHeldBack")]
    pub(super) held_back: Vec<String>,
    /// The proposal that people were told of, by the digest of its plan.
    pub(super) proposed: Option<Fingerprint>,
    /// The last run whose end people were told of.
    pub(super) ended: Option<RunId>,
    /// The run whose effect is to be judged; after a restart the journal tells.
    #[serde(skip)]
    pub(super) judging: Option<Judging>,
}

/// A run whose effect is to be judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judging {
    pub(super) run: RunId,
    /// When the run had ended, and what it changed had settled.
    pub(super) from: Timestamp,
}
