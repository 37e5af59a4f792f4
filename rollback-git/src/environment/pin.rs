//! The pin: a `ConfigMap` in the cluster that says which revision was applied. It is the parent of an `ApplySet`
//! (KEP-3659), so that whoever knows these conventions finds the objects of the environment.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rollback_core::{ComponentId, ErrorKind, Fingerprint, Result, StepContext};
use rollback_k8s::{Cluster, json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::key::Key;

/// The label by which an object says to which `ApplySet` it belongs.
pub(crate) const PART_OF: &str = "applyset.kubernetes.io/part-of";

const ID: &str = "applyset.kubernetes.io/id";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const GROUP_KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";

/// What the pin says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pin {
    /// The tag, branch or commit that was asked for.
    pub(crate) revision: String,
    pub(crate) commit: String,
    pub(crate) path: String,
    pub(crate) repository: String,
}

/// Where the pin of an environment is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    namespace: String,
    name: String,
}

impl Parent {
    /// That of a component, in a namespace.
    pub(crate) fn of(component: &ComponentId, namespace: &str) -> Self {
        let last = component.name().rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let plain: String =
            last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
        let print = Fingerprint::of(&json!(component.name()));
        let short: String = print.as_str().chars().skip("sha256:".len()).take(8).collect();
        let name = format!("environment-{}-{short}", plain.trim_matches('-')).replace("--", "-");
        Self { namespace: namespace.to_owned(), name }
    }

    /// The id of the `ApplySet`: a hash of where its parent is.
    pub(crate) fn id(&self) -> String {
        let text = format!("{}.{}.ConfigMap.", self.name, self.namespace);
        format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Sha256::digest(text)))
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", self.namespace, self.name)
    }

    pub(crate) async fn read(&self, cluster: &Cluster) -> Result<Option<Value>> {
        match cluster.get(&self.path(), "reading the pin of the environment").await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes it name all kinds and namespaces of the objects, as it has to before one of them is written.
    pub(crate) async fn widen(
        &self,
        cluster: &Cluster,
        cx: &StepContext,
        live: Option<&Value>,
        keys: &[&Key],
    ) -> Result<()> {
        let wanted = self.object(live, keys, live.and_then(pin_of).as_ref());
        let is_wide = live.is_some_and(|live| {
            [TOOLING, GROUP_KINDS, NAMESPACES]
                .iter()
                .all(|key| json::annotation(live, key) == json::annotation(&wanted, key))
        });
        if is_wide {
            return Ok(());
        }
        cx.before_write("naming the kinds of the environment on its pin").await?;
        cluster.apply_own(&self.path(), &wanted).await.map(drop)
    }

    /// Moves the pin; without one it goes away.
    pub(crate) async fn set(
        &self,
        cluster: &Cluster,
        cx: &StepContext,
        keys: &[&Key],
        pin: Option<&Pin>,
    ) -> Result<()> {
        let Some(live) = self.read(cluster).await? else {
            let Some(pin) = pin else { return Ok(()) };
            cx.before_write(&format!("pinning {}", pin.revision)).await?;
            return cluster.apply_own(&self.path(), &self.object(None, keys, Some(pin))).await.map(drop);
        };
        if let Some(pin) = pin {
            if pin_of(&live).as_ref() == Some(pin) {
                return Ok(());
            }
            cx.before_write(&format!("pinning {}", pin.revision)).await?;
            return cluster
                .apply_own(&self.path(), &self.object(Some(&live), keys, Some(pin)))
                .await
                .map(drop);
        }
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": json::uid(&live)},
        });
        cx.before_write("removing the pin").await?;
        match cluster.delete(&self.path(), &options, "removing the pin").await {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    fn object(&self, live: Option<&Value>, keys: &[&Key], pin: Option<&Pin>) -> Value {
        let annotated = |key: &str| -> BTreeSet<String> {
            let text = live.and_then(|live| json::annotation(live, key)).unwrap_or_default();
            text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let mut kinds = annotated(GROUP_KINDS);
        kinds.extend(keys.iter().map(|key| key.group_kind()));
        let mut namespaces = annotated(NAMESPACES);
        namespaces.extend(keys.iter().filter_map(|key| key.namespace.clone()));
        namespaces.remove(&self.namespace);
        let listed = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>().join(",");
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": {ID: self.id()},
                "annotations": {TOOLING: "rollback/v1", GROUP_KINDS: listed(kinds), NAMESPACES: listed(namespaces)},
            },
        });
        if let Some(pin) = pin {
            object["data"] = json!(pin);
        }
        object
    }
}

/// What a pin says; none where nothing was applied wholly yet.
pub(crate) fn pin_of(object: &Value) -> Option<Pin> {
    Deserialize::deserialize(object.get("data")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_has_the_name_of_the_folder_and_an_id_of_its_place() {
        let id = ComponentId::new("environment", None, "infra/environments/Staging_EU").unwrap();
        let parent = Parent::of(&id, "shop");
        assert!(parent.name.starts_with("environment-stagingeu-"), "{}", parent.name);
        assert_ne!(parent.id(), Parent::of(&id, "other").id());
        assert!(parent.id().len() <= 63, "it is the value of a label: {}", parent.id());
        let root = Parent::of(&ComponentId::new("environment", None, ".").unwrap(), "shop");
        assert!(!root.name.contains("--") && !root.name.contains('.'), "{}", root.name);
    }
}
