//! Bad input gets one clear line, the exit code that CLI.md gives it, and changes nothing.

use std::path::Path;

use rollback_tests::{Output, Testbed};

use crate::{deployed, edited, image, json, rollback_as};

/// What is typed, the exit code, the kind, and what the message or the hint has to say.
type Case<'a> = (&'a [&'a str], i32, &'a str, &'a str);

async fn check(kubeconfig: &Path, namespace: &str, (args, code, kind, says): Case<'_>) {
    let with_namespace = [args, &["-n", namespace]].concat();
    let args = if args.iter().any(|arg| arg.starts_with("-n")) { args } else { &with_namespace[..] };
    let Output { stdout, stderr, code: ended } = rollback_as(kubeconfig, args).await;
    assert_eq!(ended, code, "{args:?}: {stdout}{stderr}");
    assert!(stdout.is_empty(), "{args:?}: {stdout}");
    let first = stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: "), "{args:?}: {stderr}");
    assert!(stderr.to_lowercase().contains(&says.to_lowercase()), "{args:?} should say {says:?}: {stderr}");

    let as_json = rollback_as(kubeconfig, &[args, &["-o", "json"]].concat()).await;
    let error = &json(&as_json.stderr)["error"];
    assert_eq!((as_json.code, error["kind"].as_str().unwrap()), (code, kind), "{args:?}: {error}");
    assert!(!error["message"].as_str().unwrap().contains('\n'), "{args:?}: {error}");
}

#[tokio::test]
async fn what_is_typed_wrongly_is_told_with_its_place() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let name = namespace.name();
    let other = format!("deployment/{name}/web");
    let cases: &[Case<'_>] = &[
        (&["history", "deployment/none"], 1, "NotFound", "none"),
        (&["history", "deployment/web", "-n", "no-such-namespace"], 1, "NotFound", "web"),
        (
            &["undo", "deployment/web", "--to-revision", "7", "--yes"],
            1,
            "NotFound",
            "the revisions kept are: 2, 1",
        ),
        (&["undo", "deployment/web", "--to-revision", "two", "--yes"], 2, "InvalidConfig", "two"),
        (&["undo", "deployment/web", "--to-revision", "-1", "--yes"], 2, "InvalidConfig", "-1"),
        (&["undo", "deployment/web", "--to-revision", "1.5", "--yes"], 2, "InvalidConfig", "1.5"),
        (
            &["undo", "deployment/web", "--to-revision", "99999999999999999999", "--yes"],
            2,
            "InvalidConfig",
            "9999",
        ),
        (&["undo", "widget/web", "--yes"], 2, "InvalidConfig", "widget"),
        (&["undo", "deploymnt/web", "--yes"], 2, "InvalidConfig", "did you mean deployment?"),
        (
            &["undo", "deployment/web", "deployment/api", "--to-revision", "deploymnt/web=1", "--yes"],
            2,
            "InvalidConfig",
            "did you mean deployment/web?",
        ),
        (
            &["revert", "0199", "--only", "Deployment/web", "--yes"],
            2,
            "InvalidConfig",
            "all that the run changed",
        ),
        (&["watch", "--listen", "8080"], 2, "InvalidConfig", "write it as 127.0.0.1:8080"),
        (
            &["undo", "env/infra/staging", "--yes", "--repo", "/"],
            2,
            "InvalidConfig",
            "not in a git repository",
        ),
        (&["undo", "model/inflow-baseline", "--yes"], 2, "InvalidConfig", "MLFLOW_TRACKING_URI"),
        (
            &["undo", "model/inflow-baseline", "--compat=kubectl", "--yes"],
            2,
            "InvalidConfig",
            "kubectl has no rule",
        ),
        (&["restart", "model/inflow-baseline", "--yes"], 1, "Unsupported", "restart the workload"),
        (
            &["--stage", "Staging", "plan", "model/inflow-baseline", "--alias", "champion"],
            2,
            "InvalidConfig",
            "give one",
        ),
        (
            &["undo", "--plan", "p.json", "--artifact-check=require", "--yes"],
            2,
            "InvalidConfig",
            "cannot be used with",
        ),
        (&["undo", "deployment/", "--yes"], 2, "InvalidConfig", "deployment/"),
        (&["undo", "deployment/We_b", "--yes"], 2, "InvalidConfig", "We_b"),
        (&["undo", "deployment/../web", "--yes"], 2, "InvalidConfig", ".."),
        (&["undo", &other, "-n", "another", "--yes"], 2, "InvalidConfig", "another"),
        (&["undo", "deployment/web", "deployment/web", "--yes"], 2, "InvalidConfig", "twice"),
        (&["undo", "deployment/web"], 2, "InvalidConfig", "--yes"),
        (&["undo", "deployment/web", "--yes", "--timeout", "soon"], 2, "InvalidConfig", "30s"),
        (&["undo", "deployment/web", "--yes", "--on-failure", "panic"], 2, "InvalidConfig", "compensate"),
        (&["undo", "--plan", "/nonexistent/plan.json", "--yes"], 2, "InvalidConfig", "plan.json"),
        (&["undo"], 2, "InvalidConfig", "COMPONENT"),
        (&["undo", "deployment/web", "--yes", "--no-such-option"], 2, "InvalidConfig", "--no-such-option"),
        (&["history", "deployment/web", "--context", "nowhere"], 2, "InvalidConfig", "nowhere"),
        (&["history", "deployment/web", "--kubeconfig", "/nonexistent"], 2, "InvalidConfig", "/nonexistent"),
        (&["status", "deployment/none"], 1, "NotFound", "none"),
        (&["restart", "deployment/none", "--yes"], 1, "NotFound", "none"),
    ];
    let kubeconfig = Testbed::shared().await.kubeconfig();
    for case in cases {
        check(kubeconfig, name, *case).await;
    }
    assert_eq!(image(&namespace, "web").await, "app:2");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_used_is_told_apart_from_one_that_refuses() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let folder = tempfile::tempdir().unwrap();
    let user = Testbed::shared().await.user().await;
    let with = |file: &str, edit: &dyn Fn(&mut serde_yaml_ng::Value)| {
        edited(user.kubeconfig(), folder.path().join(file), edit)
    };
    let away = with("away", &|config| {
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    });
    let expired = with("expired", &|config| config["users"][0]["user"]["token"] = "expired".into());
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "clusters: [").unwrap();

    let undo: &[&str] = &["undo", "deployment/web", "--yes"];
    for (kubeconfig, code, kind, says) in [
        (away.as_path(), 2, "Unavailable", "does not answer"),
        (&broken, 2, "InvalidConfig", "broken"),
        (&expired, 2, "Unauthenticated", "log in again"),
        (user.kubeconfig(), 1, "PermissionDenied", "cannot get resource \"deployments\""),
    ] {
        check(kubeconfig, namespace.name(), (undo, code, kind, says)).await;
    }
    let rules = serde_json::json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list"]},
    ]);
    user.allow(&namespace, &rules).await;
    let refused = rollback_as(user.kubeconfig(), &[undo, &["-n", namespace.name(), "-q"]].concat()).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("cannot patch resource \"deployments\""), "{refused:?}");
    assert_eq!(image(&namespace, "web").await, "app:2");
}

