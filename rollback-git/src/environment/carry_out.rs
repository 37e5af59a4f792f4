//! Applying a change, object by object, in the order in which they need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollback_core::{Change, Disposition, Error, ErrorKind, Fingerprint, Position, Result, StepContext};
use rollback_k8s::backend::{FieldConflict, conflict, field_conflicts};
use rollback_k8s::json;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::content::{Content, Ends, Object, is_dying, is_never_pruned, mismatch};
use super::key::Key;
use super::outcome::{Preview, refusal};
use super::pin::{Parent, pin_of};
use super::prune::claimed;
use super::wanted::{
    self, DEFINITIONS, Marks, Wanted, configuration, covers, is_scaled, keep_replicas, wave,
    with_encoded_data,
};
use super::{AT_ONCE, KustomizeEnvironment, Side, together};

/// How many objects are written at once.
const WRITES_AT_ONCE: usize = 8;
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(500);
/// How often replicas that an autoscaler sets meanwhile are read again.
const ATTEMPTS: usize = 5;

/// What a change finds.
pub(super) struct Look {
    pub(super) live: BTreeMap<Key, Value>,
    pin: Option<Value>,
    pub(super) position: Position,
}

/// What is to be written of one object: the configuration, or none where it is to go.
struct Due<'a> {
    key: &'a Key,
    /// What it was when it was planned.
    from: Option<&'a Object>,
    object: &'a Object,
    configuration: Option<Value>,
    scaled: bool,
}

impl KustomizeEnvironment {
    /// The live objects that a change touches, the object of the pin, and where they stand.
    pub(super) async fn look_at(&self, ends: &Ends) -> Result<Look> {
        let spots: Vec<_> =
            ends.objects().filter_map(|(key, from, to)| Some((key, from.or(to)?.spot(key)))).collect();
        let parent = self.parent_of(ends);
        let live = self.live(spots.iter().map(|(key, spot)| (*key, spot)).collect());
        let pin = async {
            match &parent {
                Some(parent) => parent.read(&self.cluster).await,
                None => Ok(None),
            }
        };
        let (live, pin) = futures::try_join!(live, pin)?;
        let position = ends.position(&live, pin.as_ref().and_then(pin_of).as_ref());
        Ok(Look { live, pin, position })
    }

    /// Where the pin is: as the change says.
    fn parent_of(&self, ends: &Ends) -> Option<Parent> {
        let home = ends.to.home.as_ref().or(ends.from.home.as_ref())?;
        Some(Parent::of(&self.id, home))
    }

    pub(super) async fn carry_out(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let ends = Ends::of(change)?;
        let Look { live, pin, position } = self.look_at(&ends).await?;
        match &position {
            Position::To => return Ok(()),
            Position::Elsewhere(what) => return Err(elsewhere(&ends, &live, what)),
            Position::From | Position::Between => {}
        }
        let parent = self.parent_of(&ends);
        let due = self.due(&ends, &live, parent.as_ref()).await?;
        if position == Position::From {
            self.try_first(&due, &live, ends.to.forced).await?;
        }
        let kept: Vec<&Key> = ends.objects().filter(|(.., to)| to.is_some()).map(|(key, ..)| key).collect();
        let (writes, deletions): (Vec<&Due<'_>>, Vec<&Due<'_>>) =
            due.iter().partition(|due| due.configuration.is_some());
        let waves: BTreeSet<u8> = due.iter().map(|due| wave(due.key)).collect();
        // Namespaces come before the pin, which is in one.
        let mut is_wide = ends.to.pin.is_none() && ends.from.pin.is_none();
        for wave in waves.iter().copied() {
            if wave > 0
                && !is_wide
                && let Some(parent) = &parent
            {
                parent.widen(&self.cluster, cx, pin.as_ref(), &kept).await?;
                is_wide = true;
            }
            let now: Vec<&Due<'_>> =
                writes.iter().copied().filter(|due| self::wave(due.key) == wave).collect();
            let all = now.iter().map(|due| self.write(cx, due, live.get(due.key), ends.to.forced)).collect();
            all_or_first_error(all).await?;
            if wave == DEFINITIONS {
                self.established(cx, &now).await?;
            }
        }
        for wave in waves.into_iter().rev() {
            let now = deletions.iter().filter(|due| self::wave(due.key) == wave);
            let id = parent.as_ref().map(Parent::id);
            let all = now.map(|due| self.remove(cx, due, live.get(due.key), id.as_deref())).collect();
            all_or_first_error(all).await?;
        }
        match &parent {
            Some(parent) if ends.from.pin != ends.to.pin => {
                parent.set(&self.cluster, cx, &kept, ends.to.pin.as_ref()).await
            }
            _ => Ok(()),
        }
    }

