//! What a trigger says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Point;
use crate::{ComponentId, Timestamp};

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// How many components were looked at.
    pub evaluated: usize,
    /// The verdicts that are not [`Hold`](Verdict::Hold).
    #[serde(with = "pairs")]
    pub verdicts: BTreeMap<ComponentId, Verdict>,
    /// The components that hold without having been seen to be well, and why: too little traffic, a breach that has not
    /// lasted. That is no proof of anything.
    #[serde(with = "pairs")]
    pub unproven: BTreeMap<ComponentId, String>,
}

/// Maps whose keys are no text, as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ComponentId;

    pub(super) fn serialize<S: Serializer, V: Serialize>(
        map: &BTreeMap<ComponentId, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<ComponentId, V>, D::Error> {
        Ok(Vec::<(ComponentId, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Evaluation {
    /// The verdict of a component that was looked at.
    pub fn of(&self, component: &ComponentId) -> Verdict {
        self.verdicts.get(component).cloned().unwrap_or(Verdict::Hold)
    }

    /// Whether a component was seen to be well: it holds, by real samples.
    pub fn is_well(&self, component: &ComponentId) -> bool {
        !self.verdicts.contains_key(component) && !self.unproven.contains_key(component)
    }

    /// That a component holds, and is not known to be well.
    pub(super) fn add_unproven(&mut self, component: &ComponentId, why: String) {
        self.evaluated += 1;
        self.unproven.insert(component.clone(), why);
    }

    pub(super) fn add(&mut self, component: &ComponentId, verdict: Verdict) {
        self.evaluated += 1;
        if verdict != Verdict::Hold {
            self.verdicts.insert(component.clone(), verdict);
        }
    }
}

/// What a trigger says of one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Nothing to do.
    Hold,
    /// It is time to act, by this evidence.
    Firing(Evidence),
    /// It cannot be told, and why. Never a reason to roll back; people are told when it lasts.
    Unknown(String),
}

/// By what a trigger fires.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Evidence {
    /// What is wrong, in one line.
    pub summary: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The value now.
    pub value: Option<f64>,
    /// The limit that it is beyond.
    pub limit: Option<f64>,
    /// Whether values are shares, from 0 to 1.
    pub is_share: bool,
    /// How many instances were asked, where it is about single ones.
    pub asked: usize,
    /// How many of them fail now, if only for the first time.
    pub failing: usize,
    /// The instances that fail for long enough, such as pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// The metric since a while before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
}
