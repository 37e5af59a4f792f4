//! The component.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use kube::api::ApiResource;
use rollback_core::{
    Change, ComponentId, Error, ErrorKind, Ledger, Mark, Position, Realm, Record as Known, Result, Revision,
    Rollbackable, StepContext, Target, Verification,
};
use rollback_k8s::backend::{conflict, refuse_another, refuse_dying};
use rollback_k8s::{Cluster, GitOps, json};
use serde_json::Value;

use crate::content::{Content, Ends};
use crate::history::{self, Record, State};
use crate::mode::Mode;
use crate::spec::models;
use crate::template;

/// The id of the revision in place, while its controller has recorded none of it.
pub(crate) const UNRECORDED: &str = "unrecorded";

/// Of how many versions of what it follows the history says which is which.
const LABELLED: usize = 20;

/// How an `InferenceService` is returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServiceOptions {
    /// What to do with an object that a controller would take back.
    pub gitops: GitOps,
    /// Whether to go on although more than the model of the target differs and its spec is not recorded.
    pub force: bool,
    /// Whether to write nothing but the place of the model, with a test of its old value.
    pub uri_only: bool,
    /// How long an object that a controller may take back, although that is ignored, must stay settled before it
    /// counts as verified. Default: 2 minutes.
    pub contested_soak: Duration,
    /// How long a failure that may be left over from before, or may pass, is not believed. Default: 15 s.
    pub grace: Duration,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            gitops: GitOps::default(),
            force: false,
            uri_only: false,
            contested_soak: Duration::from_secs(120),
            grace: Duration::from_secs(15),
        }
    }
}

/// An `InferenceService` of KServe.
///
/// What returns is the spec of its components: predictor, transformer and explainer, with runtime, format and
/// resources. How many pods there are stays as it is. In Knative mode traffic is made safe first, where that is
/// possible; see the crate's documentation.
///
/// ```no_run
/// use rollback_core::{Rollbackable, Target};
/// use rollback_k8s::{Cluster, ConnectOptions};
/// use rollback_kserve::{InferenceService, ServiceOptions};
///
/// # async fn example() -> rollback_core::Result<()> {
/// let cluster = Cluster::connect(ConnectOptions::default()).await?;
/// let model = InferenceService::new(&cluster, "inflow-staging", "inflow-baseline", ServiceOptions::default())?;
/// let changes = model.prepare(&Target::Previous).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct InferenceService {
    pub(crate) cluster: Cluster,
    pub(crate) id: ComponentId,
    pub(crate) options: ServiceOptions,
    ledger: Option<Arc<dyn Ledger>>,
    followed: Option<Arc<dyn Rollbackable>>,
}

/// A state that can be returned to, and how well it is known.
pub(crate) struct Restored {
    pub(crate) content: Content,
    /// Where its templates differ from those in place in what cannot be carried into the spec.
    pub(crate) beyond: Vec<String>,
}

/// The live object and what the cluster remembers of it.
pub(crate) struct View {
    pub(crate) object: Value,
    pub(crate) mode: Mode,
    pub(crate) live: Content,
    pub(crate) states: Vec<State>,
    records: BTreeMap<&'static str, Vec<Record>>,
    known: Known,
}

impl InferenceService {
    /// Names an `InferenceService`; no request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when namespace or name cannot be those of an object.
    pub fn new(cluster: &Cluster, namespace: &str, name: &str, options: ServiceOptions) -> Result<Self> {
        rollback_k8s::backend::check_names("inferenceservice", namespace, name)?;
        let id = ComponentId::new("inferenceservice", Some(namespace), name)?;
        Ok(Self { cluster: cluster.clone(), id, options, ledger: None, followed: None })
    }

    /// Uses what a ledger has recorded: the whole specs of states of which the cluster remembers only what ran.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Says which component its model comes from, so that the history tells which revision of that one each is.
    #[must_use]
    pub fn following(mut self, component: Arc<dyn Rollbackable>) -> Self {
        self.followed = Some(component);
        self
    }

    /// Lets the server check a change without persisting it.
    ///
    /// # Errors
    /// What the server answers, or `Conflict` as [`Rollbackable::apply`].
    pub async fn dry_run(&self, change: &Change) -> Result<()> {
        let dry = async {
            let ends = Ends::of(change)?;
            let live = self.read().await?;
            refuse_another(change, &live)?;
            if let Position::Elsewhere(what) = ends.position(&live) {
                return Err(conflict(&live, &what));
            }
            let operations = ends.operations(&live);
            if operations.is_empty() {
                return Ok(());
            }
            let path = format!("{}?dryRun=All", self.path());
            let what = format!("dry run on {}", self.id);
            self.cluster.json_patch(&path, &Value::Array(operations), &what).await.map(drop)
        };
        dry.await.map_err(|e| self.own(e))
    }

