//! From journal and ledger to the data of a report.

use std::time::Duration;

use super::{FieldDiff, Fired, FollowUp, HeldBack, Holding, Incident, Moment, Moved, Recovery, Tone};
use crate::supervisor::{self, everything};
use crate::trigger::Evidence;
use crate::{
    Cause, ChangeKind, ComponentId, Entry, Event, FieldChange, Journal, Ledger, Move, Outcome, Realm,
    Recovery as Judged, Result, RunId, RunReport, RunState, Step, StepEvent, Timestamp, mask,
};

/// How long before a run, and after it, what was held back belongs to its incident.
const AROUND: Duration = Duration::from_secs(6 * 3600);

/// Makes the report of a run, by hand or automatic, from what journal and ledger hold of it. Values that look secret are
/// masked. `due` is how long after the incident its root cause is to be known.
///
/// # Errors
/// `NotFound` for an unknown run, or as the journal answers. What the ledger does not tell is a note in the report.
pub async fn collect(
    journal: &dyn Journal,
    ledger: &dyn Ledger,
    run: RunId,
    now: Timestamp,
    due: Duration,
) -> Result<Incident> {
    let entries = journal.entries(run).await?;
    let state = RunState::replay(&entries)?;
    let report = RunReport::new(run, &state);
    let mut notes = Vec::new();
    let mut held_back = Vec::new();
    let mut holds = Vec::new();
    let mut places: Vec<(Realm, ComponentId)> = state.plan.moves().into_iter().collect();
    places.push(everything()?);
    let around =
        (state.started_at.saturating_sub(AROUND), report.finished_at.unwrap_or(now).saturating_add(AROUND));
    for (realm, component) in places {
        let record = match ledger.record(&realm, &component).await {
            Ok(record) => record,
            Err(error) => {
                notes
                    .push(format!("what is known of {component} cannot be read: {}", error.report().message));
                continue;
            }
        };
        let held = supervisor::held_back(&record).into_iter();
        held_back.extend(held.filter(|one| around.0 <= one.at && one.at <= around.1).map(|one| HeldBack {
            at: one.at,
            policy: one.policy,
            component: component.to_string(),
            reason: mask::text(&one.why),
        }));
        holds.extend(supervisor::Holding::of(&record, now).map(|hold| Holding {
            component: component.to_string(),
            until: hold.until,
            by: hold.by,
            reason: mask::text(&hold.reason),
        }));
    }
    notes.extend(report.broken_leases.iter().map(|broken| {
        format!("the lease of {}, held by {}, was broken: {}", broken.component, broken.holder, broken.reason)
    }));
    let begun = state.cause.as_ref().and_then(|cause| cause.evidence.since).unwrap_or(state.started_at);
    Ok(Incident {
        run: run.to_string(),
        title: title(&state),
        outcome: format!("{:?}", state.outcome),
        automatic: state.cause.is_some(),
        actor: state.actor.clone(),
        reason: state.reason.as_deref().map(mask::text),
        started_at: state.started_at,
        finished_at: state.finished_at,
        recovery: recovery(&entries),
        trigger: state.cause.as_ref().map(fired),
        timeline: timeline(&state, &entries),
        changes: state.plan.steps().iter().filter_map(|step| moved(step, &report)).collect(),
        held_back,
        follow_ups: follow_ups(&state, run, begun, due, &holds),
        holds,
        notes,
    })
}

fn title(state: &RunState) -> String {
    let moves = Move::all(&state.plan);
    let is_restart = state.plan.steps().iter().all(|step| step.change.kind == ChangeKind::Restart);
    let what = if is_restart { "restarted" } else { "rolled back" };
    match moves.as_slice() {
        [] => "nothing to roll back".into(),
        [one] => format!("{} {what} from {} to {}", one.component, one.from, one.to),
        several => format!("{} components {what}", several.len()),
    }
}

fn fired(cause: &Cause) -> Fired {
    let Cause { policy, component, evidence, decided_at, changed_at } = cause;
    let Evidence { summary, since, value, limit, is_share, instances, points, .. } = evidence;
    Fired {
        policy: policy.clone(),
        component: component.to_string(),
        summary: mask::text(summary),
        since: *since,
        decided_at: *decided_at,
        changed_at: *changed_at,
        value: *value,
        limit: *limit,
        instances: instances.clone(),
        points: points.clone(),
        is_share: *is_share,
    }
}

fn recovery(entries: &[Entry]) -> Option<Recovery> {
    entries.iter().find_map(|entry| match &entry.event {
        Event::Judged(judged) => Some(Recovery {
            verdict: format!("{:?}", judged.recovery),
            at: entry.at,
            message: mask::text(&judged.message),
            points: judged.points.clone(),
        }),
        _ => None,
    })
}

fn moved(step: &Step, report: &RunReport) -> Option<Moved> {
    let told = report.steps.iter().find(|told| told.id == step.id)?;
    let change = &step.change;
    let error = told.error.as_ref().map(|error| match &error.hint {
        Some(hint) => mask::text(&format!("{}; {hint}", error.message)),
        None => mask::text(&error.message),
    });
    Some(Moved {
        step: step.id.to_string(),
        component: change.component.to_string(),
        kind: if change.kind == ChangeKind::Restart { "restart" } else { "rollback" }.into(),
        from: change.from.id.clone(),
        to: change.to.id.clone(),
        from_summary: mask::text(&change.from.summary),
        to_summary: mask::text(&change.to.summary),
        outcome: format!("{:?}", told.outcome),
        attempts: told.attempts,
        message: told.message.as_deref().map(mask::text),
        error,
        diff: change.diff.iter().map(diff).collect(),
        warnings: change.warnings.iter().chain(&told.notes).map(|warning| mask::text(warning)).collect(),
    })
}

