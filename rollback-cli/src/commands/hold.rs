//! `rollback hold`, `unhold` and `holds`

use rollback_core::supervisor::{Holding, everything};
use rollback_core::{Clock as _, ComponentId, Realm, SystemClock};
use serde_json::json;

use crate::args::{HoldArgs, UnholdArgs};
use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, table, told};
use crate::parts::{Servers, Settings};
use crate::runbook::Runbook;
use crate::session::{self, App};

/// What is held: a component, or all of them.
async fn place(app: &App, component: &[String], all: bool) -> Result<(Realm, ComponentId), Failure> {
    if all {
        return Ok(everything()?);
    }
    let name = app.component(component)?;
    let part = Servers::default().part(app, &name, &Settings::default()).await?;
    part.first_contact().await?;
    let component = part.component();
    Ok((component.realm().await?, component.id().clone()))
}

fn shown(component: &ComponentId) -> String {
    if everything().is_ok_and(|(_, all)| all == *component) {
        "all components".into()
    } else {
        component.to_string()
    }
}

pub(crate) async fn hold(app: &App, args: HoldArgs) -> Result<Exit, Failure> {
    let (realm, component) = place(app, &args.component, args.all).await?;
    let kept = journal::lasting(app).await?;
    let since = SystemClock.now();
    let holding =
        Holding { by: session::actor(), since, until: since.saturating_add(args.r#for), reason: args.reason };
    let there = Holding::of(&kept.ledger.record(&realm, &component).await?, since);
    // What somebody else wants held for longer is for them to lift.
    let longer = there.filter(|there| there.by != holding.by && there.until > holding.until);
    let holding = if let Some(there) = longer {
        output::say(&format!("{} holds it for longer already: {}", told(&there.by), told(&there.reason)));
        there
    } else {
        holding.set(&*kept.ledger, &realm, &component).await?;
        holding
    };
    let value = json!({"component": component.to_string(), "by": holding.by, "since": holding.since,
                       "until": holding.until, "reason": holding.reason});
    output::result(app.global.output, &value, || {
        format!(
            "automation does nothing with {}; it observes and tells. It acts again {}\n",
            shown(&component),
            table::ahead(holding.until, since)
        )
    });
    Ok(Exit::Done)
}

pub(crate) async fn unhold(app: &App, args: UnholdArgs) -> Result<Exit, Failure> {
    let (realm, component) = place(app, &args.component, args.all).await?;
    let kept = journal::lasting(app).await?;
    let now = SystemClock.now();
    let held = Holding::of(&kept.ledger.record(&realm, &component).await?, now);
    if held.is_some() {
        Holding::lift(&*kept.ledger, &realm, &component, (now, &session::actor())).await?;
    }
    let value = json!({"component": component.to_string(), "wasHeld": held.is_some()});
    output::result(app.global.output, &value, || {
        let what = if held.is_some() { "not held any more" } else { "not held before either" };
        format!("{}: {what}\n", shown(&component))
    });
    Ok(Exit::Done)
}

pub(crate) async fn holds(app: &App) -> Result<Exit, Failure> {
    let kept = journal::known(app).await?;
    let (mut places, mut away) = (vec![everything()?], None);
    let servers = Servers::default();
    for component in app.runbook.iter().flat_map(Runbook::all) {
        let part = servers.part(app, component, &Settings::default()).await?;
        match part.component().realm().await {
            Ok(realm) => places.push((realm, part.id().clone())),
            Err(error) => {
                output::say(&format!("warning: {}: {}", part.id(), told(&error.report().message)));
                away = away.or_else(|| Some(error.with_component(part.id())));
            }
        }
    }
    let knows_none = places.len() == 1;
    let now = SystemClock.now();
    let mut found = Vec::new();
    for (realm, component) in places {
        if let Some(holding) = Holding::of(&kept.ledger.record(&realm, &component).await?, now) {
            found.push((component, holding));
        }
    }
    // Where no component can be asked for, and not all are held, there is no answer.
    if let Some(error) = away.filter(|_| knows_none && found.is_empty()) {
        return Err(Failure::setup(error));
    }
    let value: Vec<_> = found
        .iter()
        .map(|(component, one)| {
            json!({"component": component.to_string(), "by": one.by, "since": one.since, "until": one.until,
                   "reason": one.reason})
        })
        .collect();
    output::result(app.global.output, &json!(value), || {
        if found.is_empty() {
            return "nothing is held\n".into();
        }
        let row = |(component, one): &(ComponentId, Holding)| {
            [shown(component), table::ahead(one.until, now), told(&one.by), told(&one.reason)]
        };
        table::columns(["COMPONENT", "ENDS", "BY", "REASON"], found.iter().map(row))
    });
    if app.runbook.is_none() && !app.global.quiet {
        output::say("without a runbook only what holds all components is listed: name one with -f");
    }
    Ok(Exit::Done)
}
