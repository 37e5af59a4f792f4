//! Probes of pods and addresses: whom they name, and that exactly those are restarted.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollback_core::trigger::{Health, HealthCheck, HealthProbe as _, Memory, Trigger as _, Verdict};
use rollback_core::{Clock as _, ErrorKind, Outcome, RestartScope, Rollbackable as _, SystemClock};
use rollback_k8s::WorkloadKind;
use rollback_k8s::probe::{AddressProbe, HttpCheck, PodProbe};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::rights::user_with;
use crate::sets::{restart, uids};
use crate::undo::{cluster, connect, rolled_out, workload};

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(3600);

/// Listeners at one port of so many addresses, as pods have it.
async fn listeners(count: u8) -> (u16, Vec<(Ipv4Addr, TcpListener)>) {
    loop {
        let mut all = Vec::new();
        let mut port: u16 = 0;
        for last in 2..2 + count {
            let ip = Ipv4Addr::new(127, 0, 0, last);
            let listener = match TcpListener::bind((ip, port)).await {
                Ok(listener) => listener,
                // Somebody has it at this address: then all again, with another one.
                Err(_) if port != 0 => break,
                Err(error) => panic!("{ip} of the loopback: {error}"),
            };
            port = listener.local_addr().unwrap().port();
            all.push((ip, listener));
        }
        if all.len() == usize::from(count) {
            return (port, all);
        }
    }
}

/// Answers every request so, or never, and tells what was asked.
fn serve(listener: TcpListener, reply: Option<String>) -> Arc<Mutex<Vec<String>>> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (log, reply) = (log.clone(), reply.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buffer = [0; 1024];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => head.extend_from_slice(&buffer[..count]),
                    }
                }
                log.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                match reply {
                    // A client that has seen enough goes.
                    Some(reply) => drop(stream.write_all(reply.as_bytes()).await),
                    None => std::future::pending().await,
                }
            });
        }
    });
    asked
}