fn diff(field: &FieldChange) -> FieldDiff {
    let FieldChange { path, from, to } = mask::field(field);
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    FieldDiff { path, from: from.map(text), to: to.map(text) }
}

fn timeline(state: &RunState, entries: &[Entry]) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut add = |at: Timestamp, tone: Tone, what: String, detail: Option<String>| {
        moments.push(Moment { at, what, detail: detail.as_deref().map(mask::text), tone });
    };
    if let Some(Cause { policy, component, evidence, decided_at, changed_at }) = &state.cause {
        if let Some(at) = changed_at {
            add(*at, Tone::Plain, format!("{component} changed"), None);
        }
        if let Some(at) = evidence.since {
            add(at, Tone::Bad, "the symptom begins".into(), None);
        }
        let what = format!("{policy} fires, and it is decided to act");
        add(*decided_at, Tone::Warning, what, Some(evidence.summary.clone()));
    }
    for Entry { at, event } in entries {
        let at = *at;
        match event {
            Event::RunStarted { actor, reason, .. } => {
                add(at, Tone::Plain, format!("the run begins, by {actor}"), reason.clone());
            }
            Event::RunResumed { actor } => {
                add(at, Tone::Warning, format!("{actor} goes on with the run"), None);
            }
            Event::LeaseBroken(broken) => {
                let what = format!("the lease of {} is broken", broken.component);
                add(at, Tone::Warning, what, Some(broken.reason.clone()));
            }
            Event::RunFinished { outcome, reason } => {
                let tone = match outcome {
                    Outcome::Completed | Outcome::NothingToDo => Tone::Good,
                    Outcome::Compensated | Outcome::Abandoned | Outcome::Unfinished => Tone::Warning,
                    Outcome::Halted | Outcome::Stuck => Tone::Bad,
                };
                add(at, tone, format!("the run ends: {outcome:?}"), reason.clone());
            }
            Event::Judged(judged) => {
                let (tone, what) = match judged.recovery {
                    Judged::Recovered => (Tone::Good, "recovered"),
                    Judged::NotRecovered => (Tone::Bad, "not recovered"),
                    Judged::Unknown => (Tone::Warning, "whether it has recovered is not known"),
                };
                add(at, tone, what.into(), Some(judged.message.clone()));
            }
            Event::Step { step, event } => {
                let (tone, what, detail) = match event {
                    StepEvent::Started { attempt: 0 | 1 } => (Tone::Plain, "is about to change".into(), None),
                    StepEvent::Started { attempt } => {
                        (Tone::Warning, format!("is tried again, attempt {attempt}"), None)
                    }
                    StepEvent::Applied => (Tone::Plain, "is changed, and settles".into(), None),
                    StepEvent::NothingToDo => (Tone::Plain, "was there already".into(), None),
                    StepEvent::Verified { message, .. } => {
                        (Tone::Good, "is verified".into(), Some(message.clone()))
                    }
                    StepEvent::Refused { error } => {
                        (Tone::Bad, "is refused, nothing was written".into(), Some(error.message.clone()))
                    }
                    StepEvent::Failed { error } => (Tone::Bad, "fails".into(), Some(error.message.clone())),
                    StepEvent::Skipped => (Tone::Warning, "is left out".into(), None),
                    StepEvent::CompensationStarted { .. } => {
                        (Tone::Warning, "is about to be taken back".into(), None)
                    }
                    StepEvent::Compensated { message } => {
                        (Tone::Warning, "is taken back".into(), Some(message.clone()))
                    }
                    StepEvent::CompensationFailed { error } => {
                        (Tone::Bad, "cannot be taken back".into(), Some(error.message.clone()))
                    }
                };
                add(at, tone, format!("{step} {what}"), detail);
            }
        }
    }
    moments.sort_by_key(|moment| moment.at);
    moments
}

fn follow_ups(
    state: &RunState,
    run: RunId,
    begun: Timestamp,
    due: Duration,
    holds: &[Holding],
) -> Vec<FollowUp> {
    let mut all = Vec::new();
    let mut add = |what: String, due: Option<Timestamp>| all.push(FollowUp { what, due });
    if matches!(state.outcome, Outcome::Stuck | Outcome::Unfinished | Outcome::Halted | Outcome::Abandoned)
        && state.changed()
    {
        add(format!("Finish or take back what the run left: rollback show {run}"), None);
    }
    let moves = Move::all(&state.plan);
    if !state.changed() {
        // There is nothing to follow up.
    } else if state.plan.steps().iter().any(|step| step.change.kind == ChangeKind::Rollback) {
        add("Find the root cause, and write it down here".into(), Some(begun.saturating_add(due)));
        let left: Vec<_> = moves.iter().map(|one| format!("{} {}", one.component, one.from)).collect();
        add(format!("Open a pull request with the fix of {}", left.join(", ")), None);
        add("Deploy the fix through the normal flow".into(), None);
    } else {
        add("Find out why it had to be restarted".into(), Some(begun.saturating_add(due)));
    }
    for hold in holds {
        let is_all = hold.component.starts_with("supervisor/");
        let what = if is_all { "--all" } else { hold.component.as_str() };
        add(format!("Lift the hold, or let it end: rollback unhold {what}"), Some(hold.until));
    }
    all
}
