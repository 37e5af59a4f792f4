//! Acts without being asked: evaluates triggers for ever, and rolls back what a change has broken.
//!
//! A [`Policy`] ties a trigger to [actions](Action). Once it fires, people are told; and where it may act, a change is
//! taken back only if it can be the cause: recent, older than the symptom, and with the component seen to be well before.
//! [`Guards`], freeze times and [holds](Holding) keep it from acting, and everything held back is told with its reason.
//! After a rollback the symptom is judged on a whole new window, and no second rollback follows of the same.
//!
//! The supervisor observes every component, read-only, and keeps the ledger: when what was in place, what was seen to be
//! good for long enough, and what was in place when a trigger fired. What it remembers is in the ledger as well, so that
//! another process goes on where it stopped: no cool-down, no attempt and no pending duration is lost or counted twice.
//! One supervisor acts at a time: hold a [`Lease`] of it with [`Leadership`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use rollback_core::supervisor::{Action, Policy, Supervised, Supervisor};
//! use rollback_core::trigger::{MetricSource, error_rate};
//! use rollback_core::{Engine, MemoryJournal, Outbox, Rollbackable};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example(web: Arc<dyn Rollbackable>, metrics: Arc<dyn MetricSource>, stop: CancellationToken)
//! # -> rollback_core::Result<()> {
//! let journal = Arc::new(MemoryJournal::new());
//! let trigger = error_rate(metrics, web.id().clone(), "errors", "requests");
//! let policy = Policy::new("error-rate", Arc::new(trigger), [Action::Alert, Action::Rollback]);
//! let outbox = Outbox::new(Vec::new(), journal.clone());
//! let supervisor =
//!     Supervisor::new(Engine::new(journal.clone()), journal, outbox, vec![Supervised::new(web)], vec![policy])?;
//! supervisor.run(stop).await
//! # }
//! ```
//!
//! [`Lease`]: crate::Lease

mod act;
mod case;
mod evaluate;
mod guard;
mod hold;
mod lead;
mod observe;
mod policy;
mod reason;
mod standing;
mod tell;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::trigger::Memory;
use crate::{
    ChangeKind, Clock, ComponentId, Components, Engine, Error, ErrorKind, Lease, Ledger, Locator,
    Notification, Outbox, Plan, Realm, Record, Restartable, Result, Revision, Rollbackable, RunId,
    RunSettings, SystemClock, Timestamp,
};

pub use hold::{Holding, everything};
pub use lead::Leadership;
pub use policy::{Action, Blueprint, BlueprintStep, Does, Freeze, Goal, Guards, Policy, Restarts};
pub use standing::HeldBack;

/// In which realm the ledger keeps what is of no component.
pub const REALM: &str = "rollback.dev";

/// A component under a supervisor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Supervised {
    /// The component.
    pub component: Arc<dyn Rollbackable>,
    /// The same, where it can be restarted.
    pub restartable: Option<Arc<dyn Restartable>>,
    /// Where another process finds it again. No secrets.
    pub locator: Option<Locator>,
    /// What cannot be taken back of it.
    pub irreversible: Vec<Irreversible>,
}

impl Supervised {
    /// One that cannot be restarted, and all of which can be taken back.
    pub fn new(component: Arc<dyn Rollbackable>) -> Self {
        Self { component, restartable: None, locator: None, irreversible: Vec::new() }
    }
}

/// A step between two revisions that is never crossed without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irreversible {
    /// The revisions between which it lies, the older first; none for all of them.
    pub between: Option<(String, String)>,
    /// Why.
    pub reason: String,
}

