//! What an evaluation, and what came of acting on it, mean for people and for what comes next.

use super::case::{Acted, Case, Ran};
use super::policy::{Action, Policy};
use super::standing::Judging;
use super::watch::{Placed, Unsaved, World};
use crate::trigger::{Evaluation, Evidence, Verdict};
use crate::{ComponentId, ErrorKind, Judgement, Outcome, Recovery, Result, RunId, Timestamp};

impl World<'_> {
    pub(super) fn evaluated(&mut self, place: usize, at: Timestamp, seen: Result<Evaluation>) {
        let all = self.all;
        let Some(policy) = all.policies.get(place) else { return };
        metrics::counter!("rollback_evaluations_total", "policy" => policy.name.clone()).increment(1);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a clock are far below 2^52")]
        let seconds = at.as_unix_millis() as f64 / 1000.0;
        metrics::gauge!("rollback_last_evaluation_seconds", "policy" => policy.name.clone()).set(seconds);
        let seen = match seen {
            Ok(seen) => {
                if let Some(watched) = self.watched.get_mut(place) {
                    watched.broken = None;
                }
                seen
            }
            Err(error) => {
                let why = error.report().message;
                let is_news = self
                    .watched
                    .get_mut(place)
                    .is_some_and(|watched| watched.broken.replace(why.clone()).is_none());
                if is_news && error.kind() == ErrorKind::InvalidConfig {
                    self.teller.trouble(format!("policy {} cannot be evaluated: {why}", policy.name));
                }
                let components = policy.trigger.components();
                let unknown = |component| (component, Verdict::Unknown(why.clone()));
                Evaluation {
                    verdicts: components.into_iter().map(unknown).collect(),
                    ..Evaluation::default()
                }
            }
        };
        for component in policy.trigger.components() {
            let verdict = seen.of(&component);
            let word = match &verdict {
                Verdict::Hold if seen.is_well(&component) => "hold",
                Verdict::Hold => "unproven",
                Verdict::Firing(_) => "firing",
                Verdict::Unknown(_) => "unknown",
            };
            metrics::counter!("rollback_verdicts_total", "policy" => policy.name.clone(), "verdict" => word)
                .increment(1);
            let settled_at = self.owns.get(&component).and_then(|own| own.standing.settled_at);
            // One far ahead is of a clock that was set back since.
            let settle = all.options.settle;
            if settled_at.is_some_and(|settled| at < settled && settled <= at.saturating_add(settle)) {
                // What it sees is of before, or of the change itself.
                if let Some(watched) = self.watched.get_mut(place) {
                    watched.memory.trigger.forget(&component);
                    if let Some(watch) = watched.memory.watches.get_mut(&component.to_string()) {
                        watch.blind_since = None;
                    }
                    watched.dirty = true;
                }
                continue;
            }
            match verdict {
                Verdict::Firing(evidence) => self.fires(place, policy, component, at, evidence),
                Verdict::Unknown(why) => self.is_blind(place, policy, &component, at, &why, false),
                Verdict::Hold => match seen.unproven.get(&component) {
                    Some(why) => self.is_blind(place, policy, &component, at, why, true),
                    None => self.holds(place, policy, &component, at),
                },
            }
        }
    }

    fn fires(
        &mut self,
        place: usize,
        policy: &Policy,
        component: ComponentId,
        at: Timestamp,
        evidence: Evidence,
    ) {
        let Some(watched) = self.watched.get_mut(place) else { return };
        watched.dirty = true;
        let watch = watched.memory.watches.entry(component.to_string()).or_default();
        (watch.blind_since, watch.blind_told) = (None, false);
        let since = *watch.firing_since.get_or_insert(evidence.since.unwrap_or(at));
        watch.well_since = None;
        let well_at = watch.well_at;
        let run = RunId::random();
        let is_news = watch.thread.is_none();
        let thread = watch.thread.get_or_insert_with(|| run.to_string()).clone();
        // What people are told of first belongs to the run that may follow at once.
        let run = if is_news { run } else { RunId::random() };
        let judging = watch.judging.take_if(|judging| at >= judging.from);
        if is_news {
            self.teller.firing(policy, &component, &thread, &evidence);
        }
        self.alerts.end("RollbackTriggerBlind", policy, &component, at);
        self.alerts.firing(policy, &component, since, &evidence);
        let judging = judging.filter(|judging| !self.judges_another(place, &component, judging));
        if let Some(judging) = judging {
            let judgement = Judgement {
                recovery: Recovery::NotRecovered,
                message: format!("{} fires again: {}", policy.name, evidence.summary),
                points: Vec::new(),
            };
            self.judge(place, &component, &judging, judgement);
            return;
        }
        if policy.actions.iter().any(|action| *action != Action::Alert) {
            self.start(Case { policy: place, component, evidence, at, since, well_at, run });
        }
    }

    /// Judges a run whose result somebody has replaced: of that nothing can be said.
    fn judges_another(&mut self, place: usize, component: &ComponentId, judging: &Judging) -> bool {
        let is_replaced = self.is_replaced(component, judging.run);
        if is_replaced {
            let message = "another revision was put in place before it could be told".to_owned();
            let judgement = Judgement { recovery: Recovery::Unknown, message, points: Vec::new() };
            self.judge(place, component, judging, judgement);
        }
        is_replaced
    }

    /// Whether what a rollback has put in place is in place no more: then nothing can be said of it.
    fn is_replaced(&self, component: &ComponentId, run: RunId) -> bool {
        let placed = self.results.get(component).filter(|placed| placed.run == run);
        let current = self.owns.get(component).and_then(|own| own.standing.looked.as_ref());
        placed.zip(current).is_some_and(|(placed, (_, current))| placed.replaced || placed.print != *current)
    }

    fn holds(&mut self, place: usize, policy: &Policy, component: &ComponentId, at: Timestamp) {
        let Some(watched) = self.watched.get_mut(place) else { return };
        let watch = watched.memory.watches.entry(component.to_string()).or_default();
        watched.dirty |= watch.firing_since.is_some() || watch.blind_since.is_some();
        watch.well_at = Some(at);
        let well_since = *watch.well_since.get_or_insert(at);
        (watch.blind_since, watch.blind_told, watch.proposed) = (None, false, None);
        watch.held_back.clear();
        watch.firing_since = None;
        let thread = watch.thread.take();
        let window = policy.trigger.window();
        // All of a window, and all of it well.
        let begin = |judging: &Judging| judging.from.max(well_since);
        let due = watch.judging.take_if(|judging| at >= begin(judging).saturating_add(window));
        let is_judged = watch.judging.is_some() || due.is_some();
        self.alerts.end("RollbackTriggerBlind", policy, component, at);
        self.alerts.end("RollbackTriggerFiring", policy, component, at);
        let due = due.filter(|judging| !self.judges_another(place, component, judging));
        if let Some(judging) = due {
            let judgement = Judgement {
                recovery: Recovery::Recovered,
                message: format!(
                    "{} has seen it to be well for {} s",
                    policy.name,
                    at.since(judging.from.max(well_since)).as_secs()
                ),
                points: Vec::new(),
            };
            self.judge(place, component, &judging, judgement);
        } else if let Some(thread) = thread.filter(|_| !is_judged) {
            self.teller.resolved(policy, component, &thread);
        }
    }

    /// Nothing can be told: of what is `unproven` only that it is beyond its limit and not for long enough, or that there
    /// is too little to see.
    fn is_blind(
        &mut self,
        place: usize,
        policy: &Policy,
        component: &ComponentId,
        at: Timestamp,
        why: &str,
        unproven: bool,
    ) {
        let Some(watched) = self.watched.get_mut(place) else { return };
        watched.dirty = true;
        let watch = watched.memory.watches.entry(component.to_string()).or_default();
        watch.well_since = None;
        let since = *watch.blind_since.get_or_insert(at);
        let window = policy.trigger.window();
        let patience = self.all.options.blind_after;
        // A breach is unproven for a window. Traffic that stays away is told after a change: at night it just does.
        let changed_at = self.owns.get(component).and_then(|own| own.changed_at);
        let has_changed = changed_at
            .is_some_and(|changed| since >= changed && since.since(changed) <= policy.guards.changed_within);
        let lasts = if unproven {
            at.since(since) >= patience.saturating_add(window) && watch.well_at.is_some() && has_changed
        } else {
            at.since(since) >= patience
        };
        let is_news = lasts && !watch.blind_told;
        watch.blind_told |= lasts;
        let long = window.saturating_mul(2).saturating_add(policy.trigger.interval().saturating_mul(4));
        let overdue = watch.judging.take_if(|judging| at >= judging.from.saturating_add(long));
        if lasts {
            self.alerts.blind(policy, component, since, why);
        }
        if is_news {
            self.teller.blind(policy, component, since, why);
        }
        if let Some(judging) = overdue {
            let judgement = Judgement {
                recovery: Recovery::Unknown,
                message: format!("{}: {why}", policy.name),
                points: Vec::new(),
            };
            self.judge(place, component, &judging, judgement);
        }
    }

    pub(super) fn acted(&mut self, case: &Case, acted: Acted) {
        let all = self.all;
        let Some(policy) = all.policies.get(case.policy) else { return };
        let Some(watched) = self.watched.get_mut(case.policy) else { return };
        watched.dirty = true;
        let watch = watched.memory.watches.entry(case.component.to_string()).or_default();
        let thread = watch.thread.clone().unwrap_or_else(|| case.run.to_string());
        match acted {
            Acted::HeldBack(reason) => {
                let (policy_name, word) = (policy.name.clone(), reason.word());
                metrics::counter!("rollback_held_back_total", "policy" => policy_name, "reason" => word)
                    .increment(1);
                tracing::info!(policy = policy.name, component = %case.component, reason = word, "{reason}");
                if reason.is_passing() || watch.held_back.iter().any(|told| told == word) {
                    return;
                }
                watch.held_back.push(word.to_owned());
                self.teller.held_back(policy, &case.component, &thread, &reason);
                if let Some(own) = self.owns.get_mut(&case.component) {
                    own.standing.hold_back(case.at, &policy.name, &reason);
                    own.unsaved = own.unsaved.or(Some(Unsaved::HeldBack));
                }
                self.remember(&case.component);
            }
            Acted::Proposed { digest, command, moves } => {
                if watch.proposed.replace(digest.clone()) != Some(digest) {
                    self.teller.proposed(policy, &case.component, &thread, moves, command);
                }
            }
            Acted::Ran(ran) => {
                watch.held_back.clear();
                let took = all.clock.now().since(case.since).as_secs_f64();
                if ran.report.outcome == Outcome::Completed && !ran.restart {
                    metrics::histogram!("rollback_breach_to_converged_seconds").record(took);
                }
                self.ran(&policy.name, &case.component, &ran);
            }
        }
    }

    /// A run of a policy has ended, or was stopped.
    pub(super) fn ran(&mut self, policy: &str, component: &ComponentId, ran: &Ran) {
        if let Some(journaled) = &mut self.journaled {
            journaled.insert(ran.report.run);
        }
        for (moved, standing) in ran.standings.iter().filter(|_| ran.report.outcome == Outcome::Completed) {
            if let (false, Some(result), Some(settled)) = (ran.restart, &standing.result, standing.settled_at)
            {
                let (run, print) = (ran.report.run, result.clone());
                let placed = Placed { run, print, settled_at: settled, replaced: false };
                self.results.insert(moved.clone(), placed);
                // What is in place is known now, and not only at the next look.
                if let Some(own) = self.owns.get_mut(moved) {
                    own.standing.looked = Some((self.all.clock.now(), result.clone()));
                }
            }
        }
        let outcome = ran.report.outcome;
        let (kind, word) = (if ran.restart { "restart" } else { "rollback" }, format!("{outcome:?}"));
        metrics::counter!("rollback_runs_total", "kind" => kind, "outcome" => word).increment(1);
        for (moved, standing) in &ran.standings {
            if let Some(own) = self.owns.get_mut(moved) {
                let looked = own.standing.looked.clone();
                own.standing = standing.clone();
                own.standing.looked = looked;
                // Written already, as far as that went well.
                own.unsaved = Some(Unsaved::All);
            }
        }
        let stopped = outcome == Outcome::Unfinished && self.is_stopped();
        if stopped {
            // The next supervisor goes on with it, and tells how it ended.
            return;
        }
        self.teller.ended(Some(policy), ran);
        let place = self.all.policies.iter().position(|own| own.name == policy);
        if let Some(watched) = place.and_then(|place| self.watched.get_mut(place)) {
            let watch = watched.memory.watches.entry(component.to_string()).or_default();
            (watch.ended, watched.dirty) = (Some(ran.report.run), true);
        }
        let now = self.all.clock.now();
        if matches!(outcome, Outcome::Stuck | Outcome::Unfinished) {
            self.is_stuck(ran.report.run, component);
        }
        if !ran.restart && outcome == Outcome::Completed {
            let from = now.saturating_add(self.all.options.settle);
            self.judge_later(policy, component, Judging { run: ran.report.run, from });
        }
    }
}
