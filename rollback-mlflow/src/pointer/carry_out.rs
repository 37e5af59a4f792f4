//! Moving a pointer, telling so in tags, and watching that it stays.

use std::collections::BTreeSet;
use std::time::Duration;

use rollback_core::{Change, Disposition, Error, ErrorKind, Position, Result, StepContext, Verification};
use tokio::time::{Instant, sleep};

use super::{Content, ModelPointer, name_of};
use crate::model::{ARCHIVED, Kind, Stage, View};
use crate::moves::{self, Move};
use crate::wire::ModelVersion;

/// How often a tag is tried.
const TAG_ATTEMPTS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl ModelPointer {
    pub(super) async fn carry_out(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let (from, to) = (Content::of(&change.from)?, Content::of(&change.to)?);
        let view = self.view().await?;
        match self.position(&view, change, &from, &to) {
            Position::Elsewhere(what) => return Err(self.conflict(&view, &what)),
            Position::To => {
                // A process before this one may have come no further than the move.
                let told = moves::read(&view, &self.kind);
                let is_told = told.first().is_some_and(|last| {
                    last.to == to.at && (cx.attempt() == 1 || last.run == cx.run().to_string())
                });
                return if is_told || from == to { Ok(()) } else { self.tell(cx, &view, &from, &to).await };
            }
            Position::From | Position::Between => {}
        }
        let moved = match &self.kind {
            Kind::Alias(alias) => self.move_alias(cx, alias, &view, &to).await,
            Kind::Stage(stage) => self.move_stages(cx, *stage, &view, &to).await,
        };
        if moved.as_ref().is_err_and(|error| error.disposition() != Disposition::Indeterminate) {
            return moved;
        }
        // Where the answer was lost and the move was not, what is left to do is to tell.
        let after = match (self.view().await, moved) {
            (Ok(after), Err(lost)) if self.position(&after, change, &from, &to) != Position::To => {
                return Err(lost);
            }
            (Err(_), Err(lost)) => return Err(lost),
            (after, _) => after?,
        };
        if let Some(what) = self.foreign(&view, &after, &to) {
            return Err(self.conflict(&after, &what));
        }
        self.tell(cx, &after, &from, &to).await
    }

    async fn move_alias(&self, cx: &StepContext, alias: &str, view: &View, to: &Content) -> Result<()> {
        let [version] = to.at.as_slice() else {
            return Err(Error::new(ErrorKind::InvalidPlan, "an alias points to one version"));
        };
        cx.before_write(&format!("moving alias {alias} of {} to version {version}", self.model)).await?;
        // Nothing tells afterwards what was overwritten, so the last look is as late as can be.
        let now = View { model: self.registry.model(&self.model).await?, versions: Vec::new() };
        if now.identity() != view.identity() || now.at(&self.kind) != view.at(&self.kind) {
            cx.write_rejected();
            return Err(self.conflict(&now, &format!("{} is at {}", self.kind, name_of(&now.at(&self.kind)))));
        }
        self.registry.set_alias(&self.model, alias, version).await
    }

    /// First what is to be in the stage, so that it is never empty; then what is not.
    async fn move_stages(&self, cx: &StepContext, stage: Stage, view: &View, to: &Content) -> Result<()> {
        let stage = stage.to_string();
        let mut live = view.stages(to.stages.keys().cloned());
        let order = to.at.iter().chain(to.stages.keys().filter(|version| !to.at.contains(version)));
        for version in order {
            let Some(Some(wanted)) = to.stages.get(version) else { continue };
            if live.get(version) == Some(&Some(wanted.clone())) {
                continue;
            }
            // One call archives whatever else is there, which the rest of this loop then finds done: where all of
            // that is to be archived, so that every version is always as it was or as it is to be.
            let in_stage = Some(stage.clone());
            let archived = Some(ARCHIVED.to_owned());
            let others: Vec<_> = live
                .iter()
                .filter(|&(other, at)| other != version && *at == in_stage)
                .map(|(other, _)| to.stages.get(other) == Some(&archived))
                .collect();
            let archive = *wanted == stage && !others.is_empty() && !others.contains(&false);
            cx.before_write(&format!("moving version {version} of {} to {wanted}", self.model)).await?;
            self.registry.transition(&self.model, version, wanted, archive).await?;
            if archive {
                for (_, at) in live.iter_mut().filter(|(_, at)| **at == Some(stage.clone())) {
                    *at = Some(ARCHIVED.to_owned());
                }
            }
            live.insert(version.clone(), Some(wanted.clone()));
        }
        Ok(())
    }

    /// What somebody else moved between two looks.
    fn foreign(&self, before: &View, after: &View, to: &Content) -> Option<String> {
        let at = after.at(&self.kind);
        if at != to.at {
            return Some(format!("{} is at {} and not at {}", self.kind, name_of(&at), name_of(&to.at)));
        }
        let Kind::Stage(_) = self.kind else { return None };
        let expected = |version: &ModelVersion| {
            to.stages
                .get(&version.version)
                .cloned()
                .flatten()
                .unwrap_or_else(|| version.current_stage.clone())
        };
        before.versions.iter().find_map(|version| {
            let stage = after.version(&version.version).map_or("gone", |now| now.current_stage.as_str());
            // Of the versions beside, one that is archived by now may have come into the stage meanwhile, and
            // have been archived by the promotion.
            let ours = to.stages.contains_key(&version.version) || stage == ARCHIVED;
            (ours && stage != expected(version)).then(|| format!("version {} is {stage}", version.version))
        })
    }

    /// Tells in tags what was moved. What cannot be told does not undo what was done.
    async fn tell(&self, cx: &StepContext, view: &View, from: &Content, to: &Content) -> Result<()> {
        let new = Move::new(cx, from.at.clone(), to.at.clone());
        let versions: BTreeSet<&String> = from.at.iter().chain(&to.at).collect();
        for version in versions.into_iter().filter(|version| view.version(version).is_some()) {
            self.tag(cx, view, Some(version), &new).await?;
        }
        // Last, since it says that all is told.
        self.tag(cx, view, None, &new).await
    }

    /// Tells a move in the tag of a version, or of the model, unless it is told there.
    async fn tag(&self, cx: &StepContext, view: &View, version: Option<&str>, new: &Move) -> Result<()> {
        let of = version.map(|version| format!("version {version} of ")).unwrap_or_default();
        let (key, mut later) = (moves::key(&self.kind), None);
        for left in (0..TAG_ATTEMPTS).rev() {
            let view = later.as_ref().unwrap_or(view);
            if moves::is_told(view, &self.kind, version, new) {
                return Ok(());
            }
            match cx.before_write(&format!("tagging {of}{}", self.model)).await {
                // Too late for tags is not too late for the move.
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    self.untold(cx, &error);
                    return Ok(());
                }
                gate => gate?,
            }
            let value = moves::text(view, &self.kind, version, new);
            let Err(error) = self.registry.tag(&self.model, version, &key, &value).await else {
                return Ok(());
            };
            if error.disposition() != Disposition::Indeterminate {
                cx.write_rejected();
            }
            if left == 0 || error.disposition() == Disposition::Permanent {
                self.untold(cx, &error);
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
            match self.view().await {
                Ok(now) => later = Some(now),
                Err(error) => {
                    self.untold(cx, &error);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn untold(&self, cx: &StepContext, error: &Error) {
        tracing::warn!(component = %self.id, %error, "a tag is missing");
        cx.progress(format!("a tag is missing: {error}"));
    }

    pub(super) async fn watch(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let (from, to) = (Content::of(&change.from)?, Content::of(&change.to)?);
        let mut since: Option<Instant> = None;
        loop {
            let view = self.view().await?;
            match self.position(&view, change, &from, &to) {
                Position::To => {}
                Position::Elsewhere(what) => {
                    return Err(self.conflict(&view, &what));
                }
                Position::From | Position::Between => {
                    let at = name_of(&view.at(&self.kind));
                    let what = format!("it is not applied, or was taken back: {} is at {at}", self.kind);
                    return Ok(Verification::failed(self.conflict(&view, &what).to_string()));
                }
            }
            let begun = *since.get_or_insert_with(Instant::now);
            if begun.elapsed() >= self.options.settle {
                return Ok(Verification::converged(format!(
                    "{} is at version {}",
                    self.kind,
                    name_of(&to.at)
                )));
            }
            if Instant::now() >= cx.deadline() {
                return Ok(Verification::progressing("whether somebody else moves it is still watched"));
            }
            cx.progress("watching whether somebody else moves it as well");
            tokio::select! {
                () = sleep(LOOK_AGAIN.min(self.options.settle)) => {}
                () = cx.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "stopped while the pointer was watched"));
                }
            }
        }
    }

    pub(super) async fn look(&self) -> Result<Verification> {
        let view = self.view().await?;
        let at = view.at(&self.kind);
        Ok(match at.as_slice() {
            [] => Verification::failed(format!("no version of {} is at {}", self.model, self.kind)),
            [one] => Verification::converged(format!("{} is at version {one}", self.kind)),
            several => {
                Verification::failed(format!("versions {} are all in {}", several.join(", "), self.kind))
            }
        })
    }
}
