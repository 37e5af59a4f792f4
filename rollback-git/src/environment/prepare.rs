//! What would be done: from what the current revision renders, what the target renders, and what is live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rollback_core::{
    Change, ChangeKind, ComponentId, Disposition, Error, ErrorKind, FieldChange, Fingerprint, Passage,
    Result, Snapshot, Target,
};
use rollback_k8s::backend::{FieldConflict, applied_part, field_conflicts, helm_release, needs};
use rollback_k8s::json;
use serde_json::{Value, json};

use super::content::{
    Content, Leftovers, Object, at, differences, is_dying, is_never_pruned, merge_patch, print,
};
use super::key::Key;
use super::pin::{PART_OF, Pin};
use super::standing::{Standing, short};
use super::wanted::{
    self, LAST_APPLIED, Marks, Spot, Wanted, configuration, covers, is_scaled, keep_replicas, told,
    with_encoded_data,
};
use super::{AT_ONCE, KustomizeEnvironment, Side, together};

/// How often a configuration is tried again without the fields that others own.
const ATTEMPTS: usize = 4;

/// The state to be reached.
struct Aim {
    side: Side,
    /// What is different there from the rendering, as a recorded state has it.
    recorded: BTreeMap<Key, Object>,
    /// The pin of a recorded state.
    pin: Option<Option<Pin>>,
}

/// What becomes of one object.
struct Outcome {
    key: Key,
    /// As it is and as it will be, none where it is absent; nothing at all where it is only told of.
    ends: Option<(Option<Object>, Object)>,
    diff: Vec<FieldChange>,
    notes: Vec<String>,
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
struct Context<'a> {
    from: Option<&'a Side>,
    live: &'a BTreeMap<Key, Value>,
    scaled: BTreeSet<(String, String, String)>,
    from_marks: Marks,
    to_marks: Marks,
}

