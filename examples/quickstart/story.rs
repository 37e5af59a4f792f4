//! What happens, told line by line.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use rollback_core::{
    Components, Engine, Event, MemoryJournal, Planner, Progress, RunOptions, RunReport, Step, StepEvent,
    Target,
};

use super::automatic;
use super::release::Release;
use super::service::{Service, get};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Lays a release down that answers with this status, as a pipeline would.
pub(crate) fn lay_down(root: &Path, release: &str, status: &str) -> io::Result<()> {
    let folder = root.join("releases").join(release);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("status"), status)?;
    fs::write(folder.join("page"), format!("Hello from {release}"))
}

/// Deploys a release: the link is replaced in one go.
pub(crate) fn point_at(root: &Path, release: &str) -> io::Result<()> {
    let new = root.join("new");
    std::os::unix::fs::symlink(format!("releases/{release}"), &new)?;
    fs::rename(new, root.join("current"))
}

/// Rolls a broken release back, and writes what happens to `out`.
/// Then the same without being asked; its report goes into `reports`.
pub(crate) async fn tell(out: &mut impl Write, reports: &Path) -> Result<RunReport> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    lay_down(root, "v3", "200 OK")?;
    lay_down(root, "v4", "200 OK")?;
    lay_down(root, "v5", "500 Internal Server Error")?;
    point_at(root, "v5")?;
    let service = Service::start(root).await?;

    writeln!(out, "A service runs on this machine, from the folder that a link names:\n")?;
    writeln!(out, "    {}/current -> releases/v5\n", root.display())?;
    writeln!(out, "v5 went out a moment ago, and now:\n")?;
    show_answer(out, &service).await?;

    writeln!(out, "1. PLAN   What would it take to go back? Asking only reads.\n")?;
    let web = Arc::new(Release::new("web", root, service.address)?);
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await?;
    for Step { id, change, .. } in plan.steps() {
        writeln!(out, "    step {id}: {}  {} -> {}", change.component, change.from.id, change.to.id)?;
        for field in &change.diff {
            let [from, to] = [&field.from, &field.to].map(|value| value.clone().unwrap_or_default());
            writeln!(out, "      {}  {from} -> {to}", field.path)?;
        }
    }
    let digest = plan.digest().to_string();
    writeln!(
        out,
        "    digest {}: what was shown is what is executed\n",
        digest.get(..19).unwrap_or(&digest)
    )?;

    writeln!(
        out,
        "2. RUN    Every intent is recorded before its effect, so a crash at any point can be mended.\n"
    )?;
    let journal = Arc::new(MemoryJournal::new());
    let engine = Engine::new(journal.clone()).with_ledger(journal.clone());
    let components = Components::new().with(web.clone());
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let options = RunOptions { progress: Some(sender), ..RunOptions::by("quickstart") };
    let show = async {
        while let Some(progress) = told.recv().await {
            show_progress(out, progress)?;
        }
        io::Result::Ok(())
    };
    let (report, shown) = tokio::join!(engine.execute(&plan, &components, options), show);
    shown?;
    let report = report?;

    writeln!(out, "\n3. REPORT What the journal tells, and what the service says for itself.\n")?;
    writeln!(out, "    {:?}", report.outcome)?;
    for step in &report.steps {
        let message = step.message.as_deref().unwrap_or("nothing was seen");
        writeln!(out, "    step {}: {:?} at {}: {message}", step.id, step.outcome, step.to)?;
    }
    show_answer(out, &service).await?;
    writeln!(
        out,
        "4. WATCH  The same without being asked: a supervisor watches what clients of the service see.\n"
    )?;
    automatic::tell(out, root, (web, service.address), journal, reports).await?;
    show_answer(out, &service).await?;
    writeln!(out, "To make something of your own roll back, read examples/quickstart/release.rs.")?;
    Ok(report)
}

async fn show_answer(out: &mut impl Write, service: &Service) -> io::Result<()> {
    let answer = get(service.address).await?;
    writeln!(out, "    GET http://{}/  {} says {}\n", service.address, answer.release, answer.status)
}

fn show_progress(out: &mut impl Write, progress: Progress) -> io::Result<()> {
    let event = match progress {
        Progress::Note { text, .. } => return writeln!(out, "      {text}"),
        Progress::Recorded(entry) => entry.event,
    };
    let text = match event {
        Event::RunStarted { .. } => "the run begins".to_owned(),
        Event::RunResumed { .. } => "the run goes on".to_owned(),
        Event::RunFinished { .. } => "the run ends".to_owned(),
        Event::Judged(_) => "the run is judged".to_owned(),
        Event::LeaseBroken(broken) => format!("the lease of {} is broken", broken.component),
        Event::Step { step, event } => match event {
            StepEvent::Started { .. } => format!("{step} is about to change"),
            StepEvent::Applied => format!("{step} is changed; is it any better?"),
            StepEvent::Verified { .. } => format!("{step} has settled"),
            other => format!("{step}: {other:?}"),
        },
    };
    writeln!(out, "    recorded: {text}")
}
