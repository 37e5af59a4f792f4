//! The policies of a runbook: what is watched, and what is done about it.

mod sound;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollback_core::supervisor::{Action, Blueprint, BlueprintStep, Does, Freeze, Goal, Policy, Restarts};
use rollback_core::trigger::{
    AllOf, AnyOf, Baseline, HealthCheck, HealthProbe, Limit, Metric, MetricSource, Not, Scope, Threshold,
    Trigger, Window,
};
use rollback_core::{ComponentId, Error, ErrorKind, Result, Timestamp};
use rollback_k8s::probe::{AddressProbe, HttpCheck, PodPort, PodProbe, Scheme};
use rollback_prometheus::{Convention, Prometheus, PrometheusConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Number, Secret, Time};
use super::{Planned, Runbook};
use crate::parts::Part;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyEntry {
    pub(super) name: String,
    component: Option<String>,
    plan: Option<String>,
    for_each: Option<ForEach>,
    when: When,
    target: Option<GoalEntry>,
    actions: Vec<ActionEntry>,
    #[serde(default)]
    guards: GuardsEntry,
    #[serde(default)]
    observe: bool,
}

/// One query for all components of a kind.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForEach {
    deployment: Option<Labels>,
    stateful_set: Option<Labels>,
    daemon_set: Option<Labels>,
    inference_service: Option<Labels>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Labels {
    namespace_label: String,
    name_label: String,
}

