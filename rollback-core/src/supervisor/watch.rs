//! The loop: what is due is begun, and what has ended is taken in. One task owns all that is remembered, so that nothing
//! is locked; whatever takes long is a future of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::case::{Acted, Case, Ran};
use super::observe::{self, Looked};
use super::policy::Blueprint;
use super::reason::Reason;
use super::standing::{Judging, PolicyMemory, Standing};
use super::tell::{Alerts, Teller};
use super::{Supervisor, of_policy};
use crate::trigger::{Evaluation, Memory};
use crate::{
    Cause, ComponentId, Error, Fact, Fingerprint, Judgement, Ledger, Move, Notification, Outcome, Realm,
    Result, Retention, RunId, RunReport, RunState, RunSummary, Timestamp,
};

/// How often what a policy remembers is recorded while all is well.
const CALM_RECORDS: Duration = Duration::from_secs(60);

/// How often it is recorded that a component was looked at, where nothing changes.
const LOOK_RECORDS: Duration = Duration::from_secs(3600);

/// How long the last messages may take when it stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long after its end a run is still judged.
const JUDGED_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// How late a look may be.
const SLOW: Duration = Duration::from_secs(30);

/// How long to wait before an unfinished run is tried again: at first, and at most.
const TRY_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// What has ended.
pub(super) enum Done {
    Evaluated {
        policy: usize,
        at: Timestamp,
        memory: Memory,
        seen: Result<Evaluation>,
    },
    Looked {
        component: ComponentId,
        at: Timestamp,
        epoch: u64,
        looked: Result<Looked>,
    },
    Acted {
        case: Case,
        acted: Acted,
    },
    Resumed {
        run: RunId,
        state: Box<RunState>,
        pause: Duration,
        ran: Result<Ran>,
    },
    Saved {
        policy: usize,
    },
    Remembered {
        component: ComponentId,
    },
    Alerted {
        told: bool,
        ended: usize,
    },
    /// A run is judged, and people are told.
    Judged,
    /// It is time to try once more to go on with a run.
    TryAgain {
        run: RunId,
        state: Box<RunState>,
        pause: Duration,
    },
    /// What a run left is put right.
    Mended {
        run: RunId,
    },
    Nothing,
}

pub(super) type Work<'a> = FuturesUnordered<BoxFuture<'a, Done>>;

/// What is known of a policy while it is watched.
pub(super) struct Watched {
    pub(super) memory: PolicyMemory,
    due: Instant,
    evaluating: bool,
    saving: bool,
    saved: Option<Instant>,
    /// Whether what is remembered has to be recorded soon.
    pub(super) dirty: bool,
    /// What is wrong with its trigger, as people were told.
    pub(super) broken: Option<String>,
}

/// What an automatic rollback has put in place.
pub(super) struct Placed {
    pub(super) run: RunId,
    pub(super) print: Fingerprint,
    /// Until when it settles.
    pub(super) settled_at: Timestamp,
    /// Whether people have put something else in place since.
    pub(super) replaced: bool,
}

/// What of a component may not be recorded yet.
#[derive(Clone, Copy)]
pub(super) enum Unsaved {
    /// What was held back.
    HeldBack,
    /// Everything: it was read, and then changed.
    All,
}

/// What is known of a component while it is watched.
pub(super) struct Own {
    due: Instant,
    looking: bool,
    pub(super) standing: Standing,
    pub(super) realm: Option<Realm>,
    pub(super) busy: Option<String>,
    /// Counts what was done with it: a look from before is old.
    epoch: u64,
    /// What is remembered and may not be recorded.
    pub(super) unsaved: Option<Unsaved>,
    writing: bool,
    /// When it changed last, as far as is known.
    pub(super) changed_at: Option<Timestamp>,
    /// What is to be done once what is remembered of it is written.
    waiting: Option<Case>,
    /// Since when this revision is well and settled.
    well_since: Option<(Fingerprint, Timestamp)>,
    seen_at: Option<Timestamp>,
    recorded_look: Option<Timestamp>,
    /// Since when it cannot be looked at, and whether people know of that.
    unseen: Option<(Timestamp, bool)>,
}

