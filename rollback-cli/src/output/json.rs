//! The stable JSON of every command. Members are only ever added.

use rollback_core::{ComponentId, ErrorReport, Plan, Revision, RunReport, StepReport, Verification};
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
    json!({
        "component": component.to_string(),
        "revisions": revisions.iter().map(revision).collect::<Vec<_>>(),
    })
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
            "warnings": step.change.warnings,
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
    json!({
        "run": report.run,
        "plan": report.plan,
        "outcome": report.outcome,
        "startedAt": report.started_at,
        "finishedAt": report.finished_at,
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        "error": report.error.as_ref().map(self::error),
        "next": next,
    })
}

pub(crate) fn status(component: &ComponentId, seen: &Verification) -> Value {
    json!({
        "component": component.to_string(),
        "settled": seen.is_converged(),
        "state": seen.state,
        "message": mask::text(&seen.message),
        "notes": seen.notes,
    })
}

pub(crate) fn error(error: &ErrorReport) -> Value {
    json!({
        "kind": error.kind,
        "message": mask::text(&error.message),
        "component": error.component.as_ref().map(ToString::to_string),
        "hint": error.hint,
    })
}

#[cfg(test)]
mod tests {
    use rollback_core::{Error, ErrorKind, Fingerprint, Mark, Outcome, StepOutcome};

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
            "next": ["rollback status deployment/shop/web --watch"],
        });
        assert_eq!(run(&report, &["rollback status deployment/shop/web --watch".into()]), expect);
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
