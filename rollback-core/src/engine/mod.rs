//! Carries out plans.
//!
//! For every step: the intent is durable in the journal, then `apply`, durable, then `verify` until the
//! component has settled, durable. Steps with no order between them run side by side. What a run did is
//! told by its journal alone: [`RunReport`] is made from the folded history.

mod execute;
mod holds;
mod recover;
mod report;
mod step;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backon::ExponentialBuilder;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::{
    Cause, Change, Claim, Clock, Components, Entry, Error, ErrorKind, Event, Journal, Judgement, Lease,
    Ledger, Locator, Plan, ProgressSink, Result, Retention, RunId, RunSettings, StepId, SystemClock,
};

pub use report::{RunReport, StepReport};

/// Executes plans and records what it does.
///
/// ```
/// use std::sync::Arc;
/// use rollback_core::{Components, Engine, MemoryJournal, Outcome, Plan, RunOptions};
///
/// # async fn example(plan: Plan, components: Components) -> rollback_core::Result<()> {
/// let engine = Engine::new(Arc::new(MemoryJournal::new()));
/// let report = engine.execute(&plan, &components, RunOptions::by("deploy-bot")).await?;
/// assert_eq!(report.outcome, Outcome::Completed);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    journal: Arc<dyn Journal>,
    lease: Option<Arc<dyn Lease>>,
    ledger: Option<Arc<dyn Ledger>>,
    clock: Arc<dyn Clock>,
    concurrency: usize,
    backoff: ExponentialBuilder,
}

impl Engine {
    /// An engine that records in `journal`, runs at most 8 steps side by side, and repeats a failed
    /// attempt after 0.2 s to 10 s, as long as the run's `apply_timeout` allows.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            lease: None,
            ledger: None,
            clock: Arc::new(SystemClock),
            concurrency: 8,
            backoff: ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(200))
                .with_max_delay(Duration::from_secs(10))
                .without_max_times()
                .with_jitter(),
        }
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes a lease of every component that a run is to change, for as long as it goes on. Without, nothing
    /// but the journal and the precondition of each write keeps two runs apart.
    #[must_use]
    pub fn with_lease(mut self, lease: Arc<dyn Lease>) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Notes in `ledger` what each rollback left and put in place. A ledger that cannot be written does not
    /// fail a run: the report warns of it.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Sets how many steps may run side by side; at least one does.
    #[must_use]
    pub fn with_concurrency(mut self, steps: usize) -> Self {
        self.concurrency = steps.max(1);
        self
    }

    /// Sets the pauses between attempts, and how many there are.
    #[must_use]
    pub fn with_backoff(mut self, backoff: ExponentialBuilder) -> Self {
        self.backoff = backoff;
        self
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// Executes the plan as it is. Dropping the future stops at once, and cancelling stops before the
    /// next write; either way the journal holds what was begun.
    ///
    /// # Errors
    /// Only when nothing was begun: `InvalidConfig` for a component that was not given, `Refused` when
    /// one lives in another realm than planned or is held by another run, or what the journal says to the
    /// start of the run. From then on every failure is part of the report.
    pub async fn execute(
        &self,
        plan: &Plan,
        components: &Components,
        options: RunOptions,
    ) -> Result<RunReport> {
        execute::execute(self, plan, components, options).await
    }

    /// Goes on with an unfinished run, in any process: from its journal and from where its components stand.
    /// What was begun and has no recorded end counts as possibly done; nothing is done twice, and what
    /// somebody else changed since is a conflict. Of the options, the run and its settings are the journal's.
    ///
    /// # Errors
    /// Only when nothing was done: `NotFound` for an unknown run, `Refused` when it has ended, when another
    /// process executes it, when a component lives in another realm or is held by another run, `InvalidConfig`
    /// for a component that was not given.
    pub async fn resume(
        &self,
        run: RunId,
        components: &Components,
        options: RunOptions,
    ) -> Result<RunReport> {
        recover::resume(self, run, components, options).await
    }

    /// Closes an unfinished run as it stands. Nothing is changed back.
    ///
    /// # Errors
    /// `NotFound` for an unknown run, `Refused` when it has ended or another process executes it.
    pub async fn abandon(&self, run: RunId, reason: &str) -> Result<RunReport> {
        recover::abandon(self, run, reason).await
    }

    /// Adds to a run that has ended whether it helped.
    ///
    /// # Errors
    /// `NotFound` for an unknown run, `Journal` when it is unfinished or judged already, or as the journal answers.
    pub async fn judge(&self, run: RunId, judgement: Judgement) -> Result<()> {
        let claim = self.journal.claim(run).await?;
        let entry = Entry { at: self.clock.now(), event: Event::Judged(judgement) };
        let done = self.journal.append(run, entry).await;
        claim.release().await;
        done
    }

    /// Removes from the journal what is not to be kept any more; answers how many runs that were.
    ///
    /// # Errors
    /// As [`Journal::runs`] and [`Journal::forget`].
    pub async fn prune(&self, kept: Retention) -> Result<usize> {
        let expired = kept.expired(&self.journal.runs().await?, self.clock.now());
        if !expired.is_empty() {
            self.journal.forget(&expired).await?;
        }
        Ok(expired.len())
    }
}