impl KustomizeEnvironment {
    pub(super) async fn plan(&self, target: &Target) -> Result<Vec<Change>> {
        let (aim, standing) = self.aim(target).await?;
        let from = standing.side.as_deref();
        let nothing = BTreeMap::new();
        let before = from.map_or(&nothing, |side| &side.objects);
        let spots: BTreeMap<&Key, &Spot> =
            before.iter().chain(&aim.side.objects).map(|(key, wanted)| (key, &wanted.spot)).collect();
        let recorded: Vec<(Key, Spot)> =
            aim.recorded.iter().map(|(key, object)| (key.clone(), object.spot(key))).collect();
        let spots = spots.into_iter().chain(recorded.iter().map(|(key, spot)| (key, spot)));
        let live = self.live(spots.collect()).await?;
        let mut warnings = standing.notes.clone();
        warnings.extend(aim.side.rendering.warnings.iter().cloned());
        for object in live.values() {
            self.options.gitops.judge(object, &mut warnings)?;
        }
        let picked: Vec<String> = self
            .options
            .only
            .iter()
            .map(ToString::to_string)
            .chain(self.options.exclude.iter().map(|pick| format!("not {pick}")))
            .collect();
        let pin = match (&aim.pin, picked.is_empty()) {
            (_, false) => standing.pin.clone(),
            (Some(pin), true) => pin.clone(),
            (None, true) => Some(Pin {
                revision: aim.side.name.clone(),
                commit: aim.side.commit.id.clone(),
                path: aim.side.path.to_string_lossy().into_owned(),
                repository: self.repository.identity()?,
            }),
        };
        let last_applied = live.values().any(|object| json::annotation(object, LAST_APPLIED).is_some());
        let marks =
            |pin: &Option<Pin>| Marks { part_of: pin.as_ref().map(|_| standing.parent.id()), last_applied };
        let namespaces: BTreeSet<String> =
            aim.side.objects.keys().filter_map(|key| key.namespace.clone()).collect();
        let context = Context {
            from,
            live: &live,
            scaled: wanted::scaled(&self.cluster, &aim.side.objects, &namespaces).await?,
            from_marks: marks(&standing.pin),
            to_marks: marks(&pin),
        };
        let outcomes = self.outcomes(&aim, &context).await?;
        let state = |side: &Side, pin: &Option<Pin>| Content {
            revision: side.name.clone(),
            commit: side.commit.id.clone(),
            path: side.path.to_string_lossy().into_owned(),
            files: side.files.clone(),
            renderer: side.rendering.renderer.clone(),
            digest: side.rendering.digest(),
            home: Some(standing.parent.namespace().to_owned()),
            pin: pin.clone(),
            picked: Vec::new(),
            last_applied,
            forced: self.options.force_conflicts,
            unpruned: false,
            leftovers: None,
            objects: BTreeMap::new(),
        };
        let mut to = state(&aim.side, &pin);
        to.picked.clone_from(&picked);
        let mut begin = from.map_or_else(|| unknown(&to, &standing), |side| state(side, &standing.pin));
        let is_bookkeeping = |outcome: &Outcome| {
            outcome.diff.is_empty() && outcome.ends.as_ref().is_none_or(|(from, _)| from.is_some())
        };
        let (doomed, mut stays) = self.pruned(&aim.side, &standing, &live, picked.is_empty()).await?;
        let is_same = from.is_some_and(|side| {
            side.commit.id == aim.side.commit.id && side.path == aim.side.path && side.files == aim.side.files
        });
        let same_pin = standing.pin == pin || standing.pin.is_none();
        if is_same && same_pin && doomed.is_empty() && outcomes.iter().all(is_bookkeeping) {
            warnings.extend(outcomes.into_iter().flat_map(|outcome| outcome.notes));
            begin.last_applied = to.last_applied;
            return Ok(vec![self.change(&begin, &begin, Vec::new(), unique(warnings)).await?]);
        }
        warnings.append(&mut stays);
        if !picked.is_empty() {
            let says = standing.pin.as_ref().map_or("there is none", |pin| pin.revision.as_str());
            warnings.push(format!("only a part is returned, so the pin stays as it is: {says}"));
        }
        let mut diff = Vec::new();
        let (mut changed, mut created) = (0, 0);
        for outcome in outcomes {
            warnings.extend(outcome.notes);
            let Some((from, reached)) = outcome.ends else { continue };
            match (&from, outcome.diff.is_empty()) {
                (None, _) => created += 1,
                (Some(_), false) => changed += 1,
                (Some(_), true) => {}
            }
            diff.extend(outcome.diff);
            begin.objects.insert(outcome.key.clone(), from);
            to.objects.insert(outcome.key, Some(reached));
        }
        let same = aim.side.objects.len().saturating_sub(changed + created);
        warnings.push(format!(
            "of {} objects {changed} change, {created} are created and {same} stay as they are; {} are deleted",
            aim.side.objects.len(),
            doomed.len()
        ));
        self.changes(begin, to, diff, doomed, unique(warnings)).await
    }

    /// One change, or, where something is pruned, two: nothing is deleted before the rest has settled.
    async fn changes(
        &self,
        begin: Content,
        mut to: Content,
        diff: Vec<FieldChange>,
        doomed: BTreeMap<Key, Object>,
        warnings: Vec<String>,
    ) -> Result<Vec<Change>> {
        if doomed.is_empty() {
            return Ok(vec![self.change(&begin, &to, diff, warnings).await?]);
        }
        to.unpruned = true;
        let mut between = to.clone();
        // By its differences the state is known.
        between.objects.retain(|_, object| object.as_ref().is_some_and(|object| object.drift.is_some()));
        let mut end = Content { unpruned: false, ..between.clone() };
        let deleted = doomed.keys().map(|key| FieldChange {
            path: path_of(key),
            from: Some(json!("present")),
            to: None,
        });
        let deleted = deleted.collect();
        let absent = doomed.keys().map(|key| (key.clone(), None)).collect();
        let leftovers = |objects| Leftovers {
            commit: begin.commit.clone(),
            path: begin.path.clone(),
            digest: begin.digest.clone(),
            objects,
        };
        end.leftovers = Some(leftovers(absent));
        between.leftovers =
            Some(leftovers(doomed.into_iter().map(|(key, object)| (key, Some(object))).collect()));
        let mut first = self.change(&begin, &to, diff, warnings).await?;
        first.passage = Passage { to_between: true, ..Passage::default() };
        let mut last = self.change(&between, &end, deleted, Vec::new()).await?;
        last.passage = Passage { from_between: true, ..Passage::default() };
        Ok(vec![first, last])
    }

