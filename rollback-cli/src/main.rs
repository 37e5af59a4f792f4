//! The command `rollback`: parses what is typed, calls the library, prints what it says.

mod aftermath;
mod args;
mod commands;
mod complete;
mod exit;
mod journal;
mod keep;
mod lease;
mod listen;
mod naming;
mod output;
mod parts;
mod place;
mod runbook;
mod session;
mod signals;
#[cfg(test)]
mod testing;

use std::process::ExitCode;

use clap::FromArgMatches as _;
use rollback_core::{Error, ErrorKind};
use tokio::runtime::Runtime;

use args::{Cli, Format};
use exit::{Exit, Failure};
use session::App;

fn main() -> ExitCode {
    complete::answer();
    let parsed = args::command(std::env::args_os().next()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error).into(),
    };
    // The start of a shell is no place for what is wrong with a runbook.
    if let Some(text) = commands::printed(&cli.command) {
        output::print(&text);
        return if output::is_lost() { Exit::Unchanged } else { Exit::Done }.into();
    }
    let format = cli.global.output;
    let exit = match Runtime::new() {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli));
            // A prompt that nobody answered would keep the program alive.
            runtime.shutdown_background();
            exit
        }
        Err(e) => Err(Error::new(ErrorKind::Unexpected, "cannot start").with_source(e).into()),
    };
    let exit = exit.unwrap_or_else(|failure| {
        output::failure(&failure, format);
        failure.exit()
    });
    // Who reads the result has none.
    if exit == Exit::Done && output::is_lost() { Exit::Unchanged } else { exit }.into()
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    let stop = signals::stop()
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot listen for signals").with_source(e))?;
    commands::run(&App::new(cli.global, stop)?, cli.command).await
}

/// Help and version end well; everything else was typed wrongly.
fn usage(error: &clap::Error) -> Exit {
    if error.use_stderr()
        && args::wants_json(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()))
    {
        output::failure(&args::as_failure(error), Format::Json);
    } else {
        let _ = error.print();
    }
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}
