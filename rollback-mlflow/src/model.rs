//! A model with its versions as they are at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rollback_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::wire::{ModelVersion, RegisteredModel};

/// A stage that has a version at work in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// What serves.
    #[default]
    Production,
    /// What is tried before.
    Staging,
}

/// The stage of versions that have served.
pub(crate) const ARCHIVED: &str = "Archived";

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Stage {
    type Err = Error;

    /// Reads `Production` or `Staging`, in any case, as the server does.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "production" => Ok(Self::Production),
            "staging" => Ok(Self::Staging),
            _ => Err(Error::new(ErrorKind::InvalidConfig, format!("{text:?} is no stage to return to"))
                .with_hint("the stages with a version at work are Production and Staging")),
        }
    }
}

/// What points to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Alias(String),
    Stage(Stage),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(alias) => write!(f, "alias {alias}"),
            Self::Stage(stage) => write!(f, "stage {stage}"),
        }
    }
}

/// What was read.
pub(crate) struct View {
    pub(crate) model: RegisteredModel,
    /// The highest number first.
    pub(crate) versions: Vec<ModelVersion>,
}

impl View {
    /// What tells this model from another of the same name.
    pub(crate) fn identity(&self) -> String {
        self.model.creation_timestamp.to_string()
    }

    pub(crate) fn version(&self, version: &str) -> Option<&ModelVersion> {
        self.versions.iter().find(|known| known.version == version)
    }

    /// The versions that the pointer is at, the highest number first: of an alias one at most.
    pub(crate) fn at(&self, kind: &Kind) -> Vec<String> {
        match kind {
            Kind::Alias(alias) => {
                let own = self.model.aliases.iter().filter(|known| known.alias == *alias);
                own.map(|alias| alias.version.clone()).collect()
            }
            Kind::Stage(stage) => {
                let stage = stage.to_string();
                let own = self.versions.iter().filter(|known| known.current_stage == stage);
                own.map(|version| version.version.clone()).collect()
            }
        }
    }

    /// The stages of these versions; none for one that does not exist.
    pub(crate) fn stages(
        &self,
        versions: impl IntoIterator<Item = String>,
    ) -> BTreeMap<String, Option<String>> {
        let stage = |version: &String| self.version(version).map(|known| known.current_stage.clone());
        versions.into_iter().map(|version| (version.clone(), stage(&version))).collect()
    }

    pub(crate) fn tag(&self, key: &str) -> Option<&str> {
        self.model.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }
}