    async fn change(
        &self,
        from: &Content,
        to: &Content,
        diff: Vec<FieldChange>,
        warnings: Vec<String>,
    ) -> Result<Change> {
        let workload = |key: &Key| {
            let kind = match key.kind.as_str() {
                "Deployment" | "StatefulSet" | "DaemonSet" | "InferenceService" => {
                    key.kind.to_ascii_lowercase()
                }
                _ => return None,
            };
            ComponentId::new(&kind, key.namespace.as_deref(), &key.name).ok()
        };
        let is_replaced =
            |object: &Option<Object>| object.as_ref().is_some_and(|object| object.replaces.is_some());
        let replaced = to.objects.iter().find(|(_, object)| is_replaced(object)).map(|(key, _)| key);
        Ok(Change {
            component: self.id.clone(),
            realm: rollback_core::Rollbackable::realm(self).await?,
            kind: ChangeKind::Rollback,
            from: from.snapshot(),
            to: to.snapshot(),
            identity: None,
            diff,
            warnings,
            touches: to.objects.keys().filter_map(workload).collect(),
            irreversible: replaced.map(|key| format!("{key} is replaced by another object")),
            passage: Passage::default(),
            hint: None,
        })
    }

    /// The state that a target means, and what runs.
    async fn aim(&self, target: &Target) -> Result<(Aim, Standing)> {
        let path = self.options.to_path.as_deref().unwrap_or(&self.path);
        let plain = |side| Aim { side, recorded: BTreeMap::new(), pin: None };
        match target {
            Target::Previous => {
                let standing = self.standing(None).await?;
                let Some(current) = standing.side.clone() else {
                    let message = "what runs matches no tag, so that none is the previous one";
                    return Err(Error::new(ErrorKind::NotFound, message)
                        .with_hint("name a revision with --to-revision"));
                };
                if self.options.to_path.is_some() {
                    let side = self.side(&current.name, &current.commit, path, false).await?;
                    return Ok((plain(side), standing));
                }
                let place = standing.tags.iter().position(|tag| tag.commit.id == current.commit.id);
                let older = standing.tags.iter().skip(place.map_or(0, |place| place + 1));
                let older =
                    older.filter(|tag| place.is_some() || tag.commit.committed < current.commit.committed);
                for tag in older {
                    if self.repository.state(&tag.commit, &self.path).await? != current.files {
                        let side = self.side(&tag.name, &tag.commit, &self.path, false).await?;
                        return Ok((plain(side), standing));
                    }
                }
                let message = format!("there is no older revision than {} to return to", current.name);
                Err(Error::new(ErrorKind::NotFound, message).with_hint("name a revision with --to-revision"))
            }
            Target::Revision(revision) => {
                let commit = self.repository.resolve(revision).await?;
                let is_id = commit.id.starts_with(revision.as_str());
                let name = if is_id { short(&commit.id) } else { revision };
                let side = self.side(name, &commit, path, false).await?;
                let standing = self.standing(Some(&side)).await?;
                Ok((plain(side), standing))
            }
            Target::Snapshot(snapshot) => self.recorded(snapshot).await,
            _ => Err(Error::new(ErrorKind::Unsupported, "an environment has no such target")),
        }
    }

