//! A proxy before the API server that records requests and misbehaves as told.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::fault::{Fault, Matcher, status_body};
use crate::kubeconfig;

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// The ways to the API server.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) admin: Client,
    pub(crate) anonymous: Client,
}

/// A request that a proxy saw.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its number, from 0.
    pub index: usize,
    /// When it came.
    pub started: Instant,
    /// The method, such as `PATCH`.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, empty if there is none.
    pub query: String,
    /// The header `Content-Type`, empty if there is none.
    pub content_type: String,
    /// The header `User-Agent`, empty if there is none.
    pub user_agent: String,
    /// The header `Authorization`, empty if there is none.
    pub authorization: String,
    /// The body.
    pub body: Vec<u8>,
    /// The status that the server (or a fault in its place) answered with; none yet, or none at all.
    pub status: Option<u16>,
}

impl Recorded {
    /// The body as text.
    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null if it isn't.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether it could change anything.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
    }
}

/// A proxy before the API server, over plain HTTP on the loopback address. A request without an
/// `Authorization` header goes on as the administrator's, because kubectl sends no token over plain
/// HTTP; so a proxy can't show what an anonymous user may do. Dropping it stops it.
#[derive(Debug)]
pub struct FaultProxy {
    url: String,
    kubeconfig: PathBuf,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Recorded>,
    rules: Vec<(Matcher, Action)>,
}

#[derive(Clone)]
enum Action {
    Fault(Fault),
    Hold { reached: Arc<watch::Sender<usize>>, released: watch::Receiver<bool> },
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Hold { .. } => f.write_str("Hold"),
        }
    }
}

impl FaultProxy {
    pub(crate) async fn start(
        runtime: &Handle,
        upstream: Upstream,
        kubeconfig: PathBuf,
        token: Option<&str>,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        // Bound on the testbed's runtime: a listener belongs to the runtime that made it.
        let listen = runtime.spawn(TcpListener::bind(("127.0.0.1", 0)));
        let listener = listen.await.expect("bind a port").expect("bind a port");
        let url = format!("http://{}", listener.local_addr().expect("a local address"));
        kubeconfig::write(&kubeconfig, &url, None, token);
        let task = runtime.spawn(accept(listener, Proxy { state: state.clone(), upstream }));
        Self { url, kubeconfig, state, task }
    }

    /// A proxy before any server that speaks plain HTTP, as the testbed's stand before the API server.
    pub async fn before(url: &str, folder: &Path) -> Self {
        let mut config = kube::Config::new(url.parse().expect("the URL of a server"));
        config.default_retry = false;
        let client = || Client::try_from(config.clone()).expect("a client");
        let runtime = crate::mlflow::runtime();
        let upstream = {
            // A client belongs to the runtime in which it was made.
            let _entered = runtime.enter();
            Upstream { admin: client(), anonymous: client() }
        };
        let name = format!("proxy-{}", fastrand::u64(..));
        Self::start(runtime, upstream, folder.join(name), None).await
    }

    /// The URL of the proxy, `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig whose server is the proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the proxy, for the calling runtime. It never retries.
    pub async fn client(&self) -> Client {
        kubeconfig::client(&kubeconfig::read(&self.kubeconfig).await)
    }

    /// Adds a fault. The first fault that hits a request is the one that acts.
    pub fn fault(&self, matcher: Matcher, fault: Fault) {
        lock(&self.state).rules.push((matcher, Action::Fault(fault)));
    }

    /// Holds requests back, before the server sees them, until released.
    pub fn hold(&self, matcher: Matcher) -> Hold {
        let (reached, count) = watch::channel(0);
        let (release, released) = watch::channel(false);
        let action = Action::Hold { reached: Arc::new(reached), released };
        lock(&self.state).rules.push((matcher, action));
        Hold { count, release }
    }

