//! What the pods of a revision tell: why they will not start, which block a `StatefulSet`, and which image
//! they really run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::json;

/// A pod as a probe and a restart name it, such that another one of its name is another.
pub(crate) fn instance(pod: &Value) -> String {
    format!("{}/{}", json::name(pod), json::uid(pod))
}

/// Why a pod does not start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It will not without a change, in kubelet's words.
    Hopeless(String),
    /// It may yet: kubelet tries again.
    Passing(String),
}

/// What keeps a pod from starting; none while nothing does.
pub(crate) fn trouble(pod: &Value) -> Option<Trouble> {
    const HOPELESS: [&str; 4] =
        ["CrashLoopBackOff", "CreateContainerConfigError", "ImagePullBackOff", "InvalidImageName"];
    const PASSING: [&str; 4] =
        ["CreateContainerError", "ErrImageNeverPull", "ErrImagePull", "RunContainerError"];
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let waiting = lists.iter().flat_map(|list| json::items(pod, list)).find_map(|status| {
        let waiting = status.pointer("/state/waiting")?;
        let reason = waiting["reason"].as_str()?;
        let container = status["name"].as_str().unwrap_or_default();
        let message = waiting["message"].as_str().map(|m| format!(": {m}")).unwrap_or_default();
        let why = format!("pod {}, container {container}: {reason}{message}", json::name(pod));
        match reason {
            reason if HOPELESS.contains(&reason) => Some(Trouble::Hopeless(why)),
            reason if PASSING.contains(&reason) => Some(Trouble::Passing(why)),
            _ => None,
        }
    });
    waiting.or_else(|| unschedulable(pod).map(Trouble::Passing))
}

/// Why no node takes the pod; none when one does or has not been looked for.
fn unschedulable(pod: &Value) -> Option<String> {
    let condition = json::condition(pod, "PodScheduled")
        .filter(|condition| condition["status"] == "False" && condition["reason"] == "Unschedulable")?;
    let message = condition["message"].as_str().unwrap_or("no node fits");
    Some(format!("pod {}: unschedulable: {message}", json::name(pod)))
}

/// Whether the pod is on its way out.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    json::text(pod, "/metadata/deletionTimestamp").is_some()
}

/// The image digests that run, by image as written.
pub(crate) fn digests<'a>(pods: impl Iterator<Item = &'a Value>) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods {
        let written: BTreeMap<_, _> = json::items(pod, "/spec/containers")
            .iter()
            .filter_map(|container| Some((container["name"].as_str()?, container["image"].as_str()?)))
            .collect();
        for status in json::items(pod, "/status/containerStatuses") {
            let image = status["name"].as_str().and_then(|name| written.get(name));
            let digest = status["imageID"].as_str().and_then(|id| id.rsplit_once("sha256:"));
            if let (Some(image), Some((_, digest))) = (image, digest) {
                all.entry((*image).to_owned()).or_default().insert(format!("sha256:{digest}"));
            }
        }
    }
    all
}

/// The pods that keep a `StatefulSet` with ordered pods on another revision than `wanted`: not ready, of
/// another revision, and above its partition. Its controller waits for them and never replaces them
/// (kubernetes/kubernetes#67250).
pub(crate) fn blocking<'a>(
    set: &Value,
    pods: impl IntoIterator<Item = &'a Value>,
    wanted: Option<&str>,
) -> Vec<&'a Value> {
    let ordered = json::text(set, "/spec/podManagementPolicy").is_none_or(|p| p == "OrderedReady");
    if !ordered || super::status::is_on_delete(set) {
        return Vec::new();
    }
    let partition = super::status::partition(set);
    let mut blocking: Vec<_> = pods
        .into_iter()
        .filter(|pod| json::controller_uid(pod) == Some(json::uid(set)))
        .filter(|pod| !json::is_ready(pod))
        .filter(|pod| json::label(pod, "controller-revision-hash") != wanted)
        .filter(|pod| ordinal(pod).is_some_and(|ordinal| ordinal >= partition))
        .collect();
    blocking.sort_by_key(|pod| ordinal(pod));
    blocking
}

/// A pod of a `StatefulSet` that its rollout has still to replace or to make ready, and why. Its status
/// alone does not tell: during a partitioned rollout it counts the pods below the partition as updated
/// once the revision is theirs, before it replaces those above.
pub(crate) fn lagging<'a>(
    set: &Value,
    pods: impl IntoIterator<Item = &'a Value>,
    wanted: Option<&str>,
) -> Option<String> {
    let partition = super::status::partition(set);
    let mut own: Vec<_> =
        pods.into_iter().filter(|pod| json::controller_uid(pod) == Some(json::uid(set))).collect();
    own.retain(|pod| ordinal(pod).is_some_and(|ordinal| ordinal >= partition));
    let due = json::number(set, "/spec/replicas").unwrap_or(1) - partition;
    if i64::try_from(own.len()).is_ok_and(|there| there < due) {
        return Some(format!("{} of {due} pods are there", own.len()));
    }
    own.into_iter().find_map(|pod| {
        let name = json::name(pod);
        match pod {
            pod if json::label(pod, "controller-revision-hash") != wanted => {
                Some(format!("pod {name} is of another revision"))
            }
            pod if is_terminating(pod) || !json::is_ready(pod) => Some(format!("pod {name} is not ready")),
            _ => None,
        }
    })
}

fn ordinal(pod: &Value) -> Option<i64> {
    json::name(pod).rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_waiting_container_is_hopeless_only_for_reasons_that_do_not_pass() {
        let pod = |reason: &str| {
            json!({
                "metadata": {"name": "web-0"},
                "status": {"containerStatuses": [
                    {"name": "web", "state": {"waiting": {"reason": reason, "message": "m"}}},
                ]},
            })
        };
        assert_eq!(trouble(&pod("ContainerCreating")), None);
        let told = "pod web-0, container web: CrashLoopBackOff: m".to_owned();
        assert_eq!(trouble(&pod("CrashLoopBackOff")), Some(Trouble::Hopeless(told)));
        let told = "pod web-0, container web: ErrImagePull: m".to_owned();
        assert_eq!(trouble(&pod("ErrImagePull")), Some(Trouble::Passing(told)));
    }

    #[test]
    fn only_unready_pods_of_another_revision_above_the_partition_block() {
        let set = json!({"metadata": {"uid": "u"}, "spec": {
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
        }});
        let pod = |name: &str, ready: &str, hash: &str| {
            json!({
                "metadata": {
                    "name": name, "labels": {"controller-revision-hash": hash},
                    "ownerReferences": [{"controller": true, "uid": "u"}],
                },
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let pods = [
            pod("web-0", "False", "bad"),
            pod("web-1", "True", "bad"),
            pod("web-2", "False", "good"),
            pod("web-3", "False", "bad"),
        ];
        let names =
            |set: &Value| blocking(set, &pods, Some("good")).into_iter().map(json::name).collect::<Vec<_>>();
        assert_eq!(names(&set), ["web-3"]);
        let mut parallel = set.clone();
        parallel["spec"]["podManagementPolicy"] = json!("Parallel");
        assert!(names(&parallel).is_empty());
    }

    #[test]
    fn digests_are_told_by_the_image_as_written() {
        let pod = json!({
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            "status": {"containerStatuses": [{"name": "web", "imageID": "docker-pullable://web@sha256:abc"}]},
        });
        let found = digests(std::iter::once(&pod));
        assert_eq!(found["web:1"], BTreeSet::from(["sha256:abc".to_owned()]));
    }
}
