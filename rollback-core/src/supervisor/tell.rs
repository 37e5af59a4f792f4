//! What people are told, in words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::case::{Case, Ran};
use super::policy::{Action, Policy};
use super::reason::Reason;
use crate::notify::{names, open, what};
use crate::trigger::Evidence;
use crate::{
    Alert, Clock, ComponentId, Error, Happening, Judgement, Move, Notification, Plan, Recovery, RunId,
    Timestamp,
};

/// Takes what people are to be told, without waiting for anything.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) sender: UnboundedSender<Notification>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) actor: String,
}

impl Teller {
    fn tell(&self, message: Notification) {
        let _ = self.sender.send(message);
    }

    fn message(&self, event: Happening, thread: String, summary: String) -> Notification {
        let message = Notification::new(self.clock.now(), event, thread, summary);
        Notification { actor: Some(self.actor.clone()), ..message }
    }

    fn of_policy(
        &self,
        event: Happening,
        policy: &Policy,
        component: &ComponentId,
        thread: &str,
        summary: String,
    ) -> Notification {
        Notification {
            policy: Some(policy.name.clone()),
            components: vec![component.clone()],
            ..self.message(event, thread.to_owned(), summary)
        }
    }

    pub(super) fn firing(&self, policy: &Policy, component: &ComponentId, thread: &str, evidence: &Evidence) {
        let summary = format!("{component}: {} fires: {}", policy.name, evidence.summary);
        let mut message = self.of_policy(Happening::Firing, policy, component, thread, summary);
        message.details.extend(evidence.since.map(|since| format!("since {since}")));
        let acts = policy.actions.iter().filter(|action| **action != Action::Alert);
        let acts: Vec<_> = acts.map(|action| format!("{action:?}").to_lowercase()).collect();
        if acts.is_empty() {
            message.details.push("nothing is done by itself".into());
            message.next =
                vec![format!("rollback history {component}"), format!("rollback undo {component}")];
        } else {
            message.details.push(format!("what the policy does: {}", acts.join(", ")));
        }
        self.tell(message);
    }

    pub(super) fn resolved(&self, policy: &Policy, component: &ComponentId, thread: &str) {
        let summary = format!("{component}: {} does not fire any more", policy.name);
        self.tell(self.of_policy(Happening::Resolved, policy, component, thread, summary));
    }

    pub(super) fn held_back(&self, policy: &Policy, component: &ComponentId, thread: &str, reason: &Reason) {
        let summary = format!("{component}: {} fires, and nothing is done: {reason}", policy.name);
        let mut message = self.of_policy(Happening::HeldBack, policy, component, thread, summary);
        message.next = vec![format!("rollback history {component}"), format!("rollback undo {component}")];
        self.tell(message);
    }

    pub(super) fn proposed(
        &self,
        policy: &Policy,
        component: &ComponentId,
        thread: &str,
        moves: Vec<Move>,
        command: Option<String>,
    ) {
        let summary = format!("{component}: {} fires, and proposes a rollback", policy.name);
        let mut message = self.of_policy(Happening::Proposed, policy, component, thread, summary);
        message.next = vec![command.unwrap_or_else(|| format!("rollback undo {component}"))];
        message.moves = moves;
        self.tell(message);
    }

    pub(super) fn started(&self, policy: &Policy, case: &Case, plan: &Plan) {
        let moves = Move::all(plan);
        let summary = format!("{} of {} begins", what(&moves), names(&moves));
        let mut message =
            self.of_policy(Happening::Started, policy, &case.component, &case.run.to_string(), summary);
        message.details = vec![format!("{}: {}", policy.name, case.evidence.summary)];
        message.moves = moves;
        message.run = Some(case.run);
        self.tell(message);
    }

    pub(super) fn ended(&self, policy: Option<&str>, ran: &Ran) {
        let message = Notification::of_run(&ran.report, &ran.moves, ran.written.clone());
        let mut message = Notification { at: self.clock.now(), actor: Some(self.actor.clone()), ..message };
        message.policy = policy.map(str::to_owned);
        self.tell(message);
    }

    pub(super) fn judged(
        &self,
        policy: &Policy,
        component: &ComponentId,
        run: RunId,
        judgement: &Judgement,
        report: Option<String>,
    ) {
        let (event, what) = match judgement.recovery {
            Recovery::Recovered => (Happening::Recovered, "all is well again"),
            Recovery::NotRecovered => {
                (Happening::NotRecovered, "the rollback held, and the symptom stays: look for another cause")
            }
            Recovery::Unknown => (Happening::RecoveryUnknown, "whether the rollback helped cannot be told"),
        };
        let summary = format!("{component}: {what}");
        let mut message = self.of_policy(event, policy, component, &run.to_string(), summary);
        message.details = vec![judgement.message.clone()];
        message.run = Some(run);
        message.report = report;
        self.tell(message);
    }

