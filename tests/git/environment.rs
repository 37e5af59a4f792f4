//! Environments on the real API server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Change, Components, Engine, Error, ErrorKind, FailurePolicy, MemoryJournal, Outcome, Plan, Planner,
    Rollbackable, RunOptions, RunReport, Target,
};
use rollback_git::{EnvironmentOptions, KustomizeEnvironment};
use rollback_k8s::{Cluster, ConnectOptions};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::world::{Repo, STAGING, kustomize};

pub(crate) async fn connect(kubeconfig: &Path) -> Cluster {
    let options = ConnectOptions { kubeconfig: Some(kubeconfig.to_owned()), context: None };
    Cluster::connect(options).await.unwrap()
}

/// An environment of a repository.
pub(crate) fn environment(
    cluster: &Cluster,
    repo: &Repo,
    path: &str,
    set: impl FnOnce(&mut EnvironmentOptions),
) -> KustomizeEnvironment {
    let mut options = EnvironmentOptions::default();
    options.grace = Duration::from_secs(3);
    set(&mut options);
    let made = KustomizeEnvironment::new(cluster, &repo.open(), path, options).unwrap();
    made.with_renderer(Arc::new(kustomize()))
}

/// A namespace, and a repository whose environment is applied there.
pub(crate) struct World {
    pub(crate) namespace: Namespace,
    pub(crate) repo: Repo,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self { namespace: Testbed::shared().await.namespace("env").await, repo: Repo::new() }
    }

    /// Commits and tags these objects as the whole of the environment.
    pub(crate) fn release(&self, tag: &str, objects: &[Value]) {
        self.write(objects);
        self.repo.commit(tag);
        self.repo.git(&["tag", tag]);
    }

    fn write(&self, objects: &[Value]) {
        let text: Vec<_> = objects.iter().map(Value::to_string).collect();
        self.repo.write(&format!("{STAGING}/all.yaml"), text.join("\n---\n"));
        self.repo.write(&format!("{STAGING}/kustomization.yaml"), "resources: [all.yaml]\n");
    }

    pub(crate) async fn component(&self, set: impl FnOnce(&mut EnvironmentOptions)) -> KustomizeEnvironment {
        let cluster = connect(Testbed::shared().await.kubeconfig()).await;
        environment(&cluster, &self.repo, STAGING, |options| {
            options.namespace = Some(self.namespace.name().to_owned());
            set(options);
        })
    }

    /// As `git checkout TAG && kubectl apply -k` does.
    pub(crate) async fn kubectl_apply(&self, tag: &str, how: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().to_str().unwrap();
        self.repo.git(&["--work-tree", tree, "checkout", "--quiet", tag, "--", "."]);
        let path = format!("{tree}/{STAGING}");
        self.namespace.kubectl(&[&["apply", "-k", &path], how].concat()).await.ok();
    }

    pub(crate) async fn changes(&self, tag: &str) -> Result<Vec<Change>, Error> {
        self.component(|options| options.prune = true).await.prepare(&Target::Revision(tag.into())).await
    }

    pub(crate) async fn undo(&self, target: Target) -> RunReport {
        let component = self.component(|options| options.prune = true).await;
        run(&component, target).await
    }

    pub(crate) async fn to(&self, tag: &str) -> RunReport {
        self.undo(Target::Revision(tag.into())).await
    }

    async fn current(&self) -> String {
        let history = self.component(|_| {}).await.history().await.unwrap();
        history.into_iter().find(|revision| revision.current).map(|revision| revision.id).unwrap_or_default()
    }
}

/// Plans and carries out.
pub(crate) async fn run(component: &KustomizeEnvironment, target: Target) -> RunReport {
    let component: Arc<dyn Rollbackable> = Arc::new(component.clone());
    let planner = Planner::new().on_failure(FailurePolicy::Halt);
    let plan = planner.rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    execute(&component, &plan).await
}

async fn execute(component: &Arc<dyn Rollbackable>, plan: &Plan) -> RunReport {
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let mut options = RunOptions::by("tests");
    options.settings.verify_timeout = Duration::from_secs(60);
    engine.execute(plan, &Components::new().with(component.clone()), options).await.unwrap()
}

/// The plan of the reversed changes of one that has one step.
fn back(plan: &Plan) -> Plan {
    let steps = plan.steps().iter().map(|step| {
        let mut step = step.clone();
        step.change = step.change.reversed();
        step
    });
    Plan::new(steps.collect(), FailurePolicy::Halt).unwrap()
}

