//! The Rust of the README compiles, and is what stands here.

#![allow(dead_code, clippy::unwrap_used, reason = "what compiles is not run")]

use std::sync::Arc;

use rollback_core::{Planner, Result, Target};
use rollback_git::{EnvironmentOptions, KustomizeEnvironment, Repository};
use rollback_k8s::Cluster;
use rollback_kserve::{InferenceService, ServiceOptions};
use rollback_mlflow::{ModelPointer, PointerOptions, Registry, RegistryConfig, Stage};

mod one_deployment {
    use std::sync::Arc;

    use rollback_core::{Components, Engine, MemoryJournal, Outcome, Planner, RunOptions, Target};
    use rollback_k8s::{Cluster, ConnectOptions, Workload, WorkloadKind, WorkloadOptions};

    #[tokio::main(flavor = "current_thread")]
    async fn main() -> rollback_core::Result<()> {
        let cluster = Cluster::connect(ConnectOptions::default()).await?;
        let options = WorkloadOptions::default();
        let web = Arc::new(Workload::new(&cluster, WorkloadKind::Deployment, "shop", "web", options)?);

        // Only reads.
        let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await?;
        for step in plan.steps() {
            let change = &step.change;
            println!("{}: revision {} to {}", change.component, change.from.id, change.to.id);
            for warning in &change.warnings {
                println!("  {warning}");
            }
        }

        // Patches, and watches for at most 10 minutes.
        let engine = Engine::new(Arc::new(MemoryJournal::new()));
        let components = Components::new().with(web);
        let report = engine.execute(&plan, &components, RunOptions::by("deploy-bot")).await?;
        if report.outcome != Outcome::Completed {
            eprintln!("{report:#?}");
        }
        Ok(())
    }
}

async fn a_model() -> Result<()> {
    let registry = Registry::new(RegistryConfig::from_env(None)?)?;
    let model =
        ModelPointer::stage(&registry, "inflow-baseline", Stage::Production, PointerOptions::default())?;
    let plan = Planner::new().rollback("model", Arc::new(model), Target::Previous, &[]).plan().await?;
    drop(plan);
    Ok(())
}

async fn a_service_that_follows(cluster: Cluster, model: ModelPointer) -> Result<()> {
    let serving =
        InferenceService::new(&cluster, "inflow-staging", "inflow-baseline", ServiceOptions::default())?;
    let planner = Planner::new().rollback("registry", Arc::new(model), Target::Revision("4".into()), &[]);
    let plan = planner.follow("serving", Arc::new(serving), "registry", &[]).plan().await?;
    drop(plan);
    Ok(())
}

async fn an_environment(cluster: Cluster) -> Result<()> {
    let repository = Repository::local(".")?;
    let path = "infra/kubernetes/environments/staging";
    let staging = KustomizeEnvironment::new(&cluster, &repository, path, EnvironmentOptions::default())?;
    let target = Target::Revision("v1.4.0".into());
    let plan = Planner::new().rollback("staging", Arc::new(staging), target, &[]).plan().await?;
    drop(plan);
    Ok(())
}

#[test]
fn what_the_readme_shows_is_what_compiles() {
    // Lines may be broken in other places.
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let compiled = bare(include_str!("readme.rs"));
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> =
        readme.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        assert!(compiled.contains(&bare(block)), "not compiled here:\n{block}");
    }
}
