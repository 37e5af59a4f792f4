//! Whether one object has settled: workloads by the rules of `kubectl rollout status`, the rest by those of kstatus
//! (`sigs.k8s.io/cli-utils/pkg/kstatus`).

use rollback_core::{Verification, VerificationState};
use rollback_k8s::backend::settled;
use rollback_k8s::json;
use serde_json::Value;

use super::key::Key;

/// How it stands with an object that should be there.
pub(super) fn health(key: &Key, object: Option<&Value>) -> Verification {
    let Some(object) = object else { return Verification::progressing(format!("{key} is not there yet")) };
    if super::content::is_dying(object) {
        return Verification::progressing(format!("{key} is being deleted"));
    }
    if let Some(seen) = settled(object) {
        return named(key, seen);
    }
    let generation = json::generation(object);
    if json::number(object, "/status/observedGeneration").is_some_and(|observed| observed < generation) {
        return Verification::progressing(format!("{key}: its controller has not seen it yet"));
    }
    let is = |kind: &str, status: &str| json::condition(object, kind).is_some_and(|c| c["status"] == status);
    let why = |kind: &str| {
        let message = json::condition(object, kind).and_then(|c| json::text(c, "/message"));
        message.unwrap_or("it does not say why").to_owned()
    };
    let (state, message) = match (key.group.as_str(), key.kind.as_str()) {
        ("batch", "Job") if is("Failed", "True") => (VerificationState::Failed, why("Failed")),
        ("batch", "Job") if is("Complete", "True") || json::flag(object, "/spec/suspend") => settled_so(),
        ("batch", "Job") if json::text(object, "/status/startTime").is_none() => {
            waiting("it has not started")
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") if is("NamesAccepted", "False") => {
            (VerificationState::Failed, why("NamesAccepted"))
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") if !is("Established", "True") => {
            waiting("it is not established")
        }
        ("", "PersistentVolumeClaim") => match json::text(object, "/status/phase") {
            Some("Bound") => settled_so(),
            Some("Lost") => (VerificationState::Failed, "its volume is lost".to_owned()),
            _ => waiting("it is not bound"),
        },
        ("", "Pod") => match json::text(object, "/status/phase") {
            Some("Succeeded") => settled_so(),
            Some("Failed") => (VerificationState::Failed, "it failed".to_owned()),
            _ if json::is_ready(object) => settled_so(),
            _ => waiting("it is not ready"),
        },
        _ if is("Stalled", "True") => (VerificationState::Failed, why("Stalled")),
        _ if is("Reconciling", "True") => waiting(&why("Reconciling")),
        // Built-in kinds say with Ready something of their own.
        (group, _) if group.contains('.') && !group.ends_with(".k8s.io") => {
            match json::condition(object, "Ready") {
                Some(ready) if ready["status"] != "True" => waiting(&why("Ready")),
                _ => settled_so(),
            }
        }
        _ => settled_so(),
    };
    Verification { state, message: format!("{key}: {message}"), notes: Vec::new() }
}

fn settled_so() -> (VerificationState, String) {
    (VerificationState::Converged, "settled".to_owned())
}

fn waiting(why: &str) -> (VerificationState, String) {
    (VerificationState::Progressing, why.to_owned())
}

fn named(key: &Key, seen: Verification) -> Verification {
    Verification { message: format!("{key}: {}", seen.message), ..seen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn state(key: &str, object: &Value) -> VerificationState {
        health(&Key::try_from(key.to_owned()).unwrap(), Some(object)).state
    }

    fn with_condition(kind: &str, status: &str) -> Value {
        json!({"status": {"conditions": [{"type": kind, "status": status}]}})
    }

    #[test]
    fn each_kind_settles_by_its_own_rule() {
        use VerificationState::{Converged, Failed, Progressing};
        let job = "Job.batch/a/b";
        assert_eq!(state(job, &with_condition("Failed", "True")), Failed);
        assert_eq!(state(job, &with_condition("Complete", "True")), Converged);
        assert_eq!(state(job, &json!({})), Progressing);
        assert_eq!(state(job, &json!({"status": {"startTime": "x"}})), Converged);
        let claim = "PersistentVolumeClaim/a/b";
        assert_eq!(state(claim, &json!({"status": {"phase": "Pending"}})), Progressing);
        assert_eq!(state(claim, &json!({"status": {"phase": "Bound"}})), Converged);
        let definition = "CustomResourceDefinition.apiextensions.k8s.io//b";
        assert_eq!(state(definition, &json!({})), Progressing);
        assert_eq!(state(definition, &with_condition("Established", "True")), Converged);
        let custom = "Database.example.org/a/b";
        assert_eq!(state(custom, &with_condition("Ready", "False")), Progressing);
        assert_eq!(state(custom, &with_condition("Stalled", "True")), Failed);
        assert_eq!(state(custom, &json!({})), Converged);
        let late = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1}});
        assert_eq!(state(custom, &late), Progressing);
        assert_eq!(state("ConfigMap/a/b", &json!({})), Converged);
        assert!(!health(&Key::try_from(job.to_owned()).unwrap(), None).is_converged());
    }
}
