//! Deployments, `StatefulSets` and `DaemonSets`.

mod apply;
mod choose;
mod content;
mod events;
mod history;
mod kind;
mod last_applied;
mod lookups;
mod patch;
mod pods;
mod prepare;
mod restart;
mod status;
mod template;
mod verify;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    Change, ComponentId, Error, ErrorKind, Mark, Position, Realm, RestartScope, Restartable, Result,
    Revision, Rollbackable, RunId, StepContext, StepReport, Target, Timestamp, Verification,
};
use serde_json::Value;

use crate::Cluster;
use crate::{json, ownership};
use content::Parsed;
use history::History;

pub use kind::WorkloadKind;
#[cfg(feature = "probe")]
pub(crate) use pods::{instance, is_terminating};

/// How a workload is undone.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkloadOptions {
    /// Whose rules are followed.
    pub mode: UndoMode,
    /// Whether the last-applied annotation moves along, so that the next client-side apply removes what it
    /// should.
    pub declarative: bool,
    /// What to do with an object that a controller would take back.
    pub gitops: GitOps,
    /// Whether to go on although something that the target refers to is absent.
    pub force: bool,
    /// How long the workload must stay settled before it counts as verified. Default: no time.
    pub soak: Duration,
    /// The same, of an object that a controller may take back although that is ignored. Default: 2 minutes.
    pub contested_soak: Duration,
    /// How long what may pass by itself is waited out before it is a failure: a pod that no node takes while
    /// nodes are added, a quota. Default: 2 minutes.
    pub grace: Duration,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            mode: UndoMode::default(),
            declarative: false,
            gitops: GitOps::default(),
            force: false,
            soak: Duration::ZERO,
            contested_soak: Duration::from_secs(120),
            grace: Duration::from_secs(120),
        }
    }
}

/// Whose rules an undo follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndoMode {
    /// Ours: a restart is no revision, a revision that a rollback left is not returned to, annotations that
    /// only the live object has stay, and what was left is recorded on the object.
    #[default]
    Guarded,
    /// kubectl's: the object exactly as `kubectl rollout undo` leaves it.
    Kubectl,
}

/// What to do with an object that a controller would take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GitOps {
    /// Refuse, and say what to do there.
    #[default]
    Refuse,
    /// Go on, with a warning.
    Ignore,
}

impl GitOps {
    /// Refuses an object that a controller would take back, or warns where that is to be ignored.
    ///
    /// # Errors
    /// `Refused`, with what to do there.
    pub fn judge(self, object: &Value, warnings: &mut Vec<String>) -> Result<()> {
        ownership::reconciler(object).map_or(Ok(()), |reconciler| reconciler.judge(self, warnings))
    }

    /// Whether somebody may take a change back although that is ignored, so that it is worth watching on.
    pub fn is_contested(self, object: &Value) -> bool {
        self == Self::Ignore && ownership::reconciler(object).is_some()
    }
}

/// Whether a workload has settled, by the rules of `kubectl rollout status`, from the object alone; none for what is
/// no workload. One with strategy `OnDelete` has once its controller has seen it.
pub fn settled(object: &Value) -> Option<Verification> {
    let kind = json::text(object, "/kind")?;
    let all = [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet];
    let kind = all.into_iter().find(|known| known.kind() == kind)?;
    json::text(object, "/apiVersion").filter(|version| version.starts_with("apps/"))?;
    if status::is_on_delete(object) && status::is_observed(object) {
        return Some(Verification::converged("with strategy OnDelete pods change when they are deleted"));
    }
    Some(status::rollout(kind, object))
}

/// The `ConfigMaps` and Secrets that the pods of a template need, by kind and name.
pub fn needs(template: &Value) -> impl Iterator<Item = (&'static str, String)> {
    template::references(template).into_iter().map(|need| (need.kind.as_str(), need.name))
}

/// A pod template as the cluster has recorded it.
#[derive(Clone, Debug)]
pub struct RecordedTemplate {
    /// The number of its revision; 0 where it has none yet.
    pub number: i64,
    /// The numbers that it had before a rollback gave it a new one.
    pub former: Vec<i64>,
    /// Whether it is the one in place.
    pub current: bool,
    /// When it was recorded.
    pub created: Option<Timestamp>,
    /// Its pods that are available, where the record itself says so.
    pub available: Option<i64>,
    /// The template, raw.
    pub template: Value,
}