fn warnings(changes: &[Change]) -> String {
    changes.iter().flat_map(|change| change.warnings.clone()).collect::<Vec<_>>().join("\n")
}

fn paths(changes: &[Change]) -> Vec<String> {
    changes.iter().flat_map(|change| &change.diff).map(|field| field.path.clone()).collect()
}

fn map(name: &str, value: &str) -> Value {
    objects::config_map(name, &json!({"value": value}))
}

#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../../examples/environment.rs"]
mod example;

#[tokio::test]
async fn the_example_returns_an_environment() {
    let world = World::new().await;
    world.release("v1.0.0", &[objects::deployment("web", "app:1", 1)]);
    world.release("v1.1.0", &[objects::deployment("web", "app:2", 1)]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let staging = world.component(|_| {}).await;
    let mut out = Vec::new();
    example::undo(staging, "v1.0.0", &mut out).await.unwrap();
    let told = String::from_utf8(out).unwrap();
    assert!(told.contains("/containers/app/image") && told.ends_with("Completed\n"), "{told}");
}

#[tokio::test]
async fn what_runs_is_what_the_pin_says_and_without_one_what_matches_best() {
    let world = World::new().await;
    for (tag, value) in [("v1.9.0", "9"), ("v1.10.0", "10"), ("v1.11.0", "11")] {
        world.release(tag, &[map("a", value), map("b", "same")]);
    }
    world.kubectl_apply("v1.10.0", &[]).await;
    let component = world.component(|_| {}).await;
    let history = component.history().await.unwrap();
    let ids: Vec<_> = history.iter().map(|revision| (revision.id.as_str(), revision.current)).collect();
    assert_eq!(ids, [("v1.11.0", false), ("v1.10.0", true), ("v1.9.0", false)]);
    let changes = component.prepare(&Target::Previous).await.unwrap();
    assert_eq!(changes[0].to.id, "v1.9.0");
    assert!(warnings(&changes).contains("v1.10.0 is a guess, of which 2 of 2 objects match"), "{changes:?}");
    assert!(paths(&changes).iter().any(|path| path.ends_with("/a/data/value")), "{:?}", changes[0].diff);
    assert_eq!(world.undo(Target::Previous).await.outcome, Outcome::Completed);
    assert_eq!(world.current().await, "v1.9.0");

    // Somebody applies past the tool: the pin is told to be wrong.
    world.kubectl_apply("v1.11.0", &["--force-conflicts", "--server-side"]).await;
    assert_eq!(world.current().await, "v1.11.0");
    let told = warnings(&world.changes("v1.10.0").await.unwrap());
    assert!(told.contains("the pin says v1.9.0, but what runs is v1.11.0"), "{told}");
    assert_eq!(world.to("v1.10.0").await.outcome, Outcome::Completed);

    // A tag that moves is told, and what was pinned is still what runs.
    world.write(&[map("a", "other"), map("b", "same")]);
    world.repo.commit("moved");
    world.repo.git(&["tag", "--force", "v1.10.0"]);
    let told = warnings(&world.changes("v1.9.0").await.unwrap());
    assert!(told.contains("tag v1.10.0 was moved since it was applied"), "{told}");

    // Any commit will do, and is known again.
    let commit = world.repo.git(&["rev-parse", "v1.11.0"]);
    assert_eq!(world.to(&commit).await.outcome, Outcome::Completed);
    assert_eq!(world.current().await, commit[..12]);
    let error = world.changes("v9.9.9").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn another_folder_of_the_repository_can_be_returned_to() {
    let world = World::new().await;
    world.repo.write("infra/kubernetes/environments/previous/a.yaml", map("a", "older").to_string());
    world.release("v1.0.0", &[map("a", "newer")]);
    world.kubectl_apply("v1.0.0", &[]).await;
    let component = world.component(|options| {
        options.to_path = Some("infra/kubernetes/environments/previous".into());
    });
    assert_eq!(run(&component.await, Target::Previous).await.outcome, Outcome::Completed);
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "older");
}

#[tokio::test]
async fn replicas_under_an_autoscaler_are_never_lowered() {
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 30}});
    let web = |image: &str, replicas: Option<u32>| {
        let mut web = objects::deployment("web", image, replicas.unwrap_or_default());
        if replicas.is_none() {
            web["spec"].as_object_mut().unwrap().remove("replicas");
        }
        web
    };
    for (older, with_scaler) in [(Some(3), true), (None, true), (Some(5), false), (Some(3), false)] {
        for by_scaler in [true, false] {
            let world = World::new().await;
            let mut objects = vec![web("app:1", older)];
            objects.extend(with_scaler.then(|| scaler.clone()));
            world.release("v1.0.0", &objects);
            world.release("v1.1.0", &[web("app:2", Some(3)), scaler.clone()]);
            world.kubectl_apply("v1.1.0", &[]).await;
            if by_scaler {
                // As the controller of autoscalers does.
                let path = format!(
                    "{}/scale?fieldManager=kube-controller-manager",
                    world.namespace.path("Deployment", "web")
                );
                let wanted = json!({"spec": {"replicas": 20}});
                let sent = world.namespace.request(
                    http::Method::PATCH,
                    &path,
                    "application/merge-patch+json",
                    wanted,
                );
                sent.await.unwrap();
            } else {
                world
                    .namespace
                    .kubectl(&["patch", "deployment/web", "-p", r#"{"spec":{"replicas":20}}"#])
                    .await
                    .ok();
            }
            let lowest = watch_lowest(&world.namespace);
            let report = world.to("v1.0.0").await;
            assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
            let live = world.namespace.get("Deployment", "web").await;
            let image = &live["spec"]["template"]["spec"]["containers"][0]["image"];
            assert_eq!(
                (image, &live["spec"]["replicas"]),
                (&json!("app:1"), &json!(20)),
                "{older:?} {with_scaler}"
            );
            assert_eq!(lowest.await.unwrap(), 20);
        }
    }
}

/// The lowest number of replicas that a Deployment was asked to have, until its image changes.
fn watch_lowest(namespace: &Namespace) -> tokio::task::JoinHandle<u64> {
    let path = namespace.path("Deployment", "web");
    tokio::spawn(async move {
        let testbed = Testbed::shared().await;
        let mut lowest = u64::MAX;
        loop {
            let object =
                testbed.request(http::Method::GET, &path, "application/json", Value::Null).await.unwrap();
            lowest = lowest.min(object["spec"]["replicas"].as_u64().unwrap());
            if object["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1" {
                return lowest;
            }
            testbed.pause(Duration::from_millis(10)).await;
        }
    })
}

#[tokio::test]
async fn fewer_replicas_stand_out_where_nothing_scales() {
    let world = World::new().await;
    world.release("v1.0.0", &[objects::deployment("web", "app:1", 1)]);
    world.release("v1.1.0", &[objects::deployment("web", "app:2", 3)]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let told = warnings(&world.changes("v1.0.0").await.unwrap());
    assert!(told.contains("web goes down from 3 replicas to 1"), "{told}");
}

#[tokio::test]
async fn what_the_server_refuses_is_told_at_once_and_nothing_is_changed() {
    let world = World::new().await;
    let service = |ip: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
    };
    let job = |image: &str| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "app", "image": image}]}}}})
    };
    world.release("v1.0.0", &[map("a", "1"), service("None"), job("app:1")]);
    world.release("v1.1.0", &[map("a", "2"), service(""), job("app:2")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let error = world.changes("v1.0.0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let told = error.to_string();
    assert!(
        told.contains("refuses 2 of the objects") && told.contains("Service") && told.contains("migrate"),
        "{told}"
    );
    assert!(error.hint().unwrap().contains("--exclude"), "{error:?}");
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "2");

    // Where that is asked for, they give way to others.
    let component = world.component(|options| {
        options.replace = vec!["service/web".parse().unwrap(), "job/migrate".parse().unwrap()];
    });
    let changes = component.await.prepare(&Target::Revision("v1.0.0".into())).await.unwrap();
    assert!(warnings(&changes).contains("is deleted and created again"), "{changes:?}");
    assert!(changes[0].irreversible.is_some());

    // Without them the rest can go, and the pin does not move.
    let component = world.component(|options| {
        options.exclude = vec!["service/web".parse().unwrap(), "Job/migrate".parse().unwrap()];
    });
    let component = component.await;
    let told = warnings(&component.prepare(&Target::Revision("v1.0.0".into())).await.unwrap());
    assert!(told.contains("only a part is returned, so the pin stays"), "{told}");
    assert_eq!(run(&component, Target::Revision("v1.0.0".into())).await.outcome, Outcome::Completed);
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "1");
    assert_eq!(world.current().await, "v1.1.0", "two of three objects are as there");

    let before = world.namespace.get("Service", "web").await["metadata"]["uid"].clone();
    let component = world.component(|options| {
        options.replace = vec!["service/web".parse().unwrap(), "job/migrate".parse().unwrap()];
    });
    let report = run(&component.await, Target::Revision("v1.0.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let after = world.namespace.get("Service", "web").await;
    assert_eq!(after["spec"]["clusterIP"], "None");
    assert_ne!(after["metadata"]["uid"], before);
    let job = world.namespace.get("Job", "migrate").await;
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], "app:1");
}

