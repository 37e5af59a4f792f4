//! Which kinds a cluster serves, and where.

use rollback_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::{Cluster, json};

/// Where a cluster keeps the objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    api_version: String,
    plural: String,
    /// Whether they are in namespaces.
    pub namespaced: bool,
}

impl Served {
    /// Where they will be once their definition is established.
    pub fn new(api_version: &str, plural: &str, namespaced: bool) -> Self {
        Self { api_version: api_version.to_owned(), plural: plural.to_owned(), namespaced }
    }

    /// The name of the kind in paths, such as `deployments`.
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// The path of an object, or of all without a name; of those in all namespaces without a namespace.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = root(&self.api_version);
        let namespace = namespace.filter(|_| self.namespaced);
        let namespace = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        let name = name.map(|name| format!("/{}", crate::encode_segment(name))).unwrap_or_default();
        format!("/{root}/{}{namespace}/{}{name}", self.api_version, self.plural)
    }
}

impl Cluster {
    /// Where the cluster keeps the objects of a kind; none where it does not know it. Asked once for a few seconds.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn served(&self, api_version: &str, kind: &str) -> Result<Option<Served>> {
        let root = root(api_version);
        let found = self.resources(&format!("/{root}/{}", checked(api_version)?)).await;
        let resources = match found {
            Ok(resources) => resources,
            // A server without the core group is none.
            Err(e) if e.kind() == ErrorKind::NotFound && root == "apis" => return Ok(None),
            Err(e) => return Err(e),
        };
        // Subresources have a slash in their names.
        let is_it = |resource: &&Value| {
            resource["kind"] == kind && json::text(resource, "/name").is_some_and(|name| !name.contains('/'))
        };
        Ok(resources.iter().find(is_it).map(|resource| Served {
            api_version: api_version.to_owned(),
            plural: json::text(resource, "/name").unwrap_or_default().to_owned(),
            namespaced: json::flag(resource, "/namespaced"),
        }))
    }
}

/// Where the API has a group; the core one has a place of its own.
fn root(api_version: &str) -> &'static str {
    if api_version.contains('/') { "apis" } else { "api" }
}

/// An apiVersion that can be a part of a path.
fn checked(api_version: &str) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/');
    if !api_version.is_empty() && api_version.chars().all(is_plain) && api_version.matches('/').count() <= 1 {
        return Ok(api_version);
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("{api_version:?} is no apiVersion")))
}