/// A Deployment, `StatefulSet` or `DaemonSet`.
///
/// Only the pod template (and, for a Deployment, the annotations recorded with it) is restored; replicas,
/// strategy and everything else stay. A reversal brings template and annotations back, but not pods that
/// were deleted to free a stuck rollout.
///
/// ```no_run
/// use rollback_core::{Rollbackable, Target};
/// use rollback_k8s::{Cluster, ConnectOptions, Workload, WorkloadKind, WorkloadOptions};
///
/// # async fn example() -> rollback_core::Result<()> {
/// let cluster = Cluster::connect(ConnectOptions::default()).await?;
/// let web = Workload::new(&cluster, WorkloadKind::Deployment, "shop", "web", WorkloadOptions::default())?;
/// let changes = web.prepare(&Target::Previous).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Workload {
    cluster: Cluster,
    kind: WorkloadKind,
    id: ComponentId,
    options: WorkloadOptions,
}

impl Workload {
    /// Names a workload; no request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when namespace or name cannot be those of an object.
    pub fn new(
        cluster: &Cluster,
        kind: WorkloadKind,
        namespace: &str,
        name: &str,
        options: WorkloadOptions,
    ) -> Result<Self> {
        check_names(kind.as_str(), namespace, name)?;
        let id = ComponentId::new(kind.as_str(), Some(namespace), name)?;
        Ok(Self { cluster: cluster.clone(), kind, id, options })
    }

