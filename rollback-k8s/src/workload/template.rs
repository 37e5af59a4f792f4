//! Pod templates, raw.

use rollback_core::Fingerprint;
use serde_json::Value;

use crate::json::{items, strings, text, without_nulls};

/// The annotation by which kubectl restarts a rollout.
pub(crate) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The template as it is restored: without the label that a Deployment's controller adds.
pub(crate) fn restorable(mut template: Value) -> Value {
    if let Some(Value::Object(labels)) = template.pointer_mut("/metadata/labels") {
        labels.remove(POD_TEMPLATE_HASH);
    }
    template
}

/// The fingerprint of the exact template.
pub(crate) fn exact(template: &Value) -> Fingerprint {
    Fingerprint::of(&comparable(template.clone()))
}

/// The fingerprint of what the template runs: two templates that differ only by a restart are the same
/// revision, because everyone restarts first, and returning to it would change nothing.
pub(crate) fn identity(template: &Value) -> Fingerprint {
    let mut template = template.clone();
    if let Some(Value::Object(annotations)) = template.pointer_mut("/metadata/annotations") {
        annotations.remove(RESTARTED_AT);
    }
    Fingerprint::of(&comparable(template))
}

/// An absent map and an empty one are the same to the API server, where it writes either.
fn comparable(template: Value) -> Value {
    let mut template = without_nulls(template);
    for map in ["labels", "annotations"] {
        if let Some(Value::Object(metadata)) = template.pointer_mut("/metadata")
            && metadata.get(map).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
        {
            metadata.remove(map);
        }
    }
    template
}

/// Every image, in the order of the containers.
pub(crate) fn images(template: &Value) -> String {
    let images: Vec<_> =
        items(template, "/spec/containers").iter().filter_map(|c| c["image"].as_str()).collect();
    images.join(", ")
}

/// The value of the restart annotation.
pub(crate) fn restarted_at(template: &Value) -> Option<String> {
    strings(template, "/metadata/annotations").remove(RESTARTED_AT)
}

/// The objects that the template's pods need: kind, name, whether they may be absent.
pub(crate) fn references(template: &Value) -> Vec<Reference> {
    let mut all = Vec::new();
    let mut add = |kind, name: Option<&str>, optional: &Value| {
        if let Some(name) = name {
            all.push(Reference { kind, name: name.into(), optional: optional == &Value::Bool(true) });
        }
    };
    for list in ["/spec/containers", "/spec/initContainers"] {
        for container in items(template, list) {
            for env in items(container, "/env") {
                for (source, kind) in
                    [("configMapKeyRef", ReferenceKind::ConfigMap), ("secretKeyRef", ReferenceKind::Secret)]
                {
                    let source = &env["valueFrom"][source];
                    add(kind, source["name"].as_str(), &source["optional"]);
                }
            }
            for env in items(container, "/envFrom") {
                for (source, kind) in
                    [("configMapRef", ReferenceKind::ConfigMap), ("secretRef", ReferenceKind::Secret)]
                {
                    add(kind, env[source]["name"].as_str(), &env[source]["optional"]);
                }
            }
        }
    }
    for volume in items(template, "/spec/volumes") {
        let sources = std::iter::once(volume).chain(items(volume, "/projected/sources"));
        for source in sources {
            add(
                ReferenceKind::ConfigMap,
                source["configMap"]["name"].as_str(),
                &source["configMap"]["optional"],
            );
            let secret = &source["secret"];
            add(
                ReferenceKind::Secret,
                secret["secretName"].as_str().or(secret["name"].as_str()),
                &secret["optional"],
            );
        }
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        add(ReferenceKind::PersistentVolumeClaim, claim.as_str(), &Value::Null);
    }
    // A pod starts without its pull secret; it is the pull that may fail.
    for secret in items(template, "/spec/imagePullSecrets") {
        add(ReferenceKind::Secret, secret["name"].as_str(), &Value::Null);
    }
    let account = text(template, "/spec/serviceAccountName").filter(|name| *name != "default");
    add(ReferenceKind::ServiceAccount, account, &Value::Null);
    let class = text(template, "/spec/priorityClassName").filter(|name| !name.starts_with("system-"));
    add(ReferenceKind::PriorityClass, class, &Value::Null);
    all.sort();
    // Needed once is needed: sorting puts the reference that is not optional first.
    all.dedup_by(|a, b| a.kind == b.kind && a.name == b.name);
    all
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReferenceKind {
    ConfigMap,
    Secret,
    ServiceAccount,
    PersistentVolumeClaim,
    PriorityClass,
}

impl ReferenceKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::PriorityClass => "PriorityClass",
        }
    }

    pub(crate) fn path(self, namespace: &str) -> String {
        match self {
            Self::ConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Self::Secret => format!("/api/v1/namespaces/{namespace}/secrets"),
            Self::ServiceAccount => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            Self::PersistentVolumeClaim => {
                format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims")
            }
            Self::PriorityClass => "/apis/scheduling.k8s.io/v1/priorityclasses".into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) kind: ReferenceKind,
    pub(crate) name: String,
    pub(crate) optional: bool,
}
