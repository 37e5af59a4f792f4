//! With exactly the rights that the manifests give, each operation works; with fewer, it says which is missing.

use rollback_core::{
    ErrorKind, FailurePolicy, Outcome, RestartScope, Restartable, Rollbackable, RunId, StepOutcome, Target,
};
use rollback_k8s::{Workload, WorkloadKind};
use rollback_tests::{Namespace, RestrictedUser, Testbed, objects};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::undo::{connect, context, deployment, image, undo, workload};

/// The rules of a role that is shipped.
fn rules(role: &str) -> Value {
    let roles = include_str!("../../rollback-k8s/rbac/roles.yaml");
    let mut documents =
        serde_yaml_ng::Deserializer::from_str(roles).map(|role| Value::deserialize(role).unwrap());
    documents.find(|document| document["metadata"]["name"] == role).unwrap()["rules"].clone()
}

pub(crate) async fn user_with(namespace: &Namespace, roles: &[&str]) -> RestrictedUser {
    let user = Testbed::shared().await.user().await;
    let all: Vec<Value> = roles.iter().flat_map(|role| rules(role).as_array().unwrap().clone()).collect();
    user.allow(namespace, &json!(all)).await;
    user
}

async fn web(prefix: &str, roles: &[&str]) -> (Namespace, Workload) {
    let namespace = Testbed::shared().await.namespace(prefix).await;
    deployment(&namespace, &["app:1", "app:2"], 2).await;
    namespace.rolled_out("Deployment", "web").await;
    let user = user_with(&namespace, roles).await;
    let web = workload(&connect(user.kubeconfig()).await, WorkloadKind::Deployment, &namespace, "web");
    (namespace, web)
}

#[tokio::test]
async fn viewing_takes_the_rights_to_view_and_writing_names_the_one_that_is_missing() {
    let (namespace, web) = web("rights-view", &["rollback-view"]).await;
    assert_eq!(web.history().await.unwrap().len(), 2);
    assert!(web.status().await.unwrap().is_converged());
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(change.warnings.iter().any(|w| w.contains("autoscalers: not checked")), "{change:?}");
    let error = web.apply(&context(), &change).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let message = error.to_string();
    assert!(message.contains("cannot patch resource \"deployments\""), "{message}");
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:2");
}

#[tokio::test]
async fn an_undo_takes_the_rights_to_undo() {
    let (namespace, web) = web("rights-undo", &["rollback-undo"]).await;
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:1");
}

#[tokio::test]
async fn freeing_a_stateful_set_takes_the_rights_to_free() {
    let namespace = Testbed::shared().await.namespace("rights-free").await;
    namespace.create(&objects::stateful_set("db", "app:1", 2)).await;
    namespace.rolled_out("StatefulSet", "db").await;
    namespace.patch("StatefulSet", "db", &objects::image_patch("app:never-ready")).await;
    namespace
        .wait("Pod", "db-1", "it runs the new image", |pod| {
            pod["spec"]["containers"][0]["image"] == "app:never-ready" && pod["status"]["phase"] == "Running"
        })
        .await;
    let user = user_with(&namespace, &["rollback-undo", "rollback-free"]).await;
    let db = workload(&connect(user.kubeconfig()).await, WorkloadKind::StatefulSet, &namespace, "db");
    let report = undo(&db, Target::Previous, FailurePolicy::Halt).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
}

#[tokio::test]
async fn restarting_takes_the_rights_to_restart() {
    for (role, scopes) in [
        ("rollback-evict", &[RestartScope::Unready][..]),
        ("rollback-restart", &[RestartScope::Unready, RestartScope::All]),
    ] {
        let (namespace, web) = web("rights-restart", &[role]).await;
        let pods = namespace.list("Pod", "app=web").await;
        namespace.set_ready(pods[0]["metadata"]["name"].as_str().unwrap(), false).await;
        namespace.wait("Deployment", "web", "one is not ready", |d| d["status"]["readyReplicas"] == 1).await;
        for scope in scopes {
            let change = web.prepare_restart(scope.clone()).await.unwrap();
            assert!(!change.is_noop());
            web.apply(&context(), &change).await.unwrap();
            assert!(web.verify(&context(), &change).await.unwrap().is_converged());
        }
        if role == "rollback-evict" {
            let change = web.prepare_restart(RestartScope::All).await.unwrap();
            let error = web.apply(&context(), &change).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "no workload is changed: {error:?}");
        }
    }
}

#[tokio::test]
async fn with_the_optional_rights_everything_is_checked_and_an_event_tells_of_the_rollback() {
    let (namespace, web) = web("rights-checks", &["rollback-undo", "rollback-checks"]).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(!change.warnings.iter().any(|w| w.contains("not checked")), "{change:?}");
    let report = undo(&web, Target::Previous, FailurePolicy::Halt).await;
    for _ in 0..2 {
        web.announce(report.run, &report.steps[0]).await.unwrap();
    }
    let mut failed = report.steps[0].clone();
    failed.outcome = StepOutcome::Failed;
    web.announce(RunId::random(), &failed).await.unwrap();
    let described = namespace.kubectl(&["describe", "deployment/web"]).await.ok();
    assert_eq!(described.matches("RolledBack").count(), 1, "{described}");
    assert!(described.contains("Rolled back from revision 2 to 1"), "{described}");
    assert!(described.contains("RollbackFailed"), "{described}");
}

#[tokio::test]
async fn an_expired_token_and_an_unreachable_server_are_told_apart() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("rights-none").await;
    let folder = tempfile::tempdir().unwrap();
    let connect_with = async |edit: &dyn Fn(&mut serde_yaml_ng::Value)| {
        let text = std::fs::read_to_string(testbed.user().await.kubeconfig()).unwrap();
        let mut config: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
        edit(&mut config);
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, serde_yaml_ng::to_string(&config).unwrap()).unwrap();
        workload(&connect(&file).await, WorkloadKind::Deployment, &namespace, "web")
    };
    let expired = connect_with(&|config| config["users"][0]["user"]["token"] = "expired".into()).await;
    let error = expired.history().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!format!("{error:?}").contains("expired-token"));

    let away = connect_with(&|config| {
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    });
    let error = away.await.history().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
