//! The stable JSON of every command. Members are only ever added.

use rollback_core::{
    ComponentId, Entry, ErrorReport, Event, Plan, Revision, RunReport, RunSummary, StepReport, Verification,
};
use serde_json::{Value, json};

use super::mask;

pub(crate) fn history(component: &ComponentId, revisions: &[Revision]) -> Value {
    let revision = |revision: &Revision| {
        json!({
            "id": revision.id,
            "current": revision.current,
            "created": revision.created,
            "cause": revision.cause.as_deref().map(mask::text),
            "mark": revision.mark,
            "summary": revision.summary,
        })
    };
    mask::value(&json!({
        "component": component.to_string(),
        "revisions": revisions.iter().map(revision).collect::<Vec<_>>(),
    }))
}

pub(crate) fn plan(plan: &Plan) -> Value {
    let steps = plan.steps().iter().map(|step| {
        json!({
            "id": step.id,
            "component": step.change.component.to_string(),
            "from": step.change.from.id,
            "to": step.change.to.id,
            "noop": step.change.is_noop(),
            "after": step.after,
            "changes": step.change.diff.iter().map(mask::field).collect::<Vec<_>>(),
            "warnings": step.change.warnings.iter().map(|text| mask::text(text)).collect::<Vec<_>>(),
        })
    });
    json!({"digest": plan.digest(), "steps": steps.collect::<Vec<_>>()})
}

/// A run, and the commands that come next.
pub(crate) fn run(report: &RunReport, next: &[String]) -> Value {
    let step = |step: &StepReport| {
        json!({
            "id": step.id,
            "component": step.component.to_string(),
            "from": step.from,
            "to": step.to,
            "outcome": step.outcome,
            "attempts": step.attempts,
            "message": step.message.as_deref().map(mask::text),
            "notes": step.notes,
            "error": step.error.as_ref().map(self::error),
        })
    };
    mask::value(&json!({
        "run": report.run,
        "plan": report.plan,
        "outcome": report.outcome,
        "actor": report.actor,
        "reason": report.reason,
        "startedAt": report.started_at,
        "finishedAt": report.finished_at,
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        "error": report.error.as_ref().map(self::error),
        "warnings": report.warnings,
        "brokenLeases": report.broken_leases,
        "next": next,
    }))
}

