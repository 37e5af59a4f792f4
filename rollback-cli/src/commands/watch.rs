//! `rollback watch`: the supervisor of a runbook.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::supervisor::{Leadership, Proposals, Supervised, Supervisor};
use rollback_core::{
    Engine, Error, ErrorKind, Fingerprint, Lease, LocalLease, Locator, Notification, Outbox, Plan,
    Restartable,
};
use rollback_k8s::KubernetesLease;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::args::WatchArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::lease::Leases;
use crate::listen::{self, Health};
use crate::output::{self, told};
use crate::parts::{Part, Servers, Settings};
use crate::runbook::{Named, Runbook};
use crate::session::{self, App};
use crate::{keep, place};

/// How long connections may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often the runbook is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(app: &App, args: WatchArgs) -> Result<Exit, Failure> {
    let runbook = app.runbook("there is no runbook whose policies could be watched")?;
    if !runbook.has_policies() {
        return Err(session::usage(format!("the runbook {} has no policies", runbook.path().display())));
    }
    let kept = if args.observe { journal::known(app).await? } else { journal::lasting(app).await? };
    let health = Arc::new(Health::default());
    let served = match args.listen {
        Some(address) => Some(listen::serve(address, health.clone(), app.stop.clone()).await?),
        None => None,
    };
    let (sender, heard) = unbounded_channel();
    let quiet = app.global.quiet;
    let shown = tokio::spawn(show(heard, quiet));
    let path = runbook.path().to_owned();
    let mut text = runbook.text().to_owned();
    logs();
    let mut current = Generation::make(app, runbook, &kept, args.observe, &sender).await?;
    output::say(&format!(
        "watching {}{}",
        told(&path.display().to_string()),
        if args.observe { ", and only observing: nothing is written" } else { "" }
    ));
    while !app.stop.is_cancelled() {
        health.watch(current.supervisor.clone());
        let made = {
            let stop = app.stop.child_token();
            let work = current.work(&kept, args.observe, &stop, &health);
            let next =
                next(app, &path, &mut text, &kept, args.observe, &sender, &current.supervisor, &health);
            let mut next = std::pin::pin!(next);
            let mut work = std::pin::pin!(work);
            let made = tokio::select! {
                done = &mut work => {
                    done?;
                    continue;
                }
                made = &mut next => made,
            };
            // The old one ends as it would for good: its runs stop before their next write, and the new one goes on.
            stop.cancel();
            work.await?;
            made
        };
        current = made;
    }
    // The last word is said once nobody can say anything any more.
    health.end();
    drop(sender);
    drop(current);
    let _ = shown.await;
    if let Some(served) = served {
        // A client that never ends its request is no reason to stay.
        let _ = timeout(FAREWELL, served).await;
    }
    Ok(Exit::Done)
}

/// What one reading of the runbook says.
struct Generation {
    supervisor: Arc<Supervisor>,
    lease: Option<Arc<dyn Lease>>,
    name: String,
}

