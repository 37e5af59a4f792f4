//! One run at a time of each component: a Lease in the cluster or, where that is not permitted, a lock on this
//! machine.

use async_trait::async_trait;
use futures::future::join_all;
use rollback_core::{ComponentId, Error, ErrorKind, Hold, Lease, LeaseRequest, LocalLease, Plan, Result};
use rollback_k8s::{Cluster, KubernetesLease};

use crate::journal;

#[derive(Debug)]
pub(crate) struct Leases {
    cluster: Option<KubernetesLease>,
    machine: Option<LocalLease>,
}

impl Leases {
    pub(crate) fn new(cluster: Option<&Cluster>) -> Self {
        let folder = journal::state_folder();
        Self {
            cluster: cluster.map(KubernetesLease::new),
            machine: folder.map(|folder| LocalLease::new(folder.join("leases"))),
        }
    }
}

#[async_trait]
impl Lease for Leases {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        let answer = match &self.cluster {
            Some(cluster) => cluster.acquire(request).await,
            None => Err(Error::new(ErrorKind::Unsupported, "no cluster holds its lease")),
        };
        match (answer, &self.machine) {
            // What does not live in a cluster is held on this machine, too.
            (Err(error), Some(machine))
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) =>
            {
                machine.acquire(request).await
            }
            (answer, _) => answer,
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
