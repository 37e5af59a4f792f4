//! What is known of revisions: marks, records, and what is returned to because of them.

use std::path::Path;
use std::time::Duration;

use rollback_core::{Clock as _, SystemClock, Timestamp};
use rollback_tests::{Namespace, Testbed};
use serde_json::{Value, json};

use crate::journal::Journal;
use crate::{deployed, image, json};

async fn call(journal: &Journal, namespace: &Namespace, args: &[&str]) -> rollback_tests::Output {
    journal.call(&[args, &["-n", namespace.name()]].concat()).await
}

/// The revisions that `history` lists, with their marks.
async fn listed(journal: &Journal, namespace: &Namespace) -> Vec<(String, Value)> {
    let history = json(&call(journal, namespace, &["history", "deploy/web", "-o", "json"]).await.ok());
    let revision = |r: &Value| (r["id"].as_str().unwrap().to_owned(), r["mark"].clone());
    history["revisions"].as_array().unwrap().iter().map(revision).collect()
}

fn is(id: &str, mark: Value) -> (String, Value) {
    (id.to_owned(), mark)
}

#[tokio::test]
async fn the_last_good_revision_is_returned_to_and_a_bad_one_is_not() {
    let namespace = deployed("web", &["app:1", "app:2", "app:3"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let journal = Journal::new();
    let mark = async |args: &[&str]| {
        let args = [&["mark", "deploy/web", "--revision"], args].concat();
        call(&journal, &namespace, &args).await
    };
    let good = mark(&["1", "good", "-o", "json"]).await.ok();
    let component = format!("deployment/{}/web", namespace.name());
    assert_eq!(json(&good), json!({"component": component, "revision": "1", "mark": "good"}));
    assert!(mark(&["2", "bad", "--reason", "leaks"]).await.ok().contains("revision 2 is marked bad"));
    let none = mark(&["9", "bad"]).await;
    assert!(none.code == 1 && none.stderr.contains("the revisions known are: 3, 2, 1"), "{none:?}");
    assert_eq!(
        listed(&journal, &namespace).await,
        [is("3", Value::Null), is("2", json!("bad")), is("1", json!("good"))]
    );

    let refused = call(&journal, &namespace, &["undo", "deploy/web", "--to-revision", "2", "--yes"]).await;
    assert_eq!((refused.code, image(&namespace, "web").await.as_str()), (1, "app:3"), "{refused:?}");
    for part in ["marked bad", "leaks", "--force"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let plan = call(&journal, &namespace, &["plan", "deploy/web"]).await.ok();
    assert!(plan.contains("revision 3 → 1") && plan.contains("2 is marked bad, and is skipped"), "{plan}");
    let exact = call(&journal, &namespace, &["plan", "deploy/web", "--compat", "kubectl"]).await.ok();
    assert!(exact.contains("revision 3 → 2"), "kubectl knows no marks: {exact}");

    let good = call(&journal, &namespace, &["undo", "deploy/web", "--last-good", "--yes"]).await;
    assert_eq!((good.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{good:?}");
    // The cluster has renumbered it; what is known of it is still known.
    let renumbered = [is("4", json!("good")), is("3", json!("left")), is("2", json!("bad"))];
    assert_eq!(listed(&journal, &namespace).await, renumbered);
    let forced =
        call(&journal, &namespace, &["undo", "deploy/web", "--to-revision", "2", "--force", "--yes"]).await;
    assert_eq!((forced.code, image(&namespace, "web").await.as_str()), (0, "app:2"), "{forced:?}");
}

#[tokio::test]
async fn what_was_recorded_can_be_returned_to_after_the_cluster_has_forgotten_it() {
    let namespace = deployed("web", &["app:1"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let journal = Journal::new();
    let record = call(&journal, &namespace, &["record", "deploy/web", "-o", "json"]).await.ok();
    assert_eq!(json(&record)["revision"], "1");
    let at = namespace.get("Deployment", "web").await["metadata"]["creationTimestamp"].clone();
    namespace.patch("Deployment", "web", &json!({"spec": {"revisionHistoryLimit": 1}})).await;
    // The cluster's times are whole seconds: what comes next is to come in another one.
    let created: Timestamp = at.as_str().unwrap().parse().unwrap();
    while SystemClock.now().since(created) < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for n in 2..=4 {
        namespace
            .patch("Deployment", "web", &rollback_tests::objects::image_patch(&format!("app:{n}")))
            .await;
        namespace.rolled_out("Deployment", "web").await;
    }
    let is_trimmed = |sets: &[Value]| sets.len() == 2;
    namespace.wait_list("ReplicaSet", "app=web", "trimmed", is_trimmed).await;
    let listed = listed(&journal, &namespace).await;
    assert_eq!(listed.last(), Some(&is("1", Value::Null)), "{listed:?}");
    let table = call(&journal, &namespace, &["history", "deploy/web"]).await.ok();
    assert!(table.contains("app:1 (from the record)"), "{table}");

    let as_of =
        call(&journal, &namespace, &["plan", "deploy/web", "--as-of", at.as_str().unwrap()]).await.ok();
    assert!(as_of.contains("revision 4 → 1") && as_of.contains("was in place from"), "{as_of}");
    let early = call(&journal, &namespace, &["plan", "deploy/web", "--as-of", "2001-01-01T00:00:00Z"]).await;
    assert!(early.code == 1 && early.stderr.contains("the earliest known is"), "{early:?}");
    let undo = call(&journal, &namespace, &["undo", "deploy/web", "--to-revision", "1", "--yes"]).await;
    assert_eq!((undo.code, image(&namespace, "web").await.as_str()), (0, "app:1"), "{undo:?}");
    let strange = Journal::new();
    let unknown = call(&strange, &namespace, &["undo", "deploy/web", "--to-revision", "1", "--yes"]).await;
    assert_eq!(unknown.code, 1, "only this ledger holds it: {unknown:?}");
}

#[tokio::test]
async fn what_cannot_be_kept_or_read_is_told() {
    let namespace = deployed("web", &["app:1"]).await;
    let journal = Journal::new();
    for args in [
        &["mark", "deploy/web", "--revision", "1", "good", "--journal", "memory"][..],
        &["record", "deploy/web", "--journal", "memory"],
        &["mark", "deploy/web", "--revision", "1", "fine"],
        &["mark", "deploy/web", "good"],
        &["plan", "deploy/web", "--as-of", "yesterday"],
        &["plan", "deploy/web", "--last-good", "--to-revision", "1"],
        &["undo", "deploy/web", "--yes", "--break-lease"],
    ] {
        let told = call(&journal, &namespace, args).await;
        assert_eq!(told.code, 2, "{args:?}: {told:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "no journal\n".repeat(100)).unwrap();
    let args = ["history", "deploy/web", "--journal", text.to_str().unwrap()];
    let history = call(&journal, &namespace, &args).await;
    assert!(history.code == 0 && history.stderr.contains("marks are not shown"), "{history:?}");
    assert!(Path::new(&text).exists());
    let nothing = call(&journal, &namespace, &["record", "deploy/none"]).await;
    assert_eq!(nothing.code, 1, "{nothing:?}");
    assert!(Testbed::shared().await.has_stand_in());
}
