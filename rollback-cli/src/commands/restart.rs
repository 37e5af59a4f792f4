//! `rollback restart`

use std::sync::Arc;

use rollback_core::{Planner, RestartScope, Rollbackable as _};
use rollback_k8s::WorkloadOptions;

use super::carry_out::{self, How, Prepared};
use crate::args::RestartArgs;
use crate::exit::{Exit, Failure};
use crate::session::{self, App};
use crate::{journal, place};

pub(crate) async fn run(app: &App, args: RestartArgs) -> Result<Exit, Failure> {
    carry_out::refuse_silence(args.run.yes, "restart")?;
    let name = app.component(&args.component)?;
    let kept = journal::open(app).await?;
    let scope = if args.all { RestartScope::All } else { RestartScope::Unready };
    let prepared = app
        .until_stopped(async {
            let cluster = app.connect().await?;
            let options = WorkloadOptions::default();
            let workload = app.workload(&cluster, &name, options.clone())?;
            session::first_contact(&workload).await?;
            let planner =
                Planner::new().restart(workload.id().to_string(), Arc::new(workload.clone()), scope, &[]);
            let plan = planner.plan().await?;
            let locators = place::locators(app, &cluster, &plan, &options)?;
            Ok(Prepared { cluster, workloads: vec![workload], plan, locators })
        })
        .await?;
    // Evicting one pod after the other waits for each to be replaced.
    let how = How { apply_timeout: Some(args.run.timeout), ..How::of(&args.run) };
    carry_out::run(app, &prepared, &kept, how).await
}
