//! Components and plans by the names that a runbook gives them.

use std::path::Path;

use rollback_tests::{Mlflow, MlflowVersion, Namespace, Output, Testbed};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::services::{deployed, model};
use crate::{command, finish, json};

/// A folder with a runbook of a model and the service that follows it.
async fn runbook(namespace: &Namespace, registered: &str) -> TempDir {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let text = format!(
        "apiVersion: rollback.dev/v1alpha1
kind: Runbook
metadata: {{ name: test }}
components:
  - name: registry
    mlflow: {{ trackingUri: '{}', model: {registered}, stage: Production }}
  - name: serving
    inferenceService: {{ namespace: {}, name: inflow-baseline }}
plans:
  - name: model
    steps:
      - {{ component: registry }}
      - {{ component: serving, after: [registry], follows: registry }}
journal: {{ sqlite: runs.db }}
",
        server.url(),
        namespace.name()
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rollback.yaml"), text).unwrap();
    folder
}

/// Calls the command in a folder, with no other journal than the folder's runbook says.
async fn call(folder: &Path, args: &[&str]) -> Output {
    let mut command = command(Testbed::shared().await.kubeconfig(), args);
    command.current_dir(folder).env_remove("ROLLBACK_JOURNAL");
    finish(command.spawn().unwrap()).await
}

/// A registered model whose third version is in Production.
async fn registered() -> String {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let name = server
        .model(
            &["v3", "v4", "v5"].map(|v| format!("s3://models/baseline/{v}")).each_ref().map(String::as_str),
        )
        .await;
    server.stage(&name, "3", "Production", true).await;
    name
}

#[tokio::test]
async fn to_version_2_is_said_once_and_the_service_follows() {
    let namespace = deployed("Knative", &["v4", "v5"]).await;
    let name = registered().await;
    let folder = runbook(&namespace, &name).await;
    let folder = folder.path();
    let history = json(&call(folder, &["history", "serving", "-o", "json"]).await.ok());
    assert_eq!(history["revisions"][0]["summary"], "s3://models/baseline/v5 (version 3)");

    let skip = "--artifact-check=skip";
    let plan = json(&call(folder, &["plan", "model", "--to-revision", "2", skip, "-o", "json"]).await.ok());
    let ids: Vec<_> = plan["steps"].as_array().unwrap().iter().map(|step| step["id"].clone()).collect();
    assert_eq!(ids, ["registry", "serving.1", "serving.2", "serving.3"]);
    assert_eq!(plan["steps"][1]["after"], json!(["registry"]));
    let untied = "nothing here loads the model again; the plan model of the runbook does";
    assert!(!plan.to_string().contains("loads the model again"), "the service follows: {plan}");
    let alone = call(folder, &["plan", "registry", "--to-revision", "2", skip]).await.ok();
    assert!(alone.contains(untied), "{alone}");

    let undo = call(folder, &["undo", "model", "--to-revision", "2", skip, "--yes", "-o", "json"]).await;
    let run = json(&undo.stdout);
    assert_eq!((undo.code, &run["outcome"]), (0, &json!("Completed")), "{undo:?}");
    assert_eq!(model(&namespace).await, "s3://models/baseline/v4");
    let stages = Mlflow::shared(MlflowVersion::Three).await.observe(&name).await["stages"].clone();
    assert_eq!(stages, json!({"1": "None", "2": "Production", "3": "Archived"}));

    // It was recorded where the runbook says, beside it.
    let runs = json(&call(folder, &["runs", "-o", "json"]).await.ok());
    assert_eq!(runs[0]["run"], run["run"]);
    assert!(folder.join("runs.db").exists());
    let back = call(folder, &["revert", run["run"].as_str().unwrap(), "--yes"]).await;
    assert_eq!((back.code, model(&namespace).await), (0, json!("s3://models/baseline/v5")), "{back:?}");
}

#[tokio::test]
async fn what_cannot_be_taken_back_takes_a_reason_however_it_is_named_and_on_the_way_back_too() {
    let namespace = crate::deployed("web", &["app:1", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = format!(
        "apiVersion: rollback.dev/v1alpha1
kind: Runbook
components:
  - {{ name: web, deployment: {{ namespace: {}, name: web }} }}
  - {{ name: staging, environment: {{ repository: 'https://127.0.0.1:1/away.git', path: staging }} }}
irreversible:
  - {{ component: staging, reason: its repository is away }}
  - {{ component: web, reason: drops a column }}
journal: {{ sqlite: runs.db }}
",
        namespace.name()
    );
    std::fs::write(folder.join("rollback.yaml"), text).unwrap();
    let full = format!("deployment/{}/web", namespace.name());
    for name in ["web", &full] {
        let refused = call(folder, &["undo", name, "--yes"]).await;
        assert!(refused.code == 1 && refused.stderr.contains("drops a column"), "{name}: {refused:?}");
    }
    let args = ["undo", &full, "--yes", "--incident", "INC-42", "--reason", "restored", "-o", "json"];
    let run = json(&call(folder, &args).await.ok());
    assert_eq!(run["reason"], "INC-42: restored");
    let id = run["run"].as_str().unwrap();
    let back = call(folder, &["revert", id, "--yes", "-o", "json"]).await;
    let error = json(back.stderr.lines().last().unwrap_or_default());
    assert_eq!((back.code, &error["error"]["kind"]), (1, &json!("Refused")), "{back:?}");
}

#[tokio::test]
async fn what_the_runbook_does_not_know_or_says_wrongly_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let error = async |args: &[&str]| -> (i32, Value) {
        let output = call(folder, &[args, &["-o", "json"]].concat()).await;
        let line = output.stderr.lines().last().unwrap_or_default().to_owned();
        (output.code, json(&line)["error"].clone())
    };
    let (code, told) = error(&["undo", "model", "--yes"]).await;
    assert!(code == 2 && told["message"].as_str().unwrap().contains("there is no runbook"), "{told}");

    let text = "apiVersion: rollback.dev/v1alpha1\nkind: Runbook\ncomponents:\n- name: web\n  deployment: { name: web }\n";
    std::fs::write(folder.join("rollback.yaml"), text).unwrap();
    let (code, told) = error(&["undo", "wbe", "--yes"]).await;
    assert!(code == 2 && told["hint"].as_str().unwrap().contains("it knows: web"), "{told}");

    std::fs::write(folder.join("rollback.yaml"), text.replace("deployment", "deploymnt")).unwrap();
    let (code, told) = error(&["history", "web", "-f", "rollback.yaml"]).await;
    let message = told["message"].as_str().unwrap();
    assert!(code == 2 && message.contains("deploymnt") && message.contains("line 5"), "{told}");
    // What is typed in full does not need it.
    let full = call(folder, &["history", "deployment/none"]).await;
    assert!(full.code == 1 && full.stderr.contains("warning: the runbook"), "{full:?}");

    // Nor is one believed that anybody could have written, unless it is named.
    let path = folder.join("rollback.yaml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let output = call(folder, &["history", "web"]).await;
    assert!(output.code == 2 && output.stderr.contains("can be written by anybody"), "{output:?}");
    let named = call(folder, &["history", "web", "-f", "rollback.yaml"]).await;
    assert!(named.code == 1 && !named.stderr.contains("warning"), "{named:?}");
}
