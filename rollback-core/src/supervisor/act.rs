//! From a trigger that fires to a run, or to why there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{join, try_join_all};
use tokio_util::sync::CancellationToken;

use super::case::{Acted, Case, Ran};
use super::guard::{Facts, barred, restarts};
use super::observe::{Known, standing};
use super::policy::{Action, Blueprint, Does, Policy, Restarts};
use super::reason::Reason;
use super::standing::{Attempt, Standing};
use super::tell::Teller;
use super::{Holding, Irreversible, Supervisor, everything};
use crate::{
    Cause, Change, ChangeKind, Clock, ComponentId, Entry, Error, ErrorKind, Event, Fact, Fingerprint, Ledger,
    Locator, Mark, Move, Plan, Planner, Progress, Record, RestartScope, Result, RunId, RunOptions, RunReport,
    RunState, StepPermit, Target, Timestamp, snapshot_of,
};

/// A plan, and what was known when it was made.
struct Made {
    plan: Plan,
    known: BTreeMap<ComponentId, Known>,
    /// When the first of the changes may have been made that are taken back.
    changed_at: Option<Timestamp>,
}

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        let report = error.report();
        match &report.hint {
            Some(hint) => Self::NoPlan(format!("{}; {hint}", report.message)),
            None => Self::NoPlan(report.message),
        }
    }
}

impl Supervisor {
    /// Acts on a case, as far as it may.
    pub(super) async fn act(&self, case: &Case, teller: &Teller, stop: &CancellationToken) -> Acted {
        let Some(policy) = self.policies.get(case.policy) else {
            return Acted::HeldBack(Reason::Nothing("the policy is gone".into()));
        };
        let acted = async {
            if policy.does(Action::Restart)
                && let Some(plan) = self.restart(policy, case).await?
            {
                return self.carry_out(policy, case, plan, teller, stop).await;
            }
            let made = self.plan(policy, case).await?;
            if policy.does(Action::Propose) {
                return self.propose(&made.plan).await;
            }
            let first: Option<Fingerprint> = fingerprint(&made.known, &case.component);
            let acted = self.carry_out(policy, case, made, teller, stop).await?;
            // Something moved between planning and writing: once more, if it is still the one that fired.
            if let Acted::Ran(ran) = &acted
                && ran
                    .report
                    .steps
                    .iter()
                    .any(|step| step.error.as_ref().is_some_and(|e| e.kind == ErrorKind::Conflict))
                && !ran.report.changed()
            {
                let again = Case { run: RunId::random(), ..case.clone() };
                // The attempt that came to nothing does not count.
                self.forget_attempt(&ran.report, case.run).await?;
                teller.ended(Some(&policy.name), ran);
                let made = self.plan(policy, &again).await?;
                if fingerprint(&made.known, &case.component) == first {
                    return self.carry_out(policy, &again, made, teller, stop).await;
                }
            }
            Ok(acted)
        };
        acted.await.unwrap_or_else(Acted::HeldBack)
    }

    /// The restart of what failed; none where it is time to roll back.
    async fn restart(&self, policy: &Policy, case: &Case) -> Result<Option<Made>, Reason> {
        let evidence = &case.evidence;
        // Of one alone nothing can be said.
        if evidence.asked > 1 && evidence.failing * 2 > evidence.asked {
            return Err(Reason::MostFail { failing: evidence.failing, asked: evidence.asked });
        }
        let known = self.known(&case.component).await?;
        let standing = standing(&known.record);
        let (within_hour, of_current) = restarts(&standing, case.at, known.current());
        let is_to_blame = Self::facts(policy, case, &known, &standing).blame(&policy.guards).is_ok();
        if of_current >= policy.guards.restarts_before_rollback && is_to_blame {
            return Ok(None);
        }
        if within_hour >= policy.guards.restarts_per_hour {
            return Err(Reason::RestartBudget { count: within_hour });
        }
        let reason = barred(&policy.guards, case.at, &standing, self.held(&known.record).await?);
        if let Some(reason @ (Reason::Held { .. } | Reason::Frozen { .. })) = reason {
            return Err(reason);
        }
        let supervised = self.supervised(&case.component)?;
        let Some(restartable) = &supervised.restartable else {
            return Err(Reason::Nothing("it cannot be restarted".into()));
        };
        let scope = match policy.restarts {
            Restarts::Failed => RestartScope::Instances(evidence.instances.clone()),
            Restarts::All => RestartScope::All,
        };
        let plan = Planner::new()
            .restart(case.component.to_string(), restartable.clone(), scope, &[])
            .plan()
            .await?;
        if plan.is_noop() {
            return Err(Reason::Nothing("what failed is gone".into()));
        }
        self.check_observes(policy, || format!("restart {}", case.component))?;
        let known = BTreeMap::from([(case.component.clone(), known)]);
        Ok(Some(Made { plan, known, changed_at: None }))
    }