#[tokio::test]
async fn what_is_no_text_and_a_result_that_is_lost_are_told() {
    use std::os::unix::ffi::OsStrExt as _;
    let kubeconfig = Path::new("/nonexistent");
    let mut command = crate::command(kubeconfig, &["undo", "-o", "json"]);
    command.arg(std::ffi::OsStr::from_bytes(b"deploy/\xff"));
    let output = crate::finish(command.spawn().unwrap()).await;
    assert_eq!(
        (output.code, &json(&output.stderr)["error"]["kind"]),
        (2, &"InvalidConfig".into()),
        "{output:?}"
    );
    let mut command = crate::command(kubeconfig, &["schema"]);
    command.stdout(std::fs::File::create("/dev/full").unwrap());
    let output = crate::finish(command.spawn().unwrap()).await;
    assert!(output.code == 1 && output.stderr.contains("cannot print the result"), "{output:?}");
}

#[tokio::test]
async fn help_and_completions_come_without_a_cluster() {
    let nowhere = Path::new("/nonexistent");
    for args in [
        &["--help"][..],
        &["undo", "--help"],
        &["--version"],
        &["completions", "bash"],
        &["completions", "zsh"],
    ] {
        let output = rollback_as(nowhere, args).await;
        assert!(output.code == 0 && !output.stdout.is_empty(), "{args:?}: {output:?}");
    }
}
