//! A journal and ledger kept in the cluster, for those who act from several machines.

mod claim;
mod ledger;
mod object;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use rollback_core::{
    Claim, Disposition, Entry, Error, ErrorKind, Hold, Journal, Outcome, ProgressSink, Result, RunId,
    RunState, RunSummary, overlaps,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::lease::Held;
use crate::{Cluster, json};
use object::UNFINISHED;

/// The `CustomResourceDefinition` of `RollbackRun`, which a cluster must have before runs are kept in it.
pub const CUSTOM_RESOURCE_DEFINITION: &str = include_str!("../../crd/rollbackruns.yaml");

/// Runs and what is known of components, kept in one namespace of a cluster.
///
/// Every run is a `RollbackRun` (`kubectl get rbr`), written with optimistic concurrency by the one process
/// that has claimed it; a claim is a Lease, and a process that has lost it records nothing more. The states of
/// its components, which may hold what not everyone should see, are in Secrets that go with it, and so is what
/// the ledger knows. A run takes at most [`MOST_STEPS`](Self::MOST_STEPS) steps and about 5 MiB of states:
/// more is refused before anything is done.
///
/// Needs the [`CUSTOM_RESOURCE_DEFINITION`] and the Role `rollback-journal` of `rbac/roles.yaml`.
///
/// ```no_run
/// use std::sync::Arc;
/// use rollback_core::Engine;
/// use rollback_k8s::{Cluster, ConnectOptions, KubernetesJournal, KubernetesLease};
///
/// # async fn example() -> rollback_core::Result<()> {
/// let cluster = Cluster::connect(ConnectOptions::default()).await?;
/// let journal = Arc::new(KubernetesJournal::new(&cluster, "rollback-system", "deploy-bot"));
/// journal.check().await?;
/// let engine = Engine::new(journal.clone())
///     .with_ledger(journal)
///     .with_lease(Arc::new(KubernetesLease::new(&cluster)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KubernetesJournal(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    namespace: String,
    holder: String,
    waiting: Option<ProgressSink>,
    claims: Mutex<HashMap<RunId, Claimed>>,
}

/// A run that this process has claimed.
#[derive(Clone)]
struct Claimed {
    /// What the object must name for this process to write it.
    token: String,
    lease: Arc<Held>,
    /// What the object holds; none before the run has begun. Locked by the one who writes it.
    known: Arc<tokio::sync::Mutex<Option<Known>>>,
    /// What is to be written next, all of it at once.
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

/// An entry, and who waits until it is recorded.
type Waiting = (Entry, oneshot::Sender<Result<()>>);

struct Known {
    state: RunState,
    /// How many entries there are.
    count: usize,
}

impl KubernetesJournal {
    /// The most steps of one run: all of its events are in one object, which the cluster's store limits.
    pub const MOST_STEPS: usize = 500;

