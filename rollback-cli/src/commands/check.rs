//! `rollback check`: useful before the incident.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use rollback_core::supervisor::Policy;
use rollback_core::trigger::{Memory, Verdict};
use rollback_core::{
    Alert, Clock as _, Error, ErrorKind, Happening, Notification, Outbox, Rollbackable, SystemClock, Target,
};
use rollback_k8s::{Cluster, Right};
use serde_json::json;

use crate::aftermath::BY_HAND;
use crate::args::CheckArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
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
    let runbook = app.runbook("there is no runbook to check")?;
    let mut checks = vec![Check::of("runbook", Ok(format!("{} can be read", runbook.path().display())))];
    let kept = match journal::known(app).await {
        Ok(kept) => {
            checks.push(Check::of("journal", of_journal(app, &kept).await));
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
    let looks = named
        .iter()
        .map(async |(name, part)| of_component(name, part, servers.cluster(), runbook.restarts(name)).await);
    checks.extend(join_all(looks).await.into_iter().flatten());
    checks.extend(of_policies(runbook, &named).await);
    checks.extend(of_notifiers(runbook, args.notify, kept.as_ref()).await);
    if let Some(incidents) = runbook.incidents() {
        checks.push(Check::of("incidents", writable("reports", &incidents.folder)));
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
        let message = format!("{failed} of {} checks failed", checks.len());
        return Err(Error::new(ErrorKind::Refused, message).into());
    }
    Ok(Exit::Done)
}

/// Whether a file or a folder can be written, or made: nothing is written for that.
fn writable(what: &str, path: &Path) -> rollback_core::Result<String> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let fits = there.is_dir() || there == absolute;
    #[cfg(unix)]
    let may = fits && rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    #[cfg(not(unix))]
    let may = fits;
    if may {
        return Ok(format!("{what} go to {}", path.display()));
    }
    let message = format!("{what} cannot be written to {}: see {}", path.display(), there.display());
    Err(Error::new(ErrorKind::InvalidConfig, message))
}

/// Whether the journal can be read, and written.
async fn of_journal(app: &App, kept: &Kept) -> rollback_core::Result<String> {
    let runs = kept.journal.runs().await?.len();
    if let Some(path) = journal::file(app) {
        writable("runs", &path)?;
    }
    if let Some(namespace) = &kept.namespace {
        let cluster = app.connect().await.map_err(|failure| failure.error)?;
        let of = |group: &'static str, resource: &'static str, verbs: &[&str]| {
            verbs.iter().map(|verb| Right::new(verb, group, resource)).collect::<Vec<_>>()
        };
        let rights = [
            of("rollback.dev", "rollbackruns", &["create", "patch"]),
            of("", "secrets", &["get", "create", "update", "patch"]),
            of("coordination.k8s.io", "leases", &["get", "create", "update"]),
        ];
        missing(&cluster, &rights.concat(), namespace).await?;
    }
    Ok(format!("holds {runs} runs"))
}

