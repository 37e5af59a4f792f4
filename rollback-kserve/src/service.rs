//! The component.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use kube::api::ApiResource;
use rollback_core::{
    Change, ComponentId, Error, Fingerprint, Ledger, Mark, Position, Realm, Record as Known, Result,
    Revision, Rollbackable, StepContext, Target, Timestamp, Verification,
};
use rollback_k8s::backend::{MANAGER, conflict, refuse_another, refuse_dying};
use rollback_k8s::{Cluster, GitOps, json};
use serde_json::{Value, json};

use crate::content::{Content, Ends};
use crate::history::{self, Record, State};
use crate::mode::Mode;
use crate::spec::{COMPONENTS, PERCENT, SCALING, downloaded, in_storage, models, same_models};
use crate::template;

/// The id of the revision in place, while its controller has recorded none of it.
pub(crate) const UNRECORDED: &str = "unrecorded";

/// How long KServe may take to make a revision of a spec.
const TAKES_UP: Duration = Duration::from_secs(15);

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
    /// The labels and annotations of its pods that differ.
    pub(crate) aside: Vec<String>,
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

/// Where the API lists them.
fn collection(namespace: &str) -> String {
    format!("/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices")
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

    /// The names of those in a namespace.
    ///
    /// # Errors
    /// What the server answers; `NotFound` where it knows no `InferenceServices`.
    pub async fn names(cluster: &Cluster, namespace: &str) -> Result<Vec<String>> {
        cluster.names(&collection(namespace)).await
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

    /// When its spec was written last, but for what belongs to no revision, and by which program, as its managed fields
    /// tell. Read-only.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn last_writer(&self) -> Result<Option<(Timestamp, String)>> {
        let object = self.read().await.map_err(|e| self.own(e))?;
        Ok(writes(&object).max().map(|(at, manager)| (at, manager.to_owned())))
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
        format!("{}/{}", collection(self.namespace()), self.id.name())
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
        let mut labels = BTreeMap::new();
        for (artifact, id) in artifacts.await.into_iter().flatten() {
            labels.extend(in_storage(&artifact).map(|path| (path, id.clone())));
            labels.insert(artifact, id);
        }
        labels
    }

    async fn revisions(&self) -> Result<Vec<Revision>> {
        let (view, labels) = futures::join!(self.view(), self.labels());
        let view = view?;
        let summary = |content: &Content, more: &str| {
            let models = content.specs.get("predictor").map(models).unwrap_or_default();
            let version = models.iter().find_map(|uri| labels.get(&crate::spec::plain(uri)));
            let version = version.map(|version| format!(" (version {version})")).unwrap_or_default();
            format!("{}{version}{more}", content.summary())
        };
        let left = view.left();
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
            let Restored { content, beyond, .. } = view.restore(state);
            // What cannot be restored from here is told apart by what it ran.
            let fingerprint = if beyond.is_empty() {
                content.fingerprint()
            } else {
                Fingerprint::of(&json!({"runs": content.runs}))
            };
            let current = state.current && revisions.is_empty();
            let is_left = left.contains(&state.id) && fingerprint != view.live.fingerprint();
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
    // The last part of a key with a slash is its name, too.
    let last = |path: &String| path.replace("~1", "/").rsplit('/').next().unwrap_or_default().to_owned();
    let mut names: Vec<_> = paths.iter().map(last).collect();
    names.dedup();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

/// Whether the fields that somebody owns of a spec are only of those that belong to no revision.
fn is_scaling(spec: &Value) -> bool {
    let components = spec.as_object().into_iter().flatten();
    components.filter(|(key, _)| *key != ".").all(|(_, component)| {
        let fields = component.as_object().into_iter().flatten().map(|(key, _)| key.trim_start_matches("f:"));
        fields.filter(|key| *key != ".").all(|key| key == PERCENT || SCALING.contains(&key))
    })
}

/// When each manager wrote the spec last, but for what belongs to no revision.
fn writes(object: &Value) -> impl Iterator<Item = (Timestamp, &str)> {
    json::items(object, "/metadata/managedFields").iter().filter_map(|fields| {
        let spec = fields.pointer("/fieldsV1/f:spec")?;
        (!is_scaling(spec)).then_some((json::time(fields, "/time")?, fields["manager"].as_str()?))
    })
}

fn runs_of(state: &State) -> BTreeMap<String, Fingerprint> {
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
                let wanted = downloaded(spec);
                wanted.is_empty() || same_models(&template::observed(&record.template).models, &wanted)
            }
            None => false,
        };
        // Between an edit and what its controller makes of it, the newest record is of what was there before.
        (!self.is_refused() && self.live.specs.iter().all(is_recorded)).then_some(state)
    }

    /// Whether KServe says that it cannot make anything of the spec, so that what runs is of another one. The same is said
    /// of a spec that runs already, when its runtime is gone.
    pub(crate) fn is_refused(&self) -> bool {
        let says = json::text(&self.object, "/status/modelStatus/transitionStatus") == Some("InvalidSpec")
            || json::items(&self.object, "/status/conditions")
                .iter()
                .any(|c| c["reason"] == "ReconcileFailed");
        says && !self.is_taken_up()
    }

    /// Whether the newest revision was made after the spec was written last, by whomever.
    pub(crate) fn is_taken_up(&self) -> bool {
        let made = self.states.first().and_then(State::created);
        writes(&self.object).map(|(written, _)| written).max().is_none_or(|written| Some(written) <= made)
    }

    /// The state whose revisions have all traffic of the components that are held: by KServe's rule the one that was
    /// rolled out before, once or before it has moved traffic.
    pub(crate) fn held(&self) -> Option<&State> {
        let held = self.live.percents.iter().filter(|(_, percent)| **percent == 0).map(|(name, _)| {
            let status =
                |field: &str| json::text(&self.object, &format!("/status/components/{name}/{field}"));
            let rolled_out = status("latestRolledoutRevision");
            let has_moved = rolled_out != status("latestCreatedRevision");
            (name.as_str(), if has_moved { rolled_out } else { status("previousRolledoutRevision") })
        });
        let held: Vec<_> = held.collect();
        self.states.iter().find(|state| {
            held.iter().all(|(name, wanted)| {
                state.records.get(name).is_some_and(|record| Some(record.name.as_str()) == *wanted)
            })
        })
    }

    /// Who wrote the spec so shortly ago that KServe may not have taken it up: after the newest revision was made. An edit
    /// that makes no revision looks the same, so this is not believed for long.
    pub(crate) fn just_wrote(&self, now: Timestamp) -> Option<&str> {
        let made = self.current().and_then(State::created);
        let writes = writes(&self.object).filter(|(_, manager)| *manager != MANAGER);
        let (written, manager) = writes.max()?;
        (Some(written) > made && now.since(written) < TAKES_UP).then_some(manager)
    }

    /// Whether the newest revision of every component can serve, so that it is the one that Knative takes for the
    /// latest.
    pub(crate) fn is_ready(&self) -> bool {
        self.current().is_some_and(|state| {
            state.records.iter().all(|(name, record)| {
                let ready =
                    json::text(&self.object, &format!("/status/components/{name}/latestReadyRevision"));
                record.ready == Some(true) && ready == Some(&record.name)
            })
        })
    }

    /// Whether a state restores exactly the spec that is live.
    pub(crate) fn is_same(&self, state: &State) -> bool {
        let Restored { content, beyond, .. } = self.restore(state);
        beyond.is_empty() && content.specs == self.live.specs
    }

    /// Whether a state ran exactly what runs now.
    pub(crate) fn runs_as_current(&self, state: &State) -> bool {
        self.current().is_some_and(|current| runs_of(current) == runs_of(state))
    }

    /// Whether the whole spec of a state is recorded.
    pub(crate) fn is_recorded(&self, state: &State) -> bool {
        self.recorded(&runs_of(state)).is_some()
    }

    /// The ids of the states that were left by going back to what is in place now: that was in place before them
    /// already. KServe copies annotations to the pods, so this is not recorded on the object, but told by its history.
    pub(crate) fn left(&self) -> BTreeSet<String> {
        let Some(current) = self.current() else { return BTreeSet::new() };
        let runs: Vec<_> = self.states.iter().map(runs_of).collect();
        // Newest first, so the last place is the first time.
        let first = |wanted: &BTreeMap<String, Fingerprint>| runs.iter().rposition(|other| other == wanted);
        let same = self.states.iter().rposition(|state| self.is_same(state));
        let own = first(&runs_of(current)).max(same);
        // A ReplicaSet that was taken up again is not in its old place any more, but knows its old numbers.
        let lowest = |record: &Record| record.former.iter().copied().chain([record.number]).min();
        let is_left = |(state, runs): &(&State, &BTreeMap<String, Fingerprint>)| {
            let counted_after = current.records.iter().any(|(name, record)| {
                let other = state.records.get(name).and_then(lowest);
                !record.former.is_empty() && other > lowest(record)
            });
            state.id != current.id && (first(runs) < own || counted_after)
        };
        self.states.iter().zip(&runs).filter(is_left).map(|(state, _)| state.id.clone()).collect()
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
            return Restored { content: Content { runs, ..content }, beyond: Vec::new(), aside: Vec::new() };
        }
        let mut specs = self.live.specs.clone();
        let (mut beyond, mut aside) = (Vec::new(), Vec::new());
        let newest = self.current();
        for name in COMPONENTS {
            let now = newest.and_then(|newest| newest.records.get(name));
            match (specs.get(name), now, state.records.get(name)) {
                (Some(spec), Some(now), Some(then)) => {
                    let carried = template::carried(&self.object, spec, &now.template, &then.template);
                    specs.insert(name.to_owned(), carried.spec);
                    beyond.extend(carried.beyond);
                    aside.extend(carried.aside);
                }
                // Nothing tells what else of the live spec is not of then: it has no record.
                (Some(spec), None, Some(then)) if newest.is_none() => {
                    let observed = template::observed(&then.template);
                    match crate::spec::with_model(spec, &observed).filter(|moved| moved != spec) {
                        Some(spec) => drop(specs.insert(name.to_owned(), spec)),
                        None => beyond.push(format!("/spec/{name}")),
                    }
                }
                // It came or went since.
                (Some(_), Some(_), None) | (None, _, Some(_)) => beyond.push(format!("/spec/{name}")),
                // What a cluster remembers nothing of stays.
                _ => {}
            }
        }
        Restored { content: Content { specs, runs, ..Content::default() }, beyond, aside }
    }

    /// The state that ran exactly this, as the ledger has it.
    fn recorded(&self, runs: &BTreeMap<String, Fingerprint>) -> Option<Content> {
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
        Some(Content { specs: content.specs, scaling: content.scaling, ..Content::default() })
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
