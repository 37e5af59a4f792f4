//! Names of objects, and the words by which people pick some of them.

use std::fmt;
use std::str::FromStr;

use rollback_core::{Error, ErrorKind, Result};
use rollback_k8s::json;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of one object of a cluster, whatever version of its API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Key {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl Key {
    /// The kind with its group, as the `ApplySet` conventions write it.
    pub(crate) fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// Whether it is of this kind of this group.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    pub(crate) fn is_secret(&self) -> bool {
        self.is("", "Secret")
    }

    pub(crate) fn is_crd(&self) -> bool {
        self.is("apiextensions.k8s.io", "CustomResourceDefinition")
    }
}

/// The group of an apiVersion.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        format!("{}/{}/{}", key.group_kind(), key.namespace.as_deref().unwrap_or_default(), key.name)
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.splitn(3, '/').collect();
        let [kind, namespace, name] = parts.as_slice() else {
            return Err(format!("{text:?} names no object"));
        };
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        Ok(Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: Some((*namespace).to_owned()).filter(|namespace| !namespace.is_empty()),
            name: (*name).to_owned(),
        })
    }
}

/// Which objects are meant: `KIND/NAME`, as in `deployment/web`, or the labels that they have, as in `app=web,tier=b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// One object by its kind, in whatever case, and its name.
    Object {
        /// The kind, such as `Deployment`.
        kind: String,
        /// The name.
        name: String,
    },
    /// All objects with these labels.
    Labels(Vec<(String, String)>),
}

impl Pick {
    /// Whether it means this object.
    pub(crate) fn picks(&self, key: &Key, object: &Value) -> bool {
        match self {
            Self::Object { kind, name } => key.kind.eq_ignore_ascii_case(kind) && key.name == *name,
            Self::Labels(labels) => {
                labels.iter().all(|(label, value)| json::label(object, label) == Some(value))
            }
        }
    }
}

impl FromStr for Pick {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let message = format!("{text:?} picks no objects: write KIND/NAME, or LABEL=VALUE");
            Error::new(ErrorKind::InvalidConfig, message)
        };
        if text.contains('=') {
            let label = |part: &str| {
                let (label, value) = part.split_once('=')?;
                (!label.is_empty()).then(|| (label.to_owned(), value.trim_start_matches('=').to_owned()))
            };
            return text.split(',').map(label).collect::<Option<_>>().map(Self::Labels).ok_or_else(wrong);
        }
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        if kind.is_empty() || name.is_empty() || name.contains('/') {
            return Err(wrong());
        }
        Ok(Self::Object { kind: kind.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { kind, name } => write!(f, "{kind}/{name}"),
            Self::Labels(labels) => {
                let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
                f.write_str(&labels.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_objects_are_written_and_read() {
        for text in
            ["Deployment.apps/shop/web", "Namespace//shop", "ClusterRole.rbac.authorization.k8s.io//a/b"]
        {
            let key = Key::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(key), text);
        }
        let key = Key::try_from("Deployment.apps/shop/web".to_owned()).unwrap();
        assert_eq!(
            (key.to_string().as_str(), key.group_kind().as_str()),
            ("Deployment shop/web", "Deployment.apps")
        );
        assert!(Key::try_from("web".to_owned()).is_err());
    }

    #[test]
    fn objects_are_picked_by_name_or_by_labels() {
        let key = Key::try_from("Deployment.apps/shop/web".to_owned()).unwrap();
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "b"}}});
        let picks = |text: &str| text.parse::<Pick>().unwrap().picks(&key, &object);
        assert!(picks("deployment/web") && picks("app=web") && picks("app=web,tier==b"));
        assert!(!picks("deployment/api") && !picks("app=web,tier=c"));
        for wrong in ["web", "/web", "deployment/", "a/b/c", "=x"] {
            assert!(wrong.parse::<Pick>().is_err(), "{wrong}");
        }
    }
}
