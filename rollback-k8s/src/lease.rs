//! Leases of the kind that Kubernetes uses for its own leaders (`coordination.k8s.io/v1`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    ComponentId, Disposition, Error, ErrorKind, Fingerprint, Hold, Lease, LeaseRequest, LeaseTerm,
    ProgressSink, Realm, Result, RunId,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{Cluster, Right, json};

/// How long a lease lasts from its last renewal, for those who wait for it.
const LENGTH: Duration = Duration::from_secs(15);
/// How long its holder counts on it: two clocks need not run alike, and a request takes its time.
const TERM: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a server that fails for the moment is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who has it: one holding, not one holder.
const TOKEN: &str = "rollback.dev/token";
/// The run for which it is held.
const RUN: &str = "rollback.dev/run";
/// Whose lease was broken for it, and why.
const BROKEN: &str = "rollback.dev/broken";

/// One run at a time among all that use one cluster, from whatever machine.
///
/// The lease of a component is an object in its namespace, `rollback-KIND-NAME`; that of a component which
/// lives elsewhere, such as a model, is in the namespace that [`with_namespace`](Self::with_namespace) names.
/// It lasts 15 s from its last renewal; its holder stops 10 s after it. Whoever waits takes it over once it
/// was not renewed for that long by the waiting one's own clock: no two clocks are compared. Given up, the
/// object is deleted.
///
/// Why not `kube-lease-manager`: a lease here is also taken over by the same run, broken with a reason on
/// record, and shares the requests and limits of its [`Cluster`].
#[derive(Clone, Debug)]
pub struct KubernetesLease {
    cluster: Cluster,
    namespace: Option<String>,
}

impl KubernetesLease {
    /// Leases of the components that live in this cluster.
    pub fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), namespace: None }
    }

    /// Also of components that live elsewhere, kept in this namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Whether leases may be taken in a namespace, as far as the server says beforehand. One request.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn is_permitted(&self, namespace: &str) -> Result<bool> {
        self.cluster.may(&Right::new("create", "coordination.k8s.io", "leases"), namespace).await
    }

    /// Where the lease of a component is.
    async fn place(&self, realm: &Realm, component: &ComponentId) -> Result<(String, String)> {
        let own = *realm == self.cluster.realm().await?;
        match (component.scope().filter(|_| own), &self.namespace) {
            (Some(namespace), _) => {
                let name = format!("rollback-{}-{}", component.kind(), component.name());
                let name = if name.len() > 253 { hashed(realm, component) } else { name };
                Ok((namespace.to_owned(), name))
            }
            (None, Some(namespace)) => Ok((namespace.clone(), hashed(realm, component))),
            (None, None) => {
                let message =
                    "it does not live in a namespace of this cluster, and none is named for its lease";
                Err(Error::new(ErrorKind::Unsupported, message)
                    .with_hint("name one: KubernetesLease::with_namespace"))
            }
        }
    }
}

fn hashed(realm: &Realm, component: &ComponentId) -> String {
    let hash = Fingerprint::of(&json!([realm, component]));
    format!("rollback-{}", hash.as_str().trim_start_matches("sha256:").get(..32).unwrap_or_default())
}

#[async_trait]
impl Lease for KubernetesLease {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        let own = |error: Error| error.with_component(&request.component);
        let (namespace, name) = self.place(&request.realm, &request.component).await.map_err(own)?;
        let run = request.run.to_string();
        let wanted = Wanted {
            component: &request.component,
            namespace: &namespace,
            name: &name,
            // A run is executed by one process, so an earlier holder for the same run is gone.
            same: Some(&run),
            holder: &request.holder(),
            break_reason: request.break_reason.as_deref(),
            waiting: request.waiting.as_ref(),
        };
        let held = take(&self.cluster, &wanted).await.map_err(own)?;
        held.map(|held| Box::new(held) as Box<dyn Hold>).map_err(|holder| request.refused(&holder))
    }
}

/// A lease to take.
pub(crate) struct Wanted<'a> {
    pub(crate) component: &'a ComponentId,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The run whose lease is taken over at once.
    pub(crate) same: Option<&'a str>,
    pub(crate) holder: &'a str,
    pub(crate) break_reason: Option<&'a str>,
    pub(crate) waiting: Option<&'a ProgressSink>,
}

impl Wanted<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.list(), self.name)
    }

    fn list(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn wait(&self, holder: &str, longest: Duration) {
        if let Some(waiting) = self.waiting {
            let longest = longest.as_secs();
            waiting(format!("held by {holder}: waiting at most {longest} s to see whether it still lives"));
        }
    }

    fn object(&self, cluster: &Cluster, token: &str, before: Option<&Value>, broken: Option<&str>) -> Value {
        let now = time(cluster);
        let transitions = before.and_then(|before| json::number(before, "/spec/leaseTransitions"));
        let mut annotations = json!({TOKEN: token});
        if let Some(run) = self.same {
            annotations[RUN] = json!(run);
        }
        if let (Some(holder), Some(reason)) = (broken, self.break_reason) {
            annotations[BROKEN] = json!(format!("of {holder}, at {now}: {reason}"));
        }
        let version = before.and_then(|before| json::text(before, "/metadata/resourceVersion"));
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "annotations": annotations,
                "resourceVersion": version, "labels": {"app.kubernetes.io/managed-by": crate::cluster::MANAGER},
            },
            "spec": {
                "holderIdentity": self.holder, "leaseDurationSeconds": LENGTH.as_secs(),
                "acquireTime": now, "renewTime": now, "leaseTransitions": transitions.map_or(0, |n| n + 1),
            },
        })
    }
}

