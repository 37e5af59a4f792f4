//! Watching until everything has settled, together and with one deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use rollback_core::{
    Change, Error, ErrorKind, Position, Result, StepContext, Verification, VerificationState,
};
use rollback_k8s::{Workload, WorkloadKind, WorkloadOptions};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::carry_out::Look;
use super::content::{Content, Ends};
use super::health::health;
use super::key::Key;
use super::standing::short;
use super::{KustomizeEnvironment, Spot};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Of how many objects that have not settled the message tells why.
const TOLD: usize = 3;

impl KustomizeEnvironment {
    pub(super) async fn watch(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let ends = Ends::of(change)?;
        let spots = self.watched(&ends.to).await?;
        let (mut failing_since, mut settled_since): (Option<Instant>, Option<Instant>) = (None, None);
        let mut last = String::new();
        loop {
            let Look { live: touched, position, .. } = self.look_at(&ends).await?;
            let mut seen = match position {
                Position::To => self.health_of(&spots).await?,
                Position::From | Position::Between => Verification::progressing("it is not wholly applied"),
                Position::Elsewhere(what) => {
                    return Ok(Verification::failed(taken_back(&ends, &touched, &what)));
                }
            };
            if seen.state == VerificationState::Failed {
                // It may be left over from before.
                let since = *failing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.options.grace {
                    return Ok(seen);
                }
                seen.state = VerificationState::Progressing;
            } else {
                failing_since = None;
            }
            if seen.is_converged() {
                let since = *settled_since.get_or_insert_with(Instant::now);
                let is_contested = touched.values().any(|live| self.options.gitops.is_contested(live));
                if !is_contested || since.elapsed() >= self.options.contested_soak {
                    return Ok(seen);
                }
                seen = Verification::progressing("settled; watching that nobody takes it back");
            } else {
                settled_since = None;
            }
            if Instant::now() >= cx.deadline() {
                return Ok(seen);
            }
            if seen.message != last {
                last.clone_from(&seen.message);
                cx.progress(seen.message.as_str());
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = sleep_until(cx.deadline()) => {}
                () = cx.cancelled() => {
                    let message = "stopped while waiting for the environment to settle";
                    return Err(Error::new(ErrorKind::Cancelled, message));
                }
            }
        }
    }

    /// The objects that have to settle: all of the state, or of a partial change those that it touches.
    async fn watched(&self, content: &Content) -> Result<BTreeMap<Key, Spot>> {
        let mut all = BTreeMap::new();
        if content.picked.is_empty() && !content.commit.is_empty() {
            let side = self.side_at(&content.revision, &content.commit, &content.path).await?;
            all.extend(side.objects.into_iter().map(|(key, wanted)| (key, wanted.spot)));
        }
        let touched = content.objects.iter().filter_map(|(key, object)| {
            let spot = object.as_ref()?.spot(key);
            Some((key.clone(), spot))
        });
        all.extend(touched);
        Ok(all)
    }

    /// How all of these stand: failed when one has, settled when all have.
    async fn health_of(&self, spots: &BTreeMap<Key, Spot>) -> Result<Verification> {
        let live = self.live(spots.iter().collect()).await?;
        let mut open: Vec<(&Key, Verification)> = spots
            .keys()
            .map(|key| (key, health(key, live.get(key))))
            .filter(|(_, seen)| !seen.is_converged())
            .collect();
        if open.is_empty() {
            return Ok(Verification::converged(format!("all {} objects have settled", spots.len())));
        }
        let count = open.len();
        open.sort_by_key(|(_, seen)| seen.state != VerificationState::Failed);
        open.truncate(TOLD);
        // Their pods say more.
        for (key, seen) in &mut open {
            if let Some(workload) = self.workload(key)
                && let Ok(closer) = rollback_core::Rollbackable::status(&workload).await
                && !closer.is_converged()
            {
                *seen = Verification { message: format!("{key}: {}", closer.message), ..closer };
            }
        }
        let has_failed = open.iter().any(|(_, seen)| seen.state == VerificationState::Failed);
        let told: Vec<_> = open.iter().map(|(_, seen)| seen.message.as_str()).collect();
        let more =
            if count > told.len() { format!("; and {} more", count - told.len()) } else { String::new() };
        let message =
            format!("{count} of {} objects have not settled: {}{more}", spots.len(), told.join("; "));
        Ok(if has_failed { Verification::failed(message) } else { Verification::progressing(message) })
    }

    fn workload(&self, key: &Key) -> Option<Workload> {
        let kind: WorkloadKind = key.kind.parse().ok().filter(|_| key.group == "apps")?;
        Workload::new(&self.cluster, kind, key.namespace.as_deref()?, &key.name, WorkloadOptions::default())
            .ok()
    }

    pub(super) async fn look(&self) -> Result<Verification> {
        let standing = self.standing(None).await?;
        let Some(side) = standing.side else {
            let message = "what runs matches no revision of the repository";
            return Ok(Verification { notes: standing.notes, ..Verification::progressing(message) });
        };
        let spots = side.objects.iter().map(|(key, wanted)| (key.clone(), wanted.spot.clone())).collect();
        let mut seen = self.health_of(&spots).await?;
        seen.message = format!("{} ({}): {}", side.name, short(&side.commit.id), seen.message);
        seen.notes = standing.notes;
        if !standing.is_exact {
            seen.notes.push("not all of it is as the revision has it".into());
        }
        Ok(seen)
    }
}

/// What somebody else made of it since.
fn taken_back(ends: &Ends, live: &BTreeMap<Key, Value>, what: &str) -> String {
    let strange = ends.strange(live).and_then(|key| live.get(key));
    let writer = strange.and_then(rollback_k8s::backend::last_writer);
    let by = writer.map(|(at, manager)| format!(", last written by {manager} at {at}"));
    format!("changed since it was applied: {what}{}", by.unwrap_or_default())
}
