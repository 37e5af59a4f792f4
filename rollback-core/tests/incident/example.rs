//! Incidents to render.
#![allow(dead_code, reason = "not every test uses all of them")]

use std::time::Duration;

use serde_json::Value;

use rollback_core::Timestamp;
use rollback_core::incident::{
    FieldDiff, Fired, FollowUp, HeldBack, Holding, Incident, Moment, Moved, Recovery, Tone,
};
use rollback_core::trigger::Point;

pub(crate) fn at(clock: &str) -> Timestamp {
    format!("2026-11-23T{clock}Z").parse().unwrap()
}

/// An automatic rollback of two components that helped.
pub(crate) fn full() -> Incident {
    Incident {
        run: "0199c0de-7a10-7c3e-9f41-5d2b8e6a1f00".into(),
        title: "deployment/shop/web rolled back from 5 to 4".into(),
        outcome: "Completed".into(),
        automatic: true,
        actor: "supervisor shop-1".into(),
        reason: Some("policy error-rate: 12.4 % of requests fail".into()),
        started_at: at("03:09:02"),
        finished_at: Some(at("03:10:41")),
        recovery: Some(Recovery {
            verdict: "Recovered".into(),
            at: at("03:18:00"),
            message: "0.4 % of requests failed over one whole window after the settle time".into(),
            points: after(),
        }),
        trigger: Some(Fired {
            policy: "error-rate".into(),
            component: "deployment/shop/web".into(),
            summary: "12.41 % is above 5.00 % since 2026-11-23T03:04:00Z".into(),
            since: Some(at("03:04:00")),
            decided_at: at("03:09:00"),
            changed_at: Some(at("02:58:10")),
            value: Some(0.1241),
            limit: Some(0.05),
            instances: vec!["web-6f9c5d7b8-2xk4q".into(), "web-6f9c5d7b8-h7m2n".into()],
            points: before(),
            is_share: true,
        }),
        timeline: timeline(),
        changes: vec![service(), model()],
        held_back: vec![
            HeldBack {
                at: at("03:07:30"),
                policy: "latency-p99".into(),
                component: "deployment/shop/web".into(),
                reason: "the policy alerts only".into(),
            },
            HeldBack {
                at: at("03:09:00"),
                policy: "error-rate".into(),
                component: "deployment/shop/checkout".into(),
                reason: "not changed within 1h00m".into(),
            },
        ],
        holds: vec![Holding {
            component: "deployment/shop/web".into(),
            until: at("05:10:41"),
            by: "supervisor shop-1".into(),
            reason: "cool-down after the rollback".into(),
        }],
        follow_ups: vec![
            FollowUp {
                what: "Find the root cause".into(),
                due: Some("2026-11-25T03:10:41Z".parse().unwrap()),
            },
            FollowUp { what: "Open a pull request with the fix".into(), due: None },
            FollowUp { what: "Redeploy through the normal flow".into(), due: None },
        ],
        notes: vec!["the events of the namespace could not be read: PermissionDenied".into()],
    }
}

fn timeline() -> Vec<Moment> {
    let moment = |clock: &str, what: &str, detail: Option<&str>, tone| Moment {
        at: at(clock),
        what: what.into(),
        detail: detail.map(Into::into),
        tone,
    };
    vec![
        moment(
            "02:58:10",
            "Revision 5 became current",
            Some("registry.example/shop/web:2.4.0, by alice"),
            Tone::Plain,
        ),
        moment("03:04:00", "The breach began", Some("5.3 % of requests fail"), Tone::Warning),
        moment("03:07:30", "Policy latency-p99 fired", Some("p99 is 2.3 times what it was"), Tone::Warning),
        moment("03:09:00", "Policy error-rate fired", Some("12.41 % is above 5.00 %"), Tone::Bad),
        moment("03:09:02", "The run began", None, Tone::Plain),
        moment("03:09:04", "Applied: deployment/shop/web", Some("5 → 4"), Tone::Plain),
        moment(
            "03:10:02",
            "Verified: deployment/shop/web",
            Some("3 of 3 replicas are updated and ready"),
            Tone::Good,
        ),
        moment("03:10:05", "Applied: model/shop-ranker@production", Some("v5 → v4"), Tone::Plain),
        moment("03:10:41", "The run completed", None, Tone::Good),
        moment("03:18:00", "Recovered", Some("0.4 % of requests fail"), Tone::Good),
    ]
}

fn service() -> Moved {
    let field = |path: &str, from: Option<&str>, to: Option<&str>| FieldDiff {
        path: path.into(),
        from: from.map(Into::into),
        to: to.map(Into::into),
    };
    Moved {
        step: "web".into(),
        component: "deployment/shop/web".into(),
        kind: "rollback".into(),
        from: "5".into(),
        to: "4".into(),
        from_summary: "registry.example/shop/web:2.4.0, current since 02:58:10, marked bad".into(),
        to_summary: "registry.example/shop/web:2.3.1, marked good".into(),
        outcome: "Verified".into(),
        attempts: 1,
        message: Some("3 of 3 replicas are updated and ready".into()),
        error: None,
        diff: vec![
            field(
                "/spec/template/spec/containers/0/image",
                Some("registry.example/shop/web:2.4.0"),
                Some("registry.example/shop/web:2.3.1"),
            ),
            field("/spec/template/spec/containers/0/env/CACHE_MODE", Some("write-back"), None),
            field(
                "/spec/template/metadata/annotations/config",
                Some("timeout: 2s\nretries: 5"),
                Some("timeout: 10s\nretries: 1"),
            ),
        ],
        warnings: vec!["the HorizontalPodAutoscaler web keeps 3 replicas; they are left as they are".into()],
    }
}

