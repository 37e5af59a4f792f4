//! Returns a whole environment to an older tag of its repository: what the tag has is applied, what it has not is
//! deleted once the rest has settled.
//!
//! `cargo run --example environment -- REPOSITORY PATH TAG`, with the cluster of the kubeconfig and `kustomize` on the
//! `PATH`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use rollback_core::{
    Components, Engine, Error, ErrorKind, MemoryJournal, Outcome, Planner, Result, RunOptions, Target,
};
use rollback_git::{EnvironmentOptions, KustomizeEnvironment, Repository};
use rollback_k8s::{Cluster, ConnectOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [repository, path, tag] = args.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidConfig, "say which: REPOSITORY PATH TAG"));
    };
    let cluster = Cluster::connect(ConnectOptions::default()).await?;
    let mut options = EnvironmentOptions::default();
    options.prune = true;
    let repository = Repository::local(Path::new(repository))?;
    let environment = KustomizeEnvironment::new(&cluster, &repository, path, options)?;
    undo(environment, tag, &mut std::io::stdout()).await
}

/// Tells what it does.
pub(crate) async fn undo(environment: KustomizeEnvironment, tag: &str, out: &mut impl Write) -> Result<()> {
    let staging = Arc::new(environment);
    let target = Target::Revision(tag.to_owned());
    let plan = Planner::new().rollback("staging", staging.clone(), target, &[]).plan().await?;
    for field in plan.steps().iter().flat_map(|step| &step.change.diff) {
        let _ = writeln!(out, "{}", field.path);
    }
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let report = engine.execute(&plan, &Components::new().with(staging), RunOptions::by("example")).await?;
    let _ = writeln!(out, "{:?}", report.outcome);
    match report.outcome {
        Outcome::Completed | Outcome::NothingToDo => Ok(()),
        outcome => Err(Error::new(ErrorKind::Unexpected, format!("it ended as {outcome:?}"))),
    }
}
