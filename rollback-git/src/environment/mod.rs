//! A kustomize environment in a cluster, pinned to a revision of a git repository.

mod carry_out;
mod content;
mod health;
mod key;
mod outcome;
mod pin;
mod prepare;
mod prune;
mod standing;
mod verify;
mod wanted;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use rollback_core::{
    Change, ComponentId, Error, ErrorKind, Fingerprint, Position, Realm, Result, Revision, Rollbackable,
    StepContext, Target, Verification,
};
use rollback_k8s::{Cluster, GitOps, json};
use serde_json::{Value, json};

use crate::{Commit, Kustomize, Limits, Renderer, Rendering, Repository};
use content::Ends;
use key::Key;
use wanted::{Spot, Wanted};

pub use key::Pick;

/// How many requests of one environment are under way at once.
const AT_ONCE: usize = 16;
/// From how many objects of one kind on they are listed, and not read one by one.
const WORTH_LISTING: usize = 4;

/// How an environment is returned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EnvironmentOptions {
    /// Which tags are its revisions, as a pattern of the shell. Default: `*`.
    pub tags: String,
    /// The namespace of objects that name none. Default: that of the context.
    pub namespace: Option<String>,
    /// Another folder of the repository to return to.
    pub to_path: Option<PathBuf>,
    /// Whether what the target does not have is deleted, once all that it has is settled.
    pub prune: bool,
    /// Whether `CustomResourceDefinitions` are taken back, too.
    pub include_crds: bool,
    /// The objects to which the change is restricted; all where there are none.
    pub only: Vec<Pick>,
    /// The objects that it leaves out.
    pub exclude: Vec<Pick>,
    /// The objects that are deleted and created again where the server refuses to change them. Such a change has no way
    /// back.
    pub replace: Vec<Pick>,
    /// Whether fields are set that others own. Default: they are kept, and the plan says so.
    pub force_conflicts: bool,
    /// What to do with objects that a controller would take back.
    pub gitops: GitOps,
    /// How long it must stay settled, where a controller may take it back although that is ignored. Default: 2 minutes.
    pub contested_soak: Duration,
    /// How long a failure must be seen before it is believed, since it may be left over from before. Default: 15 s.
    pub grace: Duration,
    /// How much of a commit is written for rendering.
    pub limits: Limits,
}

impl Default for EnvironmentOptions {
    fn default() -> Self {
        Self {
            tags: "*".into(),
            namespace: None,
            to_path: None,
            prune: false,
            include_crds: false,
            only: Vec::new(),
            exclude: Vec::new(),
            replace: Vec::new(),
            force_conflicts: false,
            gitops: GitOps::default(),
            contested_soak: Duration::from_secs(120),
            grace: Duration::from_secs(15),
            limits: Limits::default(),
        }
    }
}

/// A kustomize environment: a folder of a repository, applied to a cluster.
///
/// Its revisions are the tags that hold the folder. What returns is what the folder of the target renders, applied
/// server-side after taking over what earlier tools own, and, where that is asked for, without what only the newer
/// revision had. A reversal brings back what was there, but not the data of a Secret that differed from its commit, nor
/// a claim, volume, namespace or definition that the change created: these stay.
///
/// ```no_run
/// use rollback_core::{Rollbackable, Target};
/// use rollback_git::{EnvironmentOptions, KustomizeEnvironment, Repository};
/// use rollback_k8s::{Cluster, ConnectOptions};
///
/// # async fn example() -> rollback_core::Result<()> {
/// let cluster = Cluster::connect(ConnectOptions::default()).await?;
/// let repository = Repository::local(".")?;
/// let path = "infra/kubernetes/environments/staging";
/// let staging = KustomizeEnvironment::new(&cluster, &repository, path, EnvironmentOptions::default())?;
/// let changes = staging.prepare(&Target::Revision("v1.4.0".into())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KustomizeEnvironment {
    cluster: Cluster,
    repository: Repository,
    /// From the root of the repository.
    path: PathBuf,
    id: ComponentId,
    options: EnvironmentOptions,
    renderer: Arc<dyn Renderer>,
    rendered: Arc<Mutex<HashMap<Fingerprint, Arc<Rendering>>>>,
}

impl fmt::Debug for KustomizeEnvironment {
    // What is rendered may be Secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KustomizeEnvironment")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .field("repository", &self.repository)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A revision, rendered.
#[derive(Clone)]
struct Side {
    name: String,
    commit: Commit,
    path: PathBuf,
    files: Fingerprint,
    rendering: Arc<Rendering>,
    objects: BTreeMap<Key, Wanted>,
}

impl KustomizeEnvironment {
    /// Names an environment by its folder, from the root of the repository. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a path that leaves the repository or cannot be the name of a component.
    pub fn new(
        cluster: &Cluster,
        repository: &Repository,
        path: impl AsRef<Path>,
        options: EnvironmentOptions,
    ) -> Result<Self> {
        let path = plain(path.as_ref())?;
        if let Some(to_path) = &options.to_path {
            plain(to_path)?;
        }
        let name = path.to_str().unwrap_or_default();
        let id = ComponentId::new("environment", None, if name.is_empty() { "." } else { name })?;
        Ok(Self {
            cluster: cluster.clone(),
            repository: repository.clone(),
            path,
            id,
            options,
            renderer: Arc::new(Kustomize::default()),
            rendered: Arc::default(),
        })
    }

