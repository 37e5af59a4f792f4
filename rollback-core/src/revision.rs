//! States in a component's history, and how one is chosen.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Timestamp;

/// The identity of a state: a hash of the normalized content that it restores.
///
/// ```
/// use rollback_core::Fingerprint;
/// use serde_json::json;
/// assert_eq!(Fingerprint::of(&json!({"a": 1, "b": 2})), Fingerprint::of(&json!({"b": 2, "a": 1})));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of JSON content; the order of an object's members does not matter.
    pub fn of(content: &Value) -> Self {
        let mut hasher = Sha256::new();
        hash(content, &mut hasher);
        Self(hex(&hasher.finalize()))
    }

    /// As text: `sha256:` and 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(digest: &[u8]) -> String {
    use fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

// Sorted here and not left to serde_json's map, whose order another crate's feature can change.
fn hash(value: &Value, hasher: &mut Sha256) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            hasher.update(b"{");
            for (key, member) in members {
                hasher.update(Value::from(key.as_str()).to_string());
                hasher.update(b":");
                hash(member, hasher);
                hasher.update(b",");
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                hash(item, hasher);
                hasher.update(b",");
            }
            hasher.update(b"]");
        }
        scalar => hasher.update(scalar.to_string()),
    }
}

/// What is known of a revision's quality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// It was seen to work.
    Good,
    /// It is not to be returned to, unless forced.
    Bad,
    /// A rollback moved away from it, and it has not been deployed again since.
    Left,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Left => "left",
        })
    }
}

/// One state in a component's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Its id in the component's own terms, for people: `3`, `v4`, a tag.
    pub id: String,
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// Whether it is the one in place.
    pub current: bool,
    /// When the system recorded it, where known.
    pub created: Option<Timestamp>,
    /// Since when it is in place, where known.
    pub since: Option<Timestamp>,
    /// Why it came about, in the words of whoever deployed it.
    pub cause: Option<String>,
    /// What is known of its quality.
    pub mark: Option<Mark>,
    /// What it runs, in one line.
    pub summary: String,
}

/// What to return to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The revision before the current one, by the rule of the component's own system.
    Previous,
    /// The newest revision recorded good that is not the current one.
    LastGood,
    /// The revision with this id.
    Revision(String),
    /// The revision that was in place at this time.
    AsOf(Timestamp),
    /// Exactly this recorded state.
    Snapshot(Box<Snapshot>),
    /// The state that runs the artifact at this URI, such as the model that a registry points to.
    Artifact(String),
}

/// A state as a component recorded it: enough to bring it back, or a reference to what is immutable.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The id of the revision, for people.
    pub id: String,
    /// The identity of the state.
    pub fingerprint: Fingerprint,
    /// What it runs, in one line.
    pub summary: String,
    /// The content, in the component's own form.
    pub content: Value,
}

impl fmt::Debug for Snapshot {
    // The content may hold what an operator must not see, such as environment variables.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, fingerprint, summary, content: _ } = self;
        f.debug_struct("Snapshot")
            .field("id", id)
            .field("fingerprint", fingerprint)
            .field("summary", summary)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fingerprint_tells_values_apart_and_ignores_the_order_of_members() {
        let all = [json!(null), json!("1"), json!(1), json!([1, 2]), json!([[1], 2]), json!({"a": [1, 2]})];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                assert_eq!(Fingerprint::of(a) == Fingerprint::of(b), i == j, "{a} {b}");
            }
        }
        let [a, b] = [r#"{"x":{"p":1,"q":2},"y":3}"#, r#"{"y":3,"x":{"q":2,"p":1}}"#]
            .map(|text| Fingerprint::of(&serde_json::from_str(text).unwrap()));
        assert_eq!(a, b);
    }

    #[test]
    fn debug_of_a_snapshot_shows_no_content() {
        let content = json!({"env": "hunter2"});
        let fingerprint = Fingerprint::of(&content);
        let snapshot = Snapshot { id: "1".into(), fingerprint, summary: "web:1".into(), content };
        assert!(!format!("{snapshot:?}").contains("hunter2"));
    }
}
