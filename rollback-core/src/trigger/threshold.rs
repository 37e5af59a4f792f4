//! A metric beyond its limit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join, join_all, try_join};
use tokio::time::timeout;

use super::baseline::{Baseline, Limit};
use super::metric::{Metric, MetricSource, Point, Sample, Scope};
use super::verdict::{Evaluation, Evidence, Verdict};
use super::window::{Phase, Seen, Window};
use super::{Memory, Trigger};
use crate::{ComponentId, Error, ErrorKind, Result, Timestamp};

/// How much of a chart is before the breach, in parts of how long that lasts.
const BEFORE: u32 = 2;

/// Why there is no baseline of before a change.
const NO_CHANGE: &str = "no change of it is known to compare with before";

/// How many points a chart has at most: no source gives very many.
const MOST_POINTS: u32 = 500;

/// Fires when a metric is beyond its limit for long enough, or often enough.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Threshold {
    /// Where the metric comes from.
    pub source: Arc<dyn MetricSource>,
    /// Whose it is.
    pub scope: Scope,
    /// The metric.
    pub metric: Metric,
    /// Its limit.
    pub limit: Limit,
    /// How long, or how often.
    pub window: Window,
    /// How often it is evaluated. Default: every 15 s.
    pub interval: Duration,
    /// How many requests a ratio takes to mean anything, in the unit of its query. With fewer it holds. Default: 0.
    pub min_requests: f64,
}

/// What a component's samples amount to.
enum Judged {
    /// This value, and whether it is beyond this limit.
    Value {
        value: f64,
        limit: f64,
        is_breach: bool,
    },
    /// Too few requests to say that anything is wrong.
    TooFew,
    /// Nothing to compare with, and that is no fault.
    Unproven(String),
    Unknown(String),
}

impl Threshold {
    /// A metric of one component.
    pub fn new(
        source: Arc<dyn MetricSource>,
        component: ComponentId,
        metric: Metric,
        limit: Limit,
        window: Window,
    ) -> Self {
        let scope = Scope::One(component);
        Self { source, scope, metric, limit, window, interval: Duration::from_secs(15), min_requests: 0.0 }
    }