#[tokio::test]
async fn fields_that_others_own_are_kept_unless_forced_and_always_told() {
    let world = World::new().await;
    world.release("v1.0.0", &[objects::config_map("a", &json!({"x": "1", "y": "1"}))]);
    world.release("v1.1.0", &[objects::config_map("a", &json!({"x": "2", "y": "2"}))]);
    world.kubectl_apply("v1.1.0", &[]).await;
    world.namespace.apply(&objects::config_map("a", &json!({"x": "theirs"}))).await;
    let told = warnings(&world.changes("v1.0.0").await.unwrap());
    assert!(told.contains("stay as they are: .data.x (rollback-tests)"), "{told}");
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|_| {}).await);
    let target = Target::Revision("v1.0.0".into());
    let plan = Planner::new().rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    assert_eq!(execute(&component, &plan).await.outcome, Outcome::Completed);
    let data = |object: &Value| object["data"].clone();
    let map_now = world.namespace.get("ConfigMap", "a").await;
    assert_eq!(data(&map_now), json!({"x": "theirs", "y": "1"}));
    assert_eq!(execute(&component, &back(&plan)).await.outcome, Outcome::Completed);
    let map_now = world.namespace.get("ConfigMap", "a").await;
    assert_eq!(data(&map_now), json!({"x": "theirs", "y": "2"}));
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::Completed);
    assert_eq!(data(&world.namespace.get("ConfigMap", "a").await), json!({"x": "theirs", "y": "1"}));
    let component = world.component(|options| options.force_conflicts = true).await;
    let report = run(&component, Target::Revision("v1.1.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(data(&world.namespace.get("ConfigMap", "a").await), json!({"x": "2", "y": "2"}));
}

#[tokio::test]
async fn only_what_the_environment_owns_and_nobody_needs_is_pruned_and_last() {
    let world = World::new().await;
    let mut web = objects::deployment("web", "app:1", 1);
    world.release("v1.0.0", &[web.clone()]);
    web["spec"]["template"]["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "used"}}]);
    let with = |mut object: Value, annotation: &str, value: &str| {
        object["metadata"]["annotations"] = json!({annotation: value});
        object
    };
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    world.release(
        "v1.1.0",
        &[
            web,
            map("used", "1"),
            map("gone", "1"),
            with(map("asks", "1"), "kustomize.toolkit.fluxcd.io/prune", "disabled"),
            claim,
        ],
    );
    world.kubectl_apply("v1.1.0", &[]).await;
    world.namespace.rolled_out("Deployment", "web").await;
    // Without being asked, nothing goes.
    let quiet = world.component(|_| {}).await.prepare(&Target::Revision("v1.0.0".into())).await.unwrap();
    assert_eq!(quiet.len(), 1);
    assert!(warnings(&quiet).contains("with --prune this same run deletes them"), "{quiet:?}");

    let changes = world.changes("v1.0.0").await.unwrap();
    let told = warnings(&changes);
    let name = |what: &str| format!("{what} {}/", world.namespace.name());
    for part in ["are never deleted here: ", "not to be pruned: ", "refer to them still, and they stay: "] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains(&format!("{}data", name("PersistentVolumeClaim"))), "{told}");
    let [_, last] = changes.as_slice() else { panic!("{changes:?}") };
    let doomed: Vec<_> = last.diff.iter().map(|field| field.path.clone()).collect();
    assert_eq!(doomed, [format!("/ConfigMap/{}/gone", world.namespace.name())]);
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::Completed);
    for (name, is_there) in [("used", true), ("asks", true), ("gone", false)] {
        assert_eq!(world.namespace.get_if_exists("ConfigMap", name).await.is_object(), is_there, "{name}");
    }
    world.namespace.get("v1/PersistentVolumeClaim", "data").await;
}

