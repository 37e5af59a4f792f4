//! The handle that all components of one cluster share.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::Client;
use kube::api::ApiResource;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rollback_core::{Access, Clock, Error, ErrorKind, Fingerprint, Realm, Result, SystemClock, retry_read};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use crate::error;
use crate::watch::{Changes, Watches};

/// The name under which this library writes fields and Events.
pub const MANAGER: &str = "rollback";

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How old a look-up may be and still be shared by the components of one plan.
const LOOKUP_AGE: Duration = Duration::from_secs(5);
/// How many requests may be under way at once.
const CONCURRENT_REQUESTS: usize = 32;

/// Which cluster to connect to.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// The kubeconfig file; by default `$KUBECONFIG`, `~/.kube/config` or, in a pod, its own account.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; by default its current one.
    pub context: Option<String>,
}

/// A connection to one cluster, shared by all its components: the client, the look-ups made while
/// planning (one list per kind and namespace however many components), the watches made while verifying
/// (one per kind and namespace), and a bound on the requests under way.
///
/// Cloning is cheap and shares everything. Needs a tokio runtime.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    client: Client,
    server: String,
    context: Option<String>,
    /// Tells apart clusters that are reached under the same address.
    authority: Fingerprint,
    clock: Arc<dyn Clock>,
    realm: OnceCell<Realm>,
    lookups: Mutex<HashMap<String, Lookup>>,
    requests: Semaphore,
    watches: Watches,
}

/// How much of an object is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Metadata,
}

impl Form {
    fn accept(self) -> &'static str {
        match self {
            Self::Whole => "application/json",
            Self::Metadata => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        }
    }
}

/// A list and when it was complete.
type Lookup = Arc<OnceCell<(Instant, Arc<Vec<Value>>)>>;

