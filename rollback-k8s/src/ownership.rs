//! Who else writes an object, and would take a rollback back.

use rollback_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::{GitOps, json};

/// A controller that reconciles the object, and what to do there instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reconciler {
    pub(crate) who: String,
    pub(crate) instead: String,
}

impl Reconciler {
    /// Refuses, or warns where that is asked for.
    pub(crate) fn judge(&self, gitops: GitOps, warnings: &mut Vec<String>) -> Result<()> {
        match gitops {
            GitOps::Refuse => {
                let message = format!("{} would take the rollback back", self.who);
                Err(Error::new(ErrorKind::Refused, message)
                    .with_hint(format!("{}; or use --gitops=ignore", self.instead)))
            }
            GitOps::Ignore => {
                warnings.push(format!("{} may take the rollback back: {}", self.who, self.instead));
                Ok(())
            }
        }
    }
}

/// The controller that would take a change of the object back, so far as the object tells.
pub(crate) fn reconciler(object: &Value) -> Option<Reconciler> {
    let found = |who: String, instead: String| Some(Reconciler { who, instead });
    let tracked = json::annotation(object, "argocd.argoproj.io/tracking-id")
        .and_then(|id| id.split(':').next())
        .or_else(|| json::label(object, "argocd.argoproj.io/instance"));
    if let Some(application) = tracked {
        return found(
            format!("the Argo CD application {application}"),
            format!(
                "revert in git, or run `argocd app set {application} --sync-policy none` and `argocd app rollback {application}`"
            ),
        );
    }
    for (group, kind, command) in [
        ("kustomize.toolkit.fluxcd.io", "Kustomization", "kustomization"),
        ("helm.toolkit.fluxcd.io", "HelmRelease", "helmrelease"),
    ] {
        if let Some(name) = json::label(object, &format!("{group}/name")) {
            let namespace = json::label(object, &format!("{group}/namespace")).unwrap_or("flux-system");
            return found(
                format!("the Flux {kind} {namespace}/{name}"),
                format!("revert in git, or run `flux suspend {command} {name} -n {namespace}` first"),
            );
        }
    }
    if let Some(owner) = json::controller(object) {
        let (kind, name) = (owner["kind"].as_str()?, owner["name"].as_str()?);
        return found(
            format!("its owner, the {kind} {name}"),
            format!("roll back the {kind} {name}, of which this object is a part"),
        );
    }
    let manager = managers(object).into_iter().find_map(|manager| {
        Some(match manager {
            "argocd-controller" | "argocd-application-controller" => "Argo CD",
            "kustomize-controller" | "helm-controller" => "Flux",
            "flagger" => "Flagger",
            "rollouts-controller" => "Argo Rollouts",
            _ => return None,
        })
    })?;
    found(
        format!("{manager}, which wrote fields of it"),
        format!("revert where {manager} takes its state from, or suspend it first"),
    )
}

/// The Rollout of Argo Rollouts whose `workloadRef` names the Deployment.
pub(crate) fn referring_rollout(rollouts: &[Value], deployment: &str) -> Option<Reconciler> {
    let rollout = rollouts.iter().find(|rollout| {
        let reference = &rollout["spec"]["workloadRef"];
        reference["kind"] == "Deployment" && reference["name"] == deployment
    })?;
    let name = json::name(rollout);
    Some(Reconciler {
        who: format!("the Argo Rollout {name}, which refers to it"),
        instead: format!("run `kubectl argo rollouts undo {name}`"),
    })
}

/// The Helm release that an object belongs to. Helm does not reconcile, but its next upgrade starts from what it wrote.
pub fn helm_release(object: &Value) -> Option<&str> {
    (json::label(object, "app.kubernetes.io/managed-by") == Some("Helm"))
        .then(|| json::annotation(object, "meta.helm.sh/release-name").unwrap_or("of unknown name"))
}

fn managers(object: &Value) -> Vec<&str> {
    json::items(object, "/metadata/managedFields").iter().filter_map(|f| f["manager"].as_str()).collect()
}

/// When an object was written last, and by whom, other than the built-in controllers.
pub fn last_writer(object: &Value) -> Option<(&str, &str)> {
    json::items(object, "/metadata/managedFields")
        .iter()
        .filter_map(|fields| Some((fields["time"].as_str()?, fields["manager"].as_str()?)))
        .filter(|(_, manager)| *manager != "kube-controller-manager")
        // The server notes whole seconds: within one, somebody else is more likely to have come last.
        .max_by_key(|(at, manager)| (*at, *manager != crate::cluster::MANAGER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_reconciler_is_recognized_by_what_it_leaves_on_the_object() {
        let cases = [
            (
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:ns/web"}}),
                "Argo CD application shop",
            ),
            (
                json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}),
                "Flux Kustomization flux-system/apps",
            ),
            (
                json!({"labels": {"helm.toolkit.fluxcd.io/name": "web", "helm.toolkit.fluxcd.io/namespace": "ns"}}),
                "Flux HelmRelease ns/web",
            ),
            (
                json!({"ownerReferences": [{"controller": true, "kind": "InferenceService", "name": "m"}]}),
                "InferenceService m",
            ),
            (json!({"managedFields": [{"manager": "flagger"}]}), "Flagger"),
        ];
        for (metadata, who) in cases {
            let found = reconciler(&json!({"metadata": metadata})).unwrap();
            assert!(found.who.contains(who), "{found:?}");
        }
        let helm = json!({"metadata": {"labels": {
            "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/instance": "web",
        }}});
        assert_eq!(reconciler(&helm), None);
        assert!(helm_release(&helm).is_some());
    }
}
