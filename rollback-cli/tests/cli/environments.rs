//! Environments, through the command.

use std::collections::BTreeSet;

use rollback_tests::{Namespace, Output, Repo, Testbed, kustomize, objects};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::journal::Journal;
use crate::{command, finish, json};

const STAGING: &str = "infra/kubernetes/environments/staging";
const ENVIRONMENT: &str = "environment/infra/kubernetes/environments/staging";

/// The same command, which finds kustomize.
pub(crate) fn with_kustomize(command: &mut Command) -> &mut Command {
    let mut path = kustomize().parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    command.env("PATH", path)
}

/// A repository whose environment is applied to a namespace as kubectl does, in its newest of three tags.
struct World {
    namespace: Namespace,
    repo: Repo,
}

impl World {
    async fn new() -> Self {
        let testbed = Testbed::shared().await;
        let world = Self { namespace: testbed.namespace("cli-env").await, repo: Repo::new() };
        for (tag, image) in [("v1.3.0", "app:3"), ("v1.4.0", "app:4"), ("v1.5.0", "app:5")] {
            let mut objects = vec![
                objects::deployment("web", image, 1),
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
                    "stringData": {"password": format!("hunter2-{image}")}}),
            ];
            if tag == "v1.5.0" {
                objects.push(objects::config_map("added", &json!({"a": "1"})));
            }
            let text: Vec<_> = objects.iter().map(Value::to_string).collect();
            world.repo.write(&format!("{STAGING}/all.yaml"), text.join("\n---\n"));
            world.repo.write(&format!("{STAGING}/kustomization.yaml"), "resources: [all.yaml]\n");
            world.repo.commit(&format!("Release {tag}"));
            world.repo.git(&["tag", tag]);
        }
        world.repo.write("docs/only.md", "no environment");
        let folder = world.repo.path().join(STAGING);
        world.namespace.kubectl(&["apply", "-k", folder.to_str().unwrap()]).await.ok();
        world
    }

    async fn call(&self, args: &[&str]) -> Output {
        let folder = self.repo.path().to_str().unwrap();
        self.call_plainly(&[args, &["--repo", folder, "-n", self.namespace.name()]].concat()).await
    }

    async fn call_plainly(&self, args: &[&str]) -> Output {
        let mut command = command(Testbed::shared().await.kubeconfig(), args);
        finish(with_kustomize(&mut command).spawn().unwrap()).await
    }

    async fn image(&self) -> Value {
        self.namespace.get("Deployment", "web").await["spec"]["template"]["spec"]["containers"][0]["image"]
            .clone()
    }
}

