//! What becomes of each object, by the server's own word.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Disposition, Error, ErrorKind, FieldChange, Fingerprint, Result};
use rollback_k8s::backend::{FieldConflict, applied_part, field_conflicts, overlay};
use rollback_k8s::json;
use serde_json::{Value, json};

use super::content::{Object, at, differences, is_dying, is_never_pruned, merge_patch, print};
use super::key::Key;
use super::pin::PART_OF;
use super::prepare::Aim;
use super::wanted::{
    self, LAST_APPLIED, Marks, Wanted, configuration, covers, is_scaled, keep_replicas, told,
    with_encoded_data,
};
use super::{AT_ONCE, KustomizeEnvironment, Side, together};

/// How often a configuration is tried again without the fields that others own.
const ATTEMPTS: usize = 4;

/// What becomes of one object.
pub(super) struct Outcome {
    pub(super) key: Key,
    /// As it is and as it will be, none where it is absent; nothing at all where it is only told of.
    pub(super) ends: Option<(Option<Object>, Object)>,
    pub(super) diff: Vec<FieldChange>,
    pub(super) notes: Vec<String>,
    /// Whether it is otherwise than its revision has it, in what cannot be brought back.
    pub(super) differs: bool,
    /// Why it cannot be taken back.
    pub(super) irreversible: Option<String>,
}

impl Outcome {
    /// Nothing becomes of it.
    fn told(key: &Key, notes: Vec<String>) -> Self {
        Self { key: key.clone(), ends: None, diff: Vec::new(), notes, differs: false, irreversible: None }
    }

    /// Whether nothing of it is for people.
    pub(super) fn is_bookkeeping(&self) -> bool {
        self.diff.is_empty() && self.ends.as_ref().is_none_or(|(from, _)| from.is_some())
    }
}

/// The server's word on a configuration.
pub(super) enum Preview {
    /// It would become this, without the fields that others keep.
    Becomes {
        result: Box<Value>,
        conflicts: Vec<FieldConflict>,
    },
    /// It cannot be tried beforehand, because of this.
    Unproven(String),
    Refused(Error),
}

/// Everything that outcomes are computed from.
pub(super) struct Context<'a> {
    pub(super) from: Option<&'a Side>,
    pub(super) live: &'a BTreeMap<Key, Value>,
    pub(super) scaled: BTreeSet<(String, String, String)>,
    pub(super) from_marks: Marks,
    pub(super) to_marks: Marks,
}

impl KustomizeEnvironment {
    pub(super) fn is_picked(&self, key: &Key, object: &Value) -> bool {
        let picks = |pick: &super::Pick| pick.picks(key, object);
        (self.options.only.is_empty() || self.options.only.iter().any(picks))
            && !self.options.exclude.iter().any(picks)
    }

    /// What becomes of each object that the target has; those that stay as they are are left out.
    pub(super) async fn outcomes(&self, aim: &Aim, context: &Context<'_>) -> Result<Vec<Outcome>> {
        let mut extra = BTreeMap::new();
        for (key, object) in &aim.recorded {
            if !aim.side.objects.contains_key(key) {
                let spot = object.spot(key);
                extra.insert(key.clone(), Wanted { object: Value::Null, spot, is_served: true });
            }
        }
        let mut due = Vec::new();
        for (key, wanted) in aim.side.objects.iter().chain(&extra) {
            if self.is_picked(key, &wanted.object) {
                let drift = aim.recorded.get(key).and_then(|object| object.drift.as_ref());
                due.push(self.outcome(key, wanted, drift, context));
            }
        }
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for outcome in together(AT_ONCE, due).await {
            match outcome? {
                Ok(outcome) => found.push(outcome),
                Err(refusal) => refused.push(refusal),
            }
        }
        refusal(&refused)?;
        Ok(found)
    }

