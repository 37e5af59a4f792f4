//! Plans, events and folders.

use std::path::PathBuf;

use rollback_core::{
    Change, ChangeKind, ComponentId, Disposition, Entry, Error, ErrorKind, Event, FailurePolicy, Fingerprint,
    Locator, Outcome, Plan, Realm, RunId, RunOptions, Snapshot, SqliteJournal, Step, StepEvent, StepId,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct Home(pub(crate) TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("journal.db")
    }

    pub(crate) fn open(&self) -> SqliteJournal {
        SqliteJournal::open(self.path()).unwrap()
    }
}

fn snapshot(id: &str, content: Value) -> Snapshot {
    Snapshot { id: id.into(), fingerprint: Fingerprint::of(&content), summary: format!("web:{id}"), content }
}

/// A plan with a step of its own name for each component.
pub(crate) fn plan_with(names: &[&str], content: &Value) -> Plan {
    let step = |name: &&str| Step {
        id: StepId::new(*name),
        after: Vec::new(),
        change: Change {
            component: ComponentId::new("memory", Some("scope"), name).unwrap(),
            realm: Realm::new("here"),
            kind: ChangeKind::Rollback,
            from: snapshot("v2", json!({"image": "ü\"\n\u{1f980}", "weight": 0.1})),
            to: snapshot("v1", content.clone()),
            identity: Some("uid".into()),
            diff: Vec::new(),
            warnings: vec!["a warning".into()],
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: None,
        },
    };
    Plan::new(names.iter().map(step).collect(), FailurePolicy::Compensate).unwrap()
}

pub(crate) fn entry(event: Event) -> Entry {
    Entry { at: "2026-11-23T03:00:00.123456789Z".parse().unwrap(), event }
}

pub(crate) fn start_of(plan: Plan) -> Entry {
    entry(Event::RunStarted {
        locators: plan
            .components()
            .into_iter()
            .map(|component| Locator { component: component.clone(), entry: json!({"kind": "memory"}) })
            .collect(),
        plan: Box::new(plan),
        cause: None,
        actor: "test".into(),
        reason: Some("it's \"broken\"".into()),
        settings: RunOptions::by("test").settings,
    })
}

pub(crate) fn start(names: &[&str]) -> Entry {
    start_of(plan_with(names, &json!({"image": 1})))
}

pub(crate) fn step(name: &str, event: StepEvent) -> Entry {
    entry(Event::Step { step: StepId::new(name), event })
}

pub(crate) fn started(name: &str, attempt: u32) -> Entry {
    step(name, StepEvent::Started { attempt })
}

pub(crate) fn finished(outcome: Outcome) -> Entry {
    entry(Event::RunFinished { outcome, reason: None })
}

pub(crate) fn id() -> RunId {
    RunId::random()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A clear error: what, where and what to do now.
#[track_caller]
pub(crate) fn assert_told(error: &Error, path: &std::path::Path, text: &str) {
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&*path.to_string_lossy()) && message.contains(text), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("--journal PATH") && hint.contains("--journal memory"), "{error:?}");
    assert_ne!(error.disposition(), Disposition::Indeterminate, "{error:?}");
}