    /// The workload of this id.
    ///
    /// # Errors
    /// `InvalidConfig` when the id is not that of a workload.
    pub fn from_id(cluster: &Cluster, id: &ComponentId, options: WorkloadOptions) -> Result<Self> {
        let kind = id.kind().parse()?;
        let namespace = id.scope().ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("{id} names no namespace")).with_component(id)
        })?;
        Self::new(cluster, kind, namespace, id.name(), options)
    }

    /// The names of the workloads of a kind in a namespace.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn names(cluster: &Cluster, kind: WorkloadKind, namespace: &str) -> Result<Vec<String>> {
        cluster.names(&kind.collection(namespace)).await
    }

    /// The templates that the cluster has recorded of it, the highest number first. Read-only.
    ///
    /// # Errors
    /// `NotFound` when it does not exist, or what the server answers.
    pub async fn templates(&self) -> Result<Vec<RecordedTemplate>> {
        let history = async { self.read_history(&self.read().await?).await };
        let history = history.await.map_err(|e| self.own(e))?;
        let current = history.current;
        let record = |(index, record): (usize, history::Record)| RecordedTemplate {
            number: record.number,
            former: record.former,
            current: current == Some(index),
            created: record.created,
            available: record.replicas.map(|(_, available)| available),
            template: record.template,
        };
        Ok(history.records.into_iter().enumerate().map(record).collect())
    }

    /// Lets the server check a change without persisting it.
    ///
    /// # Errors
    /// What the server answers, or `Conflict` as [`Rollbackable::apply`].
    pub async fn dry_run(&self, change: &Change) -> Result<()> {
        self.try_patch(change).await.map_err(|e| self.own(e))
    }

    /// When its pod template was written last, and by which program, as its managed fields tell. Read-only.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn last_writer(&self) -> Result<Option<(Timestamp, String)>> {
        let object = self.read().await.map_err(|e| self.own(e))?;
        let wrote = json::items(&object, "/metadata/managedFields").iter().filter_map(|fields| {
            fields.pointer("/fieldsV1/f:spec/f:template")?;
            Some((json::time(fields, "/time")?, fields["manager"].as_str()?.to_owned()))
        });
        Ok(wrote.max())
    }

    /// Posts an Event on the object that tells how a step of a run ended: `RolledBack` or
    /// `RollbackFailed`. A step that changed nothing has none, nor has a restart, of which the Events of
    /// its pods tell.
    ///
    /// # Errors
    /// What the server answers. The Event is for people: going on without it is safe.
    pub async fn announce(&self, run: RunId, step: &StepReport) -> Result<()> {
        self.post_event(run, step).await.map_err(|e| self.own(e))
    }

    fn namespace(&self) -> &str {
        self.id.scope().unwrap_or_default()
    }

    fn path(&self) -> String {
        self.kind.path(self.namespace(), self.id.name())
    }

    fn pods_path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace())
    }

    /// Names this workload in an error.
    fn own(&self, error: Error) -> Error {
        error.with_component(&self.id)
    }

    async fn read(&self) -> Result<Value> {
        self.cluster.get(&self.path(), &format!("reading {}", self.id)).await
    }

    /// The pods that it controls, as they were at this time.
    #[cfg(feature = "probe")]
    pub(crate) async fn live_pods(&self) -> Result<(Vec<Value>, Timestamp)> {
        let pods = async { self.own_pods(&self.read().await?).await };
        let pods = pods.await.map_err(|e| self.own(e))?;
        Ok((pods, self.cluster.clock().now()))
    }

    async fn read_history(&self, object: &Value) -> Result<History> {
        let path = format!("/apis/apps/v1/namespaces/{}/{}", self.namespace(), self.kind.history_plural());
        let what = format!("reading the history of {}", self.id);
        let found = self.cluster.list(&path, &history::selector_query(object), &what).await?;
        Ok(History::new(self.kind, object, &found))
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        let object = self.read().await?;
        let history = self.read_history(&object).await?;
        let left = choose::left_revisions(&object, &history);
        let revision = |(index, record): (usize, &history::Record)| Revision {
            id: record.number.to_string(),
            fingerprint: record.identity.clone(),
            current: history.current == Some(index),
            created: record.created,
            since: (history.current == Some(index)).then(|| history.since(record)).flatten(),
            cause: record.cause().map(str::to_owned),
            mark: left.contains(&record.number).then_some(Mark::Left),
            summary: record.summary(),
        };
        let mut revisions = Vec::new();
        if history.current.is_none() {
            revisions.push(choose::unrecorded(&object));
        }
        revisions.extend(history.records.iter().enumerate().map(revision));
        // Controllers can leave two records of one number; a number names one revision, as for kubectl.
        revisions.sort_by_key(|revision| !revision.current);
        let mut seen = HashSet::new();
        revisions.retain(|revision| seen.insert(revision.id.clone()));
        revisions.sort_by_key(|r| Reverse(r.id.parse::<i64>().unwrap_or(i64::MAX)));
        Ok(revisions)
    }

    async fn position(&self, change: &Change) -> Result<Position> {
        let parsed = Parsed::of(change)?;
        let live = self.read().await?;
        if change.identity.as_deref() != Some(json::uid(&live)) {
            return Ok(Position::Elsewhere(format!("another object of this name, UID {}", json::uid(&live))));
        }
        let mut parts = content::locate_fields(&parsed.from, &parsed.to, &live);
        for pod in &parsed.to.gone {
            let there = self.is_in_the_way(pod, parsed.to.ready_too).await?;
            parts.push((format!("pod {}", pod.name), there, !there));
        }
        Ok(Position::of_parts(parts))
    }
}

/// Refuses what cannot be the namespace and the name of an object of this kind.
///
/// # Errors
/// `InvalidConfig`, with which of the two.
pub fn check_names(kind: &str, namespace: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    for (what, text) in [("namespace", namespace), ("name", name)] {
        let ends = |c: char| c.is_ascii_alphanumeric();
        if !(text.starts_with(ends) && text.ends_with(ends) && text.chars().all(plain)) {
            let message = format!("{text:?} cannot be the {what} of a {kind}");
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("lower-case letters, digits, '-' and '.'"));
        }
    }
    Ok(())
}

#[async_trait]
impl Rollbackable for Workload {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        self.cluster.realm().await.map_err(|e| self.own(e))
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        self.revisions().await.map_err(|e| self.own(e))
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        self.prepare_undo(target).await.map(|change| vec![change]).map_err(|e| self.own(e))
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.position(change).await.map_err(|e| self.own(e))
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        self.carry_out(cx, change).await.map_err(|e| self.own(e))
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        self.watch_rollout(cx, change).await.map_err(|e| self.own(e))
    }

    async fn status(&self) -> Result<Verification> {
        self.look().await.map_err(|e| self.own(e))
    }
}

#[async_trait]
impl Restartable for Workload {
    async fn prepare_restart(&self, scope: RestartScope) -> Result<Change> {
        self.prepare_restart_of(scope).await.map_err(|e| self.own(e))
    }
}