    async fn outcome(
        &self,
        key: &Key,
        wanted: &Wanted,
        drift: Option<&Value>,
        context: &Context<'_>,
    ) -> Result<std::result::Result<Outcome, (Key, Error)>> {
        let live = context.live.get(key);
        let mut notes = Vec::new();
        if key.is_crd() && live.is_some() && !self.options.include_crds {
            if live.is_some_and(|live| !covers(&wanted.object, live)) {
                notes.push(format!("{key} differs, and stays as it is: --include-crds takes it back, too"));
            }
            return Ok(Ok(Outcome::told(key, notes)));
        }
        let scaled = is_scaled(&context.scaled, key);
        let mut config = configuration(&wanted.object, drift, &[], &context.to_marks);
        if scaled {
            keep_replicas(&mut config, live);
        }
        let (result, conflicts) = match self.preview(key, wanted, config.clone(), live).await? {
            Preview::Refused(error) => {
                return self.replacement(key, wanted, drift, context, error).await;
            }
            Preview::Unproven(why) => {
                notes.push(format!("{key} is not proven before it is written: {why}"));
                // As far as it can be told from here.
                let result = live.filter(|live| !is_dying(live)).map(|live| {
                    let mut result = live.clone();
                    overlay(&mut result, &config);
                    result
                });
                (result, Vec::new())
            }
            Preview::Becomes { result, conflicts } => (Some(*result), conflicts),
        };
        let mut irreversible = None;
        if !conflicts.is_empty() {
            notes.push(told(key, &conflicts, self.options.force_conflicts));
            if self.options.force_conflicts {
                irreversible = Some(format!("{key}: fields that others own are taken over"));
            }
        }
        // Ports that no manifest names are the server's to choose.
        let names_ports =
            json::items(&config, "/spec/ports").iter().any(|port| port.get("nodePort").is_some());
        let mut to = Object {
            assigned: key.kind == "Service" && !names_ports,
            drift: drift.cloned(),
            kept: conflicts.into_iter().map(|conflict| conflict.field).collect(),
            ..Object::at(&wanted.spot)
        };
        if self.options.force_conflicts {
            to.kept.clear();
        }
        let (Some(live), Some(result)) = (live.filter(|live| !is_dying(live)), result) else {
            if live.is_some_and(is_dying) {
                notes.push(format!("{key} is being deleted: it is waited for, and created again"));
            }
            let diff = vec![FieldChange { path: path_of(key), from: None, to: Some(json!("present")) }];
            // One that its own revision has is missing.
            let differs = context.from.is_some_and(|side| side.objects.contains_key(key));
            let ends = Some((None, to));
            return Ok(Ok(Outcome { key: key.clone(), ends, diff, notes, differs, irreversible }));
        };
        let mut fields = differences(live, &result);
        if scaled {
            fields.retain(|field| field.path != "/spec/replicas");
        }
        // What neither the manifest says nor anybody applied is the server's, which may choose another value.
        let part = applied_part(live);
        let is_ours = |field: &FieldChange| {
            at(&config, &field.path).is_some()
                || (at(&part, &field.path).is_some() && at(&result, &field.path).is_none())
        };
        if !fields.iter().any(is_ours) {
            return Ok(Ok(Outcome::told(key, notes)));
        }
        let uid = json::uid(live);
        let assigned = to.assigned;
        let print_of = |object: &Value, path: &str| at(object, path).map(|value| print(uid, value, assigned));
        to.uid = Some(Fingerprint::of(&json!(uid)));
        to.values = fields
            .iter()
            .filter(|field| is_ours(field))
            .map(|field| (field.path.clone(), vec![print_of(&result, &field.path)]))
            .collect();
        // What others keep they keep on the way back, too.
        let mut from = Object { drift: None, ..to.clone() };
        for (path, values) in &mut from.values {
            *values = vec![print_of(live, path)];
        }
        let differs = self.find_drift(key, wanted, live, scaled, context, (&mut from, &mut notes)).await?;
        for field in fields.iter().filter(|field| field.path == "/spec/replicas") {
            if let (Some(from), Some(to)) = (&field.from, &field.to)
                && from.as_i64() > to.as_i64()
            {
                notes.push(format!("{key} goes down from {from} replicas to {to}"));
            }
        }
        let diff = fields.into_iter().filter_map(|field| shown(key, field)).collect();
        Ok(Ok(Outcome { key: key.clone(), ends: Some((Some(from), to)), diff, notes, differs, irreversible }))
    }

    /// An object whose change the server refuses, or the one that is created in its place.
    async fn replacement(
        &self,
        key: &Key,
        wanted: &Wanted,
        drift: Option<&Value>,
        context: &Context<'_>,
        error: Error,
    ) -> Result<std::result::Result<Outcome, (Key, Error)>> {
        let live = context.live.get(key);
        let may_be = is_immutable(&error.to_string())
            && !is_never_pruned(key)
            && self.options.replace.iter().any(|pick| pick.picks(key, &wanted.object));
        let Some(old) = live.filter(|_| may_be) else { return Ok(Err((key.clone(), error))) };
        // The new one must be acceptable before the old one goes.
        let mut other = configuration(&wanted.object, drift, &[], &context.to_marks);
        let name = format!("{}-try", key.name.get(..40).unwrap_or(&key.name).trim_end_matches(['-', '.']));
        other["metadata"]["name"] = json!(name);
        let place = wanted.spot.path(&Key { name, ..key.clone() });
        if let Err(error) = self.cluster.dry_apply((&place, &other), None, false).await {
            return Ok(Err((key.clone(), error)));
        }
        Ok(Ok(replaced(key, wanted, old, drift)))
    }