    /// The plan of a rollback, of what can be to blame alone.
    async fn plan(&self, policy: &Policy, case: &Case) -> Result<Made, Reason> {
        let blueprint = policy.plan.clone().unwrap_or_else(|| Blueprint::of(&case.component));
        let movers = blueprint.steps.iter().filter(|step| step.does != Does::Restart);
        let looks = movers.map(async |step| {
            let known = self.known(&step.component).await?;
            Ok::<_, Error>((step.component.clone(), known))
        });
        let known: BTreeMap<_, _> = try_join_all(looks).await?.into_iter().collect();
        let mut blamed = BTreeMap::new();
        let mut innocent: Option<Reason> = None;
        for (component, known) in &known {
            match Self::facts(policy, case, known, &standing(&known.record)).blame(&policy.guards) {
                Ok(changed) => {
                    blamed.insert(component.clone(), changed);
                }
                Err(reason) if *component == case.component => innocent = Some(reason),
                Err(reason) => innocent = innocent.or(Some(reason)),
            }
        }
        if let (true, Some(reason)) = (blamed.is_empty(), innocent) {
            return Err(reason);
        }
        self.mark_bad(policy, case, &known, &blamed).await?;
        let blueprint = blueprint.only(|component| blamed.contains_key(component));
        for step in &blueprint.steps {
            let supervised = &self.supervised(&step.component)?.component;
            let realm = supervised.realm().await?;
            let record = self.ledger.record(&realm, &step.component).await?;
            let held = self.held(&record).await?;
            match barred(&policy.guards, case.at, &standing(&record), held) {
                // A restart is no attempt at a rollback.
                Some(Reason::Attempts { .. } | Reason::Cooldown { .. }) if step.does == Does::Restart => {}
                Some(reason) => return Err(reason),
                None => {}
            }
        }
        let target = Target::from(policy.goal);
        let mut planner = Planner::new().on_failure(blueprint.on_failure).with_ledger(self.ledger.clone());
        for step in &blueprint.steps {
            let supervised = self.supervised(&step.component)?;
            let after: Vec<&str> = step.after.iter().map(String::as_str).collect();
            planner = match &step.does {
                Does::Return => {
                    planner.rollback(&step.id, supervised.component.clone(), target.clone(), &after)
                }
                Does::Follow(followed) => {
                    planner.follow(&step.id, supervised.component.clone(), followed, &after)
                }
                Does::Restart => match &supervised.restartable {
                    Some(restartable) => {
                        planner.restart(&step.id, restartable.clone(), RestartScope::All, &after)
                    }
                    None => return Err(Reason::Nothing(format!("{} cannot be restarted", step.component))),
                },
            };
        }
        let plan = planner.plan().await?;
        if plan.is_noop() {
            return Err(Reason::Nothing("it is there already".into()));
        }
        for component in plan.components() {
            self.check_reversible(component, &plan, known.get(component))?;
        }
        self.check_observes(policy, || told(&plan))?;
        let changed_at = blamed.into_values().min();
        Ok(Made { plan, known, changed_at })
    }