pub(super) struct World<'a> {
    pub(super) all: &'a Supervisor,
    pub(super) teller: Teller,
    pub(super) watched: Vec<Watched>,
    pub(super) owns: BTreeMap<ComponentId, Own>,
    pub(super) alerts: Alerts,
    pub(super) work: Work<'a>,
    /// The runs that the journal knew at the start; none where it could not be read.
    pub(super) journaled: Option<BTreeSet<RunId>>,
    /// The runs that need a human.
    stuck: BTreeSet<RunId>,
    /// Those of which people were told that they do not go on.
    unresumed: BTreeSet<RunId>,
    /// What automatic rollbacks have put in place, and until when it settles.
    pub(super) results: BTreeMap<ComponentId, Placed>,
    acting: usize,
    alerting: bool,
    alerts_due: Instant,
    stop: CancellationToken,
}

pub(super) async fn run(all: &Supervisor, stop: &CancellationToken) -> Result<()> {
    // What an earlier lead has evaluated is long ago.
    all.evaluated.store(0, std::sync::atomic::Ordering::Relaxed);
    let (sender, messages) = mpsc::unbounded_channel();
    let teller = Teller { sender, clock: all.clock.clone(), actor: all.options.actor.clone() };
    let told = tell(all, messages);
    let watched = async {
        let mut world = World::new(all, teller, stop.child_token()).await;
        world.begin().await;
        world.go(stop).await;
    };
    // What is left to tell is told, or recorded, once the world and its teller are gone.
    let work = async { tokio::join!(watched, told) };
    tokio::select! {
        _ = work => {}
        () = all.outbox.deliver() => {}
    }
    if !all.options.observe {
        all.outbox.flush(FAREWELL).await;
    }
    Ok(())
}

/// Passes on what is said, in order, until nobody says anything any more.
async fn tell(all: &Supervisor, mut messages: mpsc::UnboundedReceiver<Notification>) {
    while let Some(message) = messages.recv().await {
        if let Some(listener) = &all.listener {
            let _ = listener.send(message.clone());
        }
        if !all.options.observe {
            all.outbox.send(message).await;
        }
    }
}

impl<'a> World<'a> {
    async fn new(all: &'a Supervisor, teller: Teller, stop: CancellationToken) -> Self {
        let now = Instant::now();
        let watched = join_all(all.policies.iter().map(async |policy| {
            let memory = match policy_memory(&*all.ledger, &policy.name).await {
                Ok(memory) => memory,
                Err(error) => {
                    teller.trouble(format!("what policy {} remembers cannot be read: {error}", policy.name));
                    PolicyMemory::default()
                }
            };
            Watched {
                memory,
                due: now,
                evaluating: false,
                saving: false,
                saved: None,
                dirty: false,
                broken: None,
            }
        }));
        let watched = watched.await;
        let own = |component: &ComponentId| {
            let own = Own {
                due: now,
                looking: false,
                standing: Standing::default(),
                realm: None,
                busy: None,
                epoch: 0,
                unsaved: None,
                writing: false,
                changed_at: None,
                waiting: None,
                well_since: None,
                seen_at: None,
                recorded_look: None,
                unseen: None,
            };
            (component.clone(), own)
        };
        Self {
            owns: all.supervised.keys().map(own).collect(),
            alerts: Alerts::new(
                &all.options.name,
                all.clock.now(),
                all.options.repeat_alerts.saturating_mul(3),
            ),
            all,
            teller,
            watched,
            work: FuturesUnordered::new(),
            journaled: None,
            stuck: BTreeSet::new(),
            unresumed: BTreeSet::new(),
            results: BTreeMap::new(),
            acting: 0,
            alerting: false,
            alerts_due: now,
            stop,
        }
    }

