//! Telling people in your own way: a `Notifier` for a pager, and the `Outbox` that tries again while the pager
//! is down.
//!
//! `cargo run --example notifications` rolls a component back, and pages somebody about it. Ready-made notifiers
//! for Slack, Alertmanager and webhooks are in the crate `rollback-notify`. A `Supervisor` is given an outbox and
//! delivers by itself; a program that runs an `Engine` by hand does it as here.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    ComponentId, Components, Engine, Error, ErrorKind, Happening, MemoryJournal, Move, Notification,
    Notifier, Outbox, Planner, RunOptions, Target,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// How long to wait for a delivery.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    tell(&mut std::io::stdout()).await
}

/// Pages whoever is on call. What it would send to a server goes to this channel, and is printed.
#[derive(Debug)]
struct Pager {
    pages: UnboundedSender<String>,
    /// Whether the next call fails.
    is_down: AtomicBool,
}

impl Pager {
    fn send(&self, line: String) {
        // Nobody looks any more once the receiver is gone, and that is no failure of the pager.
        let _ = self.pages.send(line);
    }
}

#[async_trait]
impl Notifier for Pager {
    /// Under this name the ledger keeps what is not delivered yet, so it stays the same from one start to the next.
    fn name(&self) -> &'static str {
        "pager"
    }

    /// One call is one attempt. Repeating, waiting and giving up are the outbox's.
    async fn notify<'a>(
        &'a self,
        message: &'a Notification,
        thread: Option<&'a str>,
    ) -> rollback_core::Result<Option<String>> {
        if self.is_down.swap(false, Ordering::SeqCst) {
            self.send("(the pager does not answer)".into());
            // Without `temporary` it would not be tried again before the next start. The time is for servers that
            // name one, such as in `retry-after`; with none the pauses grow from 1 s.
            let error = Error::new(ErrorKind::Unavailable, "the pager does not answer");
            return Err(error.temporary(Some(Duration::from_millis(100))));
        }
        let Some(page) = thread else {
            self.send(format!("new page: {}", message.summary));
            for command in &message.next {
                self.send(format!("          next: {command}"));
            }
            // Comes back as `thread` of whatever else belongs to this run.
            return Ok(Some("page 1".into()));
        };
        self.send(format!("on {page}: {}", message.summary));
        Ok(None)
    }
}

/// Rolls a component back, and tells of it.
pub(crate) async fn tell(out: &mut impl Write) -> Result<()> {
    let web = Arc::new(MemoryComponent::new(ComponentId::new("memory", None, "web")?));
    web.deploy("v1", &json!({"image": "web:1"}));
    web.deploy("v2", &json!({"image": "web:2"}));
    let journal = Arc::new(MemoryJournal::new());
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await?;
    let components = Components::new().with(web);
    let engine = Engine::new(journal.clone()).with_ledger(journal.clone());
    let report = engine.execute(&plan, &components, RunOptions::by("notifications")).await?;

    let (pages, mut heard) = unbounded_channel();
    let notifier: Arc<dyn Notifier> = Arc::new(Pager { pages, is_down: AtomicBool::new(true) });
    let outbox = Outbox::new(vec![notifier], journal);

    // Recorded at once and delivered later: whoever sends is never held up.
    let message = Notification::of_run(&report, &Move::all(&plan), None);
    outbox.send(message.clone()).await;
    writeln!(out, "{} message waits, and is delivered:\n", outbox.waiting().await)?;
    let left = outbox.flush(PATIENCE).await;
    show(out, &mut heard)?;
    writeln!(out, "\n{left} messages are left. What follows belongs to the same run:\n")?;

    let summary = "memory/web: all is well again".to_owned();
    let id = format!("{}-seen", message.id);
    outbox.send(Notification { id, event: Happening::Recovered, summary, ..message }).await;
    let left = outbox.flush(PATIENCE).await;
    show(out, &mut heard)?;
    writeln!(out, "\n{left} messages are left.")?;
    Ok(())
}

fn show(out: &mut impl Write, heard: &mut UnboundedReceiver<String>) -> std::io::Result<()> {
    while let Ok(line) = heard.try_recv() {
        writeln!(out, "    {line}")?;
    }
    Ok(())
}
