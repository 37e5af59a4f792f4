//! `rollback plan`, and how `undo` plans.

use std::sync::Arc;

use rollback_core::{Planner, Rollbackable, Target};
use rollback_k8s::{GitOps, UndoMode, Workload, WorkloadOptions};

use super::carry_out::Prepared;
use crate::args::{self, Compat, PlanArgs, TargetArgs};
use crate::exit::{Exit, Failure};
use crate::journal::Kept;
use crate::output::{self, json, table};
use crate::session::{self, App};
use crate::{journal, keep, lease, naming, place};

pub(crate) async fn run(app: &App, args: PlanArgs) -> Result<Exit, Failure> {
    let kept = journal::known(app).await?;
    let Prepared { plan, .. } = make(app, &args.components, &args.target, &kept, false).await?;
    if let Some(path) = &args.out {
        keep::write(path, &plan)?;
    }
    output::result(app.global.output, &json::plan(&plan), || table::plan(&plan, console::colors_enabled()));
    if let Some(path) = &args.out
        && !app.global.quiet
    {
        let (path, flags) = (session::quoted(&path.display().to_string()), app.connection_flags());
        output::say(&format!("kept; carry it out with: rollback undo --plan {path}{flags}"));
    }
    Ok(Exit::Done)
}

/// Plans the return of the components to what was asked for; where it is about to be carried out, only if no
/// unfinished run of the journal comes first.
pub(crate) async fn make(
    app: &App,
    components: &[String],
    target: &TargetArgs,
    kept: &Kept,
    carries_out: bool,
) -> Result<Prepared, Failure> {
    let names = app.components(components)?;
    let wanted = naming::parse_revisions(&target.to_revision).map_err(Failure::setup)?;
    let cluster = app.connect().await?;
    let options = options(target);
    let mut workloads: Vec<Workload> = Vec::new();
    for name in &names {
        let workload = app.workload(&cluster, name, options.clone())?;
        if workloads.iter().any(|other| other.id() == workload.id()) {
            return Err(session::usage(format!("{} is given twice", workload.id())));
        }
        workloads.push(workload);
    }
    let written: Vec<_> =
        names.iter().zip(&workloads).map(|(name, workload)| (name.written.as_str(), workload.id())).collect();
    let targets = naming::targets(&written, wanted, &otherwise(target)).map_err(Failure::setup)?;
    if let Some(first) = workloads.first() {
        session::first_contact(first).await?;
    }
    if carries_out {
        kept.check_free(app, &workloads).await?;
    }
    let mut planner = Planner::new().on_failure(target.on_failure.into()).forced(target.force);
    if target.compat.is_none() {
        planner = planner.with_ledger(kept.ledger.clone());
    }
    let planner = workloads.iter().zip(targets).fold(planner, |planner, (workload, target)| {
        let component: Arc<dyn Rollbackable> = Arc::new(workload.clone());
        planner.rollback(workload.id().to_string(), component, target, &[])
    });
    let mut plan = planner.plan().await?;
    lease::warn(&cluster, &mut plan).await;
    let locators = place::locators(app, &cluster, &plan, &options)?;
    Ok(Prepared { cluster, workloads, plan, locators })
}

/// What a component returns to for which no revision is named.
fn otherwise(target: &TargetArgs) -> Target {
    match target.as_of {
        Some(at) => Target::AsOf(at),
        None if target.last_good => Target::LastGood,
        None => Target::Previous,
    }
}

fn options(target: &TargetArgs) -> WorkloadOptions {
    let mut options = WorkloadOptions::default();
    options.force = target.force;
    options.declarative = target.declarative;
    options.gitops = match target.gitops {
        args::GitOps::Refuse => GitOps::Refuse,
        args::GitOps::Ignore => GitOps::Ignore,
    };
    options.mode = match target.compat {
        Some(Compat::Kubectl) => UndoMode::Kubectl,
        None => UndoMode::Guarded,
    };
    options
}
