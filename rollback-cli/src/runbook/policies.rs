//! The policies of a runbook: what is watched, and what is done about it.

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
use crate::naming::{Component, Kind};
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

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FreezeEntry {
    #[schemars(with = "String")]
    from: Timestamp,
    #[schemars(with = "String")]
    until: Timestamp,
    reason: String,
}

/// A duration that a metric is beyond its limit, where a policy names none.
const FOR: Duration = Duration::from_secs(300);

/// How far the queries of a convention look back.
const LOOK_BACK: Duration = Duration::from_secs(60);

impl PolicyEntry {
    pub(super) fn check(
        &self,
        place: &str,
        components: &[Component],
        plans: &[&str],
        faults: &mut Vec<String>,
    ) {
        let mut fault = |what: &str| faults.push(format!("{place}: {what}"));
        let subjects = [self.component.is_some(), self.plan.is_some(), self.for_each.is_some()];
        if subjects.into_iter().filter(|given| *given).count() != 1 {
            fault("it is about one component, one plan, or forEach of a kind");
        }
        let known = |name: &String| components.iter().find(|component| component.written == *name);
        if let Some(name) = self.component.as_ref().filter(|name| known(name).is_none()) {
            fault(&format!("{name} is no component of the runbook"));
        }
        if let Some(name) = self.plan.as_ref().filter(|name| !plans.contains(&name.as_str())) {
            fault(&format!("{name} is no plan of the runbook"));
        }
        if self.for_each.as_ref().is_some_and(|each| each.one().is_none()) {
            fault("forEach names one kind: deployment, statefulSet, daemonSet or inferenceService");
        }
        if self.actions.is_empty() {
            fault("it has no actions: name at least alert");
        }
        let does = |action| self.actions.contains(&action);
        if does(ActionEntry::Rollback) && does(ActionEntry::Propose) {
            fault("it either rolls back or proposes to");
        }
        let of_workload = |name: &String| known(name).is_none_or(|c| matches!(c.kind, Kind::Workload(_)));
        let restarts_workloads = self.component.as_ref().is_some_and(of_workload)
            || self.for_each.as_ref().is_some_and(|each| each.inference_service.is_none());
        if does(ActionEntry::Restart) && !restarts_workloads {
            fault("only a workload can be restarted");
        }
        for freeze in self.guards.freeze.iter().filter(|freeze| freeze.until <= freeze.from) {
            fault(&format!("the freeze from {} ends before it begins", freeze.from));
        }
        if self.guards.max_at_once == Some(0) || self.guards.max_attempts == Some(0) {
            fault("a guard of 0 lets nothing happen ever: leave the action out, or set observe");
        }
        let is_workload = self.component.as_ref().is_some_and(of_workload);
        self.when.check(&format!("{place}.when"), (self.for_each.is_some(), is_workload), faults);
    }
}

