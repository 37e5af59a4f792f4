//! With exactly the rights that the manifests give, each operation works; with fewer, it says which is missing.

use rollback_core::{ErrorKind, Outcome, Rollbackable, Target};
use rollback_tests::{Testbed, objects};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::environment::{World, connect, environment, run};
use crate::world::STAGING;

/// The rules of roles that are shipped.
fn rules(names: &[&str]) -> Value {
    let roles = include_str!("../../rollback-git/rbac/roles.yaml");
    let documents =
        serde_yaml_ng::Deserializer::from_str(roles).map(|role| Value::deserialize(role).unwrap());
    let wanted = documents.filter(|document| names.contains(&document["metadata"]["name"].as_str().unwrap()));
    wanted.flat_map(|document| document["rules"].as_array().unwrap().clone()).collect()
}

#[tokio::test]
async fn each_operation_takes_the_rights_that_are_shipped_and_no_more() {
    let testbed = Testbed::shared().await;
    let world = World::new().await;
    let login = |text: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"a": text}});
    world.release("v1.0.0", &[objects::deployment("web", "app:1", 1), login("1")]);
    world.release(
        "v1.1.0",
        &[
            objects::deployment("web", "app:2", 1),
            login("2"),
            objects::config_map("added", &json!({"a": "1"})),
        ],
    );
    world.kubectl_apply("v1.1.0", &[]).await;
    let by = async |roles: &[&str], prune: bool| {
        let user = testbed.user().await;
        user.allow(&world.namespace, &rules(roles)).await;
        let cluster = connect(user.kubeconfig()).await;
        let component = environment(&cluster, &world.repo, STAGING, |options| {
            options.namespace = Some(world.namespace.name().to_owned());
            options.prune = prune;
        });
        (user, component)
    };
    let target = Target::Revision("v1.0.0".into());
    let (_viewer, view) = by(&["rollback-git-view"], false).await;
    assert_eq!(view.history().await.unwrap().len(), 2);
    let status = view.status().await.unwrap();
    assert!(status.message.starts_with("v1.1.0"), "{status:?}");
    let error = view.prepare(&target).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(error.to_string().contains("cannot patch resource \"deployments\""), "{error}");

    let both = ["rollback-git-view", "rollback-git-undo"];
    let (_operator, undo) = by(&both, false).await;
    let report = run(&undo, target.clone()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let report = run(&undo, Target::Revision("v1.1.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");

    let (_pruner, prune) = by(&[&both[..], &["rollback-git-prune"]].concat(), true).await;
    let report = run(&prune, target).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(world.namespace.get_if_exists("ConfigMap", "added").await.is_null());
}
