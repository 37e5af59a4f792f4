//! The status that a kubelet would give a pod, from the tags of its images.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kserve::SOURCE_URI;
use crate::kubelet::READY_ANNOTATION;

/// How long an image tagged `slow` takes until its container is ready.
pub(crate) const SLOW: std::time::Duration = std::time::Duration::from_secs(2);

/// What a container of an image does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Ready,
    NeverReady,
    Slow,
    CrashLoop,
    PullError,
    ConfigError,
}

impl Behaviour {
    fn of(image: &str) -> Self {
        let known = [
            ("never-ready", Self::NeverReady),
            ("slow", Self::Slow),
            ("crash-loop", Self::CrashLoop),
            ("pull-error", Self::PullError),
            ("config-error", Self::ConfigError),
        ];
        let tag = tag(image);
        known.iter().find(|(prefix, _)| tag.starts_with(prefix)).map_or(Self::Ready, |known| known.1)
    }
}

/// Whether a pod has a container whose tag begins so.
pub(crate) fn has_tag(pod: &Pod, prefix: &str) -> bool {
    containers(pod).iter().any(|container| tag(image(container)).starts_with(prefix))
}

/// The patch that brings a bound pod's status to what it should be now, if it isn't that yet, and
/// whether it must be looked at again after [`SLOW`].
pub(crate) fn patch(pod: &Pod, now: Timestamp) -> (Option<Value>, bool) {
    let mut builder = Builder { pod, now, again: false };
    let status = builder.status();
    let again = builder.again;
    let patch = (signature(&status) != signature(&current(pod))).then(|| {
        // With the version, a status made from an old event can't undo a newer one.
        json!({"metadata": {"resourceVersion": pod.metadata.resource_version}, "status": status})
    });
    (patch, again)
}

/// The status of a pod for which no node has room.
pub(crate) fn unschedulable(pod: &Pod, now: Timestamp) -> Option<Value> {
    let status = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/2 nodes are available: 2 Insufficient cpu.", "lastTransitionTime": now.to_string(),
    }]});
    (signature(&status) != signature(&current(pod))).then(|| json!({"status": status}))
}

struct Builder<'a> {
    pod: &'a Pod,
    now: Timestamp,
    again: bool,
}