#[tokio::test]
async fn an_environment_goes_back_to_an_older_tag_and_forth_again() {
    let world = World::new().await;
    let history = json(&world.call(&["history", ENVIRONMENT, "-o", "json"]).await.ok());
    assert_eq!(history["component"], ENVIRONMENT);
    let listed: Vec<_> = history["revisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["id"].clone(), r["current"].clone()))
        .collect();
    let of = |id: &str, current: bool| (json!(id), json!(current));
    assert_eq!(listed, [of("v1.5.0", true), of("v1.4.0", false), of("v1.3.0", false)]);
    let status = json(&world.call(&["status", ENVIRONMENT, "-o", "json"]).await.ok());
    assert!(status["message"].as_str().unwrap().starts_with("v1.5.0 ("), "{status}");

    let plan = world.call(&["plan", ENVIRONMENT, "--prune", "-o", "json"]).await.ok();
    assert!(!plan.contains("hunter2"), "{plan}");
    let plan = json(&plan);
    let steps = plan["steps"].as_array().unwrap();
    let ends: Vec<_> = steps.iter().map(|step| (step["from"].clone(), step["to"].clone())).collect();
    assert_eq!(
        ends,
        [(json!("v1.5.0"), json!("v1.4.0, not pruned")), (json!("v1.4.0, not pruned"), json!("v1.4.0"))]
    );
    let path = format!("/Deployment/{}/web/spec/template/spec/containers/app/image", world.namespace.name());
    let change =
        steps[0]["changes"].as_array().unwrap().iter().find(|change| change["path"] == path.as_str());
    assert_eq!((&change.unwrap()["from"], &change.unwrap()["to"]), (&json!("app:5"), &json!("app:4")));
    let shown = world.call(&["plan", ENVIRONMENT, "--prune"]).await.ok();
    assert!(shown.contains("v1.5.0") && shown.contains("v1.4.0") && !shown.contains("hunter2"), "{shown}");

    let dry = world.call(&["undo", ENVIRONMENT, "--prune", "--dry-run=server"]).await;
    assert_eq!((dry.code, world.image().await), (0, json!("app:5")), "{dry:?}");
    let undo = world.call(&["undo", ENVIRONMENT, "--prune", "--yes", "-o", "json"]).await;
    let run = json(&undo.stdout);
    assert_eq!((undo.code, &run["outcome"]), (0, &json!("Completed")), "{undo:?}");
    assert_eq!(world.image().await, "app:4");
    assert!(world.namespace.get_if_exists("ConfigMap", "added").await.is_null());

    // The run knows where its repository is.
    let id = run["run"].as_str().unwrap();
    let revert = world.call_plainly(&["revert", id, "--yes", "-o", "json"]).await;
    assert_eq!((revert.code, &json(&revert.stdout)["outcome"]), (0, &json!("Completed")), "{revert:?}");
    assert_eq!(world.image().await, "app:5");
    assert!(world.namespace.get_if_exists("ConfigMap", "added").await.is_object());
    let again = world
        .call(&["undo", "env/infra/kubernetes/environments/staging/", "--to-revision", "v1.3.0", "--yes"])
        .await;
    assert_eq!((again.code, world.image().await), (0, json!("app:3")), "{again:?}");
}

#[tokio::test]
async fn a_kept_plan_of_an_environment_is_carried_out_from_elsewhere() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plan.json");
    let file = file.to_str().unwrap();
    world.call(&["plan", ENVIRONMENT, "--out", file]).await.ok();
    let undo = world.call_plainly(&["undo", "--plan", file, "--yes"]).await;
    assert_eq!((undo.code, world.image().await), (0, json!("app:4")), "{undo:?}");
    let stale = world.call_plainly(&["undo", "--plan", file, "--yes", "-o", "json"]).await;
    assert_eq!(stale.code, 0, "it is there already: {stale:?}");
}

#[tokio::test]
async fn an_environment_of_a_runbook_is_known_by_its_name() {
    let world = World::new().await;
    let runbook = world.repo.path().join("rollback.yaml");
    let text = format!(
        "apiVersion: rollback.dev/v1alpha1\nkind: Runbook\ncomponents:\n- name: staging\n  environment: {{repository: ., path: {STAGING}, tags: 'v1.[35].*', prune: true}}\n"
    );
    std::fs::write(&runbook, text).unwrap();
    let args =
        ["plan", "staging", "-f", runbook.to_str().unwrap(), "-n", world.namespace.name(), "-o", "json"];
    let plan = json(&world.call_plainly(&args).await.ok());
    assert_eq!(plan["steps"].as_array().unwrap().len(), 2, "it prunes: {plan:#}");
    assert_eq!(plan["steps"][1]["to"], "v1.3.0", "v1.4.0 does not match the pattern");
}