/// All runs, newest first.
pub(crate) fn runs(runs: &[RunSummary]) -> Value {
    let run = |run: &RunSummary| {
        json!({
            "run": run.run,
            "outcome": run.outcome,
            "startedAt": run.started_at,
            "finishedAt": run.finished_at,
            "components": run.components.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    runs.iter().map(run).collect()
}

/// An entry of a journal, without the secrets that the templates of its plan may hold.
pub(crate) fn entry(entry: &Entry) -> Value {
    let mut value = mask::value(&json!(entry));
    if let Event::RunStarted { plan, .. } = &entry.event
        && let Some(Value::Array(steps)) = value.pointer_mut("/event/plan/steps")
    {
        for (shown, step) in steps.iter_mut().zip(plan.steps()) {
            if let Some(diff) = shown.pointer_mut("/change/diff") {
                *diff = step.change.diff.iter().map(|field| json!(mask::field(field))).collect();
            }
        }
    }
    value
}

pub(crate) fn status(component: &ComponentId, seen: &Verification) -> Value {
    mask::value(&json!({
        "component": component.to_string(),
        "settled": seen.is_converged(),
        "state": seen.state,
        "message": mask::text(&seen.message),
        "notes": seen.notes,
    }))
}

pub(crate) fn error(error: &ErrorReport) -> Value {
    json!({
        "kind": error.kind,
        "message": mask::text(&error.message),
        "component": error.component.as_ref().map(ToString::to_string),
        "hint": error.hint.as_deref().map(mask::text),
    })
}

#[cfg(test)]
mod tests {
    use rollback_core::{Error, ErrorKind, Fingerprint, Mark, Outcome, RunOptions, StepOutcome};

    use super::*;
    use crate::testing;

    #[test]
    fn a_history() {
        let revisions = [Revision {
            id: "3".into(),
            fingerprint: Fingerprint::of(&json!(3)),
            current: true,
            created: Some(testing::at(0)),
            since: None,
            cause: Some("kubectl set env deploy/web TOKEN=hunter2".into()),
            mark: Some(Mark::Left),
            summary: "nginx:1.27".into(),
        }];
        let expect = json!({
            "component": "deployment/shop/web",
            "revisions": [{
                "id": "3", "current": true, "created": "1970-01-01T00:00:00Z",
                "cause": "kubectl set env deploy/web TOKEN=***", "mark": "left", "summary": "nginx:1.27",
            }],
        });
        assert_eq!(history(&testing::component(), &revisions), expect);
    }

    #[test]
    fn a_plan() {
        let made = testing::plan();
        let expect = json!({
            "digest": made.digest().as_str(),
            "steps": [{
                "id": "web", "component": "deployment/shop/web", "from": "5", "to": "4", "noop": false,
                "after": [],
                "changes": [
                    {
                        "path": "/spec/template/spec/containers/web/image",
                        "from": "web:5", "to": "web:4",
                    },
                    {
                        "path": "/spec/template/spec/containers/web/env/DB_PASSWORD/value",
                        "from": "***", "to": null,
                    },
                ],
                "warnings": ["mind the gap"],
            }],
        });
        assert_eq!(plan(&made), expect);
    }

    #[test]
    fn a_run() {
        let mut report = testing::report(Outcome::Halted, StepOutcome::Failed, true);
        let error = Error::new(ErrorKind::Timeout, "not settled").with_component(&testing::component());
        report.steps[0].error = Some(error.report());
        let expect = json!({
            "run": testing::RUN, "plan": report.plan.as_str(), "outcome": "Halted",
            "actor": "me", "reason": null,
            "startedAt": "1970-01-01T00:00:00Z", "finishedAt": "1970-01-01T00:01:01Z",
            "steps": [{
                "id": "web", "component": "deployment/shop/web", "from": "5", "to": "4",
                "outcome": "Failed", "attempts": 1, "message": null, "notes": [],
                "error": {
                    "kind": "Timeout", "message": "not settled", "component": "deployment/shop/web",
                    "hint": null,
                },
            }],
            "error": null,
            "warnings": [],
            "brokenLeases": [],
            "next": ["rollback status deployment/shop/web --watch"],
        });
        assert_eq!(run(&report, &["rollback status deployment/shop/web --watch".into()]), expect);
    }

    #[test]
    fn the_runs() {
        let summary = RunSummary {
            run: testing::RUN.parse().unwrap(),
            outcome: Outcome::Unfinished,
            started_at: testing::at(0),
            finished_at: None,
            components: vec![testing::component()],
        };
        let expect = json!([{
            "run": testing::RUN, "outcome": "Unfinished", "startedAt": "1970-01-01T00:00:00Z",
            "finishedAt": null, "components": ["deployment/shop/web"],
        }]);
        assert_eq!(runs(&[summary]), expect);
        assert_eq!(runs(&[]), json!([]));
    }

    #[test]
    fn an_entry_holds_no_secret() {
        let event = Event::RunStarted {
            plan: Box::new(testing::plan()),
            actor: "me".into(),
            reason: None,
            settings: RunOptions::by("me").settings,
            cause: None,
            locators: Vec::new(),
        };
        let text = entry(&Entry { at: testing::at(0), event }).to_string();
        assert!(!text.contains("hunter2") && text.contains("web:4") && text.contains("runStarted"), "{text}");
    }

    #[test]
    fn a_status() {
        let expect = json!({
            "component": "deployment/shop/web", "settled": false, "state": "Progressing",
            "message": "1 of 2", "notes": [],
        });
        assert_eq!(status(&testing::component(), &Verification::progressing("1 of 2")), expect);
    }

    #[test]
    fn an_error() {
        let inner = Error::new(ErrorKind::Unavailable, "connection refused");
        let outer = Error::new(ErrorKind::NotFound, "reading web").with_source(inner).with_hint("look");
        let expect = json!({
            "kind": "NotFound", "message": "reading web: connection refused", "component": null,
            "hint": "look",
        });
        assert_eq!(error(&outer.report()), expect);
    }
}