impl Irreversible {
    /// Whether a plan crosses it, by the history of its component: where a revision is not known there, it does.
    pub fn is_crossed(&self, plan: &Plan, component: &ComponentId, history: &[Revision]) -> bool {
        let rollbacks = || {
            let changes = plan.changes_of(component);
            changes.filter(|change| change.kind == ChangeKind::Rollback && !change.is_noop())
        };
        let (Some(first), Some(last)) = (rollbacks().next(), rollbacks().last()) else { return false };
        let Some((older, newer)) = &self.between else { return true };
        let place = |id: &str| history.iter().position(|revision| revision.id == *id);
        match (place(&first.from.id), place(&last.to.id), place(older), place(newer)) {
            // Newest first: it begins at or above the newer one and ends at or below the older one, or the other way.
            (Some(from), Some(to), Some(older), Some(newer)) => {
                (from <= newer && to >= older) || (from >= older && to <= newer)
            }
            _ => true,
        }
    }
}

/// Keeps the plan of a proposal; answers the command that carries it out.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Proposals: fmt::Debug + Send + Sync {
    /// Keeps a plan.
    ///
    /// # Errors
    /// When it cannot be kept: people are told of the plan all the same.
    async fn keep(&self, plan: &Plan) -> Result<String>;
}

/// Writes the incident report of a run.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Reporter: fmt::Debug + Send + Sync {
    /// Writes it, in place of an earlier one of the run; answers where it is.
    ///
    /// # Errors
    /// When it cannot be written: people are told without it.
    async fn report(&self, run: RunId) -> Result<String>;
}

/// How a supervisor works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What it is called, the same for all that may take over from each other. Default: `supervisor`.
    pub name: String,
    /// Who acts, for the record. Default: `supervisor`.
    pub actor: String,
    /// How often components are looked at. Default: every 30 s.
    pub observe_every: Duration,
    /// How long a component has to be well, with all its triggers, to be recorded good. Default: 30 minutes.
    pub soak: Duration,
    /// How long after a rollback what triggers see counts as of before. Default: 2 minutes.
    pub settle: Duration,
    /// For how long it may be unknown whether a trigger should fire before people are told. Default: 5 minutes.
    pub blind_after: Duration,
    /// How often alerts that stand are repeated; they count as over after three times this. Default: every minute.
    pub repeat_alerts: Duration,
    /// Whether nothing at all is written, in the ledger neither. Default: no.
    pub observe: bool,
    /// How the steps of its runs are carried out.
    pub settings: RunSettings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "supervisor".into(),
            actor: "supervisor".into(),
            observe_every: Duration::from_secs(30),
            soak: Duration::from_secs(1800),
            settle: Duration::from_secs(120),
            blind_after: Duration::from_secs(300),
            repeat_alerts: Duration::from_secs(60),
            observe: false,
            settings: RunSettings::default(),
        }
    }
}

/// Makes the lease of the components of a plan.
pub type LeaseOf = Arc<dyn Fn(&Plan) -> Arc<dyn Lease> + Send + Sync>;

