//! Watches a rollout until it has settled, and says early when it will not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::ApiResource;
use rollback_core::{
    Change, ChangeKind, Error, ErrorKind, ErrorReport, Result, StepContext, Verification, VerificationState,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::content::Parsed;
use super::{GitOps, Workload, WorkloadKind, pods, status};
use crate::watch::{Sight, Watch};
use crate::{json, ownership};

/// How long something that may pass by itself is waited out: a pod that no node takes while nodes are
/// added, a quota, a condition left over from before.
const GRACE: Duration = Duration::from_secs(15);

impl Workload {
    pub(crate) async fn look(&self) -> Result<Verification> {
        let object = self.read().await?;
        let mut seen = status::rollout(self.kind, &object);
        if seen.state == VerificationState::Converged {
            return Ok(seen);
        }
        if json::flag(&object, "/spec/paused") {
            seen.message.push_str(" (paused)");
        }
        let query = super::history::selector_query(&object);
        let pods = self.cluster.list(&self.pods_path(), &query, "listing pods").await;
        let Ok(pods) = pods else { return Ok(seen) };
        let history = self.read_history(&object).await?;
        let hash = history.current().and_then(|record| record.hash.clone());
        let new = pods.iter().filter(|pod| is_of(self.kind, pod, hash.as_deref()));
        if let Some(why) = new.clone().find_map(pods::broken) {
            seen.state = VerificationState::Failed;
            seen.message = why;
        } else if let Some(why) = new.clone().find_map(pods::unschedulable) {
            seen.message = format!("{}; {why}", seen.message);
        }
        Ok(seen)
    }

    pub(crate) async fn watch_rollout(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let parsed = Parsed::of(change)?;
        let watches = self.cluster.watches();
        let objects = watches.subscribe(&self.kind.resource(), self.namespace());
        let pods =
            watches.subscribe(&ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()), self.namespace());
        let mut rollout = Rollout {
            workload: self,
            cx,
            change,
            parsed,
            pods: pods.clone(),
            hash: None,
            late_since: BTreeMap::new(),
            settled_since: None,
        };
        let mut changes = [objects.changes(), pods.changes()];
        let mut last = String::new();
        loop {
            let seen = match objects.get(self.id.name()) {
                Sight::Blocked(error) => return Err(blocked(&error)),
                Sight::NotYet => Verification::progressing("waiting for the API server"),
                Sight::Seen(object) => rollout.judge(object.as_deref()).await?,
            };
            if seen.state != VerificationState::Progressing {
                return Ok(seen);
            }
            if seen.message != last {
                last.clone_from(&seen.message);
                cx.progress(seen.message.as_str());
            }
            let [object_changed, pod_changed] = &mut changes;
            tokio::select! {
                _ = object_changed.changed() => {}
                _ = pod_changed.changed() => {}
                // What is waited out has no event of its own.
                () = sleep(Duration::from_secs(1)), if rollout.waits() => {}
                () = sleep_until(cx.deadline()) => return Ok(seen),
                () = cx.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "stopped while waiting for the rollout"));
                }
            }
        }
    }
}

/// A rollout as it is watched.
struct Rollout<'a> {
    workload: &'a Workload,
    cx: &'a StepContext,
    change: &'a Change,
    parsed: Parsed,
    pods: Arc<Watch>,
    /// By which the new pods name their revision.
    hash: Option<String>,
    /// Since when each thing that may pass is seen.
    late_since: BTreeMap<String, Instant>,
    settled_since: Option<Instant>,
}

