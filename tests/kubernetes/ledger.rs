//! The ledger in the cluster.

use rollback_core::{
    ComponentId, Fact, Fingerprint, Ledger, Mark, MemoryJournal, Note, Realm, Record, Snapshot,
};
use rollback_k8s::KubernetesJournal;
use rollback_tests::{Fault, Matcher, Testbed};
use serde_json::json;

use crate::journal::{home, open};
use crate::rights::user_with;
use crate::undo::connect;

fn web() -> (Realm, ComponentId) {
    (Realm::new("here"), ComponentId::new("deployment", Some("shop"), "web").unwrap())
}

fn in_place(id: &str) -> Note {
    let content = json!({"image": id, "password": "correct-horse"});
    let fingerprint = Fingerprint::of(&content);
    let snapshot = Snapshot { id: id.into(), fingerprint, summary: "web".into(), content };
    Note { at: "2026-11-23T03:00:00Z".parse().unwrap(), by: "me".into(), fact: Fact::InPlace { snapshot } }
}

fn marked(id: &str, mark: Mark) -> Note {
    let Fact::InPlace { snapshot } = in_place(id).fact else { unreachable!() };
    let Snapshot { id, fingerprint, .. } = snapshot;
    Note { fact: Fact::Marked { id, fingerprint, mark, why: None, snapshot: None }, ..in_place("x") }
}

#[tokio::test]
async fn what_is_noted_is_seen_by_others_and_kept_in_a_secret() {
    let namespace = home("ledger").await;
    let (realm, web) = web();
    let (first, second, memory) = (open(&namespace).await, open(&namespace).await, MemoryJournal::new());
    assert_eq!(first.record(&realm, &web).await.unwrap(), Record::default());
    let notes = || vec![in_place("v1"), marked("v1", Mark::Good), in_place("v2")];
    first.note(&realm, &web, notes()).await.unwrap();
    memory.note(&realm, &web, notes()).await.unwrap();
    assert_eq!(second.record(&realm, &web).await.unwrap(), memory.record(&realm, &web).await.unwrap());
    let secrets = namespace.list("Secret", "app.kubernetes.io/managed-by=rollback").await;
    assert_eq!(secrets[0]["metadata"]["annotations"]["rollback.dev/component"], "deployment/shop/web");
    let elsewhere = second.record(&Realm::new("there"), &web).await.unwrap();
    assert_eq!(elsewhere, Record::default(), "the same name elsewhere is another component");
}

#[tokio::test]
async fn those_who_note_at_once_lose_nothing_also_where_answers_are_lost() {
    let namespace = home("ledger-many").await;
    let (realm, web) = web();
    let proxy = Testbed::shared().await.proxy().await;
    for method in ["POST", "PUT"] {
        proxy.fault(Matcher::method(method).times(1), Fault::DropResponse);
    }
    let user = user_with(&namespace, &["rollback-journal"]).await;
    let journals = [
        open(&namespace).await,
        KubernetesJournal::new(&connect(proxy.kubeconfig()).await, namespace.name(), "b"),
        KubernetesJournal::new(&connect(user.kubeconfig()).await, namespace.name(), "c"),
    ];
    let ids: Vec<_> = (0..12).map(|n| format!("v{n}")).collect();
    let noted =
        ids.iter().enumerate().map(|(n, id)| journals[n % 3].note(&realm, &web, vec![marked(id, Mark::Bad)]));
    futures::future::try_join_all(noted).await.unwrap();
    let record = journals[0].record(&realm, &web).await.unwrap();
    assert_eq!(record.revisions().count(), ids.len());
}
