//! One run at a time changes a component, and one that has lost it stops before its next write.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    ComponentId, Engine, Error, ErrorKind, Event, FailurePolicy, Journal, Lease, LeaseRequest, LocalLease,
    MemoryJournal, MemoryLease, Outcome, Plan, Realm, Rollbackable, RunId, RunReport, StepOutcome,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::world::{WRITES, component, components, engine, options, parts, plan, step};

const LENGTH: Duration = Duration::from_secs(15);

fn realm() -> Realm {
    Realm::new("memory")
}

/// An engine with a journal of its own, as on another machine.
fn alone(lease: &MemoryLease) -> (Engine, Arc<MemoryJournal>) {
    let journal = Arc::new(MemoryJournal::new());
    (engine(journal.clone()).with_lease(Arc::new(lease.clone())), journal)
}

async fn undo(engine: &Engine, plan: &Plan, web: &MemoryComponent) -> Result<RunReport, Error> {
    engine.execute(plan, &components(&[web]), options()).await
}

/// A run that died after its first write, and its engine.
async fn died(lease: &MemoryLease, web: &MemoryComponent) -> (Engine, RunId) {
    web.hang_after_write(1);
    let plan = plan(FailurePolicy::Halt, &[(web, &[])]).await;
    let (engine, journal) = alone(lease);
    assert!(timeout(Duration::from_secs(1), undo(&engine, &plan, web)).await.is_err());
    let run = journal.runs().await.unwrap()[0].run;
    (engine, run)
}

#[tokio::test(start_paused = true)]
async fn a_component_is_changed_by_one_run_at_a_time() {
    let web = component("web");
    let lease = MemoryLease::new(LENGTH);
    web.set_latency(Duration::from_secs(20));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (first, _) = alone(&lease);
    let (second, journal) = alone(&lease);
    let late = async {
        // Longer than a lease lasts: the first renews its own.
        sleep(Duration::from_secs(30)).await;
        undo(&second, &plan, &web).await
    };
    let (first, late) = tokio::join!(undo(&first, &plan, &web), late);
    assert_eq!((first.unwrap().outcome, web.writes()), (Outcome::Completed, WRITES));
    let late = late.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Refused);
    assert!(late.to_string().contains("is held by run") && late.hint().unwrap().contains("--break-lease"));
    assert_eq!(journal.runs().await.unwrap(), [], "a run that did not get it never began");
    assert_eq!(lease.holder(&realm(), web.id()), None, "given back");
}

