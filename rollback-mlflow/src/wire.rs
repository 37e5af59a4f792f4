//! What the REST API says, as far as it is needed. Empty lists are left out of its answers.

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RegisteredModel {
    pub(crate) creation_timestamp: i64,
    #[serde(default)]
    pub(crate) aliases: Vec<Alias>,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Alias {
    pub(crate) alias: String,
    pub(crate) version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ModelVersion {
    pub(crate) version: String,
    pub(crate) creation_timestamp: i64,
    #[serde(default)]
    pub(crate) last_updated_timestamp: i64,
    #[serde(default)]
    pub(crate) current_stage: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) status_message: String,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
}

impl ModelVersion {
    pub(crate) fn number(&self) -> u64 {
        self.version.parse().unwrap_or_default()
    }

    pub(crate) fn is_ready(&self) -> bool {
        // Old servers leave the status out.
        matches!(self.status.as_str(), "READY" | "")
    }
}

#[derive(Deserialize)]
pub(crate) struct ModelAnswer {
    pub(crate) registered_model: RegisteredModel,
}

#[derive(Deserialize)]
pub(crate) struct ModelsAnswer {
    #[serde(default)]
    pub(crate) registered_models: Vec<Named>,
    #[serde(default)]
    pub(crate) next_page_token: String,
}

#[derive(Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct SearchAnswer {
    #[serde(default)]
    pub(crate) model_versions: Vec<ModelVersion>,
    #[serde(default)]
    pub(crate) next_page_token: String,
}

#[derive(Deserialize)]
pub(crate) struct DownloadAnswer {
    pub(crate) artifact_uri: String,
}
