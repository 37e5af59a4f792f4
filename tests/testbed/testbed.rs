//! The testbed: one control plane per test process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use http::{Method, Request};
use kube::core::Status;
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::keeper::Keeper;
use crate::namespace::Namespace;
use crate::proxy::{FaultProxy, Upstream};
use crate::tools::{self, Output};
use crate::user::RestrictedUser;
use crate::{control_plane, kubeconfig, kubelet};

/// A control plane that all tests of a process share.
pub struct Testbed {
    runtime: Handle,
    dir: PathBuf,
    kubeconfig: PathBuf,
    config: Config,
    authority: Option<PathBuf>,
    admin: Client,
    anonymous: Client,
    own: bool,
    kubectl: OnceLock<PathBuf>,
    names: AtomicUsize,
    users: AtomicUsize,
    kserve: tokio::sync::OnceCell<()>,
    // Held, not used: the pipe to it closes when this process ends.
    _keeper: Keeper,
}

impl fmt::Debug for Testbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Testbed").field("dir", &self.dir).field("own", &self.own).finish_non_exhaustive()
    }
}

impl Testbed {
    /// The testbed of this process, started on first use.
    pub async fn shared() -> &'static Testbed {
        static SHARED: OnceLock<watch::Receiver<Option<&'static Testbed>>> = OnceLock::new();
        let mut started = SHARED
            .get_or_init(|| {
                let (sender, receiver) = watch::channel(None);
                std::thread::Builder::new()
                    .name("testbed".to_owned())
                    .spawn(move || run(&sender))
                    .expect("start the testbed's thread");
                receiver
            })
            .clone();
        let testbed = started.wait_for(Option::is_some).await;
        testbed
            .expect("the testbed starts; if not, the panic of its thread says why")
            .expect("just waited for it")
    }

    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("rollback-testbed-").tempdir().expect("a temporary folder");
        // The keeper removes it: a destructor would not run on SIGKILL.
        let dir = dir.keep();
        let keeper = Keeper::start(&dir);
        let control_plane = control_plane::start(&dir, &keeper).await;
        let config = kubeconfig::read(&control_plane.kubeconfig).await;
        let mut anonymous = config.clone();
        anonymous.auth_info = kube::config::AuthInfo::default();
        let admin = kubeconfig::client(&config);
        if control_plane.own {
            kubelet::start(admin.clone()).await;
        }
        Self {
            runtime: Handle::current(),
            kubeconfig: control_plane.kubeconfig,
            admin,
            anonymous: kubeconfig::client(&anonymous),
            authority: write_authority(&dir, &config),
            config,
            dir,
            own: control_plane.own,
            kubectl: OnceLock::new(),
            names: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            kserve: tokio::sync::OnceCell::new(),
            _keeper: keeper,
        }
    }

    /// Whether a stand-in looks after the pods, so that the tags of images tell what pods do:
    ///
    /// | tag begins with | the pod |
    /// |---|---|
    /// | (anything else) | runs and is ready at once |
    /// | `never-ready` | runs, never ready |
    /// | `slow` | is ready after two to three seconds |
    /// | `crash-loop` | waits in `CrashLoopBackOff` |
    /// | `pull-error` | waits in `ImagePullBackOff` |
    /// | `config-error` | waits in `CreateContainerConfigError` |
    /// | `unschedulable` | stays pending, `PodScheduled` is false |
    /// | `stuck-terminating` | is ready, and its deletion never ends |
    ///
    /// Each container and init container behaves by its own image.
    /// [`READY_ANNOTATION`](crate::READY_ANNOTATION) on a pod overrides its readiness. False on a
    /// cluster with real kubelets.
    pub fn has_stand_in(&self) -> bool {
        self.own
    }

    /// Installs the custom resources of KServe and Knative as far as rollbacks meet them, and starts a stand-in for
    /// their controllers, once: see [`SERVICES`](crate::SERVICES).
    pub async fn kserve(&'static self) {
        self.kserve
            .get_or_init(|| async {
                let client = self.admin.clone();
                self.runtime.spawn(crate::kserve::start(client)).await.expect("the stand-in starts");
            })
            .await;
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of an administrator, for the calling runtime. It never retries.
    pub fn client(&self) -> Client {
        kubeconfig::client(&self.config)
    }

    /// A new namespace whose name begins so.
    pub async fn namespace(&'static self, prefix: &str) -> Namespace {
        Namespace::create_in(self, self.unique(prefix)).await
    }

    /// A new namespace of exactly this name, which one test alone may use.
    pub async fn namespace_named(&'static self, name: &str) -> Namespace {
        Namespace::create_in(self, name.to_owned()).await
    }

    /// The next user without any right.
    pub async fn user(&'static self) -> RestrictedUser {
        if self.own {
            let index = self.users.fetch_add(1, Ordering::Relaxed);
            RestrictedUser::from_token_file(self, index).await
        } else {
            RestrictedUser::from_service_account(self).await
        }
    }

    /// A proxy before the API server, with the administrator's kubeconfig.
    pub async fn proxy(&self) -> FaultProxy {
        let token = self.own.then_some("token-of-admin");
        self.start_proxy(token).await
    }

    /// A proxy before the API server, with a user's kubeconfig.
    pub async fn proxy_for(&self, user: &RestrictedUser) -> FaultProxy {
        self.start_proxy(Some(user.token())).await
    }

    /// Calls kubectl as an administrator. Its caches and settings are the testbed's own.
    pub async fn kubectl(&'static self, args: &[&str]) -> Output {
        self.kubectl_with(&self.kubeconfig, args).await
    }

    /// Calls kubectl with a kubeconfig, such as that of a [`FaultProxy`].
    pub async fn kubectl_with(&'static self, kubeconfig: &Path, args: &[&str]) -> Output {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let kubeconfig = kubeconfig.to_owned();
        let call = move || {
            let program = self.kubectl.get_or_init(tools::kubectl);
            let mut command = std::process::Command::new(program);
            let home = self.dir.join("home");
            command
                .args(args)
                .env("KUBECONFIG", kubeconfig)
                .env("HOME", home)
                .env("KUBECTL_APPLYSET", "true")
                .stdin(std::process::Stdio::null());
            tools::run(&mut command)
        };
        self.runtime.spawn_blocking(call).await.expect("kubectl's call")
    }

    /// One request of an administrator, on a shared connection of the testbed's own runtime. The
    /// body is left out when null; an answer that is not JSON is a string.
    ///
    /// # Errors
    /// The server's refusal. A broken connection panics.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Value,
    ) -> Result<Value, Box<Status>> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(body).expect("build a request");
        let client = self.admin.clone();
        let call = async move { client.request_text(request).await };
        match self.runtime.spawn(call).await.expect("a request") {
            Ok(text) => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Sleeps in real time, even in a test whose clock is paused.
    pub async fn pause(&self, duration: Duration) {
        // Made inside the block: a timer belongs to the runtime that makes it.
        self.runtime.spawn(async move { tokio::time::sleep(duration).await }).await.expect("a sleep");
    }

    /// A name that nothing else in the cluster has.
    pub fn unique(&self, prefix: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        format!("{prefix}-{:x}-{:x}-{number}", std::process::id(), time & 0xff_ffff)
    }

    pub(crate) async fn kubeconfig_of(&self, name: &str, token: &str) -> (PathBuf, Config) {
        let path = self.dir.join(format!("{}.kubeconfig", name.replace(':', "-")));
        let server = self.config.cluster_url.to_string();
        kubeconfig::write(&path, &server, self.authority.as_deref(), Some(token));
        let config = kubeconfig::read(&path).await;
        (path, config)
    }

    /// On our own cluster namespaces go with the servers; deleting them only costs time.
    pub(crate) fn forget_namespace(&self, name: &str) {
        if self.own {
            return;
        }
        let path = format!("/api/v1/namespaces/{name}");
        let request = Request::delete(path).body(Vec::new()).expect("build a request");
        let client = self.admin.clone();
        let (done, wait) = mpsc::channel();
        self.runtime.spawn(async move {
            let _ = done.send(client.request_text(request).await.is_ok());
        });
        // Without this the process could end before the request is out.
        let _ = wait.recv_timeout(Duration::from_secs(5));
    }

    async fn start_proxy(&self, token: Option<&str>) -> FaultProxy {
        let upstream = Upstream { admin: self.admin.clone(), anonymous: self.anonymous.clone() };
        let path = self.dir.join(format!("{}.kubeconfig", self.unique("proxy")));
        FaultProxy::start(&self.runtime, upstream, path, token).await
    }
}

/// A file with the certificates that the cluster's own is signed by.
fn write_authority(dir: &Path, config: &Config) -> Option<PathBuf> {
    let certificates = config.root_cert.as_ref()?;
    let path = dir.join("authority.crt");
    let pem = certificates.iter().map(|der| kubeconfig::pem("CERTIFICATE", der)).collect::<String>();
    std::fs::write(&path, pem).expect("write the authority");
    Some(path)
}

/// Serves the testbed for the rest of the process.
fn run(started: &watch::Sender<Option<&'static Testbed>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("testbed")
        .enable_all()
        .build()
        .expect("the testbed's runtime");
    runtime.block_on(async {
        let testbed: &'static Testbed = Box::leak(Box::new(Testbed::start().await));
        started.send_replace(Some(testbed));
        std::future::pending::<()>().await;
    });
}
