//! A web service that embeds a supervisor: `/healthz`, `/readyz`, and `POST /undo` for people who want to roll
//! back by hand, with a shutdown that leaves nothing half done.
//!
//! `cargo run --example supervised_service` needs no server: it asks itself a few things, and ends. In earnest
//! the token is cancelled by a signal (`tokio::signal`), the journal is in a file (`SqliteJournal`), `/undo`
//! asks who is calling, and of several replicas one supervises (`supervisor::Leadership`).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use rollback_core::supervisor::{Action, Policy, Supervised, Supervisor};
use rollback_core::trigger::{Health, HealthCheck, HealthProbe};
use rollback_core::{
    Clock, ComponentId, Components, Engine, Ledger, MemoryJournal, Outbox, Planner, Rollbackable, RunOptions,
    SystemClock, Target, VerificationState,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// How late an evaluation may be before this counts as not ready.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<()> {
    tell(&mut io::stdout()).await
}

/// What the handlers share.
#[derive(Clone)]
struct App {
    web: Arc<dyn Rollbackable>,
    engine: Engine,
    ledger: Arc<dyn Ledger>,
    supervisor: Arc<Supervisor>,
    /// Held by a rollback while it goes on, so that the shutdown can wait for it.
    undoing: Arc<tokio::sync::Mutex<()>>,
    stop: CancellationToken,
}

impl App {
    fn routes(self) -> Router {
        Router::new()
            // That it answers is all there is to say: a restart would not make a metric come back.
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(async |State(app): State<App>| answer(app.ready())))
            .route("/undo", post(undo))
            .with_state(self)
    }

    /// A supervisor is ready once it has evaluated something, and not long ago.
    fn ready(&self) -> Result<String, String> {
        let Some(last) = self.supervisor.last_evaluation() else {
            return Err("nothing is evaluated yet".into());
        };
        let patience = self.supervisor.longest_interval().saturating_mul(3) + SLACK;
        if SystemClock.now().since(last) > patience {
            return Err(format!("nothing was evaluated since {last}"));
        }
        Ok("the supervisor evaluates".into())
    }

    /// Plans and executes a rollback of the service, and says how that went.
    async fn roll_back(self) -> rollback_core::Result<String> {
        let _one = self.undoing.lock().await;
        let planner = Planner::new().with_ledger(self.ledger.clone());
        let plan = planner.rollback("web", self.web.clone(), Target::Previous, &[]).plan().await?;
        let components = Components::new().with(self.web.clone());
        let options = RunOptions {
            reason: Some("asked for over HTTP".into()),
            // When the service stops, the run stops before its next write. What it did is in the journal, and
            // `Engine::resume` goes on with it.
            cancellation: self.stop.child_token(),
            ..RunOptions::by("POST /undo")
        };
        let report = self.engine.execute(&plan, &components, options).await?;
        let moves = report.steps.iter();
        let moves: Vec<_> =
            moves.map(|step| format!("{} from {} to {}", step.component, step.from, step.to)).collect();
        Ok(format!("{}: {:?}", moves.join(", "), report.outcome))
    }
}

fn answer(state: Result<String, String>) -> (StatusCode, String) {
    match state {
        Ok(text) => (StatusCode::OK, text + "\n"),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n"),
    }
}

async fn undo(State(app): State<App>) -> (StatusCode, String) {
    // A task of its own: a client that hangs up drops this handler, and must not drop a run half-way.
    match tokio::spawn(app.roll_back()).await {
        Ok(Ok(told)) => (StatusCode::OK, told + "\n"),
        Ok(Err(error)) => (StatusCode::CONFLICT, error.report().message + "\n"),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the rollback broke off: see its journal\n".into()),
    }
}

/// The component's own word on how it is. In earnest a probe asks the service what its clients would ask.
#[derive(Debug)]
struct OwnStatus(Arc<dyn Rollbackable>);

