//! `rollback history`

use std::sync::Arc;

use rollback_core::{Clock as _, Ledger, Record, Rollbackable, SystemClock, join};

use crate::args::HistoryArgs;
use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, json, table};
use crate::parts::{Servers, Settings};
use crate::session::App;

pub(crate) async fn run(app: &App, args: HistoryArgs) -> Result<Exit, Failure> {
    let name = app.component(&args.component)?;
    let mut part = Servers::default().part(app, &name, &Settings::default()).await?;
    part.first_contact().await?;
    // A revision is listed also where nothing says what is known of it.
    let known = known(app, &*part.component()).await;
    if let Ok((ledger, _)) = &known {
        part = part.knowing(ledger);
    }
    if let Some(followed) = app.runbook.as_ref().and_then(|runbook| runbook.followed_by(&name.written)) {
        part = part.following(&Servers::default().part(app, followed, &Settings::default()).await?);
    }
    let component = part.component();
    let mut revisions = component.history().await?;
    match known {
        Ok((_, record)) => revisions = join(revisions, &record),
        Err(failure) => {
            let why = output::told(&failure.error.report().message);
            output::say(&format!("warning: marks are not shown: {why}"));
        }
    }
    output::result(app.global.output, &json::history(component.id(), &revisions), || {
        table::history(&revisions, SystemClock.now())
    });
    Ok(Exit::Done)
}

async fn known(app: &App, component: &dyn Rollbackable) -> Result<(Arc<dyn Ledger>, Record), Failure> {
    let kept = journal::known(app).await?;
    let record = kept.ledger.record(&component.realm().await?, component.id()).await?;
    Ok((kept.ledger.clone(), record))
}
