//! Where the components of a run are found again, by another command on another day: the locators that the
//! journal keeps. They decide, and not the context that is current by then. They hold no secret.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollback_core::{ComponentId, Error, ErrorKind, Locator, Plan};
use rollback_git::EnvironmentOptions;
use rollback_k8s::{Cluster, ConnectOptions, GitOps, UndoMode, Workload, WorkloadOptions};
use rollback_kserve::InferenceService;
use rollback_mlflow::{ArtifactCheck, PointerOptions, Stage};
use serde::{Deserialize, Serialize};

use crate::args;
use crate::commands::Prepared;
use crate::exit::Failure;
use crate::parts::{self, Environment, Model, Part, Pointer, Servers, Settings};
use crate::session::App;

/// Where one component is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Place {
    // What else has a cluster is read as a workload, so this comes first.
    Environment {
        kubernetes: Kubernetes,
        environment: Pinned,
    },
    Workload {
        kubernetes: Kubernetes,
        #[serde(default)]
        options: Options,
    },
    Model {
        mlflow: Mlflow,
    },
}

/// An environment, and the options of it that matter once its change is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pinned {
    /// An absolute path, or a URL without what it may hold of a password.
    repository: String,
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(default)]
    gitops: Policy,
}

/// The pointer of a model, as a runbook names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mlflow {
    tracking_uri: String,
    model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
}

/// Which cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    /// The file, or, as `$KUBECONFIG` has it, several.
    kubeconfig: Option<String>,
    context: Option<String>,
    /// For people.
    server: String,
}

/// The options of a workload that matter once its change is planned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Options {
    mode: Mode,
    declarative: bool,
    gitops: Policy,
    force: bool,
    soak: Option<Duration>,
    contested_soak: Option<Duration>,
    grace: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Mode {
    #[default]
    Guarded,
    Kubectl,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Policy {
    #[default]
    Refuse,
    Ignore,
}

impl From<GitOps> for Policy {
    fn from(gitops: GitOps) -> Self {
        match gitops {
            GitOps::Refuse => Self::Refuse,
            GitOps::Ignore => Self::Ignore,
        }
    }
}

impl From<Policy> for GitOps {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Refuse => Self::Refuse,
            Policy::Ignore => Self::Ignore,
        }
    }
}

impl From<&WorkloadOptions> for Options {
    fn from(options: &WorkloadOptions) -> Self {
        Self {
            mode: match options.mode {
                UndoMode::Guarded => Mode::Guarded,
                UndoMode::Kubectl => Mode::Kubectl,
            },
            declarative: options.declarative,
            gitops: options.gitops.into(),
            force: options.force,
            soak: Some(options.soak),
            contested_soak: Some(options.contested_soak),
            grace: Some(options.grace),
        }
    }
}

impl From<&Options> for WorkloadOptions {
    fn from(kept: &Options) -> Self {
        let mut options = Self::default();
        options.mode = match kept.mode {
            Mode::Guarded => UndoMode::Guarded,
            Mode::Kubectl => UndoMode::Kubectl,
        };
        options.declarative = kept.declarative;
        options.gitops = kept.gitops.into();
        options.force = kept.force;
        options.soak = kept.soak.unwrap_or(options.soak);
        options.contested_soak = kept.contested_soak.unwrap_or(options.contested_soak);
        options.grace = kept.grace.unwrap_or(options.grace);
        options
    }
}