    /// What somebody else made of an object since its revision was applied. Answers whether that cannot be brought back.
    async fn find_drift(
        &self,
        key: &Key,
        wanted: &Wanted,
        live: &Value,
        scaled: bool,
        context: &Context<'_>,
        (from, notes): (&mut Object, &mut Vec<String>),
    ) -> Result<bool> {
        let rendered = context.from.and_then(|side| side.objects.get(key));
        if key.is_secret() {
            let rendered = rendered.map(|rendered| with_encoded_data(&rendered.object));
            if rendered.as_ref().is_some_and(|rendered| covers(rendered, live)) {
                return Ok(false);
            }
            notes.push(format!("{key} is not what its revision holds: going back cannot bring that back"));
            let uid = json::uid(live);
            for (path, values) in &mut from.values {
                // After going back it is as rendered.
                values.push(
                    rendered
                        .as_ref()
                        .and_then(|object| at(object, path))
                        .map(|value| print(uid, value, false)),
                );
            }
            return Ok(true);
        }
        let null = Value::Null;
        let object = rendered.map_or(&null, |rendered| &rendered.object);
        let mut config = configuration(object, None, &[], &context.from_marks);
        let mut part = applied_part(live);
        for side in [&mut config, &mut part] {
            if let Some(Value::Object(annotations)) = side.pointer_mut("/metadata/annotations") {
                annotations.remove(LAST_APPLIED);
                if annotations.is_empty() {
                    side["metadata"].as_object_mut().and_then(|metadata| metadata.remove("annotations"));
                }
            }
            if let Some(Value::Object(spec)) = side.get_mut("spec").filter(|_| scaled) {
                spec.remove("replicas");
            }
        }
        let Some(patch) = merge_patch(&config, &part) else { return Ok(false) };
        if rendered.is_some() {
            // The server may only write it in another way.
            let place = wanted.spot.path(key);
            if scaled {
                keep_replicas(&mut config, Some(live));
            }
            let applied = self.cluster.dry_apply((&place, &config), Some(live), true).await;
            if applied.is_ok_and(|applied| differences(live, &applied).is_empty()) {
                return Ok(false);
            }
            notes.push(format!("{key} was changed by somebody since its revision was applied"));
        }
        from.drift = Some(patch);
        Ok(false)
    }

    /// What the server would make of a configuration.
    pub(super) async fn preview(
        &self,
        key: &Key,
        wanted: &Wanted,
        mut config: Value,
        live: Option<&Value>,
    ) -> Result<Preview> {
        if !wanted.is_served {
            return Ok(Preview::Unproven("the cluster does not serve its kind yet".into()));
        }
        if live.is_some_and(is_dying) {
            return Ok(Preview::Unproven("it is being deleted".into()));
        }
        let path = wanted.spot.path(key);
        let mut conflicts: Vec<FieldConflict> = Vec::new();
        for _ in 0..ATTEMPTS {
            let error = match self.cluster.dry_apply((&path, &config), live, false).await {
                Ok(result) => return Ok(Preview::Becomes { result: Box::new(result), conflicts }),
                Err(error) => error,
            };
            let mut found = field_conflicts(&error);
            if !found.is_empty() {
                if self.options.force_conflicts {
                    let forced = self.cluster.dry_apply((&path, &config), live, true).await;
                    match forced {
                        Ok(result) => {
                            return Ok(Preview::Becomes { result: Box::new(result), conflicts: found });
                        }
                        Err(error) => return refused_or_failed(error),
                    }
                }
                found.retain(|conflict| wanted::remove_field(&mut config, &conflict.field));
                if found.is_empty() {
                    return Ok(Preview::Refused(error));
                }
                conflicts.extend(found);
                continue;
            }
            if key.is_secret() && error.kind() == ErrorKind::Refused {
                let message = "its words are not repeated, since they may hold data";
                return Ok(Preview::Refused(Error::new(ErrorKind::Refused, message)));
            }
            return refused_or_failed(error);
        }
        let message = "others go on taking fields of it";
        Ok(Preview::Refused(Error::new(ErrorKind::Conflict, message)))
    }
}

