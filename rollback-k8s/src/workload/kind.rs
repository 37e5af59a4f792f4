use std::fmt;
use std::str::FromStr;

use kube::api::ApiResource;
use rollback_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// The kinds of workload that keep a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// A Deployment; its history is its `ReplicaSets`.
    Deployment,
    /// A `StatefulSet`; its history is its `ControllerRevisions`.
    StatefulSet,
    /// A `DaemonSet`; its history is its `ControllerRevisions`.
    DaemonSet,
}

impl WorkloadKind {
    /// The singular, in lower case, as in `deployment/web`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
        }
    }

    /// The kind as manifests write it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::DaemonSet => "daemonsets",
        }
    }

    /// What holds the history: plural of the kind.
    pub(crate) fn history_plural(self) -> &'static str {
        match self {
            Self::Deployment => "replicasets",
            Self::StatefulSet | Self::DaemonSet => "controllerrevisions",
        }
    }

    /// The label by which a pod names its revision.
    pub(crate) fn hash_label(self) -> &'static str {
        match self {
            Self::Deployment => "pod-template-hash",
            Self::StatefulSet | Self::DaemonSet => "controller-revision-hash",
        }
    }

    pub(crate) fn resource(self) -> ApiResource {
        ApiResource {
            group: "apps".into(),
            version: "v1".into(),
            api_version: "apps/v1".into(),
            kind: self.kind().into(),
            plural: self.plural().into(),
        }
    }

    pub(crate) fn path(self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }

    /// Where the API lists them.
    pub(crate) fn collection(self, namespace: &str) -> String {
        format!("/apis/apps/v1/namespaces/{namespace}/{}", self.plural())
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for WorkloadKind {
    type Err = Error;

    /// Reads the names that kubectl takes: `deployment`, `deployments`, `deploy`, `deployments.apps`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let lower = text.to_ascii_lowercase();
        match lower.strip_suffix(".v1.apps").or_else(|| lower.strip_suffix(".apps")).unwrap_or(&lower) {
            "deployment" | "deployments" | "deploy" => Ok(Self::Deployment),
            "statefulset" | "statefulsets" | "sts" => Ok(Self::StatefulSet),
            "daemonset" | "daemonsets" | "ds" => Ok(Self::DaemonSet),
            _ => Err(Error::new(ErrorKind::InvalidConfig, format!("{text:?} is not a kind of workload"))
                .with_hint("deployment (deploy), statefulset (sts) or daemonset (ds)")),
        }
    }
}
