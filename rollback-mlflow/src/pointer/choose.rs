//! Which versions there are, and which one a target means.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use rollback_core::{
    Change, ChangeKind, Error, ErrorKind, FieldChange, Mark, Result, Revision, Target, Timestamp,
};
use serde_json::Value;

use super::{Content, ModelPointer, NONE, name_of};
use crate::artifact::{self, ArtifactCheck, Found};
use crate::model::{ARCHIVED, Kind, View};
use crate::moves;
use crate::wire::ModelVersion;

/// Of how many versions the history says whether their artifacts are there.
const CHECKED: usize = 20;

impl ModelPointer {
    pub(super) fn revisions(&self, view: &View, gone: &BTreeSet<String>) -> Vec<Revision> {
        let at = view.at(&self.kind);
        let moves = moves::read(view, &self.kind);
        let revision = |version: &ModelVersion| {
            let number = &version.version;
            // Of several in a stage, the server takes the highest number for the one in it.
            let current = at.first() == Some(number);
            let since = moves.first().filter(|last| current && last.to == [number.clone()]);
            let status = if version.is_ready() { String::new() } else { format!(" ({})", version.status) };
            let gone = if gone.contains(number) { " (its artifact is gone)" } else { "" };
            let summary = format!("{}{status}{gone}", version.source);
            Revision {
                id: number.clone(),
                fingerprint: Content { at: vec![number.clone()], stages: BTreeMap::new() }.fingerprint(),
                current,
                created: Timestamp::from_unix_millis(version.creation_timestamp).ok(),
                since: since.and_then(|last| last.at.parse().ok()),
                cause: version.description.lines().next().map(str::to_owned),
                mark: (!current && moves::left(&moves, number).is_some()).then_some(Mark::Left),
                summary,
            }
        };
        view.versions.iter().map(revision).collect()
    }

    /// The versions of the newest whose artifacts are certainly gone.
    pub(super) async fn gone(&self, view: &View) -> BTreeSet<String> {
        if self.options.artifact_check == ArtifactCheck::Skip {
            return BTreeSet::new();
        }
        let newest = || view.versions.iter().take(CHECKED);
        let found = join_all(newest().map(|version| self.look_for(version))).await;
        let gone = newest().zip(found).filter(|(_, found)| *found == Found::Absent);
        gone.map(|(version, _)| version.version.clone()).collect()
    }

    async fn look_for(&self, version: &ModelVersion) -> Found {
        let mut uri = version.source.clone();
        if uri.starts_with("models:") {
            // A logged model: only the server knows where it is.
            match self.registry.download_uri(&self.model, &version.version).await {
                Ok(known) => uri = known,
                Err(error) => return Found::Unknown(error.to_string()),
            }
        }
        artifact::look(&uri, &self.options.store).await
    }