    /// Counts this as a rollback that goes on, unless there are enough.
    fn enter(&self, policy: &Policy, components: usize) -> Result<Slot<'_>, Reason> {
        // A plan that moves more by itself is one that somebody has written so.
        let most = policy.guards.max_at_once.max(components);
        let entered = self.going.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count + components <= most).then_some(count + components)
        });
        entered.map(|_| Slot(&self.going, components)).map_err(|count| Reason::AtOnce { count })
    }

    fn facts<'a>(policy: &Policy, case: &Case, known: &'a Known, standing: &'a Standing) -> Facts<'a> {
        Facts {
            at: case.at,
            history: &known.history,
            record: &known.record,
            standing,
            since: case.since,
            well_at: case.well_at,
            patience: policy.trigger.interval().saturating_mul(3).max(SLOW_RECORDS),
        }
    }

    /// What holds a component, by itself or with all others.
    async fn held(&self, record: &Record) -> Result<Option<Holding>> {
        let now = self.clock.now();
        let (realm, all) = everything()?;
        let of_all = Holding::of(&self.ledger.record(&realm, &all).await?, now);
        Ok(of_all.or_else(|| Holding::of(record, now)))
    }

    fn check_observes(&self, policy: &Policy, what: impl Fn() -> String) -> Result<(), Reason> {
        if policy.observe || self.options.observe { Err(Reason::Observes(what())) } else { Ok(()) }
    }

    fn check_reversible(
        &self,
        component: &ComponentId,
        plan: &Plan,
        known: Option<&Known>,
    ) -> Result<(), Reason> {
        let history = known.map(|known| known.history.as_slice()).unwrap_or_default();
        let mut irreversible = self.supervised(component)?.irreversible.iter();
        let met = irreversible.find(|one: &&Irreversible| one.is_crossed(plan, component, history));
        met.map_or(Ok(()), |one| Err(Reason::Irreversible(one.reason.clone())))
    }

    /// Records that what is in place is bad.
    async fn mark_bad(
        &self,
        policy: &Policy,
        case: &Case,
        known: &BTreeMap<ComponentId, Known>,
        blamed: &BTreeMap<ComponentId, Timestamp>,
    ) -> Result<()> {
        let component = &case.component;
        let Some(known) = known.get(component).filter(|_| blamed.contains_key(component)) else {
            return Ok(());
        };
        let Some(current) = known.current() else { return Ok(()) };
        if known.record.is_bad(&current.fingerprint) || policy.observe {
            return Ok(());
        }
        let snapshot = snapshot_of(&*self.supervised(component)?.component, &current.id).await.ok();
        let fact = Fact::Marked {
            id: current.id.clone(),
            fingerprint: current.fingerprint.clone(),
            mark: Mark::Bad,
            why: Some(format!("{}: {}", policy.name, case.evidence.summary)),
            snapshot: snapshot.filter(|snapshot| snapshot.fingerprint == current.fingerprint),
        };
        self.note(&known.realm, component, vec![(case.at, fact)]).await
    }

    async fn propose(&self, plan: &Plan) -> Result<Acted, Reason> {
        let command = match &self.proposals {
            Some(proposals) => match proposals.keep(plan).await {
                Ok(command) => Some(command),
                Err(error) => {
                    tracing::warn!(%error, "the proposal is not kept");
                    None
                }
            },
            None => None,
        };
        Ok(Acted::Proposed { digest: plan.digest(), command, moves: Move::all(plan) })
    }

    async fn carry_out(
        &self,
        policy: &Policy,
        case: &Case,
        made: Made,
        teller: &Teller,
        stop: &CancellationToken,
    ) -> Result<Acted, Reason> {
        let Made { plan, known, changed_at } = made;
        let _slot = self.enter(policy, plan.components().len())?;
        let restart = plan.steps().iter().all(|step| step.change.kind == ChangeKind::Restart);
        let mut standings = BTreeMap::new();
        for component in plan.components() {
            let Some(known) = known.get(component) else { continue };
            let before = standing(&known.record);
            let mut standing = before.clone();
            let from = known.current().map(|current| current.fingerprint.clone());
            if let Some(from) = from {
                let (run, policy) = (case.run, policy.name.clone());
                standing.attempt(Attempt { at: case.at, run, policy, restart, from });
            }
            // Without a record of it, nothing is done: it might be done for ever.
            self.remember(&known.realm, component, &standing).await?;
            standings.insert(component.clone(), (known, before, standing));
        }
        let mut options = RunOptions::by(self.options.actor.clone());
        options.run = case.run;
        options.reason = Some(format!("{}: {}", policy.name, case.evidence.summary));
        options.settings = self.options.settings.clone();
        options.locators = self.locators(&plan);
        options.cancellation = stop.clone();
        options.permit = Some(self.permit());
        options.cause = Some(Cause {
            policy: policy.name.clone(),
            component: case.component.clone(),
            evidence: case.evidence.clone(),
            decided_at: case.at,
            changed_at,
        });
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        options.progress = Some(sender);
        // Told once it has begun: until then it may be refused.
        let begun = async {
            while let Some(event) = events.recv().await {
                if matches!(&event, Progress::Recorded(Entry { event: Event::RunStarted { .. }, .. })) {
                    teller.started(policy, case, &plan);
                }
            }
        };
        let engine = self.engine_for(&plan);
        let (done, ()) = join(engine.execute(&plan, &self.components, options), begun).await;
        let report = match done {
            Ok(report) => report,
            Err(error) => {
                // Nothing was begun: that is no attempt.
                for (component, (known, before, _)) in &standings {
                    self.remember(&known.realm, component, before).await?;
                }
                return Err(match error.kind() {
                    ErrorKind::Cancelled => Reason::Busy { what: error.to_string() },
                    ErrorKind::Refused => Reason::Refused(error.report().message),
                    _ => error.into(),
                });
            }
        };
        let standings =
            standings.into_iter().map(|(id, (known, _, standing))| (id, (known.realm.clone(), standing)));
        Ok(Acted::Ran(Box::new(self.conclude(report, &plan, standings.collect(), restart).await)))
    }

    /// Looks before each step whether people hold its component by now.
    fn permit(&self) -> Arc<dyn StepPermit> {
        Arc::new(Unheld { ledger: self.ledger.clone(), clock: self.clock.clone() })
    }

    fn locators(&self, plan: &Plan) -> Vec<Locator> {
        let components = plan.components().into_iter();
        components.filter_map(|component| self.supervised.get(component)?.locator.clone()).collect()
    }

    /// Takes down how a run ended.
    async fn conclude(
        &self,
        report: RunReport,
        plan: &Plan,
        mut standings: BTreeMap<ComponentId, (crate::Realm, Standing)>,
        restart: bool,
    ) -> Ran {
        let settled_at = self.clock.now().saturating_add(self.options.settle);
        for (component, (realm, standing)) in &mut standings {
            if report.changed() {
                standing.settled_at = Some(settled_at);
                if !restart {
                    standing.result =
                        plan.changes_of(component).last().map(|change| change.to.fingerprint.clone());
                }
            }
            if let Err(error) = self.remember(realm, component, standing).await {
                tracing::warn!(%component, %error, "what was done is not remembered");
            }
        }
        let written = self.write_report(&report).await;
        Ran {
            moves: Move::all(plan),
            report,
            restart,
            standings: standings.into_iter().map(|(id, (_, standing))| (id, standing)).collect(),
            written,
        }
    }

    pub(super) async fn write_report(&self, report: &RunReport) -> Option<String> {
        let reporter = self.reporter.as_ref()?;
        match reporter.report(report.run).await {
            Ok(place) => Some(place),
            Err(error) => {
                tracing::warn!(run = %report.run, %error, "no incident report is written");
                None
            }
        }
    }

    /// Takes an attempt back that came to nothing.
    async fn forget_attempt(&self, report: &RunReport, run: RunId) -> Result<()> {
        for step in &report.steps {
            let known = self.known(&step.component).await?;
            let mut standing = standing(&known.record);
            standing.attempts.retain(|attempt| attempt.run != run);
            self.remember(&known.realm, &step.component, &standing).await?;
        }
        Ok(())
    }

    /// Goes on with a run that an earlier supervisor began.
    pub(super) async fn resume(&self, run: RunId, state: &RunState, stop: &CancellationToken) -> Result<Ran> {
        let mut standings = BTreeMap::new();
        for component in state.plan.components() {
            let realm = self.supervised(component)?.component.realm().await?;
            let record = self.ledger.record(&realm, component).await?;
            standings.insert(component.clone(), (realm, standing(&record)));
        }
        let mut options = RunOptions::by(self.options.actor.clone());
        options.cancellation = stop.clone();
        options.permit = Some(self.permit());
        let report = self.engine_for(&state.plan).resume(run, &self.components, options).await?;
        let restart = state.plan.steps().iter().all(|step| step.change.kind == ChangeKind::Restart);
        Ok(self.conclude(report, &state.plan, standings, restart).await)
    }
}