    /// Takes up what an earlier supervisor left: runs that have not ended, and those that are not judged.
    async fn begin(&mut self) {
        if self.all.options.observe {
            return;
        }
        let journal = self.all.engine.journal().clone();
        let runs = match journal.runs().await {
            Ok(runs) => runs,
            Err(error) => {
                self.teller.trouble(format!("what earlier supervisors began cannot be read: {error}"));
                return;
            }
        };
        self.journaled = Some(runs.iter().map(|run| run.run).collect());
        let engine = &self.all.engine;
        self.work.push(Box::pin(async move {
            if let Err(error) = engine.prune(Retention::default()).await {
                tracing::warn!(%error, "old runs are not removed");
            }
            Done::Nothing
        }));
        let now = self.all.clock.now();
        let recent = runs.iter().filter(|run| {
            matches!(run.outcome, Outcome::Unfinished | Outcome::Stuck)
                || run.finished_at.is_some_and(|end| now.since(end) < JUDGED_WITHIN)
        });
        for summary in recent {
            let entries = journal.entries(summary.run).await;
            let state = match entries.and_then(|entries| RunState::replay(&entries)) {
                Ok(state) => state,
                Err(error) => {
                    self.teller.trouble(format!("run {} cannot be read: {error}", summary.run));
                    continue;
                }
            };
            // That of a human is theirs.
            let Some(cause) = state.cause.clone() else { continue };
            self.results_of(summary.run, &state);
            self.tell_end(summary.run, &state, &cause);
            if state.outcome == Outcome::Unfinished {
                self.resume(summary.run, state, TRY_AGAIN[0]);
            } else if state.outcome == Outcome::Stuck && !is_mended(&runs, summary.run) {
                self.is_stuck(summary.run, &cause.component);
            } else if let (Outcome::Completed, None, Some(end)) =
                (state.outcome, &state.judged, state.finished_at)
                && state.plan.steps().iter().any(|step| step.change.kind == crate::ChangeKind::Rollback)
            {
                let from = end.saturating_add(self.all.options.settle);
                self.judge_later(&cause.policy, &cause.component, Judging { run: summary.run, from });
            }
        }
    }

    /// Tells of a run that ended when its supervisor died, before anybody was told.
    fn tell_end(&mut self, run: RunId, state: &RunState, cause: &Cause) {
        let place = self.all.policies.iter().position(|own| own.name == cause.policy);
        let Some(watched) = place.and_then(|place| self.watched.get_mut(place)) else { return };
        let watch = watched.memory.watches.entry(cause.component.to_string()).or_default();
        let is_old = state.finished_at.is_none_or(|end| self.all.clock.now().since(end) >= JUDGED_WITHIN);
        if is_old || watch.ended >= Some(run) {
            return;
        }
        (watch.ended, watched.dirty) = (Some(run), true);
        let ran = Ran {
            report: RunReport::new(run, state),
            moves: Move::all(&state.plan),
            restart: false,
            standings: BTreeMap::new(),
            written: None,
        };
        self.teller.ended(Some(&cause.policy), &ran);
    }

    /// Takes down what a run has put in place, the newest first.
    fn results_of(&mut self, run: RunId, state: &RunState) {
        let (Outcome::Completed, Some(end)) = (state.outcome, state.finished_at) else { return };
        let settled_at = end.saturating_add(self.all.options.settle);
        for step in state.plan.steps().iter().filter(|step| step.change.kind == crate::ChangeKind::Rollback) {
            let last = state.plan.changes_of(&step.change.component).last().unwrap_or(&step.change);
            let component = &step.change.component;
            let placed = Placed { run, print: last.to.fingerprint.clone(), settled_at, replaced: false };
            self.results.entry(component.clone()).or_insert(placed);
            if let Some(own) = self.owns.get_mut(component) {
                own.changed_at = own.changed_at.or(state.cause.as_ref().and_then(|cause| cause.changed_at));
            }
        }
    }

    fn resume(&mut self, run: RunId, state: RunState, pause: Duration) {
        let components: Vec<ComponentId> = state.plan.components().into_iter().cloned().collect();
        for component in &components {
            if let Some(own) = self.owns.get_mut(component) {
                own.epoch += 1;
                own.busy = Some(format!("run {run} goes on"));
            }
        }
        let (all, stop) = (self.all, self.stop.clone());
        self.acting += 1;
        self.work.push(Box::pin(async move {
            let ran = all.resume(run, &state, &stop).await;
            Done::Resumed { run, state: Box::new(state), pause, ran }
        }));
    }

    /// Tells that a run does not go on, once, and tries it again later: whoever had it may have to be forgotten first.
    fn try_again(&mut self, run: RunId, state: Box<RunState>, pause: Duration, error: &Error) {
        if pause > TRY_AGAIN[0] && self.unresumed.insert(run) {
            self.teller.cannot_resume(run, error);
            if let Some(cause) = &state.cause {
                self.is_stuck(run, &cause.component);
            }
        }
        let longer = pause.saturating_mul(2).min(TRY_AGAIN[1]);
        let journal = self.all.engine.journal().clone();
        self.work.push(Box::pin(async move {
            sleep(pause).await;
            // It may have ended meanwhile.
            let entries = journal.entries(run).await;
            let ended = entries.ok().and_then(|entries| RunState::replay(&entries).ok());
            match ended {
                Some(state) if state.outcome != Outcome::Unfinished => Done::Nothing,
                _ => Done::TryAgain { run, state, pause: longer },
            }
        }));
    }

