//! How KServe runs an `InferenceService`.

use rollback_core::{Error, ErrorKind, Result};
use rollback_k8s::json;
use serde_json::Value;

/// What its controller makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Knative Services; a component's history is its Revisions. Once called Serverless.
    Knative,
    /// Deployments; a component's history is its `ReplicaSets`. Once called `RawDeployment`.
    Standard,
}

impl Mode {
    /// As the controller says in the status; the annotation is only what somebody wished for.
    pub(crate) fn of(object: &Value) -> Result<Self> {
        match json::text(object, "/status/deploymentMode") {
            Some("Knative" | "Serverless") => Ok(Self::Knative),
            Some("Standard" | "RawDeployment") => Ok(Self::Standard),
            Some(other) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("it runs in mode {other}, which keeps no history"),
            )
            .with_hint("the modes supported are Knative (Serverless) and Standard (RawDeployment)")),
            None if json::items(object, "/status/conditions").is_empty() => {
                let message = "KServe's controller has not said yet in which mode it runs";
                Err(Error::new(ErrorKind::Unavailable, message).with_hint("is the controller running?"))
            }
            // Older controllers do not say. In Standard mode they write at most the number of a Deployment's revision.
            None => {
                let latest = json::text(object, "/status/components/predictor/latestCreatedRevision");
                let is_name =
                    latest.is_some_and(|name| !name.is_empty() && !name.chars().all(|c| c.is_ascii_digit()));
                Ok(if is_name { Self::Knative } else { Self::Standard })
            }
        }
    }
}