/// The locator of each component of a plan.
pub(crate) fn locators(
    app: &App,
    servers: &Servers,
    parts: &[Part],
    options: &WorkloadOptions,
) -> Result<Vec<Locator>, Failure> {
    let place = |part: &Part| match (part, servers.cluster()) {
        (Part::Workload(_) | Part::Service(_), Some(cluster)) => {
            Some(Place::Workload { kubernetes: here(app, cluster, None), options: options.into() })
        }
        (Part::Workload(_) | Part::Service(_) | Part::Environment(_), None) => None,
        (Part::Model(model), _) => Some(Place::Model { mlflow: model.into() }),
        (Part::Environment(environment), Some(cluster)) => Some(Place::Environment {
            kubernetes: here(app, cluster, None),
            environment: Pinned {
                repository: without_secret(&environment.repository),
                path: environment.path.clone(),
                namespace: environment.options.namespace.clone(),
                gitops: environment.options.gitops.into(),
            },
        }),
    };
    parts.iter().filter_map(|part| Some(locator(part.id(), &place(part)?))).collect()
}

impl From<&Model> for Mlflow {
    fn from(model: &Model) -> Self {
        let (stage, alias) = match &model.at {
            Pointer::Stage(stage) => (Some(*stage), None),
            Pointer::Alias(alias) => (None, Some(alias.clone())),
        };
        Self { tracking_uri: model.tracking_uri.clone(), model: model.name.clone(), stage, alias }
    }
}

/// A model where it was. The options may name its server, but no other: that would be another realm.
fn rebuild_model(app: &App, place: &Mlflow, options: PointerOptions) -> Result<Model, Failure> {
    let uri = app.global.tracking_uri.as_deref().unwrap_or(&place.tracking_uri);
    let at = match &place.alias {
        Some(alias) => Pointer::Alias(alias.clone()),
        None => Pointer::Stage(place.stage.unwrap_or_default()),
    };
    parts::model(Some(uri), &place.model, at, options).map_err(Failure::setup)
}

/// An environment where it was. The options may name another clone of its repository.
async fn rebuild_environment(app: &App, cluster: &Cluster, place: &Pinned) -> Result<Environment, Failure> {
    let mut options = EnvironmentOptions::default();
    options.namespace.clone_from(&place.namespace);
    options.gitops = place.gitops.into();
    let repository = app.global.repo.as_deref().unwrap_or(&place.repository);
    parts::environment(cluster, repository, &place.path, options).await.map_err(Failure::setup)
}

fn locator(component: &ComponentId, place: &Place) -> Result<Locator, Failure> {
    let entry = serde_json::to_value(place)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot encode a locator").with_source(e))?;
    Ok(Locator { component: component.clone(), entry })
}

/// Where a connection leads, made as the options say, else as it was known, else as the environment says.
fn here(app: &App, cluster: &Cluster, known: Option<&Kubernetes>) -> Kubernetes {
    let flag = app.global.kubeconfig.as_deref();
    let known = known.and_then(|known| known.kubeconfig.clone()).filter(|_| flag.is_none());
    let kubeconfig = known.or_else(|| {
        let home = cluster.context().and_then(|_| std::env::home_dir());
        let files = files_used(flag, std::env::var_os("KUBECONFIG"), home);
        files.map(|files| files.to_string_lossy().into_owned())
    });
    Kubernetes {
        kubeconfig,
        context: cluster.context().map(str::to_owned),
        server: without_user(cluster.server()),
    }
}

/// The configuration that a connection was made with, such that another folder or environment does not
/// change what it means; `home` where one was read without being named.
fn files_used(flag: Option<&Path>, variable: Option<OsString>, home: Option<PathBuf>) -> Option<OsString> {
    let absolute =
        |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).into_os_string();
    match (flag, variable) {
        (Some(path), _) => Some(absolute(path)),
        (None, Some(list)) => {
            let files: Vec<_> = std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
            match files.as_slice() {
                [one] => Some(absolute(one)),
                // As it is: it is compared with the variable.
                _ => Some(list),
            }
        }
        (None, None) => home.map(|home| home.join(".kube/config").into_os_string()),
    }
}

/// An address without the user and the password that it may hold.
pub(crate) fn without_user(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://{}", rest.get(at + 1..).unwrap_or_default()),
        None => address.to_owned(),
    }
}