    pub(super) fn judge_later(&mut self, policy: &str, component: &ComponentId, judging: Judging) {
        let place = self.all.policies.iter().position(|own| own.name == policy);
        let Some(watched) = place.and_then(|place| self.watched.get_mut(place)) else { return };
        // The newest one counts.
        let watch = watched.memory.watches.entry(component.to_string()).or_default();
        if watch.judging.as_ref().is_none_or(|other| other.run < judging.run) {
            watch.judging = Some(judging);
        }
    }

    async fn go(&mut self, stop: &CancellationToken) {
        loop {
            let next = self.start_due();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.work.next(), if !self.work.is_empty() => self.take(done),
                () = sleep_until(next) => {}
            }
        }
        // Runs stop before their next write; everything else can be done anew.
        while self.acting > 0 {
            match self.work.next().await {
                Some(
                    done
                    @ (Done::Acted { .. } | Done::Resumed { .. } | Done::Evaluated { .. } | Done::Judged),
                ) => {
                    self.take(done);
                }
                Some(_) => {}
                None => break,
            }
        }
        let save = (0..self.watched.len()).map(|policy| self.save(policy));
        let save: Vec<_> = save.collect();
        let _ = timeout(FAREWELL, join_all(save)).await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Begins what is due; answers when something is due next.
    fn start_due(&mut self) -> Instant {
        let now = Instant::now();
        let all = self.all;
        let mut next = now + Duration::from_secs(60);
        for (place, (policy, watched)) in all.policies.iter().zip(&mut self.watched).enumerate() {
            if !watched.evaluating && watched.due <= now {
                watched.evaluating = true;
                let mut memory = watched.memory.trigger.clone();
                for component in policy.trigger.components() {
                    if let Some(at) = self.owns.get(&component).and_then(|own| own.changed_at) {
                        memory.changed(&component, at);
                    }
                }
                watched.due = now + policy.trigger.interval().max(Duration::from_millis(10));
                let span = tracing::info_span!("evaluate", policy = policy.name);
                let work = async move {
                    let at = all.clock.now();
                    let seen = policy.trigger.evaluate(at, &mut memory).await;
                    Done::Evaluated { policy: place, at, memory, seen }
                };
                self.work.push(Box::pin(work.instrument(span)));
            } else if !watched.evaluating {
                next = next.min(watched.due);
            }
        }
        for (component, own) in &mut self.owns {
            if own.looking || own.writing || own.busy.is_some() {
                continue;
            }
            if own.due <= now {
                own.looking = true;
                own.due = now + all.options.observe_every;
                let (component, epoch) = (component.clone(), own.epoch);
                self.work.push(Box::pin(async move {
                    let looked = all.look(&component).await;
                    // What came in place while it was looked at came before this.
                    Done::Looked { at: all.clock.now(), component, epoch, looked }
                }));
            } else {
                next = next.min(own.due);
            }
        }
        if !self.alerting && !all.options.observe && (self.alerts.changed || self.alerts_due <= now) {
            self.alerting = true;
            self.alerts.changed = false;
            self.alerts_due = now + all.options.repeat_alerts;
            let alerts = self.alerts.all(all.clock.now());
            let ended = self.alerts.ended.len();
            self.work.push(Box::pin(async move {
                let told = all.outbox.alerts(&alerts).await.is_ok();
                Done::Alerted { told, ended }
            }));
        } else if !self.alerting && !all.options.observe {
            next = next.min(self.alerts_due);
        }
        next
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Evaluated { policy, at, memory, seen } => {
                if let Some(watched) = self.watched.get_mut(policy) {
                    watched.evaluating = false;
                    watched.memory.trigger = memory;
                }
                self.all.evaluated.store(at.as_unix_millis(), std::sync::atomic::Ordering::Relaxed);
                self.evaluated(policy, at, seen);
                self.save_if_due(policy);
            }
            Done::Looked { component, at, epoch, looked } => self.looked(&component, (at, epoch), looked),
            Done::Judged => self.acting -= 1,
            Done::TryAgain { run, state, pause } => {
                let is_busy = |component| self.owns.get(component).is_some_and(|own| own.busy.is_some());
                if state.plan.components().into_iter().any(is_busy) {
                    self.work.push(Box::pin(async move {
                        sleep(TRY_AGAIN[0]).await;
                        Done::TryAgain { run, state, pause }
                    }));
                } else {
                    self.resume(run, *state, pause);
                }
            }
            Done::Acted { case, acted } => {
                self.acting -= 1;
                self.free(&case);
                let policy = case.policy;
                self.acted(&case, acted);
                self.save_if_due(policy);
            }
            Done::Resumed { run, state, pause, ran } => {
                self.acting -= 1;
                for component in state.plan.components() {
                    if let Some(own) = self.owns.get_mut(component) {
                        own.busy = None;
                        own.epoch += 1;
                        own.due = Instant::now();
                    }
                }
                match (ran, &state.cause) {
                    (Ok(ran), Some(cause)) => self.ran(&cause.policy, &cause.component, &ran),
                    (Err(_), _) if self.is_stopped() => {}
                    (Err(error), _) => self.try_again(run, state, pause, &error),
                    (Ok(_), None) => {}
                }
            }
            Done::Saved { policy } => {
                if let Some(watched) = self.watched.get_mut(policy) {
                    watched.saving = false;
                }
                self.save_if_due(policy);
            }
            Done::Remembered { component } => {
                let case = self.owns.get_mut(&component).and_then(|own| {
                    own.writing = false;
                    own.waiting.take()
                });
                if let Some(case) = case {
                    self.start(case);
                }
            }
            Done::Alerted { told, ended } => {
                self.alerting = false;
                self.look_for_help();
                if told {
                    self.alerts.ended.drain(..ended.min(self.alerts.ended.len()));
                }
            }
            Done::Mended { run } => {
                self.stuck.remove(&run);
                self.alerts.mended(run, self.all.clock.now());
            }
            Done::Nothing => {}
        }
    }

    /// The components that a case may move.
    fn moved_by(&self, case: &Case) -> Vec<ComponentId> {
        let policy = self.all.policies.get(case.policy);
        let plan =
            policy.and_then(|policy| policy.plan.clone()).unwrap_or_else(|| Blueprint::of(&case.component));
        plan.steps.into_iter().map(|step| step.component).collect()
    }

    /// Begins to act on a case, unless something is being done already.
    pub(super) fn start(&mut self, case: Case) {
        if self.is_stopped() {
            return;
        }
        let components = self.moved_by(&case);
        for component in &components {
            let Some(own) = self.owns.get_mut(component) else { continue };
            if let Some(what) = &own.busy {
                let reason = Reason::Busy { what: what.clone() };
                self.acted(&case, Acted::HeldBack(reason));
                return;
            }
            if own.writing {
                own.waiting = Some(case);
                return;
            }
        }
        for component in &components {
            if let Some(own) = self.owns.get_mut(component) {
                own.epoch += 1;
                own.busy = Some(format!("run {} is about it", case.run));
            }
        }
        let (all, stop, teller) = (self.all, self.stop.clone(), self.teller.clone());
        self.acting += 1;
        self.work.push(Box::pin(async move {
            let acted = all.act(&case, &teller, &stop).await;
            Done::Acted { case, acted }
        }));
    }

    fn free(&mut self, case: &Case) {
        for component in self.moved_by(case) {
            if let Some(own) = self.owns.get_mut(&component) {
                own.busy = None;
                own.epoch += 1;
                own.due = Instant::now();
            }
        }
    }

    /// Records what is remembered of a component, as it stands now.
    pub(super) fn remember(&mut self, component: &ComponentId) {
        let all = self.all;
        let Some(own) = self.owns.get_mut(component) else { return };
        let Some(realm) = own.realm.clone().filter(|_| !own.writing && own.busy.is_none()) else { return };
        own.writing = true;
        let (component, standing) = (component.clone(), own.standing.clone());
        self.work.push(Box::pin(async move {
            if let Err(error) = all.remember(&realm, &component, &standing).await {
                tracing::warn!(%component, %error, "what is known of it is not recorded");
            }
            Done::Remembered { component }
        }));
    }

    fn save(&self, policy: usize) -> BoxFuture<'a, ()> {
        let all = self.all;
        let name = all.policies.get(policy).map(|policy| policy.name.clone()).unwrap_or_default();
        let memory = self.watched.get(policy).map(|watched| watched.memory.clone()).unwrap_or_default();
        Box::pin(async move {
            if let Err(error) = all.save_policy(&name, &memory).await {
                tracing::warn!(policy = name, %error, "what it remembers is not recorded");
            }
        })
    }

    fn save_if_due(&mut self, policy: usize) {
        let now = Instant::now();
        let Some(watched) = self.watched.get_mut(policy) else { return };
        let is_due = watched.dirty || watched.saved.is_none_or(|saved| now - saved >= CALM_RECORDS);
        if watched.saving || !is_due || self.all.options.observe {
            return;
        }
        (watched.saving, watched.dirty, watched.saved) = (true, false, Some(now));
        let save = self.save(policy);
        self.work.push(Box::pin(async move {
            save.await;
            Done::Saved { policy }
        }));
    }

    /// Remembers that a run needs a human.
    pub(super) fn is_stuck(&mut self, run: RunId, component: &ComponentId) {
        self.stuck.insert(run);
        self.alerts.stuck(run, component, self.all.clock.now());
    }

    /// Looks whether what runs left is put right.
    fn look_for_help(&self) {
        for run in &self.stuck {
            let (journal, run) = (self.all.engine.journal().clone(), *run);
            self.work.push(Box::pin(async move {
                let Ok(runs) = journal.runs().await else { return Done::Nothing };
                if is_mended(&runs, run) { Done::Mended { run } } else { Done::Nothing }
            }));
        }
    }

    fn looked(&mut self, component: &ComponentId, (at, epoch): (Timestamp, u64), looked: Result<Looked>) {
        let all = self.all;
        let Some(own) = self.owns.get_mut(component) else { return };
        own.looking = false;
        let Looked { known, settled } = match looked {
            Ok(looked) => looked,
            Err(error) => {
                own.well_since = None;
                let (since, is_told) = own.unseen.get_or_insert((at, false));
                if at.since(*since) >= all.options.blind_after && !*is_told {
                    *is_told = true;
                    self.teller.trouble(format!("{component} cannot be looked at since {since}: {error}"));
                }
                return;
            }
        };
        own.unseen = None;
        let first = own.seen_at.is_none();
        own.realm = Some(known.realm.clone());
        if own.busy.is_some() || own.epoch != epoch {
            own.due = Instant::now();
            return;
        }
        let mut standing = observe::standing(&known.record);
        let kept = standing.clone();
        own.recorded_look = kept.looked.as_ref().map(|(at, _)| *at);
        match own.unsaved {
            Some(Unsaved::All) => standing.clone_from(&own.standing),
            Some(Unsaved::HeldBack) => standing.merge_held_back(&own.standing),
            None => {}
        }
        if own.standing.looked > standing.looked {
            standing.looked.clone_from(&own.standing.looked);
        }
        if let (true, Some(journaled)) = (first, &self.journaled) {
            // What was about to begin when its supervisor died did not happen.
            standing.attempts.retain(|attempt| journaled.contains(&attempt.run));
        }
        let Some(current) = known.current() else { return };
        if let Some(placed) = self.results.get_mut(component) {
            placed.replaced |= placed.print != current.fingerprint;
            if !placed.replaced {
                standing.result = Some(placed.print.clone());
                standing.settled_at = standing.settled_at.max(Some(placed.settled_at));
            }
        }
        standing.look(at, current);
        let is_due = own.recorded_look.is_none_or(|recorded| at.since(recorded) >= LOOK_RECORDS);
        let differs = kept.changed != standing.changed
            || kept.attempts != standing.attempts
            || kept.result != standing.result
            || kept.settled_at != standing.settled_at
            || kept.held_back != standing.held_back;
        own.unsaved = differs.then_some(Unsaved::All);
        // What a rollback has put in place is to be compared with what was before the change that it took back.
        if standing.result.is_none() {
            own.changed_at = super::guard::changed_at(&known.history, &known.record, &standing);
        }
        own.standing = standing;
        let well = settled && self.is_well(component, at);
        let Some(own) = self.owns.get_mut(component) else { return };
        // What was not looked at for a while is not known to have been well.
        let is_seen = own
            .seen_at
            .replace(at)
            .is_some_and(|seen| at.since(seen) <= all.options.observe_every.saturating_mul(3) + SLOW);
        let well = well && is_seen;
        let print = &current.fingerprint;
        match &own.well_since {
            Some((same, since)) if well && same == print => {
                if at.since(*since) >= all.options.soak {
                    let (component, since) = (component.clone(), *since);
                    // The next look finds it marked, and asks for nothing more.
                    self.work.push(Box::pin(async move {
                        if let Err(error) = all.mark_good(&component, &known, since).await {
                            tracing::warn!(%component, %error, "it is not recorded good");
                        }
                        Done::Nothing
                    }));
                }
            }
            _ => own.well_since = well.then(|| (print.clone(), at)),
        }
        if differs || is_due {
            self.remember(component);
        }
    }

    /// Whether all triggers of a component, of which there is one at least, see that it is well.
    fn is_well(&self, component: &ComponentId, at: Timestamp) -> bool {
        let name = component.to_string();
        let of = self.all.policies.iter().zip(&self.watched);
        let of: Vec<_> = of.filter(|(policy, _)| policy.trigger.components().contains(component)).collect();
        let is_well = |(policy, watched): &(&super::Policy, &Watched)| {
            let watch = watched.memory.watches.get(&name).filter(|watch| watch.well_since.is_some());
            let well = watch.and_then(|watch| watch.well_at);
            well.is_some_and(|well| at.since(well) <= policy.trigger.interval().saturating_mul(2))
        };
        !of.is_empty() && of.iter().all(is_well)
    }

    /// Judges a run, writes its report once more, and tells people.
    pub(super) fn judge(
        &mut self,
        policy: usize,
        component: &ComponentId,
        judging: &Judging,
        judgement: Judgement,
    ) {
        let all = self.all;
        let Some(policy) = all.policies.get(policy) else { return };
        let (teller, component) = (self.teller.clone(), component.clone());
        let Judging { run, from } = *judging;
        self.acting += 1;
        self.work.push(Box::pin(async move {
            let points = policy.trigger.chart(&component, from, all.clock.now()).await;
            let judgement = Judgement { points, ..judgement };
            if !all.options.observe
                && let Err(error) = all.engine.judge(run, judgement.clone()).await
            {
                tracing::warn!(%run, %error, "how the symptom went on is not recorded");
            }
            let report = match &all.reporter {
                Some(reporter) => reporter.report(run).await.ok(),
                None => None,
            };
            teller.judged(policy, &component, run, &judgement, report);
            Done::Judged
        }));
    }
}

