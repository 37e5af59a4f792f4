//! `rollback plan`, and how `undo` plans.

use std::sync::Arc;

use rollback_core::{ComponentId, Plan, Planner, RestartScope, Target};
use rollback_git::EnvironmentOptions;
use rollback_k8s::{UndoMode, WorkloadOptions};

use super::carry_out::Prepared;
use crate::args::{self, Compat, PlanArgs, TargetArgs};
use crate::exit::{Exit, Failure};
use crate::journal::Kept;
use crate::output::{self, json, table};
use crate::parts::{Part, Servers, Settings};
use crate::runbook::{Does, Planned, PlannedStep};
use crate::session::{self, App};
use crate::{journal, keep, lease, naming, place};

pub(crate) async fn run(app: &App, args: PlanArgs) -> Result<Exit, Failure> {
    let kept = journal::known(app).await?;
    let Prepared { plan, locators, .. } = make(app, &args.components, &args.target, &kept, false).await?;
    if let Some(path) = &args.out {
        keep::write(path, &plan, &locators)?;
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
    let Planned { on_failure, steps } = asked(app, components)?;
    let wanted = naming::parse_revisions(&target.to_revision).map_err(Failure::setup)?;
    let all = |fits: fn(&naming::Kind) -> bool| steps.iter().all(|step| fits(&step.component.kind));
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
    let is_environment = |kind: &naming::Kind| matches!(kind, naming::Kind::Environment(_));
    if target.is_of_environments() && !steps.iter().any(|step| is_environment(&step.component.kind)) {
        return Err(session::usage(
            "--to-path, --prune, --include-crds, --only, --exclude, --replace and --conflicts are for environments",
        ));
    }
    let servers = Servers::default();
    let settings = settings(target, kept);
    let mut parts: Vec<Part> = Vec::new();
    for step in &steps {
        let part = servers.part(app, &step.component, &settings).await?;
        if parts.iter().any(|other| other.id() == part.id()) {
            return Err(session::usage(format!("{} is given twice", part.id())));
        }
        parts.push(part);
    }
    // A revision can be named for what neither follows nor restarts.
    let returns = || steps.iter().zip(&parts).filter(|(step, _)| step.does == Does::Return);
    let written: Vec<_> =
        returns().map(|(step, part)| (step.component.written.as_str(), part.id())).collect();
    let targets = naming::targets(&written, wanted, &otherwise(target)).map_err(Failure::setup)?;
    first_contact(&parts).await?;
    if carries_out {
        kept.check_free(app, &parts).await?;
    }
    let policy = target.on_failure.map(Into::into).or(on_failure).unwrap_or_default();
    let mut planner = Planner::new().on_failure(policy).forced(target.force);
    if target.compat.is_none() {
        planner = planner.with_ledger(kept.ledger.clone());
    }
    let mut targets = targets.into_iter();
    for (step, part) in steps.iter().zip(&parts) {
        let after: Vec<&str> = step.after.iter().map(String::as_str).collect();
        let id = if step.id.is_empty() { part.id().to_string() } else { step.id.clone() };
        planner = match (&step.does, part) {
            (Does::Follow(followed), part) => planner.follow(id, part.component(), followed, &after),
            (Does::Restart, Part::Workload(workload)) => {
                planner.restart(id, Arc::new(workload.clone()), RestartScope::All, &after)
            }
            (Does::Restart, _) => {
                return Err(session::usage(format!("{} cannot be restarted", step.component.written)));
            }
            (Does::Return, part) => {
                let target = targets.next().unwrap_or(Target::Previous);
                planner.rollback(id, part.component(), target, &after)
            }
        };
    }
    let mut plan = planner.plan().await?;
    if let Some(cluster) = servers.cluster() {
        lease::warn(cluster, &mut plan).await;
    }
    tell_untied(app, &steps, &parts, &mut plan);
    let mut irreversible = Vec::new();
    for (id, warning) in crossed(app, &servers, &plan).await? {
        plan.warn(&id, &warning);
        irreversible.push(format!("{id}: {warning}"));
    }
    let locators = place::locators(app, &servers, &parts, &settings.workload)?;
    Ok(Prepared { servers, parts, plan, locators, irreversible })
}

/// What a plan crosses of what the runbook says cannot be taken back, however its components were named.
pub(super) async fn crossed(
    app: &App,
    servers: &Servers,
    plan: &Plan,
) -> Result<Vec<(ComponentId, String)>, Failure> {
    let mut all = Vec::new();
    let Some(runbook) = &app.runbook else { return Ok(all) };
    let moved = plan.components();
    for component in runbook.all().iter().filter(|component| moved.iter().any(|id| component.may_be(id))) {
        let declared = runbook.never_crossed(&component.written);
        if declared.is_empty() {
            continue;
        }
        let part = servers.part(app, component, &Settings::default()).await?;
        if !moved.contains(part.id()) {
            continue;
        }
        let history = part.component().history().await?;
        for one in declared.iter().filter(|one| one.is_crossed(plan, part.id(), &history)) {
            let between = one.between.as_ref();
            let between =
                between.map(|(older, newer)| format!(" between {older} and {newer}")).unwrap_or_default();
            let told = format!("the runbook says that it cannot be taken back{between}: {}", one.reason);
            all.push((part.id().clone(), told));
        }
    }
    Ok(all)
}

/// Warns where a model is moved and the runbook ties nothing to it that would load it again.
fn tell_untied(app: &App, steps: &[PlannedStep], parts: &[Part], plan: &mut Plan) {
    let Some(runbook) = &app.runbook else { return };
    let ties = |steps: &[PlannedStep], name: &str| {
        steps.iter().any(|step| match &step.does {
            Does::Follow(followed) => followed == name,
            Does::Restart => step.after.iter().any(|other| other == name),
            Does::Return => false,
        })
    };
    for (step, part) in steps.iter().zip(parts).filter(|(_, part)| matches!(part, Part::Model(_))) {
        let name = &step.component.written;
        if ties(steps, name) || runbook.component(name).is_none() {
            continue;
        }
        let elsewhere =
            runbook.plans().find(|plan| runbook.plan(plan).is_some_and(|plan| ties(&plan.steps, name)));
        let warning = match elsewhere {
            Some(plan) => format!("nothing here loads the model again; the plan {plan} of the runbook does"),
            None => "nothing in the runbook loads the model again once it has moved".to_owned(),
        };
        plan.warn(part.id(), &warning);
    }
}

/// The steps of a plan of the runbook, or the return of each component that was typed.
fn asked(app: &App, words: &[String]) -> Result<Planned, Failure> {
    if let ([name], Some(runbook)) = (words, &app.runbook)
        && let Some(planned) = runbook.plan(name)
    {
        for PlannedStep { component, .. } in &planned.steps {
            app.check_namespace(&component.written, component.namespace.as_deref())?;
        }
        return Ok(planned);
    }
    // The components' own ids name their steps.
    let step =
        |component| PlannedStep { id: String::new(), component, does: Does::Return, after: Vec::new() };
    let steps = app.components(words)?.into_iter().map(step).collect();
    Ok(Planned { on_failure: None, steps })
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
    options.gitops = target.gitops.into();
    options.mode = match target.compat {
        Some(Compat::Kubectl) => UndoMode::Kubectl,
        None => UndoMode::Guarded,
    };
    let mut environment = EnvironmentOptions::default();
    environment.to_path.clone_from(&target.to_path);
    environment.prune = target.prune;
    environment.include_crds = target.include_crds;
    environment.only.clone_from(&target.only);
    environment.exclude.clone_from(&target.exclude);
    environment.replace.clone_from(&target.replace);
    environment.force_conflicts = target.conflicts == args::Conflicts::Force;
    Settings {
        environment,
        workload: options,
        artifact_check: target.artifact_check.into(),
        reads_only: false,
        uri_only: target.uri_only,
        ledger: Some(kept.ledger.clone()),
    }
}
