//! What points to the version that is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rollback_core::{
    Change, ChangeKind, ComponentId, Disposition, Error, ErrorKind, FieldChange, Fingerprint, Mark, Position,
    Realm, Result, Revision, Rollbackable, Snapshot, StepContext, Target, Timestamp, Verification,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::artifact::{self, ArtifactCheck, Found, StoreOptions};
use crate::client::Registry;
use crate::model::{ARCHIVED, Kind, Stage, View};
use crate::moves::{self, Move};
use crate::wire::ModelVersion;

/// The id of no version at all.
const NONE: &str = "none";
/// Of how many versions the history says whether their artifacts are there.
const CHECKED: usize = 20;
/// How often a tag is tried.
const TAG_ATTEMPTS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How a pointer is moved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PointerOptions {
    /// What to do where an artifact store cannot be asked.
    pub artifact_check: ArtifactCheck,
    /// How artifact stores are reached, beside what the environment says.
    pub store: StoreOptions,
    /// Whether to go on although the target's artifact is gone.
    pub force: bool,
    /// For how long after a move it is watched whether somebody else moves the pointer as well: the server has no
    /// compare-and-set. Default: 5 s.
    pub settle: Duration,
}

impl Default for PointerOptions {
    fn default() -> Self {
        Self {
            artifact_check: ArtifactCheck::default(),
            store: StoreOptions::default(),
            force: false,
            settle: Duration::from_secs(5),
        }
    }
}

/// The pointer of a registered model to the version in use: an alias, or a stage.
///
/// A stage is moved by one transition that promotes the target and archives what was there, so no moment is
/// without a version in it. The change knows the stages that every touched version had, and its reversal brings
/// them back; it does not bring back tags.
///
/// The server has no compare-and-set, and its transitions are not isolated: the pointer is read before and after
/// each write, and for a while more. What somebody else moved meanwhile is a conflict that is told, not undone.
#[derive(Clone, Debug)]
pub struct ModelPointer {
    registry: Registry,
    model: String,
    kind: Kind,
    id: ComponentId,
    options: PointerOptions,
}

/// The content of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    /// The versions that the pointer is at: its identity.
    at: Vec<String>,
    /// The stages of all versions that the change touches; none of an alias.
    #[serde(default)]
    stages: BTreeMap<String, Option<String>>,
}

impl Content {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&json!({"at": self.at}))
    }

    fn of(snapshot: &Snapshot) -> Result<Self> {
        let content: Self = Deserialize::deserialize(&snapshot.content).map_err(|e| {
            Error::new(ErrorKind::InvalidPlan, "the snapshot does not hold a model's pointer").with_source(e)
        })?;
        if content.fingerprint() == snapshot.fingerprint {
            return Ok(content);
        }
        let message = format!("the content of revision {} is not what was planned", snapshot.id);
        Err(Error::new(ErrorKind::InvalidPlan, message).with_hint("plan again"))
    }
}