impl Generation {
    async fn make(
        app: &App,
        runbook: &Runbook,
        kept: &Kept,
        observe: bool,
        sender: &UnboundedSender<Notification>,
    ) -> Result<Self, Failure> {
        let servers = Servers::default();
        let settings = Settings::knowing(&kept.ledger);
        let mut named = Named::new();
        for component in runbook.all() {
            let part = servers.part(app, component, &settings).await?;
            named.insert(component.written.clone(), part);
        }
        for component in runbook.all() {
            let followed =
                runbook.followed_by(&component.written).and_then(|followed| named.get(&followed.written));
            if let Some(followed) = followed.cloned()
                && let Some(part) = named.remove(&component.written)
            {
                named.insert(component.written.clone(), part.following(&followed));
            }
        }
        let parts: Vec<Part> = named.values().cloned().collect();
        // One that does not answer now leaves nobody else unwatched.
        let mut answered = false;
        for part in &parts {
            match part.component().realm().await {
                Ok(_) => answered = true,
                Err(error) => {
                    let why = told(&error.report().message);
                    output::say(&format!("warning: {} cannot be looked at yet: {why}", part.id()));
                }
            }
        }
        if !answered {
            let message = "no component of the runbook can be looked at, see above";
            return Err(Failure::setup(Error::new(ErrorKind::Unavailable, message)));
        }
        let locators = place::locators(app, &servers, &parts, &settings.workload)?;
        let supervised = named.iter().map(|(written, part)| {
            let mut supervised = Supervised::new(part.component());
            if let Part::Workload(workload) = part {
                supervised.restartable = Some(Arc::new(workload.clone()) as Arc<dyn Restartable>);
            }
            supervised.locator = locators.iter().find(|locator| locator.component == *part.id()).cloned();
            supervised.irreversible = runbook.never_crossed(written);
            supervised
        });
        let supervised = supervised.collect();
        let policies = runbook.policies(&named).map_err(Failure::setup)?;
        let notifiers =
            if observe { Vec::new() } else { runbook.notifiers(Some(kept)).map_err(Failure::setup)? };
        let outbox = Outbox::new(notifiers, kept.ledger.clone()).of(&runbook.name());
        let mut options =
            runbook.supervisor(format!("supervisor of {}, {}", runbook.name(), session::actor()));
        options.name = runbook.name();
        options.observe = observe;
        let cluster = servers.cluster().cloned();
        let leases = {
            let cluster = cluster.clone();
            Arc::new(move |plan: &Plan| Arc::new(Leases::new(cluster.as_ref(), plan)) as Arc<dyn Lease>)
        };
        let engine = Engine::new(kept.journal.clone());
        let supervisor = Supervisor::new(engine, kept.ledger.clone(), outbox, supervised, policies);
        let mut supervisor = supervisor
            .map_err(Failure::setup)?
            .with_options(options)
            .with_listener(sender.clone())
            .with_lease_of(leases)
            .with_proposals(Arc::new(Shelf { folder: proposals(), locators, flags: flags(app) }));
        if let Some(incidents) = runbook.incidents() {
            supervisor = supervisor.with_reporter(Arc::new(incidents.reports(kept)));
        }
        let lease: Option<Arc<dyn Lease>> = match &kept.namespace {
            Some(namespace) => {
                let cluster = match cluster {
                    Some(cluster) => cluster,
                    None => app.connect().await?,
                };
                Some(Arc::new(KubernetesLease::new(&cluster).with_namespace(namespace.clone())))
            }
            None => journal::state_folder()
                .map(|folder| Arc::new(LocalLease::new(folder.join("leases"))) as Arc<dyn Lease>),
        };
        if lease.is_none() && !observe {
            return Err(session::usage(
                "there is no folder for the lease of the supervisor: set HOME or XDG_STATE_HOME",
            ));
        }
        Ok(Self { supervisor: Arc::new(supervisor), lease, name: runbook.name() })
    }

    /// Works, as soon as no other supervisor of the runbook does.
    async fn work(
        &self,
        kept: &Kept,
        observe: bool,
        stop: &CancellationToken,
        health: &Health,
    ) -> Result<(), Failure> {
        let lease = self.lease.as_ref().filter(|_| !observe && kept.durable);
        let Some(lease) = lease else {
            health.lead(true);
            return Ok(self.supervisor.run(stop.clone()).await?);
        };
        let standby = |why: String| output::say(&format!("standing by: {}", told(&why)));
        let leadership =
            Leadership::new(lease.clone(), &self.name, session::actor()).map_err(Failure::setup)?;
        let leadership = leadership.with_waiting(Arc::new(standby));
        let work = async |leading| {
            health.lead(true);
            let done = self.supervisor.run(leading).await;
            health.lead(false);
            done
        };
        Ok(leadership.keep(stop, work).await?)
    }
}

