//! Where samples come from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ComponentId, Error, Result, Timestamp};

/// Answers queries of metrics, such as Prometheus.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MetricSource: fmt::Debug + Send + Sync {
    /// The series that a query gives at a time: none where there is no data. Read-only.
    ///
    /// # Errors
    /// `InvalidConfig` for a query that is none, which no repetition mends; else as the source answers.
    async fn sample(&self, query: &str, at: Timestamp) -> Result<Vec<Series>>;

    /// The values of a query from one time to another, one each `step` where there is one: what a chart shows. Read-only.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    async fn range(&self, query: &str, from: Timestamp, to: Timestamp, step: Duration) -> Result<Vec<Line>>;
}

/// One value of a query, with the labels that tell it from the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value, which may be no number.
    pub value: f64,
}

impl Series {
    /// A value without labels.
    pub fn of(value: f64) -> Self {
        Self { labels: BTreeMap::new(), value }
    }
}

/// A series over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its values, the oldest first.
    pub points: Vec<Point>,
}

/// A value at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// The value.
    pub value: f64,
}

/// What was had of a metric. No data and an error are never a reason to act.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A number.
    Value(f64),
    /// The source knows of none.
    NoData,
    /// It could not be had, or is no number: why.
    Error(String),
}

impl Sample {
    fn of(value: f64) -> Self {
        if value.is_finite() { Self::Value(value) } else { Self::Error(format!("the metric is {value}")) }
    }
}

/// A metric to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// What a query gives, as it is.
    Value(String),
    /// The share of errors among requests, from 0 to 1: two queries, so that no error at all is told from no data at all.
    /// No series of errors beside enough requests is 0; no series of requests is unknown.
    Ratio {
        /// How many of them fail, such as per second.
        errors: String,
        /// How many there are, in the same unit.
        requests: String,
    },
    /// The share that a query gives, and beside it how many requests it is of.
    Share {
        /// The share, from 0 to 1.
        query: String,
        /// How many requests there are.
        requests: String,
    },
}

impl Metric {
    pub(super) fn is_share(&self) -> bool {
        !matches!(self, Self::Value(_))
    }
}

/// Whose metric it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of one component: the query gives one series.
    One(ComponentId),
    /// Those of several, from one query that gives a series for each, told apart by two labels.
    Each {
        /// The components that are known; one that is missing from the answer is unknown.
        components: Vec<ComponentId>,
        /// The label of the scope, such as `namespace`.
        scope_label: String,
        /// The label of the name, such as `deployment`.
        name_label: String,
    },
}

impl Scope {
    pub(super) fn components(&self) -> Vec<ComponentId> {
        match self {
            Self::One(component) => vec![component.clone()],
            Self::Each { components, .. } => components.clone(),
        }
    }

    /// Whether a series with these labels is that of a component.
    pub(super) fn is_of(&self, component: &ComponentId, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::One(_) => true,
            Self::Each { scope_label, name_label, .. } => {
                labels.get(scope_label).map(String::as_str) == component.scope()
                    && labels.get(name_label).map(String::as_str) == Some(component.name())
            }
        }
    }

    /// The sample of each component, in their order.
    pub(super) fn samples(&self, answer: Result<Vec<Series>>) -> Result<Vec<Sample>> {
        let components = self.components();
        let series = match answer {
            Ok(series) => series,
            Err(error) if is_ours(&error) => return Err(error),
            Err(error) => {
                return Ok(components.iter().map(|_| Sample::Error(error.report().message)).collect());
            }
        };
        let own = |component: &ComponentId| -> Vec<f64> {
            series.iter().filter(|one| self.is_of(component, &one.labels)).map(|one| one.value).collect()
        };
        let sample = |component: &ComponentId| match own(component).as_slice() {
            [] => Sample::NoData,
            [value] => Sample::of(*value),
            several => Sample::Error(format!("the query gives {} series where one is meant", several.len())),
        };
        Ok(components.iter().map(sample).collect())
    }
}

/// Whether an error is of the trigger itself, so that no repetition mends it.
fn is_ours(error: &Error) -> bool {
    matches!(error.kind(), crate::ErrorKind::InvalidConfig)
}

const _: Option<&dyn MetricSource> = None;
