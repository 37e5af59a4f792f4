//! Whether a rollout is done: the rules of `kubectl rollout status`
//! (`polymorphichelpers/rollout_status.go`), as a pure function of the object.

use rollback_core::Verification;
use serde_json::Value;

use super::WorkloadKind;
use crate::json;

pub(crate) const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";

/// What kubectl would say of the object. The text of an unfinished rollout is kubectl's.
pub(crate) fn rollout(kind: WorkloadKind, object: &Value) -> Verification {
    match kind {
        WorkloadKind::Deployment => deployment(object),
        WorkloadKind::StatefulSet => stateful_set(object),
        WorkloadKind::DaemonSet => daemon_set(object),
    }
}

fn count(object: &Value, field: &str) -> i64 {
    json::number(object, &format!("/status/{field}")).unwrap_or_default()
}

/// Whether the controller has seen the newest content.
pub(crate) fn is_observed(object: &Value) -> bool {
    let observed = count(object, "observedGeneration");
    observed != 0 && observed >= json::generation(object)
}

fn deployment(object: &Value) -> Verification {
    let name = json::name(object);
    if json::generation(object) > count(object, "observedGeneration") {
        return Verification::progressing("Waiting for deployment spec update to be observed...");
    }
    if exceeded(object).is_some() {
        return Verification::failed(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let updated = count(object, "updatedReplicas");
    let head = format!("Waiting for deployment {name:?} rollout to finish");
    if let Some(wanted) = json::number(object, "/spec/replicas").filter(|wanted| updated < *wanted) {
        return Verification::progressing(format!(
            "{head}: {updated} out of {wanted} new replicas have been updated..."
        ));
    }
    let old = count(object, "replicas") - updated;
    if old > 0 {
        return Verification::progressing(format!("{head}: {old} old replicas are pending termination..."));
    }
    let available = count(object, "availableReplicas");
    if available < updated {
        return Verification::progressing(format!(
            "{head}: {available} of {updated} updated replicas are available..."
        ));
    }
    Verification::converged(format!("deployment {name:?} successfully rolled out"))
}

/// The condition that says that the rollout took too long.
pub(crate) fn exceeded(object: &Value) -> Option<&Value> {
    json::condition(object, "Progressing").filter(|condition| condition["reason"] == DEADLINE_EXCEEDED)
}

fn stateful_set(object: &Value) -> Verification {
    let strategy = json::text(object, "/spec/updateStrategy/type").unwrap_or_default();
    if strategy != "RollingUpdate" {
        return Verification::failed(format!(
            "rollout status is only available for RollingUpdate strategy type, not {strategy}"
        ));
    }
    if !is_observed(object) {
        return Verification::progressing("Waiting for statefulset spec update to be observed...");
    }
    let wanted = json::number(object, "/spec/replicas");
    let ready = count(object, "readyReplicas");
    if let Some(wanted) = wanted.filter(|wanted| ready < *wanted) {
        return Verification::progressing(format!("Waiting for {} pods to be ready...", wanted - ready));
    }
    let updated = count(object, "updatedReplicas");
    let rolling = object.pointer("/spec/updateStrategy/rollingUpdate");
    if let Some(partition) = rolling.and_then(|rolling| json::number(rolling, "/partition")) {
        let due = wanted.unwrap_or_default() - partition;
        if updated < due {
            return Verification::progressing(format!(
                "Waiting for partitioned roll out to finish: {updated} out of {due} new pods have been updated..."
            ));
        }
        return Verification::converged(format!(
            "partitioned roll out complete: {updated} new pods have been updated..."
        ));
    }
    let (update, current) =
        (json::text(object, "/status/updateRevision"), json::text(object, "/status/currentRevision"));
    if update != current {
        return Verification::progressing(format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
            update.unwrap_or_default()
        ));
    }
    Verification::converged(format!(
        "statefulset rolling update complete {} pods at revision {}...",
        count(object, "currentReplicas"),
        current.unwrap_or_default()
    ))
}

fn daemon_set(object: &Value) -> Verification {
    let name = json::name(object);
    let strategy = json::text(object, "/spec/updateStrategy/type").unwrap_or_default();
    if strategy != "RollingUpdate" {
        return Verification::failed(format!(
            "rollout status is only available for RollingUpdate strategy type, not {strategy}"
        ));
    }
    if json::generation(object) > count(object, "observedGeneration") {
        return Verification::progressing("Waiting for daemon set spec update to be observed...");
    }
    let wanted = count(object, "desiredNumberScheduled");
    let head = format!("Waiting for daemon set {name:?} rollout to finish");
    let updated = count(object, "updatedNumberScheduled");
    if updated < wanted {
        return Verification::progressing(format!(
            "{head}: {updated} out of {wanted} new pods have been updated..."
        ));
    }
    let available = count(object, "numberAvailable");
    if available < wanted {
        return Verification::progressing(format!(
            "{head}: {available} of {wanted} updated pods are available..."
        ));
    }
    Verification::converged(format!("daemon set {name:?} successfully rolled out"))
}

/// Whether all pods are ready, whatever revision they are of.
pub(crate) fn ready(kind: WorkloadKind, object: &Value) -> Verification {
    let wanted = wanted_pods(kind, object);
    let ready = match kind {
        WorkloadKind::Deployment | WorkloadKind::StatefulSet => count(object, "readyReplicas"),
        WorkloadKind::DaemonSet => count(object, "numberReady"),
    };
    let message = format!("{ready} of {wanted} pods are ready");
    if is_observed(object) && ready >= wanted {
        return Verification::converged(message);
    }
    Verification::progressing(message)
}

/// How many pods there should be.
pub(crate) fn wanted_pods(kind: WorkloadKind, object: &Value) -> i64 {
    match kind {
        WorkloadKind::Deployment | WorkloadKind::StatefulSet => {
            json::number(object, "/spec/replicas").unwrap_or(1)
        }
        WorkloadKind::DaemonSet => count(object, "desiredNumberScheduled"),
    }
}

/// Below which ordinal the pods of a `StatefulSet` keep their revision; 0 where none does.
pub(crate) fn partition(object: &Value) -> i64 {
    json::number(object, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or_default()
}

/// Whether pods change only when someone deletes them.
pub(crate) fn is_on_delete(object: &Value) -> bool {
    json::text(object, "/spec/updateStrategy/type") == Some("OnDelete")
}