/// The next generation: once the runbook has changed, and can be used.
#[allow(clippy::too_many_arguments, reason = "it goes on with everything that the first one had")]
async fn next(
    app: &App,
    path: &Path,
    text: &mut String,
    kept: &Kept,
    observe: bool,
    sender: &UnboundedSender<Notification>,
    supervisor: &Supervisor,
    health: &Health,
) -> Generation {
    let (mut seen, mut is_told) = (None, false);
    loop {
        sleep(LOOK_AGAIN).await;
        // While it is replaced it may not be there.
        let Ok(now) = std::fs::read_to_string(path) else { continue };
        if now == *text {
            // One that was put back is as good as ever.
            if seen.take().is_some() {
                health.broken(None);
                is_told = false;
            }
            continue;
        }
        // Somebody may be writing it.
        if seen.replace(now.clone()) != Some(now.clone()) {
            continue;
        }
        // The one that nobody named is trusted anew.
        if app.global.file.is_none() && !session::is_trusted(path, output::say) {
            *text = now;
            continue;
        }
        let made = match Runbook::read(path) {
            Ok(runbook) if !runbook.has_policies() => Err(session::usage("it has no policies any more")),
            Ok(runbook) if !app.journal_is_typed && runbook.journal() != app.global.journal => {
                Err(session::usage("its journal is another one: begin to watch anew"))
            }
            Ok(runbook) => Generation::make(app, &runbook, kept, observe, sender).await,
            Err(failure) => Err(failure),
        };
        match made {
            Ok(made) => {
                *text = now;
                health.broken(None);
                output::say("the runbook has changed, and is used from now on");
                return made;
            }
            Err(failure) => {
                // What is wrong with the file stays so; a server that does not answer may do so next time.
                if failure.error.kind() == ErrorKind::InvalidConfig {
                    *text = now;
                } else if std::mem::replace(&mut is_told, true) {
                    continue;
                }
                let why = failure.error.report().message;
                output::say(&format!(
                    "warning: the runbook has changed, and the old one stays: {}",
                    told(&why)
                ));
                health.broken(Some(why.clone()));
                // One that stands by tells nobody anything.
                if health.leads() {
                    let text =
                        format!("the runbook has changed and cannot be used, and the old one stays: {why}");
                    supervisor.trouble(text).await;
                }
            }
        }
    }
}

/// Says what people are told, here as well.
async fn show(mut heard: UnboundedReceiver<Notification>, quiet: bool) {
    while let Some(message) = heard.recv().await {
        if quiet {
            continue;
        }
        output::say(&format!("{} {:?}: {}", message.at, message.event, told(&message.summary)));
        for line in &message.details {
            output::say(&format!("    {}", told(line)));
        }
        for line in &message.next {
            output::say(&format!("    next: {}", told(line)));
        }
        if let Some(report) = &message.report {
            output::say(&format!("    report: {}", told(report)));
        }
    }
}

/// The options that lead another command, in whatever folder, to the same runbook and journal.
fn flags(app: &App) -> String {
    let journal = app.global.journal.as_ref().filter(|_| app.journal_is_typed);
    let journal = journal.map(|path| format!(" --journal {}", session::quoted(&path.display().to_string())));
    app.connection_flags() + &journal.unwrap_or_default()
}

/// Has what libraries warn of told on stderr.
fn logs() {
    let logs = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(|| Said(Vec::new()))
        .finish();
    // One that is there already stays.
    let _ = tracing::subscriber::set_global_default(logs);
}

/// A line that may quote what is foreign.
struct Said(Vec<u8>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        output::say(told(&String::from_utf8_lossy(&self.0)).trim_end());
    }
}

/// Where plans are kept that people are to decide on.
fn proposals() -> PathBuf {
    journal::state_folder().unwrap_or_default().join("proposals")
}

/// Keeps plans in files, for `rollback undo --plan`.
#[derive(Debug)]
struct Shelf {
    folder: PathBuf,
    locators: Vec<Locator>,
    flags: String,
}

#[async_trait]
impl Proposals for Shelf {
    async fn keep(&self, plan: &Plan) -> rollback_core::Result<String> {
        let unusable = |e: std::io::Error| {
            Error::new(ErrorKind::Unexpected, format!("cannot use the folder {}", self.folder.display()))
                .with_source(e)
        };
        std::fs::create_dir_all(&self.folder).map_err(unusable)?;
        let digest: Fingerprint = plan.digest();
        let name = digest.as_str().trim_start_matches("sha256:").get(..16).unwrap_or_default().to_owned();
        let path = self.folder.join(format!("{name}.json"));
        let components = plan.components();
        let locators: Vec<_> =
            self.locators.iter().filter(|locator| components.contains(&locator.component)).cloned().collect();
        // The same plan may have been proposed before.
        if !path.exists() {
            keep::write(&path, plan, &locators)?;
        }
        Ok(format!("rollback undo --plan {}{}", session::quoted(&path.display().to_string()), self.flags))
    }
}
