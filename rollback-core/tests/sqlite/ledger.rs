//! The ledger in the same file: what survives, and what pruning leaves.

use std::time::Duration;

use rollback_core::{
    ComponentId, Engine, ErrorKind, Fact, Fingerprint, Journal, Ledger, Mark, MemoryJournal, Note, Outcome,
    Realm, Record, Retention, Snapshot,
};
use rusqlite::Connection;
use serde_json::json;

use crate::world::{Home, finished, id, start, started};

fn web() -> (Realm, ComponentId) {
    (Realm::new("here"), ComponentId::new("memory", None, "web").unwrap())
}

fn in_place(id: &str) -> Note {
    let content = json!({"image": id, "weight": 0.1});
    let fingerprint = Fingerprint::of(&content);
    let snapshot = Snapshot { id: id.into(), fingerprint, summary: "web".into(), content };
    Note { at: "2026-11-23T03:00:00.5Z".parse().unwrap(), by: "me".into(), fact: Fact::InPlace { snapshot } }
}

fn bad(id: &str) -> Note {
    let Fact::InPlace { snapshot } = in_place(id).fact else { unreachable!() };
    let Snapshot { id, fingerprint, .. } = snapshot;
    let fact = Fact::Marked { id, fingerprint, mark: Mark::Bad, why: None, snapshot: None };
    Note { fact, ..in_place("x") }
}

#[tokio::test]
async fn what_is_noted_survives_and_is_the_same_as_in_memory() {
    let home = Home::new();
    let (realm, web) = web();
    let memory = MemoryJournal::new();
    let notes = || vec![in_place("v1"), bad("v1"), in_place("v2")];
    home.open().note(&realm, &web, notes()).await.unwrap();
    memory.note(&realm, &web, notes()).await.unwrap();
    let journal = home.open();
    let record = journal.record(&realm, &web).await.unwrap();
    assert_eq!(record, memory.record(&realm, &web).await.unwrap());
    assert_eq!(record.in_place().len(), 2);
    for (realm, component) in
        [(Realm::new("there"), web.clone()), (realm, ComponentId::new("memory", None, "db").unwrap())]
    {
        assert_eq!(journal.record(&realm, &component).await.unwrap(), Record::default());
    }
}

#[tokio::test]
async fn several_processes_note_side_by_side_and_nothing_is_lost() {
    let home = Home::new();
    let (realm, web) = web();
    let journals = [home.open(), home.open(), home.open()];
    let ids: Vec<_> = (0..30).map(|n| format!("v{n}")).collect();
    let noted = ids.iter().enumerate().map(|(n, id)| journals[n % 3].note(&realm, &web, vec![bad(id)]));
    futures::future::try_join_all(noted).await.unwrap();
    let record = journals[0].record(&realm, &web).await.unwrap();
    assert_eq!(record.revisions().count(), ids.len());
}

#[tokio::test]
async fn pruning_takes_runs_that_have_ended_and_nothing_else() {
    let home = Home::new();
    let (realm, web) = web();
    let journal = std::sync::Arc::new(home.open());
    journal.note(&realm, &web, vec![bad("v1")]).await.unwrap();
    let runs = [id(), id(), id()];
    for (run, name) in runs.iter().zip(["a", "b", "c"]) {
        journal.begin(*run, start(&[name])).await.unwrap();
    }
    for run in &runs[..2] {
        journal.append(*run, finished(Outcome::Stuck)).await.unwrap();
    }
    let error = journal.forget(&runs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(journal.runs().await.unwrap().len(), 3, "all or nothing");
    let engine = Engine::new(journal.clone());
    assert_eq!(engine.prune(Retention { runs: 1, age: Duration::MAX }).await.unwrap(), 1);
    let left: Vec<_> = journal.runs().await.unwrap().into_iter().map(|run| run.run).collect();
    assert_eq!(left, [runs[2], runs[1]]);
    assert_eq!(journal.entries(runs[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
    journal.append(runs[2], started("c", 1)).await.unwrap();
    assert_eq!(journal.record(&realm, &web).await.unwrap().revisions().count(), 1);
    journal.forget(&[id()]).await.unwrap();
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_to_this_one() {
    let home = Home::new();
    let run = id();
    home.open().begin(run, start(&["web"])).await.unwrap();
    let file = Connection::open(home.path()).unwrap();
    file.execute_batch("DROP TABLE ledger; ALTER TABLE runs DROP COLUMN claims; PRAGMA user_version = 1;")
        .unwrap();
    drop(file);
    let journal = home.open();
    journal.append(run, started("web", 1)).await.unwrap();
    let (realm, web) = web();
    journal.note(&realm, &web, vec![bad("v1")]).await.unwrap();
}