impl Rollout<'_> {
    fn waits(&self) -> bool {
        !self.late_since.is_empty() || self.settled_since.is_some()
    }

    async fn judge(&mut self, watched: Option<&Value>) -> Result<Verification> {
        let confirmed;
        let object = match watched {
            Some(object) if self.is_meant(object) => object,
            // The watch may lag behind the patch: the server decides.
            _ => {
                confirmed = match self.workload.read().await {
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        return Ok(Verification::failed("it was deleted while it was watched"));
                    }
                    read => read?,
                };
                if let Err(error) = super::apply::refuse_another(self.change, &confirmed) {
                    return Ok(Verification::failed(error.to_string()));
                }
                if !self.parsed.has_template(&confirmed) {
                    let conflict = super::apply::conflict(&confirmed, "/spec/template");
                    return Ok(Verification::failed(conflict.to_string()));
                }
                &confirmed
            }
        };
        let seen = self.settled(object);
        match seen.state {
            VerificationState::Progressing => {
                self.settled_since = None;
                self.hopeless(object, seen).await
            }
            VerificationState::Failed => Ok(seen),
            VerificationState::Converged => {
                self.late_since.clear();
                let since = *self.settled_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.soak(object) {
                    return Ok(Verification::progressing("settled; watching that it stays so"));
                }
                self.note_digests(object, seen).await
            }
        }
    }

    /// Longer where somebody may take the rollback back.
    fn soak(&self, object: &Value) -> Duration {
        let options = &self.workload.options;
        let contested = options.gitops == GitOps::Ignore && ownership::reconciler(object).is_some();
        if contested { options.soak.max(options.contested_soak) } else { options.soak }
    }

    fn is_meant(&self, object: &Value) -> bool {
        self.change.identity.as_deref() == Some(json::uid(object)) && self.parsed.has_template(object)
    }

    /// kubectl's rules, without believing a condition that is left over from before.
    fn settled(&mut self, object: &Value) -> Verification {
        let kind = self.workload.kind;
        if status::is_on_delete(object) {
            if !status::is_observed(object) {
                return Verification::progressing("waiting for the controller to observe the template");
            }
            return Verification::converged(
                "the template is restored; with strategy OnDelete pods change when they are deleted",
            );
        }
        let Some(condition) = status::exceeded(object).filter(|_| status::is_observed(object)) else {
            return status::rollout(kind, object);
        };
        let mut without = object.clone();
        if let Some(Value::Array(conditions)) = without.pointer_mut("/status/conditions") {
            conditions.retain(|c| c["reason"] != status::DEADLINE_EXCEEDED);
        }
        let seen = status::rollout(kind, &without);
        let ours = json::items(object, "/metadata/managedFields")
            .iter()
            .filter(|fields| fields["manager"] == crate::cluster::MANAGER)
            .filter_map(|fields| json::time(fields, "/time"))
            .max();
        let raised = json::time(condition, "/lastUpdateTime");
        // Both times are the cluster's own, in whole seconds.
        let is_new = matches!((raised, ours), (Some(raised), Some(ours)) if raised > ours);
        if seen.state == VerificationState::Progressing && (is_new || self.outlasts("deadline exceeded")) {
            return status::rollout(kind, object);
        }
        seen
    }

    /// Whether this has been seen for longer than the grace.
    fn outlasts(&mut self, what: &str) -> bool {
        self.late_since.entry(what.to_owned()).or_insert_with(Instant::now).elapsed() >= GRACE
    }

    /// Why an unfinished rollout will not finish; what it was otherwise.
    async fn hopeless(&mut self, object: &Value, seen: Verification) -> Result<Verification> {
        if !status::is_observed(object) {
            return Ok(seen);
        }
        let failure = json::condition(object, "ReplicaFailure").filter(|c| c["status"] == "True");
        if let Some(failure) = failure {
            let message = json::text(failure, "/message").unwrap_or("pods cannot be created").to_owned();
            if self.outlasts("replica failure") {
                return Ok(Verification::failed(message));
            }
            return Ok(Verification::progressing(message));
        }
        if self.hash.is_none() {
            let history = self.workload.read_history(object).await?;
            self.hash = history.current().and_then(|record| record.hash.clone());
        }
        let new = self.new_pods();
        if let Some(why) = new.iter().find_map(|pod| pods::broken(pod)) {
            return Ok(Verification::failed(why));
        }
        if let Some(why) = new.iter().find_map(|pod| pods::unschedulable(pod)) {
            if self.outlasts("unschedulable") {
                return Ok(Verification::failed(why));
            }
            return Ok(Verification::progressing(why));
        }
        self.late_since.remove("unschedulable");
        self.late_since.remove("replica failure");
        Ok(seen)
    }

    /// The pods of the revision to be reached; none where pods may not be seen.
    fn new_pods(&self) -> Vec<Arc<Value>> {
        let kind = self.workload.kind;
        match self.pods.select(|pod| is_of(kind, pod, self.hash.as_deref())) {
            Sight::Seen(pods) => pods,
            Sight::NotYet | Sight::Blocked(_) => Vec::new(),
        }
    }

    /// Which image digests run now, and whether they are those that the revision ran with.
    async fn note_digests(&mut self, object: &Value, mut seen: Verification) -> Result<Verification> {
        if self.change.kind == ChangeKind::Restart {
            return Ok(seen);
        }
        if self.hash.is_none() {
            let history = self.workload.read_history(object).await?;
            self.hash = history.current().and_then(|record| record.hash.clone());
        }
        let pods = self.new_pods();
        for (image, now) in pods::digests(pods.iter().map(Arc::as_ref)) {
            let listed = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(", ");
            match self.parsed.to.digests.get(&image) {
                Some(before) if !now.is_subset(before) => seen.notes.push(format!(
                    "{image} is {} now, and was {} when this revision ran before",
                    listed(&now),
                    listed(before)
                )),
                _ => seen.notes.push(format!("{image} is {}", listed(&now))),
            }
        }
        self.cx.progress(seen.message.as_str());
        Ok(seen)
    }
}

/// Whether a pod is of the revision with this hash.
fn is_of(kind: WorkloadKind, pod: &Value, hash: Option<&str>) -> bool {
    hash.is_some() && json::label(pod, kind.hash_label()) == hash && !pods::is_terminating(pod)
}

fn blocked(report: &ErrorReport) -> Error {
    let error = Error::new(report.kind, report.message.as_str());
    match report.disposition {
        rollback_core::Disposition::Temporary(after) => error.temporary(after),
        _ => error.with_hint("watching needs the verbs list and watch on this kind"),
    }
}
