//! The record of what rollbacks left, kept on the object itself, so that it is seen from any machine.

use rollback_core::{Change, Fingerprint, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json;

/// The annotation that holds it, newest first, as JSON.
pub(crate) const LEFT: &str = "rollback.dev/left";

/// How many revisions that were left are remembered on the object.
const REMEMBERED: usize = 10;

/// What a change makes of the record of what was left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LeftRecord {
    /// Nothing.
    #[default]
    Untouched,
    /// This entry is added in front, completed by run, actor and time.
    Add(LeftEntry),
    /// It becomes exactly this; none where it was absent.
    Restore(Option<String>),
}

/// A revision that a rollback left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeftEntry {
    /// Its id.
    pub(crate) revision: String,
    /// Its number. Deployed again, it gets a higher one.
    pub(crate) number: i64,
    /// Its identity.
    pub(crate) fingerprint: Fingerprint,
    /// The run that left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<String>,
    /// Who began that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

/// The record as the object holds it. What does not parse was not written by this library.
pub(crate) fn left_entries(object: &Value) -> Vec<LeftEntry> {
    json::annotation(object, LEFT).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

impl LeftRecord {
    /// What becomes of the annotation on the live object: its key and its value, none where it goes away; nothing
    /// when it stays as it is.
    pub(crate) fn annotation(
        &self,
        change: &Change,
        live: &Value,
        cx: &StepContext,
    ) -> Option<(&'static str, Option<String>)> {
        match self {
            Self::Untouched => None,
            Self::Restore(text) => Some((LEFT, text.clone())),
            Self::Add(entry) => {
                let mut entries = left_entries(live);
                entries.retain(|old| {
                    old.fingerprint != entry.fingerprint && old.fingerprint != change.to.fingerprint
                });
                entries.insert(
                    0,
                    LeftEntry {
                        run: Some(cx.run().to_string()),
                        by: Some(cx.actor().to_owned()),
                        at: Some(cx.now().to_string()),
                        ..entry.clone()
                    },
                );
                entries.truncate(REMEMBERED);
                Some((LEFT, Some(json!(entries).to_string())))
            }
        }
    }
}
