//! Why a policy that fires does not act.

use std::fmt;

use crate::Timestamp;

/// Why a policy that fires does not act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It only observes: what it would have done.
    Observes(String),
    /// People hold automation: who, until when, and why.
    Held { by: String, until: Timestamp, why: String },
    /// It is a time in which nothing is done.
    Frozen { until: Timestamp, why: String },
    /// An automatic rollback is not long enough ago.
    Cooldown { until: Timestamp },
    /// There were enough of them.
    Attempts { count: usize },
    /// What is in place is what an automatic rollback returned to.
    OwnResult { id: String },
    /// Nothing has changed that could be the cause.
    NotChanged { since: Timestamp, within: String },
    /// It is not known when it changed.
    ChangeUnknown,
    /// It has changed right now, and is looked at soon.
    NotLooked,
    /// The symptom is older than the change.
    FailedBefore { since: Timestamp, changed: Timestamp },
    /// It was never seen to be well before.
    NeverWell,
    /// Too many components are being rolled back.
    AtOnce { count: usize },
    /// The engine does not begin: what stands in the way.
    Refused(String),
    /// Something is being done about it.
    Busy { what: String },
    /// Most instances fail: what they depend on does.
    MostFail { failing: usize, asked: usize },
    /// It was restarted often enough.
    RestartBudget { count: usize },
    /// There is nothing to be done.
    Nothing(String),
    /// The runbook says that it cannot be taken back.
    Irreversible(String),
    /// What to do cannot be found out.
    NoPlan(String),
}

impl Reason {
    /// In one word, for metrics and records.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Observes(_) => "observes",
            Self::Held { .. } => "held",
            Self::Frozen { .. } => "frozen",
            Self::Cooldown { .. } => "cooldown",
            Self::Attempts { .. } => "attempts",
            Self::OwnResult { .. } => "ownResult",
            Self::NotChanged { .. } => "notChanged",
            Self::ChangeUnknown => "changeUnknown",
            Self::NotLooked => "notLooked",
            Self::FailedBefore { .. } => "failedBefore",
            Self::NeverWell => "neverWell",
            Self::AtOnce { .. } => "atOnce",
            Self::Refused(_) => "refused",
            Self::Busy { .. } => "busy",
            Self::MostFail { .. } => "mostFail",
            Self::RestartBudget { .. } => "restartBudget",
            Self::Nothing(_) => "nothing",
            Self::Irreversible(_) => "irreversible",
            Self::NoPlan(_) => "noPlan",
        }
    }

    /// Whether it passes by itself within moments, so that nobody needs to be told.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::NotLooked)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Observes(what) => write!(f, "the policy only observes; it would: {what}"),
            Self::Held { by, until, why } => write!(f, "{by} holds automation until {until}: {why}"),
            Self::Frozen { until, why } => write!(f, "nothing is changed until {until}: {why}"),
            Self::Cooldown { until } => {
                write!(f, "the last automatic rollback is not long ago; the next one is possible from {until} on")
            }
            Self::Attempts { count } => {
                write!(f, "there were {count} automatic rollbacks within 24 hours, and it goes on: a human decides")
            }
            Self::OwnResult { id } => {
                write!(f, "revision {id} is what an automatic rollback returned to: it is not the cause")
            }
            Self::NotChanged { since, within } => {
                write!(f, "it has not changed since {since}, so not within {within}: that is not the cause")
            }
            Self::ChangeUnknown => f.write_str("it is not known when it changed last"),
            Self::NotLooked => f.write_str("it has just changed, and was not looked at since"),
            Self::FailedBefore { since, changed } => {
                write!(f, "it fails since {since}, and changed only at {changed}: that is not the cause")
            }
            Self::NeverWell => f.write_str(
                "it was not seen to be well since the change or right before the symptom: what began when is not known",
            ),
            Self::AtOnce { count } => write!(
                f,
                "{count} components are being rolled back already: so many have something else in common"
            ),
            Self::Refused(why) | Self::Busy { what: why } => f.write_str(why),
            Self::MostFail { failing, asked } => write!(
                f,
                "{failing} of {asked} instances fail at once: probably something that they depend on, which no restart mends"
            ),
            Self::RestartBudget { count } => {
                write!(f, "it was restarted {count} times within an hour, and it did not help")
            }
            Self::Nothing(what) => write!(f, "there is nothing to do: {what}"),
            Self::Irreversible(why) => write!(f, "it cannot be taken back, as the runbook says: {why}"),
            Self::NoPlan(why) => write!(f, "no plan can be made: {why}"),
        }
    }
}
