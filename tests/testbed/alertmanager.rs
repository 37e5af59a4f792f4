//! A real Alertmanager, and the webhook that it calls.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::mlflow::{client, free_port, pause, place};
use crate::tools;

/// An Alertmanager of a test's own.
#[derive(Debug)]
pub struct AlertmanagerServer {
    url: String,
    process: u32,
}

impl AlertmanagerServer {
    /// Starts one that tells nobody.
    pub async fn start() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let dir = place().1.join(format!("alertmanager-{number}"));
        std::fs::create_dir(&dir).expect("make a folder");
        let config =
            "route: {receiver: nobody, group_wait: 1s, group_interval: 1s}\nreceivers: [{name: nobody}]\n";
        std::fs::write(dir.join("alertmanager.yml"), config).expect("write the configuration");
        let program = tools::alertmanager();
        for template in ["default.tmpl", "email.tmpl"] {
            let beside = program.parent().expect("a folder").join(template);
            std::fs::copy(beside, dir.join(template)).expect("its templates");
        }
        let log = std::fs::File::create(dir.join("server.log")).expect("a log");
        let port = free_port();
        let process = Command::new(program)
            .arg("--config.file=alertmanager.yml")
            .arg("--storage.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--cluster.listen-address=", "--log.level=warn"])
            .current_dir(&dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start alertmanager")
            .id();
        place().0.adopt_group(process);
        let server = Self { url: format!("http://127.0.0.1:{port}"), process };
        let begun = Instant::now();
        let ready = format!("{}/-/ready", server.url);
        while !client().get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let told = || std::fs::read_to_string(dir.join("server.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "Alertmanager is not ready: {}", told());
            pause(Duration::from_millis(100)).await;
        }
        server
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The alerts that stand.
    pub async fn alerts(&self) -> Vec<Value> {
        let answer = client().get(format!("{}/api/v2/alerts", self.url)).send().await.expect("an answer");
        answer.json().await.expect("alerts")
    }

    /// The names of those that stand, sorted.
    pub async fn names(&self) -> Vec<String> {
        let alerts = self.alerts().await;
        let mut names: Vec<_> = alerts
            .iter()
            .map(|alert| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for AlertmanagerServer {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.process.to_string()]).status();
    }
}