/// What is remembered of a policy; of one never heard of, nothing.
pub(super) async fn policy_memory(ledger: &dyn Ledger, name: &str) -> Result<PolicyMemory> {
    let Some((realm, component)) = of_policy(name) else { return Ok(PolicyMemory::default()) };
    let record = ledger.record(&realm, &component).await?;
    let kept = record.memory(observe::KEY).and_then(|value| serde_json::from_value(value.clone()).ok());
    Ok(kept.unwrap_or_default())
}

/// Whether a run that needed a human has ended since, or one that came after it, of one of its components, has ended
/// well.
fn is_mended(runs: &[RunSummary], run: RunId) -> bool {
    let Some(own) = runs.iter().find(|other| other.run == run) else { return true };
    if !matches!(own.outcome, Outcome::Unfinished | Outcome::Stuck) {
        return true;
    }
    let ended_well = |other: &RunSummary| matches!(other.outcome, Outcome::Completed | Outcome::NothingToDo);
    let mut later = runs.iter().filter(|other| other.run > run);
    later
        .any(|other| ended_well(other) && other.components.iter().any(|moved| own.components.contains(moved)))
}

impl Supervisor {
    async fn save_policy(&self, name: &str, memory: &PolicyMemory) -> Result<()> {
        let Some((realm, component)) = of_policy(name) else { return Ok(()) };
        let value = serde_json::to_value(memory).unwrap_or(Value::Null);
        let fact = Fact::Memory { policy: observe::KEY.to_owned(), value };
        self.note(&realm, &component, vec![(self.clock.now(), fact)]).await
    }
}
