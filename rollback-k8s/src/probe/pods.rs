//! Whether the pods of a workload are well.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use rollback_core::trigger::{Health, HealthProbe};
use rollback_core::{Result, Timestamp};
use serde_json::Value;
use tokio::time::Instant;

use super::http::{HttpCheck, HttpProbe};
use super::{connect, invalid, refuse_no_time, within};
use crate::workload::{instance, is_terminating};
use crate::{Workload, json};

/// How many pods are asked at once.
const SIDE_BY_SIDE: usize = 16;

/// How much later than its pod's start Ready may have turned for the first time.
const SAME_TIME: Duration = Duration::from_secs(1);

/// Asks each pod that a [`Workload`] controls, 16 side by side. An instance is named `name/uid`, as
/// [`RestartScope::Instances`](rollback_core::RestartScope::Instances) takes it.
///
/// - A pod that is terminating or has finished is left out.
/// - One that cannot be expected to answer yet is [`Unknown`](Health::Unknown): it is pending, has no address, or has a
///   container that has not started or is within its startup probe.
/// - One that fails within its [grace](Self::with_grace) is so, too, unless it has been ready before: what has just been
///   restarted is not restarted again at once. Without a readiness probe or gate a pod is ready as soon as its containers
///   run, so that this says nothing of it.
/// - Any other that refuses the connection, breaks it off, is late or answers wrongly has [failed](Health::Failed). So have
///   all, where it is the network that fails: who acts on it should not restart everything.
///
/// Pods are asked from where this runs, which therefore has to be where it reaches them, such as in the cluster. It takes
/// the rights of the role `rollback-probe`.
#[derive(Clone, Debug)]
pub struct PodProbe {
    workload: Workload,
    way: Way,
    grace: Duration,
}

