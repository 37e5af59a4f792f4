//! The components of a command, of whatever kind, and the connections that they take.

use std::sync::Arc;

use rollback_core::{ComponentId, Error, ErrorKind, Ledger, Rollbackable};
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
        }
    }

    pub(crate) fn component(&self) -> Arc<dyn Rollbackable> {
        match self {
            Self::Workload(workload) => Arc::new(workload.clone()),
            Self::Service(service) => Arc::new(service.clone()),
            Self::Model(model) => Arc::new(model.pointer.clone()),
        }
    }

    /// Asks the server for the first time: one that does not answer, or does not know who asks, is a matter of
    /// set-up. What else it answers, the command proper will be told as well.
    pub(crate) async fn first_contact(&self) -> Result<(), Failure> {
        let asked = match self {
            Self::Workload(workload) => workload.realm().await.map(drop),
            Self::Service(service) => service.realm().await.map(drop),
            Self::Model(model) => model.pointer.status().await.map(drop),
        };
        match asked {
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unauthenticated
                ) =>
            {
                Err(Failure::setup(e))
            }
            _ => Ok(()),
        }
    }
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
            Kind::Environment => {
                let message = format!("{}: an environment is not supported yet", name.written);
                Err(Failure::setup(Error::new(ErrorKind::Unsupported, message)))
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
