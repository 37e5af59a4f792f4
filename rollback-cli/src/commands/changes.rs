//! `rollback changes`: where to look first.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::future::join_all;
use rollback_core::supervisor::{Policy, memory_of};
use rollback_core::trigger::Verdict;
use rollback_core::{
    Clock as _, ComponentId, Fingerprint, Journal, Ledger, Revision, Rollbackable, RunState, SystemClock,
    Timestamp, join,
};
use serde_json::{Value, json};

use crate::args::ChangesArgs;
use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, table, told};
use crate::parts::{Part, Servers, Settings, is_of_setup};
use crate::runbook::Named;
use crate::session::App;

/// That something else came in place.
struct Change {
    at: Timestamp,
    component: ComponentId,
    from: Option<String>,
    to: String,
    fingerprint: Fingerprint,
    summary: String,
    cause: Option<String>,
    by: Option<String>,
}

pub(crate) async fn run(app: &App, args: ChangesArgs) -> Result<Exit, Failure> {
    let runbook = app.runbook("there is no runbook that says whose changes to list")?;
    let kept = journal::known(app).await?;
    let servers = Servers::default();
    let settings = Settings::knowing(&kept.ledger);
    let mut named = Named::new();
    for component in runbook.all() {
        named.insert(component.written.clone(), servers.part(app, component, &settings).await?);
    }
    let parts: Vec<_> = named.values().cloned().collect();
    let now = SystemClock.now();
    let since = now.saturating_sub(args.since);
    let runs = rollbacks(&*kept.journal, since).await;
    let looks = parts.iter().map(async |part| {
        let component = part.component();
        let mut found = changes(&*component, &*kept.ledger, since).await;
        if let Ok(newest) = &mut found
            && let Some(newest) = newest.last_mut()
        {
            newest.by = writer(part, newest.at).await;
        }
        (part.id().clone(), found)
    });
    let (mut all, mut unseen) = (Vec::new(), Vec::new());
    let looks = join_all(looks).await;
    // Where nothing can be reached there is no answer either.
    let all_away = looks.iter().all(|(_, found)| found.as_ref().is_err_and(is_of_setup));
    for (component, found) in looks {
        match found {
            Ok(found) => all.extend(found),
            Err(error) if all_away => return Err(Failure::setup(error.with_component(&component))),
            Err(error) => unseen.push(format!("{component}: {}", error.report().message)),
        }
    }
    for change in &mut all {
        let is_its = |run: &&Rollback| {
            run.component == change.component
                && run.to == change.fingerprint
                && change.at >= run.from.saturating_sub(AROUND)
                && change.at <= run.until.saturating_add(AROUND)
        };
        if let Some(run) = runs.iter().find(is_its) {
            change.by = Some(run.actor.clone());
        }
    }
    all.sort_by_key(|change| std::cmp::Reverse(change.at));
    let mut policies = Vec::new();
    for (_, policy) in runbook.each_policy(&named) {
        match policy {
            Ok(policy) => policies.push(policy),
            Err(error) => unseen.push(error.report().message),
        }
    }
    let (firing, untold) = firing(&policies, &*kept.ledger, &named, now).await;
    unseen.extend(untold);
    let value = json!({
        "since": since,
        "changes": all.iter().map(Change::json).collect::<Vec<_>>(),
        "firing": firing.iter().map(|(policy, component, what)| {
            json!({"policy": policy, "component": component.to_string(), "summary": output::mask::text(what)})
        }).collect::<Vec<_>>(),
        "unseen": unseen,
    });
    output::result(app.global.output, &value, || {
        let mut text = if all.is_empty() {
            format!("nothing has changed since {}, as far as is known\n", table::ago(since, now))
        } else {
            let row = |change: &Change| {
                let from = change.from.clone().unwrap_or_else(|| "?".into());
                let shown = |text: &Option<String>| text.as_deref().map(told).unwrap_or_default();
                [
                    table::ago(change.at, now),
                    change.component.to_string(),
                    format!("{from} → {}", change.to),
                    told(&change.summary),
                    shown(&change.by),
                    shown(&change.cause),
                ]
            };
            let header = ["WHEN", "COMPONENT", "REVISION", "RUNS", "BY", "CHANGE-CAUSE"];
            table::columns(header, all.iter().map(row))
        };
        for (policy, component, what) in &firing {
            let _ = writeln!(text, "fires: {policy} of {component}: {}", told(what));
        }
        text
    });
    for text in &unseen {
        output::say(&format!("warning: not seen: {}", told(text)));
    }
    Ok(Exit::Done)
}

impl Change {
    fn json(&self) -> Value {
        json!({
            "at": self.at, "component": self.component.to_string(), "from": self.from, "to": self.to,
            "summary": output::mask::text(&self.summary), "cause": self.cause.as_deref().map(output::mask::text),
            "by": self.by,
        })
    }
}