#[async_trait]
impl HealthProbe for OwnStatus {
    async fn probe(&self) -> rollback_core::Result<BTreeMap<String, Health>> {
        let seen = self.0.status().await?;
        let health = match seen.state {
            VerificationState::Failed => Health::Failed(seen.message),
            // What is starting has not failed.
            VerificationState::Converged | VerificationState::Progressing => Health::Healthy,
        };
        Ok(BTreeMap::from([(self.0.id().to_string(), health)]))
    }
}

/// A supervisor that rolls the component back once its probe fails three times in a row.
fn supervise(
    web: &Arc<dyn Rollbackable>,
    engine: &Engine,
    ledger: Arc<MemoryJournal>,
) -> rollback_core::Result<Supervisor> {
    let mut trigger = HealthCheck::new(Arc::new(OwnStatus(web.clone())), web.id().clone());
    // As in earnest, but every fifth of a second instead of every 10 s.
    trigger.interval = Duration::from_millis(200);
    let policy = Policy::new("health", Arc::new(trigger), [Action::Alert, Action::Rollback]);
    // Nobody is told here: see the example `notifications`.
    let outbox = Outbox::new(Vec::new(), ledger.clone());
    Supervisor::new(engine.clone(), ledger, outbox, vec![Supervised::new(web.clone())], vec![policy])
}

/// Starts the service, asks it a few things, and shuts it down.
pub(crate) async fn tell(out: &mut impl Write) -> Result<()> {
    // Stands for what the service looks after, such as a Deployment.
    let component = MemoryComponent::new(ComponentId::new("memory", None, "web")?);
    component.deploy("v1", &json!({"image": "web:1"}));
    component.deploy("v2", &json!({"image": "web:2"}));
    let web: Arc<dyn Rollbackable> = Arc::new(component.clone());

    // One journal for both: a rollback by hand and one of the supervisor never change a component side by side.
    let journal = Arc::new(MemoryJournal::new());
    let engine = Engine::new(journal.clone()).with_ledger(journal.clone());
    let stop = CancellationToken::new();
    let app = App {
        supervisor: Arc::new(supervise(&web, &engine, journal.clone())?),
        web,
        engine,
        ledger: journal,
        undoing: Arc::default(),
        stop: stop.clone(),
    };

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let served = axum::serve(listener, app.clone().routes());
    let serving = tokio::spawn(served.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
    writeln!(out, "The service listens, and its supervisor has not begun:\n")?;
    show(out, address, "GET /healthz").await?;
    show(out, address, "GET /readyz").await?;

    let supervising = tokio::spawn({
        let (supervisor, stop) = (app.supervisor.clone(), stop.clone());
        async move { supervisor.run(stop).await }
    });
    timeout(Duration::from_secs(30), until_ready(address)).await??;
    writeln!(out, "\nThe supervisor has begun:\n")?;
    show(out, address, "GET /readyz").await?;

    writeln!(out, "\nSomebody rolls back by hand, and once more than there is to go back to:\n")?;
    show(out, address, "POST /undo").await?;
    show(out, address, "POST /undo").await?;
    writeln!(out, "\nIn place is {}.", component.live())?;

    // In this order: no request begins any more and those that go on are answered, then a rollback whose client
    // has hung up ends, then the supervisor, which tells what is left to tell.
    stop.cancel();
    serving.await??;
    drop(app.undoing.lock().await);
    supervising.await??;
    writeln!(out, "Everything has stopped.")?;
    Ok(())
}

async fn until_ready(address: SocketAddr) -> io::Result<()> {
    while !request(address, "GET /readyz").await?.starts_with("200") {
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn show(out: &mut impl Write, address: SocketAddr, what: &str) -> io::Result<()> {
    let answer = request(address, what).await?;
    writeln!(out, "    {what:<12}  {answer}")
}

/// Sends a request without a body; answers its status and the body, in one line.
async fn request(address: SocketAddr, what: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("{what} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text.as_str(), ""));
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or_default();
    Ok(format!("{status}: {}", body.trim_end()))
}
