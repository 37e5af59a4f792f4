//! Real MLflow servers, and an S3 server for what they refer to.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::OnceCell;

use crate::control_plane::free_ports;
use crate::keeper::Keeper;
use crate::proxy::FaultProxy;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlflowVersion {
    /// 3.17.2
    Three,
    /// 2.22.5
    Two,
}

pub(crate) fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A server of a test vouches for itself.
    Client::builder().danger_accept_invalid_certs(true).build().expect("a client")
}

/// What lives as long as the test process.
pub(crate) fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime")).handle()
}

pub(crate) fn place() -> &'static (Keeper, PathBuf) {
    static PLACE: OnceLock<(Keeper, PathBuf)> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir =
            tempfile::Builder::new().prefix("rollback-mlflow-").tempdir().expect("a temporary folder").keep();
        (Keeper::start(&dir), dir)
    })
}

/// A port that no other server of this process gets.
pub(crate) fn free_port() -> u16 {
    static PORTS: OnceLock<Mutex<Vec<u16>>> = OnceLock::new();
    let ports = PORTS.get_or_init(|| Mutex::new(free_ports::<24>().to_vec()));
    let port = ports.lock().unwrap_or_else(PoisonError::into_inner).pop();
    port.expect("no process starts so many servers")
}

/// The folder of an environment that `scripts/test-python` has made.
fn environment(variable: &str) -> PathBuf {
    let folder = std::env::var_os(variable);
    PathBuf::from(
        folder.unwrap_or_else(|| panic!("{variable} is not set: run these tests by ./dev test mlflow")),
    )
}

/// Makes a certificate that vouches for itself, with a package that MLflow brings.
const CERTIFICATE: &str = r#"
import datetime, ipaddress
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mlflow")])
now = datetime.datetime.now(datetime.timezone.utc)
made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(),
    now - datetime.timedelta(days=1), now + datetime.timedelta(days=1))
own = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
cert = made.add_extension(own, critical=False).sign(key, hashes.SHA256())
pem = serialization.Encoding.PEM
open("server.pem", "wb").write(cert.public_bytes(pem))
plain = serialization.PrivateFormat.PKCS8
open("key.pem", "wb").write(key.private_bytes(pem, plain, serialization.NoEncryption()))
"#;

/// An MLflow tracking server.
#[derive(Debug)]
pub struct Mlflow {
    url: String,
    dir: PathBuf,
    python: PathBuf,
    start: Mutex<Command>,
    leader: Mutex<u32>,
}