    async fn recorded(&self, snapshot: &Snapshot) -> Result<(Aim, Standing)> {
        let content = Content::of(snapshot)?;
        let commit = self.repository.resolve(&content.commit).await?;
        let side = self.side(&content.revision, &commit, Path::new(&content.path), false).await?;
        content.check(&side)?;
        let standing = self.standing(Some(&side)).await?;
        let recorded = content.objects.into_iter();
        let recorded = recorded.filter_map(|(key, object)| Some((key, object?)));
        let recorded = recorded.filter(|(_, object)| object.drift.is_some()).collect();
        Ok((Aim { side, recorded, pin: Some(content.pin) }, standing))
    }

    fn is_picked(&self, key: &Key, object: &Value) -> bool {
        let picks = |pick: &super::Pick| pick.picks(key, object);
        (self.options.only.is_empty() || self.options.only.iter().any(picks))
            && !self.options.exclude.iter().any(picks)
    }

    /// What becomes of each object that the target has; those that stay as they are are left out.
    async fn outcomes(&self, aim: &Aim, context: &Context<'_>) -> Result<Vec<Outcome>> {
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
        refusal(refused)?;
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
            return Ok(Ok(Outcome { key: key.clone(), ends: None, diff: Vec::new(), notes }));
        }
        let scaled = is_scaled(&context.scaled, key);
        let config = configuration(&wanted.object, drift, &[], &context.to_marks);
        let (result, conflicts) = match self.preview(key, wanted, config, live, scaled).await? {
            Preview::Refused(error) => {
                let old =
                    live.filter(|_| self.options.replace.iter().any(|pick| pick.picks(key, &wanted.object)));
                let Some(old) = old else { return Ok(Err((key.clone(), error))) };
                return Ok(Ok(replaced(key, wanted, old, drift)));
            }
            Preview::Unproven(why) => {
                notes.push(format!("{key} is not proven before it is written: {why}"));
                (None, Vec::new())
            }
            Preview::Becomes { result, conflicts } => (Some(*result), conflicts),
        };
        if !conflicts.is_empty() {
            notes.push(told(key, &conflicts, self.options.force_conflicts));
        }
        let mut to = Object {
            api_version: wanted.spot.api_version.clone(),
            plural: wanted.spot.served.plural().to_owned(),
            uid: None,
            replaces: None,
            values: BTreeMap::new(),
            drift: drift.cloned(),
            kept: conflicts.into_iter().map(|conflict| conflict.field).collect(),
        };
        if self.options.force_conflicts {
            to.kept.clear();
        }
        let (Some(live), Some(result)) = (live.filter(|live| !is_dying(live)), result) else {
            if live.is_some_and(is_dying) {
                notes.push(format!("{key} is being deleted: it is waited for, and created again"));
            } else if live.is_some() {
                // It is there, and cannot be tried: it is applied, and counts as there.
                let from = Object { drift: None, kept: Vec::new(), ..to.clone() };
                let ends = Some((Some(from), to));
                return Ok(Ok(Outcome { key: key.clone(), ends, diff: Vec::new(), notes }));
            }
            let diff = vec![FieldChange { path: path_of(key), from: None, to: Some(json!("present")) }];
            return Ok(Ok(Outcome { key: key.clone(), ends: Some((None, to)), diff, notes }));
        };
        let mut fields = differences(live, &result);
        if scaled {
            fields.retain(|field| field.path != "/spec/replicas");
        }
        if fields.is_empty() {
            return Ok(Ok(Outcome { key: key.clone(), ends: None, diff: Vec::new(), notes }));
        }
        let uid = json::uid(live);
        let print_of = |object: &Value, path: &str| at(object, path).map(|value| print(uid, value));
        to.uid = Some(Fingerprint::of(&json!(uid)));
        to.values =
            fields.iter().map(|field| (field.path.clone(), vec![print_of(&result, &field.path)])).collect();
        let mut from = Object { drift: None, kept: Vec::new(), ..to.clone() };
        for (path, values) in &mut from.values {
            *values = vec![print_of(live, path)];
        }
        self.find_drift(key, wanted, live, scaled, context, (&mut from, &mut notes)).await?;
        for field in fields.iter().filter(|field| field.path == "/spec/replicas") {
            if let (Some(from), Some(to)) = (&field.from, &field.to)
                && from.as_i64() > to.as_i64()
            {
                notes.push(format!("{key} goes down from {from} replicas to {to}"));
            }
        }
        let diff = fields.into_iter().filter_map(|field| shown(key, field)).collect();
        Ok(Ok(Outcome { key: key.clone(), ends: Some((Some(from), to)), diff, notes }))
    }

    /// What somebody else made of an object since its revision was applied.
    async fn find_drift(
        &self,
        key: &Key,
        wanted: &Wanted,
        live: &Value,
        scaled: bool,
        context: &Context<'_>,
        (from, notes): (&mut Object, &mut Vec<String>),
    ) -> Result<()> {
        let rendered = context.from.and_then(|side| side.objects.get(key));
        if key.is_secret() {
            let rendered = rendered.map(|rendered| with_encoded_data(&rendered.object));
            if rendered.as_ref().is_some_and(|rendered| covers(rendered, live)) {
                return Ok(());
            }
            notes.push(format!("{key} is not what its revision holds: going back cannot bring that back"));
            let uid = json::uid(live);
            for (path, values) in &mut from.values {
                // After going back it is as rendered.
                values.push(
                    rendered.as_ref().and_then(|object| at(object, path)).map(|value| print(uid, value)),
                );
            }
            return Ok(());
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
        let Some(patch) = merge_patch(&config, &part) else { return Ok(()) };
        if rendered.is_some() {
            // The server may only write it in another way.
            let path = wanted.spot.path(key);
            if scaled {
                keep_replicas(&mut config, Some(live));
            }
            let applied = self.cluster.dry_apply((&path, &config), Some(live), true).await;
            if applied.is_ok_and(|applied| differences(live, &applied).is_empty()) {
                return Ok(());
            }
            notes.push(format!("{key} was changed by somebody since its revision was applied"));
        }
        from.drift = Some(patch);
        Ok(())
    }

    /// What the server would make of a configuration.
    pub(super) async fn preview(
        &self,
        key: &Key,
        wanted: &Wanted,
        mut config: Value,
        live: Option<&Value>,
        scaled: bool,
    ) -> Result<Preview> {
        if !wanted.is_served {
            return Ok(Preview::Unproven("the cluster does not serve its kind yet".into()));
        }
        if live.is_some_and(is_dying) {
            return Ok(Preview::Unproven("it is being deleted".into()));
        }
        if scaled {
            keep_replicas(&mut config, live);
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
            return refused_or_failed(error);
        }
        let message = "others go on taking fields of it";
        Ok(Preview::Refused(Error::new(ErrorKind::Conflict, message)))
    }

    /// What is deleted because the target has it no longer, and why the rest is not.
    async fn pruned(
        &self,
        to: &Side,
        standing: &Standing,
        live: &BTreeMap<Key, Value>,
        is_whole: bool,
    ) -> Result<(BTreeMap<Key, Object>, Vec<String>)> {
        let mut doomed = BTreeMap::new();
        let mut stays: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let Some(from) = standing.side.as_deref() else { return Ok((doomed, Vec::new())) };
        let gone = from.objects.iter().filter(|(key, _)| !to.objects.contains_key(*key));
        let gone: Vec<_> = gone
            .filter_map(|(key, wanted)| Some((key, wanted, live.get(key).filter(|live| !is_dying(live))?)))
            .filter(|(key, _, live)| is_whole || self.is_picked(key, live))
            .collect();
        let id = standing.parent.id();
        let is_going = |key: &Key, live: &Value| {
            self.options.prune
                && !is_never_pruned(key)
                && json::text(live, "/type") != Some(TOKEN)
                && !opts_out(live)
                && is_owned(live, &id, standing.is_exact)
        };
        let referred = if gone.iter().any(|(key, _, live)| is_settings(key) && is_going(key, live)) {
            let going = gone.iter().filter(|(key, _, live)| is_going(key, live));
            let going = going.map(|(_, _, live)| json::uid(live).to_owned()).collect();
            let namespaces = gone.iter().filter_map(|(key, ..)| key.namespace.clone()).collect();
            self.referred(namespaces, going).await?
        } else {
            BTreeSet::new()
        };
        for (key, wanted, live) in gone {
            let reason = if !self.options.prune {
                Some("the target does not have them, and they stay: --prune deletes them")
            } else if is_never_pruned(key) || json::text(live, "/type") == Some(TOKEN) {
                Some("objects of this kind are never deleted here")
            } else if opts_out(live) {
                Some("they say themselves that they are not to be pruned")
            } else if !is_owned(live, &id, standing.is_exact) {
                Some("they are not known to belong to this environment alone, and stay")
            } else if referred.contains(&(
                key.kind.clone(),
                key.namespace.clone().unwrap_or_default(),
                key.name.clone(),
            )) {
                Some("pods or ReplicaSets refer to them still, and they stay")
            } else {
                None
            };
            if let Some(reason) = reason {
                stays.entry(reason).or_default().push(key.to_string());
                continue;
            }
            let mut object = Object {
                api_version: wanted.spot.api_version.clone(),
                plural: wanted.spot.served.plural().to_owned(),
                uid: None,
                replaces: None,
                values: BTreeMap::new(),
                drift: None,
                kept: Vec::new(),
            };
            if !key.is_secret() {
                let marks = Marks { part_of: None, last_applied: false };
                let config = configuration(&wanted.object, None, &[], &marks);
                let part = without_marks(applied_part(live));
                object.drift = merge_patch(&config, &part).filter(|_| !covers(&part, &config));
            }
            doomed.insert(key.clone(), object);
        }
        let told = stays.into_iter().map(|(reason, keys)| format!("{reason}: {}", keys.join(", ")));
        Ok((doomed, told.collect()))
    }

    /// The `ConfigMaps` and Secrets that pods and `ReplicaSets` refer to, by kind, namespace and name, but for those of
    /// what is going itself.
    async fn referred(
        &self,
        namespaces: BTreeSet<String>,
        mut going: BTreeSet<String>,
    ) -> Result<BTreeSet<(String, String, String)>> {
        let mut all = BTreeSet::new();
        for namespace in namespaces {
            let sets = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
            let pods = format!("/api/v1/namespaces/{namespace}/pods");
            for (path, pointer) in [(sets, "/spec/template"), (pods, "")] {
                for object in
                    self.cluster.list(&path, "", "seeing what refers to what is to be pruned").await?
                {
                    if json::controller_uid(&object).is_some_and(|owner| going.contains(owner)) {
                        going.insert(json::uid(&object).to_owned());
                        continue;
                    }
                    let found = object.pointer(pointer).into_iter().flat_map(needs);
                    all.extend(found.map(|(kind, name)| (kind.to_owned(), namespace.clone(), name)));
                }
            }
        }
        Ok(all)
    }
}