impl ModelPointer {
    /// The alias of a model, such as `champion`. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that the server would not take.
    pub fn alias(registry: &Registry, model: &str, alias: &str, options: PointerOptions) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let lower = alias.to_ascii_lowercase();
        let is_number =
            lower.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
        if alias.is_empty()
            || alias.len() > 255
            || !alias.chars().all(plain)
            || lower == "latest"
            || is_number
        {
            let message = format!("{alias:?} cannot be the alias of a model");
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(
                "letters, digits, '_' and '-'; `latest` and `v` with a number are the server's own",
            ));
        }
        // An alias may have the name of a stage.
        let is_stage = matches!(lower.as_str(), "none" | "staging" | "production" | "archived");
        let name = if is_stage { format!("alias:{alias}") } else { alias.to_owned() };
        Self::new(registry, model, &name, Kind::Alias(alias.to_owned()), options)
    }

    /// A stage of a model. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a model without a name.
    pub fn stage(registry: &Registry, model: &str, stage: Stage, options: PointerOptions) -> Result<Self> {
        let name = stage.to_string().to_ascii_lowercase();
        Self::new(registry, model, &name, Kind::Stage(stage), options)
    }

    fn new(
        registry: &Registry,
        model: &str,
        name: &str,
        kind: Kind,
        options: PointerOptions,
    ) -> Result<Self> {
        if model.is_empty() {
            return Err(Error::new(ErrorKind::InvalidConfig, "the model has no name"));
        }
        if model.contains('\'') && model.contains('"') {
            let message =
                format!("{model:?} cannot be searched for: MLflow's filters have no escape for quotes");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        // Names of models may hold what those of components may not.
        let plain: String = model
            .chars()
            .map(|c| {
                if c.is_whitespace() || c.is_control() || c == '%' {
                    utf8_percent_encode(&c.to_string(), NON_ALPHANUMERIC).to_string()
                } else {
                    c.into()
                }
            })
            .collect();
        let id = ComponentId::new("model", None, &format!("{plain}@{name}"))?;
        Ok(Self { registry: registry.clone(), model: model.to_owned(), kind, id, options })
    }

    /// Names this pointer in an error.
    fn own(&self, error: Error) -> Error {
        error.with_component(&self.id)
    }

    async fn view(&self) -> Result<View> {
        let (model, versions) =
            futures::try_join!(self.registry.model(&self.model), self.registry.versions(&self.model))?;
        Ok(View { model, versions })
    }

    fn snapshot(view: &View, content: &Content) -> Snapshot {
        let source = |version: &String| {
            let source = view.version(version).map(|known| known.source.as_str()).unwrap_or_default();
            format!("v{version} {source}").trim_end().to_owned()
        };
        Snapshot {
            id: name_of(&content.at),
            fingerprint: content.fingerprint(),
            summary: if content.at.is_empty() {
                "no version".into()
            } else {
                content.at.iter().map(source).collect::<Vec<_>>().join(", ")
            },
            content: serde_json::to_value(content).unwrap_or_default(),
        }
    }

    fn revisions(&self, view: &View, gone: &BTreeSet<String>) -> Vec<Revision> {
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
    async fn gone(&self, view: &View) -> BTreeSet<String> {
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
            Target::LastGood | Target::AsOf(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "this target needs records of what was in place, and is resolved from those",
            )),
        }
    }

    /// MLflow does not record what a pointer was at: an older version that is ready and was not just left, by
    /// preference one that is in the stage as well, then one that was archived.
    fn previous(&self, view: &View) -> Result<(Vec<String>, Vec<String>)> {
        let at = view.at(&self.kind);
        let Some(current) = at.first().map(|version| version.parse::<u64>().unwrap_or_default()) else {
            let message = format!("{} is at no version, so none came before", self.kind);
            return Err(Error::new(ErrorKind::NotFound, message).with_hint("name one with --to-revision"));
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
        let rank = |version: &&&ModelVersion| match &self.kind {
            Kind::Alias(_) => 0,
            Kind::Stage(_) if at.contains(&version.version) => 0,
            Kind::Stage(_) if version.current_stage == ARCHIVED => 1,
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
        notes.push(format!(
            "MLflow keeps no history of its pointers: that version {} came before is a guess",
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

    async fn plan(&self, target: &Target) -> Result<Change> {
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
        let (mut wanted, mut notes) = self.choose(target, &view)?;
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

    /// Where the pointer stands, and of a stage every version that the change touches.
    fn position(&self, view: &View, change: &Change, from: &Content, to: &Content) -> Position {
        if change.identity.as_deref() != Some(view.identity().as_str()) {
            return Position::Elsewhere("another model of the same name".into());
        }
        let at = view.at(&self.kind);
        let mut parts = vec![(self.kind.to_string(), at == from.at, at == to.at)];
        if let Kind::Stage(stage) = &self.kind {
            // On the way the stage may hold what both sides have.
            let strange = |version: &&String| !from.at.contains(version) && !to.at.contains(version);
            parts.clear();
            parts.extend(
                at.iter()
                    .filter(strange)
                    .map(|version| (format!("version {version} is in {stage}"), false, false)),
            );
            let live = view.stages(from.stages.keys().chain(to.stages.keys()).cloned());
            for (version, stage) in &live {
                let is = |side: &Content| side.stages.get(version) == Some(stage);
                let stage = stage.as_deref().unwrap_or("gone");
                parts.push((format!("version {version} is {stage}"), is(from), is(to)));
            }
        }
        Position::of_parts(parts)
    }

    fn conflict(&self, view: &View, what: &str) -> Error {
        let newest = view.versions.iter().max_by_key(|version| version.last_updated_timestamp);
        let when = newest.and_then(|version| {
            let at = Timestamp::from_unix_millis(version.last_updated_timestamp).ok()?;
            Some(format!("; version {} was changed last, at {at}", version.version))
        });
        let run = moves::read(view, &self.kind).into_iter().next();
        let run =
            run.map(|last| format!("; the last rollback is run {} by {}, at {}", last.run, last.by, last.at));
        let message = format!(
            "changed since it was planned: {what}{}{}",
            when.unwrap_or_default(),
            run.unwrap_or_default()
        );
        Error::new(ErrorKind::Conflict, message).with_hint("see what changed, then plan again")
    }

    async fn carry_out(&self, cx: &StepContext, change: &Change) -> Result<()> {
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

    async fn watch(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let (from, to) = (Content::of(&change.from)?, Content::of(&change.to)?);
        let mut since: Option<Instant> = None;
        loop {
            let view = self.view().await?;
            match self.position(&view, change, &from, &to) {
                Position::To => {}
                Position::Elsewhere(what) => {
                    return Ok(Verification::failed(self.conflict(&view, &what).to_string()));
                }
                Position::From | Position::Between => {
                    return Ok(Verification::failed(format!(
                        "the change is not applied, or was taken back: {} is at {}",
                        self.kind,
                        name_of(&view.at(&self.kind))
                    )));
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

    async fn look(&self) -> Result<Verification> {
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

fn name_of(versions: &[String]) -> String {
    if versions.is_empty() { NONE.to_owned() } else { versions.join("+") }
}

#[async_trait]
impl Rollbackable for ModelPointer {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        Ok(self.registry.realm())
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        let view = self.view().await.map_err(|e| self.own(e))?;
        let gone = self.gone(&view).await;
        Ok(self.revisions(&view, &gone))
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        self.plan(target).await.map(|change| vec![change]).map_err(|e| self.own(e))
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        let (from, to) = (Content::of(&change.from)?, Content::of(&change.to)?);
        let view = self.view().await.map_err(|e| self.own(e))?;
        Ok(self.position(&view, change, &from, &to))
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        self.carry_out(cx, change).await.map_err(|e| self.own(e))
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        self.watch(cx, change).await.map_err(|e| self.own(e))
    }

    async fn status(&self) -> Result<Verification> {
        self.look().await.map_err(|e| self.own(e))
    }

    fn keeps_history(&self) -> bool {
        false
    }
}
