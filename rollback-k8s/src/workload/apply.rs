//! Writes a change, and nothing else.

use std::time::Duration;

use rollback_core::{Change, ChangeKind, Disposition, Error, ErrorKind, Position, Result, StepContext};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::content::{Parsed, PodRef};
use super::patch::{self, Given};
use super::{Workload, WorkloadKind, status};
use crate::guard::{conflict, is_rejected, refuse_another, refuse_dying};
use crate::json;

/// How long a deleted pod may stay beyond its own grace period before its node counts as unreachable.
const TERMINATION_SLACK: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Workload {
    pub(crate) async fn carry_out(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let parsed = Parsed::of(change)?;
        if change.kind == ChangeKind::Restart && !parsed.to.gone.is_empty() {
            return self.evict(cx, change, &parsed.to).await;
        }
        self.write_fields(cx, change, &parsed).await?;
        let is_way_back = change.kind == ChangeKind::Rollback && parsed.to.was_in_place;
        let may_block = is_way_back && self.kind == WorkloadKind::StatefulSet;
        if !parsed.to.gone.is_empty() || may_block {
            let live = self.await_observed(cx).await?;
            let mut gone = parsed.to.gone.clone();
            if may_block {
                // Which pods of the revision that failed block its way back shows only now.
                let query = super::history::selector_query(&live);
                let all = self.cluster.list(&self.pods_path(), &query, "listing pods").await?;
                let wanted = json::text(&live, "/status/updateRevision");
                gone.extend(super::pods::blocking(&live, &all, wanted).into_iter().map(PodRef::of));
            }
            for pod in &gone {
                self.free(cx, pod).await?;
            }
        }
        Ok(())
    }

    /// First as planned, which takes one request; where its guard fails, on what is read then.
    async fn write_fields(&self, cx: &StepContext, change: &Change, parsed: &Parsed) -> Result<()> {
        if let Some(hint) = change.hint.as_ref().filter(|_| cx.attempt() == 1)
            && let Some(generation) = json::number(hint, "/generation")
        {
            let held = json!({"metadata": {"annotations": hint.get("annotations")}});
            let given = Given {
                uid: change.identity.as_deref().unwrap_or_default(),
                generation,
                annotations: patch::annotations(&held),
                template: true,
            };
            let operations =
                patch::build(parsed, &given, parsed.to.left.annotation(change, &held, cx).as_ref());
            match self.cluster.send_patch(cx, &self.path(), operations, &self.verb(change)).await {
                Err(e) if is_rejected(&e) => {}
                other => return other,
            }
        }
        let operations = |live: &Value| {
            let given = Given {
                uid: json::uid(live),
                generation: json::generation(live),
                annotations: patch::annotations(live),
                template: !parsed.has_template(live),
            };
            patch::build(parsed, &given, parsed.to.left.annotation(change, live, cx).as_ref())
        };
        let position = |live: &Value| match parsed.fields(live) {
            Position::To => Ok(Position::To),
            other => self.refuse_unfit_to_roll(live).map(|()| other),
        };
        let (path, verb) = (self.path(), self.verb(change));
        self.cluster.patch_guarded(cx, change, (&path, &verb), position, operations).await
    }

    fn verb(&self, change: &Change) -> String {
        match change.kind {
            ChangeKind::Rollback => format!("patching {} to revision {}", self.id, change.to.id),
            ChangeKind::Restart => format!("patching {} to restart it", self.id),
        }
    }

    pub(crate) async fn try_patch(&self, change: &Change) -> Result<()> {
        let parsed = Parsed::of(change)?;
        let live = self.read().await?;
        refuse_another(change, &live)?;
        if let Position::Elsewhere(what) = parsed.fields(&live) {
            return Err(conflict(&live, &what));
        }
        let given = Given {
            uid: json::uid(&live),
            generation: json::generation(&live),
            annotations: patch::annotations(&live),
            template: !parsed.has_template(&live),
        };
        let operations = patch::build(&parsed, &given, None);
        if operations.is_empty() {
            return Ok(());
        }
        let path = format!("{}?dryRun=All", self.path());
        let what = format!("dry run on {}", self.id);
        self.cluster.json_patch(&path, &Value::Array(operations), &what).await.map(drop)
    }

    /// Refuses an object on which a written template would not roll out.
    pub(crate) fn refuse_unfit_to_roll(&self, live: &Value) -> Result<()> {
        refuse_dying(live)?;
        if !json::flag(live, "/spec/paused") {
            return Ok(());
        }
        let (kind, name, namespace) = (self.kind, self.id.name(), self.namespace());
        Err(Error::new(ErrorKind::Refused, "it is paused: nothing would roll out")
            .with_hint(format!("kubectl rollout resume {kind}/{name} -n {namespace}")))
    }

    /// Waits until the controller works on the template just written: a pod deleted before would come
    /// back as it was.
    async fn await_observed(&self, cx: &StepContext) -> Result<Value> {
        loop {
            let live = self.read().await?;
            if status::is_observed(&live) {
                return Ok(live);
            }
            cx.progress("waiting for the controller to observe the template");
            self.pause(cx, "the controller did not observe the template").await?;
        }
    }

    /// Deletes one pod that blocks the rollout, and waits until it is gone.
    async fn free(&self, cx: &StepContext, pod: &PodRef) -> Result<()> {
        let path = format!("{}/{}", self.pods_path(), pod.name);
        loop {
            let Some(live) = self.read_pod(pod).await? else { return Ok(()) };
            if super::pods::is_terminating(&live) {
                return self.await_gone(cx, pod).await;
            }
            if json::is_ready(&live) {
                return Ok(());
            }
            let what = format!("deleting pod {}, which blocks the rollout", pod.name);
            cx.before_write(&what).await?;
            let version = json::text(&live, "/metadata/resourceVersion");
            let options = json!({"preconditions": {"uid": pod.uid, "resourceVersion": version}});
            match self.cluster.delete(&path, &options, &what).await {
                Ok(_) => return self.await_gone(cx, pod).await,
                Err(e) => {
                    if e.disposition() != Disposition::Indeterminate {
                        cx.write_rejected();
                    }
                    // Its status changed meanwhile, or it went by itself: look again.
                    if !matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound) {
                        return Err(e);
                    }
                }
            }
            self.pause(cx, &format!("pod {} did not end", pod.name)).await?;
        }
    }

    /// Waits until a pod that is on its way out has gone.
    pub(crate) async fn await_gone(&self, cx: &StepContext, pod: &PodRef) -> Result<()> {
        let since = Instant::now();
        while let Some(live) = self.read_pod(pod).await? {
            let grace = json::number(&live, "/metadata/deletionGracePeriodSeconds").unwrap_or(30);
            if since.elapsed() >= Duration::from_secs(grace.unsigned_abs()) + TERMINATION_SLACK {
                return Err(self.unreachable_node(&live));
            }
            cx.progress(format!("waiting for pod {} to end", pod.name));
            self.pause(cx, &format!("pod {} did not end", pod.name)).await?;
        }
        Ok(())
    }

    fn unreachable_node(&self, pod: &Value) -> Error {
        let (name, namespace) = (json::name(pod), self.namespace());
        let node = json::text(pod, "/spec/nodeName").unwrap_or("(none)");
        let message = format!("pod {name} is terminating and does not end: node {node} may be unreachable");
        Error::new(ErrorKind::Timeout, message).stuck().with_hint(format!(
            "kubectl get node {node}; only if the node is really gone: kubectl delete pod {name} -n {namespace} --grace-period=0 --force"
        ))
    }

    /// The pod, unless it is gone or another one of its name took its place.
    pub(crate) async fn read_pod(&self, pod: &PodRef) -> Result<Option<Value>> {
        let path = format!("{}/{}", self.pods_path(), pod.name);
        match self.cluster.get(&path, &format!("reading pod {}", pod.name)).await {
            Ok(live) if json::uid(&live) == pod.uid => Ok(Some(live)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a pod that the change removes is still there, and not ready unless ready ones go too.
    pub(crate) async fn is_in_the_way(&self, pod: &PodRef, ready_too: bool) -> Result<bool> {
        Ok(self.read_pod(pod).await?.is_some_and(|live| ready_too || !json::is_ready(&live)))
    }

    /// Waits a moment within the deadline.
    pub(crate) async fn pause(&self, cx: &StepContext, late: &str) -> Result<()> {
        if Instant::now() + LOOK_AGAIN >= cx.deadline() {
            return Err(Error::new(ErrorKind::Timeout, late));
        }
        tokio::select! {
            () = sleep(LOOK_AGAIN) => Ok(()),
            () = cx.cancelled() => Err(Error::new(ErrorKind::Cancelled, format!("stopped while {late}"))),
        }
    }
}
