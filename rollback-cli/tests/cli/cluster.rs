//! Runs kept in the cluster: seen and gone on with from another machine.

use std::time::Duration;

use rollback_tests::{Mlflow, MlflowVersion, Namespace, Output, Testbed};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::{command, deployed, finish, image, json};

/// A machine of its own: nothing is kept on it that others have.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, kubeconfig: &std::path::Path, args: &[&str]) -> Command {
        let mut command = command(kubeconfig, args);
        command.env_remove("ROLLBACK_JOURNAL").env("XDG_STATE_HOME", self.0.path());
        command
    }

    async fn call(&self, args: &[&str]) -> Output {
        finish(self.command(Testbed::shared().await.kubeconfig(), args).spawn().unwrap()).await
    }
}

/// A namespace for the journal of a cluster that knows `RollbackRuns`, by the documented command.
pub(crate) async fn journal() -> Namespace {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let namespace = Testbed::shared().await.namespace("runs").await;
    let install = async || {
        let machine = Machine::new();
        let file = machine.0.path().join("crd.yaml");
        std::fs::write(&file, machine.call(&["crd"]).await.ok()).unwrap();
        namespace.kubectl(&["apply", "-f", file.to_str().unwrap()]).await.ok();
        let wait = ["wait", "--for=condition=Established", "crd/rollbackruns.rollback.dev", "--timeout=60s"];
        namespace.kubectl(&wait).await.ok();
    };
    INSTALLED.get_or_init(install).await;
    namespace
}

#[tokio::test]
async fn two_who_keep_runs_in_the_cluster_do_not_move_one_model_at_once() {
    let home = journal().await;
    let place = format!("kubernetes:{}", home.name());
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = server.model(&["s3://models/a/v1", "s3://models/a/v2"]).await;
    server.stage(&model, "2", "Production", true).await;
    let name = format!("model/{model}");
    let undo = ["undo", &name, "--artifact-check=skip", "--yes", "--journal", &place];
    let machine = Machine::new();
    let kubeconfig = Testbed::shared().await.kubeconfig();
    let begin = |machine: &Machine, args: &[&str]| {
        let mut command = machine.command(kubeconfig, args);
        command.env("MLFLOW_TRACKING_URI", server.url()).spawn().unwrap()
    };
    let first = begin(&machine, &undo);
    while server.observe(&model).await["stages"]["1"] != "Production" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The first watches for some seconds yet whether somebody else moves it.
    let other = Machine::new();
    let second = finish(begin(&other, &[&undo[..], &["--to-revision", "2"]].concat())).await;
    assert!(second.code == 1 && second.stderr.contains("is unfinished"), "{second:?}");
    assert_eq!(finish(first).await.code, 0);
}

#[tokio::test]
async fn a_run_that_was_killed_goes_on_from_another_machine() {
    let home = journal().await;
    let place = format!("kubernetes:{}", home.name());
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let (mine, theirs) = (Machine::new(), Machine::new());
    let kubeconfig = Testbed::shared().await.kubeconfig();
    let undo = ["undo", "deploy/web", "--yes", "-n", namespace.name(), "--journal", &place];
    let mut child = mine.command(kubeconfig, &undo).spawn().unwrap();
    let is_patched =
        |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == "app:never-ready";
    let before =
        namespace.wait("Deployment", "web", "it is patched", is_patched).await["metadata"]["generation"]
            .clone();
    Testbed::shared().await.pause(Duration::from_millis(500)).await;
    child.kill().await.unwrap();

    let runs = json(&theirs.call(&["runs", "-o", "json", "--journal", &place]).await.ok());
    assert_eq!((runs.as_array().unwrap().len(), &runs[0]["outcome"]), (1, &json!("Unfinished")));
    let args = ["undo", "deploy/web", "--yes", "-n", namespace.name(), "--journal", &place];
    let blocked = theirs.call(&args).await;
    assert!(blocked.code == 1 && blocked.stderr.contains("is unfinished"), "{blocked:?}");
    assert!(blocked.stderr.contains(&format!("--journal {place}")), "the way leads there: {blocked:?}");

    let resume = theirs.command(kubeconfig, &["resume", "--journal", &place]).spawn().unwrap();
    let readied = async {
        loop {
            for pod in namespace.list("Pod", "app=web").await {
                if pod["spec"]["containers"][0]["image"] == "app:never-ready" {
                    let name = pod["metadata"]["name"].as_str().unwrap();
                    if pod["metadata"]["annotations"]["rollback.test/ready"].is_null() {
                        namespace.set_ready(name, true).await;
                    }
                }
            }
            Testbed::shared().await.pause(Duration::from_millis(200)).await;
        }
    };
    let resumed = tokio::select! {
        output = finish(resume) => output,
        () = readied => unreachable!("it never ends"),
    };
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert!(resumed.stderr.contains("waiting at most 15 s to see whether it still lives"), "{resumed:?}");
    assert_eq!(namespace.get("Deployment", "web").await["metadata"]["generation"], before, "nothing twice");
    let table = home.kubectl(&["get", "rbr"]).await.ok();
    assert!(table.contains("Completed") && table.contains("tester@here"), "{table}");
}

#[tokio::test]
async fn marks_and_reverts_are_shared_as_well() {
    let home = journal().await;
    let place = format!("kubernetes:{}", home.name());
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let (mine, theirs) = (Machine::new(), Machine::new());
    let component = format!("deployment/{}/web", namespace.name());
    let mark = ["mark", &component, "--revision", "1", "bad", "--journal", &place];
    mine.call(&mark).await.ok();
    let undo = theirs.call(&["undo", &component, "--to-revision", "1", "--yes", "--journal", &place]).await;
    assert!(undo.code == 1 && undo.stderr.contains("marked bad, by tester@here"), "{undo:?}");
    let forced =
        ["undo", &component, "--to-revision", "1", "--force", "--yes", "-o", "json", "--journal", &place];
    let run = json(&theirs.call(&forced).await.ok())["run"].as_str().unwrap().to_owned();
    assert_eq!(image(&namespace, "web").await, "app:1");
    let revert = mine.call(&["revert", &run, "--yes", "--journal", &place]).await;
    assert_eq!((revert.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{revert:?}");
    let runs = json(&theirs.call(&["runs", "-o", "json", "--journal", &place]).await.ok());
    assert_eq!(runs.as_array().unwrap().len(), 2);
    assert!(!mine.0.path().join("rollback/rollback.db").exists(), "nothing is kept on the machine");
}

#[tokio::test]
async fn a_run_that_cannot_be_kept_in_the_cluster_is_kept_on_the_machine_and_says_so() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let user = Testbed::shared().await.user().await;
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
    ]);
    user.allow(&namespace, &rules).await;
    let machine = Machine::new();
    let args = ["undo", "deploy/web", "--yes", "-n", namespace.name(), "--journal", "kubernetes"];
    let undo = finish(machine.command(user.kubeconfig(), &args).spawn().unwrap()).await;
    assert_eq!((undo.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{undo:?}");
    assert!(undo.stderr.contains("warning: this run is kept in"), "{undo:?}");
    let runs = json(&machine.call(&["runs", "-o", "json"]).await.ok());
    assert_eq!(runs.as_array().unwrap().len(), 1);
    let told =
        finish(machine.command(user.kubeconfig(), &["runs", "--journal", "kubernetes"]).spawn().unwrap());
    let told = told.await;
    assert!(told.code == 2 && told.stderr.contains("rollback-journal"), "{told:?}");
}
