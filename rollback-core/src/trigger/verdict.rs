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
    pub verdicts: BTreeMap<ComponentId, Verdict>,
}

impl Evaluation {
    /// The verdict of a component that was looked at.
    pub fn of(&self, component: &ComponentId) -> Verdict {
        self.verdicts.get(component).cloned().unwrap_or(Verdict::Hold)
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
    /// The instances that fail, such as pods, where it is about single ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// The metric since a while before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
}
