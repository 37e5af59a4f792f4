//! What runs: by the pin, or without one by what the live objects look like.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollback_core::{Error, ErrorKind, Result, Revision};
use rollback_k8s::json;
use serde_json::Value;

use super::pin::{Parent, Pin, pin_of};
use super::wanted::{covers, with_encoded_data};
use super::{KustomizeEnvironment, Side};
use crate::Tag;

/// How many tags are compared with what runs, the newest first.
const MOST_COMPARED: usize = 100;
/// How many are where there is a pin that what runs does not match.
const COMPARED_WITH_PIN: usize = 10;

/// How many more are once one matches wholly.
const BEYOND_EXACT: usize = 5;

/// What runs.
pub(super) struct Standing {
    /// The tags that hold the environment, newest first.
    pub(super) tags: Vec<Tag>,
    pub(super) parent: Parent,
    pub(super) pin: Option<Pin>,
    /// The object of the pin, which may be there before it says anything.
    pub(super) pin_object: Option<Value>,
    /// The revision in place, as far as can be told.
    pub(super) side: Option<Arc<Side>>,
    /// Whether that is certain: pinned, or everything matches.
    pub(super) is_exact: bool,
    /// Whether the pin says so.
    pub(super) is_pinned: bool,
    pub(super) notes: Vec<String>,
}

impl KustomizeEnvironment {
    /// What runs. The pin is looked for where the target's objects are, else those of the newest tag.
    pub(super) async fn standing(&self, target: Option<&Side>) -> Result<Standing> {
        let tags = self.repository.tags(&self.options.tags, &self.path).await?;
        let mut notes = Vec::new();
        let mut homes: Vec<String> = target.map(|side| self.home(side)).into_iter().collect();
        for tag in tags.iter().take(COMPARED_WITH_PIN) {
            match self.side(&tag.name, &tag.commit, &self.path, true).await {
                // The newest may be the broken one.
                Err(e) if e.kind() == ErrorKind::Refused => {
                    notes.push(format!("{} does not render: {}", tag.name, e.report().message));
                }
                side => {
                    homes.push(self.home(&side?));
                    break;
                }
            }
        }
        homes.push(self.namespace().to_owned());
        // Where there is none yet it will be beside the objects.
        let mut parent = Parent::of(&self.id, homes.first().map_or("", String::as_str));
        let mut pin_object = None;
        let mut seen = BTreeSet::new();
        for home in homes.iter().filter(|home| seen.insert((*home).clone())) {
            let candidate = Parent::of(&self.id, home);
            match candidate.read(&self.cluster).await {
                Ok(None) => {}
                Ok(found) => {
                    (parent, pin_object) = (candidate, found);
                    break;
                }
                // One may not look everywhere.
                Err(e) if e.kind() == ErrorKind::PermissionDenied && homes.first() != Some(home) => {}
                Err(e) => return Err(e),
            }
        }
        let pin = pin_object.as_ref().and_then(pin_of);
        let mut standing =
            Standing { tags, parent, pin, pin_object, side: None, is_exact: false, is_pinned: false, notes };
        if let Some(pin) = standing.pin.clone() {
            self.follow_pin(&mut standing, &pin).await?;
        }
        if standing.side.is_none() || !standing.is_exact {
            self.compare(&mut standing).await?;
        }
        Ok(standing)
    }

