//! Runs that do not simply succeed, and how they are told.

use std::time::Duration;

use rollback_tests::{Testbed, objects};
use serde_json::json;

use crate::{command, deployed, finish, image, json, rollback, rollback_in};

#[tokio::test]
async fn an_image_that_never_gets_ready_ends_with_4_and_the_next_commands() {
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let undo =
        rollback_in(&namespace, &["undo", "deploy/web", "--yes", "--timeout", "5s", "-o", "json"]).await;
    let run = json(&undo.stdout);
    assert_eq!(
        (undo.code, &run["outcome"], &run["steps"][0]["outcome"]),
        (4, &json!("Halted"), &json!("Failed"))
    );
    let next: Vec<_> =
        run["next"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect();
    assert_eq!(next.len(), 2, "{next:?}");
    let shown = rollback(&["show", run["run"].as_str().unwrap()]).await.ok();
    assert!(shown.contains(&next[1]) && shown.contains("takes back what the run changed"), "{shown}");
    // What it says can be typed as it stands.
    let words: Vec<&str> = next[1].split_whitespace().skip(1).collect();
    let back = rollback(&[&words[..], &["--yes"]].concat()).await;
    assert_eq!((back.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{back:?}");
}

#[tokio::test]
async fn with_compensation_it_ends_with_3_and_the_object_as_before() {
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    let before = namespace.rolled_out("Deployment", "web").await;
    let args = ["undo", "deploy/web", "--yes", "--timeout", "4s", "--on-failure", "compensate"];
    let undo = rollback_in(&namespace, &args).await;
    assert_eq!(undo.code, 3, "{undo:?}");
    let after = namespace.rolled_out("Deployment", "web").await;
    assert_eq!(before["spec"], after["spec"]);
    assert!(after["metadata"]["annotations"].get("rollback.dev/left").is_none());
}

#[tokio::test]
async fn several_components_go_side_by_side_and_the_order_of_names_does_not_matter() {
    let namespace = deployed("a", &["app:1", "app:2"]).await;
    crate::deploy(&namespace, "b", &["app:1", "app:2", "app:3"]).await;
    for name in ["a", "b"] {
        namespace.rolled_out("Deployment", name).await;
    }
    let args = ["undo", "deploy/a", "deploy/b", "--to-revision", "deploy/b=1", "--yes"];
    let undo = rollback_in(&namespace, &args).await;
    assert_eq!(undo.code, 0, "{undo:?}");
    assert_eq!([image(&namespace, "a").await, image(&namespace, "b").await], ["app:1", "app:1"]);
}

#[tokio::test]
async fn a_kept_plan_is_carried_out_as_it_is_or_not_at_all() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    let file = file.to_str().unwrap();
    let plan =
        json(&rollback_in(&namespace, &["plan", "deploy/web", "--out", file, "-o", "json"]).await.ok());
    let undo = rollback(&["undo", "--plan", file, "--yes", "-o", "json"]).await;
    assert_eq!((undo.code, &json(&undo.stdout)["plan"]), (0, &plan["digest"]), "{undo:?}");
    assert_eq!(image(&namespace, "web").await, "app:1");

    namespace.patch("Deployment", "web", &objects::image_patch("app:9")).await;
    let moved = rollback(&["undo", "--plan", file, "--yes"]).await;
    assert_eq!((moved.code, image(&namespace, "web").await.as_str()), (1, "app:9"), "{moved:?}");
    assert!(moved.stderr.contains("changed since it was planned"), "{moved:?}");

    let edited = std::fs::read_to_string(file).unwrap().replace("app:1", "app:evil");
    std::fs::write(file, edited).unwrap();
    let edited = rollback(&["undo", "--plan", file, "--yes"]).await;
    assert_eq!((edited.code, image(&namespace, "web").await.as_str()), (1, "app:9"), "{edited:?}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_an_undo_without_watching_returns_at_once() {
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    let dry = rollback_in(&namespace, &["undo", "deploy/web", "--dry-run=server"]).await;
    assert_eq!((dry.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{dry:?}");
    let args = ["undo", "deploy/web", "--no-verify", "--yes", "-o", "json"];
    let undo = rollback_in(&namespace, &args).await;
    let run = json(&undo.stdout);
    assert_eq!((undo.code, &run["steps"][0]["outcome"]), (0, &json!("Applied")), "{undo:?}");
    assert_eq!(image(&namespace, "web").await, "app:never-ready");
}

#[tokio::test]
async fn interrupted_it_ends_with_130_and_says_how_things_were_left() {
    for signal in ["INT", "TERM"] {
        let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
        let testbed = Testbed::shared().await;
        let args = ["undo", "deploy/web", "--yes", "-n", namespace.name()];
        let child = command(testbed.kubeconfig(), &args).spawn().unwrap();
        namespace
            .wait("Deployment", "web", "it is patched", |object| {
                object["spec"]["template"]["spec"]["containers"][0]["image"] == "app:never-ready"
            })
            .await;
        testbed.pause(Duration::from_millis(500)).await;
        let pid = child.id().unwrap().to_string();
        std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        let output = finish(child).await;
        assert_eq!(output.code, 130, "{output:?}");
        assert!(
            output.stderr.contains("interrupted") && output.stderr.contains("rollback resume "),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn secrets_in_a_template_are_never_shown() {
    let namespace = Testbed::shared().await.namespace("cli-secret").await;
    let mut object = objects::deployment("web", "app:1", 1);
    object["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "plain"}]);
    namespace.create(&object).await;
    namespace.rolled_out("Deployment", "web").await;
    let env = json!([{"name": "DB_PASSWORD", "value": "hunter3"}, {"name": "MODE", "value": "other"}]);
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "env": env}]}}}});
    namespace.patch("Deployment", "web", &change).await;
    namespace.rolled_out("Deployment", "web").await;
    for format in ["table", "json", "yaml"] {
        let plan = rollback_in(&namespace, &["plan", "deploy/web", "-o", format]).await;
        let all = format!("{}{}", plan.stdout, plan.stderr);
        assert!(!all.contains("hunter") && all.contains("plain"), "{all}");
    }
    let undo = rollback_in(&namespace, &["undo", "deploy/web", "--yes"]).await;
    assert!(undo.code == 0 && !format!("{undo:?}").contains("hunter"), "{undo:?}");
}

#[tokio::test]
async fn a_revert_is_guarded_as_an_undo_is() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let undo = rollback_in(&namespace, &["undo", "deploy/web", "--yes", "--no-verify", "-o", "json"]).await;
    let run = json(&undo.stdout)["run"].as_str().unwrap().to_owned();
    let tracked = json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:x/web"}}});
    namespace.merge("Deployment", "web", &tracked).await;
    let refused = rollback(&["revert", &run, "--yes"]).await;
    assert_eq!((refused.code, image(&namespace, "web").await.as_str()), (1, "app:1"), "{refused:?}");
    assert!(refused.stderr.contains("Argo CD application shop"), "{refused:?}");
    let all = ["revert", &run, "--yes", "--gitops=ignore", "--no-verify", "--prune", "--declarative"];
    let back = rollback(&all).await;
    assert_eq!((back.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{back:?}");
    assert!(back.stderr.contains("also without --declarative, --prune"), "{back:?}");
    assert!(back.stderr.contains("may take the rollback back"), "the plan warns: {back:?}");
}

#[tokio::test]
async fn a_revision_is_named_for_a_component_in_whichever_words() {
    let namespace = deployed("web", &["app:1", "app:2", "app:3"]).await;
    crate::deploy(&namespace, "api", &["app:1", "app:2"]).await;
    let plan = ["plan", "deploy/web", "deployment/api", "--to-revision", "deployments/web=1", "-o", "json"];
    let plan = json(&rollback_in(&namespace, &plan).await.ok());
    assert_eq!((&plan["steps"][0]["to"], &plan["steps"][1]["to"]), (&json!("1"), &json!("1")));
}

#[tokio::test]
async fn a_restart_says_why() {
    let namespace = deployed("web", &["app:1"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let why = ["restart", "deploy/web", "--all", "--yes", "--reason", "stale cache", "--incident", "INC-7"];
    let restart = json(&rollback_in(&namespace, &[&why[..], &["-o", "json"]].concat()).await.ok());
    let shown = rollback(&["show", restart["run"].as_str().unwrap()]).await.ok();
    assert!(shown.contains("INC-7: stale cache"), "{shown}");
}

#[tokio::test]
async fn a_restart_replaces_the_pods_that_are_not_ready() {
    let namespace = deployed("web", &["app:1"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let nothing = rollback_in(&namespace, &["restart", "deploy/web", "--yes"]).await;
    assert_eq!(nothing.code, 0, "{nothing:?}");
    let pods = namespace.list("Pod", "app=web").await;
    let bad = pods[0]["metadata"]["name"].as_str().unwrap();
    namespace.set_ready(bad, false).await;
    namespace.wait("Deployment", "web", "one is not ready", |d| d["status"]["readyReplicas"] == 1).await;
    let restart = rollback_in(&namespace, &["restart", "deploy/web", "--yes"]).await;
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(namespace.get_if_exists("Pod", bad).await.is_null());
}
