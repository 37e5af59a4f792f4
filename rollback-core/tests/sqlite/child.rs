//! Other processes: this program again, told what to do by its environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rollback_core::{Journal, RunId, SqliteJournal};

use crate::world::{block_on, id, start, started};
use crate::{file, full};

const TASK: &str = "ROLLBACK_TEST_TASK";
const JOURNAL: &str = "ROLLBACK_TEST_JOURNAL";
const RUN: &str = "ROLLBACK_TEST_RUN";

/// What makes `program` do `task` with the journal at `path`.
pub(crate) fn prepare(command: &mut Command, task: &str, path: &Path) {
    command.args(["--exact", "child::does_what_the_environment_says", "--nocapture"]);
    command.env(TASK, task).env(JOURNAL, path).stdout(Stdio::piped());
}

pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(task: &str, path: &Path, run: RunId) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        prepare(&mut command, task, path);
        let mut child = command.env(RUN, run.to_string()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// What follows `word` on the next line that begins with it.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the process ended without saying {word}");
    }

    /// Kills it with SIGKILL; what it said until then, from whole lines alone.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        whole.lines().map(ToOwned::to_owned).collect()
    }

    pub(crate) fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

/// Says it on a line of its own, whatever the test harness writes between.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

#[test]
fn does_what_the_environment_says() {
    let Ok(task) = std::env::var(TASK) else { return };
    let path = std::env::var_os(JOURNAL).unwrap();
    let path = Path::new(&path);
    let run = std::env::var(RUN).ok().map(|run| RunId::from_str(&run).unwrap());
    match task.as_str() {
        "denied" => return file::is_denied(path),
        "full" => return full::fills_up(path),
        _ => {}
    }
    let run = run.unwrap();
    let journal = SqliteJournal::open(path).unwrap();
    block_on(async {
        match task.as_str() {
            "append" => {
                journal.begin(run, start(&["a"])).await.unwrap();
                for attempt in 1.. {
                    journal.append(run, started("a", attempt)).await.unwrap();
                    say(&format!("recorded {attempt}"));
                }
            }
            "claim" => {
                let claim = journal.claim(run).await.unwrap();
                say("claimed");
                std::thread::sleep(Duration::from_secs(600));
                drop(claim);
            }
            "begin" => {
                let begun = journal.begin(id(), start(&["a"])).await;
                say(&format!("begun {}", begun.is_ok()));
            }
            other => panic!("no task {other}"),
        }
    });
}
