//! Ends what the testbed started, in whatever way the test process ends.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Runs the lines it is sent. Its standard input is a pipe that only the test process holds open, so
/// it ends when that process is gone, be it by SIGKILL, which no handler in the process could see.
const SCRIPT: &str = r#"
pids=
groups=
at_end=:
while read -r line; do eval "$line"; done
[ -z "$pids" ] || kill -KILL $pids
for group in $groups; do kill -s KILL -- "-$group"; done
wait
eval "$at_end"
[ -z "$ROLLBACK_TEST_LOGS" ] || { mkdir -p "$ROLLBACK_TEST_LOGS" && cp "$1"/*.log "$ROLLBACK_TEST_LOGS"; }
rm -rf "$1"
"#;

/// A shell beside the test process that owns the servers and the temporary folder.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Mutex<Child>,
}

impl Keeper {
    /// Starts the keeper of a folder, which it removes at the end.
    pub(crate) fn start(dir: &Path) -> Self {
        let log = std::fs::File::create(dir.join("keeper.log")).expect("create the keeper's log");
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "rollback-testbed-keeper"])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            // An inherited stdout would keep `cargo test | less` open until the keeper is done.
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C goes to the foreground group: it must end the tests, not their keeper.
            .process_group(0)
            .spawn()
            .expect("start sh");
        Self { child: Mutex::new(child) }
    }

    /// Starts a server that ends with the test process.
    pub(crate) fn run(&self, program: &Path, args: &[String], log: &Path) {
        let mut line = quote(&program.to_string_lossy());
        for arg in args {
            write!(line, " {}", quote(arg)).expect("write to a string");
        }
        write!(line, r#" </dev/null >{} 2>&1 & pids="$pids $!""#, quote(&log.to_string_lossy()))
            .expect("write to a string");
        self.send(&line);
    }

    /// Ends a process with its group when the test process has ended.
    pub(crate) fn adopt_group(&self, leader: u32) {
        self.send(&format!(r#"groups="$groups {leader}""#));
    }

    /// Has a command run when the test process has ended.
    pub(crate) fn at_end(&self, command: &str) {
        self.send(&format!("at_end={}", quote(command)));
    }

    fn send(&self, line: &str) {
        let mut child = self.child.lock().expect("keeper lock");
        let pipe = child.stdin.as_mut().expect("the keeper's stdin is a pipe");
        writeln!(pipe, "{line}").expect("write to the keeper");
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_was_adopted_ends_with_the_keeper() {
        let dir = tempfile::tempdir().unwrap().keep();
        let keeper = Keeper::start(&dir);
        let mut group = Command::new("sh").args(["-c", "sleep 600; :"]).process_group(0).spawn().unwrap();
        keeper.adopt_group(group.id());
        let Keeper { child } = keeper;
        let mut child = child.into_inner().unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let ended = group.try_wait().unwrap();
        let _ = group.kill();
        assert!(ended.is_some() && !dir.exists(), "{ended:?}");
    }
}
