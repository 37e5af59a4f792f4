//! The pointers of MLflow models, through the command.

use std::path::Path;

use rollback_tests::{Mlflow, MlflowVersion, ObjectStore, Output};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Child;

use crate::{command, finish, json};

/// A person with a journal of their own and no cluster.
struct Person {
    home: TempDir,
    server: &'static Mlflow,
}

impl Person {
    async fn new() -> Self {
        let server = Mlflow::shared(MlflowVersion::Three).await;
        Self { home: tempfile::tempdir().unwrap(), server }
    }

    fn begin(&self, args: &[&str]) -> Child {
        let mut command = command(Path::new("/nonexistent"), args);
        command.env("ROLLBACK_JOURNAL", self.home.path().join("runs.db"));
        command.env("XDG_STATE_HOME", self.home.path()).env("MLFLOW_TRACKING_URI", self.server.url());
        command.spawn().unwrap()
    }

    async fn call(&self, args: &[&str]) -> Output {
        finish(self.begin(args)).await
    }

    /// A model of five versions, of which the fifth is in Production and `champion`.
    async fn model(&self) -> String {
        let sources: Vec<_> = (1..=5).map(|n| format!("s3://models/baseline/v{n}")).collect();
        let model = self.server.model(&sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.server.stage(&model, "4", "Archived", false).await;
        self.server.stage(&model, "5", "Production", true).await;
        self.server.alias(&model, "champion", "5").await;
        model
    }
}

#[tokio::test]
async fn a_model_goes_back_to_the_version_before_and_forth_again() {
    let person = Person::new().await;
    let model = person.model().await;
    let name = format!("model/{model}");
    let id = format!("{name}@production");
    let check = "--artifact-check=skip";
    let history = json(&person.call(&["history", &name, "-o", "json"]).await.ok());
    assert_eq!(history["component"], id.as_str());
    assert_eq!(
        (&history["revisions"][0]["id"], &history["revisions"][0]["current"]),
        (&json!("5"), &json!(true))
    );
    let plan = person.call(&["plan", &name, check]).await.ok();
    for part in ["revision 5 → 4", "is a guess", "keeps it until the model is loaded again"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let status = json(&person.call(&["status", &id, "-o", "json"]).await.ok());
    assert_eq!(
        (&status["settled"], &status["message"]),
        (&json!(true), &json!("stage Production is at version 5"))
    );
    let silent = person.call(&["undo", &name, check]).await;
    assert_eq!(silent.code, 2, "{silent:?}");

    let undo =
        json(&person.call(&["undo", &name, check, "--yes", "--reason", "worse", "-o", "json"]).await.ok());
    assert_eq!((&undo["outcome"], &undo["steps"][0]["to"]), (&json!("Completed"), &json!("4")), "{undo}");
    let stages = person.server.observe(&model).await["stages"].clone();
    assert_eq!((&stages["4"], &stages["5"]), (&json!("Production"), &json!("Archived")));
    let marks = json(&person.call(&["history", &name, "-o", "json"]).await.ok());
    assert_eq!(marks["revisions"][0]["mark"], "left");
    let second = person.call(&["plan", &name, check]).await.ok();
    assert!(second.contains("revision 4 → 3"), "further back: {second}");

    let revert = person.call(&["revert", undo["run"].as_str().unwrap(), "--yes"]).await;
    assert_eq!(revert.code, 0, "{revert:?}");
    assert_eq!(person.server.observe(&model).await["stages"]["5"], "Production");
    person.call(&["mark", &name, "--revision", "2", "good"]).await.ok();
    let good = person.call(&["plan", &name, "--last-good", check]).await.ok();
    assert!(good.contains("revision 5 → 2"), "{good}");
    let runs = json(&person.call(&["runs", "-o", "json"]).await.ok());
    assert_eq!(runs.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_alias_is_moved_and_a_stage_emptied() {
    let person = Person::new().await;
    let model = person.model().await;
    let name = format!("model/{model}");
    let history = json(&person.call(&["history", &name, "--alias", "champion", "-o", "json"]).await.ok());
    assert_eq!(history["component"], format!("{name}@champion").as_str());
    assert_eq!(
        (&history["revisions"][0]["id"], &history["revisions"][0]["current"]),
        (&json!("5"), &json!(true))
    );
    let plan = person.call(&["plan", &name, "--alias", "champion", "--artifact-check=skip"]).await.ok();
    assert!(plan.contains("revision 5 → 4") && plan.contains("/aliases/champion: 5 → 4"), "{plan}");
    let staged = person.call(&["status", &name, "--stage", "production"]).await.ok();
    assert!(staged.contains("stage Production is at version 5"), "{staged}");
    let args =
        ["undo", &name, "--alias", "champion", "--to-revision", "v4", "--yes", "--artifact-check=skip"];
    let undo = person.call(&args).await;
    assert_eq!(undo.code, 0, "{undo:?}");
    assert_eq!(person.server.observe(&model).await["aliases"][0]["version"], "4");
    let status = person.call(&["status", &format!("{name}@champion")]).await.ok();
    assert!(status.contains("alias champion is at version 4"), "{status}");
    let none = person.call(&["undo", &name, "--to-revision", "none", "--yes"]).await;
    assert_eq!(none.code, 0, "{none:?}");
    assert!(none.stderr.contains("warning: Production will be empty"), "{none:?}");
    assert_eq!(person.server.observe(&model).await["stages"]["5"], "Archived");
}

#[tokio::test]
async fn what_is_typed_or_set_wrongly_is_told_with_nothing_changed() {
    let person = Person::new().await;
    let model = person.model().await;
    let name = format!("model/{model}");
    let before = person.server.observe(&model).await;
    let undo = ["undo", "--yes", "--artifact-check=skip"];
    let prefix = format!("{}/prefix", person.server.url());
    let query = format!("{}/?token=hunter2", person.server.url());
    for (args, code, says) in [
        (&[name.as_str(), "--to-revision", "9"][..], 1, "the versions are: 5, 4, 3, 2, 1"),
        (&[&name, "--to-revision", "x"], 2, "`none` empties a stage"),
        (&[&name, "--stage", "bogus"], 2, "Production and Staging"),
        (&[&name, "--stage", "Staging"], 1, "--to-revision"),
        (&[&name, "--alias", "latest"], 2, "server's own"),
        (&[&name, "--alias", "challenger"], 1, "its aliases are: champion"),
        (&[&format!("{name}@production"), "--alias", "champion"], 2, "another"),
        (&["model/no-such-model"], 1, "not found"),
        (&["model/"], 2, "write model/NAME"),
        (&[&name, "--tracking-uri", "http://127.0.0.1:1"], 2, "does not answer"),
        (&[&name, "--tracking-uri", &prefix], 2, "no MLflow REST API"),
        (&[&name, "--tracking-uri", &query], 2, "it has a query"),
        (&[&name, "--tracking-uri", "mlruns"], 2, "http://mlflow:5000"),
        (&[&name, "--dry-run=server"], 1, "no dry run"),
    ] {
        let told = person.call(&[&undo[..], args].concat()).await;
        assert_eq!(told.code, code, "{args:?}: {told:?}");
        assert!(told.stderr.contains(says), "{says}: {args:?}: {told:?}");
    }
    let restart = person.call(&["restart", &name, "--yes"]).await;
    assert!(restart.code == 1 && restart.stderr.contains("restart the workload"), "{restart:?}");
    let blank = person.call(&[&undo[..], &[name.as_str(), "--reason", " "]].concat()).await;
    assert!(blank.code == 2 && blank.stderr.contains("say why"), "{blank:?}");
    assert_eq!(person.server.observe(&model).await, before);
}

#[tokio::test]
async fn a_target_whose_artifact_is_gone_and_a_server_that_asks_who_is_there_are_told() {
    let person = Person::new().await;
    let bucket = ObjectStore::shared().await;
    bucket.put("baseline/v2/MLmodel").await;
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = server.model(&["s3://models/baseline/gone", "s3://models/baseline/v2"]).await;
    server.stage(&model, "2", "Production", true).await;
    let before = server.observe(&model).await;
    let mut command = command(
        Path::new("/nonexistent"),
        &["undo", &format!("model/{model}"), "--to-revision", "1", "--yes", "-o", "json"],
    );
    command.env("MLFLOW_TRACKING_URI", server.url()).env("AWS_ENDPOINT_URL", bucket.url());
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1");
    let gone = finish(command.spawn().unwrap()).await;
    let error = json(&gone.stderr)["error"].clone();
    assert_eq!((gone.code, &error["kind"]), (1, &json!("Refused")), "{gone:?}");
    assert!(error["message"].as_str().unwrap().contains("s3://models/baseline/gone"), "{error}");
    assert_eq!(server.observe(&model).await, before);

    let closed = Mlflow::start(MlflowVersion::Three, true).await;
    let args = ["undo", "model/inflow-baseline", "--yes", "--tracking-uri", closed.url()];
    let unknown = person.call(&args).await;
    assert!(unknown.code == 2 && unknown.stderr.contains("MLFLOW_TRACKING_USERNAME"), "{unknown:?}");
}

#[tokio::test]
async fn of_two_people_at_once_each_is_told_what_became_of_it() {
    let (ann, ben) = (Person::new().await, Person::new().await);
    let model = ann.model().await;
    let name = format!("model/{model}");
    let begun: Vec<Child> = (0..10)
        .map(|n| {
            let (person, to) = (if n % 2 == 0 { &ann } else { &ben }, (n % 4 + 1).to_string());
            person.begin(&["undo", &name, "--artifact-check=skip", "--yes", "--to-revision", &to])
        })
        .collect();
    let ended = futures::future::join_all(begun.into_iter().map(finish)).await;
    let stages = ann.server.observe(&model).await["stages"].clone();
    let serving: Vec<_> =
        stages.as_object().unwrap().iter().filter(|(_, stage)| **stage == "Production").collect();
    let is_kept_away = |stderr: &str| stderr.contains("is held by run") || stderr.contains("is unfinished");
    // What each one's own journal and lease do not keep apart, each sees while it watches.
    for Output { code, stderr, .. } in &ended {
        let told = match code {
            0 => serving.len() == 1,
            1 => is_kept_away(stderr) || stderr.contains("changed since it was planned"),
            code => *code == 4 && stderr.contains("changed since it was planned"),
        };
        assert!(told, "{code}: {stderr}{stages}");
    }
    assert!(ended.iter().any(|ended| is_kept_away(&ended.stderr)), "{ended:#?}");
}