    pub(super) fn blind(&self, policy: &Policy, component: &ComponentId, since: Timestamp, why: &str) {
        let summary =
            format!("{component}: whether {} should fire cannot be told since {since}: {why}", policy.name);
        let thread = thread(policy, component);
        self.tell(self.of_policy(Happening::Blind, policy, component, &thread, summary));
    }

    pub(super) fn trouble(&self, summary: String) {
        self.tell(self.message(Happening::Trouble, "supervisor".into(), summary));
    }

    pub(super) fn cannot_resume(&self, run: RunId, error: &Error) {
        let summary =
            format!("run {run} of an earlier supervisor does not go on: {}", error.report().message);
        let mut message = self.message(Happening::Stuck, run.to_string(), summary);
        message.run = Some(run);
        message.next = open(run);
        self.tell(message);
    }
}

/// What belongs together of a policy and a component.
pub(super) fn thread(policy: &Policy, component: &ComponentId) -> String {
    format!("{}#{component}", policy.name)
}

/// The alerts that stand, by what they are about.
#[derive(Debug)]
pub(super) struct Alerts {
    standing: BTreeMap<String, Alert>,
    /// Those that ended, until that is told.
    pub(super) ended: Vec<Alert>,
    /// Whether something has to be told at once.
    pub(super) changed: bool,
    lasts: Duration,
}

impl Alerts {
    /// With one that stands for as long as the supervisor lives.
    pub(super) fn new(name: &str, now: Timestamp, lasts: Duration) -> Self {
        let mut all = Self { standing: BTreeMap::new(), ended: Vec::new(), changed: true, lasts };
        let labels =
            [("alertname", "RollbackSupervisorHeartbeat"), ("supervisor", name), ("severity", "none")];
        all.raise("heartbeat".into(), now, labels, "the supervisor is alive: when this ends, it is not");
        all
    }

    fn raise<const N: usize>(
        &mut self,
        key: String,
        now: Timestamp,
        labels: [(&str, &str); N],
        summary: &str,
    ) {
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let annotations = BTreeMap::from([("summary".to_owned(), summary.to_owned())]);
        let starts_at = self.standing.get(&key).map_or(now, |alert| alert.starts_at);
        self.changed |= !self.standing.contains_key(&key);
        // One that stands again has not ended.
        self.ended.retain(|ended| ended.labels != labels);
        let ends_at = now.saturating_add(self.lasts);
        self.standing.insert(key, Alert { labels, annotations, starts_at, ends_at });
    }

    fn of<const N: usize>(
        &mut self,
        name: &str,
        (policy, component): (&Policy, &ComponentId),
        (since, severity): (Timestamp, &str),
        summary: [&str; N],
    ) {
        let key = format!("{name} {}", thread(policy, component));
        let id = component.to_string();
        let labels = [
            ("alertname", name),
            ("policy", policy.name.as_str()),
            ("component", id.as_str()),
            ("namespace", component.scope().unwrap_or_default()),
            ("severity", severity),
        ];
        self.raise(key, since, labels, &summary.concat());
    }

    pub(super) fn firing(
        &mut self,
        policy: &Policy,
        component: &ComponentId,
        since: Timestamp,
        evidence: &Evidence,
    ) {
        let severity = if policy.may_roll_back() { "critical" } else { "warning" };
        self.of("RollbackTriggerFiring", (policy, component), (since, severity), [&evidence.summary]);
    }

    pub(super) fn blind(&mut self, policy: &Policy, component: &ComponentId, since: Timestamp, why: &str) {
        let summary = ["it cannot be told whether it should fire: ", why];
        self.of("RollbackTriggerBlind", (policy, component), (since, "warning"), summary);
    }

    /// A run needs a human, until another one has ended well.
    pub(super) fn stuck(&mut self, run: RunId, component: &ComponentId, now: Timestamp) {
        let (id, component) = (run.to_string(), component.to_string());
        let labels = [
            ("alertname", "RollbackStuck"),
            ("run", id.as_str()),
            ("component", component.as_str()),
            ("severity", "critical"),
        ];
        let summary = format!("run {run} needs a human: see rollback show {run}");
        self.raise(format!("stuck {run}"), now, labels, &summary);
    }

    pub(super) fn mended(&mut self, run: RunId, now: Timestamp) {
        self.remove(&format!("stuck {run}"), now);
    }

    pub(super) fn end(&mut self, name: &str, policy: &Policy, component: &ComponentId, now: Timestamp) {
        self.remove(&format!("{name} {}", thread(policy, component)), now);
    }

    fn remove(&mut self, key: &str, now: Timestamp) {
        if let Some(alert) = self.standing.remove(key) {
            self.ended.push(Alert { ends_at: now.max(alert.starts_at), ..alert });
            self.changed = true;
        }
    }

    /// All that stand, until a while from now, and those that ended.
    pub(super) fn all(&self, now: Timestamp) -> Vec<Alert> {
        let until = now.saturating_add(self.lasts);
        let standing = self.standing.values().map(|alert| Alert { ends_at: until, ..alert.clone() });
        standing.chain(self.ended.iter().cloned()).collect()
    }
}
