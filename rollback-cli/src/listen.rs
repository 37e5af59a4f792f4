//! What a supervisor serves over HTTP: whether it is alive, whether it is ready, and its metrics.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rollback_core::supervisor::Supervisor;
use rollback_core::{Clock as _, Error, ErrorKind, SystemClock, Timestamp};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::output;

/// How often metrics that nobody asks for are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// How much longer than its longest interval a supervisor may take before it counts as stuck.
const SLACK: Duration = Duration::from_secs(60);

/// How a supervisor is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    supervisor: Mutex<Option<Arc<Supervisor>>>,
    /// Since when it leads, where it does.
    leads: Mutex<Option<Timestamp>>,
    broken: Mutex<Option<String>>,
}

impl Health {
    /// Watches this one from now on.
    pub(crate) fn watch(&self, supervisor: Arc<Supervisor>) {
        *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
    }

    /// Watches none any more.
    pub(crate) fn end(&self) {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether it leads, and so evaluates.
    pub(crate) fn lead(&self, leads: bool) {
        let since = leads.then(|| SystemClock.now());
        *self.leads.lock().unwrap_or_else(PoisonError::into_inner) = since;
        metrics::gauge!("rollback_leads").set(if leads { 1.0 } else { 0.0 });
    }

    /// Whether it leads.
    pub(crate) fn leads(&self) -> bool {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why the runbook that is there now is not the one that is used.
    pub(crate) fn broken(&self, why: Option<String>) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Whether it is alive: one that leads has evaluated something not long ago.
    fn alive(&self) -> Result<String, String> {
        let Some(since) = *self.leads.lock().unwrap_or_else(PoisonError::into_inner) else {
            return Ok("standby".into());
        };
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = supervisor.as_ref().and_then(|supervisor| supervisor.last_evaluation());
        let longest = supervisor.map(|supervisor| supervisor.longest_interval()).unwrap_or_default();
        let latest = last.map_or(since, |last| last.max(since));
        match last {
            _ if SystemClock.now().since(latest) > longest.saturating_mul(3) + SLACK => {
                Err(format!("nothing was evaluated since {latest}"))
            }
            Some(last) => Ok(format!("leads, evaluated at {last}")),
            None => Ok("leads".into()),
        }
    }

    fn ready(&self) -> Result<String, String> {
        if self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err("starting".into());
        }
        let state = self.alive()?;
        match &*self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            // What it watches it still watches.
            Some(_) => Ok(format!("{state}; the runbook has changed and cannot be used")),
            None => Ok(state),
        }
    }
}

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    metrics: PrometheusHandle,
}

/// Serves until stopped.
pub(crate) async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, Failure> {
    let unusable = |what: &str, e: Box<dyn std::error::Error + Send + Sync>| {
        Failure::setup(
            Error::new(ErrorKind::InvalidConfig, format!("cannot {what} {address}")).with_source(e),
        )
    };
    let metrics =
        PrometheusBuilder::new().install_recorder().map_err(|e| unusable("serve metrics at", Box::new(e)))?;
    let listener = TcpListener::bind(address).await.map_err(|e| unusable("listen at", Box::new(e)))?;
    if let Ok(address) = listener.local_addr() {
        output::say(&format!("serving /healthz, /readyz and /metrics at http://{address}"));
    }
    let routes = Router::new()
        .route("/healthz", get(async |State(served): State<Served>| answer(served.health.alive())))
        .route("/readyz", get(async |State(served): State<Served>| answer(served.health.ready())))
        .route("/metrics", get(async |State(served): State<Served>| served.metrics.render()))
        .with_state(Served { health, metrics: metrics.clone() });
    tokio::spawn({
        let metrics = metrics.clone();
        async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                metrics.run_upkeep();
            }
        }
    });
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            output::say(&format!("warning: nothing is served any more: {error}"));
        }
    }))
}

fn answer(state: Result<String, String>) -> (StatusCode, String) {
    match state {
        Ok(text) => (StatusCode::OK, text + "\n"),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n"),
    }
}
