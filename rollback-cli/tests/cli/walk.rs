//! A walk through every command with a runbook of all four kinds of component: exit codes and JSON as CLI.md gives them.

use rollback_tests::{Mlflow, MlflowVersion, Namespace, Output, Repo, Testbed, objects};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::environments::with_kustomize;
use crate::{command, deploy, edited, finish, json, services};

const STAGING: &str = "infra/kubernetes/environments/staging";

/// One of each kind, all in their second revision.
struct World {
    namespace: Namespace,
    folder: TempDir,
    _repo: Repo,
}

impl World {
    async fn new() -> Self {
        let namespace = services::deployed("Standard", &["v4", "v5"]).await;
        deploy(&namespace, "web", &["app:1", "app:2"]).await;
        namespace.rolled_out("Deployment", "web").await;
        let server = Mlflow::shared(MlflowVersion::Three).await;
        let model = server.model(&["s3://models/baseline/v4", "s3://models/baseline/v5"]).await;
        server.stage(&model, "2", "Production", true).await;
        let repo = Repo::new();
        let kustomization = format!("namespace: {}\nresources: [all.yaml]\n", namespace.name());
        for (tag, image) in [("v1.4.0", "app:4"), ("v1.5.0", "app:5")] {
            repo.write(&format!("{STAGING}/all.yaml"), objects::deployment("scorer", image, 1).to_string());
            repo.write(&format!("{STAGING}/kustomization.yaml"), &kustomization);
            repo.commit(&format!("Release {tag}"));
            repo.git(&["tag", tag]);
        }
        let path = repo.path().join(STAGING);
        namespace.kubectl(&["apply", "-k", path.to_str().unwrap()]).await.ok();
        namespace.rolled_out("Deployment", "scorer").await;
        let text = format!(
            "apiVersion: rollback.dev/v1alpha1
kind: Runbook
metadata: {{ name: walk }}
components:
  - name: web
    deployment: {{ namespace: {namespace}, name: web }}
  - name: registry
    mlflow: {{ trackingUri: '{server}', model: {model}, stage: Production }}
  - name: serving
    inferenceService: {{ namespace: {namespace}, name: inflow-baseline }}
  - name: staging
    environment: {{ repository: '{repo}', path: {STAGING} }}
plans:
  - name: model
    steps:
      - {{ component: registry }}
      - {{ component: serving, after: [registry], follows: registry }}
      - {{ restart: web, after: [registry] }}
journal: {{ sqlite: runs.db }}
incidents: {{ directory: incidents }}
",
            namespace = namespace.name(),
            server = server.url(),
            repo = repo.path().display(),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rollback.yaml"), text).unwrap();
        Self { namespace, folder, _repo: repo }
    }

    async fn call(&self, args: &[&str]) -> Output {
        let mut command = command(Testbed::shared().await.kubeconfig(), args);
        command.current_dir(self.folder.path()).env_remove("ROLLBACK_JOURNAL");
        finish(with_kustomize(&mut command).spawn().unwrap()).await
    }

    /// What a command answers in JSON, which has this shape, as YAML says the same and as a table is there.
    async fn reads(&self, args: &[&str], shape: &Value) -> Value {
        let value = json(&self.call(&[args, &["-o", "json"]].concat()).await.ok());
        fits(&value, shape, &args.join(" "));
        let yaml = self.call(&[args, &["-o", "yaml"]].concat()).await.ok();
        fits(&serde_yaml_ng::from_str(&yaml).unwrap(), shape, &yaml);
        let table = self.call(args).await.ok();
        assert!(!table.is_empty() && serde_json::from_str::<Value>(&table).is_err(), "{args:?}: {table}");
        value
    }

    async fn writes(&self, args: &[&str], shape: &Value) -> Value {
        let value = json(&self.call(&[args, &["-o", "json"]].concat()).await.ok());
        fits(&value, shape, &args.join(" "));
        value
    }

    /// A command that fails, with this code and kind.
    async fn fails(&self, args: &[&str], code: i32, kind: &str) {
        let output = self.call(&[args, &["-o", "json"]].concat()).await;
        assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{args:?}: {output:?}");
        let error = json(output.stderr.lines().last().unwrap());
        let shape = json!({"error": {"kind": "…", "message": "…", "component": null, "hint": null}});
        fits(&error, &shape, &args.join(" "));
        assert_eq!(error["error"]["kind"], kind, "{args:?}: {error}");
    }
}

/// Whether a value has at least the members of a shape: a text for a text, `null` for anything, an entry of a list for
/// each entry.
fn fits(value: &Value, shape: &Value, place: &str) {
    match (value, shape) {
        (_, Value::Null)
        | (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        (Value::Array(values), Value::Array(shapes)) => {
            for (index, value) in values.iter().enumerate() {
                fits(value, &shapes[0], &format!("{place}[{index}]"));
            }
        }
        (Value::Object(members), Value::Object(shapes)) => {
            for (name, shape) in shapes {
                let member = members.get(name).unwrap_or_else(|| panic!("{place} has no {name}: {value}"));
                fits(member, shape, &format!("{place}.{name}"));
            }
        }
        _ => panic!("{place} is {value}, and not like {shape}"),
    }
}

const SKIP: &str = "--artifact-check=skip";

/// What a run answers.
fn run() -> Value {
    json!({"run": "…", "plan": "…", "outcome": "…", "startedAt": "…", "finishedAt": "…", "steps": [
        {"id": "…", "component": "…", "from": "…", "to": "…", "outcome": "…", "attempts": 1, "error": null}],
        "next": ["…"]})
}

/// What the status of a component answers.
fn status() -> Value {
    json!({"component": "…", "settled": true, "state": "…", "message": "…"})
}

/// Takes a component back and forth, in four runs.
async fn goes_back_and_forth(world: &World, name: &str, id: &str) {
    let (run, status, skip) = (run(), status(), SKIP);
    let history = json!({"component": "…", "revisions": [
        {"id": "…", "current": true, "created": null, "cause": null, "mark": null, "summary": "…"}]});
    let plan = json!({"digest": "…", "steps": [{"id": "…", "component": "…", "from": "…", "to": "…", "noop": true,
        "after": ["…"], "changes": [{"path": "…", "from": null, "to": null}], "warnings": ["…"]}]});
    let listed = world.reads(&["history", name], &history).await;
    assert!(id.is_empty() || listed["component"] == id, "{listed}");
    assert_eq!(listed["revisions"][0]["current"], true, "newest first: {listed}");
    let planned = world.reads(&["plan", name, skip], &plan).await;
    assert!(planned["digest"].as_str().unwrap().starts_with("sha256:"), "{planned}");
    let seen = world.reads(&["status", name], &status).await;
    assert_eq!((&seen["settled"], &seen["state"]), (&json!(true), &json!("Converged")), "{seen}");
    assert_eq!(world.call(&["status", name, "--watch", "--timeout", "60s"]).await.code, 0, "{name}");

    // What is typed in full is the same, as long as it is not a registry of the runbook.
    if !id.is_empty() && name != "staging" {
        let full = world.reads(&["history", id], &history).await;
        assert_eq!(full["component"], listed["component"]);
        world.fails(&["history", id, "-n", "elsewhere"], 2, "InvalidConfig").await;
    }
    let file = format!("{name}.json");
    world.writes(&["plan", name, skip, "--out", &file], &plan).await;
    world.fails(&["plan", name, skip, "--out", &file], 2, "InvalidConfig").await;
    let undone = world.writes(&["undo", "--plan", &file, "--yes"], &run).await;
    assert_eq!(undone["outcome"], "Completed", "{name}: {undone:#}");
    assert_eq!(undone["plan"], planned["digest"], "exactly what was planned: {name}");
    assert!(undone["steps"].as_array().unwrap().iter().all(|step| step["outcome"] == "Verified"), "{undone}");
    let id = undone["run"].as_str().unwrap();
    let shown = world.reads(&["show", id], &run).await;
    assert_eq!(shown["outcome"], "Completed");
    let reverted = world.writes(&["revert", id, "--yes"], &run).await;
    assert_eq!(reverted["outcome"], "Completed", "{name}: {reverted:#}");
    // A Deployment numbers a revision anew when it returns.
    let listed = world.reads(&["history", name], &history).await;
    let older = listed["revisions"][1]["id"].as_str().unwrap();
    world.call(&["mark", name, "--revision", older, "bad", "--reason", "leaks"]).await.ok();
    world.fails(&["undo", name, "--to-revision", older, "--yes", skip], 1, "Refused").await;
    world.call(&["mark", name, "--revision", older, "good"]).await.ok();
    let good = world.writes(&["undo", name, "--last-good", "--yes", skip], &run).await;
    assert_eq!(good["outcome"], "Completed", "{name}: {good:#}");
    let listed = world.reads(&["history", name], &history).await;
    let left = listed["revisions"].as_array().unwrap().iter().find(|one| one["mark"] == "left").unwrap();
    let forth = ["undo", name, "--to-revision", left["id"].as_str().unwrap(), "--yes", skip, "--no-verify"];
    let forth = world.writes(&forth, &run).await;
    assert_eq!((&forth["outcome"], &forth["steps"][0]["outcome"]), (&json!("Completed"), &json!("Applied")));
    world.call(&["record", name]).await.ok();
    assert_eq!(world.call(&["status", name, "--watch"]).await.code, 0);
    world.fails(&["undo", name, "--to-revision", "999999", "--yes", skip], 1, "NotFound").await;
    world.fails(&["undo", name], 2, "InvalidConfig").await;
}

#[tokio::test]
async fn every_command_answers_as_it_is_specified() {
    let world = World::new().await;
    let (run, status, skip) = (run(), status(), SKIP);
    let runs =
        json!([{"run": "…", "outcome": "…", "startedAt": "…", "finishedAt": null, "components": ["…"]}]);
    world.reads(&["check"], &json!([{"check": "…", "ok": true, "message": "…"}])).await;

    for (name, id) in [
        ("web", format!("deployment/{}/web", world.namespace.name())),
        ("registry", String::new()),
        ("serving", format!("inferenceservice/{}/inflow-baseline", world.namespace.name())),
        ("staging", format!("environment/{STAGING}")),
    ] {
        goes_back_and_forth(&world, name, &id).await;
    }

    let listed = world.reads(&["runs"], &runs).await;
    assert_eq!(listed.as_array().unwrap().len(), 16, "{listed:#}");
    let last = listed[0]["run"].as_str().unwrap();
    for format in ["markdown", "html", "json"] {
        let report = world.call(&["report", last, "--format", format]).await.ok();
        assert!(report.contains("environment"), "{format}: {report}");
    }
    world.fails(&["resume"], 1, "NotFound").await;
    world.fails(&["resume", last], 1, "Refused").await;
    world.fails(&["abandon", last, "--reason", "no"], 1, "Refused").await;
    for unknown in [&["show", "nothing"][..], &["revert", "nothing", "--yes"], &["report", "nothing"]] {
        world.fails(unknown, 1, "NotFound").await;
    }

    let dry = world.call(&["undo", "model", "--to-revision", "1", "--dry-run=server", skip]).await;
    assert!(dry.code == 0 && dry.stderr.contains("its server has no dry run"), "{dry:?}");
    let whole = world.writes(&["undo", "model", "--to-revision", "1", "--yes", skip], &run).await;
    assert_eq!(whole["outcome"], "Completed", "{whole:#}");
    let again = world.writes(&["undo", "registry", "--to-revision", "1", "--yes", skip], &run).await;
    assert_eq!(again["outcome"], "NothingToDo", "{again:#}");
    let restart = world.writes(&["restart", "web", "--all", "--yes"], &run).await;
    assert_eq!(restart["outcome"], "Completed", "{restart:#}");
    let all = world.reads(&["status"], &json!([status])).await;
    assert_eq!(all.as_array().unwrap().len(), 4, "{all:#}");

    let held = json!({"component": "…", "by": "…", "since": "…", "until": "…", "reason": "…"});
    world.writes(&["hold", "web", "--for", "1h", "--reason", "by hand"], &held).await;
    world.writes(&["hold", "--all", "--reason", "network"], &held).await;
    let holds = world.reads(&["holds"], &json!([held])).await;
    assert_eq!(holds.as_array().unwrap().len(), 2, "{holds:#}");
    for name in ["web", "--all"] {
        world.writes(&["unhold", name], &json!({"component": "…", "wasHeld": true})).await;
    }
    let changed = json!({"since": "…", "changes": [{"at": "…", "component": "…", "from": null, "to": "…"}], "firing": []});
    let seen = world.reads(&["changes", "--since", "1h"], &changed).await;
    assert!(seen["changes"].as_array().unwrap().len() >= 4, "{seen:#}");

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(world.call(&["completions", shell]).await.ok().contains("rollback"), "{shell}");
    }
    assert!(json(&world.call(&["schema"]).await.ok())["properties"].is_object());
    assert!(world.call(&["crd"]).await.ok().contains("CustomResourceDefinition"));
    // It is refused for want of policies.
    world.fails(&["watch"], 2, "InvalidConfig").await;
}

/// What is wrong with a runbook: what is replaced in the whole one, by what, and what is said of it.
const FAULTS: &[(&str, &str, &str)] = &[
    (
        "apiVersion: rollback.dev/v1alpha1",
        "apiVersion: rollback.dev/v2",
        "not a Runbook of rollback.dev/v1alpha1",
    ),
    ("kind: Runbook", "kind: Policy", "not a Runbook"),
    ("components:", "componets:", "did you mean components?"),
    ("deployment: { namespace", "deploymnt: { namespace", "did you mean deployment?"),
    ("name: inference-service }", "nam: inference-service }", "did you mean name?"),
    ("stage: Production }", "stage: Production, alias: champion }", "stage and alias name two pointers"),
    ("  - name: staging", "  - name: baseline-serving", "the name is given twice"),
    ("  - name: staging", "  - name: deploy", "is no word for a type"),
    ("onFailure: Halt", "onFailure: halt", "it is one of Halt, Compensate, Continue, did you mean Halt?"),
    ("after: [baseline-registry], follows: baseline-registry", "after: [baseline-registri]", "is no step"),
    (
        "{ component: baseline-registry }",
        "{ component: baseline-registry, after: [baseline-serving] }",
        "in a circle",
    ),
    ("{ restart: inference-service,", "{ restart: staging,", "cannot be restarted"),
    ("follows: baseline-registry }", "follows: inference-service }", "is no model"),
    ("between: [v1.4.0, v1.5.0]", "between: [v1.4.0]", "between two revisions"),
    ("{ component: staging, between", "{ component: production, between", "production is no component"),
    ("above: 5%, for: 5m, every: 15s", "above: 500%x, for: 5m, every: 15s", "a share 5%"),
    ("every: 15s", "every: 15", "a duration"),
    ("minRequests: 100 }   #", "minRequests: lots }   #", "wrong type"),
    ("target: lastGood ", "target: last-good ", "did you mean lastGood?"),
    ("actions: [alert, rollback]", "actions: [alert, rolback]", "did you mean rollback?"),
    ("changedWithin: 1h", "changdWithin: 1h", "did you mean changedWithin?"),
    ("consecutiveFailures: 3", "consecutiveFailures: -3", "line 35"),
    ("token: { env: SLACK_BOT_TOKEN }", "token: xoxb-1", "a secret is given by env"),
    ("url: \"http://alertmanager:9093\"", "url: alertmanager", "notify[1]"),
    ("http://alertmanager:9093", "http://me:hunter2@alertmanager:9093", "holds a user or a password"),
    ("stage: Production }", "stage: Prodction }", "is no stage to return to"),
    ("http://mlflow:5000", "http://me:hunter2@mlflow:5000", "MLFLOW_TRACKING_USERNAME"),
    ("http://prometheus:9090", "http://me:hunter2@prometheus:9090", "the url of prometheus holds"),
    ("cooldown: 30m", "cooldown: 30", "a duration"),
    ("cooldown: 30m", "cooldown: 1q", "a duration"),
    ("repository: .,", "repository: \"https://hunter2@h/r.git\",", "holds a secret"),
    ("rootCauseWithin: 48h", "rootCauseWithin: two days", "a duration"),
    (
        "journal: { sqlite: rollback.db }",
        "journal: { sqlite: a.db, kubernetes: {} }",
        "either sqlite or kubernetes",
    ),
    ("kind: Runbook", "kind: [Runbook", "line"),
];

#[tokio::test]
async fn a_cluster_that_is_away_is_told_by_what_looks_at_all_components() {
    let folder = tempfile::tempdir().unwrap();
    let text = "apiVersion: rollback.dev/v1alpha1\nkind: Runbook\ncomponents:\n- { name: web, deployment: { name: web } }\n";
    std::fs::write(folder.path().join("book.yaml"), text).unwrap();
    let kubeconfig = edited(Testbed::shared().await.kubeconfig(), folder.path().join("away"), |config| {
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1".into();
    });
    for (name, code, kind) in [
        ("status", 2, "Unavailable"),
        ("changes", 2, "Unavailable"),
        ("holds", 2, "Unavailable"),
        ("check", 1, "Refused"),
    ] {
        let mut command = command(&kubeconfig, &[name, "-f", "book.yaml", "-o", "json"]);
        let output = finish(command.current_dir(folder.path()).spawn().unwrap()).await;
        let error = json(output.stderr.lines().last().unwrap());
        assert_eq!((output.code, &error["error"]["kind"]), (code, &json!(kind)), "{output:?}");
    }
}

#[tokio::test]
async fn each_fault_of_a_runbook_is_told_with_its_place() {
    let whole = include_str!("../runbooks/inflow-staging.yaml");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("book.yaml");
    // For people, each on a line of its own.
    let two = whole.replacen("{ component: staging, between", "{ component: stagin, between", 1);
    std::fs::write(&path, two.replacen("after: [baseline-registry], follows", "after: [nobody], follows", 1))
        .unwrap();
    let args = ["check", "-f", path.to_str().unwrap()];
    let output = finish(command(folder.path(), &args).spawn().unwrap()).await;
    let lines: Vec<_> = output.stderr.lines().collect();
    assert!(output.code == 2 && lines.len() == 3 && lines[0].starts_with("error: the runbook"), "{output:?}");
    assert!(
        lines[1].contains("nobody is no step") && lines[2].ends_with("did you mean staging?"),
        "{output:?}"
    );
    for (right, wrong, says) in FAULTS {
        assert!(whole.contains(right), "{right}");
        std::fs::write(&path, whole.replacen(right, wrong, 1)).unwrap();
        let args = ["check", "-f", path.to_str().unwrap(), "-o", "json"];
        let output = finish(command(folder.path(), &args).spawn().unwrap()).await;
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{wrong}: {output:?}");
        let error = &json(&output.stderr)["error"];
        let message = error["message"].as_str().unwrap();
        assert!(
            error["kind"] == "InvalidConfig" && message.contains(says),
            "{wrong} should say {says}: {message}"
        );
        assert!(
            message.contains("line ") || message.contains("not a Runbook"),
            "{wrong}: no place: {message}"
        );
        assert!(
            !message.contains("xoxb") && !message.contains("hunter2"),
            "a secret is not repeated: {message}"
        );
    }
}