/// The URL of a repository without what may be a secret in it: of ssh the user is none.
pub(crate) fn without_secret(url: &str) -> String {
    match url.strip_prefix("ssh://") {
        None => without_user(url),
        Some(rest) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            let at = if user.is_empty() { "" } else { "@" };
            format!("ssh://{user}{at}{host}/{path}")
        }
    }
}

/// What another command about a run has to say to be taken as the run was.
pub(crate) fn undo_flags(known: &[Locator]) -> &'static str {
    let ignores = |locator: &Locator| match serde_json::from_value::<Place>(locator.entry.clone()) {
        Ok(Place::Workload { options, .. }) => options.gitops == Policy::Ignore,
        Ok(Place::Environment { environment, .. }) => environment.gitops == Policy::Ignore,
        Ok(Place::Model { .. }) | Err(_) => false,
    };
    if known.iter().any(ignores) { args::GitOps::Ignore.flag() } else { "" }
}

/// What is asked for anew of components that are found again; else it is as it was when the run began.
#[derive(Clone, Copy)]
pub(crate) struct Guards {
    pub(crate) gitops: GitOps,
    pub(crate) force: bool,
    pub(crate) artifact_check: ArtifactCheck,
}

/// The components of a run, connected to where it began or to where the options say, and what is to be done
/// with them.
pub(crate) async fn rebuild(
    app: &App,
    known: &[Locator],
    plan: Plan,
    guards: Option<Guards>,
) -> Result<Prepared, Failure> {
    let mut places = Vec::new();
    for id in plan.components() {
        app.check_namespace(&id.to_string(), id.scope())?;
        let entry = known.iter().find(|locator| locator.component == *id);
        let place = entry.and_then(|locator| serde_json::from_value::<Place>(locator.entry.clone()).ok());
        if place.is_none() && matches!(id.kind(), "model" | "environment") {
            let error = Error::new(ErrorKind::InvalidConfig, "the journal does not say where the run began");
            return Err(Failure::setup(error.with_component(id)));
        }
        places.push((id, place));
    }
    let known = places.iter().find_map(|(_, place)| match place {
        Some(Place::Workload { kubernetes, .. } | Place::Environment { kubernetes, .. }) => Some(kubernetes),
        _ => None,
    });
    let is_there = |place: &Option<Place>| match place {
        Some(Place::Workload { kubernetes, .. } | Place::Environment { kubernetes, .. }) => {
            Some(kubernetes) == known
        }
        _ => true,
    };
    if !places.iter().all(|(_, place)| is_there(place)) {
        let error = Error::new(ErrorKind::Unsupported, "the run spans several clusters");
        return Err(Failure::setup(error));
    }
    let needs_cluster = places.iter().any(|(id, _)| id.kind() != "model");
    let cluster = if needs_cluster { Some(reconnect(app, known).await?) } else { None };
    let (mut parts, mut locators) = (Vec::new(), Vec::new());
    for (id, place) in &places {
        let (part, place) = match (place, &cluster) {
            (Some(Place::Model { mlflow }), _) => {
                let mut options = PointerOptions::default();
                if let Some(guards) = guards {
                    (options.force, options.artifact_check) = (guards.force, guards.artifact_check);
                }
                let model = rebuild_model(app, mlflow, options)?;
                let place = Place::Model { mlflow: (&model).into() };
                (Part::Model(model), place)
            }
            (Some(Place::Environment { environment, .. }), Some(cluster)) => {
                let mut environment = environment.clone();
                if let Some(guards) = guards {
                    environment.gitops = guards.gitops.into();
                }
                let part = rebuild_environment(app, cluster, &environment).await?;
                let kubernetes = here(app, cluster, known);
                (Part::Environment(Box::new(part)), Place::Environment { kubernetes, environment })
            }
            (place, Some(cluster)) => {
                let mut options = match place {
                    Some(Place::Workload { options, .. }) => options.clone(),
                    _ => Options::default(),
                };
                if let Some(guards) = guards {
                    (options.gitops, options.force) = (guards.gitops.into(), guards.force);
                }
                let settings = Settings { workload: (&options).into(), ..Settings::default() };
                let part = in_cluster(cluster, id, &settings).map_err(Failure::setup)?;
                (part, Place::Workload { kubernetes: here(app, cluster, known), options })
            }
            (_, None) => continue,
        };
        locators.push(locator(id, &place)?);
        parts.push(part);
    }
    for part in &parts {
        part.first_contact().await?;
    }
    Ok(Prepared { servers: Servers::with(cluster), parts, plan, locators, irreversible: Vec::new() })
}

