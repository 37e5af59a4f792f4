//! The testbed keeps what it promises.

use std::time::{Duration, Instant};

use rollback_tests::{NODES, Testbed, objects};
use serde_json::{Value, json};

fn waiting_reason(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.and_then(|list| list.iter().find(|c| c["type"] == kind)).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_deployment_becomes_available_and_rolls_to_a_new_image() {
    let namespace = Testbed::shared().await.namespace("ready").await;
    namespace.create(&objects::deployment("web", "app:1", 3)).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    namespace.rolled_out("Deployment", "web").await;

    let replica_sets = namespace.list("ReplicaSet", "app=web").await;
    assert_eq!(replica_sets.len(), 2);
    let pods = namespace.wait_list("Pod", "app=web", "three", |pods| pods.len() == 3).await;
    for pod in pods {
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["image"], "app:2");
        assert!(status["imageID"].as_str().unwrap().starts_with("docker-pullable://app@sha256:"));
        assert!(status["state"]["running"]["startedAt"].is_string());
        assert!(condition(&pod, "Ready")["lastTransitionTime"].is_string());
        assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10.244."));
    }
}

#[tokio::test]
async fn the_tag_of_the_image_tells_what_the_pod_does() {
    let namespace = Testbed::shared().await.namespace("tags").await;
    for (tag, reason) in [
        ("pull-error-2", "ImagePullBackOff"),
        ("config-error", "CreateContainerConfigError"),
        ("crash-loop", "CrashLoopBackOff"),
    ] {
        namespace.create(&objects::deployment(tag, &format!("registry:5000/app:{tag}"), 1)).await;
        let pods = namespace
            .wait_list("Pod", &format!("app={tag}"), reason, |pods| {
                pods.len() == 1 && waiting_reason(&pods[0]) == reason
            })
            .await;
        assert_eq!(condition(&pods[0], "Ready")["status"], "False");
        if tag == "crash-loop" {
            let status = &pods[0]["status"]["containerStatuses"][0];
            assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
            assert!(status["restartCount"].as_u64() >= Some(1));
        }
    }

    namespace.create(&objects::deployment("unschedulable", "app:unschedulable", 1)).await;
    let pods = namespace
        .wait_list("Pod", "app=unschedulable", "unschedulable", |pods| {
            pods.len() == 1 && condition(&pods[0], "PodScheduled")["reason"] == "Unschedulable"
        })
        .await;
    assert_eq!(pods[0]["status"]["phase"], "Pending");
    assert!(pods[0]["spec"]["nodeName"].is_null());
}

#[tokio::test]
async fn a_pod_that_is_never_ready_stays_so() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("unready").await;
    namespace.create(&objects::deployment("web", "app:never-ready-1", 2)).await;
    let running = |pods: &[Value]| pods.len() == 2 && pods.iter().all(|p| p["status"]["phase"] == "Running");
    namespace.wait_list("Pod", "app=web", "running", running).await;
    testbed.pause(Duration::from_secs(1)).await;
    for pod in namespace.list("Pod", "app=web").await {
        assert_eq!(condition(&pod, "Ready")["status"], "False");
    }
    assert!(namespace.get("Deployment", "web").await["status"]["availableReplicas"].is_null());
}

#[tokio::test]
async fn a_slow_pod_takes_two_seconds_and_readiness_can_be_switched() {
    let namespace = Testbed::shared().await.namespace("slow").await;
    let begin = Instant::now();
    namespace.create(&objects::deployment("web", "app:slow", 1)).await;
    namespace.rolled_out("Deployment", "web").await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());

    let pod = namespace.list("Pod", "app=web").await.remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    namespace.set_ready(name, false).await;
    let unavailable = |object: &Value| object["status"]["unavailableReplicas"] == 1;
    namespace.wait("Deployment", "web", "unavailable", unavailable).await;
    namespace.set_ready(name, true).await;
    namespace.rolled_out("Deployment", "web").await;
}

#[tokio::test]
async fn stateful_sets_and_daemon_sets_roll_out() {
    let namespace = Testbed::shared().await.namespace("sets").await;
    namespace.create(&objects::stateful_set("db", "app:1", 3)).await;
    namespace.create(&objects::daemon_set("agent", "app:1")).await;
    namespace.rolled_out("StatefulSet", "db").await;
    namespace.rolled_out("DaemonSet", "agent").await;

    let agents = namespace.list("Pod", "app=agent").await;
    let mut nodes: Vec<&str> = agents.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, NODES);

    namespace.patch("StatefulSet", "db", &objects::image_patch("app:2")).await;
    namespace.patch("DaemonSet", "agent", &objects::image_patch("app:2")).await;
    namespace.rolled_out("StatefulSet", "db").await;
    namespace.rolled_out("DaemonSet", "agent").await;
    assert_eq!(namespace.list("ControllerRevision", "").await.len(), 4);
}

