//! What the journal makes possible: to list runs, to go on with one, to close it, to take it back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rollback_tests::{Namespace, Output, Testbed};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{command, deployed, finish, image, json};

/// A journal of a test's own.
pub(crate) struct Journal(TempDir);

impl Journal {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("runs.db")
    }

    /// The command with this journal.
    pub(crate) fn command(&self, kubeconfig: &Path, args: &[&str]) -> Command {
        let mut command = command(kubeconfig, args);
        command.env("ROLLBACK_JOURNAL", self.path());
        command
    }

    pub(crate) async fn call(&self, args: &[&str]) -> Output {
        finish(self.command(Testbed::shared().await.kubeconfig(), args).spawn().unwrap()).await
    }

    /// What `runs -o json` lists.
    pub(crate) async fn runs(&self) -> Vec<Value> {
        let runs = finish(self.command(Path::new("/nonexistent"), &["runs", "-o", "json"]).spawn().unwrap());
        json(&runs.await.ok()).as_array().unwrap().clone()
    }

    /// The id and the outcome of the one run there is.
    async fn only(&self) -> (String, String) {
        let runs = self.runs().await;
        let [run] = runs.as_slice() else { panic!("{runs:?}") };
        (run["run"].as_str().unwrap().to_owned(), run["outcome"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn an_undo_is_listed_and_shown_and_can_be_reverted() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let component = format!("deployment/{}/web", namespace.name());
    let journal = Journal::new();
    assert_eq!(journal.runs().await, Vec::<Value>::new());
    assert!(!journal.path().exists());
    let args = ["undo", &component, "--yes", "--reason", "too slow", "-o", "json"];
    let undo = json(&journal.call(&args).await.ok());
    let run = undo["run"].as_str().unwrap();

    let runs = journal.runs().await;
    assert_eq!(
        runs,
        [json!({
            "run": run, "outcome": "Completed", "startedAt": undo["startedAt"],
            "finishedAt": undo["finishedAt"], "components": [component],
        })]
    );
    let table = journal.call(&["runs"]).await.ok();
    assert!(table.starts_with("RUN ") && table.contains(run) && table.contains("Completed"), "{table}");

    let show = json(&journal.call(&["show", run, "-o", "json"]).await.ok());
    assert_eq!(show, undo);
    assert_eq!((&show["actor"], &show["reason"]), (&json!("tester@here"), &json!("too slow")));
    let table = journal.call(&["show", &run[28..]]).await.ok();
    for part in ["Completed", "tester@here", "too slow", "rolled back (2 → 1)"] {
        assert!(table.contains(part), "{part}: {table}");
    }

    assert_eq!(image(&namespace, "web").await, "app:1");
    let silent = journal.call(&["revert", run]).await;
    assert!(silent.code == 2 && silent.stderr.contains("--yes"), "{silent:?}");
    let dry = journal.call(&["revert", run, "--dry-run=server"]).await;
    assert_eq!((dry.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{dry:?}");
    journal.call(&["mark", &component, "--revision", "2", "bad"]).await.ok();
    let bad = journal.call(&["revert", run, "--yes"]).await;
    assert!(bad.code == 1 && bad.stderr.contains("revision 2 is marked bad"), "{bad:?}");
    let revert = journal.call(&["revert", run, "--yes", "--force", "-o", "json"]).await;
    assert_eq!((revert.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{revert:?}");
    journal.call(&["mark", &component, "--revision", "4", "good"]).await.ok();
    assert_eq!(left(&namespace).await, 0);
    let before = namespace.rolled_out("Deployment", "web").await["metadata"]["generation"].clone();
    let again = journal.call(&["revert", run, "--yes"]).await;
    let after = namespace.get("Deployment", "web").await["metadata"]["generation"].clone();
    assert_eq!((again.code, after), (0, before), "it is there already, and nothing is written: {again:?}");
    let runs = journal.runs().await;
    assert_eq!((runs.len(), &runs[2]["run"]), (3, &json!(run)), "the newest is first: {runs:?}");
}

/// How many revisions are recorded as left.
async fn left(namespace: &Namespace) -> usize {
    let object = namespace.get("Deployment", "web").await;
    match object["metadata"]["annotations"]["rollback.dev/left"].as_str() {
        Some(text) => json(text).as_array().unwrap().len(),
        None => 0,
    }
}

/// A Deployment in the middle of an undo to an image that does not get ready, whose command this signal ended.
async fn cut_short(journal: &Journal, signal: &str) -> (Namespace, Output) {
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let testbed = Testbed::shared().await;
    let args = ["undo", "deploy/web", "--yes", "-n", namespace.name()];
    let child = journal.command(testbed.kubeconfig(), &args).spawn().unwrap();
    let is_patched =
        |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == "app:never-ready";
    namespace.wait("Deployment", "web", "it is patched", is_patched).await;
    testbed.pause(Duration::from_millis(500)).await;
    let pid = child.id().unwrap().to_string();
    std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
    let output = finish(child).await;
    (namespace, output)
}

/// Goes on with the only run, while its pods get ready after all.
async fn resume(journal: &Journal, namespace: &Namespace, kubeconfig: &Path) -> Output {
    let ended = finish(journal.command(kubeconfig, &["resume", "-o", "json"]).spawn().unwrap());
    let readied = async {
        loop {
            for pod in namespace.list("Pod", "app=web").await {
                if pod["spec"]["containers"][0]["image"] == "app:never-ready"
                    && pod["metadata"]["annotations"]["rollback.test/ready"].is_null()
                    && pod["metadata"]["deletionTimestamp"].is_null()
                {
                    namespace.set_ready(pod["metadata"]["name"].as_str().unwrap(), true).await;
                }
            }
            Testbed::shared().await.pause(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        output = ended => output,
        () = readied => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn an_interrupted_run_blocks_others_until_it_is_resumed() {
    let journal = Journal::new();
    let (namespace, interrupted) = cut_short(&journal, "INT").await;
    let (run, outcome) = journal.only().await;
    assert_eq!((interrupted.code, outcome.as_str()), (130, "Unfinished"), "{interrupted:?}");
    assert!(interrupted.stderr.contains(&format!("rollback resume {run}")), "{interrupted:?}");

    let another = journal.call(&["undo", "deploy/web", "--yes", "-n", namespace.name()]).await;
    assert!(another.code == 1 && another.stderr.contains(&format!("run {run} is unfinished")), "{another:?}");
    for part in [format!("rollback resume {run}"), format!("rollback abandon {run}")] {
        assert!(another.stderr.contains(&part), "{part}: {another:?}");
    }
    let revert = journal.call(&["revert", &run, "--yes"]).await;
    assert!(revert.code == 1 && revert.stderr.contains("rollback resume"), "{revert:?}");

    let before = namespace.get("Deployment", "web").await["metadata"]["generation"].clone();
    let resumed = resume(&journal, &namespace, Testbed::shared().await.kubeconfig()).await;
    let report = json(&resumed.stdout);
    assert_eq!((resumed.code, &report["run"]), (0, &json!(run)), "{resumed:?}");
    assert_eq!(journal.only().await, (run.clone(), "Completed".into()));
    assert_eq!(namespace.get("Deployment", "web").await["metadata"]["generation"], before);
    assert_eq!(left(&namespace).await, 1);

    let again = journal.call(&["resume", &run]).await;
    assert!(again.code == 1 && again.stderr.contains("has ended"), "{again:?}");
    let none = journal.call(&["resume"]).await;
    assert!(none.code == 1 && none.stderr.contains("no run is unfinished"), "{none:?}");
}

#[tokio::test]
async fn a_killed_run_goes_on_where_it_began_whatever_the_environment_says() {
    let journal = Journal::new();
    let (namespace, _) = cut_short(&journal, "KILL").await;
    let before = namespace.get("Deployment", "web").await["metadata"]["generation"].clone();
    assert_eq!(journal.only().await.1, "Unfinished");
    let elsewhere = journal.call(&["resume", "--context", "nowhere"]).await;
    assert_eq!(elsewhere.code, 2, "{elsewhere:?}");
    let resumed = resume(&journal, &namespace, Path::new("/nonexistent")).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert_eq!(journal.only().await.1, "Completed");
    assert_eq!(namespace.get("Deployment", "web").await["metadata"]["generation"], before);
    assert_eq!(left(&namespace).await, 1);
}

#[tokio::test]
async fn an_abandoned_run_stays_as_it_is_until_it_is_taken_back() {
    let journal = Journal::new();
    let (namespace, _) = cut_short(&journal, "TERM").await;
    let (run, _) = journal.only().await;
    let unsaid = journal.call(&["abandon", &run]).await;
    assert!(unsaid.code == 2 && unsaid.stderr.contains("--reason"), "{unsaid:?}");
    let abandon = journal.call(&["abandon", &run, "--reason", "seen to by hand", "-o", "json"]).await;
    assert_eq!((abandon.code, &json(&abandon.stdout)["outcome"]), (0, &json!("Abandoned")), "{abandon:?}");
    assert_eq!(image(&namespace, "web").await, "app:never-ready");
    assert_eq!(journal.only().await.1, "Abandoned");

    let next = json(&journal.call(&["show", &run, "-o", "json"]).await.ok())["next"].clone();
    assert_eq!(next[1], format!("rollback revert {run}").as_str());
    let revert = journal.call(&["revert", &run, "--yes"]).await;
    assert_eq!((revert.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{revert:?}");
}

#[tokio::test]
async fn a_run_that_is_not_there_or_not_clear_is_told() {
    let journal = Journal::new();
    for args in
        [&["show", "0199"][..], &["resume", "0199"], &["abandon", "0199", "--reason", "x"], &["resume"]]
    {
        let missing = journal.call(args).await;
        assert_eq!(missing.code, 1, "{args:?}: {missing:?}");
    }
    let named = journal.call(&["runs", "--journal", "/nonexistent/runs.db"]).await;
    assert_eq!(named.code, 2, "{named:?}");
    let memory = journal.call(&["runs", "--journal", "memory"]).await;
    assert_eq!(memory.code, 2, "{memory:?}");
}

#[tokio::test]
async fn without_a_journal_that_can_be_used_nothing_is_changed() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "these are notes, and certainly no journal\n".repeat(50)).unwrap();
    for path in [folder.path().to_owned(), text.clone(), text.join("runs.db")] {
        let path = path.to_str().unwrap();
        let args = ["undo", "deploy/web", "--yes", "-n", namespace.name(), "--journal", path];
        let undo = Journal::new().call(&args).await;
        assert_eq!((undo.code, image(&namespace, "web").await.as_str()), (2, "app:2"), "{undo:?}");
        assert!(undo.stderr.contains("--journal memory"), "{undo:?}");
    }
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("these are notes"));
}

#[tokio::test]
async fn a_journal_in_memory_is_told_line_by_line() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let journal = Journal::new();
    let args = ["undo", "deploy/web", "--yes", "-q", "-n", namespace.name(), "--journal", "memory"];
    let undo = journal.call(&args).await;
    assert_eq!((undo.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{undo:?}");
    let entries: Vec<_> = undo.stderr.lines().map(json).collect();
    let types: Vec<_> = entries.iter().map(|entry| entry["event"]["type"].as_str().unwrap()).collect();
    assert_eq!((types.first(), types.last()), (Some(&"runStarted"), Some(&"runFinished")), "{undo:?}");
    assert!(entries.iter().all(|entry| entry["at"].is_string()));
    assert!(!journal.path().exists());
}

#[tokio::test]
async fn unless_told_otherwise_runs_are_kept_in_the_state_folder() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let state = tempfile::tempdir().unwrap();
    let undo = ["undo", "deploy/web", "--yes", "-n", namespace.name()];
    for (args, says) in [(&undo[..], "rolled back"), (&["runs"], "Completed")] {
        let mut command = command(Testbed::shared().await.kubeconfig(), args);
        command.env_remove("ROLLBACK_JOURNAL").env("XDG_STATE_HOME", state.path());
        let output = finish(command.spawn().unwrap()).await.ok();
        assert!(output.contains(says), "{output}");
    }
    assert!(state.path().join("rollback/rollback.db").is_file());
}