    /// Renders by this, in place of the kustomize or kubectl on the `PATH`.
    #[must_use]
    pub fn with_renderer(mut self, renderer: Arc<dyn Renderer>) -> Self {
        self.renderer = renderer;
        self
    }

    /// The namespace in which the environment of a change is pinned: where its lease belongs, too.
    pub fn namespace_of(change: &Change) -> Option<String> {
        Ends::of(change).ok()?.to.home
    }

    fn own(&self, error: Error) -> Error {
        error.with_component(&self.id)
    }

    fn namespace(&self) -> &str {
        self.options.namespace.as_deref().unwrap_or(self.cluster.default_namespace())
    }

    /// What a folder of a commit renders. Objects of kinds that the cluster does not know are left out where that is
    /// asked for.
    async fn side(&self, name: &str, commit: &Commit, path: &Path, lenient: bool) -> Result<Side> {
        let files = self.repository.state(commit, path).await?;
        let known = self.rendered.lock().unwrap_or_else(PoisonError::into_inner).get(&files).cloned();
        let rendering = if let Some(rendering) = known {
            rendering
        } else {
            let folder = self.repository.materialize(commit, path, self.options.limits).await?;
            let rendering = self.renderer.render(&folder).await;
            let rendering = Arc::new(rendering.map_err(|e| e.with_context("revision", name))?);
            let mut all = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(files.clone(), rendering.clone());
            rendering
        };
        let objects = wanted::by_key(&self.cluster, &rendering.objects, self.namespace(), lenient).await?;
        Ok(Side {
            name: name.to_owned(),
            commit: commit.clone(),
            path: path.to_owned(),
            files,
            rendering,
            objects,
        })
    }

    /// The live objects of these names; those that do not exist are left out.
    async fn live(&self, spots: Vec<(&Key, &Spot)>) -> Result<BTreeMap<Key, Value>> {
        let mut groups: BTreeMap<String, Vec<(&Key, &Spot)>> = BTreeMap::new();
        for (key, spot) in spots {
            let list = spot.served.path(key.namespace.as_deref(), None);
            groups.entry(list).or_default().push((key, spot));
        }
        let (mut listed, mut single) = (Vec::new(), Vec::new());
        for (list, members) in groups {
            // A namespace holds more Secrets than those of one environment.
            let is_secret = members.iter().any(|(key, _)| key.is_secret());
            if members.len() >= WORTH_LISTING && !is_secret {
                listed.push((list, members));
            } else {
                single.extend(members);
            }
        }
        let lists: Vec<_> = listed.iter().map(|(list, members)| self.list(list, members)).collect();
        let mut all = BTreeMap::new();
        for found in together(AT_ONCE, lists).await {
            match found? {
                Listed::Found(found) => all.extend(found),
                Listed::Denied(members) => single.extend(members),
            }
        }
        let reads: Vec<_> = single.iter().map(|(key, spot)| self.read(key, spot)).collect();
        for found in together(AT_ONCE, reads).await {
            all.extend(found?);
        }
        Ok(all)
    }

    async fn list<'a>(&self, list: &str, members: &[(&'a Key, &'a Spot)]) -> Result<Listed<'a>> {
        match self.cluster.list(list, "", "reading the objects of the environment").await {
            Ok(items) => {
                let mut items: HashMap<String, Value> =
                    items.into_iter().map(|item| (json::name(&item).to_owned(), item)).collect();
                let found = members.iter().filter_map(|(key, spot)| {
                    let mut object = items.remove(&key.name)?;
                    // Items of lists do not say what they are.
                    object["apiVersion"] = json!(spot.api_version);
                    object["kind"] = json!(key.kind);
                    Some(((*key).clone(), object))
                });
                Ok(Listed::Found(found.collect()))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Listed::Found(Vec::new())),
            // The right to read single objects may be there all the same.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(Listed::Denied(members.to_vec())),
            Err(e) => Err(e),
        }
    }

    async fn read(&self, key: &Key, spot: &Spot) -> Result<Option<(Key, Value)>> {
        match self.cluster.get(&spot.path(key), &format!("reading {key}")).await {
            Ok(object) => Ok(Some((key.clone(), object))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn position(&self, change: &Change) -> Result<Position> {
        let ends = Ends::of(change)?;
        Ok(self.look_at(&ends).await?.position)
    }
}

/// What listing found, or whose kind may not be listed.
enum Listed<'a> {
    Found(Vec<(Key, Value)>),
    Denied(Vec<(&'a Key, &'a Spot)>),
}

/// What so many futures at once give, in their order.
async fn together<F: Future>(at_once: usize, futures: Vec<F>) -> Vec<F::Output> {
    stream::iter(futures).buffered(at_once).collect().await
}

/// A path inside a repository, without `.` and `..`.
fn plain(path: &Path) -> Result<PathBuf> {
    let plain = crate::tree::inside(Path::new(""), path).filter(|path| path.to_str().is_some());
    plain.ok_or_else(|| {
        let message = format!("{} is not a path inside the repository", path.display());
        Error::new(ErrorKind::InvalidConfig, message)
            .with_hint("write it from the root of the repository, such as infra/environments/staging")
    })
}

#[async_trait]
impl Rollbackable for KustomizeEnvironment {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        let cluster = self.cluster.realm().await.map_err(|e| self.own(e))?;
        let repository = self.repository.identity().map_err(|e| self.own(e))?;
        Ok(Realm::new(format!("{cluster} git:{repository}")))
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

    fn keeps_history(&self) -> bool {
        false
    }
}
