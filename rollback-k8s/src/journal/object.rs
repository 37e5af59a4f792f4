//! A run as objects of the cluster, and back.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rollback_core::{
    ComponentId, Entry, Error, ErrorKind, Event, Outcome, Realm, Result, RunId, RunReport, RunState,
    RunSummary, StepReport,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::MANAGER;
use crate::json;

/// The label that an unfinished run has.
pub(super) const UNFINISHED: &str = "rollback.dev/unfinished";
/// Which process made an object.
pub(super) const TOKEN: &str = "rollback.dev/token";
/// Which process may add to a run.
pub(super) const HOLDER: &str = "/status/holder";

/// The most bytes that go into one Secret: the store takes 1 MiB, in base64.
const MOST_BYTES: usize = 700 * 1024;
/// The most Secrets of one run.
const MOST_PARTS: usize = 8;

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Move {
    realm: Realm,
    component: ComponentId,
}

pub(super) fn secret_name(run: RunId, part: usize) -> String {
    format!("rollback-run-{run}-{part}")
}

fn labels(run: RunId) -> Value {
    json!({"app.kubernetes.io/managed-by": MANAGER, "rollback.dev/run": run.to_string()})
}

fn unfit(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Journal, "the run cannot be stored as JSON").with_source(error)
}

pub(super) fn damaged(run: RunId, what: &str) -> Error {
    let message = format!("what the cluster holds of run {run} is not whole: {what}");
    Error::new(ErrorKind::Journal, message)
        .with_hint(format!("a newer version may have written it; else see to its components by hand, then, in the namespace of the journal: kubectl delete rollbackrun {run}"))
}

/// The Secrets that hold the first entry of a run, with the states of its components.
pub(super) fn secrets(run: RunId, namespace: &str, token: &str, entry: &Entry) -> Result<Vec<Value>> {
    let bytes = serde_json::to_vec(entry).map_err(unfit)?;
    let parts = bytes.chunks(MOST_BYTES);
    if parts.len() > MOST_PARTS {
        let message = format!(
            "the states of this plan take {} KiB, and the cluster keeps {} KiB of one run",
            bytes.len() / 1024,
            MOST_PARTS * MOST_BYTES / 1024
        );
        return Err(Error::new(ErrorKind::Refused, message).with_hint("split the plan, or record elsewhere"));
    }
    let secret = |(part, bytes): (usize, &[u8])| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "rollback.dev/run",
            "metadata": {
                "name": secret_name(run, part), "namespace": namespace, "labels": labels(run),
                "annotations": {TOKEN: token},
            },
            "data": {"part": BASE64_STANDARD.encode(bytes)},
        })
    };
    Ok(parts.enumerate().map(secret).collect())
}

/// The operations that make a run the owner of a Secret.
pub(super) fn owned_by(run: &Value) -> Value {
    json!([{"op": "add", "path": "/metadata/ownerReferences", "value": [{
        "apiVersion": "rollback.dev/v1alpha1", "kind": "RollbackRun",
        "name": json::name(run), "uid": json::uid(run),
    }]}])
}

