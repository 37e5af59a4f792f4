//! Makes `kubectl rollback` of `rollback`: kubectl calls a program of this name.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // The one that was installed with it, else whichever is found.
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("rollback"));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| "rollback".into());
    let mut command = Command::new(&program);
    command.args(std::env::args_os().skip(1));
    let failed = run(command);
    eprintln!("error: cannot run {}: {failed}", program.display());
    ExitCode::from(2)
}

/// Becomes the other program; comes back only where that fails.
#[cfg(unix)]
fn run(mut command: Command) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    command.arg0("kubectl-rollback").exec()
}

#[cfg(not(unix))]
fn run(mut command: Command) -> std::io::Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}
