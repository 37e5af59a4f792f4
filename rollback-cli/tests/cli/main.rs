//! The command, as people and programs call it, on a real control plane.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod bad_input;
mod cluster;
mod environments;
mod journal;
mod kills;
mod leases;
mod marks;
mod models;
mod procedures;
mod runbook;
mod runs;
mod services;
mod terminal;
mod walk;
mod watch;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rollback_tests::{Namespace, Output, Testbed, objects};
use serde_json::Value;
use tokio::process::{Child, Command};

/// A journal of this process's own: what a person keeps in their state folder is nothing to tests.
fn shared_journal() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("runs-{}.db", std::process::id()))
}

/// The command with these arguments, connected as this kubeconfig says, without a terminal.
fn command(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollback"));
    command.args(args).env("KUBECONFIG", kubeconfig).env("USER", "tester").env("HOSTNAME", "here");
    command.env("ROLLBACK_JOURNAL", shared_journal()).env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn finish(child: Child) -> Output {
    let ended = tokio::time::timeout(Duration::from_secs(100), child.wait_with_output());
    ended.await.expect("the command ends").unwrap().into()
}

async fn rollback_as(kubeconfig: &Path, args: &[&str]) -> Output {
    finish(command(kubeconfig, args).spawn().unwrap()).await
}

/// A kubeconfig that differs from another one.
fn edited(from: &Path, path: PathBuf, edit: impl Fn(&mut serde_yaml_ng::Value)) -> PathBuf {
    let mut config = serde_yaml_ng::from_str(&std::fs::read_to_string(from).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, serde_yaml_ng::to_string(&config).unwrap()).unwrap();
    path
}

async fn rollback(args: &[&str]) -> Output {
    rollback_as(Testbed::shared().await.kubeconfig(), args).await
}

/// Calls the command in a namespace.
async fn rollback_in(namespace: &Namespace, args: &[&str]) -> Output {
    rollback(&[args, &["-n", namespace.name()]].concat()).await
}

/// A namespace with a Deployment whose revisions ran these images, in order.
async fn deployed(name: &str, images: &[&str]) -> Namespace {
    let namespace = Testbed::shared().await.namespace("cli").await;
    deploy(&namespace, name, images).await;
    namespace
}

async fn deploy(namespace: &Namespace, name: &str, images: &[&str]) {
    namespace.create(&objects::deployment(name, images[0], 2)).await;
    for (index, image) in images.iter().enumerate() {
        if index > 0 {
            namespace.patch("Deployment", name, &objects::image_patch(image)).await;
        }
        let wanted = Value::from((index + 1).to_string());
        namespace
            .wait("Deployment", name, "its revision is recorded", |object| {
                object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == wanted
            })
            .await;
    }
}

async fn image(namespace: &Namespace, name: &str) -> String {
    let object = namespace.get("Deployment", name).await;
    object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}