/// The field takes exactly six digits after the second.
fn time(cluster: &Cluster) -> String {
    format!("{:.6}", cluster.clock().now())
}

/// Takes a lease; the inner error is who has it.
pub(crate) async fn take(cluster: &Cluster, wanted: &Wanted<'_>) -> Result<Result<Held, String>> {
    let token = RunId::random().to_string();
    let what = format!("taking the lease of {}", wanted.component);
    let (mut is_absent, mut seen) = (true, None::<(String, Instant)>);
    // When what was sent last was sent, and whose lease it breaks.
    let mut sent: (Instant, Option<String>) = (Instant::now(), None);
    // Until when failures that may pass are waited out.
    let mut patience = Instant::now() + PATIENCE;
    loop {
        let hold = |object: &Value, (asked, broken): (Instant, Option<String>)| Held {
            term: Arc::new(LeaseTerm::new(wanted.component, asked, TERM)),
            cluster: cluster.clone(),
            path: wanted.path(),
            object: Mutex::new(object.clone()),
            token: token.clone(),
            broken,
        };
        if is_absent {
            sent = (Instant::now(), None);
            let object = wanted.object(cluster, &token, None, None);
            match cluster.post(&wanted.list(), &object, &what).await {
                Ok(object) => return Ok(Ok(hold(&object, sent))),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => wait_out(error, patience).await?,
            }
        }
        let live = match cluster.get(&wanted.path(), &what).await {
            Ok(live) => live,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (is_absent, seen) = (true, None);
                wait_out(error.temporary(None), patience).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        is_absent = false;
        if json::annotation(&live, TOKEN) == Some(&token) {
            // The answer was lost.
            return Ok(Ok(hold(&live, sent)));
        }
        let holder = json::text(&live, "/spec/holderIdentity").unwrap_or_default().to_owned();
        let version = json::text(&live, "/metadata/resourceVersion").unwrap_or_default().to_owned();
        let is_same = wanted.same.is_some() && json::annotation(&live, RUN) == wanted.same;
        let is_free = is_same || holder.is_empty();
        let broken = (!is_free && wanted.break_reason.is_some()).then(|| holder.clone());
        if !is_free && broken.is_none() {
            let (before, since) = seen.get_or_insert_with(|| {
                wanted.wait(&holder, length(&live));
                (version.clone(), Instant::now())
            });
            if *before != version {
                return Ok(Err(holder));
            }
            if since.elapsed() < length(&live) {
                sleep(LOOK_AGAIN).await;
                patience = Instant::now() + PATIENCE;
                continue;
            }
        }
        sent = (Instant::now(), broken.clone());
        let object = wanted.object(cluster, &token, Some(&live), broken.as_deref());
        match cluster.put(&wanted.path(), &object, &what).await {
            Ok(object) => return Ok(Ok(hold(&object, sent))),
            // Somebody else was faster, or the answer was lost: look again.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                wait_out(error.temporary(None), patience).await?;
            }
            Err(error) => wait_out(error, patience).await?,
        }
    }
}

/// Waits a moment after a failure that may pass, or whose effect a look tells; any other, and one that does not
/// pass, is the answer.
async fn wait_out(error: Error, patience: Instant) -> Result<()> {
    let may_pass = matches!(error.disposition(), Disposition::Temporary(_) | Disposition::Indeterminate);
    if !may_pass || Instant::now() >= patience {
        return Err(error);
    }
    sleep(LOOK_AGAIN / 4).await;
    Ok(())
}

fn length(lease: &Value) -> Duration {
    let seconds = json::number(lease, "/spec/leaseDurationSeconds").and_then(|n| u64::try_from(n).ok());
    seconds.map_or(LENGTH, Duration::from_secs)
}

/// A lease that is held.
#[derive(Debug)]
pub(crate) struct Held {
    term: Arc<LeaseTerm>,
    cluster: Cluster,
    path: String,
    /// As it was written last.
    object: Mutex<Value>,
    token: String,
    broken: Option<String>,
}

impl Held {
    fn object(&self) -> Value {
        self.object.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn renew(&self) -> Result<()> {
        const WHAT: &str = "renewing a lease";
        let mut object = self.object();
        object["spec"]["renewTime"] = json!(time(&self.cluster));
        let written = match self.cluster.put(&self.path, &object, WHAT).await {
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                let lost = |why: String| Error::new(ErrorKind::LeaseLost, why);
                let live = match self.cluster.get(&self.path, WHAT).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        return Err(lost("it was deleted".into()));
                    }
                    live => live?,
                };
                if json::annotation(&live, TOKEN) != Some(&self.token) {
                    let holder = json::text(&live, "/spec/holderIdentity").unwrap_or("another holder");
                    return Err(lost(format!("{holder} has taken it")));
                }
                // An answer was lost, or somebody has annotated it.
                let mut object = live;
                object["spec"]["renewTime"] = json!(time(&self.cluster));
                self.cluster.put(&self.path, &object, WHAT).await?
            }
            written => written?,
        };
        *self.object.lock().unwrap_or_else(PoisonError::into_inner) = written;
        Ok(())
    }
}

#[async_trait]
impl Hold for Held {
    fn check(&self) -> Result<()> {
        self.term.check()
    }

    async fn keep(&self) -> Error {
        self.term.keep(|| self.renew()).await
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    async fn release(&self) {
        let object = self.object();
        let version = json::text(&object, "/metadata/resourceVersion");
        let options = json!({"preconditions": {"uid": json::uid(&object), "resourceVersion": version}});
        // What fails is left to expire.
        let _ = self.cluster.delete(&self.path, &options, "giving up a lease").await;
    }
}