/// The component of this id in a cluster.
fn in_cluster(cluster: &Cluster, id: &ComponentId, settings: &Settings) -> rollback_core::Result<Part> {
    if id.kind() == "inferenceservice" {
        let service =
            InferenceService::new(cluster, id.scope().unwrap_or_default(), id.name(), settings.service())?;
        return Ok(Part::Service(service));
    }
    Workload::from_id(cluster, id, settings.workload.clone()).map(Part::Workload)
}

async fn reconnect(app: &App, known: Option<&Kubernetes>) -> Result<Cluster, Failure> {
    let options = connection(app, known, std::env::var_os("KUBECONFIG").as_deref())?;
    Cluster::connect(options).await.map_err(|e| {
        let named = known.map(|known| format!("the run began at {}", known.server));
        let hint = "say where with --kubeconfig and --context";
        Failure::setup(e.with_hint(named.map_or_else(|| hint.into(), |named| format!("{named}; {hint}"))))
    })
}

/// The connection that the options ask for, and where they say nothing, the run's.
fn connection(
    app: &App,
    known: Option<&Kubernetes>,
    variable: Option<&std::ffi::OsStr>,
) -> Result<ConnectOptions, Failure> {
    let (kubeconfig, context) = (app.global.kubeconfig.clone(), app.global.context.clone());
    if kubeconfig.is_some() {
        // Another file: its own current context is meant, unless one is named.
        return Ok(ConnectOptions { kubeconfig, context });
    }
    let Some(known) = known else {
        if context.is_some() {
            return Ok(ConnectOptions { kubeconfig, context });
        }
        let error = Error::new(ErrorKind::InvalidConfig, "the journal does not say where the run began");
        return Err(Failure::setup(error.with_hint("say so with --kubeconfig or --context")));
    };
    let context = context.or_else(|| known.context.clone());
    let Some(files) = &known.kubeconfig else { return Ok(ConnectOptions { kubeconfig, context }) };
    if std::env::split_paths(files).count() == 1 {
        return Ok(ConnectOptions { kubeconfig: Some(files.into()), context });
    }
    if variable == Some(files.as_ref()) {
        return Ok(ConnectOptions { kubeconfig: None, context });
    }
    let error = Error::new(ErrorKind::InvalidConfig, format!("the run began with KUBECONFIG={files}"));
    Err(Failure::setup(error.with_hint("set it to that again, or pass --kubeconfig")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::args::{Format, Global};

    fn kubernetes(kubeconfig: &str) -> Kubernetes {
        Kubernetes {
            kubeconfig: Some(kubeconfig.into()),
            context: Some("prod".into()),
            server: "https://k:6443/".into(),
        }
    }

    fn app(kubeconfig: Option<&str>, context: Option<&str>) -> App {
        let global = Global {
            namespace: None,
            context: context.map(str::to_owned),
            kubeconfig: kubeconfig.map(PathBuf::from),
            output: Format::Table,
            journal: None,
            stage: None,
            alias: None,
            tracking_uri: None,
            quiet: false,
            file: None,
            repo: None,
        };
        App { global, stop: CancellationToken::new(), runbook: None, broken: None, journal_is_typed: false }
    }

    #[test]
    fn a_place_is_written_without_secrets_and_read_with_what_later_versions_add() {
        let mut options = WorkloadOptions::default();
        options.gitops = GitOps::Ignore;
        let place = Place::Workload { kubernetes: kubernetes("/k"), options: (&options).into() };
        let value = json!(place);
        assert_eq!(
            value["kubernetes"],
            json!({"kubeconfig": "/k", "context": "prod", "server": "https://k:6443/"})
        );
        assert_eq!(
            (&value["options"]["mode"], &value["options"]["gitops"]),
            (&json!("guarded"), &json!("ignore"))
        );
        assert_eq!(serde_json::from_value::<Place>(value).unwrap(), place);
        let Place::Workload { options: kept, .. } = &place else { unreachable!() };
        let back: WorkloadOptions = kept.into();
        assert_eq!((back.gitops, back.grace), (GitOps::Ignore, options.grace));

        let other = json!({"kubernetes": {"kubeconfig": null, "context": null, "server": "s", "new": 1}});
        let Place::Workload { options, .. } = serde_json::from_value(other).unwrap() else { unreachable!() };
        assert_eq!(options, Options::default());
        let model = json!({"mlflow": {"trackingUri": "http://m", "model": "a", "stage": "Production"}});
        let read: Place = serde_json::from_value(model).unwrap();
        assert!(matches!(&read, Place::Model { mlflow } if mlflow.stage == Some(Stage::Production)));
        assert_eq!(without_user("https://me:hunter2@k:6443/a@b"), "https://k:6443/a@b");
        assert_eq!(without_user("https://k:6443/a@b"), "https://k:6443/a@b");
        assert_eq!(without_secret("https://t0ken@h/r.git"), "https://h/r.git");
        assert_eq!(without_secret("ssh://git:pw@h:22/r.git"), "ssh://git@h:22/r.git");
        assert_eq!(without_secret("git@h:r.git"), "git@h:r.git");
    }

    #[test]
    fn the_files_used_mean_the_same_elsewhere() {
        let used = |flag: Option<&str>, variable: Option<&str>, home: Option<&str>| {
            files_used(flag.map(Path::new), variable.map(Into::into), home.map(Into::into))
        };
        assert_eq!(used(Some("/a"), Some("/b"), Some("/h")), Some("/a".into()));
        assert_eq!(used(None, Some("/b"), Some("/h")), Some("/b".into()));
        assert_eq!(used(None, Some("/b:/c"), None), Some("/b:/c".into()));
        assert_eq!(used(None, None, Some("/h")), Some("/h/.kube/config".into()));
        assert_eq!(used(None, None, None), None);
        assert!(Path::new(&used(Some("k"), None, None).unwrap()).is_absolute());
    }

    #[test]
    fn the_run_decides_where_unless_options_do() {
        let known = kubernetes("/k");
        let go = |app: &App, known: Option<&Kubernetes>| {
            let options = connection(app, known, Some("/b:/c".as_ref())).map_err(|failure| failure.exit());
            options.map(|options| (options.kubeconfig, options.context))
        };
        let is = |kubeconfig: Option<&str>, context: Option<&str>| {
            Ok((kubeconfig.map(PathBuf::from), context.map(str::to_owned)))
        };
        assert_eq!(go(&app(None, None), Some(&known)), is(Some("/k"), Some("prod")));
        assert_eq!(go(&app(None, Some("x")), Some(&known)), is(Some("/k"), Some("x")));
        assert_eq!(go(&app(Some("/o"), None), Some(&known)), is(Some("/o"), None));
        assert_eq!(go(&app(None, None), Some(&kubernetes("/b:/c"))), is(None, Some("prod")));
        for unknown in [Some(&kubernetes("/b:/d")), None] {
            assert_eq!(go(&app(None, None), unknown), Err(crate::exit::Exit::Usage));
        }
    }
}