#[tokio::test]
async fn nothing_is_pruned_where_the_rest_does_not_settle() {
    let world = World::new().await;
    world.release("v1.0.0", &[objects::deployment("web", "app:never-ready", 1)]);
    world.release("v1.1.0", &[objects::deployment("web", "app:2", 1), map("gone", "1")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|options| options.prune = true).await);
    let target = Target::Revision("v1.0.0".into());
    let plan = Planner::new().rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    let mut options = RunOptions::by("tests");
    options.settings.verify_timeout = Duration::from_secs(8);
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let report = engine.execute(&plan, &Components::new().with(component.clone()), options).await.unwrap();
    assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
    assert!(world.namespace.get_if_exists("ConfigMap", "gone").await.is_object());
}

#[tokio::test]
async fn namespaces_definitions_and_their_objects_are_made_in_order() {
    let testbed = Testbed::shared().await;
    let world = World::new().await;
    let other = testbed.unique("made");
    let group = format!("{other}.example.org");
    let definition = |more: &str| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("widgets.{group}"), "annotations": {"note": more}},
            "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
    };
    let widget = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "w", "namespace": other}, "spec": {"a": 1}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}});
    let mut inside = map("inside", "1");
    inside["metadata"]["namespace"] = json!(other);
    world.release("v1.0.0", &[widget, inside, definition("older"), namespace]);
    let told = warnings(&world.changes("v1.0.0").await.unwrap());
    assert!(told.contains("is not proven before it is written"), "{told}");
    let report = world.to("v1.0.0").await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let made = format!("/apis/{group}/v1/namespaces/{other}/widgets/w");
    testbed.request(http::Method::GET, &made, "application/json", Value::Null).await.unwrap();

    // A definition is not taken back by itself.
    world.release("v1.1.0", &[definition("newer")]);
    let told = warnings(&world.changes("v1.1.0").await.unwrap());
    assert!(told.contains("differs, and stays as it is: --include-crds"), "{told}");
    for path in [
        format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.{group}"),
        format!("/api/v1/namespaces/{other}"),
    ] {
        testbed.request(http::Method::DELETE, &path, "application/json", Value::Null).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_being_deleted_is_waited_for_and_created_again() {
    let world = World::new().await;
    let mut held = map("a", "1");
    world.release("v1.0.0", &[held.clone()]);
    held["data"]["value"] = json!("2");
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    world.release("v1.1.0", &[held]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let path = world.namespace.path("ConfigMap", "a");
    world.namespace.request(http::Method::DELETE, &path, "application/json", Value::Null).await.unwrap();
    let before = world.namespace.get("ConfigMap", "a").await;
    assert!(before["metadata"]["deletionTimestamp"].is_string());
    let told = warnings(&world.changes("v1.0.0").await.unwrap());
    assert!(told.contains("is being deleted: it is waited for, and created again"), "{told}");
    let release = async {
        Testbed::shared().await.pause(Duration::from_secs(2)).await;
        world.namespace.merge("ConfigMap", "a", &json!({"metadata": {"finalizers": null}})).await;
    };
    let (report, ()) = futures::join!(world.to("v1.0.0"), release);
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let after = world.namespace.get("ConfigMap", "a").await;
    assert_eq!(after["data"]["value"], "1");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
}

#[tokio::test]
async fn what_gitops_would_take_back_is_refused() {
    let world = World::new().await;
    world.release("v1.0.0", &[map("a", "1")]);
    world.release("v1.1.0", &[map("a", "2")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let labels = json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    world.namespace.merge("ConfigMap", "a", &json!({"metadata": {"labels": labels}})).await;
    let error = world.changes("v1.0.0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert!(error.to_string().contains("Flux Kustomization flux-system/apps"), "{error:?}");
}

#[tokio::test]
async fn kubectl_can_go_on_with_the_objects_of_a_pin() {
    let world = World::new().await;
    world.release("v1.0.0", &[map("a", "1"), map("b", "1")]);
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::Completed);
    let parents = world.namespace.list("ConfigMap", "applyset.kubernetes.io/id").await;
    let [parent] = parents.as_slice() else { panic!("{parents:?}") };
    let id = parent["metadata"]["labels"]["applyset.kubernetes.io/id"].as_str().unwrap();
    assert_eq!(parent["data"]["revision"], "v1.0.0");
    let members = world.namespace.list("ConfigMap", &format!("applyset.kubernetes.io/part-of={id}")).await;
    assert_eq!(members.len(), 2);
    // It is ours, until somebody says otherwise; then kubectl prunes by the same labels.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.json");
    std::fs::write(&file, map("a", "by kubectl").to_string()).unwrap();
    let name = format!("configmaps/{}", parent["metadata"]["name"].as_str().unwrap());
    let flag = format!("--applyset={name}");
    let args =
        ["apply", "--server-side", "--force-conflicts", "--prune", &flag, "-f", file.to_str().unwrap()];
    let refused = world.namespace.kubectl(&args).await;
    assert!(refused.stderr.contains("managed by tooling \"rollback\""), "{refused:?}");
    let tooling = ["annotate", "--overwrite", &name, "applyset.kubernetes.io/tooling=kubectl/v1.32"];
    world.namespace.kubectl(&tooling).await.ok();
    world.namespace.kubectl(&args).await.ok();
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "by kubectl");
    assert!(world.namespace.get_if_exists("ConfigMap", "b").await.is_null(), "kubectl pruned it");
}

#[tokio::test]
async fn two_hundred_objects_return_completely_and_verified() {
    let world = World::new().await;
    let release = |image: &str| -> Vec<Value> {
        let maps = (0..150).map(|n| map(&format!("map-{n}"), image));
        let workloads = (0..50).map(|n| objects::deployment(&format!("web-{n}"), image, 1));
        maps.chain(workloads).collect()
    };
    world.release("v1.0.0", &release("app:1"));
    world.release("v1.1.0", &release("app:2"));
    world.kubectl_apply("v1.1.0", &[]).await;
    let report = world.to("v1.0.0").await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let maps = world.namespace.list("ConfigMap", "").await;
    assert_eq!(maps.iter().filter(|map| map["data"]["value"] == "app:1").count(), 150);
    let workloads = world.namespace.list("Deployment", "").await;
    let is_back = |web: &&Value| {
        web["spec"]["template"]["spec"]["containers"][0]["image"] == "app:1"
            && web["status"]["availableReplicas"] == 1
    };
    assert_eq!(workloads.iter().filter(is_back).count(), 50);
    // And back, by what the run recorded.
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|_| {}).await);
    let back = report.steps.len();
    assert_eq!(back, 1);
    let changes = component.prepare(&Target::Revision("v1.1.0".into())).await.unwrap();
    assert_eq!(changes[0].diff.len(), 200);
}

#[tokio::test]
async fn what_somebody_changed_by_hand_goes_and_comes_back_with_a_reversal() {
    let world = World::new().await;
    world.release("v1.0.0", &[objects::deployment("web", "app:1", 1), map("a", "1")]);
    world.release("v1.1.0", &[objects::deployment("web", "app:2", 1), map("a", "2")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    world.namespace.kubectl(&["set", "env", "deployment/web", "HOTFIX=1"]).await.ok();
    let live = world.namespace.get("Deployment", "web").await["spec"]["template"].clone();
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|_| {}).await);
    let target = Target::Revision("v1.0.0".into());
    let plan = Planner::new().rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    let told = warnings(&plan.steps().iter().map(|step| step.change.clone()).collect::<Vec<_>>());
    assert!(told.contains("web was changed by somebody since its revision was applied"), "{told}");
    assert_eq!(execute(&component, &plan).await.outcome, Outcome::Completed);
    let container =
        world.namespace.get("Deployment", "web").await["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!((&container["image"], &container["env"]), (&json!("app:1"), &Value::Null));
    assert_eq!(execute(&component, &back(&plan)).await.outcome, Outcome::Completed);
    assert_eq!(world.namespace.get("Deployment", "web").await["spec"]["template"], live);
}

/// Renders a `ConfigMap` `a` whose value is what it was told last.
#[derive(Debug)]
struct Fickle(std::sync::Mutex<String>);

#[async_trait::async_trait]
impl rollback_git::Renderer for Fickle {
    async fn render(&self, _: &rollback_git::Folder) -> Result<rollback_git::Rendering, Error> {
        let objects = vec![map("a", &self.0.lock().unwrap())];
        Ok(rollback_git::Rendering { objects, warnings: Vec::new(), renderer: "fickle".into() })
    }
}

#[tokio::test]
async fn a_rendering_that_is_not_the_one_that_was_planned_is_a_conflict() {
    let world = World::new().await;
    world.release("v1.0.0", &[map("a", "1")]);
    let planned = world.component(|_| {}).await.with_renderer(Arc::new(Fickle("planned".to_owned().into())));
    let change = planned.prepare(&Target::Revision("v1.0.0".into())).await.unwrap().remove(0);
    // Another process, with another version of the renderer.
    let other = world.component(|_| {}).await.with_renderer(Arc::new(Fickle("other".to_owned().into())));
    let cx = rollback_core::StepContext::new(
        rollback_core::RunId::random(),
        rollback_core::StepId::new("x"),
        Duration::from_secs(30),
    );
    let error = other.apply(&cx, &change).await.unwrap_err();
    assert_eq!((error.kind(), cx.writes()), (ErrorKind::Conflict, 0), "{error:?}");
    assert!(error.to_string().contains("renders something else now than when it was planned"), "{error}");
    planned.apply(&cx, &change).await.unwrap();
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "planned");
}

#[tokio::test]
async fn a_webhook_that_takes_no_dry_runs_leaves_an_object_unproven() {
    let testbed = Testbed::shared().await;
    let world = World::new().await;
    world.release("v1.0.0", &[map("a", "1"), map("b", "1")]);
    world.release("v1.1.0", &[map("a", "2"), map("b", "2")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let name = testbed.unique("hook");
    let path = "/apis/admissionregistration.k8s.io/v1beta1/validatingwebhookconfigurations";
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1beta1", "kind": "ValidatingWebhookConfiguration",
    "metadata": {"name": name}, "webhooks": [{
        "name": "hook.example.org", "sideEffects": "Some", "failurePolicy": "Ignore", "timeoutSeconds": 1,
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "objectSelector": {"matchLabels": {"hooked": world.namespace.name()}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}],
    }]});
    testbed.request(http::Method::POST, path, "application/json", hook).await.unwrap();
    let labels = json!({"metadata": {"labels": {"hooked": world.namespace.name()}}});
    world.namespace.merge("ConfigMap", "a", &labels).await;
    // The server takes a moment to heed it.
    let mut told = String::new();
    for _ in 0..100 {
        told = warnings(&world.changes("v1.0.0").await.unwrap());
        if told.contains("a webhook does not take dry runs") {
            break;
        }
        testbed.pause(Duration::from_millis(100)).await;
    }
    assert!(
        told.contains("/a is not proven before it is written: a webhook does not take dry runs"),
        "{told}"
    );
    let report = world.to("v1.0.0").await;
    testbed
        .request(http::Method::DELETE, &format!("{path}/{name}"), "application/json", Value::Null)
        .await
        .unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    for name in ["a", "b"] {
        assert_eq!(world.namespace.get("ConfigMap", name).await["data"]["value"], "1", "{name}");
    }
}