#[tokio::test]
async fn bad_input_gets_its_error_with_nothing_changed() {
    let world = World::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let nowhere = elsewhere.path().to_str().unwrap();
    let repo = world.repo.path().to_str().unwrap();
    let namespace = world.namespace.name();
    let base = ["-n", namespace, "-o", "json"];
    for (args, code, kind, part) in [
        (
            &["plan", ENVIRONMENT, "--repo", repo, "--to-revision", "v9.9.9"][..],
            1,
            "NotFound",
            "v9.9.9 is no tag",
        ),
        (
            &["plan", "environment/docs", "--repo", repo, "--to-revision", "v1.4.0"],
            1,
            "NotFound",
            "no folder at commit",
        ),
        (&["plan", "environment/absent", "--repo", repo], 1, "NotFound", "no tag that matches"),
        (&["plan", ENVIRONMENT, "--repo", nowhere], 2, "InvalidConfig", "not in a git repository"),
        (&["plan", "environment/../up", "--repo", repo], 2, "InvalidConfig", "not a path inside"),
        (&["plan", "environment/", "--repo", repo], 2, "InvalidConfig", "write environment/PATH"),
        (&["plan", ENVIRONMENT, "--repo", repo, "--only", "web"], 2, "InvalidConfig", "KIND/NAME"),
        (&["plan", "deploy/web", "--prune"], 2, "InvalidConfig", "are for environments"),
        (
            &["plan", ENVIRONMENT, "--repo", repo, "--compat", "kubectl"],
            2,
            "InvalidConfig",
            "is for workloads",
        ),
        (&["restart", ENVIRONMENT, "--repo", repo, "--yes"], 1, "Unsupported", "not restarted as a whole"),
    ] {
        let output = world.call_plainly(&[args, &base].concat()).await;
        let error = json(&output.stderr)["error"].clone();
        assert_eq!((output.code, &error["kind"]), (code, &json!(kind)), "{args:?}: {output:?}");
        assert!(error["message"].as_str().unwrap().contains(part), "{args:?}: {error}");
    }
    // Without kustomize, and with one that fails.
    let mut without = command(
        Testbed::shared().await.kubeconfig(),
        &["plan", ENVIRONMENT, "--repo", repo, "-n", namespace, "-o", "json"],
    );
    let output = finish(without.env("PATH", nowhere).spawn().unwrap()).await;
    assert_eq!(
        (output.code, &json(&output.stderr)["error"]["kind"]),
        (2, &json!("InvalidConfig")),
        "{output:?}"
    );
    assert!(output.stderr.contains("neither kustomize nor kubectl"), "{output:?}");
    world.repo.write(&format!("{STAGING}/kustomization.yaml"), "resources: [absent.yaml]\n");
    world.repo.commit("broken");
    world.repo.git(&["tag", "v1.6.0"]);
    let output = world.call(&["plan", ENVIRONMENT, "--to-revision", "v1.6.0", "-o", "json"]).await;
    assert_eq!((output.code, &json(&output.stderr)["error"]["kind"]), (1, &json!("Refused")), "{output:?}");
    assert!(output.stderr.contains("does not render") && output.stderr.contains("absent.yaml"), "{output:?}");
    assert_eq!(world.image().await, "app:5");
}

#[tokio::test]
async fn a_run_of_an_environment_killed_at_any_moment_is_finished_by_resuming_it() {
    let seed =
        std::env::var("ROLLBACK_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("ROLLBACK_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new().await;
    let values = async || -> BTreeSet<String> {
        let maps = world.namespace.list("ConfigMap", "").await;
        let maps = maps.iter().filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with("many-"));
        maps.map(|map| map["data"]["value"].as_str().unwrap().to_owned()).collect()
    };
    for tag in ["v2.0.0", "v2.1.0"] {
        let many =
            (0..30).map(|n| objects::config_map(&format!("many-{n}"), &json!({"value": tag})).to_string());
        world.repo.write(&format!("{STAGING}/all.yaml"), many.collect::<Vec<_>>().join("\n---\n"));
        world.repo.commit(tag);
        world.repo.git(&["tag", tag]);
        world.call(&["undo", ENVIRONMENT, "--to-revision", tag, "--yes"]).await.ok();
    }
    let mut cut = 0;
    for (round, tag) in ["v2.0.0", "v2.1.0", "v2.0.0", "v2.1.0"].into_iter().enumerate() {
        let journal = Journal::new();
        for call in 0.. {
            let runs = journal.runs().await;
            let (args, is_undo): (&[&str], bool) = match runs.as_slice() {
                [] => (&["undo", ENVIRONMENT, "--to-revision", tag, "--yes"], true),
                [run] if run["outcome"] == "Completed" => break,
                [_] => (&["resume"], false),
                several => panic!("{several:?}"),
            };
            cut += usize::from(!is_undo);
            let folder = world.repo.path().to_str().unwrap();
            let flags: &[&str] =
                if is_undo { &["--repo", folder, "-n", world.namespace.name()] } else { &[] };
            let mut command = journal.command(Testbed::shared().await.kubeconfig(), &[args, flags].concat());
            let mut child = with_kustomize(&mut command).spawn().unwrap();
            if call < 3 {
                let time = std::time::Duration::from_millis(random.u64(100..1500));
                if tokio::time::timeout(time, child.wait()).await.is_err() {
                    child.kill().await.unwrap();
                }
            } else {
                let output = finish(child).await;
                assert_eq!(output.code, 0, "{args:?}: {output:?}");
            }
        }
        assert_eq!(values().await, BTreeSet::from([tag.to_owned()]), "round {round}, seed {seed}");
        let status = world.call(&["status", ENVIRONMENT]).await.ok();
        assert!(status.contains(tag), "{status}");
    }
    println!("{cut} resumptions");
}