/// An object that gives way to another of its name.
fn replaced(key: &Key, wanted: &Wanted, old: &Value, drift: Option<&Value>) -> Outcome {
    let uid = Some(Fingerprint::of(&json!(json::uid(old))));
    let to = Object {
        api_version: wanted.spot.api_version.clone(),
        plural: wanted.spot.served.plural().to_owned(),
        uid: None,
        replaces: uid.clone(),
        values: BTreeMap::new(),
        drift: drift.cloned(),
        kept: Vec::new(),
    };
    let from = Object { uid, replaces: None, drift: None, ..to.clone() };
    let diff =
        vec![FieldChange { path: path_of(key), from: Some(json!("present")), to: Some(json!("replaced")) }];
    let notes = vec![format!(
        "{key} is deleted and created again, and there is no way back to the one that is there"
    )];
    Outcome { key: key.clone(), ends: Some((Some(from), to)), diff, notes }
}

const TOKEN: &str = "kubernetes.io/service-account-token";

fn is_settings(key: &Key) -> bool {
    key.group.is_empty() && matches!(key.kind.as_str(), "ConfigMap" | "Secret")
}

/// Whether an object asks to be left alone, in the words of any of the tools that know such.
fn opts_out(live: &Value) -> bool {
    json::annotation(live, "rollback.dev/prune") == Some("disabled")
        || json::annotation(live, "kustomize.toolkit.fluxcd.io/prune") == Some("disabled")
        || json::annotation(live, "helm.sh/resource-policy") == Some("keep")
        || json::annotation(live, "argocd.argoproj.io/sync-options")
            .is_some_and(|options| options.split(',').any(|option| option.trim() == "Prune=false"))
}

