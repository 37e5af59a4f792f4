//! What is looked up around a workload while planning. All of it is optional: a missing right is a warning
//! in the plan, never a refusal.

use std::sync::Arc;

use futures::future::join_all;
use futures::join;
use rollback_core::{ComponentId, Error, ErrorKind, Result};
use serde_json::Value;

use super::history::LastRan;
use super::template::{Reference, ReferenceKind, references};
use super::{WorkloadKind, WorkloadOptions};
use crate::{Cluster, json, ownership};

/// What was found.
pub(crate) struct Found {
    /// The pods of the namespace; none when they may not be seen.
    pub(crate) pods: Option<Arc<Vec<Value>>>,
    absent: Vec<Reference>,
    changed: Vec<Reference>,
    warnings: Vec<String>,
    rollout: Option<ownership::Reconciler>,
}

impl Found {
    /// Refuses what would start no pod, unless forced, and hands on the warnings.
    pub(crate) fn judge(
        &self,
        revision: &str,
        options: &WorkloadOptions,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        warnings.extend(self.warnings.iter().cloned());
        for reference in &self.changed {
            warnings.push(format!(
                "{} {} changed since revision {revision} last ran: not restored by this undo",
                reference.kind.as_str(),
                reference.name
            ));
        }
        if let Some(rollout) = &self.rollout {
            rollout.judge(options.gitops, warnings)?;
        }
        if self.absent.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = self
            .absent
            .iter()
            .map(|reference| format!("{} {}", reference.kind.as_str(), reference.name))
            .collect();
        let message = format!("revision {revision} needs {}, which does not exist", names.join(", "));
        if options.force {
            warnings.push(message);
            return Ok(());
        }
        Err(Error::new(ErrorKind::Refused, message)
            .with_hint("create what is missing, choose another revision, or use --force"))
    }
}

pub(crate) async fn look_up(
    cluster: &Cluster,
    kind: WorkloadKind,
    id: &ComponentId,
    wanted: &Value,
    last_ran: Option<LastRan>,
) -> Found {
    let namespace = id.scope().unwrap_or_default();
    let pods_path = format!("/api/v1/namespaces/{namespace}/pods");
    // autoscaling/v1 is the one version that every server offers.
    let scalers_path = format!("/apis/autoscaling/v1/namespaces/{namespace}/horizontalpodautoscalers");
    let (pods, scalers, rollouts, needed) = join!(
        cluster.lookup(&pods_path, "listing pods"),
        cluster.lookup(&scalers_path, "listing autoscalers"),
        async {
            if kind != WorkloadKind::Deployment {
                return Ok(Arc::default());
            }
            let path = format!("/apis/argoproj.io/v1alpha1/namespaces/{namespace}/rollouts");
            cluster.lookup(&path, "listing Argo Rollouts").await
        },
        join_all(references(wanted).into_iter().map(async |reference| {
            let found = cluster.lookup_metadata(&reference.kind.path(namespace), "listing").await;
            (reference, found)
        })),
    );
    let mut found =
        Found { pods: None, absent: Vec::new(), changed: Vec::new(), warnings: Vec::new(), rollout: None };
    match rollouts {
        Ok(rollouts) => found.rollout = ownership::referring_rollout(&rollouts, id.name()),
        // Most clusters have none, and then the right to list them is missing too.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
        Err(e) => found.warnings.push(not_checked("Argo Rollouts", &e)),
    }
    match pods {
        Ok(pods) => found.pods = Some(pods),
        Err(e) => found.warnings.push(not_checked("its pods", &e)),
    }
    match scalers {
        Ok(scalers) => found.warnings.extend(scalers.iter().filter_map(|scaler| {
            let target = &scaler["spec"]["scaleTargetRef"];
            let fits = target["kind"] == kind.kind() && target["name"] == id.name();
            let name = json::name(scaler);
            fits.then(|| format!("HorizontalPodAutoscaler {name} scales it: replicas stay as they are"))
        })),
        Err(e) => found.warnings.push(not_checked("autoscalers", &e)),
    }
    for (reference, listed) in needed {
        let what = format!("{} {}", reference.kind.as_str(), reference.name);
        match listed {
            Err(e) => found.warnings.push(not_checked(&what, &e)),
            Ok(all) => match all.iter().find(|object| json::name(object) == reference.name) {
                None if reference.optional => {}
                None => found.absent.push(reference),
                Some(object) => {
                    let holds_settings =
                        matches!(reference.kind, ReferenceKind::ConfigMap | ReferenceKind::Secret);
                    if holds_settings && last_ran.is_some_and(|ran| ran.is_before(object)) {
                        found.changed.push(reference);
                    }
                }
            },
        }
    }
    found
}

fn not_checked(what: &str, error: &Error) -> String {
    let why = match error.kind() {
        ErrorKind::PermissionDenied => "the right to list is missing".to_owned(),
        _ => error.report().message,
    };
    format!("{what}: not checked ({why})")
}
