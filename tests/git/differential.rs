//! What `kubectl apply -k` makes of a tag, and what a rollback to it makes: generated pairs of environments, where the
//! older is applied alone in one namespace, and returned to from the newer in another.

use std::collections::{BTreeMap, BTreeSet};

use rollback_core::{Outcome, Target};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::environment::{World, run};
use crate::world::STAGING;

const PAIRS: u64 = 12;
/// How many are worked on side by side.
const SIDE_BY_SIDE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_leaves_what_applying_only_the_target_leaves_and_kubectl_does_not() {
    let cases: Vec<_> = (0..PAIRS).map(case).collect();
    let rests: Vec<usize> =
        futures::StreamExt::collect(futures::StreamExt::buffered(futures::stream::iter(cases), SIDE_BY_SIDE))
            .await;
    let with_rests = rests.iter().filter(|rest| **rest > 0).count();
    println!(
        "in {with_rests} of {PAIRS} pairs kubectl apply -k of the older tag left {} objects",
        rests.iter().sum::<usize>()
    );
    // A generator that never adds an object proves nothing there.
    assert!(with_rests * 3 > rests.len(), "{rests:?}");
}

/// Answers how many objects kubectl leaves that the target does not have.
async fn case(seed: u64) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let testbed = Testbed::shared().await;
    let ours = World::new().await;
    let [alone, theirs] = [testbed.namespace("alone").await, testbed.namespace("theirs").await];
    for tag in ["v1.0.0", "v1.1.0"] {
        release(&ours, &mut rng, tag);
    }
    apply(&ours, &alone, "v1.0.0", &[]).await;
    for namespace in [&ours.namespace, &theirs] {
        // Deployed over the older one, or as it is.
        if seed.is_multiple_of(2) {
            apply(&ours, namespace, "v1.0.0", &[]).await;
        }
        let how: &[&str] = if seed.is_multiple_of(3) { &["--server-side", "--force-conflicts"] } else { &[] };
        apply(&ours, namespace, "v1.1.0", how).await;
    }
    if seed % 4 == 1 {
        ours.namespace.kubectl(&["set", "env", "deployment/web", "BY_HAND=1"]).await.ok();
        ours.namespace.kubectl(&["label", "deployment/web", "by=hand"]).await.ok();
    }
    let component = ours.component(|options| options.prune = true).await;
    let report = run(&component, Target::Revision("v1.0.0".into())).await;
    assert_eq!(report.outcome, Outcome::Completed, "seed {seed}: {report:#?}");
    apply(&ours, &theirs, "v1.0.0", &[]).await;

    let (wanted, mut made) = (state(&alone).await, state(&ours.namespace).await);
    // What the newer pods' ReplicaSets still refer to stays.
    let referred = referred(&ours.namespace).await;
    made.retain(|name, _| wanted.contains_key(name) || !referred.contains(name));
    assert_eq!(made, wanted, "seed {seed}");
    state(&theirs).await.keys().filter(|name| !wanted.contains_key(*name)).count()
}

async fn apply(world: &World, namespace: &Namespace, tag: &str, how: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().to_str().unwrap();
    let index = folder.path().join("index");
    // An index of its own: several are at it.
    let archive = world.repo.git(&["rev-parse", &format!("{tag}^{{tree}}")]);
    let read = |args: &[&str]| {
        let done = std::process::Command::new("git")
            .args(args)
            .current_dir(world.repo.path())
            .env("GIT_INDEX_FILE", &index)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    read(&["read-tree", &archive]);
    read(&["--work-tree", tree, "checkout-index", "--all"]);
    let path = format!("{tree}/{STAGING}");
    namespace.kubectl(&[&["apply", "-k", &path], how].concat()).await.ok();
}

fn release(world: &World, rng: &mut fastrand::Rng, tag: &str) {
    let mut all = vec![web(rng, "web")];
    let mut maybe = |rng: &mut fastrand::Rng, object: Value| {
        if rng.bool() {
            all.push(object);
        }
    };
    let other = web(rng, "api");
    maybe(rng, other);
    let data = some(rng, &["a", "b", "c"]);
    maybe(rng, objects::config_map("plain", &json!(data)));
    maybe(rng, objects::config_map("extra", &json!({"x": "1"})));
    let data = some(rng, &["p", "q"]);
    maybe(
        rng,
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": data}),
    );
    maybe(rng, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "runner"}}));
    let ports: Vec<_> = (0..rng.usize(1..4))
        .map(|n| json!({"name": format!("p{n}"), "port": 80 + n, "targetPort": rng.u16(8080..8083), "protocol": "TCP"}))
        .collect();
    maybe(
        rng,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports}}),
    );
    let text: Vec<_> = all.iter().map(Value::to_string).collect();
    world.repo.write(&format!("{STAGING}/all.yaml"), text.join("\n---\n"));
    let kustomization = json!({
        "resources": ["all.yaml"],
        "configMapGenerator": [{"name": "generated", "literals": [format!("v={}", word(rng))]}],
    });
    world.repo.write(&format!("{STAGING}/kustomization.yaml"), kustomization.to_string());
    world.repo.commit(tag);
    world.repo.git(&["tag", tag]);
}

