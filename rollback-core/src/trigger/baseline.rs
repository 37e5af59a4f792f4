//! With what a metric is compared.

use std::time::Duration;

use crate::Timestamp;

/// The limit of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Limit {
    /// It must not be above this.
    Above(f64),
    /// It must not be below this.
    Below(f64),
    /// It must not be above so many times what it was.
    AboveBaseline {
        /// How many times.
        factor: f64,
        /// What it was.
        baseline: Baseline,
        /// The least that the baseline counts as, in the metric's unit: near zero every increase would be a breach.
        floor: f64,
    },
}

/// What a metric was when all was well.
#[derive(Clone, Debug, PartialEq)]
pub enum Baseline {
    /// This number.
    Fixed(f64),
    /// What the same query gave so long before each evaluation, such as a day: at the same time of day.
    Ago(Duration),
    /// What the same query gave at this time, such as just before the change that is watched.
    At(Timestamp),
    /// What the same query gave right before the component changed last, as its [`Memory`](super::Memory) was told. Of a
    /// component of which no change is known nothing can be said.
    BeforeChange,
}

impl Baseline {
    /// When it is read, for an evaluation at this time; never for a fixed number.
    pub(super) fn time(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            // Of what was before a change, another time for each component.
            Self::Fixed(_) | Self::BeforeChange => None,
            Self::Ago(time) => Some(at.saturating_sub(*time)),
            Self::At(time) => Some(*time),
        }
    }
}
