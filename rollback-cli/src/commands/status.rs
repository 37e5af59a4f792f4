//! `rollback status`

use std::time::Duration;

use futures::future::join_all;
use rollback_core::{
    ComponentId, Disposition, Error, ErrorKind, Result, Rollbackable, Verification, VerificationState,
};
use tokio::time::{Instant, sleep};

use crate::args::StatusArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, json, table, told};
use crate::parts::{Servers, Settings, is_of_setup};
use crate::session::App;

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) async fn run(app: &App, args: StatusArgs) -> Result<Exit, Failure> {
    if args.component.is_empty() {
        return all(app, &args).await;
    }
    let name = app.component(&args.component)?;
    let part = Servers::default().part(app, &name, &Settings::default()).await?;
    part.first_contact().await?;
    let component = part.component();
    let seen = if args.watch {
        let tell = |text: &str| {
            if !app.global.quiet {
                output::say(&told(text));
            }
        };
        watch(&*component, args.timeout.unwrap_or(DEFAULT_TIMEOUT), tell).await?
    } else {
        component.status().await?
    };
    output::result(app.global.output, &json::status(component.id(), &seen), || table::status(&seen));
    match seen.state {
        VerificationState::Progressing if args.watch => {
            let error = Error::new(ErrorKind::Timeout, format!("not settled in time: {}", seen.message));
            Err(error.with_component(component.id()).into())
        }
        VerificationState::Failed if args.watch => {
            Err(failed(&seen.message).with_component(component.id()).into())
        }
        _ => Ok(Exit::Done),
    }
}

/// All components of the runbook, side by side.
async fn all(app: &App, args: &StatusArgs) -> Result<Exit, Failure> {
    let runbook = app.runbook("no component is named, and there is no runbook to look at all of")?;
    let servers = Servers::default();
    let mut parts = Vec::new();
    for component in runbook.all() {
        parts.push(servers.part(app, component, &Settings::default()).await?);
    }
    let looks = parts.iter().map(async |part| {
        let component = part.component();
        let seen = if args.watch {
            let tell = |text: &str| {
                if !app.global.quiet {
                    output::say(&format!("{}: {}", part.id(), told(text)));
                }
            };
            watch(&*component, args.timeout.unwrap_or(DEFAULT_TIMEOUT), tell).await
        } else {
            component.status().await
        };
        (part.id().clone(), seen)
    });
    let looks = join_all(looks).await;
    // Where nothing can be reached there is no answer either.
    let all_away = looks.iter().all(|(_, seen)| seen.as_ref().is_err_and(is_of_setup));
    let mut seen = Vec::new();
    for (id, look) in looks {
        seen.push(match look {
            Err(error) if all_away => return Err(Failure::setup(error.with_component(&id))),
            Err(error) => (id, Verification::failed(format!("cannot be seen: {}", error.report()))),
            Ok(look) => (id, look),
        });
    }
    let value: Vec<_> = seen.iter().map(|(component, seen)| json::status(component, seen)).collect();
    output::result(app.global.output, &serde_json::Value::from(value), || {
        let row = |(component, seen): &(ComponentId, Verification)| {
            [component.to_string(), format!("{:?}", seen.state), told(&seen.message)]
        };
        table::columns(["COMPONENT", "STATE", "MESSAGE"], seen.iter().map(row))
    });
    match seen.iter().find(|(_, seen)| !seen.is_converged()) {
        Some((id, seen)) if args.watch => Err(failed(&seen.message).with_component(id).into()),
        _ => Ok(Exit::Done),
    }
}

/// What was watched is not as it should be.
fn failed(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("it has not settled: {message}"))
}

/// Looks until the component has settled or failed, or the time is up.
async fn watch(component: &dyn Rollbackable, timeout: Duration, tell: impl Fn(&str)) -> Result<Verification> {
    let deadline = Instant::now() + timeout;
    let mut last = String::new();
    loop {
        let (text, late) = match component.status().await {
            Ok(seen) if seen.state != VerificationState::Progressing => return Ok(seen),
            Ok(seen) => (seen.message.clone(), Ok(seen)),
            Err(e) if matches!(e.disposition(), Disposition::Permanent | Disposition::Stuck) => {
                return Err(e);
            }
            // A server that restarts is no news of the component.
            Err(e) => (format!("cannot see it, looking again: {}", e.report()), Err(e)),
        };
        if Instant::now() + LOOK_AGAIN >= deadline {
            return late;
        }
        if text != last {
            tell(&text);
            last = text;
        }
        sleep(LOOK_AGAIN).await;
    }
}