impl When {
    fn check(&self, place: &str, (for_each, is_workload): (bool, bool), faults: &mut Vec<String>) {
        let parts = [
            self.prometheus.is_some(),
            self.http.is_some(),
            self.tcp.is_some(),
            self.ready.is_some(),
            self.all_of.is_some(),
            self.any_of.is_some(),
            self.not.is_some(),
        ];
        if parts.into_iter().filter(|given| *given).count() != 1 {
            faults.push(format!("{place}: it is one of prometheus, http, tcp, ready, allOf, anyOf or not"));
            return;
        }
        let mut fault = |what: &str| faults.push(format!("{place}: {what}"));
        let is_probe = self.http.is_some() || self.tcp.is_some() || self.ready.is_some();
        if self.every.is_some_and(|every| every.0.is_zero()) {
            fault("every takes some time");
        }
        if let Some(prometheus) = &self.prometheus {
            let limits = [self.above.is_some(), self.below.is_some(), self.above_baseline.is_some()];
            if limits.into_iter().filter(|given| *given).count() != 1 {
                fault("a metric is above, below or aboveBaseline something");
            }
            if self.above_baseline.is_some() != self.baseline.is_some() {
                fault("aboveBaseline takes a baseline, and nothing else does");
            }
            if let Some(baseline) = &self.baseline {
                let given = [baseline.offset.is_some(), baseline.value.is_some(), baseline.before_change];
                if given.into_iter().filter(|given| *given).count() != 1 {
                    fault("a baseline is an offset, a value, or beforeChange: true");
                }
            }
            let windows = [self.r#for.is_some(), self.breaches.is_some(), self.in_a_row.is_some()];
            if windows.into_iter().filter(|given| *given).count() > 1 {
                fault("it lasts for a duration, or breaches count of so many, or inARow");
            }
            if self.breaches.is_some_and(|breaches| breaches.count == 0 || breaches.count > breaches.of)
                || self.in_a_row == Some(0)
            {
                fault("breaches are at least 1, and at most as many as they are of");
            }
            if self.consecutive_failures.is_some() {
                fault("consecutiveFailures is for probes; a metric has inARow");
            }
            prometheus.check(&mut fault);
            if self.min_requests.is_some() && prometheus.requests.is_none() && prometheus.error_rate.is_none()
            {
                fault("minRequests takes the query of requests");
            }
        } else if self.above.is_some() || self.below.is_some() || self.above_baseline.is_some() {
            fault("above, below and aboveBaseline are for a metric");
        }
        if is_probe {
            if for_each {
                fault("forEach takes one query for all: a metric");
            }
            if self.r#for.is_some() || self.min_requests.is_some() || self.breaches.is_some() {
                fault(
                    "a probe fails consecutiveFailures times; for, breaches and minRequests are for metrics",
                );
            }
            if self.consecutive_failures == Some(0) {
                fault("consecutiveFailures are at least 1");
            }
            let by_pods = self.ready.is_some()
                || self.http.as_ref().is_some_and(|http| http.pods.is_some())
                || self.tcp.as_ref().is_some_and(|tcp| tcp.pods.is_some());
            if by_pods && !is_workload {
                fault("only a workload has pods to ask");
            }
            if self.http.as_ref().is_some_and(|http| http.pods.is_some() == http.url.is_some()) {
                fault("http asks either pods or a url");
            }
            if self.tcp.as_ref().is_some_and(|tcp| tcp.pods.is_some() == tcp.address.is_some()) {
                fault("tcp asks either pods or an address");
            }
            if self.ready.as_ref().is_some_and(|ready| !ready.pods) {
                fault("ready is of pods: true");
            }
        }
        let parts = self.all_of.iter().map(|all| ("allOf", all.as_slice()));
        let parts = parts.chain(self.any_of.iter().map(|any| ("anyOf", any.as_slice())));
        let parts = parts.chain(self.not.iter().map(|not| ("not", std::slice::from_ref(&**not))));
        for (word, parts) in parts {
            if parts.is_empty() {
                faults.push(format!("{place}.{word}: it names nothing"));
            }
            for (index, part) in parts.iter().enumerate() {
                part.check(&format!("{place}.{word}[{index}]"), (for_each, is_workload), faults);
            }
        }
    }

    /// Whether what fails is single instances, which can be restarted by themselves.
    fn names_instances(&self) -> bool {
        self.ready.is_some()
            || self.http.as_ref().is_some_and(|http| http.pods.is_some())
            || self.tcp.as_ref().is_some_and(|tcp| tcp.pods.is_some())
            || self.all_of.iter().chain(&self.any_of).flatten().any(Self::names_instances)
    }
}

impl PrometheusEntry {
    fn check(&self, fault: &mut impl FnMut(&str)) {
        let written = self.query.is_some() || self.errors.is_some() || self.requests.is_some();
        let named = usize::from(self.error_rate.is_some()) + usize::from(self.latency_p99.is_some());
        if named + usize::from(written) != 1 {
            fault("prometheus takes a query, errors and requests, an errorRate, or a latencyP99");
        }
        if self.query.is_some() && self.errors.is_some() {
            fault("a query gives the value itself; errors are the other way");
        }
        if self.errors.is_some() && self.requests.is_none() {
            fault("errors take requests beside them: no error at all is not no data at all");
        }
        if self.requests.is_some() && self.query.is_none() && self.errors.is_none() {
            fault("requests take errors, or a query, beside them");
        }
        if self.username.is_some() != self.password.is_some()
            || (self.token.is_some() && self.username.is_some())
        {
            fault("prometheus takes a username and its password, or a token");
        }
        for secret in self.password.iter().chain(&self.token) {
            if let Some(what) = secret.fault() {
                fault(what);
            }
        }
    }

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
        let made = self.policies.iter().map(|entry| {
            self.policy(entry, parts).map_err(|error| {
                let report = error.report();
                let wrapped = Error::new(
                    ErrorKind::InvalidConfig,
                    format!("policy {}: {}", entry.name, report.message),
                );
                match report.hint {
                    Some(hint) => wrapped.with_hint(hint),
                    None => wrapped,
                }
            })
        });
        made.collect()
    }

    fn policy(&self, entry: &PolicyEntry, parts: &Named) -> Result<Policy> {
        let unknown = |name: &str| Error::new(ErrorKind::InvalidConfig, format!("{name} is not known"));
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
        let unknown = |name: &str| Error::new(ErrorKind::InvalidConfig, format!("{name} is not known"));
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
        threshold.min_requests = self.min_requests.unwrap_or(threshold.min_requests);
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
