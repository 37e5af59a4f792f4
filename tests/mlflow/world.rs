//! Models, their pointers, and how a plan is carried out.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, Error, MemoryJournal, Planner, Rollbackable, RunOptions, RunReport, Target,
};
use rollback_mlflow::{ArtifactCheck, ModelPointer, PointerOptions, Registry, RegistryConfig, Stage};
use rollback_tests::Mlflow;

pub(crate) fn registry(url: &str) -> Registry {
    Registry::new(RegistryConfig::new(url)).unwrap()
}

/// Nothing is asked of artifact stores, and a move is watched for a moment only.
pub(crate) fn options() -> PointerOptions {
    let mut options = PointerOptions::default();
    options.artifact_check = ArtifactCheck::Skip;
    options.settle = Duration::from_millis(100);
    options
}

pub(crate) fn production(url: &str, model: &str) -> ModelPointer {
    ModelPointer::stage(&registry(url), model, Stage::Production, options()).unwrap()
}

pub(crate) fn champion(url: &str, model: &str) -> ModelPointer {
    ModelPointer::alias(&registry(url), model, "champion", options()).unwrap()
}

/// A model of five versions, of which the fifth is in Production, and the alias `champion`.
pub(crate) async fn baseline(server: &Mlflow) -> String {
    let sources: Vec<_> = (1..=5).map(|n| format!("s3://models/baseline/v{n}")).collect();
    let model = server.model(&sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.stage(&model, "4", "Archived", false).await;
    server.stage(&model, "5", "Production", true).await;
    server.alias(&model, "champion", "5").await;
    model
}

pub(crate) async fn undo(pointer: &ModelPointer, target: Target) -> Result<RunReport, Error> {
    let pointer: Arc<dyn Rollbackable> = Arc::new(pointer.clone());
    let plan = Planner::new().rollback("model", pointer.clone(), target, &[]).plan().await?;
    let mut options = RunOptions::by("ann@here");
    options.reason = Some("worse answers".into());
    options.settings.apply_timeout = Duration::from_secs(60);
    Engine::new(Arc::new(MemoryJournal::new()))
        .execute(&plan, &Components::new().with(pointer), options)
        .await
}

pub(crate) fn revision(id: &str) -> Target {
    Target::Revision(id.into())
}