/// A plan for a tag, carried out, and taken back.
async fn there_and_back(world: &World, tag: &str) -> (Plan, RunReport, RunReport) {
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|_| {}).await);
    let target = Target::Revision(tag.into());
    let plan = Planner::new().rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    let there = execute(&component, &plan).await;
    let returned = execute(&component, &back(&plan)).await;
    (plan, there, returned)
}

#[tokio::test]
async fn what_the_server_counts_or_assigns_stands_in_no_way() {
    let world = World::new().await;
    let service = |kind: &str, port: u16| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": kind, "ports": [{"port": port}], "selector": {"app": "web"}}})
    };
    let noted = |mut object: Value| {
        object["metadata"]["annotations"] = json!({"note": "older"});
        object
    };
    world.release(
        "v1.0.0",
        &[objects::daemon_set("agent", "app:1"), service("NodePort", 80), noted(map("a", "1"))],
    );
    world
        .release("v1.1.0", &[objects::daemon_set("agent", "app:2"), service("ClusterIP", 81), map("a", "2")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    world.namespace.rolled_out("DaemonSet", "agent").await;
    let (_, there, returned) = there_and_back(&world, "v1.0.0").await;
    assert_eq!(
        (there.outcome, returned.outcome),
        (Outcome::Completed, Outcome::Completed),
        "{there:#?} {returned:#?}"
    );
    let live = world.namespace.get("Service", "web").await;
    assert_eq!((&live["spec"]["type"], &live["spec"]["ports"][0]["port"]), (&json!("ClusterIP"), &json!(81)));
}

#[tokio::test]
async fn what_is_missing_or_was_changed_of_the_revision_in_place_is_restored() {
    let world = World::new().await;
    let login = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"a": "1"}});
    world.release("v1.0.0", &[map("a", "1"), login]);
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::Completed);
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::NothingToDo);
    world.namespace.delete("ConfigMap", "a").await;
    assert_eq!(world.to("v1.0.0").await.outcome, Outcome::Completed);
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "1");
    world.namespace.merge("Secret", "login", &json!({"stringData": {"a": "other"}})).await;
    let component = world.component(|options| options.force_conflicts = true).await;
    let report = run(&component, Target::Revision("v1.0.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(world.namespace.get("Secret", "login").await["data"]["a"], "MQ==");
}

#[tokio::test]
async fn taking_over_what_others_own_lowers_no_replicas_under_an_autoscaler() {
    let world = World::new().await;
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 2, "maxReplicas": 30}});
    world.release("v1.0.0", &[objects::deployment("web", "app:1", 3), scaler.clone()]);
    world.release("v1.1.0", &[objects::deployment("web", "app:2", 20), scaler]);
    world.kubectl_apply("v1.1.0", &[]).await;
    world.namespace.patch("Deployment", "web", &objects::image_patch("app:theirs")).await;
    let component = world.component(|options| options.force_conflicts = true).await;
    let report = run(&component, Target::Revision("v1.0.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let live = world.namespace.get("Deployment", "web").await;
    let image = &live["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!((image, &live["spec"]["replicas"]), (&json!("app:1"), &json!(20)));
}

#[tokio::test]
async fn a_broken_newest_tag_hides_no_pin_and_one_that_has_less_is_not_what_runs() {
    let world = World::new().await;
    let within = |mut object: Value| {
        object["metadata"]["namespace"] = json!(world.namespace.name());
        object
    };
    world.release("v1.0.0", &[within(map("a", "1"))]);
    world.release("v1.1.0", &[within(map("a", "2")), within(map("b", "2"))]);
    world.release("v1.2.0", &[within(map("a", "2"))]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let elsewhere = async || {
        let cluster = connect(Testbed::shared().await.kubeconfig()).await;
        environment(&cluster, &world.repo, STAGING, |options| options.namespace = Some("default".into()))
    };
    let current = async || {
        let history = elsewhere().await.history().await.unwrap();
        history.into_iter().find(|revision| revision.current).map(|revision| revision.id).unwrap_or_default()
    };
    assert_eq!(current().await, "v1.1.0", "v1.2.0 has all that it has as well");
    assert_eq!(run(&elsewhere().await, Target::Previous).await.outcome, Outcome::Completed);
    assert_eq!(current().await, "v1.0.0");
    world.repo.write(&format!("{STAGING}/kustomization.yaml"), "resources: [absent.yaml]\n");
    world.repo.commit("broken");
    world.repo.git(&["tag", "v1.3.0"]);
    assert_eq!(current().await, "v1.0.0");
}

#[tokio::test]
async fn what_somebody_claims_after_the_plan_is_not_deleted() {
    let world = World::new().await;
    world.release("v1.0.0", &[map("a", "1")]);
    world.release("v1.1.0", &[map("a", "2"), map("gone", "1")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let component: Arc<dyn Rollbackable> = Arc::new(world.component(|options| options.prune = true).await);
    let target = Target::Revision("v1.0.0".into());
    let plan = Planner::new().rollback("env", component.clone(), target, &[]).plan().await.unwrap();
    let keep = json!({"metadata": {"annotations": {"rollback.dev/prune": "disabled"}}});
    world.namespace.merge("ConfigMap", "gone", &keep).await;
    let report = execute(&component, &plan).await;
    assert_ne!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(world.namespace.get_if_exists("ConfigMap", "gone").await.is_object());
    assert_eq!(world.namespace.get("ConfigMap", "a").await["data"]["value"], "1");
}

#[tokio::test]
async fn only_what_cannot_be_changed_is_replaced_and_never_a_claim() {
    let world = World::new().await;
    let claim = |size: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}})
    };
    let wrong = |image: &str, policy: &str| {
        let mut web = objects::deployment("web", image, 1);
        web["spec"]["template"]["spec"]["restartPolicy"] = json!(policy);
        web
    };
    world.release("v1.0.0", &[claim("2Gi"), wrong("app:1", "Never")]);
    world.release("v1.1.0", &[claim("1Gi"), wrong("app:2", "Always")]);
    world.kubectl_apply("v1.1.0", &[]).await;
    let component = world.component(|options| {
        options.replace =
            vec!["deployment/web".parse().unwrap(), "PersistentVolumeClaim/data".parse().unwrap()];
    });
    let error = component.await.prepare(&Target::Revision("v1.0.0".into())).await.unwrap_err();
    assert!(error.to_string().contains("refuses 2 of the objects"), "{error}");
}