/// How a run is to go.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Who or what begins it, for the record.
    pub actor: String,
    /// Why, for the record.
    pub reason: Option<String>,
    /// The id of the run; a new one by default.
    pub run: RunId,
    /// How its steps are carried out. Default: verified, with 5 minutes to apply and 10 to settle.
    pub settings: RunSettings,
    /// Where its components are found again, for whoever resumes it. Default: nowhere.
    pub locators: Vec<Locator>,
    /// By what it is begun, where no human does.
    pub cause: Option<Cause>,
    /// Why leases that others hold, or that cannot be asked for, are not respected: on record in the journal.
    /// Default: they are respected.
    pub break_lease: Option<String>,
    /// Asked before each step begins, such as whether people want it still. Default: nobody.
    pub permit: Option<Arc<dyn StepPermit>>,
    /// Stops the run before its next write.
    pub cancellation: CancellationToken,
    /// Where to tell what happens, as it happens.
    pub progress: Option<UnboundedSender<Progress>>,
}

impl RunOptions {
    /// The defaults, for a run begun by `actor`.
    pub fn by(actor: impl Into<String>) -> Self {
        Self {
            actor: actor.into(),
            reason: None,
            run: RunId::random(),
            settings: RunSettings::default(),
            locators: Vec::new(),
            cause: None,
            break_lease: None,
            permit: None,
            cancellation: CancellationToken::new(),
            progress: None,
        }
    }
}

/// Says whether a step may begin.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait StepPermit: fmt::Debug + Send + Sync {
    /// Asked right before the first write of a step that makes this change, and not once its component has left the
    /// revision where it was.
    ///
    /// # Errors
    /// Why it may not: the step is refused, with nothing written.
    async fn before_step(&self, change: &Change) -> Result<()>;
}

/// What happens during a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// This was recorded.
    Recorded(Entry),
    /// This is what a step does or waits for.
    Note {
        /// Which step.
        step: StepId,
        /// What it says.
        text: String,
    },
}

/// Tells of a step whatever it is told.
fn notes_of(step: &StepId, sender: UnboundedSender<Progress>) -> ProgressSink {
    let step = step.clone();
    Arc::new(move |text| {
        let _ = sender.send(Progress::Note { step: step.clone(), text });
    })
}

/// That the caller asked to stop before anything was done.
fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped before anything was done")
}

/// Takes a run for this process, unless the caller asks to stop.
async fn claim(engine: &Engine, run: RunId, cancellation: &CancellationToken) -> Result<Claim> {
    tokio::select! {
        biased;
        claim = engine.journal.claim(run) => claim,
        () = cancellation.cancelled() => Err(stopped()),
    }
}