    pub(crate) fn namespace(&self) -> &str {
        self.id.scope().unwrap_or_default()
    }

    pub(crate) fn resource() -> ApiResource {
        ApiResource {
            group: "serving.kserve.io".into(),
            version: "v1beta1".into(),
            api_version: "serving.kserve.io/v1beta1".into(),
            kind: "InferenceService".into(),
            plural: "inferenceservices".into(),
        }
    }

    fn path(&self) -> String {
        format!(
            "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}",
            self.namespace(),
            self.id.name()
        )
    }

    fn own(&self, error: Error) -> Error {
        error.with_component(&self.id)
    }

    pub(crate) async fn read(&self) -> Result<Value> {
        self.cluster.get(&self.path(), &format!("reading {}", self.id)).await
    }

    pub(crate) async fn view(&self) -> Result<View> {
        let object = self.read().await?;
        let mode = Mode::of(&object)?;
        let records = history::records(&self.cluster, self.namespace(), &object, mode).await?;
        let known = match &self.ledger {
            Some(ledger) => ledger.record(&self.cluster.realm().await?, &self.id).await?,
            None => Known::default(),
        };
        let live = Content::live(&object);
        let mut view = View { states: history::states(&records), object, mode, live, records, known };
        view.live.runs = view.current().map(runs_of).unwrap_or_default();
        Ok(view)
    }

    /// Which revision of what it follows each artifact belongs to.
    async fn labels(&self) -> BTreeMap<String, String> {
        let Some(followed) = &self.followed else { return BTreeMap::new() };
        let revisions = followed.history().await.unwrap_or_default();
        let artifacts = join_all(revisions.iter().take(LABELLED).map(async |revision| {
            let artifact = followed.artifact(&revision.id).await.ok()??;
            Some((crate::spec::plain(&artifact), revision.id.clone()))
        }));
        artifacts.await.into_iter().flatten().collect()
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        let (view, labels) = futures::join!(self.view(), self.labels());
        let view = view?;
        let summary = |content: &Content, more: &str| {
            let models = content.specs.get("predictor").map(models).unwrap_or_default();
            let version = models.iter().find_map(|uri| labels.get(uri));
            let version = version.map(|version| format!(" (version {version})")).unwrap_or_default();
            format!("{}{version}{more}", content.summary())
        };
        let mut revisions = Vec::new();
        if view.current().is_none() || view.live.canary.is_some() {
            revisions.push(Revision {
                id: view.current_id(),
                fingerprint: view.live.fingerprint(),
                current: true,
                created: None,
                since: None,
                cause: None,
                mark: None,
                summary: summary(&view.live, ""),
            });
        }
        for state in &view.states {
            let Restored { content, beyond } = view.restore(state);
            let fingerprint = content.fingerprint();
            let current = state.current && revisions.is_empty();
            let is_left = view.is_left(state) && fingerprint != view.live.fingerprint();
            let more = match (beyond.is_empty(), state.is_broken()) {
                (true, false) => String::new(),
                (true, true) => " (never ready)".to_owned(),
                (false, _) => format!(" (also ran with another {})", short(&beyond)),
            };
            let template = state.predictor().map(|record| &record.template);
            let cause = template.and_then(|t| json::annotation(t, "kubernetes.io/change-cause"));
            revisions.push(Revision {
                id: state.id.clone(),
                fingerprint,
                current,
                created: state.created(),
                since: None,
                cause: cause.map(str::to_owned),
                mark: (is_left && !current).then_some(Mark::Left),
                summary: summary(&content, &more),
            });
        }
        Ok(revisions)
    }

    async fn carry_out(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let ends = Ends::of(change)?;
        let position = |live: &Value| match ends.position(live) {
            Position::To => Ok(Position::To),
            other => refuse_dying(live).map(|()| other),
        };
        let operations = |live: &Value| ends.operations(live);
        let what = format!("patching {} to revision {}", self.id, change.to.id);
        self.cluster.patch_guarded(cx, change, (&self.path(), &what), position, operations).await
    }

    async fn position(&self, change: &Change) -> Result<Position> {
        let ends = Ends::of(change)?;
        let live = self.read().await?;
        if change.identity.as_deref() != Some(json::uid(&live)) {
            return Ok(Position::Elsewhere(format!("another object of this name, UID {}", json::uid(&live))));
        }
        Ok(ends.position(&live))
    }
}

