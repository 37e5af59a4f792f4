//! The components of a command, of whatever kind, and the connections that they take.

use std::path::PathBuf;
use std::sync::Arc;

use rollback_core::{ComponentId, Error, ErrorKind, Fingerprint, Ledger, Rollbackable};
use rollback_git::{EnvironmentOptions, KustomizeEnvironment, Repository};
use rollback_k8s::{Cluster, Workload, WorkloadOptions};
use rollback_kserve::{InferenceService, ServiceOptions};
use rollback_mlflow::{ArtifactCheck, ModelPointer, PointerOptions, Registry, RegistryConfig, Stage};
use tokio::sync::OnceCell;

use crate::exit::Failure;
use crate::naming::{Component, Kind};
use crate::session::App;

/// One component.
#[derive(Clone)]
pub(crate) enum Part {
    Workload(Workload),
    Service(InferenceService),
    Model(Model),
    Environment(Box<Environment>),
}

/// An environment, with what leads to it again.
#[derive(Clone)]
pub(crate) struct Environment {
    pub(crate) component: KustomizeEnvironment,
    /// An absolute path, or a URL.
    pub(crate) repository: String,
    pub(crate) path: String,
    pub(crate) options: EnvironmentOptions,
}

/// The pointer of a model, with what leads to it again.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) pointer: ModelPointer,
    pub(crate) tracking_uri: String,
    pub(crate) name: String,
    pub(crate) at: Pointer,
}

/// Which pointer of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pointer {
    Stage(Stage),
    Alias(String),
}

/// What components are made with.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    pub(crate) workload: WorkloadOptions,
    /// Whether states are only taken down: one that is known in part is then none.
    pub(crate) reads_only: bool,
    /// Whether of an InferenceService nothing but the place of its model is written.
    pub(crate) uri_only: bool,
    /// What is known of states that a cluster remembers only in part.
    pub(crate) ledger: Option<Arc<dyn Ledger>>,
    pub(crate) artifact_check: ArtifactCheck,
    pub(crate) environment: EnvironmentOptions,
}

impl Settings {
    /// With what is known of the components.
    pub(crate) fn knowing(ledger: &Arc<dyn Ledger>) -> Self {
        Self { ledger: Some(ledger.clone()), ..Self::default() }
    }

    /// How an InferenceService is made.
    pub(crate) fn service(&self) -> ServiceOptions {
        let mut options = ServiceOptions::default();
        options.gitops = self.workload.gitops;
        options.force = self.workload.force && !self.reads_only;
        options.uri_only = self.uri_only;
        options.contested_soak = self.workload.contested_soak;
        options
    }
}

impl Part {
    /// The same, which follows another one.
    pub(crate) fn following(self, followed: &Self) -> Self {
        match self {
            Self::Service(service) => Self::Service(service.following(followed.component())),
            part => part,
        }
    }

    /// The same with what is known of it.
    pub(crate) fn knowing(self, ledger: &Arc<dyn Ledger>) -> Self {
        match self {
            Self::Service(service) => Self::Service(service.with_ledger(ledger.clone())),
            part => part,
        }
    }

    pub(crate) fn id(&self) -> &ComponentId {
        match self {
            Self::Workload(workload) => workload.id(),
            Self::Service(service) => service.id(),
            Self::Model(model) => model.pointer.id(),
            Self::Environment(environment) => environment.component.id(),
        }
    }

    pub(crate) fn component(&self) -> Arc<dyn Rollbackable> {
        match self {
            Self::Workload(workload) => Arc::new(workload.clone()),
            Self::Service(service) => Arc::new(service.clone()),
            Self::Model(model) => Arc::new(model.pointer.clone()),
            Self::Environment(environment) => Arc::new(environment.component.clone()),
        }
    }

    /// Asks the server for the first time: one that does not answer, or does not know who asks, is a matter of
    /// set-up. What else it answers, the command proper will be told as well.
    pub(crate) async fn first_contact(&self) -> Result<(), Failure> {
        let asked = match self {
            Self::Workload(workload) => workload.realm().await.map(drop),
            Self::Service(service) => service.realm().await.map(drop),
            Self::Model(model) => model.pointer.status().await.map(drop),
            Self::Environment(environment) => environment.component.realm().await.map(drop),
        };
        match asked {
            Err(error) if is_of_setup(&error) => Err(Failure::setup(error)),
            _ => Ok(()),
        }
    }
}

/// Whether a server does not answer, or does not know who asks.
pub(crate) fn is_of_setup(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unauthenticated)
}

/// The servers of a command, connected to when first needed.
#[derive(Default)]
pub(crate) struct Servers {
    cluster: OnceCell<Cluster>,
}

impl Servers {
    /// With a cluster that is connected already.
    pub(crate) fn with(cluster: Option<Cluster>) -> Self {
        Self { cluster: OnceCell::new_with(cluster) }
    }