/// Refuses where one of these rights is missing.
async fn missing(cluster: &Cluster, rights: &[Right], namespace: &str) -> rollback_core::Result<()> {
    let mut missing = Vec::new();
    for right in rights {
        if !cluster.may(right, namespace).await? {
            missing.push(right.to_string());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("in namespace {namespace} it is not allowed to: {}", missing.join(", "));
    Err(Error::new(ErrorKind::PermissionDenied, message).with_hint("see the roles in rollback-k8s/rbac"))
}

/// Whether a component is there, has something to return to, and may be changed.
async fn of_component(name: &str, part: &Part, cluster: Option<&Cluster>, restarts: bool) -> Vec<Check> {
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
        let is_planned = found.is_ok();
        checks.push(Check::of(format!("{name}: return"), found));
        if is_planned && matches!(part, Part::Environment(_)) {
            // Its plan is a dry run, which takes the same rights as making it so.
            let found =
                Ok("all that an undo takes, as its plan shows; the right to prune is not looked at".into());
            checks.push(Check::of(format!("{name}: rights"), found));
        }
    }
    if let (Some(cluster), Part::Workload(_) | Part::Service(_)) = (cluster, part) {
        checks.push(Check::of(format!("{name}: rights"), may(cluster, part, restarts).await));
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

/// The rights of the roles in `rollback-k8s/rbac` and `rollback-kserve/rbac`.
async fn may(cluster: &Cluster, part: &Part, restarts: bool) -> rollback_core::Result<String> {
    let id = part.id();
    let namespace = id.scope().unwrap_or_default();
    let mut rights: Vec<Right> =
        ["get", "create", "update"].map(|verb| Right::new(verb, "coordination.k8s.io", "leases")).into();
    let objects = format!("{}s", id.kind());
    if let Part::Workload(_) = part {
        rights.extend(["get", "list", "watch", "patch"].map(|verb| Right::new(verb, "apps", &objects)));
        let records = if id.kind() == "deployment" { "replicasets" } else { "controllerrevisions" };
        rights.push(Right::new("list", "apps", records));
        if restarts {
            rights.extend(["get", "list"].map(|verb| Right::new(verb, "", "pods")));
            rights.push(Right::new("create", "", "pods/eviction"));
        }
    } else {
        rights.extend(["get", "patch"].map(|verb| Right::new(verb, "serving.kserve.io", &objects)));
    }
    missing(cluster, &rights, namespace).await?;
    Ok((if restarts { "all that an undo and a restart take" } else { "all that an undo takes" }).into())
}

async fn of_policies(runbook: &Runbook, named: &Named) -> Vec<Check> {
    if !runbook.has_policies() {
        return Vec::new();
    }
    let looks = runbook.each_policy(named).map(async |(name, policy)| {
        let found = match policy {
            Ok(policy) => sees(&policy, named).await,
            Err(error) => Err(error),
        };
        Check::of(format!("policy {name}"), found)
    });
    join_all(looks).await
}

/// What a policy sees right now.
async fn sees(policy: &Policy, named: &Named) -> rollback_core::Result<String> {
    let mut memory = Memory::default();
    tell_changes(policy, named, &mut memory).await;
    let seen = policy.trigger.evaluate(SystemClock.now(), &mut memory).await?;
    let unknown = seen.verdicts.iter().find_map(|(component, verdict)| match verdict {
        Verdict::Unknown(why) => Some(format!("of {component} nothing can be told: {why}")),
        Verdict::Hold | Verdict::Firing(_) => None,
    });
    match (unknown, seen.unproven.values().next()) {
        (Some(why), _) => Err(Error::new(ErrorKind::Unavailable, why)),
        (None, Some(why)) => Ok(format!("looks at {} components; {why}", seen.evaluated)),
        (None, None) => Ok(format!("looks at {} components", seen.evaluated)),
    }
}

/// Tells a trigger when its components changed, as the systems say.
pub(super) async fn tell_changes(policy: &Policy, named: &Named, memory: &mut Memory) {
    for component in policy.trigger.components() {
        let Some(part) = named.values().find(|part| *part.id() == component) else { continue };
        let history = part.component().history().await.unwrap_or_default();
        let since = history.iter().find(|revision| revision.current).and_then(|current| current.since);
        if let Some(since) = since {
            memory.changed(&component, since);
        }
    }
}

async fn of_notifiers(runbook: &Runbook, tell: bool, kept: Option<&Kept>) -> Vec<Check> {
    let notifiers = match runbook.notifiers(kept) {
        Ok(notifiers) => notifiers,
        Err(error) => return vec![Check::of("notify", Err(error))],
    };
    let mut checks = Vec::new();
    for notifier in &notifiers {
        let notes = notifier.check().await;
        let found = notes.map(|notes| {
            if notes.is_empty() {
                "can be used; --notify sends a test message".into()
            } else {
                notes.join("; ")
            }
        });
        checks.push(Check::of(format!("notify {}", notifier.name()), found));
        if tell && checks.last().is_some_and(|check| check.found.is_ok()) {
            // Of its own, so that what waits from elsewhere is no part of it.
            let message = test(runbook);
            let alert = Alert {
                labels: [("alertname", "RollbackTest"), ("severity", "none")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
                annotations: [("summary".to_owned(), message.summary.clone())].into(),
                starts_at: message.at,
                ends_at: message.at.saturating_add(PATIENCE),
            };
            let told = async {
                notifier.alerts(std::slice::from_ref(&alert)).await?;
                notifier.notify(&message, None).await
            };
            let told = tokio::time::timeout(PATIENCE, told).await;
            let told =
                told.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "there was no answer in time")));
            let name = format!("notify {}: test message", notifier.name());
            checks.push(Check::of(name, told.map(|_| "sent".to_owned())));
        }
    }
    if let Some(kept) = kept.filter(|_| !notifiers.is_empty()) {
        let mut waiting = 0;
        for owner in [runbook.name().as_str(), BY_HAND] {
            waiting += Outbox::new(notifiers.clone(), kept.ledger.clone()).of(owner).waiting().await;
        }
        if waiting > 0 {
            let message = format!("{waiting} messages are not delivered yet");
            checks.push(Check::of("notify: outbox", Err(Error::new(ErrorKind::Unavailable, message))));
        }
    }
    checks
}

fn test(runbook: &Runbook) -> Notification {
    let summary = format!("a test of the notifications of the runbook {}", runbook.name());
    let message = Notification::new(SystemClock.now(), Happening::Test, "test", summary);
    Notification { thread: message.id.clone(), actor: Some(session::actor()), ..message }
}
