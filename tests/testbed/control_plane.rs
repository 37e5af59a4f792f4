//! Starts the servers: etcd, kube-apiserver, kube-controller-manager.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Request;
use kube::Client;
use ring::signature::{EcdsaKeyPair, KeyPair as _};
use serde_json::Value;

use crate::keeper::Keeper;
use crate::{kubeconfig, tools};

/// How many users without any right the API server knows, see `Testbed::user`.
pub(crate) const USERS: usize = 64;

/// The name and token of a user without any right.
pub(crate) fn user(index: usize) -> (String, String) {
    (format!("user-{index}"), format!("token-of-user-{index}"))
}

/// A control plane that answers.
pub(crate) struct ControlPlane {
    pub(crate) kubeconfig: PathBuf,
    /// Whether the servers are ours, thus without kubelets and with the users of the token file.
    pub(crate) own: bool,
}

/// Has a control plane from wherever one can be had.
pub(crate) async fn start(dir: &Path, keeper: &Keeper) -> ControlPlane {
    if let Some(path) = std::env::var_os("ROLLBACK_TEST_KUBECONFIG").filter(|path| !path.is_empty()) {
        return ControlPlane { kubeconfig: path.into(), own: false };
    }
    if tools::kind_works() {
        return ControlPlane { kubeconfig: start_kind(dir, keeper), own: false };
    }
    ControlPlane { kubeconfig: start_servers(dir, keeper).await, own: true }
}

fn start_kind(dir: &Path, keeper: &Keeper) -> PathBuf {
    let name = format!("rollback-tests-{}", std::process::id());
    let path = dir.join("kubeconfig");
    keeper.at_end(&format!("kind delete cluster --name {name}"));
    let mut kind = Command::new("kind");
    kind.args(["create", "cluster", "--wait", "180s", "--name", &name, "--kubeconfig"]).arg(&path);
    tools::run(&mut kind).ok();
    path
}

async fn start_servers(dir: &Path, keeper: &Keeper) -> PathBuf {
    let binaries = tools::servers();
    let [etcd_port, peer_port, api_port] = free_ports();
    let server = format!("https://127.0.0.1:{api_port}");
    let certificates = dir.join("certificates");
    let path = dir.join("kubeconfig");
    write_tokens(&dir.join("tokens.csv"));
    write_keys(dir);
    kubeconfig::write(&path, &server, Some(&certificates.join("apiserver.crt")), Some("token-of-admin"));

    let run = |program: &str, flags: String| {
        let args: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        keeper.run(&binaries.join(program), &args, &dir.join(format!("{program}.log")));
    };
    let at = dir.to_str().filter(|at| !at.contains(char::is_whitespace)).expect("TMPDIR without spaces");
    run(
        "etcd",
        format!(
            "--data-dir={at}/etcd --unsafe-no-fsync --log-level=warn
             --listen-client-urls=http://127.0.0.1:{etcd_port}
             --advertise-client-urls=http://127.0.0.1:{etcd_port}
             --listen-peer-urls=http://127.0.0.1:{peer_port}
             --initial-advertise-peer-urls=http://127.0.0.1:{peer_port}
             --initial-cluster=default=http://127.0.0.1:{peer_port}"
        ),
    );
    // The advertised address is one of documentation: the default, that of the default route, fails
    // where there is none. TaintNodesByCondition would taint the nodes of the stand-in.
    run(
        "kube-apiserver",
        format!(
            "--etcd-servers=http://127.0.0.1:{etcd_port} --bind-address=127.0.0.1
             --secure-port={api_port} --cert-dir={at}/certificates --advertise-address=192.0.2.1
             --token-auth-file={at}/tokens.csv --authorization-mode=RBAC --allow-privileged=true
             --service-account-key-file={at}/sa.pub
             --service-account-signing-key-file={at}/sa.key
             --service-account-issuer=https://kubernetes.default.svc
             --service-cluster-ip-range=10.0.0.0/16
             --disable-admission-plugins=ServiceAccount,TaintNodesByCondition
             --enable-priority-and-fairness=false
             --max-requests-inflight=4000 --max-mutating-requests-inflight=4000"
        ),
    );
    let client = wait_for_server(dir, &path).await;
    run(
        "kube-controller-manager",
        format!(
            "--kubeconfig={at}/kubeconfig --leader-elect=false --use-service-account-credentials=false
             --service-account-private-key-file={at}/sa.key
             --controllers=*,-nodeipam,-nodelifecycle --port=0 --secure-port=0
             --concurrent-deployment-syncs=20 --concurrent-replicaset-syncs=20
             --concurrent-gc-syncs=20 --concurrent-namespace-syncs=10
             --kube-api-qps=1000 --kube-api-burst=2000"
        ),
    );
    // Its controllers start together, and this account is the first thing that they leave behind.
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    wait("kube-controller-manager", dir, async || exists(&client, account).await).await;
    path
}

async fn wait_for_server(dir: &Path, kubeconfig: &Path) -> Client {
    // The server generates its certificate, so there is none to trust before it is up.
    let certificate = dir.join("certificates/apiserver.crt");
    wait("kube-apiserver", dir, async || {
        std::fs::metadata(&certificate).is_ok_and(|file| file.len() > 0)
            && std::fs::metadata(certificate.with_extension("key")).is_ok_and(|file| file.len() > 0)
    })
    .await;
    let client = kubeconfig::client(&kubeconfig::read(kubeconfig).await);
    wait("kube-apiserver", dir, async || {
        let request = Request::get("/readyz").body(Vec::new()).expect("build a request");
        client.request_text(request).await.is_ok()
    })
    .await;
    client
}

async fn exists(client: &Client, path: &str) -> bool {
    let request = Request::get(path).body(Vec::new()).expect("build a request");
    client.request::<Value>(request).await.is_ok()
}

async fn wait(program: &str, dir: &Path, ready: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !ready().await {
        if begin.elapsed() > Duration::from_secs(60) {
            let log = std::fs::read_to_string(dir.join(format!("{program}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            panic!("{program} is not ready:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ports below those that the system hands out by itself, so that no connection of another test
/// takes one between this look and the server's start.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let seed = std::process::id().wrapping_mul(97) % 10_000;
    let mut candidates = (0..10_000).map(|n| 20_000 + u16::try_from((seed + n) % 10_000).unwrap());
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        let listener = candidates.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
        listener.expect("a free port")
    });
    listeners.map(|listener| listener.local_addr().expect("a local address").port())
}

fn write_tokens(path: &Path) {
    let mut lines = "token-of-admin,admin,admin,system:masters\n".to_owned();
    for (name, token) in (0..USERS).map(user) {
        writeln!(lines, "{token},{name},{name}").expect("write to a string");
    }
    std::fs::write(path, lines).expect("write the token file");
}

/// The keys of the tokens of service accounts: the server takes no private key for a public one.
fn write_keys(dir: &Path) {
    // A public key of P-256 is this header and the point.
    const HEADER: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("generate a key");
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random).expect("read a key");
    let public = [&HEADER[..], pair.public_key().as_ref()].concat();
    for (name, pem) in [
        ("sa.key", kubeconfig::pem("PRIVATE KEY", private.as_ref())),
        ("sa.pub", kubeconfig::pem("PUBLIC KEY", &public)),
    ] {
        std::fs::write(dir.join(name), pem).expect("write a key");
    }
}
