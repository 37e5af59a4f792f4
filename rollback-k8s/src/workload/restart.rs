//! Restarts: of the pods that are not ready, or of all as a rollout.

use std::time::Duration;

use rollback_core::{
    Change, ChangeKind, Disposition, Error, ErrorKind, FieldChange, Fingerprint, RestartScope, Result,
    StepContext,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::content::{Content, LeftRecord, PodRef};
use super::template::{self, RESTARTED_AT, restorable};
use super::{Workload, WorkloadKind, patch, pods, status};
use crate::json;

impl Workload {
    pub(crate) async fn prepare_restart_of(&self, scope: RestartScope) -> Result<Change> {
        let object = self.read().await?;
        let realm = self.cluster.realm().await?;
        if let Some(since) = json::text(&object, "/metadata/deletionTimestamp") {
            return Err(Error::new(ErrorKind::Refused, format!("it is being deleted since {since}"))
                .with_hint("wait until it is gone, then create it again"));
        }
        let live = restorable(object["spec"]["template"].clone());
        let from = Content {
            template: live.clone(),
            exact: true,
            annotations: std::collections::BTreeMap::new(),
            left: LeftRecord::Untouched,
            gone: Vec::new(),
            ready_too: false,
            digests: std::collections::BTreeMap::new(),
        };
        let mut to = from.clone();
        let mut diff = Vec::new();
        // With OnDelete a rollout restart would restart nothing.
        let by_pods = scope == RestartScope::Unready || status::is_on_delete(&object);
        let irreversible = if by_pods {
            to.ready_too = scope == RestartScope::All;
            to.gone = self.pods_to_restart(&object, to.ready_too).await?;
            diff.extend(to.gone.iter().map(|pod| FieldChange {
                path: format!("/pods/{}", pod.name),
                from: Some(json!(pod.uid)),
                to: None,
            }));
            "pods that were evicted do not come back"
        } else {
            if json::flag(&object, "/spec/paused") {
                let (kind, name, namespace) = (self.kind, self.id.name(), self.namespace());
                return Err(Error::new(ErrorKind::Refused, "it is paused: a restart would not roll out")
                    .with_hint(format!("kubectl rollout resume {kind}/{name} -n {namespace}")));
            }
            let now = self.cluster.clock().now().to_string();
            set_restarted_at(&mut to.template, &now);
            diff.push(FieldChange {
                path: format!("/spec/template/metadata/annotations/{}", json::token(RESTARTED_AT)),
                from: template::restarted_at(&live).map(Value::from),
                to: Some(Value::from(now)),
            });
            "pods that were restarted stay restarted"
        };
        let images = template::images(&live);
        let (from_id, to_id) = match scope {
            RestartScope::All => ("running".to_owned(), "restarted".to_owned()),
            RestartScope::Unready => (format!("{} not ready", to.gone.len()), "replaced".to_owned()),
        };
        let from = from.snapshot(from_id, images.clone());
        let gone = to.gone.clone();
        let mut to = to.snapshot(to_id, images);
        if !gone.is_empty() {
            // The template stays, so it is the pods that tell the two states apart.
            to.fingerprint = Fingerprint::of(&json!({"template": from.fingerprint, "gone": gone}));
        }
        Ok(Change {
            component: self.id.clone(),
            realm,
            kind: ChangeKind::Restart,
            from,
            to,
            identity: Some(json::uid(&object).to_owned()),
            diff,
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: Some(irreversible.into()),
            hint: Some(patch::hint(&object)),
        })
    }

    async fn pods_to_restart(&self, object: &Value, ready_too: bool) -> Result<Vec<PodRef>> {
        let query = super::history::selector_query(object);
        let all = self.cluster.list(&self.pods_path(), &query, "listing pods").await?;
        let owners: Vec<String> = match self.kind {
            WorkloadKind::Deployment => {
                let path = format!("/apis/apps/v1/namespaces/{}/replicasets", self.namespace());
                let sets = self.cluster.list(&path, &query, "listing ReplicaSets").await?;
                let own = sets.iter().filter(|set| json::controller_uid(set) == Some(json::uid(object)));
                own.map(|set| json::uid(set).to_owned()).collect()
            }
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => vec![json::uid(object).to_owned()],
        };
        let mut chosen: Vec<_> = all
            .iter()
            .filter(|pod| json::controller_uid(pod).is_some_and(|uid| owners.iter().any(|own| own == uid)))
            .filter(|pod| (ready_too || !json::is_ready(pod)) && !pods::is_terminating(pod))
            .map(PodRef::of)
            .collect();
        chosen.sort();
        Ok(chosen)
    }

    /// Evicts the pods, one at a time, waiting each time for the workload to have one more ready pod.
    /// Eviction respects `PodDisruptionBudgets`.
    pub(crate) async fn evict(&self, cx: &StepContext, change: &Change, to: &Content) -> Result<()> {
        let live = self.read().await?;
        super::apply::refuse_another(change, &live)?;
        let version = self.eviction_version().await?;
        for (index, pod) in to.gone.iter().enumerate() {
            let Some(live) = self.read_pod(pod).await? else { continue };
            if json::is_ready(&live) && !to.ready_too {
                continue;
            }
            // What was ready before has to be ready again; what was not has to be one more.
            let wanted = self.ready_pods().await? + i64::from(!json::is_ready(&live));
            self.evict_one(cx, pod, &version).await?;
            while self.read_pod(pod).await?.is_some() {
                self.pause(cx, &format!("pod {} did not end", pod.name)).await?;
            }
            // After the last one, verification does the waiting.
            while index + 1 < to.gone.len() && self.ready_pods().await? < wanted {
                cx.progress(format!("waiting for the pod in place of {} to be ready", pod.name));
                self.pause(cx, &format!("the pod in place of {} did not get ready", pod.name)).await?;
            }
        }
        Ok(())
    }

    async fn evict_one(&self, cx: &StepContext, pod: &PodRef, version: &str) -> Result<()> {
        let what = format!("evicting pod {}", pod.name);
        let path = format!("{}/{}/eviction", self.pods_path(), pod.name);
        let body = json!({
            "apiVersion": version, "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": self.namespace()},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        loop {
            cx.before_write(&what).await?;
            let error = match self.cluster.post(&path, &body, &what).await {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    cx.write_rejected();
                    return Ok(());
                }
                Err(e) => e,
            };
            let least = match (error.kind(), error.disposition()) {
                (ErrorKind::RateLimited, Disposition::Temporary(after)) => after.unwrap_or_default(),
                _ => return Err(error),
            };
            cx.write_rejected();
            cx.progress(format!("a PodDisruptionBudget does not allow {what} yet"));
            let wait = least.max(Duration::from_secs(1));
            if Instant::now() + wait >= cx.deadline() {
                let message = format!("a PodDisruptionBudget does not allow {what}");
                return Err(Error::new(ErrorKind::Refused, message).with_source(error).with_hint(
                    "see `kubectl get pdb`; a budget that allows none cannot be kept while pods are unready",
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cx.cancelled() => {}
            }
        }
    }

    async fn ready_pods(&self) -> Result<i64> {
        let field = match self.kind {
            WorkloadKind::Deployment | WorkloadKind::StatefulSet => "/status/readyReplicas",
            WorkloadKind::DaemonSet => "/status/numberReady",
        };
        Ok(json::number(&self.read().await?, field).unwrap_or_default())
    }

    /// The version of Eviction that this server takes: `policy/v1` since 1.22.
    async fn eviction_version(&self) -> Result<String> {
        let core = self.cluster.get("/api/v1", "asking the server how pods are evicted").await?;
        let eviction = json::items(&core, "/resources").iter().find(|r| r["name"] == "pods/eviction");
        let version = eviction.and_then(|resource| {
            Some(format!("{}/{}", resource["group"].as_str()?, resource["version"].as_str()?))
        });
        version.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this server does not offer the eviction of pods")
        })
    }
}

fn set_restarted_at(template: &mut Value, now: &str) {
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["annotations"].is_object() {
        template["metadata"]["annotations"] = json!({});
    }
    template["metadata"]["annotations"][RESTARTED_AT] = Value::from(now);
}
