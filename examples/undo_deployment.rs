//! Returns one Deployment to the revision before the current one, and watches until it has settled.
//!
//! `cargo run --example undo_deployment -- NAMESPACE NAME`, with the cluster of the kubeconfig.

use std::io::Write;
use std::sync::Arc;

use rollback_core::{
    Components, Engine, Error, ErrorKind, MemoryJournal, Outcome, Planner, Result, RunOptions, Target,
};
use rollback_k8s::{Cluster, ConnectOptions, Workload, WorkloadKind, WorkloadOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(namespace), Some(name)) = (args.next(), args.next()) else {
        return Err(Error::new(ErrorKind::InvalidConfig, "say which one: NAMESPACE NAME"));
    };
    let cluster = Cluster::connect(ConnectOptions::default()).await?;
    undo(&cluster, &namespace, &name, &mut std::io::stdout()).await
}

/// Tells what it does.
pub(crate) async fn undo(cluster: &Cluster, namespace: &str, name: &str, out: &mut impl Write) -> Result<()> {
    let options = WorkloadOptions::default();
    let web = Arc::new(Workload::new(cluster, WorkloadKind::Deployment, namespace, name, options)?);
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await?;
    for step in plan.steps() {
        let change = &step.change;
        let _ = writeln!(out, "{}: {} to {}", change.component, change.from.summary, change.to.summary);
        for warning in &change.warnings {
            let _ = writeln!(out, "  {warning}");
        }
    }
    // A service keeps its runs in `SqliteJournal` or `KubernetesJournal`, so that another process can go on with one.
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let report = engine.execute(&plan, &Components::new().with(web), RunOptions::by("example")).await?;
    let _ = writeln!(out, "{:?}", report.outcome);
    match report.outcome {
        Outcome::Completed | Outcome::NothingToDo => Ok(()),
        outcome => Err(Error::new(ErrorKind::Unexpected, format!("it ended as {outcome:?}"))),
    }
}