    /// Refuses what could never fire, or would always.
    fn check(&self) -> Result<()> {
        let numbers = match &self.limit {
            Limit::Above(limit) | Limit::Below(limit) => vec![*limit],
            Limit::AboveBaseline { factor, floor, baseline } => match baseline {
                Baseline::Fixed(value) => vec![*factor, *floor, *value],
                Baseline::Ago(_) | Baseline::At(_) | Baseline::BeforeChange => vec![*factor, *floor],
            },
        };
        let is_share = self.metric.is_share();
        let wrong = match (&self.limit, self.window) {
            _ if self.interval.is_zero() => "an interval at which it is evaluated",
            _ if !numbers.iter().all(|number| number.is_finite()) || !self.min_requests.is_finite() => {
                "numbers for its limits"
            }
            (Limit::Above(limit), _) if is_share && !(0.0..1.0).contains(limit) => {
                "as the limit of a share a number below 1: 5 % is 0.05"
            }
            (Limit::Below(limit), _) if is_share && !(*limit > 0.0 && *limit <= 1.0) => {
                "as the limit of a share a number up to 1: 5 % is 0.05"
            }
            (Limit::AboveBaseline { factor, .. }, _) if *factor <= 0.0 => "a factor above 0",
            (Limit::AboveBaseline { baseline: Baseline::Ago(time), .. }, _) if time.is_zero() => {
                "a baseline of another time"
            }
            (_, Window::MOfN { m, n }) if m == 0 || m > n => "m of n with m from 1 to n",
            (_, Window::InARow(0)) => "a number in a row of at least 1",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidConfig, format!("a trigger takes {wrong}")))
    }

    /// The value of each component at a time; none where there are too few requests.
    async fn values(&self, at: Timestamp) -> Result<Vec<std::result::Result<Option<f64>, String>>> {
        // What comes after the next evaluation is due is no answer.
        let read = async |query: &str| {
            let answer = timeout(self.interval, self.source.sample(query, at)).await;
            self.scope.samples(answer.unwrap_or_else(|_| Err(late(self.interval))))
        };
        let values = match &self.metric {
            Metric::Value(query) => {
                read(query).await?.into_iter().map(|sample| value(sample).map(Some)).collect()
            }
            Metric::Ratio { errors, requests } => {
                let (errors, requests) = try_join(read(errors), read(requests)).await?;
                errors.into_iter().zip(requests).map(|(e, r)| ratio(e, r, self.min_requests)).collect()
            }
            Metric::Share { query, requests } => {
                let (shares, requests) = try_join(read(query), read(requests)).await?;
                shares.into_iter().zip(requests).map(|(s, r)| share(s, r, self.min_requests)).collect()
            }
        };
        Ok(values)
    }

    /// The limit of each component.
    async fn limits(
        &self,
        at: Timestamp,
        changed: &BTreeMap<ComponentId, Timestamp>,
    ) -> Result<Option<Vec<std::result::Result<f64, String>>>> {
        let Limit::AboveBaseline { factor, baseline, floor } = &self.limit else { return Ok(None) };
        let scaled = |value: f64| factor * value.max(*floor);
        let told = |value: std::result::Result<Option<f64>, String>, then: Timestamp| match value {
            Ok(Some(value)) => Ok(scaled(value)),
            Ok(None) => Err(format!("there were too few requests at {then} to compare with")),
            Err(why) => Err(format!("there is nothing of {then} to compare with: {why}")),
        };
        let known = match baseline {
            Baseline::BeforeChange => {
                let (mut known, mut asked) = (Vec::new(), BTreeMap::new());
                for (place, component) in self.scope.components().iter().enumerate() {
                    let Some(changed) = changed.get(component) else {
                        known.push(Err(NO_CHANGE.into()));
                        continue;
                    };
                    // What it was while the change rolled out is neither.
                    let then = changed.saturating_sub(self.interval.saturating_mul(2));
                    if let Entry::Vacant(entry) = asked.entry(then) {
                        entry.insert(self.values(then).await?);
                    }
                    let value = asked.get(&then).and_then(|values| values.get(place).cloned());
                    known.push(told(value.unwrap_or(Ok(None)), then));
                }
                known
            }
            Baseline::Fixed(value) => self.scope.components().iter().map(|_| Ok(scaled(*value))).collect(),
            Baseline::Ago(_) | Baseline::At(_) => {
                let then = baseline.time(at).unwrap_or(at);
                self.values(then).await?.into_iter().map(|value| told(value, then)).collect()
            }
        };
        Ok(Some(known))
    }

    fn judge(
        &self,
        value: std::result::Result<Option<f64>, String>,
        limit: Option<std::result::Result<f64, String>>,
    ) -> Judged {
        let value = match value {
            Ok(Some(value)) => value,
            Ok(None) => return Judged::TooFew,
            Err(why) => return Judged::Unknown(why),
        };
        let (limit, is_breach) = match (&self.limit, limit) {
            (Limit::Above(limit), _) => (*limit, value > *limit),
            (Limit::Below(limit), _) => (*limit, value < *limit),
            (Limit::AboveBaseline { .. }, Some(Ok(limit))) => (limit, value > limit),
            (Limit::AboveBaseline { .. }, Some(Err(why))) if why == NO_CHANGE => {
                return Judged::Unproven(why);
            }
            (Limit::AboveBaseline { .. }, Some(Err(why))) => return Judged::Unknown(why),
            (Limit::AboveBaseline { .. }, None) => return Judged::Unknown("there is no baseline".into()),
        };
        Judged::Value { value, limit, is_breach }
    }

    /// What a chart shows of a component: what cannot be had leaves it empty.
    async fn points(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        let read = async |query: &str| {
            let lines = timeout(
                self.interval,
                self.source.range(query, from, to, self.interval.max(to.since(from) / MOST_POINTS)),
            )
            .await;
            let lines = lines.ok().and_then(Result::ok).unwrap_or_default();
            let own = lines.into_iter().find(|line| self.scope.is_of(component, &line.labels));
            own.map(|line| line.points).unwrap_or_default()
        };
        let mut points = match &self.metric {
            Metric::Value(query) | Metric::Share { query, .. } => read(query).await,
            Metric::Ratio { errors, requests } => {
                let (errors, requests) = join(read(errors), read(requests)).await;
                // Where none was counted there was none.
                let failed = |at| errors.iter().find(|point| point.at == at).map_or(0.0, |point| point.value);
                let share = |point: Point| Point { value: failed(point.at) / point.value, ..point };
                requests.into_iter().map(share).collect()
            }
        };
        points.retain(|point| point.value.is_finite());
        points
    }

    async fn evidence(
        &self,
        component: &ComponentId,
        (since, at): (Timestamp, Timestamp),
        (value, limit): (f64, f64),
        is_breach: bool,
    ) -> Evidence {
        let side = if matches!(self.limit, Limit::Below(_)) { "below" } else { "above" };
        let shown = |number: f64| {
            if self.metric.is_share() { format!("{:.2} %", number * 100.0) } else { format!("{number:.4}") }
        };
        let from = since.saturating_sub(at.since(since).saturating_mul(BEFORE).max(self.interval * 4));
        let summary = if is_breach {
            format!("{} is {side} {} since {since}", shown(value), shown(limit))
        } else {
            format!("{} now, and {side} {} too often since {since}", shown(value), shown(limit))
        };
        Evidence {
            summary,
            since: Some(since),
            value: Some(value),
            limit: Some(limit),
            is_share: self.metric.is_share(),
            points: self.points(component, from, at).await,
            ..Evidence::default()
        }
    }
}

fn value(sample: Sample) -> std::result::Result<f64, String> {
    match sample {
        Sample::Value(value) => Ok(value),
        Sample::NoData => Err("there is no data".into()),
        Sample::Error(why) => Err(why),
    }
}