/// An object that gives way to another of its name.
fn replaced(key: &Key, wanted: &Wanted, old: &Value, drift: Option<&Value>) -> Outcome {
    let uid = Some(Fingerprint::of(&json!(json::uid(old))));
    let to = Object { replaces: uid.clone(), drift: drift.cloned(), ..Object::at(&wanted.spot) };
    let from = Object { uid, ..Object::at(&wanted.spot) };
    let diff =
        vec![FieldChange { path: path_of(key), from: Some(json!("present")), to: Some(json!("replaced")) }];
    let notes = vec![format!(
        "{key} is deleted and created again, and there is no way back to the one that is there"
    )];
    let irreversible = Some(format!("{key} is replaced by another object"));
    Outcome { key: key.clone(), ends: Some((Some(from), to)), diff, notes, differs: false, irreversible }
}

/// What the server says, without the whole object that it repeats.
fn brief(message: &str) -> String {
    const VALUE: &str = "Invalid value: ";
    match (message.find(VALUE), message.rfind("}: ")) {
        (Some(begin), Some(end)) if begin < end => {
            let head = message.get(..begin + VALUE.len()).unwrap_or_default();
            format!("{head}…: {}", message.get(end + 3..).unwrap_or_default())
        }
        _ => message.to_owned(),
    }
}

/// Whether the server refuses a field because it cannot be changed.
fn is_immutable(message: &str) -> bool {
    ["immutable", "updates to statefulset spec", "may not change"].iter().any(|part| message.contains(part))
}

/// How a difference names its object.
pub(super) fn path_of(key: &Key) -> String {
    let namespace = key.namespace.as_ref().map(|namespace| format!("/{}", json::token(namespace)));
    format!("/{}{}/{}", key.kind, namespace.unwrap_or_default(), json::token(&key.name))
}

/// A difference as it is shown: data of Secrets never, and our own marks neither.
fn shown(key: &Key, field: FieldChange) -> Option<FieldChange> {
    let label = format!("/metadata/labels/{}", json::token(PART_OF));
    let FieldChange { path, mut from, mut to } = field;
    if path == label {
        return None;
    }
    if path == "/metadata/labels" {
        for side in [&mut from, &mut to] {
            if let Some(Value::Object(labels)) = side {
                labels.remove(PART_OF);
                if labels.is_empty() {
                    *side = None;
                }
            }
        }
        if from == to {
            return None;
        }
    }
    if key.is_secret() {
        for side in [&mut from, &mut to] {
            *side = side.take().map(|_| json!("(secret)"));
        }
    }
    Some(FieldChange { path: format!("{}{path}", path_of(key)), from, to })
}

/// Whether the server refused the object, or could not be asked.
fn refused_or_failed(error: Error) -> Result<Preview> {
    let status = error.context().find(|(key, _)| *key == "status").map(|(_, value)| value.to_owned());
    let message = error.report().message;
    match status.as_deref() {
        Some("400" | "500") if message.contains("dry run") || message.contains("dryRun") => {
            Ok(Preview::Unproven("a webhook does not take dry runs".into()))
        }
        Some("404") => Ok(Preview::Unproven("its namespace is not there yet".into())),
        // Older servers say with 500 that they cannot read it.
        Some("500") if message.contains("failed to create typed patch object") => {
            Ok(Preview::Refused(Error::new(ErrorKind::Refused, message)))
        }
        Some("400" | "403" | "413" | "422") => Ok(Preview::Refused(error)),
        Some("409") if error.disposition() == Disposition::Permanent => Ok(Preview::Refused(error)),
        _ => Err(error),
    }
}

/// What the server refuses is told all at once.
pub(super) fn refusal(refused: &[(Key, Error)]) -> Result<()> {
    let Some((_, first)) = refused.first() else { return Ok(()) };
    let is_alike = refused.iter().all(|(_, error)| error.kind() == first.kind());
    let kind = if is_alike { first.kind() } else { ErrorKind::Refused };
    let hint = first.hint().map(str::to_owned);
    let told: Vec<_> =
        refused.iter().map(|(key, error)| format!("{key}: {}", brief(&error.to_string()))).collect();
    let is_immutable = refused.iter().any(|(_, error)| is_immutable(&error.to_string()));
    let message = format!("the server refuses {} of the objects: {}", refused.len(), told.join("; "));
    let error = Error::new(kind, message);
    Err(if is_immutable {
        error.with_hint("a field that cannot be changed takes another object: have it deleted and created again with --replace KIND/NAME, or leave it out with --exclude KIND/NAME")
    } else {
        error.with_hint(
            hint.unwrap_or_else(|| {
                "choose another revision, or leave it out with --exclude KIND/NAME".into()
            }),
        )
    })
}