#[derive(Clone, Debug)]
enum Way {
    Readiness,
    Tcp { port: PodPort, limit: Duration },
    Http { port: PodPort, http: HttpProbe },
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodPort {
    /// By its number.
    Number(u16),
    /// By the name that a container gives it. A pod without it is [`Unknown`](Health::Unknown).
    Name(String),
}

impl From<u16> for PodPort {
    fn from(number: u16) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for PodPort {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for PodPort {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl PodPort {
    fn checked(self) -> Result<Self> {
        match &self {
            Self::Number(0) => Err(invalid("no pod listens on port 0")),
            Self::Name(name) if name.is_empty() => Err(invalid("the name of a port is empty")),
            Self::Number(_) | Self::Name(_) => Ok(self),
        }
    }

    /// Its number in a pod.
    fn number(&self, pod: &Value) -> Result<u16, String> {
        let name = match self {
            Self::Number(number) => return Ok(*number),
            Self::Name(name) => name.as_str(),
        };
        let is_meant = |port: &Value| {
            port["name"] == name && port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP")
        };
        let port = containers(pod)
            .flat_map(|container| json::items(container, "/ports"))
            .find(|port| is_meant(port))
            .and_then(|port| u16::try_from(port["containerPort"].as_u64()?).ok());
        port.ok_or_else(|| format!("has no port named {name:?}"))
    }
}

impl PodProbe {
    /// One that asks over HTTP: a port by its number, or by its name in the pod.
    ///
    /// # Errors
    /// `InvalidConfig` for a check that cannot be made.
    pub fn http(workload: &Workload, port: impl Into<PodPort>, check: HttpCheck) -> Result<Self> {
        let (port, http) = (port.into().checked()?, HttpProbe::new(check)?);
        // Any address shows whether the path can be used.
        http.url_on(SocketAddr::from(([127, 0, 0, 1], 1)))?;
        Ok(Self::by(workload, Way::Http { port, http }))
    }

    /// One that connects to a port, and sends nothing.
    ///
    /// # Errors
    /// `InvalidConfig` for no port, or for no time.
    pub fn tcp(workload: &Workload, port: impl Into<PodPort>, timeout: Duration) -> Result<Self> {
        refuse_no_time(timeout)?;
        Ok(Self::by(workload, Way::Tcp { port: port.into().checked()?, limit: timeout }))
    }

    /// One that takes each pod's own readiness, as the API server tells it.
    pub fn readiness(workload: &Workload) -> Self {
        Self::by(workload, Way::Readiness)
    }

    fn by(workload: &Workload, way: Way) -> Self {
        Self { workload: workload.clone(), way, grace: Duration::from_secs(30) }
    }

    /// For how long after its creation, and after the first start of its containers, a pod may fail without its fault.
    /// Default: 30 s.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    async fn look(&self, pod: &Value, now: Timestamp) -> (String, Health) {
        let health = match not_yet(pod) {
            Some(why) => Health::Unknown(why),
            None => match self.ask(pod).await {
                Health::Failed(why) if is_new(pod, now, self.grace) => {
                    Health::Unknown(format!("it is starting, and {why}"))
                }
                health => health,
            },
        };
        (instance(pod), health)
    }

    async fn ask(&self, pod: &Value) -> Health {
        let begin = Instant::now();
        match &self.way {
            Way::Readiness => readiness(pod),
            Way::Tcp { port, limit } => match address(pod, port) {
                Ok(address) => within(*limit, begin, connect(&[address])).await,
                Err(why) => Health::Unknown(why),
            },
            Way::Http { port, http } => match address(pod, port) {
                Ok(address) => within(http.limit(), begin, http.ask_server(address)).await,
                Err(why) => Health::Unknown(why),
            },
        }
    }
}

#[async_trait]
impl HealthProbe for PodProbe {
    async fn probe(&self) -> Result<BTreeMap<String, Health>> {
        let (pods, now) = self.workload.live_pods().await?;
        let looks: Vec<_> = pods.iter().filter(|pod| !is_gone(pod)).map(|pod| self.look(pod, now)).collect();
        Ok(stream::iter(looks).buffer_unordered(SIDE_BY_SIDE).collect().await)
    }
}

/// Whether nobody expects it to be well any more.
fn is_gone(pod: &Value) -> bool {
    is_terminating(pod) || matches!(json::text(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}

/// Why it cannot be expected to answer yet.
fn not_yet(pod: &Value) -> Option<String> {
    let phase = json::text(pod, "/status/phase").unwrap_or("Pending");
    if phase != "Running" {
        return Some(format!("its phase is {phase}"));
    }
    let starting = json::items(pod, "/status/containerStatuses").iter().find(|status| is_starting(status))?;
    Some(format!("its container {} has not started", starting["name"].as_str().unwrap_or_default()))
}

/// Whether a container has never run, or is within its startup probe. One that waits to be run again is neither.
fn is_starting(status: &Value) -> bool {
    let is = |state: &str| status["state"][state].is_object();
    if is("running") {
        return status["started"] == false;
    }
    !is("terminated") && !was_restarted(status)
}

fn was_restarted(status: &Value) -> bool {
    json::number(status, "/restartCount").is_some_and(|count| count > 0)
}

fn readiness(pod: &Value) -> Health {
    if json::is_ready(pod) {
        return Health::Healthy;
    }
    let why = json::condition(pod, "Ready").and_then(|ready| ready["message"].as_str());
    Health::Failed(why.map_or("is not ready".into(), |why| format!("is not ready: {why}")))
}

fn address(pod: &Value, port: &PodPort) -> Result<SocketAddr, String> {
    let ip = json::text(pod, "/status/podIP").filter(|ip| !ip.is_empty());
    let ip: IpAddr = ip
        .ok_or("has no address yet")?
        .parse()
        .map_err(|_| format!("has an address that is none: {:?}", ip.unwrap_or_default()))?;
    Ok(SocketAddr::new(ip, port.number(pod)?))
}

/// Whether it is so young that it may not have come up yet.
fn is_new(pod: &Value, now: Timestamp, grace: Duration) -> bool {
    // A container that kubelet starts again and again would stay young for ever.
    let first_runs = json::items(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| !was_restarted(status))
        .filter_map(|status| json::time(status, "/state/running/startedAt"));
    let begin = first_runs.chain(json::time(pod, "/metadata/creationTimestamp")).max();
    begin.is_some_and(|begin| now.since(begin) < grace) && !was_ready(pod)
}

/// Whether it is or has been ready, by more than that its containers run.
fn was_ready(pod: &Value) -> bool {
    let is_probed = containers(pod).any(|container| container["readinessProbe"].is_object())
        || !json::items(pod, "/spec/readinessGates").is_empty();
    if !is_probed {
        return false;
    }
    // Kubelet makes the condition, False, as it takes the pod, and moves its time only when it turns.
    let turned = json::condition(pod, "Ready").and_then(|ready| json::time(ready, "/lastTransitionTime"));
    let start = json::time(pod, "/status/startTime");
    json::is_ready(pod) || turned.zip(start).is_some_and(|(turned, start)| turned.since(start) > SAME_TIME)
}

/// The containers that run side by side, sidecars among them.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let sidecars = json::items(pod, "/spec/initContainers").iter();
    let sidecars = sidecars.filter(|container| container["restartPolicy"] == "Always");
    json::items(pod, "/spec/containers").iter().chain(sidecars)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: &str = "2026-11-23T03:00:00Z";

    /// A pod that runs since [`START`].
    fn pod() -> Value {
        json!({
            "metadata": {"name": "web-1", "uid": "u", "creationTimestamp": START},
            "spec": {"containers": [{"name": "app", "ports": [
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"name": "http", "containerPort": 8080},
            ]}]},
            "status": {
                "phase": "Running", "podIP": "10.244.1.2", "startTime": START,
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": START}],
                "containerStatuses": [{
                    "name": "app", "restartCount": 0, "started": true, "state": {"running": {"startedAt": START}},
                }],
            },
        })
    }

    /// That pod, but for the value at a JSON pointer whose parent is there.
    fn but(pointer: &str, value: Value) -> Value {
        let mut pod = pod();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        pod
    }

    fn after(seconds: u64) -> Timestamp {
        START.parse::<Timestamp>().unwrap().saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn what_ends_or_has_ended_is_left_out() {
        assert!(!is_gone(&pod()));
        assert!(is_gone(&but("/metadata/deletionTimestamp", json!(START))));
        assert!(is_gone(&but("/status/phase", json!("Failed"))));
        assert!(is_gone(&but("/status/phase", json!("Succeeded"))));
    }

    #[test]
    fn what_has_not_started_is_not_asked_and_what_crashes_is() {
        assert_eq!(not_yet(&pod()), None);
        assert!(not_yet(&but("/status/phase", json!("Pending"))).unwrap().contains("Pending"));
        let container = |status: Value| not_yet(&but("/status/containerStatuses", json!([status])));
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = json!({"running": {"startedAt": START}});
        let terminated = json!({"terminated": {"exitCode": 1}});
        for (restarts, started, state, is_asked) in [
            (0, false, &waiting, false),
            (3, false, &waiting, true),
            (0, false, &terminated, true),
            (0, false, &running, false),
            (1, false, &running, false),
            (1, true, &running, true),
        ] {
            let status = json!({"name": "app", "restartCount": restarts, "started": started, "state": state});
            assert_eq!(container(status.clone()).is_none(), is_asked, "{status}");
        }
    }

    #[test]
    fn a_port_is_found_by_its_name() {
        let at = |pod: &Value, port: &str| address(pod, &PodPort::from(port));
        assert_eq!(address(&pod(), &PodPort::from(81)).unwrap().to_string(), "10.244.1.2:81");
        assert_eq!(at(&pod(), "http").unwrap().to_string(), "10.244.1.2:8080");
        let six = but("/status/podIP", json!("fd00::2"));
        assert_eq!(at(&six, "http").unwrap().to_string(), "[fd00::2]:8080");
        assert!(at(&pod(), "dns").unwrap_err().contains("no port named"));
        for (ip, told) in
            [(json!(null), "no address yet"), (json!(""), "no address yet"), (json!("x"), "none")]
        {
            let error = at(&but("/status/podIP", ip), "http").unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let ports = json!([{"name": "mesh", "containerPort": 15021}]);
        let sidecar = json!([{"name": "proxy", "restartPolicy": "Always", "ports": ports}]);
        assert_eq!(at(&but("/spec/initContainers", sidecar), "mesh").unwrap().port(), 15021);
        let earlier = json!([{"name": "migrate", "ports": ports}]);
        assert!(at(&but("/spec/initContainers", earlier), "mesh").is_err());
        assert!(PodPort::from(0).checked().is_err() && PodPort::from("").checked().is_err());
    }

    #[test]
    fn a_pod_is_new_for_its_grace_from_the_first_start_of_its_containers() {
        let grace = Duration::from_secs(30);
        assert!(is_new(&pod(), after(29), grace));
        assert!(!is_new(&pod(), after(30), grace));
        assert!(!is_new(&pod(), after(0), Duration::ZERO));
        let status = |restarts: u32| {
            let state = json!({"running": {"startedAt": after(60).to_string()}});
            let status = json!({"name": "app", "restartCount": restarts, "started": true, "state": state});
            but("/status/containerStatuses", json!([status]))
        };
        assert!(is_new(&status(0), after(89), grace));
        assert!(!is_new(&status(0), after(90), grace));
        assert!(!is_new(&status(1), after(61), grace));
    }

    #[test]
    fn a_pod_that_a_probe_found_ready_before_is_not_new() {
        let grace = Duration::from_secs(30);
        let ready = |status: &str, since: u64| json!([{"type": "Ready", "status": status, "lastTransitionTime": after(since).to_string()}]);
        let mut probed = but("/spec/containers/0/readinessProbe", json!({"httpGet": {"port": 8080}}));
        assert!(is_new(&probed, after(10), grace));
        probed["status"]["conditions"] = ready("False", 1);
        assert!(is_new(&probed, after(10), grace));
        for conditions in [ready("True", 0), ready("True", 5), ready("False", 5)] {
            probed["status"]["conditions"] = conditions.clone();
            assert!(!is_new(&probed, after(10), grace), "{conditions}");
            // Without a probe it is ready once its containers run.
            assert!(is_new(&but("/status/conditions", conditions), after(10), grace));
        }
    }

    #[test]
    fn readiness_is_told_with_its_reason() {
        let with = |ready: Value| readiness(&but("/status/conditions", json!([ready])));
        assert_eq!(with(json!({"type": "Ready", "status": "True"})), Health::Healthy);
        let message = "containers with unready status: [app]";
        let told = with(json!({"type": "Ready", "status": "False", "message": message}));
        assert_eq!(told, Health::Failed(format!("is not ready: {message}")));
        assert_eq!(readiness(&but("/status/conditions", json!([]))), Health::Failed("is not ready".into()));
    }
}