impl Cluster {
    /// Reads the configuration. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` for a kubeconfig that is absent or does not parse, an unknown context, or
    /// credentials that cannot be read.
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        let context = options.context.clone();
        let (config, context) = match &options.kubeconfig {
            None if context.is_none() && std::env::var_os("KUBECONFIG").is_none() => {
                let current = Kubeconfig::read().ok().and_then(|config| config.current_context);
                let config = kube::Config::infer().await.map_err(|e| {
                    invalid("no kubeconfig, and not in a pod".into())
                        .with_hint("set KUBECONFIG, or pass --kubeconfig")
                        .with_source(e)
                })?;
                (config, current)
            }
            path => {
                let read = match path {
                    Some(path) => Kubeconfig::read_from(path)
                        .map_err(|e| invalid(format!("cannot read {}", path.display())).with_source(e)),
                    None => Kubeconfig::read().map_err(|e| {
                        let files = std::env::var("KUBECONFIG").unwrap_or("~/.kube/config".into());
                        invalid(format!("cannot read {files}")).with_source(e)
                    }),
                }?;
                let context = context.or_else(|| read.current_context.clone());
                let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
                let known = read.contexts.iter().map(|c| c.name.clone()).collect::<Vec<_>>().join(", ");
                let config = kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|e| {
                    let name = context.as_deref().unwrap_or("(none)");
                    invalid(format!("cannot use context {name}"))
                        .with_hint(format!("the kubeconfig has the contexts: {known}"))
                        .with_source(e)
                })?;
                (config, context)
            }
        };
        Self::from_config(config, context)
    }

    /// Connects as `config` says, which a program that has its own connection settings brings along.
    ///
    /// # Errors
    /// `InvalidConfig` when no client can be made of it.
    pub fn from_config(mut config: kube::Config, context: Option<String>) -> Result<Self> {
        // The engine alone repeats requests: it knows what was written.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let authority = Fingerprint::of(&json!(config.root_cert));
        let client = Client::try_from(config).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the connection settings cannot be used").with_source(e)
        })?;
        Ok(Self(Arc::new(Inner {
            watches: Watches::new(client.clone()),
            client,
            server,
            context,
            authority,
            clock: Arc::new(SystemClock),
            realm: OnceCell::new(),
            lookups: Mutex::default(),
            requests: Semaphore::new(CONCURRENT_REQUESTS),
        })))
    }

    /// The namespace of the context.
    pub fn default_namespace(&self) -> &str {
        self.0.client.default_namespace()
    }

    /// The context of the kubeconfig, where there is one.
    pub fn context(&self) -> Option<&str> {
        self.0.context.as_deref()
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// The clock of this machine.
    pub fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.0.watches
    }

    /// Wakes up at every change of an object of this kind in a namespace, through the one watch that all share. A
    /// wake-up tells nothing of what changed: who needs to know reads the object.
    pub fn changes(&self, resource: &ApiResource, namespace: &str) -> Changes {
        Changes::of(self.0.watches.subscribe(resource, namespace))
    }

    /// The cluster's identity: the UID of its `kube-system` namespace, or where that may not be read its
    /// address and certificate authority. Asked once.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn realm(&self) -> Result<Realm> {
        let found = self.0.realm.get_or_try_init(async || {
            match self.get("/api/v1/namespaces/kube-system", "reading the cluster's identity").await {
                Ok(namespace) => {
                    let uid = namespace.pointer("/metadata/uid").and_then(Value::as_str);
                    let uid = uid.ok_or_else(|| {
                        Error::new(ErrorKind::Unexpected, "the namespace kube-system has no UID")
                    })?;
                    Ok(Realm::new(format!("kubernetes:{uid}")))
                }
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    Ok(Realm::new(format!("kubernetes:{}#{}", self.0.server, self.0.authority)))
                }
                Err(e) => Err(e),
            }
        });
        found.await.cloned()
    }

    /// The object at a path of the API; `what` says in an error what was being done. Repeated while it fails for the
    /// moment.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn get(&self, path: &str, what: &str) -> Result<Value> {
        self.send(Method::GET, path, Form::Whole, None, what).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, what: &str) -> Result<Value> {
        self.send(Method::POST, path, Form::Whole, Some(("application/json", body)), what).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value, what: &str) -> Result<Value> {
        self.send(Method::PUT, path, Form::Whole, Some(("application/json", body)), what).await
    }

    /// Deletes the object at a path, with `DeleteOptions`, once.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn delete(&self, path: &str, options: &Value, what: &str) -> Result<Value> {
        self.send(Method::DELETE, path, Form::Whole, Some(("application/json", options)), what).await
    }

    /// Sends a JSON Patch, once: the engine alone repeats writes. What it may not undo guards itself by tests, as
    /// [`patch_guarded`](Self::patch_guarded) does.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn json_patch(&self, path: &str, operations: &Value, what: &str) -> Result<Value> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}fieldManager={MANAGER}");
        self.send(Method::PATCH, &path, Form::Whole, Some(("application/json-patch+json", operations)), what)
            .await
    }

    pub(crate) async fn server_side_apply(&self, path: &str, body: &Value, what: &str) -> Result<Value> {
        let content = ("application/apply-patch+yaml", body);
        self.send(Method::PATCH, path, Form::Whole, Some(content), what).await
    }

    /// All items of a list, page by page. `query` is encoded already and may be empty.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn list(&self, path: &str, query: &str, what: &str) -> Result<Vec<Value>> {
        self.list_as(path, query, Form::Whole, what).await
    }

    async fn list_as(&self, path: &str, query: &str, form: Form, what: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("{path}?limit=500{}{query}{next}", if query.is_empty() { "" } else { "&" });
            let mut page = self.send(Method::GET, &path, form, None, what).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => {
                    next = format!("&continue={}", crate::encode(token));
                }
                _ => return Ok(items),
            }
        }
    }

    /// The names of the objects at a path of the API, such as `/api/v1/namespaces`, without the objects.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn names(&self, path: &str) -> Result<Vec<String>> {
        let objects = self.lookup_metadata(path, &format!("listing {path}")).await?;
        Ok(objects.iter().map(|object| crate::json::name(object).to_owned()).collect())
    }

    /// The contexts of a kubeconfig, by default of `$KUBECONFIG` or `~/.kube/config`.
    ///
    /// # Errors
    /// `InvalidConfig` for one that is absent or does not parse.
    pub fn contexts(kubeconfig: Option<&Path>) -> Result<Vec<String>> {
        let read = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
        let read = read
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, "cannot read the kubeconfig").with_source(e))?;
        Ok(read.contexts.into_iter().map(|context| context.name).collect())
    }

    /// A whole list, shared by all components that ask for it within a few seconds.
    pub(crate) async fn lookup(&self, path: &str, what: &str) -> Result<Arc<Vec<Value>>> {
        self.lookup_as(path, Form::Whole, what).await
    }

    /// The same, of the objects' metadata alone: the data of Secrets never gets here.
    pub(crate) async fn lookup_metadata(&self, path: &str, what: &str) -> Result<Arc<Vec<Value>>> {
        self.lookup_as(path, Form::Metadata, what).await
    }

    async fn lookup_as(&self, path: &str, form: Form, what: &str) -> Result<Arc<Vec<Value>>> {
        let cell = self.fresh_lookups().entry(path.to_owned()).or_default().clone();
        let list = async || {
            let mut items = self.list_as(path, "", form, what).await?;
            if form == Form::Metadata {
                // The last-applied annotation of a Secret holds its data.
                for item in &mut items {
                    if let Some(Value::Object(metadata)) = item.get_mut("metadata") {
                        metadata.remove("annotations");
                    }
                }
            }
            Ok((Instant::now(), Arc::new(items)))
        };
        Ok(cell.get_or_try_init(list).await?.1.clone())
    }

    /// What a group of the API serves, shared as a look-up is.
    pub(crate) async fn resources(&self, path: &str) -> Result<Arc<Vec<Value>>> {
        let cell = self.fresh_lookups().entry(path.to_owned()).or_default().clone();
        let read = async || {
            let mut list = self.get(path, "asking what the cluster serves").await?;
            let resources = list.get_mut("resources").map(Value::take).unwrap_or_default();
            let Value::Array(resources) = resources else { return Ok((Instant::now(), Arc::default())) };
            Ok((Instant::now(), Arc::new(resources)))
        };
        Ok(cell.get_or_try_init(read).await?.1.clone())
    }

    /// The look-ups that are under way or young enough to be shared.
    fn fresh_lookups(&self) -> MutexGuard<'_, HashMap<String, Lookup>> {
        let mut lookups = self.0.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.retain(|_, cell| cell.get().is_none_or(|(since, _)| since.elapsed() < LOOKUP_AGE));
        lookups
    }

    /// Reads are repeated while they fail for the moment; writes never, because the engine alone knows what
    /// was written.
    async fn send(
        &self,
        method: Method,
        path: &str,
        form: Form,
        body: Option<(&str, &Value)>,
        what: &str,
    ) -> Result<Value> {
        drop(self.fresh_lookups());
        match method {
            Method::GET => retry_read(|| self.send_once(&method, path, form, body, what)).await,
            _ => self.send_once(&method, path, form, body, what).await,
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        form: Form,
        body: Option<(&str, &Value)>,
        what: &str,
    ) -> Result<Value> {
        let access = if method == Method::GET { Access::Read } else { Access::Write };
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, form.accept());
        let bytes = match body {
            Some((content_type, body)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                body.to_string().into_bytes()
            }
            None => Vec::new(),
        };
        let request = request
            .body(Body::from(bytes))
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("{what}: bad name")).with_source(e))?;
        let _permit = self.0.requests.acquire().await;
        let exchange = async {
            let response =
                self.0.client.send(request).await.map_err(|e| error::from_kube(e, access, what))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| error::from_kube(e, access, what))?.to_bytes();
            if !parts.status.is_success() {
                let retry_after = parts.headers.get(header::RETRY_AFTER);
                let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok());
                let retry_after = retry_after.map(Duration::from_secs);
                return Err(error::from_response(parts.status, retry_after, &body, access, what));
            }
            serde_json::from_slice(&body).map_err(|e| {
                let error = Error::new(ErrorKind::Unexpected, format!("{what}: the answer is no JSON"));
                let error = error.with_source(e);
                if access == Access::Write { error.indeterminate() } else { error }
            })
        };
        timeout(REQUEST_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(error::timed_out(REQUEST_TIMEOUT, access, what)))
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("server", &self.0.server)
            .field("context", &self.0.context)
            .finish_non_exhaustive()
    }
}
