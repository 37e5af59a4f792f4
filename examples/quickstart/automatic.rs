//! The same without being asked: errors rise, a trigger fires, and what has changed is rolled back.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::incident::IncidentFolder;
use rollback_core::supervisor::{Action, Options, Policy, Reporter, Supervised, Supervisor};
use rollback_core::trigger::{Line, MetricSource, Point, Series, Window, error_rate};
use rollback_core::{
    Clock, Engine, Happening, MemoryJournal, Outbox, Rollbackable, RunId, SystemClock, Timestamp,
};
use tokio_util::sync::CancellationToken;

use super::service::get;
use super::story::{Result, lay_down, point_at};

/// How far each sample looks back.
const LOOK_BACK: Duration = Duration::from_secs(1);

/// What clients of the service see: when each asked, and whether it failed. In earnest, this is a Prometheus.
#[derive(Debug, Default)]
struct Clients(Mutex<VecDeque<(Timestamp, bool)>>);

impl Clients {
    fn count(&self, query: &str, at: Timestamp) -> f64 {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = asked.iter().filter(|(when, _)| *when <= at && at.since(*when) < LOOK_BACK);
        let counted = recent.filter(|(_, failed)| query == "requests" || *failed).count();
        f64::from(u32::try_from(counted).unwrap_or(u32::MAX))
    }
}

#[async_trait]
impl MetricSource for Clients {
    async fn sample(&self, query: &str, at: Timestamp) -> rollback_core::Result<Vec<Series>> {
        Ok(vec![Series::of(self.count(query, at))])
    }

    async fn range(
        &self,
        query: &str,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> rollback_core::Result<Vec<Line>> {
        let times = std::iter::successors(Some(from), |at| Some(at.saturating_add(step)));
        let points = times.take_while(|at| *at <= to).map(|at| Point { at, value: self.count(query, at) });
        Ok(vec![Line { points: points.collect(), ..Line::default() }])
    }
}

/// Deploys a release that fails, and tells what the supervisor makes of it. The report goes into `reports`.
pub(crate) async fn tell(
    out: &mut impl Write,
    root: &Path,
    (web, address): (Arc<dyn Rollbackable>, std::net::SocketAddr),
    journal: Arc<MemoryJournal>,
    reports: &Path,
) -> Result<RunId> {
    let clients = Arc::new(Clients::default());
    let asking = tokio::spawn({
        let clients = clients.clone();
        async move {
            loop {
                let failed = get(address).await.is_ok_and(|answer| answer.status.starts_with('5'));
                clients
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back((SystemClock.now(), failed));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });

    // As in earnest, but for seconds instead of minutes.
    let mut trigger = error_rate(clients, web.id().clone(), "errors", "requests");
    (trigger.window, trigger.interval) = (Window::For(Duration::from_secs(2)), Duration::from_millis(200));
    trigger.min_requests = 10.0;
    let policy = Policy::new("error-rate", Arc::new(trigger), [Action::Alert, Action::Rollback]);
    let mut options = Options::default();
    options.observe_every = Duration::from_millis(200);
    options.soak = Duration::from_secs(1);
    options.settle = Duration::from_millis(500);

    let reporter = Arc::new(IncidentFolder::new(reports, journal.clone(), journal.clone()));
    // Nobody is told here; in earnest Slack and Alertmanager are, of the crate rollback-notify.
    let outbox = Outbox::new(Vec::new(), journal.clone());
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let engine = Engine::new(journal.clone());
    let supervisor =
        Supervisor::new(engine, journal, outbox, vec![Supervised::new(web.clone())], vec![policy])?
            .with_options(options)
            .with_reporter(reporter.clone())
            .with_listener(sender);
    let stop = CancellationToken::new();
    let watching = tokio::spawn({
        let stop = stop.clone();
        async move { supervisor.run(stop).await }
    });

    // Long enough for what is in place to be recorded good.
    tokio::time::sleep(Duration::from_secs(3)).await;
    lay_down(root, "v6", "500 Internal Server Error")?;
    point_at(root, "v6")?;
    writeln!(out, "    v6 is deployed, and fails\n")?;
    let mut run = None;
    while let Some(message) = heard.recv().await {
        writeln!(out, "    {:?}: {}", message.event, message.summary)?;
        run = run.or(message.run);
        if matches!(
            message.event,
            Happening::Recovered | Happening::NotRecovered | Happening::RecoveryUnknown
        ) {
            break;
        }
    }
    stop.cancel();
    watching.await??;
    asking.abort();
    let run = run.ok_or("there was no run")?;
    writeln!(out, "\n    the report, with a chart: {}\n", reporter.report(run).await?)?;
    Ok(run)
}