    /// The versions that a target means, and what to say about the choice.
    fn choose(&self, target: &Target, view: &View) -> Result<(Vec<String>, Vec<String>)> {
        match target {
            Target::Revision(id) if id == NONE => match self.kind {
                Kind::Stage(stage) => {
                    Ok((Vec::new(), vec![format!("{stage} will be empty: nothing is promoted")]))
                }
                Kind::Alias(_) => {
                    Err(Error::new(ErrorKind::Unsupported, "an alias points to a version or is none")
                        .with_hint("remove it in MLflow, where nobody uses it any more"))
                }
            },
            Target::Revision(id) => {
                let wanted: BTreeSet<&str> = id.split('+').map(|id| id.trim_start_matches('v')).collect();
                if !wanted.iter().all(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_digit())) {
                    let message = format!("{id:?} is not a version of a model");
                    return Err(Error::new(ErrorKind::InvalidConfig, message)
                        .with_hint("versions are numbers from 1; `none` leaves a stage empty"));
                }
                Ok((wanted.into_iter().map(str::to_owned).collect(), Vec::new()))
            }
            Target::Snapshot(snapshot) => Ok((Content::of(snapshot)?.at, Vec::new())),
            Target::Previous => self.previous(view),
            Target::Artifact(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "it runs no artifact of its own that another component could name",
            )),
            Target::LastGood | Target::AsOf(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "this target needs records of what was in place, and is resolved from those",
            )),
        }
    }

    /// MLflow does not record what a pointer was at: an older version that is ready and was not just left, by
    /// preference one that is in the stage as well, then the one that the promotion of the present one archived, then
    /// any that is archived.
    fn previous(&self, view: &View) -> Result<(Vec<String>, Vec<String>)> {
        let at = view.at(&self.kind);
        let Some(current) = at.first().map(|version| version.parse::<u64>().unwrap_or_default()) else {
            let message = format!("{} is at no version, so none came before", self.kind);
            let aliases: Vec<_> = view.model.aliases.iter().map(|known| known.alias.as_str()).collect();
            let hint = match aliases.as_slice() {
                [] => "name one with --to-revision".to_owned(),
                all => format!(
                    "aliases point to its versions: --alias {}; or name one with --to-revision",
                    all.join(", --alias ")
                ),
            };
            return Err(Error::new(ErrorKind::NotFound, message).with_hint(hint));
        };
        let moves = moves::read(view, &self.kind);
        let mut notes = Vec::new();
        let mut older: Vec<&ModelVersion> = Vec::new();
        for version in view.versions.iter().filter(|v| v.number() < current) {
            if let Some(last) =
                moves::left(&moves, &version.version).filter(|_| !at.contains(&version.version))
            {
                notes.push(format!(
                    "version {} was left by a rollback at {} by {}, and is skipped",
                    version.version, last.at, last.by
                ));
            } else if version.is_ready() {
                older.push(version);
            }
        }
        // One transition gives all versions that it touches the same time, to the millisecond.
        let promoted = at.first().and_then(|version| view.version(version));
        let promoted = promoted.filter(|version| version.last_updated_timestamp != 0);
        let by_one_transition = |version: &ModelVersion| {
            promoted.is_some_and(|now| now.last_updated_timestamp == version.last_updated_timestamp)
        };
        let rank = |version: &&&ModelVersion| match &self.kind {
            Kind::Alias(_) => 0,
            Kind::Stage(_) if at.contains(&version.version) => 0,
            Kind::Stage(_) if version.current_stage != ARCHIVED => 3,
            Kind::Stage(_) if by_one_transition(version) => 1,
            Kind::Stage(_) => 2,
        };
        let Some(chosen) =
            older.iter().min_by_key(|version| (rank(version), std::cmp::Reverse(version.number())))
        else {
            let hint = "see the versions with: rollback history; name one with --to-revision";
            let hint =
                if notes.is_empty() { hint.to_owned() } else { format!("{}; {hint}", notes.join("; ")) };
            return Err(Error::new(ErrorKind::NotFound, "no earlier version to return to").with_hint(hint));
        };
        let why = if rank(&chosen) == 1 { ", by the time at which it was archived" } else { "" };
        notes.push(format!(
            "MLflow keeps no history of its pointers: that version {} came before is a guess{why}",
            chosen.version
        ));
        Ok((vec![chosen.version.clone()], notes))
    }

    /// Refuses a version that cannot serve.
    async fn check(&self, view: &View, version: &str, notes: &mut Vec<String>) -> Result<()> {
        let Some(known) = view.version(version) else {
            let all: Vec<_> = view.versions.iter().map(|known| known.version.as_str()).collect();
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("model {} has no version {version}", self.model),
            )
            .with_hint(format!("the versions are: {}", all.join(", "))));
        };
        if !known.is_ready() {
            let message =
                format!("version {version} is not ready: {} {}", known.status, known.status_message);
            return Err(Error::new(ErrorKind::Refused, message.trim_end())
                .with_hint("choose a version that is READY"));
        }
        if self.options.artifact_check == ArtifactCheck::Skip {
            return Ok(());
        }
        match self.look_for(known).await {
            Found::There => Ok(()),
            Found::Absent if self.options.force => {
                notes.push(format!("the artifact of version {version} is gone: {}", known.source));
                Ok(())
            }
            Found::Absent => Err(Error::new(
                ErrorKind::Refused,
                format!("the artifact of version {version} is gone: there is nothing at {}", known.source),
            )
            .with_hint("choose another version, or go on all the same with --force")),
            Found::Unknown(why) if self.options.artifact_check == ArtifactCheck::Require => Err(Error::new(
                ErrorKind::Refused,
                format!("whether the artifact of version {version} is there cannot be told: {why}"),
            )
            .with_hint("give access to its store, or go on with --artifact-check=warn")),
            Found::Unknown(why) => {
                notes.push(format!("the artifact of version {version} was not checked: {why}"));
                Ok(())
            }
        }
    }

    pub(super) async fn plan(&self, target: &Target) -> Result<Change> {
        let view = self.view().await?;
        let at = view.at(&self.kind);
        if at.is_empty()
            && let Kind::Alias(alias) = &self.kind
        {
            let known: Vec<_> = view.model.aliases.iter().map(|known| known.alias.as_str()).collect();
            let message = format!("model {} has no alias {alias}", self.model);
            return Err(Error::new(ErrorKind::NotFound, message).with_hint(format!(
                "its aliases are: {}",
                if known.is_empty() { "none".into() } else { known.join(", ") }
            )));
        }
        let has_stages =
            view.versions.is_empty() || view.versions.iter().any(|v| !v.current_stage.is_empty());
        if matches!(self.kind, Kind::Stage(_)) && !has_stages {
            return Err(Error::new(ErrorKind::Unsupported, "this server has no stages")
                .with_hint("use an alias: --alias champion"));
        }
        let (mut wanted, mut notes) = self.choose(target, &view)?;
        if matches!(self.kind, Kind::Stage(_)) && at.is_empty() && !view.model.aliases.is_empty() {
            notes.push("no version is in the stage now, and aliases point to some: who loads by an alias sees nothing of this".into());
        }
        if matches!(self.kind, Kind::Alias(_)) && wanted.len() != 1 {
            let message = format!("{} points to one version, and not to {}", self.kind, name_of(&wanted));
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint("name one version"));
        }
        wanted.sort_by_key(|version| std::cmp::Reverse(version.parse::<u64>().unwrap_or_default()));
        if let (Kind::Stage(stage), [_, _, ..]) = (&self.kind, at.as_slice()) {
            notes.push(format!("versions {} are all in {stage} now", at.join(", ")));
        }
        // A recorded state also knows the stages that the versions in the stage now had then.
        let recorded = match target {
            Target::Snapshot(snapshot) => Content::of(snapshot)?.stages,
            _ => BTreeMap::new(),
        };
        let touched: BTreeSet<String> = at.iter().chain(&wanted).cloned().collect();
        let (mut from, mut to) = (
            Content { at: at.clone(), stages: BTreeMap::new() },
            Content { at: wanted.clone(), stages: BTreeMap::new() },
        );
        if matches!(self.kind, Kind::Stage(_)) {
            from.stages = view.stages(touched.clone());
        }
        if wanted != at {
            for version in &wanted {
                self.check(&view, version, &mut notes).await?;
            }
            if let Kind::Stage(stage) = &self.kind {
                let after = |version: String| {
                    let stage = match recorded.get(&version) {
                        _ if wanted.contains(&version) => stage.to_string(),
                        Some(Some(recorded)) if *recorded != stage.to_string() => recorded.clone(),
                        _ => ARCHIVED.to_owned(),
                    };
                    (version, Some(stage))
                };
                to.stages = touched.into_iter().map(after).collect();
            }
            if let Some(loaded) = at.first() {
                notes.push(format!(
                    "whoever has loaded version {loaded} keeps it until the model is loaded again"
                ));
            }
        }
        let (before, after) = (Self::snapshot(&view, &from), Self::snapshot(&view, &to));
        let after = if wanted == at { before.clone() } else { after };
        Ok(Change {
            component: self.id.clone(),
            realm: self.registry.realm(),
            kind: ChangeKind::Rollback,
            diff: if wanted == at { Vec::new() } else { self.differences(&from, &to) },
            from: before,
            to: after,
            identity: Some(view.identity()),
            warnings: notes,
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: None,
        })
    }

    fn differences(&self, from: &Content, to: &Content) -> Vec<FieldChange> {
        let some = |value: Option<&String>| value.map(|text| Value::from(text.as_str()));
        match &self.kind {
            Kind::Alias(alias) => vec![FieldChange {
                path: format!("/aliases/{alias}"),
                from: some(from.at.first()),
                to: some(to.at.first()),
            }],
            Kind::Stage(_) => {
                let moved =
                    from.stages.iter().filter(|(version, stage)| to.stages.get(*version) != Some(*stage));
                let field = |(version, stage): (&String, &Option<String>)| FieldChange {
                    path: format!("/versions/{version}/stage"),
                    from: some(stage.as_ref()),
                    to: some(to.stages.get(version).and_then(Option::as_ref)),
                };
                moved.map(field).collect()
            }
        }
    }
}
