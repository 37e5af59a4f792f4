//! Kubernetes Events that tell of a rollback.

use rollback_core::{ChangeKind, Fingerprint, Result, RunId, StepOutcome, StepReport};
use serde_json::json;

use super::Workload;
use crate::cluster::MANAGER;
use crate::json;

impl Workload {
    pub(crate) async fn post_event(&self, run: RunId, step: &StepReport) -> Result<()> {
        if step.kind == ChangeKind::Restart {
            return Ok(());
        }
        let moved = format!("from revision {} to {} (run {run})", step.from, step.to);
        let why = step.error.as_ref().map(|error| format!(": {}", error.message)).unwrap_or_default();
        let (kind, reason, message) = match step.outcome {
            StepOutcome::Applied | StepOutcome::Verified => {
                ("Normal", "RolledBack", format!("Rolled back {moved}"))
            }
            StepOutcome::Failed | StepOutcome::CompensationFailed => {
                ("Warning", "RollbackFailed", format!("Rolling back {moved} failed{why}"))
            }
            StepOutcome::Compensated => {
                ("Warning", "RollbackFailed", format!("Rolling back {moved} failed and was reversed{why}"))
            }
            StepOutcome::Pending | StepOutcome::NothingToDo | StepOutcome::Refused | StepOutcome::Skipped => {
                return Ok(());
            }
        };
        let object = self.read().await?;
        let short: String = self.id.name().chars().take(180).collect();
        let short = short.trim_end_matches(['.', '-']);
        let hash = Fingerprint::of(&json!([step.id, reason]));
        let hash: String = hash.as_str().chars().skip("sha256:".len()).take(8).collect();
        let now = self.cluster.clock().now();
        // RFC 3339 with whole seconds is what the field takes on every server.
        let now = now.to_string().split('.').next().map(|s| format!("{}Z", s.trim_end_matches('Z')));
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                // One Event for each step of a run, however often it is told.
                "name": format!("{short}.{run}.{hash}"),
                "namespace": self.namespace(),
            },
            "involvedObject": {
                "apiVersion": "apps/v1", "kind": self.kind.kind(), "name": self.id.name(),
                "namespace": self.namespace(), "uid": json::uid(&object),
            },
            "type": kind, "reason": reason,
            "message": message.chars().take(1000).collect::<String>(),
            "source": {"component": MANAGER},
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        let path = format!("/api/v1/namespaces/{}/events", self.namespace());
        match self.cluster.post(&path, &event, "posting an Event").await {
            Err(e) if e.kind() == rollback_core::ErrorKind::Conflict => Ok(()),
            other => other.map(drop),
        }
    }
}
