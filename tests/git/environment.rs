//! Environments on the real API server.

use std::path::Path;
use std::sync::Arc;

use rollback_git::{EnvironmentOptions, KustomizeEnvironment};
use rollback_k8s::{Cluster, ConnectOptions};

use crate::world::{Repo, STAGING, kustomize};

pub(crate) async fn connect(kubeconfig: &Path) -> Cluster {
    let options = ConnectOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    Cluster::connect(options).await.unwrap()
}

/// The environment `staging` of a repository.
pub(crate) fn environment(
    cluster: &Cluster,
    repo: &Repo,
    set: impl FnOnce(&mut EnvironmentOptions),
) -> KustomizeEnvironment {
    let mut options = EnvironmentOptions::default();
    options.grace = std::time::Duration::from_secs(3);
    set(&mut options);
    let made = KustomizeEnvironment::new(cluster, &repo.open(), STAGING, options).unwrap();
    made.with_renderer(Arc::new(kustomize()))
}
