//! One run at a time of each component: a Lease in the cluster or, where that is not permitted, a lock on this
//! machine. That of an environment is beside its pin.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures::future::join_all;
use rollback_core::{ComponentId, Error, ErrorKind, Hold, Lease, LeaseRequest, LocalLease, Plan, Result};
use rollback_git::KustomizeEnvironment;
use rollback_k8s::{Cluster, KubernetesLease};

use crate::journal;

#[derive(Debug)]
pub(crate) struct Leases {
    cluster: Option<KubernetesLease>,
    environments: BTreeMap<ComponentId, KubernetesLease>,
    machine: Option<LocalLease>,
}

impl Leases {
    pub(crate) fn new(cluster: Option<&Cluster>, plan: &Plan) -> Self {
        let folder = journal::state_folder();
        let of_environment = |(component, namespace)| {
            Some((component, KubernetesLease::new(cluster?).with_namespace(namespace)))
        };
        Self {
            cluster: cluster.map(KubernetesLease::new),
            environments: environments(plan).filter_map(of_environment).collect(),
            machine: folder.map(|folder| LocalLease::new(folder.join("leases"))),
        }
    }
}

#[async_trait]
impl Lease for Leases {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        let environment = self.environments.get(&request.component);
        let answer = match environment.or(self.cluster.as_ref()) {
            Some(cluster) => cluster.acquire(request).await,
            None => Err(Error::new(ErrorKind::Unsupported, "no cluster holds its lease")),
        };
        match (answer, &self.machine) {
            // What does not live in a cluster is held on this machine, too.
            (Err(error), Some(machine))
                if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported)
                    // An environment may be about to make the namespace.
                    || (environment.is_some() && error.kind() == ErrorKind::NotFound) =>
            {
                machine.acquire(request).await
            }
            (answer, _) => answer,
        }
    }
}

/// The environments of a plan, and the namespaces of their pins.
fn environments(plan: &Plan) -> impl Iterator<Item = (ComponentId, String)> {
    let changes = plan.steps().iter().map(|step| &step.change);
    changes
        .filter(|change| change.component.kind() == "environment")
        .filter_map(|change| Some((change.component.clone(), KustomizeEnvironment::namespace_of(change)?)))
}

/// Warns of the components whose leases may not be taken.
pub(crate) async fn warn(cluster: &Cluster, plan: &mut Plan) {
    let lease = KubernetesLease::new(cluster);
    let scoped = plan.components().into_iter().cloned();
    let scoped = scoped.filter_map(|component| Some((component.clone(), component.scope()?.to_owned())));
    let components: BTreeMap<ComponentId, String> = scoped.chain(environments(plan)).collect();
    let namespaces: BTreeSet<&str> = components.values().map(String::as_str).collect();
    // What cannot be asked shows when the lease is taken.
    let asked = namespaces.iter().map(async |namespace| (*namespace, lease.is_permitted(namespace).await));
    for (namespace, permitted) in join_all(asked).await {
        if !matches!(permitted, Ok(false)) {
            continue;
        }
        for (component, _) in components.iter().filter(|(_, own)| own.as_str() == namespace) {
            plan.warn(
                component,
                "leases may not be taken here: only the precondition of each write keeps apart those who act from several machines",
            );
        }
    }
}