    /// The cluster, where one was needed.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.get()
    }

    /// The component of a name, which need not exist.
    pub(crate) async fn part(
        &self,
        app: &App,
        name: &Component,
        settings: &Settings,
    ) -> Result<Part, Failure> {
        match &name.kind {
            Kind::Workload(kind) => {
                let (cluster, namespace) = self.cluster_for(app, name).await?;
                let made = Workload::new(cluster, *kind, namespace, &name.name, settings.workload.clone());
                made.map(Part::Workload).map_err(Failure::setup)
            }
            Kind::Service => {
                let (cluster, namespace) = self.cluster_for(app, name).await?;
                let made = InferenceService::new(cluster, namespace, &name.name, settings.service());
                let part = made.map(Part::Service).map_err(Failure::setup)?;
                Ok(match &settings.ledger {
                    Some(ledger) => part.knowing(ledger),
                    None => part,
                })
            }
            Kind::Environment(pinned) => {
                let cluster = self.cluster.get_or_try_init(|| app.connect()).await?;
                let asked = app.global.repo.as_ref();
                let repository = asked.or(pinned.repository.as_ref()).map_or(".", String::as_str);
                let mut options = settings.environment.clone();
                options.gitops = settings.workload.gitops;
                options.namespace.clone_from(&app.global.namespace);
                options.prune |= pinned.prune;
                if let Some(tags) = &pinned.tags {
                    options.tags.clone_from(tags);
                }
                let made = environment(cluster, repository, &name.name, options).await;
                made.map(|environment| Part::Environment(Box::new(environment))).map_err(Failure::setup)
            }
            Kind::Model(at) => {
                let at = pointer(app, &name.written, at.as_deref())?;
                let mut options = PointerOptions::default();
                options.artifact_check = settings.artifact_check;
                options.force = settings.workload.force;
                let (own, asked) = (name.tracking_uri.as_deref(), app.global.tracking_uri.as_deref());
                if let (Some(own), Some(asked)) = (own, asked)
                    && own != asked
                {
                    let message =
                        format!("{} is in the registry {own}, and --tracking-uri says {asked}", name.written);
                    return Err(Failure::setup(Error::new(ErrorKind::InvalidConfig, message)));
                }
                let tracking_uri = own.or(asked);
                let made = model(tracking_uri, &name.name, at, options);
                made.map(Part::Model).map_err(Failure::setup)
            }
        }
    }

    /// The cluster, connected to, and the namespace of a component.
    async fn cluster_for<'a>(
        &'a self,
        app: &'a App,
        name: &'a Component,
    ) -> Result<(&'a Cluster, &'a str), Failure> {
        let cluster = self.cluster.get_or_try_init(|| app.connect()).await?;
        let namespace = name.namespace.as_deref().or(app.global.namespace.as_deref());
        Ok((cluster, namespace.unwrap_or(cluster.default_namespace())))
    }
}

/// Whether a repository is named by a URL, or by what ssh takes for one, and not by a folder.
pub(crate) fn is_url(repository: &str) -> bool {
    let is_scp =
        repository.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
    repository.contains("://") || is_scp
}

/// An environment of a repository: of a folder, or of a URL, which is fetched into the user's cache.
pub(crate) async fn environment(
    cluster: &Cluster,
    repository: &str,
    path: &str,
    options: EnvironmentOptions,
) -> rollback_core::Result<Environment> {
    let (opened, repository) = if is_url(repository) {
        let print = Fingerprint::of(&serde_json::Value::from(Repository::place(repository)));
        let cache = cache_folder()?.join(print.as_str().trim_start_matches("sha256:"));
        (Repository::fetched(repository, &cache).await?, repository.to_owned())
    } else {
        let folder = std::path::absolute(repository).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("{repository:?} is no folder")).with_source(e)
        })?;
        (Repository::local(&folder)?, folder.to_string_lossy().into_owned())
    };
    let component = KustomizeEnvironment::new(cluster, &opened, path, options.clone())?;
    Ok(Environment { component, repository, path: path.to_owned(), options })
}

/// Where clones are kept.
fn cache_folder() -> rollback_core::Result<PathBuf> {
    let of_user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = of_user.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let folder = folder.ok_or_else(|| {
        Error::new(ErrorKind::InvalidConfig, "there is no folder for the clone of the repository")
            .with_hint("set HOME or XDG_CACHE_HOME, or name the folder of a clone with --repo")
    })?;
    Ok(folder.join("rollback").join("git"))
}

/// The pointer of a model in a registry, reached as the environment says.
pub(crate) fn model(
    tracking_uri: Option<&str>,
    name: &str,
    at: Pointer,
    options: PointerOptions,
) -> rollback_core::Result<Model> {
    let config = RegistryConfig::from_env(tracking_uri)?;
    let tracking_uri = config.tracking_uri.clone();
    let registry = Registry::new(config)?;
    let pointer = match &at {
        Pointer::Stage(stage) => ModelPointer::stage(&registry, name, *stage, options)?,
        Pointer::Alias(alias) => ModelPointer::alias(&registry, name, alias, options)?,
    };
    Ok(Model { pointer, tracking_uri, name: name.to_owned(), at })
}

/// Which pointer is meant: as the name says, else as the options do, else Production.
fn pointer(app: &App, written: &str, own: Option<&str>) -> Result<Pointer, Failure> {
    let read = |text: &str| match text.strip_prefix("alias:") {
        Some(alias) => Pointer::Alias(alias.to_owned()),
        None => text.parse().map_or_else(|_| Pointer::Alias(text.to_owned()), Pointer::Stage),
    };
    let asked = match (&app.global.stage, &app.global.alias) {
        // The parser sees it only where both stand on the same side of the subcommand.
        (Some(_), Some(_)) => {
            let message = "--stage and --alias name two pointers: give one";
            return Err(Failure::setup(Error::new(ErrorKind::InvalidConfig, message)));
        }
        (Some(stage), None) => Some(Pointer::Stage(stage.parse().map_err(Failure::setup)?)),
        (None, Some(alias)) => Some(Pointer::Alias(alias.clone())),
        (None, None) => None,
    };
    match (own.map(read), asked) {
        (Some(own), Some(asked)) if own != asked => {
            let message = format!("{written} names one pointer, and --stage or --alias another");
            Err(Failure::setup(Error::new(ErrorKind::InvalidConfig, message)))
        }
        (own, asked) => Ok(own.or(asked).unwrap_or(Pointer::Stage(Stage::Production))),
    }
}
