//! Watches a rollout until it has settled, and says early when it will not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ApiResource;
use rollback_core::{
    Change, ChangeKind, Disposition, Error, ErrorKind, ErrorReport, Result, StepContext, Verification,
    VerificationState,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::content::Parsed;
use super::pods::{self, Trouble};
use super::{Workload, WorkloadKind, status};
use crate::json;
use crate::watch::{Changes, Sight, Watch};

/// How long a condition that may be left over from before is not believed.
const STALE: Duration = Duration::from_secs(15);
/// How often the server itself is asked while a watch is in trouble.
const LOOK_PAST_WATCH: Duration = Duration::from_secs(5);

impl Workload {
    pub(crate) async fn look(&self) -> Result<Verification> {
        let object = self.read().await?;
        let mut seen = status::rollout(self.kind, &object);
        if seen.is_converged() {
            return Ok(seen);
        }
        if json::flag(&object, "/spec/paused") {
            seen.message.push_str(" (paused)");
        }
        // Why it is not done is worth a look, and not an error where it may not be taken.
        let query = super::history::selector_query(&object);
        let pods = self.cluster.list(&self.pods_path(), &query, "listing pods").await.unwrap_or_default();
        let hash = self.current_hash(&object).await;
        let new = pods.iter().filter(|pod| is_of(self.kind, pod, hash.as_deref()));
        match new.filter_map(pods::trouble).max_by_key(|why| matches!(why, Trouble::Hopeless(_))) {
            Some(Trouble::Hopeless(why)) => {
                seen.state = VerificationState::Failed;
                seen.message = why;
            }
            Some(Trouble::Passing(why)) => seen.message = format!("{}; {why}", seen.message),
            None => {}
        }
        Ok(seen)
    }

    /// By which the pods of the live template name their revision, where that can be seen.
    async fn current_hash(&self, object: &Value) -> Option<String> {
        self.read_history(object).await.ok()?.current()?.hash.clone()
    }

    pub(crate) async fn watch_rollout(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let watches = self.cluster.watches();
        let objects = watches.subscribe(&self.kind.resource(), self.namespace());
        let pods = watches.subscribe(&ApiResource::erase::<Pod>(&()), self.namespace());
        let mut changes = [&objects, &pods].map(|watch| Changes::of(watch.clone()));
        let mut rollout = Rollout {
            workload: self,
            change,
            parsed: Parsed::of(change)?,
            pods,
            hash: None,
            waited: BTreeMap::new(),
            stale_deadline: None,
            settled_since: None,
        };
        let mut last = String::new();
        loop {
            let seen = match objects.get(self.id.name()) {
                Sight::Blocked(error) => return Err(blocked(&error)),
                Sight::NotYet => Verification::progressing("waiting for the API server"),
                Sight::Seen(_) if objects.trouble().is_some() => rollout.judge(None).await?,
                Sight::Seen(object) => rollout.judge(object.as_deref()).await?,
            };
            if seen.state != VerificationState::Progressing {
                return Ok(seen);
            }
            if Instant::now() >= cx.deadline() {
                return rollout.at_deadline(seen).await;
            }
            if seen.message != last {
                last.clone_from(&seen.message);
                cx.progress(seen.message.as_str());
            }
            // What is waited out has no event of its own, nor has what a broken watch does not see.
            let again = if rollout.waits() { Duration::from_secs(1) } else { LOOK_PAST_WATCH };
            let [object_changed, pod_changed] = &mut changes;
            tokio::select! {
                () = object_changed.next() => {}
                () = pod_changed.next() => {}
                () = sleep(again), if rollout.waits() || objects.trouble().is_some() => {}
                () = sleep_until(cx.deadline()) => {}
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
    change: &'a Change,
    parsed: Parsed,
    pods: Arc<Watch>,
    /// By which the new pods name their revision.
    hash: Option<String>,
    /// Since when each thing that may pass is seen.
    waited: BTreeMap<&'static str, Instant>,
    /// When the exceeded deadline was raised that was there already when watching began.
    stale_deadline: Option<Value>,
    settled_since: Option<Instant>,
}

impl Rollout<'_> {
    fn waits(&self) -> bool {
        !self.waited.is_empty() || self.settled_since.is_some()
    }

    /// The watch may lag; what is told last is what the server says.
    async fn at_deadline(&mut self, seen: Verification) -> Result<Verification> {
        if self.settled_since.is_some() {
            let mut seen = Verification::converged("settled");
            seen.notes.push("the time was up before it had been watched to stay so".into());
            return Ok(seen);
        }
        let now = self.judge(None).await?;
        Ok(if now.state == VerificationState::Progressing && self.settled_since.is_none() {
            seen
        } else {
            now
        })
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
                if let Err(error) = crate::guard::refuse_another(self.change, &confirmed) {
                    return Ok(Verification::failed(error.to_string()));
                }
                if !self.parsed.has_template(&confirmed) {
                    let conflict = crate::guard::conflict(&confirmed, "/spec/template");
                    return Ok(Verification::failed(conflict.to_string()));
                }
                &confirmed
            }
        };
        let seen = self.settled(object);
        match seen.state {
            VerificationState::Progressing => {
                self.settled_since = None;
                Ok(self.explain(object, seen).await)
            }
            VerificationState::Failed => Ok(seen),
            VerificationState::Converged => {
                self.waited.clear();
                let since = *self.settled_since.get_or_insert_with(Instant::now);
                if since.elapsed() < self.soak(object) {
                    return Ok(Verification::progressing("settled; watching that it stays so"));
                }
                Ok(self.note_digests(object, seen).await)
            }
        }
    }

    /// Longer where somebody may take the rollback back.
    fn soak(&self, object: &Value) -> Duration {
        let options = &self.workload.options;
        let contested = options.gitops.is_contested(object);
        if contested { options.soak.max(options.contested_soak) } else { options.soak }
    }

    fn is_meant(&self, object: &Value) -> bool {
        self.change.identity.as_deref() == Some(json::uid(object)) && self.parsed.has_template(object)
    }

    /// kubectl's rules, without believing a condition that is left over from before.
    fn settled(&mut self, object: &Value) -> Verification {
        let kind = self.workload.kind;
        if status::is_on_delete(object) {
            return match self.change.kind {
                ChangeKind::Restart => status::ready(kind, object),
                ChangeKind::Rollback if status::is_observed(object) => Verification::converged(
                    "the template is restored; with strategy OnDelete pods change when they are deleted",
                ),
                ChangeKind::Rollback => {
                    Verification::progressing("waiting for the controller to observe the template")
                }
            };
        }
        let Some(condition) = status::exceeded(object) else {
            let seen = status::rollout(kind, object);
            return match self.lagging_pod(object).filter(|_| seen.is_converged()) {
                Some(why) => Verification::progressing(why),
                None => seen,
            };
        };
        let raised = &condition["lastUpdateTime"];
        let is_new = raised != self.stale_deadline.get_or_insert_with(|| raised.clone());
        let mut without = object.clone();
        if let Some(Value::Array(conditions)) = without.pointer_mut("/status/conditions") {
            conditions.retain(|c| c["reason"] != status::DEADLINE_EXCEEDED);
        }
        let seen = status::rollout(kind, &without);
        let believed = status::is_observed(object) && (is_new || self.outlasts("deadline", STALE));
        if seen.state == VerificationState::Progressing && believed {
            return status::rollout(kind, object);
        }
        seen
    }

    /// Whether this has been seen for longer than that.
    fn outlasts(&mut self, what: &'static str, grace: Duration) -> bool {
        self.waited.entry(what).or_insert_with(Instant::now).elapsed() >= grace
    }

    /// Why an unfinished rollout is not done, and whether it will not be.
    async fn explain(&mut self, object: &Value, seen: Verification) -> Verification {
        if !status::is_observed(object) {
            return seen;
        }
        let failure = json::condition(object, "ReplicaFailure").filter(|c| c["status"] == "True");
        if let Some(failure) = failure {
            let why = json::text(failure, "/message").unwrap_or("pods cannot be created").to_owned();
            return self.wait_out("replica failure", why);
        }
        self.waited.remove("replica failure");
        let new = self.new_pods(object).await.unwrap_or_default();
        let troubles = new.iter().filter_map(|pod| pods::trouble(pod));
        match troubles.max_by_key(|why| matches!(why, Trouble::Hopeless(_))) {
            Some(Trouble::Hopeless(why)) => return Verification::failed(why),
            Some(Trouble::Passing(why)) => return self.wait_out("pod", why),
            None => self.waited.remove("pod"),
        };
        match self.blocking_pod(object) {
            Some(name) => Verification::progressing(format!(
                "{} Pod {name} of another revision is not ready and blocks the rollout",
                seen.message
            )),
            None => seen,
        }
    }

    fn wait_out(&mut self, what: &'static str, why: String) -> Verification {
        if self.outlasts(what, self.workload.options.grace) {
            return Verification::failed(why);
        }
        Verification::progressing(why)
    }

    /// The pods that fit. What a watch saw before it got into trouble, such as a missing right to watch,
    /// tells nothing of now.
    fn select_pods(&self, fits: impl Fn(&Value) -> bool) -> Sight<Vec<Arc<Value>>> {
        match self.pods.trouble() {
            Some(error) => Sight::Blocked(error),
            None => self.pods.select(fits),
        }
    }

    fn blocking_pod(&self, object: &Value) -> Option<String> {
        if self.workload.kind != WorkloadKind::StatefulSet {
            return None;
        }
        let Sight::Seen(all) = self.select_pods(|_| true) else { return None };
        let wanted = json::text(object, "/status/updateRevision");
        pods::blocking(object, all.iter().map(Arc::as_ref), wanted)
            .first()
            .map(|pod| json::name(pod).to_owned())
    }

    fn lagging_pod(&self, object: &Value) -> Option<String> {
        if self.workload.kind != WorkloadKind::StatefulSet {
            return None;
        }
        let Sight::Seen(all) = self.select_pods(|_| true) else { return None };
        let wanted = json::text(object, "/status/updateRevision");
        pods::lagging(object, all.iter().map(Arc::as_ref), wanted)
    }

    /// The pods of the revision to be reached, once the first list is there; none where pods may not be
    /// seen.
    async fn new_pods(&mut self, object: &Value) -> Option<Vec<Arc<Value>>> {
        if self.hash.is_none() {
            self.hash = self.workload.current_hash(object).await;
        }
        let kind = self.workload.kind;
        match self.select_pods(|pod| is_of(kind, pod, self.hash.as_deref())) {
            Sight::Seen(pods) => Some(pods),
            Sight::NotYet => None,
            Sight::Blocked(_) => Some(Vec::new()),
        }
    }

    /// Which image digests run now, and whether they are those that the revision ran with.
    async fn note_digests(&mut self, object: &Value, mut seen: Verification) -> Verification {
        if self.change.kind == ChangeKind::Restart {
            return seen;
        }
        let Some(pods) = self.new_pods(object).await else {
            return Verification::progressing("settled; reading which images run");
        };
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
        seen
    }
}

/// Whether a pod is of the revision with this hash.
fn is_of(kind: WorkloadKind, pod: &Value, hash: Option<&str>) -> bool {
    hash.is_some() && json::label(pod, kind.hash_label()) == hash && !pods::is_terminating(pod)
}

fn blocked(report: &ErrorReport) -> Error {
    let error = Error::new(report.kind, report.message.as_str());
    match report.disposition {
        Disposition::Temporary(after) => error.temporary(after),
        _ => error.with_hint("watching needs the verbs list and watch on this kind"),
    }
}