    /// The journal in a namespace, used by `holder`, who is named where others wait for a run.
    pub fn new(cluster: &Cluster, namespace: impl Into<String>, holder: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            cluster: cluster.clone(),
            namespace: namespace.into(),
            holder: holder.into(),
            waiting: None,
            claims: Mutex::default(),
        }))
    }

    /// The same journal, which tells what it waits for when a run is claimed.
    #[must_use]
    pub fn with_waiting(self, waiting: ProgressSink) -> Self {
        Self(Arc::new(Inner {
            cluster: self.0.cluster.clone(),
            namespace: self.0.namespace.clone(),
            holder: self.0.holder.clone(),
            waiting: Some(waiting),
            claims: Mutex::default(),
        }))
    }

    /// The namespace in which it is kept.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Whether it can be used: the cluster answers, knows the resource, and lets it be listed. Read-only.
    ///
    /// # Errors
    /// What stands in the way, with the way out.
    pub async fn check(&self) -> Result<()> {
        let path = format!("{}?limit=1", self.runs_path());
        self.0.cluster.get(&path, "reading the journal").await.map(drop).map_err(unusable)
    }

    fn runs_path(&self) -> String {
        format!("/apis/rollback.dev/v1alpha1/namespaces/{}/rollbackruns", self.0.namespace)
    }

    fn run_path(&self, run: RunId) -> String {
        format!("{}/{run}", self.runs_path())
    }

    fn secrets_path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.0.namespace)
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<RunId, Claimed>> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The claim under which this process writes a run, as long as it holds.
    fn claimed(&self, run: RunId) -> Result<Claimed> {
        let claimed = self.claims().get(&run).cloned();
        let claimed = claimed.ok_or_else(|| {
            Error::new(ErrorKind::Journal, format!("run {run} was not claimed by this process"))
        })?;
        claimed.lease.check()?;
        Ok(claimed)
    }

    /// Makes an object, also where the answer is lost. `is_own` tells it from another's of the same name.
    async fn create(&self, list: &str, object: &Value, what: &str) -> Result<Value> {
        let path = format!("{list}/{}", json::name(object));
        repeated(|| async {
            match self.0.cluster.post(list, object, what).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let live = self.0.cluster.get(&path, what).await?;
                    if json::annotation(&live, object::TOKEN) == json::annotation(object, object::TOKEN) {
                        Ok(live)
                    } else {
                        Err(error)
                    }
                }
                made => made,
            }
        })
        .await
    }

    async fn remove(&self, path: &str, what: &str) -> Result<()> {
        let options = json!({"propagationPolicy": "Background"});
        repeated(|| async {
            match self.0.cluster.delete(path, &options, what).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                done => done.map(drop),
            }
        })
        .await
    }

    async fn remove_run(&self, run: RunId, parts: usize) -> Result<()> {
        // The object first: from then on there is no such run.
        self.remove(&self.run_path(run), "removing a run").await?;
        for part in 0..parts {
            let path = format!("{}/{}", self.secrets_path(), object::secret_name(run, part));
            self.remove(&path, "removing a run").await?;
        }
        // Of a process that ended without giving it back.
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.0.namespace);
        self.remove(&format!("{leases}/rollback-run-{run}"), "removing a run").await
    }

    async fn read(&self, run: RunId) -> Result<Value> {
        match self.0.cluster.get(&self.run_path(run), "reading a run").await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // No such run, or no such resource.
                self.check().await?;
                Err(Error::new(ErrorKind::NotFound, format!("no run {run}")))
            }
            read => read.map_err(unusable),
        }
    }

    /// The entries that an object and its Secrets hold.
    async fn entries_of(&self, run: RunId, object: &Value) -> Result<Vec<Entry>> {
        let mut parts = Vec::new();
        for part in 0..object::parts(object) {
            let path = format!("{}/{}", self.secrets_path(), object::secret_name(run, part));
            let part = self.0.cluster.get(&path, "reading a run").await;
            parts.push(part.map_err(|error| match error.kind() {
                ErrorKind::NotFound => object::damaged(run, "a Secret of it is gone"),
                _ => unusable(error),
            })?);
        }
        object::entries(run, object, &parts)
    }

    /// Unfinished runs with what they move.
    async fn unfinished(&self) -> Result<Vec<Value>> {
        let query = format!("labelSelector={}", crate::encode(UNFINISHED));
        self.0.cluster.list(&self.runs_path(), &query, "reading the journal").await.map_err(unusable)
    }

    /// Makes the objects of a run that begins.
    async fn make(&self, run: RunId, state: &RunState, secrets: &[Value], object: &Value) -> Result<Value> {
        for secret in secrets {
            self.create(&self.secrets_path(), secret, "recording a run").await.map_err(unusable)?;
        }
        let made = self.create(&self.runs_path(), object, "recording a run").await.map_err(unusable)?;
        // Two that began at the same moment both see each other here, or one of them does.
        self.check_free(run, state).await?;
        Ok(made)
    }

    /// Writes all that waits, and tells those who wait.
    async fn write(&self, run: RunId, claimed: &Claimed, known: &mut Option<Known>) {
        let waiting = std::mem::take(&mut *claimed.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(Known { state, count }) = known else {
            for (_, told) in waiting {
                let _ = told.send(Err(Error::new(ErrorKind::NotFound, format!("no run {run}"))));
            }
            return;
        };
        let mut after = state.clone();
        let (mut entries, mut all) = (Vec::new(), Vec::new());
        for (entry, told) in waiting {
            match after.record(&entry) {
                Ok(()) => {
                    entries.push(entry);
                    all.push(told);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        }
        let written = match entries.as_slice() {
            [] => Ok(()),
            entries => self.add(run, &claimed.token, *count, entries, &after).await.map_err(unusable),
        };
        if written.is_ok() {
            *count += entries.len();
            *state = after;
        }
        for told in all {
            let _ = told.send(written.as_ref().map_err(repeat).copied());
        }
    }

    /// Adds entries to the object of a run, also where the answer is lost.
    async fn add(
        &self,
        run: RunId,
        token: &str,
        count: usize,
        entries: &[Entry],
        after: &RunState,
    ) -> Result<()> {
        const WHAT: &str = "recording an event";
        let operations = object::additions(token, count, entries, after)?;
        let path = self.run_path(run);
        repeated(|| async {
            let Err(error) = self.0.cluster.json_patch(&path, &operations, WHAT).await else { return Ok(()) };
            if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unauthenticated) {
                return Err(error);
            }
            // Refused by its guard, or not answered: the object tells.
            let live = self.0.cluster.get(&path, WHAT).await?;
            if !object::is_held(&live, token) {
                let message = format!("run {run} was taken over by another process");
                return Err(Error::new(ErrorKind::LeaseLost, message));
            }
            match object::entries_from(&live, count) {
                [] => Err(error),
                there if *there == *json!(entries).as_array().map_or(&[][..], Vec::as_slice) => Ok(()),
                _ => Err(Error::new(ErrorKind::Journal, format!("other events of run {run} are there"))),
            }
        })
        .await
    }

    /// Refuses a run that touches what an unfinished one touches.
    async fn check_free(&self, run: RunId, state: &RunState) -> Result<()> {
        let moves = state.plan.moves();
        for other in self.unfinished().await? {
            let (Ok(id), Ok(theirs)) = (json::name(&other).parse::<RunId>(), object::moves(&other)) else {
                tracing::warn!(name = json::name(&other), "a RollbackRun cannot be read, and is ignored");
                continue;
            };
            if id != run
                && let Some((_, component)) = theirs.intersection(&moves).next()
            {
                return Err(overlaps(id, component));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KubernetesJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesJournal").field("namespace", &self.0.namespace).finish_non_exhaustive()
    }
}

/// Repeats a request whose effect repeating does not change, six times, with pauses of half a minute in all.
async fn repeated<T, F: Future<Output = Result<T>>>(request: impl Fn() -> F) -> Result<T> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_max_times(6)
        .with_jitter();
    let mut pauses = backoff.build();
    loop {
        let error = match request().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let least = match error.disposition() {
            Disposition::Temporary(after) => after.unwrap_or_default(),
            Disposition::Indeterminate => Duration::ZERO,
            Disposition::Permanent | Disposition::Stuck => return Err(error),
        };
        let Some(pause) = pauses.next() else { return Err(error) };
        sleep(pause.max(least)).await;
    }
}

/// The same error, for another who waits.
fn repeat(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.report().message);
    match error.hint() {
        Some(hint) => again.with_hint(hint),
        None => again,
    }
}

/// A journal that cannot be used, said as such.
fn unusable(error: Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::LeaseLost | ErrorKind::Journal | ErrorKind::Refused => return error,
        ErrorKind::NotFound => "the cluster does not know RollbackRuns: `rollback crd | kubectl apply -f -`",
        ErrorKind::PermissionDenied => {
            "bind the Role rollback-journal of rbac/roles.yaml, or record elsewhere"
        }
        _ => "record elsewhere with `--journal PATH`",
    };
    Error::new(ErrorKind::Journal, "the journal in the cluster cannot be used")
        .with_hint(hint)
        .with_source(error)
}