fn web(rng: &mut fastrand::Rng, name: &str) -> Value {
    let mut web = objects::deployment(name, &format!("app:{}", rng.u8(1..4)), rng.u32(1..3));
    if rng.bool() {
        web["metadata"]["labels"]["team"] = json!(word(rng));
    }
    if rng.bool() {
        web["metadata"]["annotations"] = json!({"note": word(rng)});
    }
    let template = &mut web["spec"]["template"];
    if rng.bool() {
        template["metadata"]["labels"]["extra"] = json!(word(rng));
    }
    let containers = template["spec"]["containers"].as_array_mut().unwrap();
    let env = some(rng, &["A", "B", "C"]);
    let env: Vec<_> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    if !env.is_empty() {
        containers[0]["env"] = json!(env);
    }
    if rng.bool() {
        containers[0]["envFrom"] = json!([{"configMapRef": {"name": "generated"}}]);
    }
    if rng.bool() {
        containers[0]["args"] = json!((0..rng.usize(1..3)).map(|_| word(rng)).collect::<Vec<_>>());
    }
    if rng.bool() {
        containers[0]["ports"] =
            json!([{"containerPort": 8080 + i32::from(rng.u8(0..2)), "protocol": "TCP"}]);
    }
    if rng.bool() {
        containers[0]["resources"] = json!({"limits": {"cpu": "1000m", "memory": "0.5Gi"}});
    }
    if rng.bool() {
        containers.push(json!({"name": "side", "image": "side:1"}));
    }
    web
}

/// Some of the names, each with a word.
fn some(rng: &mut fastrand::Rng, names: &[&'static str]) -> BTreeMap<&'static str, &'static str> {
    let picked: Vec<_> = names.iter().filter(|_| rng.bool()).collect();
    picked.into_iter().map(|name| (*name, word(rng))).collect()
}

fn word(rng: &mut fastrand::Rng) -> &'static str {
    ["blue", "green", "red"][rng.usize(0..3)]
}

/// Everything that people ask for, by kind and name: without defaults that differ from object to object, and without
/// bookkeeping.
async fn state(namespace: &Namespace) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for kind in ["Deployment", "ConfigMap", "Secret", "Service", "ServiceAccount"] {
        for mut object in namespace.list(kind, "").await {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let labels = object["metadata"]["labels"].clone();
            let is_generated = object["type"] == "kubernetes.io/service-account-token"
                || matches!(
                    (kind, name.as_str()),
                    ("ConfigMap", "kube-root-ca.crt") | ("ServiceAccount", "default")
                )
                || labels.get("applyset.kubernetes.io/id").is_some();
            if is_generated {
                continue;
            }
            let plain = |pointer: &str, gone: &[&str]| {
                let mut members = object["metadata"][pointer].as_object().cloned().unwrap_or_default();
                members.retain(|key, _| !gone.contains(&key.as_str()));
                members
            };
            let labels = plain("labels", &["applyset.kubernetes.io/part-of"]);
            let annotations = plain(
                "annotations",
                &["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"],
            );
            object
                .as_object_mut()
                .unwrap()
                .retain(|key, _| !matches!(key.as_str(), "metadata" | "status" | "secrets"));
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.retain(|key, _| !matches!(key.as_str(), "clusterIP" | "clusterIPs"));
            }
            object["labels"] = json!(labels);
            object["annotations"] = json!(annotations);
            all.insert(format!("{kind}/{name}"), object);
        }
    }
    all
}

async fn referred(namespace: &Namespace) -> BTreeSet<String> {
    let sets = Value::from(namespace.list("ReplicaSet", "").await).to_string();
    let maps = namespace.list("ConfigMap", "").await;
    let names = maps.iter().filter_map(|map| map["metadata"]["name"].as_str());
    names
        .filter(|name| sets.contains(&format!("\"{name}\"")))
        .map(|name| format!("ConfigMap/{name}"))
        .collect()
}