fn ratio(errors: Sample, requests: Sample, least: f64) -> std::result::Result<Option<f64>, String> {
    let requests = value(requests).map_err(|why| format!("requests: {why}"))?;
    if requests < least || requests <= 0.0 {
        return Ok(None);
    }
    match errors {
        // Nobody has counted one yet.
        Sample::NoData => Ok(Some(0.0)),
        errors => Ok(Some(value(errors).map_err(|why| format!("errors: {why}"))? / requests)),
    }
}

fn share(share: Sample, requests: Sample, least: f64) -> std::result::Result<Option<f64>, String> {
    let requests = value(requests).map_err(|why| format!("requests: {why}"))?;
    // Without requests the share is no number, and none is missing.
    if requests < least || requests <= 0.0 { Ok(None) } else { value(share).map(Some) }
}

#[async_trait]
impl Trigger for Threshold {
    fn components(&self) -> Vec<ComponentId> {
        self.scope.components()
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn window(&self) -> Duration {
        self.window.length(self.interval)
    }

    async fn chart(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        self.points(component, from, to).await
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        self.check()?;
        let Self { metric, limit, window, interval, min_requests, .. } = self;
        memory.of_rule(&format!("{metric:?} {limit:?} {window:?} {interval:?} {min_requests}"));
        let changed = memory.changed.clone();
        let (values, limits) = try_join(self.values(at), self.limits(at, &changed)).await?;
        let components = self.scope.components();
        let names: Vec<String> = components.iter().map(ToString::to_string).collect();
        memory.keep(|key| names.iter().any(|name| name == key));
        let mut limits = limits.map(Vec::into_iter);
        let (mut evaluation, mut firing) = (Evaluation::default(), Vec::new());
        for ((component, name), value) in components.iter().zip(&names).zip(values) {
            let judged = self.judge(value, limits.as_mut().and_then(Iterator::next));
            let seen = match &judged {
                Judged::Value { is_breach: true, .. } => Seen::Breach,
                Judged::Value { .. } => Seen::Good,
                Judged::TooFew | Judged::Unproven(_) | Judged::Unknown(_) => Seen::Unknown,
            };
            let phase = self.window.observe(self.interval, memory.progress(name), at, seen);
            let verdict = match (phase, judged) {
                (_, Judged::Unknown(why)) => Verdict::Unknown(why),
                (_, Judged::Unproven(why)) => {
                    evaluation.add_unproven(component, why);
                    continue;
                }
                (_, Judged::TooFew) => {
                    evaluation.add_unproven(component, "there are too few requests to tell".into());
                    continue;
                }
                // Of m of n one may be good.
                (Phase::Firing(since), Judged::Value { value, limit, is_breach })
                    if is_breach || matches!(self.window, Window::MOfN { .. }) =>
                {
                    firing.push((component, since, (value, limit), is_breach));
                    continue;
                }
                (Phase::Pending(since), _) => {
                    evaluation.add_unproven(component, format!("it is beyond its limit since {since}"));
                    continue;
                }
                // Of a late sample the phase is that of the one before, and there is nothing to show for it.
                (Phase::Unknown | Phase::Firing(_), _) => {
                    evaluation.add_unproven(component, "the sample is late".into());
                    continue;
                }
                (Phase::Hold, _) => Verdict::Hold,
            };
            evaluation.add(component, verdict);
        }
        // Side by side: many may fire at once, and what is done about it waits for this.
        let evidence = firing.into_iter().map(async |(component, since, value, is_breach)| {
            (component, self.evidence(component, (since, at), value, is_breach).await)
        });
        for (component, evidence) in join_all(evidence).await {
            evaluation.add(component, Verdict::Firing(evidence));
        }
        Ok(evaluation)
    }
}

/// That there was no answer in time.
pub(super) fn late(after: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("there was no answer within {} s", after.as_secs()))
        .temporary(None)
}

/// More than 5 % of the requests of a component fail, for 5 minutes, with at least 100 requests: in the unit of the
/// queries, which are best `increase(…[1m])`.
///
/// A query looks back itself. One that looks back as long as the breach has to last shows a failure of a minute for six,
/// and fires after it is over; a minute is short enough, and long enough for four scrapes.
pub fn error_rate(
    source: Arc<dyn MetricSource>,
    component: ComponentId,
    errors: impl Into<String>,
    requests: impl Into<String>,
) -> Threshold {
    let metric = Metric::Ratio { errors: errors.into(), requests: requests.into() };
    let window = Window::For(Duration::from_secs(300));
    let trigger = Threshold::new(source, component, metric, Limit::Above(0.05), window);
    Threshold { min_requests: 100.0, ..trigger }
}

/// The 99th percentile of the latency of a component is more than twice what it was a day before, for 10 minutes.
/// `floor` is the least that counts as its baseline, in the unit of the query, such as seconds.
pub fn latency_p99(
    source: Arc<dyn MetricSource>,
    component: ComponentId,
    query: impl Into<String>,
    floor: f64,
) -> Threshold {
    let baseline = Baseline::Ago(Duration::from_secs(24 * 3600));
    let limit = Limit::AboveBaseline { factor: 2.0, baseline, floor };
    Threshold::new(
        source,
        component,
        Metric::Value(query.into()),
        limit,
        Window::For(Duration::from_secs(600)),
    )
}
