//! `rollback plan`, and how `undo` plans.

use rollback_core::{Planner, Target};
use rollback_k8s::{GitOps, UndoMode, WorkloadOptions};

use super::carry_out::Prepared;
use crate::args::{self, Compat, PlanArgs, TargetArgs};
use crate::exit::{Exit, Failure};
use crate::journal::Kept;
use crate::output::{self, json, table};
use crate::parts::{Part, Servers, Settings};
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
    let all = |fits: fn(&naming::Kind) -> bool| names.iter().all(|name| fits(&name.kind));
    let is_workload = |kind: &naming::Kind| matches!(kind, naming::Kind::Workload(_));
    if target.compat.is_some() && !all(is_workload) {
        return Err(session::usage("--compat=kubectl is for workloads: kubectl has no rule for models"));
    }
    if target.declarative && !all(is_workload) {
        return Err(session::usage("--declarative is for workloads"));
    }
    if target.uri_only && !all(|kind| *kind == naming::Kind::Service) {
        return Err(session::usage("--uri-only is for InferenceServices"));
    }
    let servers = Servers::default();
    let settings = settings(target, kept);
    let mut parts: Vec<Part> = Vec::new();
    for name in &names {
        let part = servers.part(app, name, &settings).await?;
        if parts.iter().any(|other| other.id() == part.id()) {
            return Err(session::usage(format!("{} is given twice", part.id())));
        }
        parts.push(part);
    }
    let written: Vec<_> =
        names.iter().zip(&parts).map(|(name, part)| (name.written.as_str(), part.id())).collect();
    let targets = naming::targets(&written, wanted, &otherwise(target)).map_err(Failure::setup)?;
    first_contact(&parts).await?;
    if carries_out {
        kept.check_free(app, &parts).await?;
    }
    let mut planner = Planner::new().on_failure(target.on_failure.into()).forced(target.force);
    if target.compat.is_none() {
        planner = planner.with_ledger(kept.ledger.clone());
    }
    let planner = parts.iter().zip(targets).fold(planner, |planner, (part, target)| {
        planner.rollback(part.id().to_string(), part.component(), target, &[])
    });
    let mut plan = planner.plan().await?;
    if let Some(cluster) = servers.cluster() {
        lease::warn(cluster, &mut plan).await;
    }
    let locators = place::locators(app, &servers, &parts, &settings.workload)?;
    Ok(Prepared { servers, parts, plan, locators })
}

/// Asks each server once whether it answers.
pub(super) async fn first_contact(parts: &[Part]) -> Result<(), Failure> {
    let is_model = |part: &&Part| matches!(part, Part::Model(_));
    let first = parts.iter().find(|part| !is_model(part));
    for part in first.into_iter().chain(parts.iter().filter(is_model)) {
        part.first_contact().await?;
    }
    Ok(())
}

/// What a component returns to for which no revision is named.
fn otherwise(target: &TargetArgs) -> Target {
    match target.as_of {
        Some(at) => Target::AsOf(at),
        None if target.last_good => Target::LastGood,
        None => Target::Previous,
    }
}

fn settings(target: &TargetArgs, kept: &Kept) -> Settings {
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
    Settings {
        workload: options,
        artifact_check: target.artifact_check.into(),
        reads_only: false,
        uri_only: target.uri_only,
        ledger: Some(kept.ledger.clone()),
    }
}