/// The object of a run that begins.
pub(super) fn run(run: RunId, namespace: &str, token: &str, state: &RunState, parts: usize) -> Value {
    let moves: Vec<_> =
        state.plan.moves().into_iter().map(|(realm, component)| Move { realm, component }).collect();
    let report = RunReport::new(run, state);
    let mut labels = labels(run);
    labels[UNFINISHED] = json!("true");
    json!({
        "apiVersion": "rollback.dev/v1alpha1", "kind": "RollbackRun",
        "metadata": {
            "name": run.to_string(), "namespace": namespace, "labels": labels, "annotations": {TOKEN: token},
        },
        "spec": {
            "actor": state.actor, "reason": state.reason, "digest": report.plan,
            "components": moves.iter().map(|of| of.component.to_string()).collect::<Vec<_>>(),
            "moves": moves, "parts": parts,
        },
        "status": {
            "outcome": state.outcome, "startedAt": state.started_at, "finishedAt": null,
            "holder": token, "count": 1, "entries": [],
            "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        },
    })
}

/// A step for people.
fn step(step: &StepReport) -> Value {
    json!({
        "id": step.id, "component": step.component.to_string(), "from": step.from, "to": step.to,
        "outcome": step.outcome, "attempts": step.attempts, "message": step.message,
        "error": step.error.as_ref().map(|error| &error.message),
    })
}

/// The operations that add entries to the object of a run, after which it stands like this. They fail unless the
/// process still holds the run and nothing was added since.
pub(super) fn additions(token: &str, count: usize, entries: &[Entry], state: &RunState) -> Result<Value> {
    let mut operations = vec![
        json!({"op": "test", "path": HOLDER, "value": token}),
        json!({"op": "test", "path": "/status/count", "value": count}),
        json!({"op": "replace", "path": "/status/count", "value": count + entries.len()}),
    ];
    for entry in entries {
        let added = serde_json::to_value(entry).map_err(unfit)?;
        operations.push(json!({"op": "add", "path": "/status/entries/-", "value": added}));
    }
    for (place, planned) in state.plan.steps().iter().enumerate() {
        let is_its = |entry: &Entry| matches!(&entry.event, Event::Step { step, .. } if *step == planned.id);
        if let Some(report) = StepReport::new(state, &planned.id).filter(|_| entries.iter().any(is_its)) {
            let path = format!("/status/steps/{place}");
            operations.push(json!({"op": "replace", "path": path, "value": step(&report)}));
        }
    }
    if entries.iter().any(|entry| matches!(entry.event, Event::RunFinished { .. })) {
        let label = format!("/metadata/labels/{}", json::token(UNFINISHED));
        operations.push(json!({"op": "replace", "path": "/status/outcome", "value": state.outcome}));
        operations.push(json!({"op": "replace", "path": "/status/finishedAt", "value": state.finished_at}));
        operations.push(json!({"op": "remove", "path": label}));
    }
    Ok(Value::Array(operations))
}

pub(super) fn is_held(object: &Value, token: &str) -> bool {
    json::text(object, HOLDER) == Some(token)
}

/// The entries from this number on, counted from 0; the first is not in the object.
pub(super) fn entries_from(object: &Value, number: usize) -> &[Value] {
    json::items(object, "/status/entries").get(number.saturating_sub(1)..).unwrap_or_default()
}

pub(super) fn parts(object: &Value) -> usize {
    json::number(object, "/spec/parts").and_then(|parts| usize::try_from(parts).ok()).unwrap_or_default()
}

/// All entries, the first from its Secrets.
pub(super) fn entries(run: RunId, object: &Value, secrets: &[Value]) -> Result<Vec<Entry>> {
    let mut first = Vec::new();
    for secret in secrets {
        let part = json::text(secret, "/data/part").and_then(|part| BASE64_STANDARD.decode(part).ok());
        first.extend(part.ok_or_else(|| damaged(run, "a Secret does not hold its part"))?);
    }
    let mut entries =
        vec![serde_json::from_slice(&first).map_err(|e| damaged(run, "its beginning").with_source(e))?];
    for added in json::items(object, "/status/entries") {
        let entry = Entry::deserialize(added).map_err(|e| damaged(run, "an event").with_source(e))?;
        entries.push(entry);
    }
    Ok(entries)
}

/// What a run moves.
pub(super) fn moves(object: &Value) -> Result<BTreeSet<(Realm, ComponentId)>> {
    let moves = object.pointer("/spec/moves").unwrap_or(&Value::Null);
    let moves: Vec<Move> = Deserialize::deserialize(moves).map_err(|error| {
        let message = format!("RollbackRun {} does not say what it moves", json::name(object));
        Error::new(ErrorKind::Journal, message).with_source(error)
    })?;
    Ok(moves.into_iter().map(|of| (of.realm, of.component)).collect())
}

pub(super) fn summary(object: &Value) -> Result<RunSummary> {
    let name = json::name(object);
    let unreadable =
        |what: &str| Error::new(ErrorKind::Journal, format!("RollbackRun {name} cannot be read: {what}"));
    let outcome = object.pointer("/status/outcome").unwrap_or(&Value::Null);
    Ok(RunSummary {
        run: name.parse()?,
        outcome: Outcome::deserialize(outcome).map_err(|e| unreadable("its outcome").with_source(e))?,
        started_at: json::time(object, "/status/startedAt").ok_or_else(|| unreadable("its beginning"))?,
        finished_at: json::time(object, "/status/finishedAt"),
        components: moves(object)?
            .into_iter()
            .map(|(_, component)| component)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    })
}
