//! Probes that fail in a row.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::threshold::late;
use super::verdict::{Evaluation, Evidence, Verdict};
use super::window::{Phase, Seen, Window};
use super::{Memory, Trigger};
use crate::{ComponentId, Error, ErrorKind, Result, Timestamp};

/// Asks a component's instances whether they are well.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait HealthProbe: fmt::Debug + Send + Sync {
    /// The health of each instance by its name; of one address one, under its own name. Read-only.
    ///
    /// A name is that of one incarnation: that of a pod holds its UID, since another one of its name has failed no probe
    /// yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a probe that cannot be made; else when it cannot be told which instances there are.
    async fn probe(&self) -> Result<BTreeMap<String, Health>>;
}

/// How one instance answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is well.
    Healthy,
    /// It is not: why.
    Failed(String),
    /// It could not be asked, which is not its fault: why.
    Unknown(String),
}

/// Fires when probes of an instance fail so often in a row; its evidence names the instances. Default: 3 times, every 10 s.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What asks.
    pub probe: Arc<dyn HealthProbe>,
    /// Whose instances they are.
    pub component: ComponentId,
    /// How many failures in a row.
    pub failures: u32,
    /// How often it is evaluated.
    pub interval: Duration,
}

impl HealthCheck {
    /// Of a component.
    pub fn new(probe: Arc<dyn HealthProbe>, component: ComponentId) -> Self {
        Self { probe, component, failures: 3, interval: Duration::from_secs(10) }
    }
}

#[async_trait]
impl Trigger for HealthCheck {
    fn components(&self) -> Vec<ComponentId> {
        vec![self.component.clone()]
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn window(&self) -> Duration {
        Window::InARow(self.failures).length(self.interval)
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        if self.failures == 0 || self.interval.is_zero() {
            let message = "a health check takes how many failures in a row, and an interval";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        memory.of_rule(&format!("{} {:?}", self.failures, self.interval));
        let mut evaluation = Evaluation::default();
        let found = match timeout(self.interval, self.probe.probe())
            .await
            .unwrap_or_else(|_| Err(late(self.interval)))
        {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::InvalidConfig => return Err(error),
            Err(error) => {
                evaluation.add(&self.component, Verdict::Unknown(error.report().message));
                return Ok(evaluation);
            }
        };
        // One that is gone is not failing.
        let own = format!("{}#", self.component);
        memory.keep(|key| key.strip_prefix(&own).is_some_and(|name| found.contains_key(name)));
        let window = Window::InARow(self.failures);
        let (mut failing, mut why, mut since) = (Vec::new(), Vec::new(), None);
        let mut unknown = Vec::new();
        for (name, health) in &found {
            let seen = match health {
                Health::Healthy => Seen::Good,
                Health::Failed(_) => Seen::Breach,
                Health::Unknown(_) => Seen::Unknown,
            };
            let phase = window.observe(self.interval, memory.progress(&format!("{own}{name}")), at, seen);
            if let Health::Unknown(text) = health {
                unknown.push(format!("{name}: {text}"));
            }
            if let (Phase::Firing(begin), Health::Failed(text)) = (phase, health) {
                failing.push(name.clone());
                why.push(format!("{name}: {text}"));
                since = Some(since.map_or(begin, |since: Timestamp| since.min(begin)));
            }
        }
        let now = found.values().filter(|health| matches!(health, Health::Failed(_))).count();
        let verdict = if !failing.is_empty() {
            Verdict::Firing(Evidence {
                asked: found.len(),
                failing: now,
                summary: format!("{} of {} instances fail: {}", failing.len(), found.len(), why.join("; ")),
                since,
                instances: failing,
                ..Evidence::default()
            })
        } else if found.is_empty() {
            Verdict::Unknown("there is no instance to ask".into())
        } else if unknown.len() == found.len() {
            Verdict::Unknown(unknown.join("; "))
        } else if now > 0 || !unknown.is_empty() {
            let why = format!("{now} of {} instances fail, not often enough", found.len());
            evaluation.add_unproven(&self.component, why);
            return Ok(evaluation);
        } else {
            Verdict::Hold
        };
        evaluation.add(&self.component, verdict);
        Ok(evaluation)
    }
}

const _: Option<&dyn HealthProbe> = None;
