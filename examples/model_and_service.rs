//! Returns a model in its registry, and the service that serves it, in one plan: the version is said once, and the
//! service follows.
//!
//! `cargo run --example model_and_service -- MODEL VERSION NAMESPACE SERVICE`, with the registry of
//! `MLFLOW_TRACKING_URI` and the cluster of the kubeconfig.

use std::io::Write;
use std::sync::Arc;

use rollback_core::{
    Components, Engine, Error, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Planner, Result, RunOptions,
    Target,
};
use rollback_k8s::{Cluster, ConnectOptions};
use rollback_kserve::{InferenceService, ServiceOptions};
use rollback_mlflow::{ModelPointer, PointerOptions, Registry, RegistryConfig, Stage};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, version, namespace, name] = args.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidConfig, "say which: MODEL VERSION NAMESPACE SERVICE"));
    };
    let registry = Registry::new(RegistryConfig::from_env(None)?)?;
    let pointer = ModelPointer::stage(&registry, model, Stage::Production, PointerOptions::default())?;
    let cluster = Cluster::connect(ConnectOptions::default()).await?;
    let service = InferenceService::new(&cluster, namespace, name, ServiceOptions::default())?;
    undo(pointer, service, version, &mut std::io::stdout()).await
}

/// Tells what it does. Where the service does not take the older model, the registry goes back to where it was.
pub(crate) async fn undo(
    pointer: ModelPointer,
    service: InferenceService,
    version: &str,
    out: &mut impl Write,
) -> Result<()> {
    let (pointer, service) = (Arc::new(pointer), Arc::new(service));
    let plan = Planner::new()
        .on_failure(FailurePolicy::Compensate)
        .rollback("registry", pointer.clone(), Target::Revision(version.to_owned()), &[])
        .follow("serving", service.clone(), "registry", &[])
        .plan()
        .await?;
    let components = Components::new().with(pointer).with(service);
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let report = engine.execute(&plan, &components, RunOptions::by("example")).await?;
    for step in &report.steps {
        let _ = writeln!(out, "{}: {} to {}: {:?}", step.component, step.from, step.to, step.outcome);
    }
    let _ = writeln!(out, "{:?}", report.outcome);
    match report.outcome {
        Outcome::Completed | Outcome::NothingToDo => Ok(()),
        outcome => Err(Error::new(ErrorKind::Unexpected, format!("it ended as {outcome:?}"))),
    }
}
