//! What is deleted because the target has it no longer.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::Result;
use rollback_k8s::backend::{applied_part, helm_release, needs};
use rollback_k8s::json;
use serde_json::Value;

use super::content::{Object, is_dying, is_never_pruned, merge_patch};
use super::key::Key;
use super::pin::PART_OF;
use super::standing::Standing;
use super::wanted::{LAST_APPLIED, Marks, configuration, covers};
use super::{KustomizeEnvironment, Side};

const TOKEN: &str = "kubernetes.io/service-account-token";

impl KustomizeEnvironment {
    /// What is deleted because the target has it no longer, and why the rest is not.
    pub(super) async fn pruned(
        &self,
        to: &Side,
        standing: &Standing,
        live: &BTreeMap<Key, Value>,
        is_whole: bool,
    ) -> Result<(BTreeMap<Key, Object>, Vec<String>)> {
        let mut doomed = BTreeMap::new();
        let mut stays: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        let Some(from) = standing.side.as_deref() else { return Ok((doomed, Vec::new())) };
        let gone = from.objects.iter().filter(|(key, _)| !to.objects.contains_key(*key));
        let gone: Vec<_> = gone
            .filter_map(|(key, wanted)| Some((key, wanted, live.get(key).filter(|live| !is_dying(live))?)))
            .filter(|(key, _, live)| is_whole || self.is_picked(key, live))
            .collect();
        let id = standing.parent.id();
        let why = |key: &Key, live: &Value| {
            if !self.options.prune {
                Some("the target does not have them, and they stay: with --prune this same run deletes them")
            } else if is_never_pruned(key) || json::text(live, "/type") == Some(TOKEN) {
                Some("objects of this kind are never deleted here")
            } else if opts_out(live) {
                Some("they say themselves that they are not to be pruned")
            } else if !is_owned(live, &id, standing.is_exact) {
                Some("they are not known to belong to this environment alone, and stay")
            } else {
                None
            }
        };
        let is_going = |key: &Key, live: &Value| why(key, live).is_none();
        let referred = if gone.iter().any(|(key, _, live)| is_settings(key) && is_going(key, live)) {
            let going = gone.iter().filter(|(key, _, live)| is_going(key, live));
            let going = going.map(|(_, _, live)| json::uid(live).to_owned()).collect();
            let namespaces = gone.iter().filter_map(|(key, ..)| key.namespace.clone()).collect();
            self.referred(namespaces, going).await?
        } else {
            BTreeSet::new()
        };
        for (key, wanted, live) in gone {
            let is_referred = || {
                let namespace = key.namespace.clone().unwrap_or_default();
                referred.contains(&(key.kind.clone(), namespace, key.name.clone()))
            };
            let reason = why(key, live).or_else(|| {
                is_referred().then_some("pods or ReplicaSets refer to them still, and they stay")
            });
            if let Some(reason) = reason {
                stays.entry(reason).or_default().push(key.to_string());
                continue;
            }
            let mut object = Object::at(&wanted.spot);
            if !key.is_secret() {
                let marks = Marks { part_of: None, last_applied: false };
                let config = configuration(&wanted.object, None, &[], &marks);
                let part = without_marks(applied_part(live));
                object.drift = merge_patch(&config, &part).filter(|_| !covers(&part, &config));
            }
            doomed.insert(key.clone(), object);
        }
        let told = stays.into_iter().map(|(reason, keys)| format!("{reason}: {}", keys.join(", ")));
        Ok((doomed, told.collect()))
    }

    /// The `ConfigMaps` and Secrets that pods and `ReplicaSets` refer to, by kind, namespace and name, but for those of
    /// what is going itself.
    async fn referred(
        &self,
        namespaces: BTreeSet<String>,
        mut going: BTreeSet<String>,
    ) -> Result<BTreeSet<(String, String, String)>> {
        let mut all = BTreeSet::new();
        for namespace in namespaces {
            let sets = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
            let pods = format!("/api/v1/namespaces/{namespace}/pods");
            for (path, pointer) in [(sets, "/spec/template"), (pods, "")] {
                for object in
                    self.cluster.list(&path, "", "seeing what refers to what is to be pruned").await?
                {
                    if json::controller_uid(&object).is_some_and(|owner| going.contains(owner)) {
                        going.insert(json::uid(&object).to_owned());
                        continue;
                    }
                    let found = object.pointer(pointer).into_iter().flat_map(needs);
                    all.extend(found.map(|(kind, name)| (kind.to_owned(), namespace.clone(), name)));
                }
            }
        }
        Ok(all)
    }
}

fn is_settings(key: &Key) -> bool {
    key.group.is_empty() && matches!(key.kind.as_str(), "ConfigMap" | "Secret")
}

/// Whether an object asks to be left alone, in the words of any of the tools that know such.
fn opts_out(live: &Value) -> bool {
    json::annotation(live, "rollback.dev/prune") == Some("disabled")
        || json::annotation(live, "kustomize.toolkit.fluxcd.io/prune") == Some("disabled")
        || json::annotation(live, "helm.sh/resource-policy") == Some("keep")
        || json::annotation(live, "argocd.argoproj.io/sync-options")
            .is_some_and(|options| options.split(',').any(|option| option.trim() == "Prune=false"))
}

/// Why an object is not to be deleted, as it is now.
pub(super) fn claimed(live: &Value, id: Option<&str>) -> Option<&'static str> {
    if opts_out(live) {
        Some("it says itself that it is not to be pruned")
    } else if json::label(live, PART_OF).is_some_and(|part_of| Some(part_of) != id) {
        Some("it belongs to another set of objects")
    } else if !json::items(live, "/metadata/ownerReferences").is_empty() {
        Some("another object owns it")
    } else if helm_release(live).is_some() {
        Some("it belongs to a Helm release")
    } else {
        None
    }
}

/// Whether an object belongs to this environment: as its label says, or, before there was a pin, because all that runs is
/// what the revision in place renders and nobody else claims this.
fn is_owned(live: &Value, id: &str, is_exact: bool) -> bool {
    match json::label(live, PART_OF) {
        Some(part_of) => part_of == id,
        None => is_exact && claimed(live, Some(id)).is_none(),
    }
}

fn without_marks(mut part: Value) -> Value {
    for (pointer, key) in [("/metadata/labels", PART_OF), ("/metadata/annotations", LAST_APPLIED)] {
        if let Some(Value::Object(members)) = part.pointer_mut(pointer) {
            members.remove(key);
        }
    }
    part
}