impl Mlflow {
    /// The server of this version that all tests of a process share.
    pub async fn shared(version: MlflowVersion) -> &'static Self {
        static THREE: OnceCell<Mlflow> = OnceCell::const_new();
        static TWO: OnceCell<Mlflow> = OnceCell::const_new();
        let server = match version {
            MlflowVersion::Three => &THREE,
            MlflowVersion::Two => &TWO,
        };
        server.get_or_init(async || Self::start(version, false).await).await
    }

    /// A server of a test's own; with authentication its administrator is `admin`, `adminpassword12`.
    pub async fn start(version: MlflowVersion, authenticates: bool) -> Self {
        Self::start_as(version, authenticates, false).await
    }

    /// A server of a test's own that speaks TLS, with [`certificate`](Self::certificate).
    pub async fn start_tls() -> Self {
        Self::start_as(MlflowVersion::Three, false, true).await
    }

    /// The certificate of a server that speaks TLS, which nobody else vouches for.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    async fn start_as(version: MlflowVersion, authenticates: bool, tls: bool) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let (keeper, home) = place();
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let dir = home.join(number.to_string());
        std::fs::create_dir(&dir).expect("make a folder");
        let folder = environment(match version {
            MlflowVersion::Three => "MLFLOW_3",
            MlflowVersion::Two => "MLFLOW_2",
        });
        let port = free_port();
        let mut command = Command::new(folder.join("bin/mlflow"));
        command
            .args(["server", "--no-serve-artifacts", "--host", "127.0.0.1", "--workers", "1"])
            .args([
                "--port",
                &port.to_string(),
                "--backend-store-uri",
                &format!("sqlite:///{}/mlflow.db", dir.display()),
            ])
            .args(["--default-artifact-root", &dir.join("artifacts").to_string_lossy()])
            .envs([
                ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
                ("MLFLOW_DISABLE_TELEMETRY", "true"),
                ("DO_NOT_TRACK", "true"),
            ])
            .current_dir(&dir)
            .process_group(0)
            .stdin(Stdio::null());
        if authenticates {
            command.args(["--app-name", "basic-auth"]).envs([
                ("MLFLOW_FLASK_SERVER_SECRET_KEY", "s3cr3t"),
                ("MLFLOW_AUTH_ADMIN_PASSWORD", "adminpassword12"),
            ]);
        } else {
            let mut options = "--threads 8".to_owned();
            if version == MlflowVersion::Three {
                options.push_str(" --no-control-socket");
            }
            if tls {
                options.push_str(" --certfile server.pem --keyfile key.pem");
            }
            command.args(["--gunicorn-opts", &options]);
        }
        let python = folder.join("bin/python");
        if tls {
            let status = Command::new(&python).args(["-c", CERTIFICATE]).current_dir(&dir).status();
            assert!(status.is_ok_and(|status| status.success()), "a certificate");
        }
        let server = Self {
            url: format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" }),
            python,
            dir,
            start: Mutex::new(command),
            leader: Mutex::new(0),
        };
        server.launch(keeper).await;
        server
    }

    async fn launch(&self, keeper: &Keeper) {
        let log = self.dir.join("server.log");
        let leader = {
            let mut command = self.start.lock().expect("the command");
            let file = || std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
            command.stdout(file()).stderr(file()).spawn().expect("start mlflow").id()
        };
        keeper.adopt_group(leader);
        *self.leader.lock().expect("the leader") = leader;
        let begun = Instant::now();
        let client = client();
        while !client
            .get(format!("{}/health", self.url))
            .send()
            .await
            .is_ok_and(|a| a.status() == StatusCode::OK)
        {
            let told = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(180), "mlflow is not ready: {}", told());
            pause(Duration::from_millis(100)).await;
        }
    }

    /// Ends the server at once, as a lost machine does.
    pub fn kill(&self) {
        let leader = *self.leader.lock().expect("the leader");
        let group = format!("-{leader}");
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    }

    /// Starts a server that was killed, with what it had stored.
    pub async fn restart(&self) {
        self.launch(&place().0).await;
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its database.
    pub fn database(&self) -> PathBuf {
        self.dir.join("mlflow.db")
    }

    /// A proxy before it.
    pub async fn proxy(&self) -> FaultProxy {
        FaultProxy::before(&self.url, &self.dir).await
    }

    /// One request of the REST API; panics where it fails.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let url = format!("{}/api/2.0/mlflow/{path}", self.url);
        let request = client().request(method.clone(), url).basic_auth("admin", Some("adminpassword12"));
        let request = if method == Method::GET { request.query(body) } else { request.json(body) };
        let answer = request.send().await.expect("an answer of mlflow");
        let status = answer.status();
        let text = answer.text().await.expect("an answer of mlflow");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON of mlflow")
    }

    /// A model of a new name, whose versions have these sources.
    pub async fn model(&self, sources: &[&str]) -> String {
        let name = format!("inflow-baseline-{:08x}", fastrand::u32(..));
        self.model_named(&name, sources).await;
        name
    }

    /// A model of this name.
    pub async fn model_named(&self, name: &str, sources: &[&str]) {
        self.call("POST", "registered-models/create", &json!({"name": name})).await;
        for source in sources {
            self.call("POST", "model-versions/create", &json!({"name": name, "source": source})).await;
        }
    }

    /// Moves a version to a stage.
    pub async fn stage(&self, model: &str, version: &str, stage: &str, archive: bool) {
        let body = json!({
            "name": model, "version": version, "stage": stage, "archive_existing_versions": archive,
        });
        self.call("POST", "model-versions/transition-stage", &body).await;
    }

    /// Sets an alias.
    pub async fn alias(&self, model: &str, alias: &str, version: &str) {
        let body = json!({"name": model, "alias": alias, "version": version});
        self.call("POST", "registered-models/alias", &body).await;
    }

    /// The stages of all versions and the aliases, as the REST API tells them.
    pub async fn observe(&self, model: &str) -> Value {
        let query = json!({"filter": format!("name='{model}'"), "order_by": "version_number ASC"});
        let versions = self.call("GET", "model-versions/search", &query).await;
        let stage =
            |v: &Value| (v["version"].as_str().unwrap_or_default().to_owned(), v["current_stage"].clone());
        let stages: serde_json::Map<_, _> =
            versions["model_versions"].as_array().into_iter().flatten().map(stage).collect();
        let model = self.call("GET", "registered-models/get", &json!({"name": model})).await;
        json!({"stages": stages, "aliases": model["registered_model"]["aliases"]})
    }

    /// Runs Python with MLflow's own client, connected to this server as `client`; answers what it printed, as
    /// JSON.
    pub async fn python(&self, script: &str) -> Value {
        let script = format!(
            "import json\nfrom mlflow import MlflowClient\nclient = MlflowClient(tracking_uri='{0}', registry_uri='{0}')\n{script}",
            self.url
        );
        let mut command = tokio::process::Command::new(&self.python);
        command
            .args(["-W", "ignore", "-c", &script])
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        let output = command.output().await.expect("run python");
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    /// Locks its database for writing until dropped.
    pub async fn lock(&self) -> Locked {
        let script = format!(
            "import sqlite3, sys\nc = sqlite3.connect('{}', isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\nsys.stdin.read()",
            self.database().display()
        );
        let mut command = tokio::process::Command::new(&self.python);
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("run python");
        let mut line = [0; 7];
        let mut told = child.stdout.take().expect("its output");
        tokio::io::AsyncReadExt::read_exact(&mut told, &mut line).await.expect("it locks");
        Locked { _child: child }
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A database that is locked.
#[derive(Debug)]
pub struct Locked {
    _child: tokio::process::Child,
}

/// Waits in real time.
pub(crate) async fn pause(time: Duration) {
    runtime().spawn(tokio::time::sleep(time)).await.expect("the runtime lives");
}

/// An S3 server, with a bucket `models`.
#[derive(Debug)]
pub struct ObjectStore {
    url: String,
}

impl ObjectStore {
    /// The server that all tests of a process share.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ObjectStore> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let (keeper, home) = place();
        let port = free_port();
        let program = environment("MOTO").join("bin/moto_server");
        let args = ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
        keeper.run(&program, &args, &home.join("moto.log"));
        let url = format!("http://127.0.0.1:{port}");
        let begun = Instant::now();
        while client().put(format!("{url}/models")).send().await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "moto is not ready");
            pause(Duration::from_millis(100)).await;
        }
        Self { url }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts an object into the bucket.
    pub async fn put(&self, key: &str) {
        let request = client().put(format!("{}/models/{key}", self.url));
        let request = request.header("content-type", "application/octet-stream").body("model");
        let answer = request.send().await.expect("an answer of moto");
        assert!(answer.status().is_success(), "{answer:?}");
    }
}