#[tokio::test(start_paused = true)]
async fn the_run_of_a_dead_process_goes_on_at_once() {
    let (web, lease) = (component("web"), MemoryLease::new(LENGTH));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (engine, run) = died(&lease, &web).await;
    let (other, _) = alone(&lease);
    assert_eq!(undo(&other, &plan, &web).await.unwrap_err().kind(), ErrorKind::Refused);
    let resumed = engine.resume(run, &components(&[&web]), options()).await.unwrap();
    assert_eq!((resumed.outcome, web.writes()), (Outcome::Completed, WRITES));
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_s_component_is_free_once_its_lease_has_expired() {
    let (web, lease) = (component("web"), MemoryLease::new(LENGTH));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (engine, run) = died(&lease, &web).await;
    sleep(LENGTH).await;
    let (other, _) = alone(&lease);
    assert_eq!(undo(&other, &plan, &web).await.unwrap().outcome, Outcome::Completed);
    assert_eq!((web.live(), web.writes()), (parts(2), WRITES), "it went on from half way");
    web.edit("image", json!(9));
    let late = engine.resume(run, &components(&[&web]), options()).await.unwrap();
    assert_eq!((late.outcome, web.writes()), (Outcome::Halted, WRITES), "what others did since stays");
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_is_taken_away_stops_before_its_next_write() {
    let (web, lease) = (component("web"), MemoryLease::new(LENGTH));
    web.set_latency(Duration::from_secs(20));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (engine, journal) = alone(&lease);
    let thief = async {
        while web.writes() == 0 {
            sleep(Duration::from_secs(1)).await;
        }
        lease.take_away(&realm(), web.id());
    };
    let (report, ()) = tokio::join!(undo(&engine, &plan, &web), thief);
    let report = report.unwrap();
    assert_eq!(report.error.as_ref().unwrap().kind, ErrorKind::LeaseLost, "{report:?}");
    assert_eq!((report.outcome, web.writes()), (Outcome::Unfinished, 1));
    web.set_latency(Duration::ZERO);
    let resumed = engine.resume(report.run, &components(&[&web]), options()).await.unwrap();
    assert_eq!((resumed.outcome, web.live(), web.writes()), (Outcome::Completed, parts(2), WRITES));
    assert!(journal.entries(report.run).await.unwrap().len() > 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_the_wait_for_a_component_to_settle() {
    let (web, lease) = (component("web"), MemoryLease::new(LENGTH));
    web.set_settling(rollback_testkit::Settling::Never);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (engine, _) = alone(&lease);
    let thief = async {
        sleep(Duration::from_secs(60)).await;
        lease.take_away(&realm(), web.id());
    };
    let ended = timeout(Duration::from_secs(80), undo(&engine, &plan, &web));
    let (report, ()) = tokio::join!(ended, thief);
    let report = report.expect("long before its deadline").unwrap();
    assert_eq!(step(&report, "web").outcome, StepOutcome::Applied);
    assert_eq!(report.error.unwrap().kind, ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_broken_lease_is_on_record_and_stops_its_holder() {
    let (web, lease) = (component("web"), MemoryLease::new(LENGTH));
    let (_, dead) = died(&lease, &web).await;
    web.edit("image", json!(3));
    web.edit("limit", json!(3));
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let (engine, journal) = alone(&lease);
    let mut options = options();
    options.break_lease = Some("its machine is gone".into());
    let report = engine.execute(&plan, &components(&[&web]), options).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    let [broken] = report.broken_leases.as_slice() else { panic!("{report:?}") };
    assert!(broken.holder.contains(&dead.to_string()), "{broken:?}");
    assert_eq!(broken.reason, "its machine is gone");
    let entries = journal.entries(report.run).await.unwrap();
    assert!(matches!(entries[1].event, Event::LeaseBroken(_)), "before any effect");
}

/// A server of leases that does not answer.
#[derive(Debug)]
struct Down;

#[async_trait::async_trait]
impl Lease for Down {
    async fn acquire(&self, _: &LeaseRequest) -> Result<Box<dyn rollback_core::Hold>, Error> {
        Err(Error::new(ErrorKind::Unavailable, "no answer"))
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_is_done_unless_that_is_asked_for() {
    let web = component("web");
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let engine = engine(journal.clone()).with_lease(Arc::new(Down));
    assert_eq!(undo(&engine, &plan, &web).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!((web.writes(), journal.runs().await.unwrap().len()), (0, 0));
    let mut options = options();
    options.break_lease = Some("leases are down".into());
    let report = engine.execute(&plan, &components(&[&web]), options).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.broken_leases[0].holder.contains("no answer"), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_to_be_changed_no_lease_is_needed() {
    let web = component("web");
    let current = rollback_core::Target::Revision("v3".into());
    let planner = rollback_core::Planner::new().rollback("web", Arc::new(web.clone()), current, &[]);
    let engine = engine(Arc::new(MemoryJournal::new())).with_lease(Arc::new(Down));
    let report = undo(&engine, &planner.plan().await.unwrap(), &web).await.unwrap();
    assert_eq!(report.outcome, Outcome::NothingToDo);
}

#[tokio::test]
async fn leases_of_one_machine_are_locked_files() {
    let folder = tempfile::tempdir().unwrap();
    let request = |component: &str, break_reason: Option<&str>| LeaseRequest {
        realm: realm(),
        component: ComponentId::new("memory", None, component).unwrap(),
        run: RunId::random(),
        actor: "me@here".into(),
        break_reason: break_reason.map(Into::into),
        waiting: None,
    };
    let leases = || LocalLease::new(folder.path().join("leases"));
    let web = request("web", None);
    let held = leases().acquire(&web).await.unwrap();
    assert!(held.check().is_ok() && held.broken().is_none());
    assert!(leases().acquire(&request("db", None)).await.is_ok());
    let refused = leases().acquire(&request("web", None)).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("run {} of me@here", web.run)), "{refused}");
    let broken = leases().acquire(&request("web", Some("hung"))).await.unwrap();
    assert_eq!(broken.broken(), Some(web.holder()));
    drop((held, broken));
    assert!(leases().acquire(&request("web", None)).await.unwrap().broken().is_none());
    let unusable = LocalLease::new("/dev/null/leases").acquire(&web).await.unwrap_err();
    assert_eq!(unusable.kind(), ErrorKind::Unavailable);
}

/// Leases of which one is long in coming.
#[derive(Debug)]
struct Slow(MemoryLease);

#[async_trait::async_trait]
impl Lease for Slow {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn rollback_core::Hold>, Error> {
        if request.component.name() == "slow" {
            sleep(LENGTH * 2).await;
        }
        self.0.acquire(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_renewed_while_the_rest_is_waited_for() {
    let all = ["a", "slow"].map(component);
    let refs: Vec<_> = all.iter().collect();
    let plan = plan(FailurePolicy::Halt, &[(refs[0], &[]), (refs[1], &[])]).await;
    let lease = MemoryLease::new(LENGTH);
    let engine = engine(Arc::new(MemoryJournal::new())).with_lease(Arc::new(Slow(lease.clone())));
    let report = engine.execute(&plan, &components(&refs), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");

    let other = MemoryJournal::new();
    let stopped = options();
    let stop = stopped.cancellation.clone();
    let engine = crate::world::engine(Arc::new(other)).with_lease(Arc::new(Slow(lease.clone())));
    let given = components(&refs);
    let (ended, ()) = tokio::join!(engine.execute(&plan, &given, stopped), async {
        sleep(Duration::from_secs(3)).await;
        stop.cancel();
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(engine.journal().runs().await.unwrap().is_empty(), "nothing was begun");
    assert_eq!(lease.holder(&realm(), all[0].id()), None, "what was taken is given back");
}
