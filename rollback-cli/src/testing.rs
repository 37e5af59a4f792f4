//! A plan and a report for tests.

use rollback_core::{
    Change, ChangeKind, ComponentId, FailurePolicy, FieldChange, Fingerprint, Outcome, Plan, Realm, RunId,
    RunReport, Snapshot, Step, StepId, StepOutcome, StepReport, Timestamp,
};
use serde_json::json;

pub(crate) const RUN: &str = "01900000-0000-7000-8000-000000000000";

pub(crate) fn component() -> ComponentId {
    ComponentId::new("deployment", Some("shop"), "web").unwrap()
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000).unwrap()
}

fn snapshot(id: &str) -> Snapshot {
    let image = format!("web:{id}");
    let content = json!({"image": image, "env": [{"name": "PASSWORD", "value": "hunter2"}]});
    Snapshot { id: id.into(), fingerprint: Fingerprint::of(&content), summary: image, content }
}

pub(crate) fn change(from: &str, to: &str) -> Change {
    let image = FieldChange {
        path: "/spec/template/spec/containers/web/image".into(),
        from: Some(json!(format!("web:{from}"))),
        to: Some(json!(format!("web:{to}"))),
    };
    let secret = FieldChange {
        path: "/spec/template/spec/containers/web/env/DB_PASSWORD/value".into(),
        from: Some(json!("hunter2")),
        to: None,
    };
    Change {
        component: component(),
        realm: Realm::new("test"),
        kind: ChangeKind::Rollback,
        from: snapshot(from),
        to: snapshot(to),
        identity: Some("uid".into()),
        diff: if from == to { Vec::new() } else { vec![image, secret] },
        warnings: if from == to { Vec::new() } else { vec!["mind the gap".into()] },
        touches: Vec::new(),
        irreversible: None,
        passage: rollback_core::Passage::default(),
        hint: None,
    }
}

pub(crate) fn plan_of(change: Change) -> Plan {
    let step = Step { id: StepId::new("web"), change, after: Vec::new() };
    Plan::new(vec![step], FailurePolicy::Halt).unwrap()
}

pub(crate) fn plan() -> Plan {
    plan_of(change("5", "4"))
}

pub(crate) fn report(outcome: Outcome, step: StepOutcome, changed: bool) -> RunReport {
    RunReport {
        run: RUN.parse::<RunId>().unwrap(),
        plan: plan().digest(),
        outcome,
        actor: "me".into(),
        reason: None,
        started_at: at(0),
        finished_at: (outcome != Outcome::Unfinished).then(|| at(61)),
        steps: vec![StepReport {
            id: StepId::new("web"),
            kind: rollback_core::ChangeKind::Rollback,
            component: component(),
            from: "5".into(),
            to: "4".into(),
            outcome: step,
            changed,
            attempts: 1,
            message: None,
            notes: Vec::new(),
            error: None,
        }],
        error: None,
        broken_leases: Vec::new(),
        warnings: Vec::new(),
    }
}
