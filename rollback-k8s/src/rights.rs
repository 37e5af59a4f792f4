//! What one may do in a cluster, as the server says beforehand.

use std::fmt;

use rollback_core::Result;
use serde_json::json;

use crate::Cluster;
use crate::json;

/// A right to do something with the objects of one kind in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    verb: String,
    group: String,
    resource: String,
}

impl Right {
    /// Of a verb such as `patch`, a group such as `apps`, and a resource such as `deployments` or `pods/eviction`.
    pub fn new(verb: &str, group: &str, resource: &str) -> Self {
        Self { verb: verb.into(), group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl Cluster {
    /// Whether whoever asks has a right in a namespace. One request.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn may(&self, right: &Right, namespace: &str) -> Result<bool> {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (right.resource.as_str(), None),
        };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource,
                "namespace": namespace,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = self.post(path, &review, &format!("asking for the right to {right}")).await?;
        Ok(json::flag(&answer, "/status/allowed"))
    }
}