#[async_trait]
impl Journal for KubernetesJournal {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        let claimed = self.claimed(run)?;
        let state = RunState::begin(&entry)?;
        let steps = state.plan.steps().len();
        if steps > Self::MOST_STEPS {
            let message =
                format!("a run kept in the cluster takes {} steps at most, not {steps}", Self::MOST_STEPS);
            return Err(
                Error::new(ErrorKind::Refused, message).with_hint("split the plan, or record elsewhere")
            );
        }
        let secrets = object::secrets(run, &self.0.namespace, &claimed.token, &entry)?;
        let object = object::run(run, &self.0.namespace, &claimed.token, &state, secrets.len());
        self.check_free(run, &state).await?;
        let made = match self.make(run, &state, &secrets, &object).await {
            Ok(made) => made,
            Err(error) => {
                return Err(match self.remove_run(run, secrets.len()).await {
                    Ok(()) => error,
                    Err(rest) => error.with_hint(format!(
                        "what was made of it could not be removed ({rest}): close it with `rollback abandon {run} --reason …`"
                    )),
                });
            }
        };
        *claimed.known.lock().await = Some(Known { state, count: 1 });
        // So that they go with it, whoever removes it; what fails here is removed with the run all the same.
        for secret in &secrets {
            let path = format!("{}/{}", self.secrets_path(), json::name(secret));
            let owned = object::owned_by(&made);
            let _ = self.0.cluster.json_patch(&path, &owned, "recording a run").await;
        }
        Ok(())
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        let claimed = self.claimed(run)?;
        let (told, mut done) = oneshot::channel();
        claimed.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((entry, told));
        // Whoever comes first writes what all wait for, so that steps side by side share one request.
        let mut known = claimed.known.lock().await;
        if let Ok(done) = done.try_recv() {
            return done;
        }
        self.write(run, &claimed, &mut known).await;
        done.try_recv().unwrap_or_else(|_| Err(Error::new(ErrorKind::Journal, "the event was not recorded")))
    }

    async fn entries(&self, run: RunId) -> Result<Vec<Entry>> {
        let object = self.read(run).await?;
        self.entries_of(run, &object).await
    }

    async fn runs(&self) -> Result<Vec<RunSummary>> {
        let list =
            self.0.cluster.list(&self.runs_path(), "", "reading the journal").await.map_err(unusable)?;
        let readable = |object: &Value| match object::summary(object) {
            Ok(run) => Some(run),
            Err(error) => {
                tracing::warn!(%error, "a RollbackRun cannot be read, and is not listed");
                None
            }
        };
        let mut runs: Vec<_> = list.iter().filter_map(readable).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.run));
        Ok(runs)
    }

    async fn claim(&self, run: RunId) -> Result<Claim> {
        claim::claim(self, run).await
    }

    async fn forget(&self, runs: &[RunId]) -> Result<()> {
        let mut found = Vec::new();
        for run in runs {
            match self.read(*run).await {
                Ok(object) if object::summary(&object)?.outcome == Outcome::Unfinished => {
                    let message = format!("run {run} is unfinished and cannot be removed");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                Ok(object) => found.push((*run, object::parts(&object))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for (run, parts) in found {
            self.remove_run(run, parts).await.map_err(unusable)?;
        }
        Ok(())
    }
}
