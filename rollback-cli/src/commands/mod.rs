//! One file for each command, and what those that change something share.

mod abandon;
mod carry_out;
mod changes;
mod check;
mod history;
mod hold;
mod mark;
mod next;
mod plan;
mod record;
mod report;
mod restart;
mod resume;
mod revert;
mod runs;
mod show;
mod status;
mod undo;
mod watch;

use rollback_k8s::CUSTOM_RESOURCE_DEFINITION;

use crate::args::Command;
use crate::complete;
use crate::exit::{Exit, Failure};
use crate::session::App;

pub(crate) use carry_out::Prepared;
pub(crate) use next::Way;

pub(crate) async fn run(app: &App, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::History(args) => app.until_stopped(history::run(app, args)).await,
        Command::Plan(args) => app.until_stopped(plan::run(app, args)).await,
        Command::Undo(args) => undo::run(app, args).await,
        Command::Status(args) => app.until_stopped(status::run(app, args)).await,
        Command::Restart(args) => restart::run(app, args).await,
        Command::Revert(args) => revert::run(app, args).await,
        Command::Runs => app.until_stopped(runs::run(app)).await,
        Command::Show(args) => app.until_stopped(show::run(app, args)).await,
        Command::Resume(args) => resume::run(app, args).await,
        Command::Abandon(args) => abandon::run(app, args).await,
        Command::Mark(args) => app.until_stopped(mark::run(app, args)).await,
        Command::Record(args) => app.until_stopped(record::run(app, args)).await,
        Command::Watch(args) => watch::run(app, args).await,
        Command::Changes(args) => app.until_stopped(changes::run(app, args)).await,
        Command::Hold(args) => app.until_stopped(hold::hold(app, args)).await,
        Command::Unhold(args) => app.until_stopped(hold::unhold(app, args)).await,
        Command::Holds => app.until_stopped(hold::holds(app)).await,
        Command::Report(args) => app.until_stopped(report::run(app, args)).await,
        Command::Check(args) => app.until_stopped(check::run(app, args)).await,
        // Printed before there is an app.
        Command::Crd | Command::Schema | Command::Completions { .. } => Ok(Exit::Done),
    }
}

/// What commands print that look at nothing.
pub(crate) fn printed(command: &Command) -> Option<String> {
    match command {
        Command::Crd => Some(CUSTOM_RESOURCE_DEFINITION.to_owned()),
        Command::Schema => Some(format!("{:#}\n", crate::runbook::schema())),
        Command::Completions { shell } => Some(complete::script(*shell, "rollback")),
        _ => None,
    }
}