/// Lets no step begin whose component is held.
#[derive(Debug)]
struct Unheld {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl StepPermit for Unheld {
    async fn before_step(&self, change: &Change) -> Result<()> {
        let now = self.clock.now();
        let (realm, all) = everything()?;
        for (realm, component) in [(&realm, &all), (&change.realm, &change.component)] {
            let held = Holding::of(&self.ledger.record(realm, component).await?, now);
            if let Some(Holding { by, until, reason, .. }) = held {
                let message = format!("{by} holds automation until {until}: {reason}");
                return Err(Error::new(ErrorKind::Refused, message).with_component(&change.component));
            }
        }
        Ok(())
    }
}

/// A run that goes on.
struct Slot<'a>(&'a AtomicUsize, usize);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

/// The least time after a component was last recorded to be well in which a symptom counts as new: it is recorded from
/// time to time only.
const SLOW_RECORDS: Duration = Duration::from_secs(90);

fn fingerprint(known: &BTreeMap<ComponentId, Known>, component: &ComponentId) -> Option<Fingerprint> {
    Some(known.get(component)?.current()?.fingerprint.clone())
}

fn told(plan: &Plan) -> String {
    let moves: Vec<_> = Move::all(plan)
        .iter()
        .map(|one| format!("{} from {} to {}", one.component, one.from, one.to))
        .collect();
    format!("return {}", moves.join(", "))
}
