//! `rollback status`

use std::time::Duration;

use rollback_core::{Disposition, Error, ErrorKind, Result, Rollbackable, Verification, VerificationState};
use tokio::time::{Instant, sleep};

use crate::args::StatusArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, json, table, told};
use crate::parts::{Servers, Settings};
use crate::session::App;

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) async fn run(app: &App, args: StatusArgs) -> Result<Exit, Failure> {
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
        VerificationState::Failed if args.watch => Ok(Exit::Unchanged),
        _ => Ok(Exit::Done),
    }
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