    /// The requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.state).requests.clone()
    }

    /// The requests so far that could change anything.
    pub fn writes(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(Recorded::is_write).collect()
    }

    /// Forgets requests and faults. Requests that are on their way keep their fault.
    pub fn clear(&self) {
        *lock(&self.state) = State::default();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests held back. Dropping it releases them.
#[derive(Debug)]
pub struct Hold {
    count: watch::Receiver<usize>,
    release: watch::Sender<bool>,
}

impl Hold {
    /// Waits until a request is held.
    pub async fn reached(&mut self) {
        self.count.wait_for(|count| *count > 0).await.expect("the proxy lives");
    }

    /// Lets the requests held go on, and later ones pass.
    pub fn release(&self) {
        self.release.send_replace(true);
    }
}

#[derive(Clone)]
struct Proxy {
    state: Arc<Mutex<State>>,
    upstream: Upstream,
}

/// Dropping this future drops the connections, too.
async fn accept(listener: TcpListener, proxy: Proxy) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(serve(stream, proxy.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, proxy: Proxy) {
    // Small answers of a watch would wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { proxy.answer(request).await }
    });
    // Errors are what faults are made of.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Proxy {
    /// An error ends the connection without an answer.
    async fn answer(self, request: http::Request<Incoming>) -> Result<Response<AnyBody>, io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let (index, action) = self.record(&parts, &body);
        let mut fault = None;
        match action {
            Some(Action::Hold { reached, mut released }) => {
                reached.send_modify(|count| *count += 1);
                // An error is a hold dropped, which releases.
                let _ = released.wait_for(|released| *released).await;
            }
            Some(Action::Fault(Fault::Delay(delay))) => tokio::time::sleep(delay).await,
            Some(Action::Fault(other)) => fault = Some(other),
            None => {}
        }
        match &fault {
            Some(Fault::Reset) => return Err(io::Error::other("reset by the test")),
            Some(Fault::Status { code, retry_after }) => {
                return Ok(self.answered(index, json_answer(*code, *retry_after, &status_body(*code))));
            }
            Some(Fault::Answer { code, body }) => {
                return Ok(self.answered(index, json_answer(*code, None, body)));
            }
            Some(Fault::Gone) => {
                let watch = parts.uri.query().is_some_and(|query| query.contains("watch="));
                let answer = if watch {
                    json_answer(200, None, &json!({"type": "ERROR", "object": status_body(410)}))
                } else {
                    json_answer(410, None, &status_body(410))
                };
                return Ok(self.answered(index, answer));
            }
            _ => {}
        }
        let response = self.answered(index, self.forward(parts, body).await?);
        match fault {
            Some(Fault::DropResponse) => {
                response.into_body().collect().await?;
                Err(io::Error::other("response dropped by the test"))
            }
            Some(Fault::DropAccepted) if response.status().is_success() => {
                let disarmed = |action: &Action| matches!(action, Action::Fault(Fault::DropAccepted));
                lock(&self.state).rules.retain(|(_, action)| !disarmed(action));
                response.into_body().collect().await?;
                Err(io::Error::other("response dropped by the test"))
            }
            Some(Fault::CutStreamAfter(bytes)) => Ok(response.map(|body| cut(body, bytes))),
            _ => Ok(response),
        }
    }

    fn record(&self, parts: &http::request::Parts, body: &Bytes) -> (usize, Option<Action>) {
        let header = |name: HeaderName| {
            parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let mut state = lock(&self.state);
        let request = Recorded {
            index: state.requests.len(),
            started: Instant::now(),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            content_type: header(header::CONTENT_TYPE),
            user_agent: header(header::USER_AGENT),
            authorization: header(header::AUTHORIZATION),
            body: body.to_vec(),
            status: None,
        };
        let rule = state.rules.iter_mut().find_map(|(matcher, action)| {
            let hit = matcher.hits(&request);
            hit.then(|| action.clone())
        });
        let index = request.index;
        state.requests.push(request);
        (index, rule)
    }

    fn answered<B>(&self, index: usize, response: Response<B>) -> Response<B> {
        // None when the test has cleared the proxy meanwhile.
        if let Some(request) = lock(&self.state).requests.get_mut(index) {
            request.status = Some(response.status().as_u16());
        }
        response
    }

    async fn forward(
        &self,
        mut parts: http::request::Parts,
        body: Bytes,
    ) -> Result<Response<AnyBody>, io::Error> {
        let client = if parts.headers.contains_key(header::AUTHORIZATION) {
            &self.upstream.anonymous
        } else {
            &self.upstream.admin
        };
        parts.headers.remove(header::HOST);
        drop_hop_by_hop(&mut parts.headers);
        parts.version = http::Version::default();
        // A client that names the proxy in full would send the request in a circle.
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().map_err(io::Error::other)?;
        let response = client
            .send(http::Request::from_parts(parts, Body::from(body)))
            .await
            .map_err(io::Error::other)?;
        let (mut parts, body) = response.into_parts();
        drop_hop_by_hop(&mut parts.headers);
        parts.version = http::Version::default();
        Ok(Response::from_parts(parts, body.map_err(io::Error::other).boxed_unsync()))
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
}

fn json_answer(code: u16, retry_after: Option<u32>, body: &Value) -> Response<AnyBody> {
    let mut response = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
    if let Some(seconds) = retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    let body = Full::from(format!("{body}\n")).map_err(|never| match never {}).boxed_unsync();
    response.body(body).expect("build an answer")
}

/// The first bytes of a body, then an error, which breaks the connection.
fn cut(body: AnyBody, bytes: usize) -> AnyBody {
    let chunks = BodyDataStream::new(body);
    let stream = futures::stream::try_unfold((chunks, bytes), |(mut chunks, left)| async move {
        if left == 0 {
            // An error overtakes bytes that the server has not yet written out.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(io::Error::other("stream cut by the test"));
        }
        let Some(chunk) = chunks.next().await else { return Ok(None) };
        let mut chunk = chunk?;
        chunk.truncate(left);
        let left = left - chunk.len();
        Ok(Some((Frame::data(chunk), (chunks, left))))
    });
    StreamBody::new(stream).boxed_unsync()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("the proxy's lock")
}