impl ForEach {
    fn one(&self) -> Option<(&'static str, &Labels)> {
        let all = [
            ("deployment", &self.deployment),
            ("statefulset", &self.stateful_set),
            ("daemonset", &self.daemon_set),
            ("inferenceservice", &self.inference_service),
        ];
        let mut given = all.into_iter().filter_map(|(kind, labels)| Some((kind, labels.as_ref()?)));
        given.next().filter(|_| given.next().is_none())
    }
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct When {
    prometheus: Option<PrometheusEntry>,
    above: Option<Number>,
    below: Option<Number>,
    above_baseline: Option<f64>,
    baseline: Option<BaselineEntry>,
    /// The least that a baseline counts as.
    floor: Option<Number>,
    r#for: Option<Time>,
    /// So many breaches among the last so many samples, in place of a duration.
    breaches: Option<Breaches>,
    in_a_row: Option<u32>,
    min_requests: Option<f64>,
    http: Option<HttpEntry>,
    tcp: Option<TcpEntry>,
    /// The readiness of pods, as Kubernetes tells it.
    ready: Option<Ready>,
    consecutive_failures: Option<u32>,
    /// How long after its start a pod may fail.
    grace: Option<Time>,
    every: Option<Time>,
    all_of: Option<Vec<When>>,
    any_of: Option<Vec<When>>,
    not: Option<Box<When>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PrometheusEntry {
    url: String,
    query: Option<String>,
    errors: Option<String>,
    requests: Option<String>,
    /// The queries for names that many services have, in place of written ones.
    error_rate: Option<Common>,
    latency_p99: Option<Common>,
    username: Option<String>,
    password: Option<Secret>,
    token: Option<Secret>,
    #[serde(default)]
    insecure_tls: bool,
    ca_path: Option<std::path::PathBuf>,
    timeout: Option<Time>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Common {
    #[serde(rename = "of")]
    names: Names,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    window: Option<Time>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Names {
    HttpServer,
    Istio,
    NginxIngress,
    Knative,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BaselineEntry {
    offset: Option<Time>,
    value: Option<Number>,
    #[serde(default)]
    before_change: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Breaches {
    count: u32,
    of: u32,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpEntry {
    pods: Option<PodsHttp>,
    url: Option<String>,
    /// The statuses that are well, from and to.
    statuses: Option<(u16, u16)>,
    body: Option<String>,
    timeout: Option<Time>,
    #[serde(default)]
    insecure_tls: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodsHttp {
    port: PortEntry,
    path: Option<String>,
    #[serde(default)]
    tls: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum PortEntry {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TcpEntry {
    pods: Option<PodsTcp>,
    address: Option<String>,
    timeout: Option<Time>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PodsTcp {
    port: PortEntry,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ready {
    #[allow(dead_code, reason = "there is nothing else whose readiness is told")]
    pods: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum GoalEntry {
    LastGood,
    Previous,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum ActionEntry {
    Alert,
    Rollback,
    Restart,
    Propose,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct GuardsEntry {
    changed_within: Option<Time>,
    cooldown: Option<Time>,
    max_attempts: Option<usize>,
    max_at_once: Option<usize>,
    restarts_per_hour: Option<usize>,
    restarts_before_rollback: Option<usize>,
    #[serde(default)]
    freeze: Vec<FreezeEntry>,
}

/// The form of a time.
const TIME: &str = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})$";

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FreezeEntry {
    #[schemars(with = "String", regex(pattern = TIME))]
    from: Timestamp,
    #[schemars(with = "String", regex(pattern = TIME))]
    until: Timestamp,
    reason: String,
}

/// A duration that a metric is beyond its limit, where a policy names none.
const FOR: Duration = Duration::from_secs(300);

/// How many requests within what a convention looks back mean anything.
const LEAST_REQUESTS: f64 = 100.0;

/// How far the queries of a convention look back.
const LOOK_BACK: Duration = Duration::from_secs(60);

impl When {
    /// Whether what fails is single instances, which can be restarted by themselves.
    fn names_instances(&self) -> bool {
        self.ready.is_some()
            || self.http.as_ref().is_some_and(|http| http.pods.is_some())
            || self.tcp.as_ref().is_some_and(|tcp| tcp.pods.is_some())
            || self.all_of.iter().chain(&self.any_of).flatten().any(Self::names_instances)
    }
}

impl PrometheusEntry {
    fn source(&self, folder: &Path) -> Result<Arc<dyn MetricSource>> {
        let mut config = PrometheusConfig::new(&self.url);
        config.username.clone_from(&self.username);
        config.password =
            self.password.as_ref().map(|secret| secret.read(folder)).transpose()?.map(Into::into);
        config.token = self.token.as_ref().map(|secret| secret.read(folder)).transpose()?.map(Into::into);
        config.insecure_tls = self.insecure_tls;
        config.ca_path = self.ca_path.as_ref().map(|path| folder.join(path));
        if let Some(Time(timeout)) = self.timeout {
            config.timeout = timeout;
        }
        Ok(Arc::new(Prometheus::new(config)?))
    }

    fn metric(&self, by: &[&str]) -> Result<Metric> {
        Ok(match (&self.query, &self.errors, &self.requests, &self.error_rate, &self.latency_p99) {
            (Some(query), _, Some(requests), ..) => {
                Metric::Share { query: query.clone(), requests: requests.clone() }
            }
            (Some(query), ..) => Metric::Value(query.clone()),
            (None, Some(errors), Some(requests), ..) => {
                Metric::Ratio { errors: errors.clone(), requests: requests.clone() }
            }
            (_, _, _, Some(common), _) => {
                let [errors, requests] =
                    common.convention().error_rate(&common.labels(), by, common.look_back());
                Metric::Ratio { errors, requests }
            }
            (_, _, _, _, Some(common)) => {
                Metric::Value(common.convention().latency_p99(&common.labels(), by, common.look_back()))
            }
            _ => return Err(Error::new(ErrorKind::InvalidConfig, "prometheus names no query")),
        })
    }
}

impl Common {
    fn convention(&self) -> Convention {
        match self.names {
            Names::HttpServer => Convention::HttpServer,
            Names::Istio => Convention::Istio,
            Names::NginxIngress => Convention::NginxIngress,
            Names::Knative => Convention::Knative,
        }
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn look_back(&self) -> Duration {
        self.window.map_or(LOOK_BACK, |window| window.0)
    }
}

/// The components of a runbook, by their names there.
pub(crate) type Named = BTreeMap<String, Part>;

/// About which components a trigger is.
struct Subject<'a> {
    scope: Scope,
    component: ComponentId,
    /// The labels by which series are told apart.
    by: Vec<&'a str>,
    part: Option<&'a Part>,
    folder: &'a Path,
}

impl Runbook {
    /// The policies, of components that are connected to.
    ///
    /// # Errors
    /// `InvalidConfig` for a secret that is not there, or an address that is none.
    pub(crate) fn policies(&self, parts: &Named) -> Result<Vec<Policy>> {
        self.each_policy(parts).map(|(_, policy)| policy).collect()
    }

    /// The same, each by itself, with its name.
    pub(crate) fn each_policy(&self, parts: &Named) -> impl Iterator<Item = (&str, Result<Policy>)> {
        self.policies.iter().map(move |entry| {
            let made = self.policy(entry, parts).map_err(|error| {
                let report = error.report();
                let wrapped = Error::new(
                    ErrorKind::InvalidConfig,
                    format!("policy {}: {}", entry.name, report.message),
                );
                match report.hint {
                    Some(hint) => wrapped.with_hint(hint),
                    None => wrapped,
                }
            });
            (entry.name.as_str(), made)
        })
    }

    /// Whether a policy restarts a component.
    pub(crate) fn restarts(&self, name: &str) -> bool {
        let of = |entry: &&PolicyEntry| entry.for_each.is_some() || entry.component.as_deref() == Some(name);
        self.policies.iter().filter(of).any(|entry| entry.actions.contains(&ActionEntry::Restart))
    }

    fn policy(&self, entry: &PolicyEntry, parts: &Named) -> Result<Policy> {
        let unknown =
            |name: &str| Error::new(ErrorKind::InvalidConfig, format!("{name} could not be looked at"));
        let folder = self.folder();
        let plan = entry.plan.as_ref().map(|name| self.blueprint(name, parts)).transpose()?;
        let subject = match (&entry.component, &plan, entry.for_each.as_ref().and_then(ForEach::one)) {
            (Some(name), ..) => {
                let part = parts.get(name).ok_or_else(|| unknown(name))?;
                let component = part.id().clone();
                let scope = Scope::One(component.clone());
                Subject { scope, component, by: Vec::new(), part: Some(part), folder }
            }
            // What is seen of a plan is seen of the first thing that it moves.
            (None, Some(plan), _) => {
                let first = plan.steps.first().ok_or_else(|| unknown(&plan.name))?;
                let component = first.component.clone();
                let part = parts.values().find(|part| *part.id() == component);
                Subject { scope: Scope::One(component.clone()), component, by: Vec::new(), part, folder }
            }
            (None, None, Some((kind, labels))) => {
                let components: Vec<ComponentId> =
                    parts.values().map(|part| part.id().clone()).filter(|id| id.kind() == kind).collect();
                let Some(component) = components.first().cloned() else {
                    let message = format!("the runbook has no {kind} that it could be about");
                    return Err(Error::new(ErrorKind::InvalidConfig, message));
                };
                let (scope_label, name_label) = (labels.namespace_label.clone(), labels.name_label.clone());
                let by = vec![labels.namespace_label.as_str(), labels.name_label.as_str()];
                let scope = Scope::Each { components, scope_label, name_label };
                Subject { scope, component, by, part: None, folder }
            }
            (None, None, None) => return Err(unknown("what it is about")),
        };
        let actions: Vec<Action> = entry
            .actions
            .iter()
            .map(|action| match action {
                ActionEntry::Alert => Action::Alert,
                ActionEntry::Rollback => Action::Rollback,
                ActionEntry::Restart => Action::Restart,
                ActionEntry::Propose => Action::Propose,
            })
            .collect();
        let mut policy = Policy::new(&entry.name, entry.when.trigger(&subject)?, actions);
        policy.plan = plan;
        policy.observe = entry.observe;
        policy.goal = match entry.target {
            Some(GoalEntry::Previous) => Goal::Previous,
            Some(GoalEntry::LastGood) | None => Goal::LastGood,
        };
        policy.restarts = if entry.when.names_instances() { Restarts::Failed } else { Restarts::All };
        let (guards, given) = (&mut policy.guards, &entry.guards);
        let set = |time: &mut Duration, given: Option<Time>| {
            if let Some(Time(given)) = given {
                *time = given;
            }
        };
        set(&mut guards.changed_within, given.changed_within);
        set(&mut guards.cooldown, given.cooldown);
        guards.max_attempts = given.max_attempts.unwrap_or(guards.max_attempts);
        guards.max_at_once = given.max_at_once.unwrap_or(guards.max_at_once);
        guards.restarts_per_hour = given.restarts_per_hour.unwrap_or(guards.restarts_per_hour);
        guards.restarts_before_rollback =
            given.restarts_before_rollback.unwrap_or(guards.restarts_before_rollback);
        guards.freezes = given
            .freeze
            .iter()
            .map(|freeze| Freeze { from: freeze.from, until: freeze.until, reason: freeze.reason.clone() })
            .collect();
        Ok(policy)
    }

    fn blueprint(&self, name: &str, parts: &Named) -> Result<Blueprint> {
        let unknown =
            |name: &str| Error::new(ErrorKind::InvalidConfig, format!("{name} could not be looked at"));
        let Planned { on_failure, steps } = self.plan(name).ok_or_else(|| unknown(name))?;
        let step = |step: super::PlannedStep| {
            let part = parts.get(&step.component.written).ok_or_else(|| unknown(&step.component.written))?;
            let does = match step.does {
                super::Does::Return => Does::Return,
                super::Does::Follow(followed) => Does::Follow(followed),
                super::Does::Restart => Does::Restart,
            };
            Ok(BlueprintStep { id: step.id, component: part.id().clone(), does, after: step.after })
        };
        let steps: Result<Vec<_>> = steps.into_iter().map(step).collect();
        Ok(Blueprint { name: name.to_owned(), on_failure: on_failure.unwrap_or_default(), steps: steps? })
    }
}

impl When {
    fn trigger(&self, subject: &Subject<'_>) -> Result<Arc<dyn Trigger>> {
        let all = |parts: &[Self]| parts.iter().map(|part| part.trigger(subject)).collect::<Result<Vec<_>>>();
        if let Some(parts) = &self.all_of {
            return Ok(Arc::new(AllOf(all(parts)?)));
        }
        if let Some(parts) = &self.any_of {
            return Ok(Arc::new(AnyOf(all(parts)?)));
        }
        if let Some(part) = &self.not {
            return Ok(Arc::new(Not(part.trigger(subject)?)));
        }
        if let Some(prometheus) = &self.prometheus {
            return Ok(Arc::new(self.threshold(prometheus, subject)?));
        }
        let mut check = HealthCheck::new(self.probe(subject)?, subject.component.clone());
        check.failures = self.consecutive_failures.unwrap_or(check.failures);
        check.interval = self.every.map_or(check.interval, |every| every.0);
        Ok(Arc::new(check))
    }

    fn threshold(&self, prometheus: &PrometheusEntry, subject: &Subject<'_>) -> Result<Threshold> {
        let limit = match (self.above, self.below, self.above_baseline, &self.baseline) {
            (Some(Number(limit)), ..) => Limit::Above(limit),
            (None, Some(Number(limit)), ..) => Limit::Below(limit),
            (None, None, Some(factor), Some(baseline)) => {
                let baseline = match (baseline.offset, baseline.value) {
                    (Some(Time(offset)), _) => Baseline::Ago(offset),
                    (None, Some(Number(value))) => Baseline::Fixed(value),
                    (None, None) => Baseline::BeforeChange,
                };
                Limit::AboveBaseline { factor, baseline, floor: self.floor.map_or(0.0, |floor| floor.0) }
            }
            _ => return Err(Error::new(ErrorKind::InvalidConfig, "it has no limit")),
        };
        let window = match (self.breaches, self.in_a_row) {
            (Some(Breaches { count, of }), _) => Window::MOfN { m: count, n: of },
            (None, Some(count)) => Window::InARow(count),
            (None, None) => Window::For(self.r#for.map_or(FOR, |time| time.0)),
        };
        let (source, metric) = (prometheus.source(subject.folder)?, prometheus.metric(&subject.by)?);
        let mut threshold = Threshold::new(source, subject.component.clone(), metric, limit, window);
        threshold.scope = subject.scope.clone();
        threshold.interval = self.every.map_or(threshold.interval, |every| every.0);
        let least = if prometheus.error_rate.is_some() { LEAST_REQUESTS } else { threshold.min_requests };
        threshold.min_requests = self.min_requests.unwrap_or(least);
        Ok(threshold)
    }

    fn probe(&self, subject: &Subject<'_>) -> Result<Arc<dyn HealthProbe>> {
        let workload = || match subject.part {
            Some(Part::Workload(workload)) => Ok(workload.clone()),
            _ => Err(Error::new(ErrorKind::InvalidConfig, "only a workload has pods to ask")),
        };
        let patience = |time: Option<Time>| time.map_or(Duration::from_secs(2), |time| time.0);
        let of_pods = |probe: PodProbe| match self.grace {
            Some(Time(grace)) => Arc::new(probe.with_grace(grace)) as Arc<dyn HealthProbe>,
            None => Arc::new(probe),
        };
        if let Some(http) = &self.http {
            let mut check = HttpCheck::default();
            check.timeout = patience(http.timeout);
            check.body.clone_from(&http.body);
            check.insecure_tls = http.insecure_tls;
            if let Some((from, to)) = http.statuses {
                check.statuses = from..=to;
            }
            return Ok(match (&http.pods, &http.url) {
                (Some(pods), _) => {
                    check.path = pods.path.clone().unwrap_or_else(|| "/".into());
                    check.scheme = if pods.tls { Scheme::Https } else { Scheme::Http };
                    of_pods(PodProbe::http(&workload()?, port(&pods.port), check)?)
                }
                (None, Some(url)) => Arc::new(AddressProbe::http(url, check)?),
                (None, None) => return Err(Error::new(ErrorKind::InvalidConfig, "http asks nobody")),
            });
        }
        if let Some(tcp) = &self.tcp {
            return Ok(match (&tcp.pods, &tcp.address) {
                (Some(pods), _) => {
                    of_pods(PodProbe::tcp(&workload()?, port(&pods.port), patience(tcp.timeout))?)
                }
                (None, Some(address)) => Arc::new(AddressProbe::tcp(address, patience(tcp.timeout))?),
                (None, None) => return Err(Error::new(ErrorKind::InvalidConfig, "tcp asks nobody")),
            });
        }
        Ok(of_pods(PodProbe::readiness(&workload()?)))
    }
}

fn port(entry: &PortEntry) -> PodPort {
    match entry {
        PortEntry::Number(number) => PodPort::Number(*number),
        PortEntry::Name(name) => PodPort::Name(name.clone()),
    }
}