/// Whether an object belongs to this environment: as its label says, or, before there was a pin, because all that runs is
/// what the revision in place renders and nobody else claims this.
fn is_owned(live: &Value, id: &str, is_exact: bool) -> bool {
    match json::label(live, PART_OF) {
        Some(part_of) => part_of == id,
        None => {
            is_exact
                && json::items(live, "/metadata/ownerReferences").is_empty()
                && helm_release(live).is_none()
        }
    }
}

fn without_marks(mut part: Value) -> Value {
    for (pointer, key) in [("/metadata/labels", PART_OF), ("/metadata/annotations", LAST_APPLIED)] {
        if let Some(Value::Object(members)) = part.pointer_mut(pointer) {
            members.remove(key);
        }
    }
    part
}

/// Where what runs is not known: nothing renders it, and all of it is a difference.
fn unknown(to: &Content, standing: &Standing) -> Content {
    Content {
        revision: "unknown".into(),
        commit: String::new(),
        path: to.path.clone(),
        files: Fingerprint::of(&json!("unknown")),
        renderer: String::new(),
        digest: Fingerprint::of(&json!("unknown")),
        pin: standing.pin.clone(),
        objects: BTreeMap::new(),
        picked: Vec::new(),
        ..to.clone()
    }
}

fn unique(warnings: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    warnings.into_iter().filter(|warning| seen.insert(warning.clone())).collect()
}