#[tokio::test]
async fn deleted_pods_go_unless_their_node_is_gone() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("deletion").await;
    for (name, tag) in [("web", "1"), ("stuck", "stuck-terminating")] {
        namespace.create(&objects::deployment(name, &format!("app:{tag}"), 2)).await;
        namespace.rolled_out("Deployment", name).await;
        namespace.delete("Deployment", name).await;
    }
    namespace.wait_list("Pod", "app=web", "gone", <[Value]>::is_empty).await;
    let ending = |pods: &[Value]| pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(namespace.wait_list("Pod", "app=stuck", "ending", ending).await.len(), 2);
    testbed.pause(Duration::from_millis(500)).await;
    assert_eq!(namespace.list("Pod", "app=stuck").await.len(), 2);
}

#[tokio::test]
async fn an_evicted_pod_is_replaced() {
    let namespace = Testbed::shared().await.namespace("eviction").await;
    namespace.create(&objects::deployment("web", "app:1", 1)).await;
    namespace.rolled_out("Deployment", "web").await;
    let pod = namespace.list("Pod", "app=web").await.remove(0);
    let name = pod["metadata"]["name"].as_str().unwrap();
    let eviction = json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": name}});
    let path = format!("{}/eviction", namespace.path("Pod", name));
    namespace.request(http::Method::POST, &path, "application/json", eviction).await.unwrap();
    namespace.wait("Pod", name, "gone", Value::is_null).await;
    namespace.rolled_out("Deployment", "web").await;
}

#[tokio::test]
async fn an_init_container_that_fails_keeps_the_pod_pending() {
    let namespace = Testbed::shared().await.namespace("init").await;
    let mut deployment = objects::deployment("web", "app:1", 1);
    deployment["spec"]["template"]["spec"]["initContainers"] =
        json!([{"name": "first", "image": "app:1"}, {"name": "second", "image": "app:crash-loop"}]);
    namespace.create(&deployment).await;
    let blocked = |pods: &[Value]| pods.len() == 1 && waiting_reason(&pods[0]) == "PodInitializing";
    let pods = namespace.wait_list("Pod", "app=web", "blocked", blocked).await;
    let status = &pods[0]["status"];
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(status["initContainerStatuses"][1]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(condition(&pods[0], "Initialized")["status"], "False");
}

#[tokio::test]
async fn a_hundred_deployments_roll_out_together() {
    let namespace = Testbed::shared().await.namespace("hundred").await;
    let names: Vec<String> = (0..100).map(|n| format!("web-{n}")).collect();
    let deployments: Vec<Value> = names.iter().map(|name| objects::deployment(name, "app:1", 2)).collect();
    futures::future::join_all(deployments.iter().map(|object| namespace.create(object))).await;
    let available = |list: &[Value]| list.iter().all(|object| object["status"]["availableReplicas"] == 2);
    assert_eq!(namespace.wait_list("Deployment", "", "available", available).await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn helpers_wait_in_real_time_when_the_clock_is_paused() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("paused").await;
    let begin = Instant::now();
    testbed.pause(Duration::from_millis(200)).await;
    assert!(begin.elapsed() >= Duration::from_millis(200));
    namespace.create(&objects::deployment("web", "app:1", 1)).await;
    namespace.rolled_out("Deployment", "web").await;
}

#[tokio::test]
async fn kubectl_undoes_a_rollout() {
    let namespace = Testbed::shared().await.namespace("kubectl").await;
    namespace.create(&objects::deployment("web", "app:1", 1)).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    namespace.rolled_out("Deployment", "web").await;
    let said = namespace.kubectl(&["rollout", "undo", "deployment/web"]).await.ok();
    assert_eq!(said, "deployment.apps/web rolled back\n");
    let object = namespace.rolled_out("Deployment", "web").await;
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "app:1");
    assert_ne!(namespace.kubectl(&["get", "deployment/none"]).await.code, 0);
}

#[tokio::test]
async fn a_restricted_user_may_do_what_is_allowed_and_no_more() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("rbac").await;
    let user = testbed.user().await;
    let list = || http::Request::get(namespace.path("Deployment", "")).body(Vec::new()).unwrap();
    let code = |result: kube::Result<Value>| match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(user.client().request(list()).await), 403);
    user.allow(
        &namespace,
        &json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}]),
    )
    .await;
    user.client().request::<Value>(list()).await.unwrap();

    let proxy = testbed.proxy_for(&user).await;
    let client = proxy.client().await;
    client.request::<Value>(list()).await.unwrap();
    let pods = http::Request::get(namespace.path("Pod", "")).body(Vec::new()).unwrap();
    assert_eq!(code(client.request(pods).await), 403);

    let mut stranger = list();
    stranger.headers_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    let mut config = kube::Config::new(proxy.url().parse().unwrap());
    config.default_retry = false;
    assert_eq!(code(kube::Client::try_from(config).unwrap().request(stranger).await), 401);
}
