//! What it comes to when a policy is to act.

use std::collections::BTreeMap;

use super::reason::Reason;
use super::standing::Standing;
use crate::trigger::Evidence;
use crate::{ComponentId, Fingerprint, Move, RunId, RunReport, Timestamp};

/// A policy that fires, and is to act on it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// The place of the policy.
    pub(super) policy: usize,
    pub(super) component: ComponentId,
    pub(super) evidence: Evidence,
    pub(super) at: Timestamp,
    /// Since when the symptom is there, also across what was done about it.
    pub(super) since: Timestamp,
    pub(super) well_at: Option<Timestamp>,
    /// The run, where it comes to one: what people are told of the case belongs to it.
    pub(super) run: RunId,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Acted {
    HeldBack(Reason),
    Proposed { digest: Fingerprint, command: Option<String>, moves: Vec<Move> },
    Ran(Box<Ran>),
}

/// A run that has ended, or was stopped.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) report: RunReport,
    pub(super) moves: Vec<Move>,
    pub(super) restart: bool,
    /// Where the components of the run stand now.
    pub(super) standings: BTreeMap<ComponentId, Standing>,
    /// Where its incident report is.
    pub(super) written: Option<String>,
}