/// Evaluates policies and acts on them, until it is stopped.
pub struct Supervisor {
    engine: Engine,
    ledger: Arc<dyn Ledger>,
    outbox: Outbox,
    supervised: BTreeMap<ComponentId, Supervised>,
    components: Components,
    policies: Vec<Policy>,
    options: Options,
    clock: Arc<dyn Clock>,
    proposals: Option<Arc<dyn Proposals>>,
    reporter: Option<Arc<dyn Reporter>>,
    listener: Option<UnboundedSender<Notification>>,
    lease_of: Option<LeaseOf>,
    /// In milliseconds since 1970; 0 before the first.
    evaluated: AtomicI64,
    /// How many runs go on.
    going: AtomicUsize,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("policies", &self.policies.iter().map(|policy| &policy.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// One that records runs in the engine's journal, and everything else in this ledger, with which the engine works
    /// from now on as well.
    ///
    /// # Errors
    /// `InvalidConfig` for a policy that could not act as it says, such as one of an unknown component.
    pub fn new(
        engine: Engine,
        ledger: Arc<dyn Ledger>,
        outbox: Outbox,
        supervised: Vec<Supervised>,
        policies: Vec<Policy>,
    ) -> Result<Self> {
        let components = supervised.iter().map(|one| one.component.clone()).collect();
        let supervised: BTreeMap<_, _> =
            supervised.into_iter().map(|one| (one.component.id().clone(), one)).collect();
        policy::check(&policies, |component| supervised.contains_key(component))?;
        for policy in policies.iter().filter(|policy| policy.does(Action::Restart)) {
            let can =
                |component: &ComponentId| supervised.get(component).is_some_and(|s| s.restartable.is_some());
            if let Some(other) = policy.trigger.components().iter().find(|component| !can(component)) {
                let message = format!("policy {}: {other} cannot be restarted", policy.name);
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
        }
        Ok(Self {
            engine: engine.with_ledger(ledger.clone()),
            ledger,
            outbox,
            supervised,
            components,
            policies,
            options: Options::default(),
            clock: Arc::new(SystemClock),
            proposals: None,
            reporter: None,
            listener: None,
            lease_of: None,
            evaluated: AtomicI64::new(0),
            going: AtomicUsize::new(0),
        })
    }

    /// Sets how it works.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets where the time comes from, also for the engine and the messages.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.engine = self.engine.with_clock(clock.clone());
        self.outbox = self.outbox.with_clock(clock.clone());
        self.clock = clock;
        self
    }

    /// Sets where plans are kept that people are to decide on.
    #[must_use]
    pub fn with_proposals(mut self, proposals: Arc<dyn Proposals>) -> Self {
        self.proposals = Some(proposals);
        self
    }

    /// Sets what writes incident reports.
    #[must_use]
    pub fn with_reporter(mut self, reporter: Arc<dyn Reporter>) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// Sets who hears, at once, whatever people are told.
    #[must_use]
    pub fn with_listener(mut self, listener: UnboundedSender<Notification>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Sets what makes the lease of a plan, where that depends on the plan; else that of the engine is taken.
    #[must_use]
    pub fn with_lease_of(mut self, lease_of: LeaseOf) -> Self {
        self.lease_of = Some(lease_of);
        self
    }

    /// When a trigger was evaluated last; none before the first time.
    pub fn last_evaluation(&self) -> Option<Timestamp> {
        let at = self.evaluated.load(Ordering::Relaxed);
        (at != 0).then(|| Timestamp::from_unix_millis(at).ok()).flatten()
    }

    /// The longest time between two evaluations of a policy, by which it can be told whether it is alive.
    pub fn longest_interval(&self) -> Duration {
        self.policies.iter().map(|policy| policy.trigger.interval()).max().unwrap_or_default()
    }

    /// Works until it is stopped: first it goes on with what an earlier supervisor began. Stopping it stops its runs
    /// before their next write, and the next supervisor goes on with them.
    ///
    /// # Errors
    /// None while it can work at all: what fails is told to people, and tried again.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        watch::run(self, &stop).await
    }

    /// Tells people of something that is wrong around it, such as a runbook that cannot be used.
    pub async fn trouble(&self, summary: String) {
        let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel();
        tell::Teller { sender, clock: self.clock.clone(), actor: self.options.actor.clone() }
            .trouble(summary);
        if let Some(message) = messages.recv().await {
            self.outbox.send(message).await;
        }
    }

    fn engine_for(&self, plan: &Plan) -> Engine {
        match &self.lease_of {
            Some(lease_of) => self.engine.clone().with_lease(lease_of(plan)),
            None => self.engine.clone(),
        }
    }

    fn supervised(&self, component: &ComponentId) -> Result<&Supervised> {
        self.supervised.get(component).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("{component} is not among the components"))
        })
    }
}

/// What an automatic rollback of a component held back, as its record says, oldest first.
pub fn held_back(record: &Record) -> Vec<HeldBack> {
    observe::standing(record).held_back
}

/// What the trigger of a policy remembers, as its supervisor recorded it last: less than a minute ago while it works.
///
/// # Errors
/// As the ledger answers.
pub async fn memory_of(ledger: &dyn Ledger, policy: &str) -> Result<Memory> {
    Ok(watch::policy_memory(ledger, policy).await?.trigger)
}

/// The component under which the ledger keeps what is remembered of a policy.
fn of_policy(name: &str) -> Option<(Realm, ComponentId)> {
    Some((Realm::new(REALM), ComponentId::named_after("policy", name)?))
}
