//! What points to the version that is in use.

mod carry_out;
mod choose;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rollback_core::{
    Change, ComponentId, Error, ErrorKind, Fingerprint, Position, Realm, Result, Revision, Rollbackable,
    Snapshot, StepContext, Target, Timestamp, Verification,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::artifact::{ArtifactCheck, StoreOptions};
use crate::client::Registry;
use crate::model::{Kind, Stage, View};
use crate::moves;

/// The id of no version at all.
const NONE: &str = "none";

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

    /// Where the pointer stands, and of a stage every version that the change touches.
    fn position(&self, view: &View, change: &Change, from: &Content, to: &Content) -> Position {
        if change.identity.as_deref() != Some(view.identity().as_str()) {
            return Position::Elsewhere("another model of the same name".into());
        }
        let at = view.at(&self.kind);
        let is_at = format!("{} is at {}", self.kind, name_of(&at));
        let mut parts = vec![(is_at, at == from.at, at == to.at)];
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
        // Moving an alias leaves no time on a version.
        let staged = view.versions.iter().filter(|_| matches!(self.kind, Kind::Stage(_)));
        let newest = staged.max_by_key(|version| version.last_updated_timestamp);
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

    async fn artifact(&self, revision: &str) -> Result<Option<String>> {
        if revision.is_empty() || !revision.chars().all(|c| c.is_ascii_digit()) {
            return Ok(None);
        }
        self.registry.download_uri(&self.model, revision).await.map(Some).map_err(|e| self.own(e))
    }

    fn keeps_history(&self) -> bool {
        false
    }
}