/// How a difference names its object.
fn path_of(key: &Key) -> String {
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
pub(super) fn refusal(refused: Vec<(Key, Error)>) -> Result<()> {
    let Some((_, first)) = refused.first() else { return Ok(()) };
    let is_alike = refused.iter().all(|(_, error)| error.kind() == first.kind());
    let kind = if is_alike { first.kind() } else { ErrorKind::Refused };
    let hint = first.hint().map(str::to_owned);
    // The server repeats what it finds wrong.
    let why = |key: &Key, error: &Error| {
        if key.is_secret() {
            "it does not say what would not show data".to_owned()
        } else {
            error.report().message
        }
    };
    let told: Vec<_> = refused.iter().map(|(key, error)| format!("{key}: {}", why(key, error))).collect();
    let is_immutable = told.iter().any(|text| {
        text.contains("immutable")
            || text.contains("updates to statefulset spec")
            || text.contains("may not change")
    });
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

impl Object {
    /// Where it is found.
    pub(super) fn spot(&self, key: &Key) -> Spot {
        let served =
            rollback_k8s::backend::Served::new(&self.api_version, &self.plural, key.namespace.is_some());
        Spot { api_version: self.api_version.clone(), served }
    }
}

impl Content {
    /// Refuses a rendering that is not the one that was planned.
    pub(super) fn check(&self, side: &Side) -> Result<()> {
        if side.rendering.digest() == self.digest {
            return Ok(());
        }
        let message = format!(
            "{} renders something else now than when it was planned, by {} then and by {} now",
            self.revision, self.renderer, side.rendering.renderer
        );
        Err(Error::new(ErrorKind::Conflict, message).with_hint("plan again, or render with the same program"))
    }
}