/// The first few paths of a list, for people.
pub(crate) fn short(paths: &[String]) -> String {
    let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut names: Vec<_> = paths.iter().map(last).collect();
    names.dedup();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

fn runs_of(state: &State) -> BTreeMap<String, rollback_core::Fingerprint> {
    let run =
        |(name, record): (&&'static str, &Record)| ((*name).to_owned(), template::identity(&record.template));
    state.records.iter().map(run).collect()
}

impl View {
    /// The state in place, where the cluster has recorded it.
    pub(crate) fn current(&self) -> Option<&State> {
        let state = self.states.first().filter(|state| state.current)?;
        let is_recorded = |(name, spec): (&String, &Value)| match state.records.get(name.as_str()) {
            Some(record) => {
                let runs = template::observed(&record.template).models;
                let wanted = models(spec);
                wanted.is_empty() || runs == wanted
            }
            None => false,
        };
        // Between an edit and what its controller makes of it, the newest record is of what was there before.
        self.live.specs.iter().all(is_recorded).then_some(state)
    }

    /// Whether a state was left by going back to what is in place now: that was in place before it already. KServe
    /// copies annotations to the pods, so this is not recorded on the object, but told by its history.
    pub(crate) fn is_left(&self, state: &State) -> bool {
        let Some(current) = self.current() else { return false };
        let first = |state: &State| {
            let runs = runs_of(state);
            self.states.iter().rposition(|other| runs_of(other) == runs)
        };
        let came_after = first(state) < first(current);
        // A ReplicaSet that was taken up again is not in its old place any more, but knows its old numbers.
        let lowest = |record: &Record| record.former.iter().copied().chain([record.number]).min();
        let counted_after = current.records.iter().any(|(name, record)| {
            let other = state.records.get(name).and_then(lowest);
            !record.former.is_empty() && other > lowest(record)
        });
        state.id != current.id && (came_after || counted_after)
    }

    pub(crate) fn current_id(&self) -> String {
        let id = self.current().map_or(UNRECORDED, |state| state.id.as_str());
        let canaries = json::items(self.live.canary.as_ref().unwrap_or(&Value::Null), "").iter();
        let names = canaries.filter_map(|canary| json::text(canary, "/predictor/name"));
        names.fold(id.to_owned(), |id, name| format!("{id}+{name}"))
    }

    /// The record of the revision of this name.
    pub(crate) fn record(&self, component: &str, name: &str) -> Option<&Record> {
        self.records.get(component)?.iter().find(|record| record.name == name)
    }

    /// What a state of the past takes to come back: as it was recorded, else made from what is there now.
    pub(crate) fn restore(&self, state: &State) -> Restored {
        let runs = runs_of(state);
        if let Some(content) = self.recorded(&runs) {
            return Restored { content: Content { runs, ..content }, beyond: Vec::new() };
        }
        let (mut specs, mut beyond) = (BTreeMap::new(), Vec::new());
        for (name, spec) in &self.live.specs {
            let now = self.states.first().and_then(|newest| newest.records.get(name.as_str()));
            let then = state.records.get(name.as_str());
            let spec = match (now, then) {
                (Some(now), Some(then)) => {
                    let (spec, more) = template::carried(spec, &now.template, &then.template);
                    beyond.extend(more);
                    spec
                }
                // What a cluster remembers nothing of stays.
                _ => spec.clone(),
            };
            specs.insert(name.clone(), spec);
        }
        Restored { content: Content { specs, runs, ..Content::default() }, beyond }
    }

    /// The state that ran exactly this, as the ledger has it.
    fn recorded(&self, runs: &BTreeMap<String, rollback_core::Fingerprint>) -> Option<Content> {
        if runs == &self.live.runs && self.live.canary.is_none() {
            return Some(Content { specs: self.live.specs.clone(), ..Content::default() });
        }
        let snapshots =
            self.known.revisions().filter_map(|(_, known)| Some((known.noted, known.snapshot.as_ref()?)));
        let mut all: Vec<_> =
            snapshots.filter_map(|(noted, known)| Some((noted, Content::of(known).ok()?))).collect();
        all.retain(|(_, content)| {
            !content.runs.is_empty() && content.runs == *runs && content.canary.is_none()
        });
        let (_, content) = all.into_iter().max_by_key(|(noted, _)| *noted)?;
        Some(Content { specs: content.specs, ..Content::default() })
    }
}

#[async_trait]
impl Rollbackable for InferenceService {
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
        self.plan(target).await.map_err(|e| self.own(e))
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.position(change).await.map_err(|e| self.own(e))
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        self.carry_out(cx, change).await.map_err(|e| self.own(e))
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        self.watch(cx, change).await.map_err(|e| self.own(e))
    }

    async fn status(&self) -> Result<Verification> {
        self.look().await.map_err(|e| self.own(e))
    }
}

/// That this kind of object is not there at all is worth saying.
pub(crate) fn nothing_earlier(notes: &[String]) -> Error {
    let error = Error::new(ErrorKind::NotFound, "no earlier revision to return to");
    let hint = "see the history; the cluster keeps a limited number of revisions, and a ledger (rollback record) more";
    if notes.is_empty() {
        error.with_hint(hint)
    } else {
        error.with_hint(format!("{}; {hint}", notes.join("; ")))
    }
}
