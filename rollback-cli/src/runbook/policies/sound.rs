//! What is wrong with a policy, before anybody is asked.

use super::{ActionEntry, Number, PolicyEntry, PrometheusEntry, When};
use crate::naming::{Component, Kind};
use crate::place::without_user;

impl PolicyEntry {
    pub(in crate::runbook) fn check(
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
            self.check_metric(prometheus, &mut fault);
        } else if self.above.is_some() || self.below.is_some() || self.above_baseline.is_some() {
            fault("above, below and aboveBaseline are for a metric");
        }
        if is_probe {
            self.check_probe((for_each, is_workload), &mut fault);
        }
        let own = [
            self.r#for.is_some(),
            self.every.is_some(),
            self.min_requests.is_some(),
            self.consecutive_failures.is_some(),
            self.in_a_row.is_some(),
            self.breaches.is_some(),
            self.grace.is_some(),
            self.baseline.is_some(),
            self.floor.is_some(),
        ];
        if !is_probe && self.prometheus.is_none() && own.contains(&true) {
            faults.push(format!(
                "{place}: how long and how often is said of each part of allOf, anyOf and not"
            ));
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

    fn check_metric(&self, prometheus: &PrometheusEntry, fault: &mut impl FnMut(&str)) {
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
        prometheus.check(fault);
        let is_share = prometheus.requests.is_some() || prometheus.error_rate.is_some();
        if prometheus.requests.is_some() && self.min_requests.is_none() {
            fault("requests take minRequests, how many of them mean anything, in the unit of the query");
        }
        let beyond = |limit: Option<Number>| limit.is_some_and(|Number(limit)| !(0.0..1.0).contains(&limit));
        if is_share
            && (beyond(self.above) || self.below.is_some_and(|Number(limit)| limit <= 0.0 || limit > 1.0))
        {
            fault("the limit of a share is below 1: 5 % is 5% or 0.05");
        }
        if self.floor.is_some() && self.above_baseline.is_none() {
            fault("a floor is that of a baseline");
        }
        if self.grace.is_some() {
            fault("grace is for the probes of pods");
        }
        if self.min_requests.is_some() && prometheus.requests.is_none() && prometheus.error_rate.is_none() {
            fault("minRequests takes the query of requests");
        }
    }

    fn check_probe(&self, (for_each, is_workload): (bool, bool), fault: &mut impl FnMut(&str)) {
        if for_each {
            fault("forEach takes one query for all: a metric");
        }
        let of_metrics = self.r#for.is_some() || self.min_requests.is_some() || self.breaches.is_some();
        if of_metrics || self.in_a_row.is_some() || self.baseline.is_some() || self.floor.is_some() {
            fault(
                "a probe fails consecutiveFailures times; for, breaches, inARow, minRequests, baseline and floor are for metrics",
            );
        }
        if self.consecutive_failures == Some(0) {
            fault("consecutiveFailures are at least 1");
        }
        let by_pods = self.ready.is_some()
            || self.http.as_ref().is_some_and(|http| http.pods.is_some())
            || self.tcp.as_ref().is_some_and(|tcp| tcp.pods.is_some());
        if self.grace.is_some() && !by_pods {
            fault("grace is for the probes of pods");
        }
        if self.http.as_ref().and_then(|http| http.url.as_ref()).is_some_and(|url| url.contains('@')) {
            fault("a url holds no user and no password");
        }
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
}

impl PrometheusEntry {
    fn check(&self, fault: &mut impl FnMut(&str)) {
        if without_user(&self.url) != self.url {
            fault("the url of prometheus holds a user or a password: a secret is given by env or file");
        }
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
}
