//! Who executes a run: a Lease, renewed in the background, and a token in the run's object.

use std::sync::Arc;

use rollback_core::{Claim, ComponentId, Error, ErrorKind, Hold as _, Result, RunId, RunState};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Claimed, Known, KubernetesJournal, object, unusable};
use crate::json;
use crate::lease::{self, Held, Wanted};

/// Gives the run back when dropped.
struct Renewed {
    journal: KubernetesJournal,
    run: RunId,
    lease: Arc<Held>,
    renewal: JoinHandle<()>,
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.renewal.abort();
        self.journal.claims().remove(&self.run);
        // Where nothing runs any more it expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let lease = self.lease.clone();
            runtime.spawn(async move { lease.release().await });
        }
    }
}

pub(super) async fn claim(journal: &KubernetesJournal, run: RunId) -> Result<Claim> {
    let name = format!("rollback-run-{run}");
    let namespace = journal.namespace();
    let executed = |by: &str| {
        Error::new(ErrorKind::Refused, format!("run {run} is being executed already, by {by}")).with_hint(
            format!(
                "wait until it has ended; if it is certainly gone: kubectl delete lease {name} -n {namespace}"
            ),
        )
    };
    if journal.claims().contains_key(&run) {
        return Err(executed("this process"));
    }
    let wanted = Wanted {
        component: &ComponentId::new("run", Some(namespace), &run.to_string())?,
        namespace,
        name: &name,
        same: None,
        holder: &journal.0.holder,
        break_reason: None,
        waiting: journal.0.waiting.as_ref(),
    };
    let held = lease::take(&journal.0.cluster, &wanted).await.map_err(unusable)?;
    let lease = Arc::new(held.map_err(|holder| executed(&holder))?);
    let renewed = Renewed {
        journal: journal.clone(),
        run,
        renewal: tokio::spawn({
            let lease = lease.clone();
            async move { drop(lease.keep().await) }
        }),
        lease: lease.clone(),
    };
    let token = RunId::random().to_string();
    let claimed = Claimed {
        token: token.clone(),
        lease: lease.clone(),
        known: Arc::default(),
        waiting: Arc::default(),
    };
    journal.claims().insert(run, claimed.clone());
    // From here on whoever had the run before records nothing more, and what it recorded is seen.
    match take_over(journal, run, &token).await {
        Ok(object) => {
            let entries = journal.entries_of(run, &object).await?;
            *claimed.known.lock().await =
                Some(Known { count: entries.len(), state: RunState::replay(&entries)? });
        }
        // It is yet to begin.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (check, release) = (lease.clone(), lease);
    Ok(Claim::new(renewed)
        .with_check(move || check.check())
        .with_release(async move { release.release().await }))
}

async fn take_over(journal: &KubernetesJournal, run: RunId, token: &str) -> Result<Value> {
    let object = journal.read(run).await?;
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": json::uid(&object)},
        {"op": "add", "path": object::HOLDER, "value": token},
    ]);
    let path = journal.run_path(run);
    super::repeated(|| journal.0.cluster.json_patch(&path, &operations, "claiming a run"))
        .await
        .map_err(unusable)
}
