//! Restarts: of the pods that are not ready, or of all.

use std::time::Duration;

use rollback_core::{
    Change, ChangeKind, Disposition, Error, ErrorKind, FieldChange, RestartScope, Result, StepContext,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::content::{Content, PodRef};
use super::prepare::pods_going;
use super::template::{self, RESTARTED_AT, restorable};
use super::{Workload, WorkloadKind, patch, pods, status};
use crate::json;

impl Workload {
    pub(crate) async fn prepare_restart_of(&self, scope: RestartScope) -> Result<Change> {
        let object = self.read().await?;
        let realm = self.cluster.realm().await?;
        let live = restorable(object["spec"]["template"].clone());
        let images = template::images(&live);
        // With OnDelete a rollout restart would restart nothing, and nothing below a partition.
        let by_pods =
            scope != RestartScope::All || status::is_on_delete(&object) || status::partition(&object) > 0;
        if by_pods {
            crate::guard::refuse_dying(&object)?;
        } else {
            self.refuse_unfit_to_roll(&object)?;
        }
        let (mut from, mut to) = (Content::default(), Content::default());
        let (diff, irreversible) = if by_pods {
            to.ready_too = scope != RestartScope::Unready;
            let all = self.own_pods(&object).await?;
            let is_meant = |pod: &Value| match &scope {
                RestartScope::All => true,
                RestartScope::Unready => !json::is_ready(pod),
                RestartScope::Instances(names) => names.contains(&pods::instance(pod)),
            };
            let goes = |pod: &&Value| is_meant(pod) && !pods::is_terminating(pod);
            to.gone = all.iter().filter(goes).map(PodRef::of).collect();
            to.gone.sort();
            (pods_going(&to.gone).collect(), "pods that were evicted do not come back")
        } else {
            let now = self.cluster.clock().now().to_string();
            let before = template::restarted_at(&live).map(Value::from);
            let mut restarted = live.clone();
            set_restarted_at(&mut restarted, &now);
            let diff = FieldChange {
                path: format!("/spec/template/metadata/annotations/{}", json::token(RESTARTED_AT)),
                from: before,
                to: Some(Value::from(now)),
            };
            (from.exact, to.exact) = (true, true);
            (from.template, to.template) = (Some(live), Some(restarted));
            (vec![diff], "pods that were restarted stay restarted")
        };
        let (from_id, to_id) = match scope {
            RestartScope::All => ("running".to_owned(), "restarted".to_owned()),
            RestartScope::Unready => (format!("{} not ready", to.gone.len()), "replaced".to_owned()),
            RestartScope::Instances(_) => (format!("{} failing", to.gone.len()), "replaced".to_owned()),
        };
        let [from, to] = Content::snapshots(from, to, [(from_id, images.clone()), (to_id, images)]);
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
            passage: rollback_core::Passage::default(),
            hint: Some(patch::hint(&object)),
        })
    }

    /// The pods that the workload, or one of its `ReplicaSets`, controls.
    pub(crate) async fn own_pods(&self, object: &Value) -> Result<Vec<Value>> {
        let query = super::history::selector_query(object);
        let mut all = self.cluster.list(&self.pods_path(), &query, "listing pods").await?;
        let owners: Vec<String> = match self.kind {
            WorkloadKind::Deployment => {
                let path = format!("/apis/apps/v1/namespaces/{}/replicasets", self.namespace());
                let sets = self.cluster.list(&path, &query, "listing ReplicaSets").await?;
                let own = sets.iter().filter(|set| json::controller_uid(set) == Some(json::uid(object)));
                own.map(|set| json::uid(set).to_owned()).collect()
            }
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => vec![json::uid(object).to_owned()],
        };
        all.retain(|pod| json::controller_uid(pod).is_some_and(|uid| owners.iter().any(|own| own == uid)));
        Ok(all)
    }

    /// Evicts the pods, one at a time, each once all that do not go are ready. Eviction respects
    /// `PodDisruptionBudgets`.
    pub(crate) async fn evict(&self, cx: &StepContext, change: &Change, to: &Content) -> Result<()> {
        let live = self.read().await?;
        crate::guard::refuse_another(change, &live)?;
        let mut version = None;
        for (index, pod) in to.gone.iter().enumerate() {
            if !self.is_in_the_way(pod, to.ready_too).await? {
                continue;
            }
            if index > 0 {
                self.await_others(cx, to.gone.get(index..).unwrap_or_default()).await?;
            }
            let version = match &version {
                Some(version) => version,
                None => version.insert(self.eviction_version().await?),
            };
            self.evict_one(cx, pod, version).await?;
            self.await_gone(cx, pod).await?;
        }
        Ok(())
    }

    /// Waits until every pod other than these is ready, and none is missing.
    async fn await_others(&self, cx: &StepContext, to_go: &[PodRef]) -> Result<()> {
        loop {
            let live = self.read().await?;
            let all = self.own_pods(&live).await?;
            let is_fine = |pod: &Value| json::is_ready(pod) && !pods::is_terminating(pod);
            let waits = |pod: &&Value| !is_fine(pod) && to_go.iter().all(|other| other.uid != json::uid(pod));
            let there = all.iter().filter(|pod| !pods::is_terminating(pod)).count();
            let enough = i64::try_from(there).is_ok_and(|n| n >= status::wanted_pods(self.kind, &live));
            let late = match all.iter().find(waits) {
                None if enough => return Ok(()),
                None => "a pod that was replaced is not there yet".to_owned(),
                Some(pod) => format!("pod {} is not ready", json::name(pod)),
            };
            cx.progress(format!("before the next pod goes: {late}"));
            self.pause(cx, &late).await?;
        }
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
            let Err(error) = self.cluster.post(&path, &body, &what).await else { return Ok(()) };
            if error.disposition() != Disposition::Indeterminate {
                cx.write_rejected();
            }
            let least = match (error.kind(), error.disposition()) {
                // It went by itself, and another of its name may be there.
                (ErrorKind::NotFound | ErrorKind::Conflict, _) => return Ok(()),
                (ErrorKind::RateLimited, Disposition::Temporary(after))
                    if error.to_string().contains("disruption budget") =>
                {
                    after.unwrap_or_default().max(Duration::from_secs(1))
                }
                _ => return Err(error),
            };
            cx.progress(format!("a PodDisruptionBudget does not allow {what} yet"));
            if Instant::now() + least >= cx.deadline() {
                let message = format!("a PodDisruptionBudget does not allow {what}");
                return Err(Error::new(ErrorKind::Refused, message).with_source(error).with_hint(
                    "see `kubectl get pdb`; a budget that allows none cannot be kept while pods are unready",
                ));
            }
            tokio::select! {
                () = sleep(least) => {}
                () = cx.cancelled() => {}
            }
        }
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
    if let Some(template) = template.as_object_mut()
        && let Some(metadata) = template.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[RESTARTED_AT] = Value::from(now);
    }
}
