//! The resolved move of one component from one state to another.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ComponentId, Realm, Snapshot};

/// What sort of move a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// The component returns to another revision.
    Rollback,
    /// The component restarts with the revision that it has.
    Restart,
}

/// One field that differs between the two states, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Where, as a JSON pointer into the object.
    pub path: String,
    /// The value now; none where the field is absent.
    pub from: Option<Value>,
    /// The value afterwards; none where the field goes away.
    pub to: Option<Value>,
}

/// Where one change of a component ends amid the way from one revision to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Passage {
    /// Whether it begins at a state on the way, which is no revision.
    pub from_between: bool,
    /// Whether it ends at one. Such a state is always verified before the next change, and is in no ledger.
    pub to_between: bool,
    /// What an earlier change of the component has made safe, and that stays as it is when this one fails, whatever
    /// the failure policy: a human goes on from there.
    pub secured: Option<String>,
}

impl Passage {
    /// Whether the change leads from one revision to another by itself.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    fn reversed(&self) -> Self {
        Self { from_between: self.to_between, to_between: self.from_between, secured: None }
    }
}

/// The resolved move of one component *from* a snapshot *to* a snapshot, as data: it serializes, and
/// it reverses by swapping the snapshots.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What moves.
    pub component: ComponentId,
    /// The system in which it was planned; no other may carry it out.
    pub realm: Realm,
    /// What sort of move it is.
    pub kind: ChangeKind,
    /// The state now, and what a reversal restores.
    pub from: Snapshot,
    /// The state to be reached.
    pub to: Snapshot,
    /// Which object is meant, such that a new one of the same name is another: a UID. Part of the
    /// precondition, beside the content of what the change touches.
    pub identity: Option<String>,
    /// The difference, for people.
    #[serde(default)]
    pub diff: Vec<FieldChange>,
    /// What the reader should know before agreeing.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Other components that it moves along.
    #[serde(default)]
    pub touches: Vec<ComponentId>,
    /// Why it cannot be reversed, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irreversible: Option<String>,
    /// Whether it is one of several that lead to a revision together.
    #[serde(default, skip_serializing_if = "Passage::is_whole")]
    pub passage: Passage,
    /// What the component saw last, which saves it a read; never part of identity or reversal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Value>,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_noop(&self) -> bool {
        self.from.fingerprint == self.to.fingerprint
    }

    /// The way back. Warnings, hint and what is secured belong to the way there and are left out.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            from: self.to.clone(),
            to: self.from.clone(),
            diff: self
                .diff
                .iter()
                .map(|field| FieldChange {
                    path: field.path.clone(),
                    from: field.to.clone(),
                    to: field.from.clone(),
                })
                .collect(),
            warnings: Vec::new(),
            passage: self.passage.reversed(),
            hint: None,
            ..self.clone()
        }
    }
}

impl fmt::Debug for Change {
    // The diff may hold what an operator must not see; the snapshots hide their content themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("component", &self.component.to_string())
            .field("realm", &self.realm)
            .field("kind", &self.kind)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Where a live component stands between the two states of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// Every part has the value of `from`.
    From,
    /// Some parts have the value of `from`, the others that of `to`.
    Between,
    /// Every part has the value of `to`.
    To,
    /// A part has a third value: which, and what it is.
    Elsewhere(String),
}

impl Position {
    /// Compares part by part: for each, its name and whether the live value is that of `from`, of `to`,
    /// of both or of neither. No parts at all is [`Position::To`]: there is nothing left to do.
    ///
    /// ```
    /// use rollback_core::Position;
    /// let half_way = [("image", true, false), ("replicas", false, true)];
    /// assert_eq!(Position::of_parts(half_way), Position::Between);
    /// assert_eq!(Position::of_parts([("image", false, false)]), Position::Elsewhere("image".into()));
    /// ```
    pub fn of_parts(parts: impl IntoIterator<Item = (impl Into<String>, bool, bool)>) -> Self {
        let (mut all_from, mut all_to) = (true, true);
        let mut third = Vec::new();
        for (name, is_from, is_to) in parts {
            if !is_from && !is_to {
                third.push(name.into());
            }
            all_from &= is_from;
            all_to &= is_to;
        }
        match (third.is_empty(), all_to, all_from) {
            (false, ..) => Self::Elsewhere(third.join(", ")),
            (true, true, _) => Self::To,
            (true, false, true) => Self::From,
            (true, false, false) => Self::Between,
        }
    }
}
