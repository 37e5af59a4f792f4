//! `rollback check`: useful before the incident.

use std::time::Duration;

use futures::future::join_all;
use rollback_core::trigger::{Memory, Verdict};
use rollback_core::{
    Clock as _, Error, ErrorKind, Happening, Notification, Outbox, Rollbackable, RunId, SystemClock, Target,
};
use rollback_k8s::{Cluster, Right};
use serde_json::json;

use crate::args::CheckArgs;
use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, table, told};
use crate::parts::{Part, Servers, Settings};
use crate::runbook::{Named, Runbook};
use crate::session::{self, App};

/// How long a test message may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thing that was looked at.
struct Check {
    what: String,
    /// What to know, or what is wrong.
    found: Result<String, String>,
}

impl Check {
    fn of(what: impl Into<String>, found: Result<String, Error>) -> Self {
        let found = found.map_err(|error| {
            let report = error.report();
            match report.hint {
                Some(hint) => format!("{}; {hint}", report.message),
                None => report.message,
            }
        });
        Self { what: what.into(), found }
    }
}

pub(crate) async fn run(app: &App, args: CheckArgs) -> Result<Exit, Failure> {
    let Some(runbook) = &app.runbook else {
        return Err(app.broken.as_ref().map_or_else(
            || session::usage("there is no runbook to check: name one with -f"),
            |broken| session::usage(broken.report().message),
        ));
    };
    let mut checks = vec![Check::of("runbook", Ok(format!("{} can be read", runbook.path().display())))];
    let kept = match journal::lasting(app).await {
        Ok(kept) => {
            let runs = kept.journal.runs().await;
            checks.push(Check::of("journal", runs.map(|runs| format!("holds {} runs", runs.len()))));
            Some(kept)
        }
        Err(failure) => {
            checks.push(Check::of("journal", Err(failure.error)));
            None
        }
    };
    let servers = Servers::default();
    let settings = kept.as_ref().map(|kept| Settings::knowing(&kept.ledger)).unwrap_or_default();
    let mut named = Named::new();
    for component in runbook.all() {
        match servers.part(app, component, &settings).await {
            Ok(part) => {
                named.insert(component.written.clone(), part);
            }
            Err(failure) => checks.push(Check::of(&component.written, Err(failure.error))),
        }
    }
    let looks = named.iter().map(async |(name, part)| of_component(name, part, servers.cluster()).await);
    checks.extend(join_all(looks).await.into_iter().flatten());
    checks.extend(of_policies(runbook, &named).await);
    checks.extend(of_notifiers(runbook, args.notify, kept.as_ref()).await);
    if let Some(incidents) = runbook.incidents() {
        let folder = &incidents.folder;
        let made = std::fs::create_dir_all(folder).and_then(|()| {
            let probe = folder.join(format!(".check-{}", std::process::id()));
            std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe))
        });
        let made = made.map(|()| format!("reports go to {}", folder.display())).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("cannot write to {}", folder.display()))
                .with_source(e)
        });
        checks.push(Check::of("incidents", made));
    }
    let failed = checks.iter().filter(|check| check.found.is_err()).count();
    let value: Vec<_> = checks
        .iter()
        .map(|check| {
            let (Ok(text) | Err(text)) = &check.found;
            json!({"check": check.what, "ok": check.found.is_ok(), "message": output::mask::text(text)})
        })
        .collect();
    output::result(app.global.output, &json!(value), || {
        let row = |check: &Check| {
            let (word, text) = match &check.found {
                Ok(text) => ("ok", text),
                Err(text) => ("FAILED", text),
            };
            [word.to_owned(), told(&check.what), told(text)]
        };
        table::columns(["", "CHECK", "FOUND"], checks.iter().map(row))
    });
    if failed > 0 {
        output::say(&format!("{failed} of {} checks failed", checks.len()));
        return Ok(Exit::Unchanged);
    }
    Ok(Exit::Done)
}

/// Whether a component is there, has something to return to, and may be changed.
async fn of_component(name: &str, part: &Part, cluster: Option<&Cluster>) -> Vec<Check> {
    let component = part.component();
    let history = component.history().await.map(|history| {
        let current = history.iter().find(|revision| revision.current);
        let current =
            current.map_or_else(|| "none in place".to_owned(), |current| format!("{} in place", current.id));
        format!("{} revisions, {current}", history.len())
    });
    let is_there = history.is_ok();
    let mut checks = vec![Check::of(name, history)];
    if is_there {
        let found = returns(&*component).await;
        checks.push(Check::of(format!("{name}: return"), found));
    }
    if let (Some(cluster), Part::Workload(_) | Part::Service(_)) = (cluster, part) {
        checks.push(Check::of(format!("{name}: rights"), may(cluster, part).await));
    }
    checks
}