/// What came in place of a component since then: as the system says, and as was seen.
async fn changes(
    component: &dyn Rollbackable,
    ledger: &dyn Ledger,
    since: Timestamp,
) -> rollback_core::Result<Vec<Change>> {
    let history = component.history().await?;
    let record = ledger.record(&component.realm().await?, component.id()).await?;
    let by_system = history.iter().find(|revision| revision.current).and_then(|current| current.since);
    let history = join(history, &record);
    let named = |print: &Fingerprint| history.iter().find(|revision| revision.fingerprint == *print);
    let name = |print: &Fingerprint| {
        named(print)
            .map(|revision| revision.id.clone())
            .or_else(|| record.known(print).map(|known| known.id.clone()))
    };
    let make = |at: Timestamp, from: Option<String>, revision: &Revision| Change {
        at,
        component: component.id().clone(),
        from,
        to: revision.id.clone(),
        fingerprint: revision.fingerprint.clone(),
        summary: revision.summary.clone(),
        cause: revision.cause.clone(),
        by: None,
    };
    let mut found: BTreeMap<Timestamp, Change> = BTreeMap::new();
    let in_place = record.in_place();
    for (index, (at, print)) in in_place.iter().enumerate() {
        // The first that was ever seen is no change.
        let Some((_, before)) = index.checked_sub(1).and_then(|before| in_place.get(before)) else {
            continue;
        };
        if *at >= since
            && let Some(revision) = named(print)
        {
            found.insert(*at, make(*at, name(before), revision));
        }
    }
    let current = history.iter().find(|revision| revision.current);
    if let (Some(at), Some(current)) = (by_system.filter(|at| *at >= since), current)
        && !found.values().any(|change| change.to == current.id)
        && !is_restart_alone(&history, current)
    {
        let before = history.iter().skip_while(|revision| !revision.current).nth(1);
        found.insert(at, make(at, before.map(|before| before.id.clone()), current));
    }
    Ok(found.into_values().collect())
}

/// The program that wrote a component at this time, where its system tells: what was written since hides it.
async fn writer(part: &Part, at: Timestamp) -> Option<String> {
    let written = match part {
        Part::Workload(workload) => workload.last_writer().await,
        Part::Service(service) => service.last_writer().await,
        Part::Model(_) | Part::Environment(_) => return None,
    };
    let (when, program) = written.ok().flatten()?;
    let is_it = when.saturating_add(AROUND) >= at && when <= at.saturating_add(AROUND);
    is_it.then_some(program)
}

/// Whether the current revision is the one before, restarted.
fn is_restart_alone(history: &[Revision], current: &Revision) -> bool {
    let before = history.iter().skip_while(|revision| !revision.current).nth(1);
    before.is_some_and(|before| before.fingerprint == current.fingerprint)
}

/// That a run put something in place.
struct Rollback {
    component: ComponentId,
    to: Fingerprint,
    from: Timestamp,
    until: Timestamp,
    actor: String,
}

/// How far the time at which a change was seen may be from the run that made it.
const AROUND: Duration = Duration::from_secs(90);

/// Which runs put what in place, and whose they were.
async fn rollbacks(journal: &dyn Journal, since: Timestamp) -> Vec<Rollback> {
    let mut found = Vec::new();
    let runs = journal.runs().await.unwrap_or_default();
    for run in runs.iter().filter(|run| run.finished_at.is_none_or(|end| end >= since)) {
        let Ok(entries) = journal.entries(run.run).await else { continue };
        let Ok(state) = RunState::replay(&entries) else { continue };
        let changed =
            state.plan.steps().iter().filter(|step| state.step(&step.id).is_some_and(|s| s.changed));
        found.extend(changed.map(|step| Rollback {
            component: step.change.component.clone(),
            to: step.change.to.fingerprint.clone(),
            from: run.started_at,
            until: run.finished_at.unwrap_or_else(|| SystemClock.now()),
            actor: format!("{} (run {})", state.actor, run.run),
        }));
    }
    found
}

/// What fires right now, as the supervisor would see it: by what it remembers; and what cannot be told.
async fn firing(
    policies: &[Policy],
    ledger: &dyn Ledger,
    named: &Named,
    now: Timestamp,
) -> (Vec<(String, ComponentId, String)>, Vec<String>) {
    let looks = policies.iter().map(async |policy| {
        let mut memory = memory_of(ledger, &policy.name).await.unwrap_or_default();
        super::check::tell_changes(policy, named, &mut memory).await;
        let seen = policy.trigger.evaluate(now, &mut memory).await;
        (policy.name.clone(), seen)
    });
    let (mut found, mut unseen) = (Vec::new(), Vec::new());
    for (policy, seen) in join_all(looks).await {
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) => {
                unseen.push(format!("policy {policy}: {}", error.report().message));
                continue;
            }
        };
        for (component, verdict) in seen.verdicts {
            match verdict {
                Verdict::Firing(evidence) => found.push((policy.clone(), component, evidence.summary)),
                Verdict::Unknown(why) => unseen.push(format!("policy {policy} of {component}: {why}")),
                Verdict::Hold => {}
            }
        }
        let unproven = seen.unproven.into_iter();
        unseen.extend(unproven.map(|(component, why)| format!("policy {policy} of {component}: {why}")));
    }
    (found, unseen)
}