    /// Lets the server check a change without persisting it.
    ///
    /// # Errors
    /// What the server refuses, all of it, or `Conflict` as [`rollback_core::Rollbackable::apply`].
    pub async fn dry_run(&self, change: &Change) -> Result<()> {
        let dry = async {
            let ends = Ends::of(change)?;
            let Look { live, position, .. } = self.look_at(&ends).await?;
            if let Position::Elsewhere(what) = position {
                return Err(elsewhere(&ends, &live, &what));
            }
            let due = self.due(&ends, &live, self.parent_of(&ends).as_ref()).await?;
            self.try_first(&due, &live, ends.to.forced).await
        };
        dry.await.map_err(|e| self.own(e))
    }

    /// What of the change is not made yet.
    async fn due<'a>(
        &self,
        ends: &'a Ends,
        live: &BTreeMap<Key, Value>,
        parent: Option<&Parent>,
    ) -> Result<Vec<Due<'a>>> {
        let marks = Marks {
            part_of: ends.to.pin.as_ref().and(parent).map(Parent::id),
            last_applied: ends.to.last_applied,
        };
        let open: Vec<_> = ends
            .objects()
            .filter(|(key, from, to)| {
                // What could not be known beforehand is not known to be made either.
                let is_known = to.is_none_or(|to| !to.values.is_empty());
                mismatch(key, *to, live.get(key)).is_some()
                    || (!is_known && (from.is_some() || live.contains_key(key)))
            })
            .collect();
        let rendered = self.rendered_for(&ends.to, open.iter().any(|(.., to)| to.is_some())).await?;
        let namespaces: BTreeSet<String> =
            open.iter().filter_map(|(key, ..)| key.namespace.clone()).collect();
        let scaled = if open.iter().any(|(.., to)| to.is_some()) {
            wanted::scaled(&self.cluster, &rendered, &namespaces).await?
        } else {
            BTreeSet::new()
        };
        let mut due = Vec::new();
        for (key, from, to) in open {
            let Some(object) = to else {
                if !is_never_pruned(key) {
                    due.extend(from.map(|object| Due {
                        key,
                        from,
                        object,
                        configuration: None,
                        scaled: false,
                    }));
                }
                continue;
            };
            let none = Value::Null;
            let rendered = rendered.get(key).map_or(&none, |wanted| &wanted.object);
            if rendered.is_null() && object.drift.is_none() {
                let message = format!("{key} is not in what {} renders", ends.to.revision);
                return Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"));
            }
            let config = configuration(rendered, object.drift.as_ref(), &object.kept, &marks);
            if object.values.is_empty()
                && from.is_none()
                && live.get(key).is_some_and(|live| {
                    let config = if key.is_secret() { with_encoded_data(&config) } else { config.clone() };
                    !is_dying(live) && covers(&config, live)
                })
            {
                continue;
            }
            let scaled = is_scaled(&scaled, key);
            due.push(Due { key, from, object, configuration: Some(config), scaled });
        }
        Ok(due)
    }

    /// What renders the objects of a state: its revision, and the one whose leftovers it has.
    async fn rendered_for(&self, content: &Content, is_needed: bool) -> Result<BTreeMap<Key, Wanted>> {
        let mut all = BTreeMap::new();
        if !is_needed {
            return Ok(all);
        }
        if !content.commit.is_empty() {
            let side = self.side_at(&content.revision, &content.commit, &content.path).await?;
            content.check(&side)?;
            all.extend(side.objects);
        }
        if let Some(leftovers) = content.leftovers.as_ref().filter(|leftovers| !leftovers.commit.is_empty()) {
            let side = self.side_at("what it left", &leftovers.commit, &leftovers.path).await?;
            if side.rendering.digest() != leftovers.digest {
                let message =
                    "the revision that was left renders something else now than when it was planned";
                return Err(Error::new(ErrorKind::Conflict, message).with_hint("plan again"));
            }
            for (key, wanted) in side.objects {
                all.entry(key).or_insert(wanted);
            }
        }
        Ok(all)
    }

    pub(super) async fn side_at(&self, name: &str, commit: &str, path: &str) -> Result<Side> {
        let commit = self.repository.resolve(commit).await?;
        self.side(name, &commit, Path::new(path), true).await
    }

    /// Lets the server check everything that can be checked, before the first write.
    async fn try_first(&self, due: &[Due<'_>], live: &BTreeMap<Key, Value>, forced: bool) -> Result<()> {
        let tries = due.iter().map(|due| self.try_one(due, live.get(due.key), forced)).collect();
        let mut refused = Vec::new();
        for tried in together(AT_ONCE, tries).await {
            refused.extend(tried?);
        }
        refusal(&refused)
    }

    async fn try_one(
        &self,
        due: &Due<'_>,
        live: Option<&Value>,
        forced: bool,
    ) -> Result<Option<(Key, Error)>> {
        // Beside the object that it replaces the new one would be refused.
        let (Some(mut config), None) = (due.configuration.clone(), &due.object.replaces) else {
            return Ok(None);
        };
        if due.scaled {
            keep_replicas(&mut config, live);
        }
        let spot = due.object.spot(due.key);
        let is_served = self.cluster.served(&spot.api_version, &due.key.kind).await?.is_some();
        let wanted = Wanted { object: Value::Null, spot, is_served };
        Ok(match self.preview(due.key, &wanted, config, live).await? {
            Preview::Refused(error) => Some((due.key.clone(), error)),
            Preview::Becomes { conflicts, .. } if !conflicts.is_empty() && !forced => {
                let told = wanted::told(due.key, &conflicts, false);
                let message = format!("since it was planned others took fields over; {told}");
                Some((due.key.clone(), Error::new(ErrorKind::Conflict, message).with_hint("plan again")))
            }
            _ => None,
        })
    }

    async fn write(&self, cx: &StepContext, due: &Due<'_>, live: Option<&Value>, forced: bool) -> Result<()> {
        let Some(config) = &due.configuration else { return Ok(()) };
        let path = due.object.spot(due.key).path(due.key);
        let gives_way = |live: &&Value| due.object.replaces == Some(Fingerprint::of(&json!(json::uid(live))));
        if live.is_some_and(|live| gives_way(&live)) {
            self.delete(cx, due, live).await?;
            self.gone(cx, due.key, &path).await?;
        } else if live.is_some_and(is_dying) {
            self.gone(cx, due.key, &path).await?;
        }
        let configure = |live: Option<&Value>| {
            let is_gone = due.object.replaces.is_some() && live.is_none();
            if !is_gone
                && let (Some(from), Some(to)) =
                    (mismatch(due.key, due.from, live), mismatch(due.key, Some(due.object), live))
            {
                let what = format!("{} ({from}, {to})", due.key);
                return Err(live.map_or_else(
                    || Error::new(ErrorKind::Conflict, what.clone()),
                    |live| conflict(live, &what),
                ));
            }
            let mut config = config.clone();
            if due.scaled {
                keep_replicas(&mut config, live);
            }
            Ok(config)
        };
        let what = format!("applying {}", due.key);
        for _ in 0..ATTEMPTS {
            // Nobody's word is taken over an autoscaler's.
            let force = forced && !due.scaled;
            let applied = self.cluster.apply(cx, &self.id, (&path, &what), force, configure).await;
            let Err(error) = applied else { return Ok(()) };
            if due.key.is_secret() && error.kind() == ErrorKind::Refused {
                let message = format!(
                    "the server refuses {}: its words are not repeated, since they may hold data",
                    due.key
                );
                return Err(Error::new(ErrorKind::Refused, message));
            }
            let others = field_conflicts(&error);
            let is_scaler = |other: &FieldConflict| other.field == ".spec.replicas";
            if !due.scaled || others.is_empty() || (!forced && !others.iter().all(is_scaler)) {
                return Err(error);
            }
            if !others.iter().any(is_scaler) {
                // Of the replicas it still takes no more than nobody else has.
                return self.cluster.apply(cx, &self.id, (&path, &what), true, configure).await.map(drop);
            }
        }
        let message = format!("{}: an autoscaler goes on changing its replicas", due.key);
        Err(Error::new(ErrorKind::Conflict, message).temporary(None))
    }

    /// Deletes what nobody has claimed since it was planned.
    async fn remove(
        &self,
        cx: &StepContext,
        due: &Due<'_>,
        live: Option<&Value>,
        id: Option<&str>,
    ) -> Result<()> {
        if let Some(why) = live.and_then(|live| claimed(live, id)) {
            let message = format!("{} is not deleted: {why}", due.key);
            return Err(
                Error::new(ErrorKind::Conflict, message).with_hint("see who did that, then plan again")
            );
        }
        self.delete(cx, due, live).await
    }

    async fn delete(&self, cx: &StepContext, due: &Due<'_>, live: Option<&Value>) -> Result<()> {
        let Some(live) = live.filter(|live| !is_dying(live)) else { return Ok(()) };
        let path = due.object.spot(due.key).path(due.key);
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": json::uid(live)},
        });
        let what = format!("deleting {}", due.key);
        cx.before_write(&what).await?;
        match self.cluster.delete(&path, &options, &what).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Waits until an object that is being deleted is gone.
    async fn gone(&self, cx: &StepContext, key: &Key, path: &str) -> Result<()> {
        cx.progress(format!("waiting until {key} is gone, which is being deleted"));
        loop {
            match self.cluster.get(path, &format!("reading {key}")).await {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Ok(object) if is_dying(&object) => {}
                other => return other.map(drop),
            }
            self.pause(cx, &format!("{key} is being deleted, and is not gone: see its finalizers")).await?;
        }
    }

    /// Waits until new kinds are served.
    async fn established(&self, cx: &StepContext, written: &[&Due<'_>]) -> Result<()> {
        for due in written {
            let path = due.object.spot(due.key).path(due.key);
            loop {
                let object = self.cluster.get(&path, &format!("reading {}", due.key)).await?;
                if json::condition(&object, "Established").is_some_and(|c| c["status"] == "True") {
                    break;
                }
                self.pause(cx, &format!("{} is not established", due.key)).await?;
            }
        }
        Ok(())
    }

    async fn pause(&self, cx: &StepContext, why: &str) -> Result<()> {
        if Instant::now() >= cx.deadline() {
            return Err(Error::new(ErrorKind::Timeout, why));
        }
        tokio::select! {
            () = sleep(LOOK) => Ok(()),
            () = cx.cancelled() => Err(Error::new(ErrorKind::Cancelled, format!("stopped while {why}"))),
        }
    }
}

/// That something is not what the plan began from.
fn elsewhere(ends: &Ends, live: &BTreeMap<Key, Value>, what: &str) -> Error {
    match ends.strange(live).and_then(|key| live.get(key)) {
        Some(live) => conflict(live, what),
        None => Error::new(ErrorKind::Conflict, format!("changed since it was planned: {what}"))
            .with_hint("see what changed, then plan again"),
    }
}

/// Writes side by side. Once one has failed none is begun, and those under way are waited for; of several errors one that
/// may have had an effect is told.
async fn all_or_first_error<F: Future<Output = Result<()>>>(writes: Vec<F>) -> Result<()> {
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let has_failed = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let one = async |write: F| {
        if has_failed() {
            return;
        }
        if let Err(error) = write.await {
            let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_none() || error.disposition() == Disposition::Indeterminate {
                *first = Some(error);
            }
        }
    };
    together(WRITES_AT_ONCE, writes.into_iter().map(one).collect()).await;
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
