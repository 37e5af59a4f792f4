//! What would be done: from what the current revision renders, what the target renders, and what is live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rollback_core::{
    Change, ChangeKind, ComponentId, Error, ErrorKind, FieldChange, Fingerprint, Passage, Result,
    Rollbackable as _, Snapshot, Target,
};
use rollback_k8s::json;
use serde_json::{Value, json};

use super::content::{Content, Leftovers, Object};
use super::key::Key;
use super::outcome::{Context, Outcome, path_of};
use super::pin::Pin;
use super::standing::{Standing, short};
use super::wanted::{self, LAST_APPLIED, Marks, Spot};
use super::{KustomizeEnvironment, Side};

/// What the pin says in a state to be reached.
enum Pinned {
    /// That it is there.
    Itself,
    /// What it said when the state was recorded.
    Recorded(Option<Pin>),
}

/// The state to be reached.
pub(super) struct Aim {
    pub(super) side: Side,
    /// What is different there from the rendering, as a recorded state has it.
    pub(super) recorded: BTreeMap<Key, Object>,
    /// The pin of a recorded state.
    pin: Pinned,
}

impl KustomizeEnvironment {
    pub(super) async fn plan(&self, target: &Target) -> Result<Vec<Change>> {
        let (aim, standing) = self.aim(target).await?;
        let live = self.live_of(&aim, &standing).await?;
        let mut warnings = standing.notes.clone();
        warnings.extend(aim.side.rendering.warnings.iter().cloned());
        for object in live.values() {
            self.options.gitops.judge(object, &mut warnings)?;
        }
        let picked = self.picked();
        let pin = match &aim.pin {
            _ if !picked.is_empty() => standing.pin.clone(),
            Pinned::Recorded(pin) => pin.clone(),
            Pinned::Itself => Some(Pin {
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
            from: standing.side.as_deref(),
            live: &live,
            scaled: wanted::scaled(&self.cluster, &aim.side.objects, &namespaces).await?,
            from_marks: marks(&standing.pin),
            to_marks: marks(&pin),
        };
        let outcomes = self.outcomes(&aim, &context).await?;
        let (doomed, stays) = self.pruned(&aim.side, &standing, &live, picked.is_empty()).await?;

        let mut to = self.content(&aim.side, &standing, pin.clone(), last_applied);
        let begin = match &standing.side {
            Some(side) => self.content(side, &standing, standing.pin.clone(), last_applied),
            None => unknown(&to, standing.pin.clone()),
        };
        to.picked = picked;
        let is_same = (&begin.commit, &begin.path, &begin.files) == (&to.commit, &to.path, &to.files);
        let has_pin = standing.pin == pin || standing.pin.is_none();
        if is_same && has_pin && doomed.is_empty() && outcomes.iter().all(Outcome::is_bookkeeping) {
            warnings.extend(outcomes.into_iter().flat_map(|outcome| outcome.notes));
            return Ok(vec![self.change(&begin, &begin, Vec::new(), unique(warnings)).await?]);
        }
        warnings.extend(stays);
        if !to.picked.is_empty() {
            let now = standing.pin.as_ref().map_or("there is none", |pin| pin.revision.as_str());
            warnings.push(format!("only a part is returned, so the pin stays as it is: {now}"));
        }
        let count = aim.side.objects.len();
        self.changes((begin, to), outcomes, doomed, (warnings, count)).await
    }

    /// The live objects of what runs, of the target, and of what was recorded of it.
    async fn live_of(&self, aim: &Aim, standing: &Standing) -> Result<BTreeMap<Key, Value>> {
        let mut spots: BTreeMap<Key, Spot> =
            aim.recorded.iter().map(|(key, object)| (key.clone(), object.spot(key))).collect();
        let before = standing.side.iter().flat_map(|side| &side.objects);
        let all = before.chain(&aim.side.objects);
        spots.extend(all.map(|(key, wanted)| (key.clone(), wanted.spot.clone())));
        self.live(spots.iter().collect()).await
    }

    /// The objects that a partial change is restricted to, for people.
    fn picked(&self) -> Vec<String> {
        let only = self.options.only.iter().map(ToString::to_string);
        only.chain(self.options.exclude.iter().map(|pick| format!("not {pick}"))).collect()
    }

    fn content(&self, side: &Side, standing: &Standing, pin: Option<Pin>, last_applied: bool) -> Content {
        Content {
            revision: side.name.clone(),
            commit: side.commit.id.clone(),
            path: side.path.to_string_lossy().into_owned(),
            files: side.files.clone(),
            renderer: side.rendering.renderer.clone(),
            digest: side.rendering.digest(),
            home: Some(standing.parent.namespace().to_owned()),
            pin,
            picked: Vec::new(),
            differs: Vec::new(),
            last_applied,
            forced: self.options.force_conflicts,
            unpruned: false,
            leftovers: None,
            objects: BTreeMap::new(),
        }
    }

    /// One change, or, where something is pruned, two: nothing is deleted before the rest has settled.
    async fn changes(
        &self,
        (mut begin, mut to): (Content, Content),
        outcomes: Vec<Outcome>,
        doomed: BTreeMap<Key, Object>,
        (mut warnings, count): (Vec<String>, usize),
    ) -> Result<Vec<Change>> {
        let (mut diff, mut irreversible) = (Vec::new(), None);
        let (mut changed, mut created) = (0, 0);
        for outcome in outcomes {
            warnings.extend(outcome.notes);
            irreversible = irreversible.or(outcome.irreversible);
            if outcome.differs {
                begin.differs.push(outcome.key.clone());
            }
            let Some((from, reached)) = outcome.ends else { continue };
            created += usize::from(from.is_none());
            changed += usize::from(from.is_some() && !outcome.diff.is_empty());
            diff.extend(outcome.diff);
            begin.objects.insert(outcome.key.clone(), from);
            to.objects.insert(outcome.key, Some(reached));
        }
        let same = count.saturating_sub(changed + created);
        warnings.push(format!(
            "of {count} objects {changed} change, {created} are created and {same} stay as they are; {} are deleted",
            doomed.len()
        ));
        let warnings = unique(warnings);
        if doomed.is_empty() {
            let change = self.change(&begin, &to, diff, warnings).await?;
            return Ok(vec![Change { irreversible, ..change }]);
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
        first.irreversible = irreversible;
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
        Ok(Change {
            component: self.id.clone(),
            realm: self.realm().await?,
            kind: ChangeKind::Rollback,
            from: from.snapshot(),
            to: to.snapshot(),
            identity: None,
            diff,
            warnings,
            touches: to.objects.keys().filter_map(workload).collect(),
            irreversible: None,
            passage: Passage::default(),
            hint: None,
        })
    }

    /// The state that a target means, and what runs.
    async fn aim(&self, target: &Target) -> Result<(Aim, Standing)> {
        let path = self.options.to_path.as_deref().unwrap_or(&self.path);
        let plain = |side| Aim { side, recorded: BTreeMap::new(), pin: Pinned::Itself };
        match target {
            Target::Previous => {
                let standing = self.standing(None).await?;
                let Some(current) = standing.side.clone() else {
                    let message = if standing.tags.is_empty() {
                        self.no_tag()
                    } else {
                        "what runs matches no tag, so that none is the previous one".into()
                    };
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
        Ok((Aim { side, recorded, pin: Pinned::Recorded(content.pin) }, standing))
    }
}

/// Where what runs is not known: nothing renders it, and all of it is a difference.
fn unknown(to: &Content, pin: Option<Pin>) -> Content {
    Content {
        revision: "unknown".into(),
        commit: String::new(),
        files: Fingerprint::of(&json!("unknown")),
        renderer: String::new(),
        digest: Fingerprint::of(&json!("unknown")),
        pin,
        ..to.clone()
    }
}

fn unique(warnings: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    warnings.into_iter().filter(|warning| seen.insert(warning.clone())).collect()
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
