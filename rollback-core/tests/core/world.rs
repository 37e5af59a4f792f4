//! Components of two parts and three revisions, an engine, and a journal that can be listened to.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rollback_core::{
    Change, Claim, ComponentId, Components, Engine, Entry, ErrorKind, Event, FailurePolicy, Journal,
    MemoryJournal, Outcome, Plan, Planner, Position, Realm, Result, Revision, Rollbackable, RunId,
    RunOptions, RunReport, RunSettings, RunState, RunSummary, StepContext, StepEvent, StepId, StepOutcome,
    StepReport, Target, TokioClock, Verification,
};
use rollback_testkit::MemoryComponent;
use serde_json::{Value, json};

/// A return to an older revision takes this many writes.
pub(crate) const WRITES: u64 = 2;

pub(crate) fn parts(version: u32) -> Value {
    json!({"image": version, "limit": version})
}

pub(crate) fn component(name: &str) -> MemoryComponent {
    let component = MemoryComponent::new(ComponentId::new("memory", None, name).unwrap());
    for version in 1..=3 {
        component.deploy(&format!("v{version}"), &parts(version));
    }
    component
}

pub(crate) fn engine(journal: Arc<dyn Journal>) -> Engine {
    let clock = TokioClock::starting_at("2026-11-23T03:00:00Z".parse().unwrap());
    Engine::new(journal).with_clock(Arc::new(clock))
}

/// Each component returns to its previous revision, in a step of its own name, after the named ones.
pub(crate) async fn plan(policy: FailurePolicy, steps: &[(&MemoryComponent, &[&str])]) -> Plan {
    let mut planner = Planner::new().on_failure(policy);
    for (component, after) in steps {
        let arc = Arc::new((*component).clone());
        planner = planner.rollback(component.id().name(), arc, Target::Previous, after);
    }
    planner.plan().await.unwrap()
}

pub(crate) fn components(all: &[&MemoryComponent]) -> Components {
    all.iter().map(|&component| Arc::new(component.clone()) as Arc<dyn Rollbackable>).collect()
}

pub(crate) fn options() -> RunOptions {
    RunOptions::by("test")
}

pub(crate) fn options_with(set: impl FnOnce(&mut RunSettings)) -> RunOptions {
    let mut options = options();
    set(&mut options.settings);
    options
}

/// A run with a fresh journal, whose history then tells the same as the report.
pub(crate) async fn run(
    plan: &Plan,
    all: &[&MemoryComponent],
    options: RunOptions,
) -> (RunReport, Vec<Entry>) {
    let journal = Arc::new(MemoryJournal::new());
    let report = engine(journal.clone()).execute(plan, &components(all), options).await.unwrap();
    let entries = journal.entries(report.run).await.unwrap();
    assert_retold(&report, &entries);
    (report, entries)
}

pub(crate) fn assert_retold(report: &RunReport, entries: &[Entry]) {
    let retold = RunReport::new(report.run, &RunState::replay(entries).unwrap());
    assert_eq!(retold, RunReport { error: None, ..report.clone() }, "the journal and the report differ");
    assert_eq!(report.error.is_some(), report.outcome == Outcome::Unfinished, "{report:?}");
}

pub(crate) fn step<'a>(report: &'a RunReport, id: &str) -> &'a StepReport {
    report.steps.iter().find(|step| step.id.as_str() == id).unwrap()
}

pub(crate) fn outcomes(report: &RunReport) -> Vec<(&str, StepOutcome)> {
    report.steps.iter().map(|step| (step.id.as_str(), step.outcome)).collect()
}

#[track_caller]
pub(crate) fn assert_error(step: &StepReport, kind: ErrorKind, text: &str) {
    let error = step.error.as_ref().unwrap();
    assert_eq!(error.kind, kind, "{error:?}");
    assert!(error.message.contains(text), "{error:?}");
    assert_eq!(error.component.as_ref(), Some(&step.component), "{error:?}");
}

/// The steps of which such an event is recorded, in order.
pub(crate) fn recorded<'a>(entries: &'a [Entry], wanted: impl Fn(&StepEvent) -> bool) -> Vec<&'a str> {
    let step = |entry: &'a Entry| match &entry.event {
        Event::Step { step, event } if wanted(event) => Some(step.as_str()),
        _ => None,
    };
    entries.iter().filter_map(step).collect()
}

pub(crate) fn id(name: &str) -> StepId {
    StepId::new(name)
}

type Hook = Box<dyn Fn(usize, &Entry) -> Result<()> + Send + Sync>;

/// A journal in memory that asks before it records: with the number of the entry, from 0.
pub(crate) struct Listening {
    pub(crate) inner: MemoryJournal,
    count: AtomicUsize,
    hook: Hook,
}

impl Listening {
    pub(crate) fn new(hook: impl Fn(usize, &Entry) -> Result<()> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { inner: MemoryJournal::new(), count: AtomicUsize::new(0), hook: Box::new(hook) })
    }

    fn ask(&self, entry: &Entry) -> Result<()> {
        (self.hook)(self.count.fetch_add(1, Ordering::SeqCst), entry)
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Journal for Listening {
    async fn begin(&self, run: RunId, entry: Entry) -> Result<()> {
        self.ask(&entry)?;
        self.inner.begin(run, entry).await
    }

    async fn append(&self, run: RunId, entry: Entry) -> Result<()> {
        tokio::task::yield_now().await;
        self.ask(&entry)?;
        self.inner.append(run, entry).await?;
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn entries(&self, run: RunId) -> Result<Vec<Entry>> {
        self.inner.entries(run).await
    }

    async fn runs(&self) -> Result<Vec<RunSummary>> {
        self.inner.runs().await
    }

    async fn claim(&self, run: RunId) -> Result<Claim> {
        self.inner.claim(run).await
    }

    async fn forget(&self, runs: &[RunId]) -> Result<()> {
        self.inner.forget(runs).await
    }
}

/// Notes in which order the engine calls a component.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: MemoryComponent,
    calls: Mutex<Vec<&'static str>>,
}

impl Watched {
    pub(crate) fn new(inner: &MemoryComponent) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), calls: Mutex::default() })
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl Rollbackable for Watched {
    fn id(&self) -> &ComponentId {
        self.inner.id()
    }

    async fn realm(&self) -> Result<Realm> {
        self.inner.realm().await
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        self.inner.history().await
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        self.inner.prepare(target).await
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.note("locate");
        self.inner.locate(change).await
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        self.note("apply");
        self.inner.apply(cx, change).await
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        self.note("verify");
        self.inner.verify(cx, change).await
    }

    async fn status(&self) -> Result<Verification> {
        self.inner.status().await
    }
}
