//! Triggers: they watch a signal, and say of each component whether it is time to act.
//!
//! A trigger is evaluated again and again, with the time as an argument and its [`Memory`] beside it, so that what it says
//! follows from what it saw and from nothing else. It says [`Firing`](Verdict::Firing) only on samples that it has: a
//! metric that went missing, an answer that is no number, or a source that does not answer is
//! [`Unknown`](Verdict::Unknown), which is never a reason to roll back.
//!
//! - [`Threshold`] compares a metric with a number or with what it was before; [`error_rate`] and [`latency_p99`] are
//!   ready-made.
//! - [`HealthCheck`] counts failed probes in a row, instance by instance.
//! - [`AllOf`], [`AnyOf`] and [`Not`] combine triggers.
//! - [`Window`] is the rule of how long or how often: [`For`](Window::For) a duration, [`InARow`](Window::InARow), or
//!   [`MOfN`](Window::MOfN).
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use rollback_core::trigger::{Line, Memory, MetricSource, Point, Series, Trigger, Verdict, error_rate};
//! use rollback_core::{ComponentId, Result, Timestamp};
//!
//! /// One request in ten fails.
//! #[derive(Debug)]
//! struct Metrics;
//!
//! #[async_trait]
//! impl MetricSource for Metrics {
//!     async fn sample(&self, query: &str, _: Timestamp) -> Result<Vec<Series>> {
//!         Ok(vec![Series::of(if query == "errors" { 10.0 } else { 100.0 })])
//!     }
//!
//!     async fn range(&self, _: &str, from: Timestamp, _: Timestamp, _: Duration) -> Result<Vec<Line>> {
//!         Ok(vec![Line { labels: Default::default(), points: vec![Point { at: from, value: 10.0 }] }])
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let web = ComponentId::new("deployment", Some("shop"), "web")?;
//! let trigger = error_rate(Arc::new(Metrics), web.clone(), "errors", "requests");
//! let mut memory = Memory::default();
//! let mut at: Timestamp = "2026-11-23T03:00:00Z".parse()?;
//! for _ in 0..20 {
//!     assert!(trigger.evaluate(at, &mut memory).await?.verdicts.is_empty());
//!     at = at.saturating_add(Duration::from_secs(15));
//! }
//! // For five minutes more than 5 % fail.
//! let seen = trigger.evaluate(at, &mut memory).await?;
//! assert!(matches!(seen.verdicts[&web], Verdict::Firing(_)));
//! # Ok(())
//! # }
//! ```

mod baseline;
mod combine;
mod health;
mod metric;
mod threshold;
mod verdict;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ComponentId, Fingerprint, Result, Timestamp};

pub use baseline::{Baseline, Limit};
pub use combine::{AllOf, AnyOf, Not};
#[cfg(feature = "mock")]
pub use health::MockHealthProbe;
pub use health::{Health, HealthCheck, HealthProbe};
#[cfg(feature = "mock")]
pub use metric::MockMetricSource;
pub use metric::{Line, Metric, MetricSource, Point, Sample, Scope, Series};
pub use threshold::{Threshold, error_rate, latency_p99};
pub use verdict::{Evaluation, Evidence, Verdict};
pub use window::{Phase, Progress, Seen, Window};

/// Watches a signal of one or several components.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Trigger: fmt::Debug + Send + Sync {
    /// The components of which it gives verdicts.
    fn components(&self) -> Vec<ComponentId>;

    /// How often it is to be evaluated. More often is as well; so seldom that two of these pass, it forgets each time what
    /// it saw before.
    fn interval(&self) -> Duration;

    /// For how long it has to look before it can fire: a whole window of its rule. After a change this much new data says
    /// whether it still would.
    fn window(&self) -> Duration {
        self.interval()
    }

    /// What it watches of a component between two times, for a chart; empty where there is nothing to show, or where it
    /// cannot be had. Read-only.
    async fn chart(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        let _ = (component, from, to);
        Vec::new()
    }

    /// Looks once, at this time. Read-only.
    ///
    /// Guarantees that a component is `Firing` only by samples that were had, and that one of [`components`] of which
    /// nothing is known is `Unknown`. Asking twice for one time counts once. `memory` is what the evaluations before
    /// left, also those of another process; it is lost when a future is dropped half-way, which only delays a verdict.
    ///
    /// [`components`]: Self::components
    ///
    /// # Errors
    /// For what is wrong with the trigger itself, such as a query that is not one. A source that does not answer is
    /// no error but `Unknown`.
    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation>;
}

/// What a trigger remembers from one evaluation to the next. It serializes, so that who takes over goes on with a
/// pending duration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Which rule it is of: of another one it is worth nothing.
    rule: Option<Fingerprint>,
    /// By component, and for probes by instance.
    progress: BTreeMap<String, Progress>,
    /// Those of the triggers that one combines.
    parts: Vec<Memory>,
    /// When components changed last, for what is compared with before.
    #[serde(skip)]
    changed: BTreeMap<ComponentId, Timestamp>,
}

impl Memory {
    /// Forgets what was seen of a component, such as once it has changed.
    pub fn forget(&mut self, component: &ComponentId) {
        let own = component.to_string();
        let of_instance = format!("{own}#");
        self.keep(|key| key != own && !key.starts_with(&of_instance));
        for part in &mut self.parts {
            part.forget(component);
        }
    }

    /// Says when a component changed last, for [`Baseline::BeforeChange`].
    pub fn changed(&mut self, component: &ComponentId, at: Timestamp) {
        self.changed.insert(component.clone(), at);
    }

    /// Begins anew where what is remembered is of another rule.
    fn of_rule(&mut self, rule: &str) {
        let rule = Some(Fingerprint::of(&serde_json::Value::from(rule)));
        if self.rule != rule {
            let changed = std::mem::take(&mut self.changed);
            *self = Self { rule, changed, ..Self::default() };
        }
    }

    fn progress(&mut self, key: &str) -> &mut Progress {
        self.progress.entry(key.to_owned()).or_default()
    }

    /// Forgets all but these.
    fn keep(&mut self, keys: impl Fn(&str) -> bool) {
        self.progress.retain(|key, _| keys(key));
    }

    fn parts(&mut self, count: usize) -> &mut [Memory] {
        self.parts.resize_with(count, Self::default);
        for part in &mut self.parts {
            part.changed.clone_from(&self.changed);
        }
        &mut self.parts
    }
}

const _: Option<&dyn Trigger> = None;
