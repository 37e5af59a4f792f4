//! What a version refers to is looked for before its pointer moves.

use rollback_core::{ErrorKind, Outcome, Rollbackable};
use rollback_mlflow::{ArtifactCheck, ModelPointer, PointerOptions, Stage, StoreOptions};
use rollback_tests::{Mlflow, MlflowVersion, ObjectStore};

use crate::world::{options, registry, revision, undo};

fn checking(store: &ObjectStore, check: ArtifactCheck) -> PointerOptions {
    let mut options = options();
    options.artifact_check = check;
    options.store = StoreOptions::default()
        .with("aws_endpoint", store.url())
        .with("aws_access_key_id", "test")
        .with("aws_secret_access_key", "test")
        .with("aws_region", "us-east-1");
    options
}

#[tokio::test]
async fn a_version_whose_artifact_is_gone_is_shown_and_refused() {
    let store = ObjectStore::shared().await;
    let server = Mlflow::shared(MlflowVersion::Three).await;
    // The name of the one that is gone begins that of one which is there.
    let sources =
        ["s3://models/a/v1", "s3://models/a/v4", "s3://models/a/v40", "dbfs:/models/v3", "s3://nowhere/v1"];
    for key in ["a/v1/MLmodel", "a/v40/MLmodel", "a/one.bst"] {
        store.put(key).await;
    }
    let model = server.model(&sources).await;
    server.stage(&model, "3", "Production", true).await;
    let registry = registry(server.url());
    let pointer =
        |check| ModelPointer::stage(&registry, &model, Stage::Production, checking(store, check)).unwrap();
    let warn = pointer(ArtifactCheck::Warn);
    let gone: Vec<_> =
        warn.history().await.unwrap().into_iter().map(|r| (r.id, r.summary.contains("gone"))).collect();
    let expect = [("5", true), ("4", false), ("3", false), ("2", true), ("1", false)];
    assert_eq!(gone, expect.map(|(id, gone)| (id.to_owned(), gone)));

    let before = server.observe(&model).await;
    let refused = undo(&warn, revision("2")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("s3://models/a/v4"), "{refused}");
    let unknown = undo(&pointer(ArtifactCheck::Require), revision("4")).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Refused);
    assert!(unknown.hint().unwrap().contains("--artifact-check=warn"), "{unknown:?}");
    assert_eq!(server.observe(&model).await, before);
    let warned = warn.prepare(&revision("4")).await.unwrap().remove(0);
    assert!(warned.warnings.iter().any(|w| w.contains("was not checked")), "{warned:?}");
    let report = undo(&pointer(ArtifactCheck::Require), revision("1")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");

    let single = server.model(&["s3://models/a/one.bst", "s3://models/a/two.bst"]).await;
    let options = checking(store, ArtifactCheck::Require);
    let single = ModelPointer::stage(&registry, &single, Stage::Production, options).unwrap();
    let gone: Vec<_> = single.history().await.unwrap().iter().map(|r| r.summary.contains("gone")).collect();
    assert_eq!(gone, [true, false], "a model may be one object");

    let mut forced = checking(store, ArtifactCheck::Warn);
    forced.force = true;
    let forced = ModelPointer::stage(&registry, &model, Stage::Production, forced).unwrap();
    assert_eq!(undo(&forced, revision("2")).await.unwrap().outcome, Outcome::Completed);
}

#[tokio::test]
async fn where_a_logged_model_is_only_the_server_says() {
    let store = ObjectStore::shared().await;
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = server.model(&[]).await;
    let script = format!(
        "experiment = client.create_experiment('{model}', artifact_location='s3://models/{model}')\n\
         logged = [client.create_logged_model(experiment) for _ in range(2)]\n\
         for one in logged: client.create_model_version('{model}', f'models:/{{one.model_id}}', model_id=one.model_id)\n\
         print(json.dumps([one.artifact_location for one in logged]))"
    );
    let locations = server.python(&script).await;
    let there = locations[0].as_str().unwrap().trim_start_matches("s3://models/");
    store.put(&format!("{there}/MLmodel")).await;
    server.alias(&model, "champion", "1").await;
    let registry = registry(server.url());
    let pointer = ModelPointer::alias(&registry, &model, "champion", checking(store, ArtifactCheck::Require));
    let pointer = pointer.unwrap();
    let history = pointer.history().await.unwrap();
    let seen: Vec<_> = history.iter().map(|r| r.summary.contains("its artifact is gone")).collect();
    assert_eq!(seen, [true, false], "{history:?}");
    assert!(history[0].summary.starts_with("models:/m-"), "{history:?}");
    let error = undo(&pointer, revision("2")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let uri = pointer.artifact("1").await.unwrap().unwrap();
    assert_eq!(uri.trim_end_matches('/'), locations[0].as_str().unwrap().trim_end_matches('/'));
}

#[tokio::test]
async fn a_store_that_is_away_is_a_warning_or_a_refusal() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = server.model(&["s3://models/a/v1", "s3://models/a/v2"]).await;
    server.stage(&model, "2", "Production", true).await;
    let registry = registry(server.url());
    let pointer = |check| {
        let mut options = options();
        options.artifact_check = check;
        options.store = StoreOptions::default()
            .with("aws_endpoint", "http://127.0.0.1:1")
            .with("aws_access_key_id", "test")
            .with("aws_secret_access_key", "test")
            .with("aws_region", "us-east-1");
        ModelPointer::stage(&registry, &model, Stage::Production, options).unwrap()
    };
    let warned = pointer(ArtifactCheck::Warn);
    let change = warned.prepare(&revision("1")).await.unwrap().remove(0);
    let says = "the artifact of version 1 was not checked: its store cannot be asked: no answer";
    assert!(change.warnings.iter().any(|w| w.contains(says)), "{change:?}");
    assert!(warned.history().await.unwrap().iter().all(|r| !r.summary.contains("gone")));
    let before = server.observe(&model).await;
    let error = undo(&pointer(ArtifactCheck::Require), revision("1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.hint().unwrap().contains("--artifact-check=warn"), "{error:?}");
    assert_eq!(server.observe(&model).await, before);
}