/// What an undo would return to.
async fn returns(component: &dyn Rollbackable) -> rollback_core::Result<String> {
    let changes = component.prepare(&Target::Previous).await?;
    let warnings: usize = changes.iter().map(|change| change.warnings.len()).sum();
    let to = changes.last().map(|change| change.to.id.clone()).unwrap_or_default();
    Ok(match warnings {
        0 => format!("an undo would return to {to}"),
        count => format!("an undo would return to {to}, with {count} warnings: see rollback plan"),
    })
}

async fn may(cluster: &Cluster, part: &Part) -> rollback_core::Result<String> {
    let id = part.id();
    let namespace = id.scope().unwrap_or_default();
    let rights = match part {
        Part::Workload(_) => vec![
            Right::new("get", "apps", &format!("{}s", id.kind())),
            Right::new("patch", "apps", &format!("{}s", id.kind())),
            Right::new("list", "apps", "replicasets"),
            Right::new("list", "", "pods"),
            Right::new("create", "", "pods/eviction"),
            Right::new("create", "coordination.k8s.io", "leases"),
        ],
        _ => vec![
            Right::new("get", "serving.kserve.io", "inferenceservices"),
            Right::new("patch", "serving.kserve.io", "inferenceservices"),
            Right::new("create", "coordination.k8s.io", "leases"),
        ],
    };
    let mut missing = Vec::new();
    for right in &rights {
        if !cluster.may(right, namespace).await? {
            missing.push(right.to_string());
        }
    }
    if missing.is_empty() {
        return Ok("all that an undo and a restart take".into());
    }
    let message = format!("in namespace {namespace} it is not allowed to: {}", missing.join(", "));
    Err(Error::new(ErrorKind::PermissionDenied, message).with_hint("see the roles in rollback-k8s/rbac"))
}

async fn of_policies(runbook: &Runbook, named: &Named) -> Vec<Check> {
    if !runbook.has_policies() {
        return Vec::new();
    }
    let policies = match runbook.policies(named) {
        Ok(policies) => policies,
        Err(error) => return vec![Check::of("policies", Err(error))],
    };
    let looks = policies.iter().map(async |policy| {
        let mut memory = Memory::default();
        let seen = policy.trigger.evaluate(SystemClock.now(), &mut memory).await;
        let found = seen.and_then(|seen| {
            let unknown = seen.verdicts.iter().find_map(|(component, verdict)| match verdict {
                Verdict::Unknown(why) => Some(format!("of {component} nothing can be told: {why}")),
                Verdict::Hold | Verdict::Firing(_) => None,
            });
            match unknown {
                Some(why) => Err(Error::new(ErrorKind::Unavailable, why)),
                None => Ok(format!("looks at {} components", seen.evaluated)),
            }
        });
        Check::of(format!("policy {}", policy.name), found)
    });
    join_all(looks).await
}

async fn of_notifiers(runbook: &Runbook, tell: bool, kept: Option<&crate::journal::Kept>) -> Vec<Check> {
    let notifiers = match runbook.notifiers() {
        Ok(notifiers) => notifiers,
        Err(error) => return vec![Check::of("notify", Err(error))],
    };
    let mut checks = Vec::new();
    for notifier in &notifiers {
        let notes = notifier.check().await;
        let found = notes.map(|notes| if notes.is_empty() { "answers".into() } else { notes.join("; ") });
        checks.push(Check::of(format!("notify {}", notifier.name()), found));
        if tell && checks.last().is_some_and(|check| check.found.is_ok()) {
            // Of its own, so that what waits from elsewhere is no part of it.
            let message = test(runbook);
            let told = tokio::time::timeout(PATIENCE, notifier.notify(&message, None)).await;
            let told =
                told.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "there was no answer in time")));
            let name = format!("notify {}: test message", notifier.name());
            checks.push(Check::of(name, told.map(|_| "sent".to_owned())));
        }
    }
    if let Some(kept) = kept.filter(|_| !notifiers.is_empty()) {
        let waiting = Outbox::new(notifiers, kept.ledger.clone()).waiting().await;
        if waiting > 0 {
            let message = format!("{waiting} messages are not delivered yet");
            checks.push(Check::of("notify: outbox", Err(Error::new(ErrorKind::Unavailable, message))));
        }
    }
    checks
}

fn test(runbook: &Runbook) -> Notification {
    let id = RunId::random().to_string();
    Notification {
        id: id.clone(),
        at: SystemClock.now(),
        event: Happening::Test,
        thread: id,
        summary: format!("a test of the notifications of the runbook {}", runbook.name()),
        details: Vec::new(),
        policy: None,
        components: Vec::new(),
        moves: Vec::new(),
        run: None,
        actor: Some(session::actor()),
        next: Vec::new(),
        report: None,
    }
}