#[allow(clippy::unnecessary_wraps, reason = "one that never answers is none")]
fn reply(status: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// Lets the API server tell this address of a pod. The stand-in leaves it until the pod's status changes.
async fn move_to(namespace: &Namespace, pod: &Value, ip: Ipv4Addr) {
    let name = format!("{}/status", pod["metadata"]["name"].as_str().unwrap());
    let status = json!({"status": {"podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}]}});
    let moved = namespace.merge("Pod", &name, &status).await;
    assert_eq!(moved["status"]["podIP"], ip.to_string());
}

fn instance(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    format!("{}/{}", text("name"), text("uid"))
}

fn is_failed(health: &Health, part: &str) -> bool {
    matches!(health, Health::Failed(why) if why.contains(part))
}

fn is_unknown(health: &Health, part: &str) -> bool {
    matches!(health, Health::Unknown(why) if why.contains(part))
}

#[tokio::test]
async fn the_pod_that_fails_three_times_is_named_and_exactly_it_is_restarted() {
    let (namespace, web) = rolled_out("probe", &["app:1"], 3).await;
    let pods = namespace.list("Pod", "app=web").await;
    let (port, listeners) = listeners(3).await;
    for (index, (ip, listener)) in listeners.into_iter().enumerate() {
        serve(listener, reply(if index == 1 { "500 Internal Server Error" } else { "200 OK" }, ""));
        move_to(&namespace, &pods[index], ip).await;
    }
    let probe = PodProbe::http(&web, port, HttpCheck::new("/healthz")).unwrap().with_grace(Duration::ZERO);
    let check = HealthCheck::new(Arc::new(probe), web.id().clone());
    let (mut memory, mut at) = (Memory::default(), SystemClock.now());
    for _ in 0..2 {
        let seen = check.evaluate(at, &mut memory).await.unwrap();
        assert_eq!(seen.of(web.id()), Verdict::Hold);
        assert!(!seen.is_well(web.id()), "{seen:?}");
        at = at.saturating_add(check.interval);
    }
    let seen = check.evaluate(at, &mut memory).await.unwrap();
    let Verdict::Firing(evidence) = seen.of(web.id()) else { panic!("{seen:?}") };
    assert_eq!(evidence.instances, [instance(&pods[1])]);
    assert_eq!((evidence.asked, evidence.failing), (3, 1));
    assert!(evidence.summary.contains("answered 500"), "{evidence:?}");

    let scope = RestartScope::Instances(evidence.instances.clone());
    let report = restart(&web, scope, Duration::from_secs(20)).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let (before, after) = (uids(&pods), uids(&namespace.list("Pod", "app=web").await));
    let gone: Vec<String> = before
        .iter()
        .filter(|(name, uid)| after.get(*name) != Some(*uid))
        .map(|(name, uid)| format!("{name}/{uid}"))
        .collect();
    assert_eq!(gone, evidence.instances);
    assert_eq!(after.len(), 3);
}

#[tokio::test]
async fn each_way_to_answer_wrongly_is_told_apart() {
    let (port, mut listeners) = listeners(6).await;
    let namespace = Testbed::shared().await.namespace("probe-ways").await;
    let mut object = objects::deployment("web", "app:1", 6);
    let ports = json!([{"name": "http", "containerPort": port}]);
    object["spec"]["template"]["spec"]["containers"][0]["ports"] = ports;
    namespace.create(&object).await;
    namespace.rolled_out("Deployment", "web").await;
    let pods = namespace.list("Pod", "app=web").await;
    for (pod, (ip, _)) in pods.iter().zip(&listeners) {
        move_to(&namespace, pod, *ip).await;
    }

    let elsewhere = format!("http://{}:{port}/elsewhere", listeners[0].0);
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
    let replies = [
        reply("200 OK", "all is ready"),
        Some(redirect),
        None,
        reply("200 OK", "not yet"),
        Some(String::new()),
    ];
    let told = [
        None,
        Some("redirects are not followed"),
        Some("no answer within"),
        Some("without the text"),
        Some("does not answer properly"),
        Some("refused"),
    ];
    // Nothing listens at the last one.
    listeners.truncate(replies.len());
    let asked: Vec<_> = listeners.into_iter().zip(replies).map(|((_, one), with)| serve(one, with)).collect();

    let web = workload(&cluster(Testbed::shared().await).await, WorkloadKind::Deployment, &namespace, "web");
    let mut check = HttpCheck::new("/healthz");
    check.body = Some("ready".into());
    for probe in [
        PodProbe::http(&web, port, check.clone()).unwrap(),
        PodProbe::http(&web, "http", check.clone()).unwrap(),
    ] {
        let found = probe.with_grace(Duration::ZERO).probe().await.unwrap();
        assert_eq!(found.len(), pods.len(), "{found:?}");
        for (pod, told) in pods.iter().zip(told) {
            let health = &found[&instance(pod)];
            match told {
                None => assert_eq!(*health, Health::Healthy),
                Some(words) => assert!(is_failed(health, words), "{health:?} is not {words:?}"),
            }
        }
    }
    let asked = asked[0].lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for head in asked {
        assert!(head.starts_with("GET /healthz HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("user-agent: rollback-probe\r\n"), "{head}");
    }

    let tcp = PodProbe::tcp(&web, "http", Duration::from_secs(2)).unwrap().with_grace(Duration::ZERO);
    let found = tcp.probe().await.unwrap();
    for (index, pod) in pods.iter().enumerate() {
        let health = &found[&instance(pod)];
        assert_eq!(is_failed(health, "refused"), index == 5, "{health:?}");
        assert_eq!(*health == Health::Healthy, index != 5, "{health:?}");
    }
    let nameless = PodProbe::http(&web, "metrics", check).unwrap().probe().await.unwrap();
    assert!(nameless.values().all(|health| is_unknown(health, "no port named")), "{nameless:?}");
}

#[tokio::test]
async fn a_pod_within_its_grace_is_unknown_unless_it_has_been_ready() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("probe-grace").await;
    let cluster = cluster(testbed).await;
    for (name, tag) in [("lit", "1"), ("dark", "never-ready"), ("stuck", "pull-error")] {
        let mut object = objects::deployment(name, &format!("app:{tag}"), 1);
        let probe = json!({"tcpSocket": {"port": 80}});
        object["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe;
        namespace.create(&object).await;
    }
    namespace.rolled_out("Deployment", "lit").await;
    let runs = |pods: &[Value]| pods.len() == 1 && pods[0]["status"]["phase"] == "Running";
    namespace.wait_list("Pod", "app=dark", "running", runs).await;
    namespace.wait_list("Pod", "app=stuck", "there", |pods| pods.len() == 1).await;
    let health = async |name: &str, grace: Duration| {
        let one = workload(&cluster, WorkloadKind::Deployment, &namespace, name);
        let probe = PodProbe::readiness(&one).with_grace(grace);
        let found: Vec<_> = probe.probe().await.unwrap().into_values().collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    assert_eq!(health("lit", LONG).await, Health::Healthy);
    let dark = health("dark", LONG).await;
    assert!(is_unknown(&dark, "it is starting, and is not ready"), "{dark:?}");
    let dark = health("dark", Duration::ZERO).await;
    assert!(is_failed(&dark, "is not ready"), "{dark:?}");
    let stuck = health("stuck", Duration::ZERO).await;
    assert!(is_unknown(&stuck, "Pending"), "{stuck:?}");

    let pod = namespace.list("Pod", "app=lit").await.remove(0);
    // The times of a status are whole seconds.
    testbed.pause(Duration::from_secs(3)).await;
    namespace.set_ready(pod["metadata"]["name"].as_str().unwrap(), false).await;
    let unavailable = |object: &Value| object["status"]["unavailableReplicas"] == 1;
    namespace.wait("Deployment", "lit", "unavailable", unavailable).await;
    let lit = health("lit", LONG).await;
    assert!(is_failed(&lit, "is not ready"), "{lit:?}");
}

#[tokio::test]
async fn a_pod_that_is_terminating_is_left_out() {
    let (namespace, web) = rolled_out("probe-ending", &["app:stuck-terminating"], 2).await;
    let ending = namespace.list("Pod", "app=web").await.remove(0);
    namespace.delete("Pod", ending["metadata"]["name"].as_str().unwrap()).await;
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    let is_ending = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    namespace
        .wait_list("Pod", "app=web", "replaced", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| is_ending(pod) || is_ready(pod))
        })
        .await;
    let found = PodProbe::readiness(&web).probe().await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(!found.contains_key(&instance(&ending)), "{found:?}");
    assert!(found.values().all(|health| *health == Health::Healthy), "{found:?}");
}

#[tokio::test]
async fn probing_takes_the_rights_to_probe_and_a_missing_one_is_an_error() {
    let (namespace, _) = rolled_out("probe-rights", &["app:1"], 1).await;
    let user = user_with(&namespace, &["rollback-probe"]).await;
    let web = workload(&connect(user.kubeconfig()).await, WorkloadKind::Deployment, &namespace, "web");
    let found = PodProbe::readiness(&web).probe().await.unwrap();
    assert_eq!(found.into_values().collect::<Vec<_>>(), [Health::Healthy]);

    let user = user_with(&namespace, &["rollback-view"]).await;
    let web = workload(&connect(user.kubeconfig()).await, WorkloadKind::Deployment, &namespace, "web");
    let error = PodProbe::readiness(&web).probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert_eq!(error.component(), Some(web.id()), "{error:?}");
    assert!(error.to_string().contains("pods"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_accepted_only_on_request() {
    let cluster = cluster(Testbed::shared().await).await;
    let url = format!("{}/livez", cluster.server().trim_end_matches('/'));
    let mut check = HttpCheck::default();
    // Whether it lets a stranger see it does not matter.
    check.statuses = 200..=499;
    check.timeout = Duration::from_secs(10);
    let health = async |check: &HttpCheck| {
        let probe = AddressProbe::http(&url, check.clone()).unwrap();
        probe.probe().await.unwrap().remove(&url).unwrap()
    };
    let strict = health(&check).await;
    assert!(is_failed(&strict, "certificate"), "{strict:?}");
    check.insecure_tls = true;
    assert_eq!(health(&check).await, Health::Healthy);
}
