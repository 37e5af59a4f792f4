//! Several people at once, from several machines.

use rollback_tests::Testbed;
use serde_json::{Value, json};

use crate::journal::Journal;
use crate::{deployed, finish, image, json};

#[tokio::test]
async fn a_second_person_is_told_who_is_at_work_and_may_break_in_on_record() {
    let namespace = deployed("web", &["app:1", "app:never-ready", "app:3"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let kubeconfig = Testbed::shared().await.kubeconfig();
    let undo = ["undo", "deploy/web", "--yes", "-n", namespace.name()];
    let (mine, theirs) = (Journal::new(), Journal::new());
    let first = mine.command(kubeconfig, &undo).env("USER", "ann").spawn().unwrap();
    let is_patched =
        |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"] == "app:never-ready";
    namespace.wait("Deployment", "web", "it is patched", is_patched).await;

    let refused = theirs.call(&undo).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("is held by run") && refused.stderr.contains("ann@here"), "{refused:?}");
    assert!(refused.stderr.contains("--break-lease"), "{refused:?}");

    let breaks = ["--break-lease", "--reason", "ann is offline", "--to-revision", "1", "-o", "json"];
    let broken = theirs.call(&[&undo[..], &breaks].concat()).await;
    assert_eq!((broken.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{broken:?}");
    let report = json(&broken.stdout);
    assert_eq!(report["brokenLeases"][0]["reason"], "ann is offline");
    assert!(report["brokenLeases"][0]["holder"].as_str().unwrap().contains("ann@here"), "{report}");
    let show = theirs.call(&["show", report["run"].as_str().unwrap()]).await.ok();
    assert!(show.contains("broke    the lease of") && show.contains("ann is offline"), "{show}");

    // It sees the change before it sees that its lease is gone, or after.
    let stopped = finish(first).await;
    assert_eq!(stopped.code, 4, "{stopped:?}");
    let says = |text: &str| stopped.stderr.contains(text);
    assert!(says("changed since it was planned") || says("the lease of"), "{stopped:?}");
    assert_eq!(image(&namespace, "web").await, "app:1", "what was done since stays");
}

#[tokio::test]
async fn without_the_right_to_leases_the_plan_warns_and_goes_on() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let user = Testbed::shared().await.user().await;
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
    ]);
    user.allow(&namespace, &rules).await;
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::new();
    let args = ["undo", "deploy/web", "--yes", "-n", namespace.name()];
    let mut command = journal.command(user.kubeconfig(), &args);
    command.env("XDG_STATE_HOME", state.path());
    let undo = finish(command.spawn().unwrap()).await;
    assert_eq!((undo.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{undo:?}");
    assert!(undo.stderr.contains("warning: leases may not be taken here"), "{undo:?}");
    assert!(state.path().join("rollback/leases").is_dir(), "a lock on this machine instead");
}