impl Builder<'_> {
    fn status(&mut self) -> Value {
        let spec = self.pod.spec.as_ref();
        let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let mut blocked = None;
        let mut init_statuses = Vec::new();
        for container in inits {
            let status = self.init_container(container, blocked.is_some());
            if status["ready"] == false && blocked.is_none() {
                blocked = Some(container.name.clone());
            }
            init_statuses.push(status);
        }
        let statuses: Vec<Value> = containers(self.pod)
            .iter()
            .map(|container| {
                if blocked.is_some() {
                    waiting(container, "PodInitializing", "")
                } else {
                    self.container(container)
                }
            })
            .collect();

        let unready: Vec<&str> =
            statuses.iter().filter(|s| s["ready"] == false).filter_map(|s| s["name"].as_str()).collect();
        let unready_text = format!("containers with unready status: [{}]", unready.join(" "));
        let reason = if unready.is_empty() { "" } else { "ContainersNotReady" };
        let message = if unready.is_empty() { "" } else { &unready_text };
        let init_message =
            blocked.as_ref().map(|name| format!("containers with incomplete status: [{name}]"));
        let init_reason = blocked.as_ref().map_or("", |_| "ContainersNotInitialized");
        // Like a kubelet: Running once no container waits to be created for the first time.
        let pending = statuses.iter().any(|s| s["state"]["waiting"].is_object() && s["restartCount"] == 0);
        let (phase, ip) = if pending { ("Pending", None) } else { ("Running", Some(self.ip())) };
        let mut status = json!({
            "phase": phase,
            "startTime": self.started(),
            "hostIP": "192.0.2.10",
            "containerStatuses": statuses,
            "conditions": [
                self.condition("PodScheduled", true, "", ""),
                self.condition("Initialized", blocked.is_none(), init_reason, init_message.as_deref().unwrap_or("")),
                self.condition("ContainersReady", unready.is_empty(), reason, message),
                self.condition("Ready", unready.is_empty(), reason, message),
            ],
        });
        if !init_statuses.is_empty() {
            status["initContainerStatuses"] = init_statuses.into();
        }
        if let Some(ip) = ip {
            status["podIP"] = ip.clone().into();
            status["podIPs"] = json!([{ "ip": ip }]);
        }
        status
    }

    /// What a pod of KServe does by the name of its model, as it does by the tag of an image.
    fn model(&self) -> Option<Behaviour> {
        let uri = self.pod.metadata.annotations.as_ref()?.get(SOURCE_URI)?;
        Some(Behaviour::of(&format!("model:{}", uri.rsplit('/').next().unwrap_or_default())))
    }

    fn container(&mut self, container: &Container) -> Value {
        let text = image(container);
        let behaviour = match Behaviour::of(text) {
            Behaviour::Ready => self.model().unwrap_or(Behaviour::Ready),
            other => other,
        };
        match behaviour {
            Behaviour::PullError => {
                waiting(container, "ImagePullBackOff", &format!("Back-off pulling image {text:?}"))
            }
            Behaviour::ConfigError => {
                waiting(container, "CreateContainerConfigError", r#"configmap "missing" not found"#)
            }
            Behaviour::CrashLoop => self.crash_loop(container),
            Behaviour::Ready | Behaviour::NeverReady | Behaviour::Slow => {
                let mut started = self.started_at(&container.name).unwrap_or(self.now);
                if behaviour == Behaviour::Slow && started == self.now {
                    // The server keeps whole seconds: rounded up, so that it takes no less.
                    started = Timestamp::from_second(self.now.as_second() + 1).unwrap_or(self.now);
                }
                let due = self.now.duration_since(started).unsigned_abs() >= SLOW && self.now > started;
                let by_image = match behaviour {
                    Behaviour::NeverReady => false,
                    Behaviour::Slow => due,
                    _ => true,
                };
                self.again |= behaviour == Behaviour::Slow && !due;
                let ready = self.ready_annotation().unwrap_or(by_image);
                json!({
                    "name": container.name, "image": text, "imageID": image_id(text), "containerID": self.id(container),
                    "ready": ready, "started": true, "restartCount": 0,
                    "state": {"running": {"startedAt": started.to_string()}}, "lastState": {},
                })
            }
        }
    }

    fn init_container(&self, container: &Container, waits: bool) -> Value {
        let text = image(container);
        match Behaviour::of(text) {
            _ if waits => waiting(container, "PodInitializing", ""),
            Behaviour::CrashLoop => self.crash_loop(container),
            Behaviour::PullError => {
                waiting(container, "ImagePullBackOff", &format!("Back-off pulling image {text:?}"))
            }
            Behaviour::ConfigError => {
                waiting(container, "CreateContainerConfigError", r#"configmap "missing" not found"#)
            }
            Behaviour::NeverReady => json!({
                "name": container.name, "image": text, "imageID": image_id(text), "containerID": self.id(container),
                "ready": false, "restartCount": 0, "state": {"running": {"startedAt": self.started()}}, "lastState": {},
            }),
            Behaviour::Ready | Behaviour::Slow => json!({
                "name": container.name, "image": text, "imageID": image_id(text), "containerID": self.id(container),
                "ready": true, "restartCount": 0, "lastState": {},
                "state": {"terminated": {
                    "exitCode": 0, "reason": "Completed", "containerID": self.id(container),
                    "startedAt": self.started(), "finishedAt": self.started(),
                }},
            }),
        }
    }

    fn crash_loop(&self, container: &Container) -> Value {
        let name = &container.name;
        json!({
            "name": name, "image": image(container), "imageID": image_id(image(container)),
            "containerID": self.id(container), "ready": false, "started": false, "restartCount": 3,
            "state": {"waiting": {
                "reason": "CrashLoopBackOff",
                "message": format!("back-off 40s restarting failed container={name}"),
            }},
            "lastState": {"terminated": {
                "exitCode": 1, "reason": "Error", "containerID": self.id(container),
                "startedAt": self.started(), "finishedAt": self.started(),
            }},
        })
    }

    /// A condition, whose transition time moves only when it turns: the controllers count
    /// `minReadySeconds` from it.
    fn condition(&self, kind: &str, holds: bool, reason: &str, message: &str) -> Value {
        let status = if holds { "True" } else { "False" };
        let conditions = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let before = conditions.unwrap_or_default().iter().find(|c| c.type_ == kind && c.status == status);
        let since = before.and_then(|c| c.last_transition_time.as_ref()).map_or(self.now, |time| time.0);
        json!({
            "type": kind, "status": status, "lastTransitionTime": since.to_string(),
            // Null, so that the merge removes what the opposite state had.
            "reason": (!reason.is_empty()).then_some(reason),
            "message": (!message.is_empty()).then_some(message),
        })
    }

    fn started(&self) -> String {
        let start = self.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        start.map_or(self.now, |time| time.0).to_string()
    }

    fn started_at(&self, container: &str) -> Option<Timestamp> {
        let statuses = self.pod.status.as_ref()?.container_statuses.as_deref()?;
        let status = statuses.iter().find(|status| status.name == container)?;
        Some(status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
    }

    fn ready_annotation(&self) -> Option<bool> {
        self.pod.metadata.annotations.as_ref()?.get(READY_ANNOTATION)?.parse().ok()
    }

    fn id(&self, container: &Container) -> String {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        format!("containerd://{}", hex(&format!("{uid}/{}", container.name)))
    }

    fn ip(&self) -> String {
        let digest = Sha256::digest(self.pod.metadata.uid.as_deref().unwrap_or_default());
        format!("10.244.{}.{}", digest[0], digest[1].max(1))
    }
}

fn waiting(container: &Container, reason: &str, message: &str) -> Value {
    let mut state = json!({"reason": reason});
    if !message.is_empty() {
        state["message"] = message.into();
    }
    json!({
        "name": container.name, "image": image(container), "imageID": "", "ready": false, "started": false,
        "restartCount": 0, "state": {"waiting": state}, "lastState": {},
    })
}

/// What distinguishes one status from another; times and defaults of the server don't.
fn signature(status: &Value) -> Value {
    let container = |container: &Value| {
        let state = &container["state"];
        let kind = ["running", "waiting", "terminated"].map(|name| state[name].is_object());
        json!([container["name"], container["image"], container["ready"], kind, state["waiting"]["reason"]])
    };
    let list = |name: &str, map: &dyn Fn(&Value) -> Value| -> Vec<Value> {
        status[name].as_array().map(|list| list.iter().map(map).collect()).unwrap_or_default()
    };
    let mut conditions = list("conditions", &|c| json!([c["type"], c["status"]]));
    conditions.sort_by_key(Value::to_string);
    json!([list("containerStatuses", &container), list("initContainerStatuses", &container), conditions])
}

fn current(pod: &Pod) -> Value {
    let mut status = serde_json::to_value(&pod.status).expect("a status is JSON");
    let ours = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"].as_str().is_some_and(|kind| ours.contains(&kind)));
    }
    status
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default()
}

fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

fn tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    name.rsplit('/').next().and_then(|last| last.split_once(':')).map_or("", |(_, tag)| tag)
}

fn image_id(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let repository = name.strip_suffix(tag(image)).and_then(|name| name.strip_suffix(':')).unwrap_or(name);
    format!("docker-pullable://{repository}@sha256:{}", hex(image))
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("write to a string");
        hex
    })
}
