//! The supervisor on real servers: Prometheus, Alertmanager and the control plane, in real time with short windows.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rollback_tests::{
    AlertmanagerServer, Namespace, Output, PrometheusServer, Receiver, RestrictedUser, Testbed, objects,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use crate::{command, deployed, finish, image, json};

/// A service whose share of errors the test sets, with what watches it.
struct World {
    namespace: Arc<Namespace>,
    prometheus: Arc<PrometheusServer>,
    chat: Receiver,
    folder: TempDir,
    /// Of a thousand requests so many fail.
    failing: Arc<AtomicU32>,
}

impl World {
    /// A Deployment `web` in its second version, `app:1` before `app:2`, and traffic of a hundred requests a second.
    async fn new(policies: &str, more: &str) -> Self {
        let namespace = Arc::new(deployed("web", &["app:0", "app:1"]).await);
        namespace.rolled_out("Deployment", "web").await;
        let prometheus = Arc::new(PrometheusServer::start().await);
        let failing = Arc::new(AtomicU32::new(0));
        tokio::spawn({
            let (prometheus, failing) = (Arc::downgrade(&prometheus), failing.clone());
            async move {
                while let Some(prometheus) = prometheus.upgrade() {
                    let failed = f64::from(failing.load(Ordering::SeqCst)) / 100.0;
                    prometheus.add("http_requests_total{code=\"200\"}", 10.0 - failed);
                    prometheus.add("http_requests_total{code=\"500\"}", failed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        prometheus.wait("rate(http_requests_total{code=\"200\"}[3s]) > 0").await;
        let chat = Receiver::start();
        let world = Self { namespace, prometheus, chat, folder: tempfile::tempdir().unwrap(), failing };
        world.write(policies, more);
        world
    }

    fn write(&self, policies: &str, more: &str) {
        let text = format!(
            "apiVersion: rollback.dev/v1alpha1
kind: Runbook
metadata: {{ name: {namespace} }}
components:
  - name: web
    deployment: {{ namespace: {namespace}, name: web }}
policies:
{policies}
notify:
  - slack: {{ token: {{ env: TEST_SLACK_TOKEN }}, channel: '#incidents', apiUrl: '{chat}' }}
{more}
incidents: {{ directory: incidents }}
supervisor: {{ observeEvery: 1s, settle: 1s, blindAfter: 3s, repeatAlerts: 1s }}
journal: {{ sqlite: runs.db }}
",
            namespace = self.namespace.name(),
            chat = self.chat.url(),
        );
        let text = text.replace("PROMETHEUS", self.prometheus.url());
        std::fs::write(self.folder.path().join("rollback.yaml"), text).unwrap();
    }

    fn command(&self, kubeconfig: &Path, args: &[&str]) -> tokio::process::Command {
        let mut command = command(kubeconfig, args);
        command.current_dir(self.folder.path()).env_remove("ROLLBACK_JOURNAL");
        command.env("XDG_STATE_HOME", self.folder.path()).env("TEST_SLACK_TOKEN", "xoxb-secret-of-the-test");
        command
    }

    async fn call(&self, args: &[&str]) -> Output {
        finish(self.command(Testbed::shared().await.kubeconfig(), args).spawn().unwrap()).await
    }

    /// Begins to watch, and waits until it has seen that all is well.
    async fn watch(&self, more: &[&str]) -> Watching {
        self.watch_as(Testbed::shared().await.kubeconfig(), more).await
    }

    async fn watch_as(&self, kubeconfig: &Path, more: &[&str]) -> Watching {
        let args = [&["watch"], more].concat();
        let mut child = self.command(kubeconfig, &args).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
        let mut reader = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn({
            let lines = lines.clone();
            async move {
                while let Ok(Some(line)) = reader.next_line().await {
                    lines.lock().unwrap().push(line);
                }
            }
        });
        let watching = Watching { child, lines };
        watching.said("watching ").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        watching
    }

    async fn deploy(&self, image: &str) {
        self.namespace.patch("Deployment", "web", &objects::image_patch(image)).await;
        self.namespace.rolled_out("Deployment", "web").await;
        // The times of the API server are whole seconds.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }

    fn fail(&self, of_thousand: u32) {
        self.failing.store(of_thousand, Ordering::SeqCst);
    }

    /// What the chat was told, by its first words.
    fn told(&self) -> Vec<String> {
        self.chat.posts().iter().map(|post| post["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so().await {
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}; told: {:#?}", self.told());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    async fn until_told(&self, words: &str) -> Duration {
        self.until(words, async || self.told().iter().any(|text| text.contains(words))).await
    }

    async fn runs(&self) -> Vec<Value> {
        json(&self.call(&["runs", "-o", "json"]).await.ok()).as_array().unwrap().clone()
    }
}

struct Watching {
    child: Child,
    lines: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Watching {
    async fn said(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let lines = self.lines.lock().unwrap().clone();
            if let Some(line) = lines.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it never said {words}: {lines:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it as its operator would.
    async fn end(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let _ = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        let lines = self.lines.lock().unwrap().clone();
        assert_eq!(ended.expect("it ends").unwrap().code(), Some(0), "{lines:#?}");
    }
}

const ERROR_RATE: &str = r#"
  - name: error-rate
    component: web
    when:
      prometheus:
        url: PROMETHEUS
        errors: 'sum(rate(http_requests_total{code=~"5.."}[3s]))'
        requests: 'sum(rate(http_requests_total[3s]))'
      above: 5%
      for: 3s
      every: 500ms
      minRequests: 10
    target: previous
    actions: [alert, rollback]
"#;

#[tokio::test]
async fn a_bad_release_is_rolled_back_judged_told_and_reported() {
    let alertmanager = AlertmanagerServer::start().await;
    let more = format!("  - alertmanager: {{ url: '{}' }}", alertmanager.url());
    let world = World::new(ERROR_RATE, &more).await;
    let watching = world.watch(&["--listen", "127.0.0.1:0"]).await;
    let address = watching.said("serving ").await;
    let address = address.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(alertmanager.names().await, ["RollbackSupervisorHeartbeat"]);
    world.deploy("app:2").await;

    let begun = Instant::now();
    world.fail(400);
    world.until("the image is the older one", async || image(&world.namespace, "web").await == "app:1").await;
    let patched = begun.elapsed();
    assert!(patched > Duration::from_secs(3), "not before the duration is over: {patched:?}");
    world.fail(0);
    assert!(alertmanager.names().await.contains(&"RollbackTriggerFiring".to_owned()));
    world.until_told("all is well again").await;
    world
        .until("the alert is over", async || alertmanager.names().await == ["RollbackSupervisorHeartbeat"])
        .await;

    // One thread, in #incidents.
    let posts = world.chat.posts();
    assert!(
        posts.iter().all(|post| post["channel"] == "#incidents" || post["channel"] == "C1"),
        "{posts:#?}"
    );
    let threads: Vec<_> = posts.iter().map(|post| post["thread_ts"].clone()).collect();
    assert!(threads[0].is_null() && threads[1..].iter().all(|ts| ts == "1700000000.000001"), "{threads:?}");
    assert!(!format!("{posts:?}").contains("xoxb-secret"));

    let runs = world.runs().await;
    assert_eq!((runs.len(), &runs[0]["outcome"]), (1, &json!("Completed")));
    let run = runs[0]["run"].as_str().unwrap();
    let report = json(&world.call(&["report", run, "--format", "json"]).await.ok());
    assert_eq!((&report["automatic"], &report["recovery"]["verdict"]), (&json!(true), &json!("Recovered")));
    assert!(report["trigger"]["points"].as_array().unwrap().len() > 2, "{report:#}");
    let time = |at: &Value| at.as_str().unwrap().parse::<rollback_core::Timestamp>().unwrap();
    let decided = time(&report["trigger"]["decidedAt"]);
    let applied = report["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["what"].as_str().unwrap().contains("is changed"));
    // From firing to patched within one evaluation, of which there are two a second; here with slack for a slow machine.
    let took = time(&applied.unwrap()["at"]).since(decided);
    assert!(took < Duration::from_secs(2), "{took:?}");
    eprintln!(
        "breach to decision {:?}, decision to patch {took:?}, patch to converged {:?}",
        decided.since(time(&report["trigger"]["since"])),
        time(&report["finishedAt"]).since(time(&applied.unwrap()["at"]))
    );
    let folder = world.folder.path().join("incidents");
    for end in ["html", "md", "svg", "json"] {
        let text = std::fs::read_to_string(folder.join(format!("{run}.{end}"))).unwrap();
        assert!(!text.is_empty(), "{end}");
    }
    let markdown = world.call(&["report", run]).await.ok();
    assert!(markdown.contains("app:2") && markdown.contains("root cause"), "{markdown}");

    let get = async |path: &str| {
        let answer = reqwest::get(format!("{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await.0, 200);
    let ready = get("/readyz").await;
    assert!(ready.0 == 200 && ready.1.starts_with("leads, evaluated at"), "{ready:?}");
    let metrics = get("/metrics").await.1;
    for part in [
        "rollback_evaluations_total{policy=\"error-rate\"}",
        "rollback_verdicts_total{policy=\"error-rate\",verdict=\"firing\"}",
        "rollback_runs_total{kind=\"rollback\",outcome=\"Completed\"} 1",
        "rollback_last_evaluation_seconds",
        "rollback_breach_to_converged_seconds",
    ] {
        assert!(metrics.contains(part), "{part}:\n{metrics}");
    }
    let bad = json(&world.call(&["history", "web", "-o", "json"]).await.ok());
    assert_eq!(
        bad["revisions"].as_array().unwrap().iter().filter(|r| r["mark"] == "bad").count(),
        1,
        "{bad:#}"
    );
    watching.end().await;
}

#[tokio::test]
async fn a_prometheus_that_stops_answers_nothing_or_is_slow_rolls_nothing_back() {
    let world = World::new(ERROR_RATE, "").await;
    let watching = world.watch(&[]).await;
    world.deploy("app:2").await;
    world.prometheus.kill();
    world.until_told("cannot be told since").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.prometheus.launch().await;
    world.prometheus.wait("rate(http_requests_total{code=\"200\"}[3s]) > 0").await;
    world.prometheus.show_nothing();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.runs().await.len(), 0);
    assert_eq!(image(&world.namespace, "web").await, "app:2");
    let told = world.told();
    assert!(told.iter().all(|text| text.contains("cannot be told")), "{told:#?}");
    watching.end().await;
}

#[tokio::test]
async fn of_two_supervisors_the_second_takes_over_and_there_is_one_rollback() {
    let world = World::new(ERROR_RATE, "").await;
    let mut first = world.watch(&[]).await;
    let second = world.watch(&["--listen", "127.0.0.1:0"]).await;
    let address = second.said("serving ").await;
    let ready = reqwest::get(format!("{}/readyz", address.rsplit(' ').next().unwrap())).await.unwrap();
    assert_eq!(ready.text().await.unwrap(), "standby\n");
    world.deploy("app:2").await;
    world.fail(400);
    // Amid the three seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    first.child.kill().await.unwrap();
    world.until("the image is the older one", async || image(&world.namespace, "web").await == "app:1").await;
    world.fail(0);
    world.until_told("all is well again").await;
    assert_eq!(world.runs().await.len(), 1);
    second.end().await;
}

#[tokio::test]
async fn a_fix_made_by_hand_under_a_hold_stays() {
    let world = World::new(ERROR_RATE, "").await;
    let held =
        world.call(&["hold", "web", "--for", "10m", "--reason", "a fix by hand", "-o", "json"]).await.ok();
    assert_eq!(json(&held)["reason"], "a fix by hand");
    let holds = json(&world.call(&["holds", "-o", "json"]).await.ok());
    assert_eq!(holds.as_array().unwrap().len(), 1, "{holds:#}");
    let watching = world.watch(&[]).await;
    world.deploy("app:2").await;
    world.fail(400);
    world.until_told("holds automation").await;
    world.deploy("app:fixed").await;
    world.fail(0);
    world.until_told("does not fire any more").await;
    assert_eq!(image(&world.namespace, "web").await, "app:fixed");
    let changes = json(&world.call(&["changes", "--since", "10m", "-o", "json"]).await.ok());
    assert_eq!(changes["changes"][0]["summary"], "app:fixed", "{changes:#}");
    assert!(changes["changes"][0]["by"].is_string(), "its managed fields say by whom: {changes:#}");
    assert_eq!(json(&world.call(&["unhold", "web", "-o", "json"]).await.ok())["wasHeld"], true);
    assert_eq!(world.call(&["holds"]).await.ok(), "nothing is held\n");
    // A run by hand holds automation by itself, and tells the same people.
    let before = world.chat.posts().len();
    world.call(&["undo", "web", "--yes", "--reason", "by hand"]).await.ok();
    let told = world.told().split_off(before);
    assert!(
        told[0].contains("a run by hand begins") && told.last().unwrap().contains("is done and verified"),
        "{told:?}"
    );
    let holds = json(&world.call(&["holds", "-o", "json"]).await.ok());
    assert!(holds[0]["reason"].as_str().unwrap().contains("by hand"), "{holds:#}");
    assert_eq!(world.runs().await.len(), 1);
    watching.end().await;
}

#[tokio::test]
async fn a_runbook_that_breaks_leaves_the_old_one_in_force_and_one_that_changes_is_used() {
    let world = World::new(ERROR_RATE, "").await;
    let watching = world.watch(&[]).await;
    world.write(&ERROR_RATE.replace("above: 5%", "above: much"), "");
    watching.said("the old one stays").await;
    world.until_told("the old one stays").await;
    world.write(&ERROR_RATE.replace("above: 5%", "above: 90%"), "");
    watching.said("is used from now on").await;
    world.deploy("app:2").await;
    world.fail(400);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((world.runs().await.len(), image(&world.namespace, "web").await), (0, "app:2".into()));
    watching.end().await;
}

#[tokio::test]
async fn observing_says_what_it_would_do() {
    let world = World::new(ERROR_RATE, "").await;
    let watching = world.watch(&["--observe"]).await;
    world.deploy("app:2").await;
    world.fail(400);
    let said = watching.said("it would").await;
    assert!(said.contains(&format!("return deployment/{}/web from", world.namespace.name())), "{said}");
    assert_eq!(image(&world.namespace, "web").await, "app:2");
    assert_eq!(world.told(), Vec::<String>::new());
    assert!(!world.folder.path().join("runs.db").exists());
    watching.end().await;
}

#[tokio::test]
async fn a_proposal_is_carried_out_by_the_command_that_people_are_told() {
    let world = World::new(&ERROR_RATE.replace("[alert, rollback]", "[propose]"), "").await;
    let watching = world.watch(&[]).await;
    world.deploy("app:2").await;
    world.fail(400);
    world.until_told("proposes a rollback").await;
    let line = watching.said("next: rollback undo --plan").await;
    let words: Vec<_> = line.split_whitespace().skip(2).chain(["--yes"]).collect();
    world.call(&words).await.ok();
    assert_eq!(image(&world.namespace, "web").await, "app:1");
    watching.end().await;
}

#[tokio::test]
async fn a_check_lists_all_that_fails_and_sends_a_test_message() {
    let world = World::new(ERROR_RATE, "").await;
    let checked = world.call(&["check", "--notify", "-o", "json"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    let checks = json(&checked.stdout);
    assert!(checks.as_array().unwrap().iter().all(|check| check["ok"] == true), "{checks:#}");
    assert!(
        world.told().iter().any(|text| text.contains("a test of the notifications")),
        "{:?}",
        world.chat.posts()
    );
    world.namespace.delete("Deployment", "web").await;
    world.prometheus.kill();
    let checked = world.call(&["check", "-o", "json"]).await;
    assert_eq!(checked.code, 1, "{checked:?}");
    let checks = json(&checked.stdout);
    let failed: Vec<_> =
        checks.as_array().unwrap().iter().filter(|c| c["ok"] == false).map(|c| c["check"].clone()).collect();
    assert_eq!(failed, ["web", "policy error-rate"], "{checks:#}");
}

/// Answers every request at these addresses and one port: well at the first, and not at the second. Answers the port.
fn serve() -> u16 {
    let well = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = well.local_addr().unwrap().port();
    let failing = std::net::TcpListener::bind(("127.0.0.3", port)).unwrap();
    for (listener, status) in [(well, "200 OK"), (failing, "500 Internal Server Error")] {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
            }
        });
    }
    port
}

/// Gives every pod an address; once it is sick, one of those of this image gets one that fails.
async fn addresses(namespace: &Weak<Namespace>, failing_image: &str, sick: &AtomicBool) {
    while let Some(namespace) = namespace.upgrade() {
        let pods = namespace.list("Pod", "app=web").await;
        let is_bad = |pod: &Value| pod["spec"]["containers"][0]["image"] == failing_image;
        let mut one_fails = pods.iter().any(|pod| {
            pod["status"]["podIP"] == "127.0.0.3" && pod["metadata"]["deletionTimestamp"].is_null()
        });
        // Until it is ready, the stand-in for its kubelet sets its address.
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        for pod in pods.iter().filter(is_ready) {
            let fails = is_bad(pod) && !one_fails && sick.load(Ordering::SeqCst);
            one_fails |= fails;
            let is_new = !["127.0.0.2", "127.0.0.3"].map(Value::from).contains(&pod["status"]["podIP"]);
            if !fails && !is_new {
                continue;
            }
            let address = if fails { "127.0.0.3" } else { "127.0.0.2" };
            let path = format!("{}/status", namespace.path("Pod", pod["metadata"]["name"].as_str().unwrap()));
            let change = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
            // One that has just gone needs none.
            let _ = namespace
                .request(reqwest::Method::PATCH, &path, "application/merge-patch+json", change)
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_latency_is_told_alone_and_pods_that_fail_are_restarted_until_that_does_not_help() {
    let policies = format!(
        "
  - name: latency-p99
    component: web
    when:
      prometheus: {{ url: PROMETHEUS, query: p99_seconds }}
      aboveBaseline: 2
      baseline: {{ beforeChange: true }}
      for: 2s
      every: 500ms
    actions: [alert]
  - name: health
    component: web
    when:
      http: {{ pods: {{ port: {}, path: /healthz }}, timeout: 1s }}
      consecutiveFailures: 3
      every: 500ms
      grace: 1s
    target: previous
    actions: [restart]
",
        serve()
    );
    let world = World::new(&policies, "").await;
    let namespace = Arc::downgrade(&world.namespace);
    let sick = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let sick = sick.clone();
        async move { addresses(&namespace, "app:2", &sick).await }
    });
    world.namespace.merge("Deployment", "web", &json!({"spec": {"replicas": 3}})).await;
    world.prometheus.show("p99_seconds", 0.1);
    world.prometheus.wait("p99_seconds").await;
    let watching = world.watch(&[]).await;
    world.deploy("app:2").await;
    world.prometheus.show("p99_seconds", 0.5);
    world.until_told("latency-p99 fires").await;
    assert_eq!(world.runs().await.len(), 0);
    sick.store(true, Ordering::SeqCst);
    world.until("the image is the older one", async || image(&world.namespace, "web").await == "app:1").await;
    let runs = world.runs().await;
    let mut kinds = Vec::new();
    for run in runs.iter().rev() {
        let report =
            json(&world.call(&["report", run["run"].as_str().unwrap(), "--format", "json"]).await.ok());
        kinds.push((report["trigger"]["policy"].clone(), report["changes"][0]["kind"].clone()));
    }
    let kinds: Vec<_> =
        kinds.iter().map(|(policy, kind)| (policy.as_str().unwrap(), kind.as_str().unwrap())).collect();
    assert_eq!(kinds, [("health", "restart"), ("health", "restart"), ("health", "rollback")]);
    // Not a restarted copy of the bad one: exactly the template that was.
    let live = world.namespace.get("Deployment", "web").await;
    assert!(live["spec"]["template"]["metadata"]["annotations"].is_null(), "{live:#}");
    watching.end().await;
}

/// Gives a user what the manifests give the account of the supervisor, in other namespaces than theirs.
async fn bind_as_shipped(user: &RestrictedUser, system: &Namespace, watched: &Namespace) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let roles = deploy.join("base/roles.yaml");
    system.kubectl(&["apply", "-f", roles.to_str().unwrap()]).await.ok();
    for file in ["base/bindings.yaml", "example/bindings.yaml"] {
        let text = std::fs::read_to_string(deploy.join(file)).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let mut binding: Value = serde::Deserialize::deserialize(document).unwrap();
            let account = json!([{"kind": "ServiceAccount", "name": "rollback-supervisor", "namespace": "rollback-system"}]);
            assert_eq!(binding["subjects"], account, "{file}");
            binding["subjects"] = json!([user.subject()]);
            let namespace = binding["metadata"]["namespace"].clone();
            let name = Testbed::shared().await.unique("shipped");
            binding["metadata"] = json!({"name": name});
            let place = if namespace == "inflow-staging" { watched } else { system };
            place.create(&binding).await;
        }
    }
}

#[tokio::test]
async fn a_supervisor_with_exactly_the_shipped_rights_rolls_back_and_restarts() {
    let world = World::new(ERROR_RATE, "").await;
    let system = crate::cluster::journal().await;
    let user = Testbed::shared().await.user().await;
    bind_as_shipped(&user, &system, &world.namespace).await;
    let runbook = world.folder.path().join("rollback.yaml");
    let text = std::fs::read_to_string(&runbook).unwrap();
    let journal = format!("journal: {{ kubernetes: {{ namespace: {} }} }}", system.name());
    std::fs::write(&runbook, text.replace("journal: { sqlite: runs.db }", &journal)).unwrap();

    // Where it may not look, it warns, and goes on.
    let checked = finish(world.command(user.kubeconfig(), &["check", "-o", "json"]).spawn().unwrap()).await;
    let unwell: Vec<Value> =
        json(&checked.stdout).as_array().unwrap().iter().filter(|one| one["ok"] == false).cloned().collect();
    assert!(checked.code == 0, "{unwell:#?}");
    let watching = world.watch_as(user.kubeconfig(), &[]).await;
    world.deploy("app:2").await;
    world.fail(400);
    world.until("the image is the older one", async || image(&world.namespace, "web").await == "app:1").await;
    world.fail(0);
    world
        .until("the run has ended", async || {
            world.runs().await.iter().any(|run| run["outcome"] == "Completed")
        })
        .await;
    watching.end().await;
    let leads = format!("--journal kubernetes:{}", system.name());
    let posts = Value::from(world.chat.posts()).to_string();
    assert!(posts.contains("rollback show ") && posts.contains(&leads), "{posts}");
    let namespace = &world.namespace;
    namespace.rolled_out("Deployment", "web").await;
    let pods = namespace.list("Pod", "app=web").await;
    let is_old = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let bad = pods.iter().find(is_old).unwrap()["metadata"]["name"].as_str().unwrap();
    namespace.set_ready(bad, false).await;
    namespace
        .wait("Pod", bad, "it is not ready", |pod| pod.to_string().contains("\"status\":\"False\""))
        .await;
    for restart in
        [&["restart", "web", "--yes", "-o", "json"][..], &["restart", "web", "--all", "--yes", "-o", "json"]]
    {
        let restarted = finish(world.command(user.kubeconfig(), restart).spawn().unwrap()).await;
        assert_eq!(
            (restarted.code, &json(&restarted.stdout)["outcome"]),
            (0, &json!("Completed")),
            "{restarted:?}"
        );
    }
    assert!(namespace.get_if_exists("Pod", bad).await.is_null());
}
