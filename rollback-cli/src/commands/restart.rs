//! `rollback restart`

use std::sync::Arc;

use rollback_core::{Error, ErrorKind, Planner, RestartScope, Rollbackable as _};
use rollback_k8s::WorkloadOptions;

use super::carry_out::{self, How, Prepared};
use crate::args::RestartArgs;
use crate::exit::{Exit, Failure};
use crate::naming::Kind;
use crate::parts::{Part, Servers, Settings};
use crate::session::App;
use crate::{journal, place};

pub(crate) async fn run(app: &App, args: RestartArgs) -> Result<Exit, Failure> {
    carry_out::refuse_silence(args.run.yes, "restart")?;
    let name = app.component(&args.component)?;
    let not = match name.kind {
        Kind::Workload(_) => None,
        Kind::Environment(_) => Some((
            "an environment is not restarted as a whole",
            "restart its workloads, such as: rollback restart deployment/NAME",
        )),
        Kind::Model(_) => {
            Some(("a model does not run, so it cannot be restarted", "restart the workload that loads it"))
        }
        Kind::Service => Some((
            "an InferenceService is not restarted: its controller takes back what is done to its children",
            "return it to another revision with: rollback undo",
        )),
    };
    if let Some((why, hint)) = not {
        let error = Error::new(ErrorKind::Unsupported, format!("{}: {why}", name.written));
        return Err(error.with_hint(hint).into());
    }
    let kept = journal::open(app).await?;
    let scope = if args.all { RestartScope::All } else { RestartScope::Unready };
    let prepared = app
        .until_stopped(async {
            let servers = Servers::default();
            let part = servers.part(app, &name, &Settings::default()).await?;
            part.first_contact().await?;
            let Part::Workload(workload) = &part else {
                return Err(Error::new(ErrorKind::Unexpected, "only workloads can be restarted").into());
            };
            let planner =
                Planner::new().restart(workload.id().to_string(), Arc::new(workload.clone()), scope, &[]);
            let plan = planner.plan().await?;
            let parts = vec![part];
            let locators = place::locators(app, &servers, &parts, &WorkloadOptions::default())?;
            Ok(Prepared { servers, parts, plan, locators, irreversible: Vec::new() })
        })
        .await?;
    carry_out::run(app, &prepared, &kept, How::of(&args.run).because(args.why)).await
}
