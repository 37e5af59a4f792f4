//! What can be rolled back, and where it lives.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// The name of one thing that can be rolled back: a kind, the scope in which its name is unique
/// (a namespace; none where the kind has no scopes) and the name.
///
/// ```
/// use rollback_core::ComponentId;
/// let id = ComponentId::new("deployment", Some("inflow-staging"), "inference-service")?;
/// assert_eq!(id.to_string(), "deployment/inflow-staging/inference-service");
/// # Ok::<_, rollback_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ComponentId {
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    name: String,
}

impl ComponentId {
    /// Names a component. Kind and scope are single words; a name may be a path.
    ///
    /// # Errors
    /// `InvalidConfig` when a part is empty, holds white space or control characters, or when the
    /// kind or the scope holds a slash.
    pub fn new(kind: &str, scope: Option<&str>, name: &str) -> Result<Self> {
        for (what, text, slash) in
            [("kind", Some(kind), false), ("scope", scope, false), ("name", Some(name), true)]
        {
            let Some(text) = text else { continue };
            let bad = |c: char| c.is_whitespace() || c.is_control() || (c == '/' && !slash);
            if text.is_empty() || text.contains(bad) {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("{text:?} cannot be the {what} of a component"),
                ));
            }
        }
        Ok(Self { kind: kind.into(), scope: scope.map(Into::into), name: name.into() })
    }

    /// A component without a scope that is named after free text.
    pub(crate) fn named_after(kind: &str, text: &str) -> Option<Self> {
        let name: String =
            text.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect();
        Self::new(kind, None, &name).ok()
    }

    /// The kind, such as `deployment`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The scope, such as a namespace.
    pub fn scope(&self) -> Option<&str> {
        self.scope.as_deref()
    }

    /// The name within kind and scope.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Some(scope) => write!(f, "{}/{scope}/{}", self.kind, self.name),
            None => write!(f, "{}/{}", self.kind, self.name),
        }
    }
}

/// The system in which a component lives, such that two systems never share one: the UID of a
/// cluster's `kube-system` namespace, a tracking URI, a repository's remote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Realm(String);

impl Realm {
    /// The realm of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
