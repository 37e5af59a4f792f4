//! A real Prometheus, and the service that it scrapes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mlflow::{client, free_port, pause, place};
use crate::tools;

/// A Prometheus that scrapes a service every second; a test says what that shows.
#[derive(Debug)]
pub struct PrometheusServer {
    url: String,
    port: u16,
    dir: PathBuf,
    shown: Arc<Mutex<BTreeMap<String, f64>>>,
    process: Mutex<u32>,
}

impl PrometheusServer {
    /// A server of a test's own, whose scraped service shows nothing yet.
    pub async fn start() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let dir = place().1.join(format!("prometheus-{number}"));
        std::fs::create_dir(&dir).expect("make a folder");
        let shown: Arc<Mutex<BTreeMap<String, f64>>> = Arc::default();
        let target = serve(shown.clone());
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: service\n  static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
        );
        std::fs::write(dir.join("prometheus.yml"), config).expect("write the configuration");
        let port = free_port();
        let server =
            Self { url: format!("http://127.0.0.1:{port}"), port, dir, shown, process: Mutex::new(0) };
        server.launch().await;
        server
    }

    /// Starts it again after [`kill`](Self::kill), with what it had stored.
    pub async fn launch(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join("server.log"));
        let log = log.expect("a log");
        let process = Command::new(tools::prometheus())
            .arg(format!("--config.file={}", self.dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .args(["--storage.tsdb.retention.time=1h", "--log.level=warn"])
            .current_dir(&self.dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("start prometheus")
            .id();
        place().0.adopt_group(process);
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
        let begun = Instant::now();
        let ready = format!("{}/-/ready", self.url);
        while !client().get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            let told = || std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "Prometheus is not ready: {}", told());
            pause(Duration::from_millis(100)).await;
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let process = *self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the service shows from here on: the value of a series, such as `x_total{code="500"}`.
    pub fn show(&self, series: &str, value: f64) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(series.to_owned(), value);
    }

    /// Has the service show nothing.
    pub fn show_nothing(&self) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds to a series.
    pub fn add(&self, series: &str, more: f64) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner).entry(series.to_owned()).or_default() +=
            more;
    }

    /// Waits until a query gives something.
    pub async fn wait(&self, query: &str) {
        let begun = Instant::now();
        loop {
            let url = format!("{}/api/v1/query", self.url);
            let answer = client().get(url).query(&[("query", query)]).send().await;
            if let Ok(answer) = answer
                && let Ok(value) = answer.json::<serde_json::Value>().await
                && value["data"]["result"].as_array().is_some_and(|all| !all.is_empty())
            {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{query} gives nothing");
            pause(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Serves the series as text, for as long as the process lives. Answers the port.
fn serve(shown: Arc<Mutex<BTreeMap<String, f64>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let mut text = String::new();
            for (series, value) in shown.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = writeln!(text, "{series} {value}");
            }
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    port
}
