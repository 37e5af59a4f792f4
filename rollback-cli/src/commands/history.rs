//! `rollback history`

use rollback_core::{Clock as _, Record, Rollbackable as _, SystemClock, join};
use rollback_k8s::{Workload, WorkloadOptions};

use crate::args::HistoryArgs;
use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, json, table};
use crate::session::{self, App};

pub(crate) async fn run(app: &App, args: HistoryArgs) -> Result<Exit, Failure> {
    let name = app.component(&args.component)?;
    let cluster = app.connect().await?;
    let workload = app.workload(&cluster, &name, WorkloadOptions::default())?;
    session::first_contact(&workload).await?;
    let mut revisions = workload.history().await?;
    // A revision is listed also where nothing says what is known of it.
    match record_of(app, &workload).await {
        Ok(record) => revisions = join(revisions, &record),
        Err(failure) => {
            let why = output::told(&failure.error.report().message);
            output::say(&format!("warning: marks are not shown: {why}"));
        }
    }
    output::result(app.global.output, &json::history(workload.id(), &revisions), || {
        table::history(&revisions, SystemClock.now())
    });
    Ok(Exit::Done)
}

async fn record_of(app: &App, workload: &Workload) -> Result<Record, Failure> {
    let kept = journal::known(app).await?;
    Ok(kept.ledger.record(&workload.realm().await?, workload.id()).await?)
}
