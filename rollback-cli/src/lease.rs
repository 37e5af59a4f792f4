//! One run at a time of each component: a Lease in the cluster or, where that is not permitted, a lock on this
//! machine.

use async_trait::async_trait;
use futures::future::join_all;
use rollback_core::{ComponentId, Error, ErrorKind, Hold, Lease, LeaseRequest, LocalLease, Plan, Result};
use rollback_k8s::{Cluster, KubernetesLease};

use crate::journal;

#[derive(Debug)]
pub(crate) struct Leases {
    cluster: Vec<KubernetesLease>,
    machine: Option<LocalLease>,
}

impl Leases {
    /// In the cluster of the workloads, else beside a journal in a cluster, else on this machine.
    pub(crate) fn new(workloads: Option<&Cluster>, journal: Option<&KubernetesLease>) -> Self {
        let folder = journal::state_folder();
        Self {
            cluster: workloads.map(KubernetesLease::new).into_iter().chain(journal.cloned()).collect(),
            machine: folder.map(|folder| LocalLease::new(folder.join("leases"))),
        }
    }
}

#[async_trait]
impl Lease for Leases {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        let cannot =
            |error: &Error| matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported);
        let mut why = Error::new(ErrorKind::Unsupported, "no lease keeps other runs away from it");
        for lease in &self.cluster {
            match lease.acquire(request).await {
                Err(error) if cannot(&error) => why = error,
                answer => return answer,
            }
        }
        match &self.machine {
            Some(machine) => machine.acquire(request).await,
            None => Err(why),
        }
    }
}

/// Warns of the components whose leases may not be taken.
pub(crate) async fn warn(cluster: &Cluster, plan: &mut Plan) {
    let lease = KubernetesLease::new(cluster);
    let components: Vec<ComponentId> = plan.components().into_iter().cloned().collect();
    let mut namespaces: Vec<_> = components.iter().filter_map(ComponentId::scope).collect();
    namespaces.dedup();
    // What cannot be asked shows when the lease is taken.
    let asked = namespaces.iter().map(async |namespace| (*namespace, lease.is_permitted(namespace).await));
    for (namespace, permitted) in join_all(asked).await {
        if !matches!(permitted, Ok(false)) {
            continue;
        }
        for component in components.iter().filter(|component| component.scope() == Some(namespace)) {
            plan.warn(
                component,
                "leases may not be taken here: only the precondition of each write keeps apart those who act from several machines",
            );
        }
    }
}
