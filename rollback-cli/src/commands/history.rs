//! `rollback history`

use rollback_core::{Clock as _, Rollbackable as _, SystemClock};
use rollback_k8s::WorkloadOptions;

use crate::args::HistoryArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, json, table};
use crate::session::{self, App};

pub(crate) async fn run(app: &App, args: HistoryArgs) -> Result<Exit, Failure> {
    let name = app.component(&args.component)?;
    let cluster = app.connect().await?;
    let workload = app.workload(&cluster, &name, WorkloadOptions::default())?;
    session::first_contact(&workload).await?;
    let revisions = workload.history().await?;
    output::result(app.global.output, &json::history(workload.id(), &revisions), || {
        table::history(&revisions, SystemClock.now())
    });
    Ok(Exit::Done)
}