fn model() -> Moved {
    Moved {
        step: "ranker".into(),
        component: "model/shop-ranker@production".into(),
        kind: "rollback".into(),
        from: "v5".into(),
        to: "v4".into(),
        from_summary: "trained 2026-11-20".into(),
        to_summary: "trained 2026-10-02, marked good".into(),
        outcome: "Verified".into(),
        attempts: 2,
        message: Some("the alias production points to version 4".into()),
        error: None,
        diff: vec![FieldDiff {
            path: "/alias/production".into(),
            from: Some("5".into()),
            to: Some("4".into()),
        }],
        warnings: vec![],
    }
}

fn before() -> Vec<Point> {
    // Ten calm minutes, then a climb.
    wave(at("02:54:00"), 61, |n| if n < 39 { 0.002 } else { (0.052 + 0.0058 * f64::from(n - 39)).min(0.116) })
}

fn after() -> Vec<Point> {
    wave(at("03:09:15"), 36, |n| (0.118 - 0.012 * f64::from(n)).max(0.001))
}

pub(crate) fn wave(start: Timestamp, count: u32, level: impl Fn(u32) -> f64) -> Vec<Point> {
    let noise = |n: u32| f64::from(n * n * 37 % 101) / 12_000.0;
    let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
    (0..count)
        .map(|n| Point {
            at: start.saturating_add(Duration::from_secs(15) * n),
            value: round(level(n) + noise(n)),
        })
        .collect()
}

/// By hand, with nothing around it.
pub(crate) fn bare() -> Incident {
    Incident {
        run: "0199c0de-7a10-7c3e-9f41-5d2b8e6a1f01".into(),
        title: "deployment/shop/web rolled back from 5 to 4".into(),
        outcome: "Completed".into(),
        automatic: false,
        actor: "alice".into(),
        reason: None,
        started_at: at("03:09:02"),
        finished_at: Some(at("03:10:14")),
        recovery: None,
        trigger: None,
        timeline: vec![],
        changes: vec![],
        held_back: vec![],
        holds: vec![],
        follow_ups: vec![],
        notes: vec![],
    }
}

/// A run that failed half-way, with a limit that is no share and a symptom that stayed.
pub(crate) fn failed() -> Incident {
    let mut incident = full();
    incident.outcome = "Stuck".into();
    incident.title = "deployment/shop/web and model/shop-ranker@production are stuck".into();
    if let Some(fired) = &mut incident.trigger {
        fired.is_share = false;
        fired.summary = "latency p99 is 1240 ms, more than twice what it was".into();
        (fired.value, fired.limit) = (Some(1_240.0), Some(500.0));
        fired.points.iter_mut().for_each(|point| point.value *= 10_000.0);
        fired.changed_at = Some(at("01:10:00"));
        fired.since = Some(at("03:08:50"));
    }
    if let Some(recovery) = &mut incident.recovery {
        recovery.verdict = "NotRecovered".into();
        recovery.message = "1180 ms is still above 500 ms".into();
        recovery.points = wave(at("03:13:00"), 20, |_| 0.11);
        recovery.points.iter_mut().for_each(|point| point.value *= 10_000.0);
    }
    incident.changes[1].outcome = "Failed".into();
    incident.changes[1].error = Some("Unavailable: the tracking server does not answer\n  caused by: 503 Service Unavailable\n  caused by: upstream connect error".into());
    incident.changes[1].message = None;
    incident.timeline.truncate(7);
    incident.held_back.clear();
    incident
}

/// A run that goes on, with hardly any metric.
pub(crate) fn unfinished() -> Incident {
    let mut incident = full();
    incident.outcome = "Unfinished".into();
    incident.finished_at = None;
    incident.recovery = None;
    incident.changes[1].outcome = "Pending".into();
    incident
}

pub(crate) const HOSTILE: &str = "<script>alert(1)</script> & \"x\" 'y' | a `b` ``` [c](javascript:alert(2)) ![d](x)\n\n# e\n- f\n</style></svg>\n```\n*g* _h_ ~~i~~ \\| \u{202e}j\u{0}";

/// The full incident with every text replaced.
pub(crate) fn poisoned(by: &str) -> Incident {
    let mut value = serde_json::to_value(full()).unwrap();
    poison(&mut value, by);
    serde_json::from_value(value).unwrap()
}

fn poison(value: &mut Value, by: &str) {
    // Times and tones are no texts.
    let is_text = |text: &str| {
        text.parse::<Timestamp>().is_err() && !["plain", "good", "bad", "warning"].contains(&text)
    };
    match value {
        Value::String(text) if is_text(text) => *text = by.into(),
        Value::Array(values) => values.iter_mut().for_each(|value| poison(value, by)),
        Value::Object(fields) => fields.values_mut().for_each(|value| poison(value, by)),
        _ => {}
    }
}