    /// The namespace that most objects are in: the one of the pin.
    fn home(&self, side: &Side) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for namespace in side.objects.keys().filter_map(|key| key.namespace.as_deref()) {
            *counts.entry(namespace).or_default() += 1;
        }
        let most = counts.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)));
        most.map_or_else(|| self.namespace().to_owned(), |(namespace, _)| (*namespace).to_owned())
    }

    async fn follow_pin(&self, standing: &mut Standing, pin: &Pin) -> Result<()> {
        let own = self.repository.identity()?;
        if pin.repository != own {
            standing
                .notes
                .push(format!("the pin was set from the repository {}, and this is {own}", pin.repository));
        }
        let commit = match self.repository.resolve(&pin.commit).await {
            Ok(commit) => commit,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                standing.notes.push(format!(
                    "the pin says {} at commit {}, which is not in this clone: git fetch --tags",
                    pin.revision, pin.commit
                ));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let moved = standing.tags.iter().find(|tag| tag.name == pin.revision && tag.commit.id != pin.commit);
        if let Some(tag) = moved {
            standing.notes.push(format!(
                "tag {} was moved since it was applied: it was {}, and is {} now",
                tag.name,
                short(&pin.commit),
                short(&tag.commit.id)
            ));
        }
        let side = self.side(&pin.revision, &commit, std::path::Path::new(&pin.path), true).await?;
        standing.is_exact = self.matching(&side).await? == side.objects.len();
        standing.is_pinned = true;
        standing.side = Some(Arc::new(side));
        Ok(())
    }

    /// Compares what runs with what tags render.
    async fn compare(&self, standing: &mut Standing) -> Result<()> {
        let most = if standing.is_pinned { COMPARED_WITH_PIN } else { MOST_COMPARED };
        let mut best: Option<(usize, Side)> = None;
        let mut exact = 0;
        for tag in standing.tags.iter().take(most) {
            if best.as_ref().is_some_and(|(_, side)| side.commit == tag.commit) {
                continue;
            }
            // One that does not render did not get here.
            let side = match self.side(&tag.name, &tag.commit, &self.path, true).await {
                Err(e) if e.kind() == ErrorKind::Refused => continue,
                side => side?,
            };
            let matching = self.matching(&side).await?;
            let is_exact = matching > 0 && matching == side.objects.len();
            // One that has less than another matches what that one is as well.
            let is_better = match &best {
                None => matching > 0,
                Some((before, other)) => match (is_exact, *before == other.objects.len()) {
                    (true, true) => size(&side) > size(other),
                    (true, false) => true,
                    (false, true) => false,
                    (false, false) => matching > *before,
                },
            };
            if is_better {
                best = Some((matching, side));
            }
            exact += usize::from(is_exact || exact > 0);
            if exact > BEYOND_EXACT {
                break;
            }
        }
        let Some((matching, side)) = best else { return Ok(()) };
        let of = side.objects.len();
        if standing.is_pinned {
            if matching == of {
                let pinned = standing.pin.as_ref().map(|pin| pin.revision.as_str()).unwrap_or_default();
                standing.notes.push(format!(
                    "the pin says {pinned}, but what runs is {}: it was applied past this tool",
                    side.name
                ));
                standing.is_pinned = false;
                standing.is_exact = true;
                standing.side = Some(Arc::new(side));
            }
            return Ok(());
        }
        standing.notes.push(format!(
            "there is no pin yet: {} is a guess, of which {matching} of {of} objects match what runs",
            side.name
        ));
        standing.is_exact = matching == of;
        standing.side = Some(Arc::new(side));
        Ok(())
    }

    /// How many objects of a revision run as it renders them.
    async fn matching(&self, side: &Side) -> Result<usize> {
        let live = self.live(side.objects.iter().map(|(key, wanted)| (key, &wanted.spot)).collect()).await?;
        let mut matching = 0;
        for (key, wanted) in &side.objects {
            let Some(live) = live.get(key) else { continue };
            let is_it = if key.is_secret() {
                covers(&with_encoded_data(&wanted.object), live)
            } else {
                covers(&wanted.object, live)
            };
            matching += usize::from(is_it);
        }
        Ok(matching)
    }

    pub(super) fn no_tag(&self) -> String {
        format!("no tag that matches {:?} holds the folder {}", self.options.tags, self.path.display())
    }

    pub(super) async fn revisions(&self) -> Result<Vec<Revision>> {
        let standing = self.standing(None).await?;
        if standing.tags.is_empty() && standing.side.is_none() {
            return Err(Error::new(ErrorKind::NotFound, self.no_tag())
                .with_hint("see `git tag`; a clone without its tags gets them with: git fetch --tags"));
        }
        let guess = match (standing.is_pinned, standing.is_exact) {
            (true, _) => "",
            (false, true) => " (a guess: all of it runs)",
            (false, false) => " (a guess: not all of it runs)",
        };
        let current = standing.side.as_deref();
        let since = standing.pin_object.as_ref().filter(|_| standing.is_pinned).and_then(pinned_at);
        let mut revisions = Vec::new();
        let is_current = |name: &str| current.is_some_and(|side| side.name == name && side.path == self.path);
        let row = |name: &str, commit: &crate::Commit, files, is_current: bool| Revision {
            id: name.to_owned(),
            fingerprint: files,
            current: is_current,
            created: Some(commit.committed),
            since: since.filter(|_| is_current),
            cause: None,
            mark: None,
            summary: format!(
                "{} {}{}",
                short(&commit.id),
                commit.subject,
                if is_current { guess } else { "" }
            ),
        };
        for tag in &standing.tags {
            // What runs is what the tag was when it was applied.
            let is_current = is_current(&tag.name) && current.is_some_and(|side| side.commit == tag.commit);
            let files = self.repository.state(&tag.commit, &self.path).await?;
            revisions.push(row(&tag.name, &tag.commit, files, is_current));
        }
        if let Some(side) = current.filter(|_| !revisions.iter().any(|revision| revision.current)) {
            let is_moved = standing.tags.iter().any(|tag| tag.name == side.name);
            let name = if is_moved { short(&side.commit.id) } else { &side.name };
            let row = row(name, &side.commit, side.files.clone(), true);
            let before = |revision: &Revision| revision.created <= row.created;
            let place = revisions.iter().position(before).unwrap_or(revisions.len());
            revisions.insert(place, row);
        }
        Ok(revisions)
    }
}

/// How much a revision renders.
fn size(side: &Side) -> usize {
    fn leaves(value: &Value) -> usize {
        match value {
            Value::Object(members) => members.values().map(leaves).sum(),
            Value::Array(items) => items.iter().map(leaves).sum(),
            _ => 1,
        }
    }
    side.objects.values().map(|wanted| leaves(&wanted.object)).sum()
}

/// When the pin was written last.
fn pinned_at(object: &Value) -> Option<rollback_core::Timestamp> {
    json::items(object, "/metadata/managedFields")
        .iter()
        .filter_map(|fields| json::time(fields, "/time"))
        .max()
}

pub(super) fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
