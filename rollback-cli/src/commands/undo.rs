//! `rollback undo`

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::try_join_all;
use rollback_core::{Change, ComponentId, Error, ErrorKind};
use rollback_k8s::GitOps;
use serde_json::json;

use super::carry_out::{self, How, Prepared};
use crate::args::UndoArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, table};
use crate::parts::{Part, Servers, Settings};
use crate::session::App;
use crate::{journal, keep, place};

pub(crate) async fn run(app: &App, args: UndoArgs) -> Result<Exit, Failure> {
    if args.dry_run.is_none() {
        carry_out::refuse_silence(args.run.yes, "undo")?;
    }
    // A dry run leaves nothing to be kept; anything else is kept before a server is asked.
    let journal =
        if args.dry_run.is_none() { journal::open(app).await? } else { journal::known(app).await? };
    let prepared = app
        .until_stopped(async {
            if let Some(path) = &args.plan {
                // The runbook may have come to know it since the plan was made.
                return kept(app, path).await?.guarded(app).await;
            }
            let carries_out = args.dry_run.is_none();
            super::plan::make(app, &args.components, &args.target, &journal, carries_out).await
        })
        .await?;
    if args.dry_run.is_some() {
        return app.until_stopped(dry_run(app, &prepared)).await;
    }
    let undo_flags = args.target.gitops.flag();
    let how = How { undo_flags, ..How::of(&args.run).because(args.why) };
    carry_out::run(app, &prepared, &journal, how).await
}

/// A kept plan and its components.
async fn kept(app: &App, path: &Path) -> Result<Prepared, Failure> {
    let (plan, locators) = keep::read(path)?;
    if !locators.is_empty() {
        return place::rebuild(app, &locators, plan, None).await;
    }
    let servers = Servers::default();
    // What a plan asks for was decided when it was made. Only how long to watch is open, and where a
    // controller may take the object back, longer is right whichever way the plan came about.
    let mut settings = Settings::default();
    settings.workload.gitops = GitOps::Ignore;
    let mut parts = Vec::new();
    for id in plan.components() {
        app.check_namespace(&id.to_string(), id.scope())?;
        let name = app.component(&[id.to_string()])?;
        parts.push(servers.part(app, &name, &settings).await?);
    }
    super::plan::first_contact(&parts).await?;
    let locators = place::locators(app, &servers, &parts, &settings.workload)?;
    Ok(Prepared { servers, parts, plan, locators, irreversible: Vec::new() })
}

/// Lets the server check every change.
pub(super) async fn dry_run(app: &App, prepared: &Prepared) -> Result<Exit, Failure> {
    let plan = &prepared.plan;
    let mut whole: BTreeMap<&ComponentId, Change> = BTreeMap::new();
    for change in plan.steps().iter().map(|step| &step.change).filter(|change| !change.is_noop()) {
        // What takes several changes is checked as the one that they amount to.
        let is_first = !whole.contains_key(&change.component);
        let all = whole.entry(&change.component).or_insert_with(|| change.clone());
        // What an environment prunes in the end is there until then.
        if is_first || change.component.kind() != "environment" {
            all.to = change.to.clone();
        }
    }
    // Of several, those are checked that can be.
    let is_model = |component: &&ComponentId| matches!(prepared.part(component), Some(Part::Model(_)));
    if whole.keys().any(|component| !is_model(component)) {
        for component in whole.keys().filter(|component| is_model(component)) {
            output::say(&format!("warning: {component} is not checked: its server has no dry run"));
        }
        whole.retain(|component, _| !is_model(component));
    }
    try_join_all(whole.iter().map(async |(component, change)| match prepared.part(component) {
        Some(Part::Workload(workload)) => workload.dry_run(change).await,
        Some(Part::Service(service)) => service.dry_run(change).await,
        Some(Part::Environment(environment)) => environment.component.dry_run(change).await,
        Some(Part::Model(_)) | None => {
            let error = Error::new(ErrorKind::Unsupported, "its server has no dry run");
            let hint = "see what would change with: rollback plan";
            Err(error.with_component(component).with_hint(hint))
        }
    }))
    .await?;
    let mut value = output::json::plan(plan);
    if let Some(members) = value.as_object_mut() {
        members.insert("dryRun".into(), json!("server"));
    }
    output::result(app.global.output, &value, || table::dry_run(plan));
    Ok(Exit::Done)
}
