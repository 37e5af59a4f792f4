//! The supervisor, with components in memory, metrics that the tests choose and a clock that stands still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::supervisor::{
    Action, Blueprint, BlueprintStep, Does, Freeze, Goal, Holding, Irreversible, Leadership, Options, Policy,
    Proposals, Supervised, Supervisor, everything, held_back,
};
use rollback_core::trigger::{
    Health, HealthCheck, HealthProbe, Line, MetricSource, Point, Series, Trigger, error_rate, latency_p99,
};
use rollback_core::{
    Alert, Clock, ComponentId, Engine, Entry, Error, ErrorKind, Event, FailurePolicy, Happening, Journal,
    Ledger, Mark, MemoryJournal, MemoryLease, Notification, Notifier, Outbox, Outcome, Plan, Realm, Recovery,
    Restartable, Result, Rollbackable, RunState, Timestamp, TokioClock,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What each query answers; none is an error of the source.
#[derive(Debug, Default)]
struct Metrics(Mutex<BTreeMap<String, Option<f64>>>);

impl Metrics {
    fn set(&self, query: &str, value: impl Into<Option<f64>>) {
        self.0.lock().unwrap().insert(query.to_owned(), value.into());
    }
}

#[async_trait]
impl MetricSource for Metrics {
    async fn sample(&self, query: &str, at: Timestamp) -> Result<Vec<Series>> {
        // What was the day before is another matter.
        let then = (at < start()).then(|| format!("{query} then"));
        match self.0.lock().unwrap().get(&then.unwrap_or(query.to_owned())) {
            Some(Some(value)) => Ok(vec![Series::of(*value)]),
            Some(None) => Err(Error::new(ErrorKind::Unavailable, "the source says nothing").temporary(None)),
            None => Ok(Vec::new()),
        }
    }

    async fn range(&self, _: &str, from: Timestamp, to: Timestamp, _: Duration) -> Result<Vec<Line>> {
        let points = vec![Point { at: from, value: 1.0 }, Point { at: to, value: 2.0 }];
        Ok(vec![Line { labels: BTreeMap::new(), points }])
    }
}

/// Takes down what people are told.
#[derive(Debug, Default)]
struct People {
    told: Mutex<Vec<Notification>>,
    alerts: Mutex<Vec<Alert>>,
    deaf: Mutex<bool>,
}

#[async_trait]
impl Notifier for People {
    fn name(&self) -> &'static str {
        "people"
    }

    async fn notify<'a>(&'a self, message: &'a Notification, _: Option<&'a str>) -> Result<Option<String>> {
        if *self.deaf.lock().unwrap() {
            return Err(Error::new(ErrorKind::Unavailable, "nobody hears").temporary(None));
        }
        self.told.lock().unwrap().push(message.clone());
        Ok(None)
    }

    async fn alerts<'a>(&'a self, alerts: &'a [Alert]) -> Result<()> {
        *self.alerts.lock().unwrap() = alerts.to_vec();
        Ok(())
    }
}

/// A shop whose `web` fails or not as the test says.
struct Shop {
    web: MemoryComponent,
    metrics: Arc<Metrics>,
    people: Arc<People>,
    journal: Arc<MemoryJournal>,
    clock: Arc<TokioClock>,
}

fn id(name: &str) -> ComponentId {
    ComponentId::new("memory", None, name).unwrap()
}

fn start() -> Timestamp {
    "2026-11-23T03:00:00Z".parse().unwrap()
}

fn component(name: &str) -> MemoryComponent {
    let component = MemoryComponent::new(id(name));
    component.deploy("v1", &json!({"image": "web:1"}));
    component
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

async fn minutes(count: u64) {
    sleep(Duration::from_secs(count * MINUTE)).await;
}

impl Shop {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::default());
        metrics.set("requests", 1000.0);
        metrics.set("errors", 0.0);
        Self {
            web: component("web"),
            metrics,
            people: Arc::default(),
            journal: Arc::new(MemoryJournal::new()),
            clock: Arc::new(TokioClock::starting_at(start())),
        }
    }

    fn error_rate(&self) -> Arc<dyn Trigger> {
        Arc::new(error_rate(self.metrics.clone(), id("web"), "errors", "requests"))
    }

    fn policy(&self) -> Policy {
        Policy::new("error-rate", self.error_rate(), [Action::Alert, Action::Rollback])
    }

    fn supervisor(&self, supervised: Vec<Supervised>, policies: Vec<Policy>) -> Supervisor {
        let outbox = Outbox::new(vec![self.people.clone() as Arc<dyn Notifier>], self.journal.clone());
        let engine = Engine::new(self.journal.clone());
        Supervisor::new(engine, self.journal.clone(), outbox, supervised, policies)
            .unwrap()
            .with_clock(self.clock.clone())
    }

    /// Watches `web` by this policy.
    fn watch(&self, policy: Policy) -> Going {
        go(self.supervisor(vec![Supervised::new(Arc::new(self.web.clone()))], vec![policy]))
    }

    fn told(&self) -> Vec<Happening> {
        self.people.told.lock().unwrap().iter().map(|message| message.event).collect()
    }

    fn messages(&self, event: Happening) -> Vec<Notification> {
        self.people.told.lock().unwrap().iter().filter(|message| message.event == event).cloned().collect()
    }

    async fn runs(&self) -> Vec<(Outcome, RunState)> {
        let mut all = Vec::new();
        for run in self.journal.runs().await.unwrap() {
            let state = RunState::replay(&self.journal.entries(run.run).await.unwrap()).unwrap();
            all.push((run.outcome, state));
        }
        all
    }

    async fn revision(&self) -> String {
        current(&self.web).await
    }

    async fn record(&self) -> rollback_core::Record {
        self.journal.record(&Realm::new("memory"), &id("web")).await.unwrap()
    }

    /// All is well for a while; then a version is deployed that fails from then on.
    async fn deploy_bad(&self, version: &str) {
        minutes(10).await;
        self.web.deploy(version, &json!({"image": version}));
        minutes(1).await;
        self.metrics.set("errors", 400.0);
    }
}

async fn current(component: &MemoryComponent) -> String {
    let history = component.history().await.unwrap();
    history.into_iter().find(|revision| revision.current).map(|revision| revision.id).unwrap_or_default()
}

/// Has a supervisor work, as a process of its own would.
fn go(supervisor: Supervisor) -> Going {
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { supervisor.run(stop).await }
    });
    Going { stop, task }
}

struct Going {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Going {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As a process that is killed: nothing more happens.
    fn kill(&self) {
        self.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_version_is_rolled_back_after_five_minutes_judged_and_told() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    shop.deploy_bad("v2").await;
    minutes(5).await;
    assert_eq!(shop.revision().await, "v2", "not before the five minutes are over");
    minutes(1).await;
    assert_eq!(shop.revision().await, "v1");
    assert_eq!(shop.told(), [Happening::Firing, Happening::Started, Happening::Converged]);
    shop.metrics.set("errors", 0.0);
    minutes(10).await;
    assert_eq!(shop.told().last(), Some(&Happening::Recovered));
    let runs = shop.runs().await;
    let [(Outcome::Completed, run)] = runs.as_slice() else { panic!("{runs:?}") };
    let cause = run.cause.as_ref().unwrap();
    assert_eq!((cause.policy.as_str(), &cause.component), ("error-rate", &id("web")));
    assert!(cause.evidence.value > Some(0.05) && !cause.evidence.points.is_empty());
    assert!(cause.changed_at.unwrap() >= start().saturating_add(Duration::from_secs(9 * MINUTE)));
    let judged = run.judged.as_ref().unwrap();
    assert_eq!(judged.recovery, Recovery::Recovered);
    assert!(!judged.points.is_empty());
    // All of it is one thread.
    let threads: std::collections::BTreeSet<_> =
        shop.people.told.lock().unwrap().iter().map(|message| message.thread.clone()).collect();
    assert_eq!(threads.len(), 1, "{threads:?}");
    let record = shop.record().await;
    let bad = record.revisions().find(|(_, known)| known.id == "v2").unwrap();
    assert_eq!(record.mark(bad.0), Some(Mark::Bad));
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_symptom_that_stays_is_told_and_never_rolled_back_twice() {
    let shop = Shop::new();
    let mut policy = shop.policy();
    policy.guards.cooldown = Duration::ZERO;
    let going = shop.watch(policy);
    shop.deploy_bad("v2").await;
    minutes(3 * 60).await;
    assert_eq!(shop.revision().await, "v1");
    assert_eq!(shop.runs().await.len(), 1);
    let judged = shop.runs().await[0].1.judged.clone().unwrap();
    assert_eq!(judged.recovery, Recovery::NotRecovered);
    assert_eq!(
        shop.told(),
        [
            Happening::Firing,
            Happening::Started,
            Happening::Converged,
            Happening::NotRecovered,
            Happening::HeldBack
        ]
    );
    assert!(
        shop.messages(Happening::HeldBack)[0].summary.contains("is what an automatic rollback returned to")
    );
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_metric_that_goes_missing_rolls_nothing_back_and_people_are_told_once() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    shop.deploy_bad("v2").await;
    minutes(4).await;
    shop.metrics.set("errors", None);
    minutes(30).await;
    assert_eq!(shop.told(), [Happening::Blind]);
    assert_eq!(shop.revision().await, "v2");
    shop.metrics.set("errors", f64::NAN);
    minutes(30).await;
    assert_eq!(shop.told(), [Happening::Blind]);
    let alerts = shop.people.alerts.lock().unwrap().clone();
    let names: Vec<_> = alerts.iter().map(|alert| alert.labels["alertname"].as_str()).collect();
    assert_eq!(names, ["RollbackTriggerBlind", "RollbackSupervisorHeartbeat"]);
    // It failed before, with nobody looking: whose fault it is cannot be told any more.
    shop.metrics.set("errors", 400.0);
    minutes(10).await;
    assert_eq!(shop.told(), [Happening::Blind, Happening::Firing, Happening::HeldBack]);
    assert_eq!(shop.runs().await.len(), 0);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn traffic_that_stays_away_after_a_change_is_told() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    shop.metrics.set("requests", 3.0);
    shop.metrics.set("errors", 1.0);
    minutes(30).await;
    assert_eq!((shop.told(), shop.runs().await.len()), (vec![Happening::Blind], 0));
    assert!(shop.messages(Happening::Blind)[0].summary.contains("too few requests"));
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_rolled_back_that_cannot_be_the_cause() {
    // It has not changed for long.
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(61).await;
    shop.metrics.set("errors", 400.0);
    minutes(10).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::HeldBack]);
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("not within 3600 s"));
    // It failed before it changed.
    shop.web.deploy("v3", &json!({"image": "web:3"}));
    minutes(10).await;
    let held = shop.messages(Happening::HeldBack);
    assert!(held.last().unwrap().summary.contains("that is not the cause"), "{held:?}");
    assert_eq!((shop.revision().await, shop.runs().await.len()), ("v3".into(), 0));
    let reasons: Vec<_> = held_back(&shop.record().await).into_iter().map(|one| one.reason).collect();
    assert_eq!(reasons, ["notChanged", "failedBefore"]);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_symptom_that_was_there_before_the_supervisor_is_no_reason() {
    let shop = Shop::new();
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    shop.metrics.set("errors", 400.0);
    let going = shop.watch(shop.policy());
    minutes(30).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::HeldBack]);
    assert_eq!(shop.runs().await.len(), 0);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn people_hold_automation_and_a_fix_made_by_hand_stays() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    let holding = Holding {
        by: "ann".into(),
        since: shop.clock.now(),
        until: shop.clock.now().saturating_add(Duration::from_secs(HOUR)),
        reason: "deploying a fix".into(),
    };
    let realm = Realm::new("memory");
    holding.place(&*shop.journal, &realm, &id("web")).await.unwrap();
    shop.deploy_bad("v2").await;
    minutes(10).await;
    assert_eq!(shop.revision().await, "v2");
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("ann holds automation"));
    shop.web.deploy("v3-fix", &json!({"image": "web:3"}));
    shop.metrics.set("errors", 0.0);
    minutes(120).await;
    assert_eq!((shop.revision().await, shop.runs().await.len()), ("v3-fix".into(), 0));
    assert_eq!(shop.told(), [Happening::Firing, Happening::HeldBack, Happening::Resolved]);
    // That of all components counts as well.
    let (realm, all) = everything().unwrap();
    let until = shop.clock.now().saturating_add(Duration::from_secs(24 * HOUR));
    Holding { until, ..holding }.place(&*shop.journal, &realm, &all).await.unwrap();
    shop.deploy_bad("v4").await;
    minutes(10).await;
    assert_eq!(shop.runs().await.len(), 0);
    Holding::lift(&*shop.journal, &realm, &all, (shop.clock.now(), "ann")).await.unwrap();
    minutes(1).await;
    assert_eq!((shop.runs().await.len(), shop.revision().await), (1, "v3-fix".into()));
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_and_then_people_decide() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    for version in ["v2", "v3", "v4"] {
        shop.deploy_bad(version).await;
        minutes(10).await;
        shop.metrics.set("errors", 0.0);
        minutes(40).await;
    }
    assert_eq!(shop.runs().await.len(), 2);
    assert_eq!(shop.revision().await, "v4");
    assert!(shop.messages(Happening::HeldBack).last().unwrap().summary.contains("a human decides"));
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cool_down_and_a_freeze_pass_and_then_it_acts() {
    let shop = Shop::new();
    let mut policy = shop.policy();
    let from = start().saturating_add(Duration::from_secs(5 * MINUTE));
    let until = start().saturating_add(Duration::from_secs(40 * MINUTE));
    policy.guards.freezes = vec![Freeze { from, until, reason: "the sale".into() }];
    let going = shop.watch(policy);
    shop.deploy_bad("v2").await;
    minutes(20).await;
    assert_eq!(shop.revision().await, "v2");
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("the sale"));
    minutes(11).await;
    assert_eq!(shop.revision().await, "v1");
    shop.metrics.set("errors", 0.0);
    minutes(8).await;
    shop.web.deploy("v3", &json!({"image": "web:3"}));
    minutes(1).await;
    shop.metrics.set("errors", 400.0);
    minutes(10).await;
    assert_eq!(shop.revision().await, "v3", "the cool-down");
    minutes(15).await;
    assert_eq!(shop.revision().await, "v1");
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn observing_says_what_it_would_do_and_writes_nothing() {
    let shop = Shop::new();
    let mut policy = shop.policy();
    policy.observe = true;
    let going = shop.watch(policy);
    shop.deploy_bad("v2").await;
    minutes(10).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::HeldBack]);
    assert!(
        shop.messages(Happening::HeldBack)[0].summary.contains("it would: return memory/web from v2 to v1")
    );
    assert_eq!((shop.runs().await.len(), shop.web.writes()), (0, 0));
    going.end().await;

    // The supervisor itself: neither ledger nor people.
    let shop = Shop::new();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut options = Options::default();
    options.observe = true;
    let supervisor = shop.supervisor(vec![Supervised::new(Arc::new(shop.web.clone()))], vec![shop.policy()]);
    let going = go(supervisor.with_options(options).with_listener(sender));
    shop.deploy_bad("v2").await;
    minutes(10).await;
    going.end().await;
    let mut all = Vec::new();
    while let Some(message) = heard.recv().await {
        all.push(message.event);
    }
    // What changed when is known to the system or to the ledger, and here to neither.
    assert_eq!(all, [Happening::Firing, Happening::HeldBack]);
    assert_eq!(shop.record().await, rollback_core::Record::default());
    assert_eq!((shop.told(), shop.runs().await.len()), (Vec::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_pending_duration_a_cool_down_and_a_judgement_survive_a_crash() {
    let shop = Shop::new();
    let policies = || shop.policy();
    let first = shop.watch(policies());
    shop.deploy_bad("v2").await;
    minutes(4).await;
    first.kill();
    // Less than two intervals later the next one takes over.
    sleep(Duration::from_secs(10)).await;
    let second = shop.watch(policies());
    sleep(Duration::from_secs(65)).await;
    assert_eq!(shop.revision().await, "v1", "the five minutes went on");
    second.kill();
    shop.metrics.set("errors", 0.0);
    let third = shop.watch(policies());
    minutes(10).await;
    assert_eq!(shop.told().last(), Some(&Happening::Recovered), "{:?}", shop.told());
    shop.web.deploy("v3", &json!({"image": "web:3"}));
    minutes(1).await;
    third.kill();
    let fourth = shop.watch(policies());
    minutes(1).await;
    shop.metrics.set("errors", 400.0);
    minutes(8).await;
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("not long ago"), "{:?}", shop.told());
    assert_eq!(shop.runs().await.len(), 1);
    fourth.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_its_supervisor_began_goes_on_and_that_of_a_human_does_not() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(1).await;
    shop.web.hang_after_write(1);
    shop.metrics.set("errors", 400.0);
    minutes(6).await;
    going.kill();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.runs().await[0].0, Outcome::Unfinished);
    let next = shop.watch(shop.policy());
    minutes(1).await;
    let runs = shop.runs().await;
    assert_eq!((runs.len(), runs[0].0), (1, Outcome::Completed));
    assert_eq!(shop.told().last(), Some(&Happening::Converged));
    next.end().await;

    // One without a cause is a human's.
    let shop = Shop::new();
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    shop.web.hang_after_write(1);
    let plan = rollback_core::Planner::new()
        .rollback("web", Arc::new(shop.web.clone()), rollback_core::Target::Previous, &[])
        .plan()
        .await
        .unwrap();
    let components = [Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>].into_iter().collect();
    let engine = Engine::new(shop.journal.clone()).with_clock(shop.clock.clone());
    let run = engine.execute(&plan, &components, rollback_core::RunOptions::by("ann"));
    let _ = tokio::time::timeout(Duration::from_secs(1), run).await;
    let going = shop.watch(shop.policy());
    minutes(10).await;
    assert_eq!(shop.runs().await[0].0, Outcome::Unfinished);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_supervisors_one_acts_and_the_other_takes_over() {
    let shared = Arc::new(Shop::new());
    let leases = MemoryLease::new(Duration::from_secs(15));
    let lead = |name: &str| {
        let lease = Leadership::new(Arc::new(leases.clone()), "shop", name).unwrap();
        let token = CancellationToken::new();
        let shop = shared.clone();
        let stopped = token.clone();
        let task = tokio::spawn({
            async move {
                let work = async |leading| {
                    let supervised =
                        vec![Supervised::new(Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>)];
                    shop.supervisor(supervised, vec![shop.policy()]).run(leading).await
                };
                lease.keep(&stopped, work).await
            }
        });
        Going { stop: token, task }
    };
    let (first, second) = (lead("first"), lead("second"));
    let shop = &*shared;
    shop.deploy_bad("v2").await;
    minutes(3).await;
    first.kill();
    minutes(10).await;
    let runs = shop.runs().await;
    assert_eq!((runs.len(), runs[0].0), (1, Outcome::Completed));
    assert_eq!(shop.messages(Happening::Firing).len(), 1);
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_well_for_long_enough_is_recorded_good_and_returned_to() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(35).await;
    let good = |record: &rollback_core::Record, id: &str| {
        record.revisions().any(|(print, known)| known.id == id && record.mark(print) == Some(Mark::Good))
    };
    assert!(good(&shop.record().await, "v1"));
    // One that nobody has called good lies between.
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(10).await;
    shop.deploy_bad("v3").await;
    minutes(6).await;
    assert_eq!(shop.revision().await, "v1");
    assert!(!good(&shop.record().await, "v2") && !good(&shop.record().await, "v3"));
    going.end().await;

    let shop = Shop::new();
    let mut policy = shop.policy();
    policy.goal = Goal::Previous;
    let going = shop.watch(policy);
    minutes(35).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(10).await;
    shop.deploy_bad("v3").await;
    minutes(6).await;
    assert_eq!(shop.revision().await, "v2");
    going.end().await;
}

/// Keeps how many plans there were.
#[derive(Debug, Default)]
struct Shelf(Mutex<Vec<Plan>>);

#[async_trait]
impl Proposals for Shelf {
    async fn keep(&self, plan: &Plan) -> Result<String> {
        self.0.lock().unwrap().push(plan.clone());
        Ok("rollback undo --plan kept.json".into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_proposal_is_kept_and_told_once_and_an_alert_does_nothing() {
    let shop = Shop::new();
    let shelf = Arc::new(Shelf::default());
    let mut policy = shop.policy();
    policy.actions = vec![Action::Propose];
    let supervised = vec![Supervised::new(Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>)];
    let going = go(shop.supervisor(supervised, vec![policy]).with_proposals(shelf.clone()));
    shop.deploy_bad("v2").await;
    minutes(20).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::Proposed]);
    let proposed = &shop.messages(Happening::Proposed)[0];
    assert_eq!(proposed.next, ["rollback undo --plan kept.json"]);
    assert_eq!((proposed.moves[0].from.as_str(), proposed.moves[0].to.as_str()), ("v2", "v1"));
    assert_eq!(shop.revision().await, "v2");
    going.end().await;

    let shop = Shop::new();
    let latency = Arc::new(latency_p99(shop.metrics.clone(), id("web"), "p99", 0.01));
    shop.metrics.set("p99", 0.1);
    shop.metrics.set("p99 then", 0.1);
    let going = shop.watch(Policy::new("latency-p99", latency, [Action::Alert]));
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(1).await;
    shop.metrics.set("p99", 0.21);
    minutes(10).await;
    assert_eq!(shop.told(), [], "not before the ten minutes are over");
    minutes(30).await;
    assert_eq!((shop.told(), shop.revision().await), (vec![Happening::Firing], "v2".into()));
    assert_eq!(shop.runs().await.len(), 0);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_plan_only_what_has_changed_moves_and_what_cannot_be_taken_back_stays() {
    let blueprint = Blueprint {
        name: "both".into(),
        on_failure: FailurePolicy::Halt,
        steps: ["web", "db"]
            .map(|name| BlueprintStep {
                id: name.into(),
                component: id(name),
                does: Does::Return,
                after: vec![],
            })
            .into(),
    };
    for (irreversible, expected) in [(false, "v1"), (true, "v2")] {
        let (shop, db) = (Shop::new(), component("db"));
        db.deploy("v2", &json!({"image": "db:2"}));
        let mut web = Supervised::new(Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>);
        if irreversible {
            let between = Some(("v1".into(), "v2".into()));
            web.irreversible = vec![Irreversible { between, reason: "drops a column".into() }];
        }
        let mut policy = shop.policy();
        policy.plan = Some(blueprint.clone());
        let going = go(shop.supervisor(vec![web, Supervised::new(Arc::new(db.clone()))], vec![policy]));
        shop.deploy_bad("v2").await;
        minutes(6).await;
        assert_eq!((shop.revision().await.as_str(), current(&db).await.as_str()), (expected, "v2"));
        if irreversible {
            assert!(shop.messages(Happening::HeldBack)[0].summary.contains("drops a column"));
        }
        going.end().await;
    }
}

/// Three instances, of which these fail.
#[derive(Debug)]
struct Probes {
    failing: Mutex<Vec<&'static str>>,
    all: Vec<&'static str>,
}

#[async_trait]
impl HealthProbe for Probes {
    async fn probe(&self) -> Result<BTreeMap<String, Health>> {
        let failing = self.failing.lock().unwrap().clone();
        let health = |name: &&'static str| {
            if failing.contains(name) { Health::Failed("500".into()) } else { Health::Healthy }
        };
        Ok(self.all.iter().map(|name| ((*name).to_owned(), health(name))).collect())
    }
}

fn restartable(web: &MemoryComponent) -> Supervised {
    let mut supervised = Supervised::new(Arc::new(web.clone()) as Arc<dyn Rollbackable>);
    supervised.restartable = Some(Arc::new(web.clone()) as Arc<dyn Restartable>);
    supervised
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_restart_and_restarts_that_do_not_help_end_in_a_rollback() {
    let shop = Shop::new();
    let probes = Arc::new(Probes { failing: Mutex::default(), all: vec!["a", "b", "c"] });
    let check = Arc::new(HealthCheck::new(probes.clone(), id("web")));
    let policy = Policy::new("health", check, [Action::Restart]);
    let going = go(shop.supervisor(vec![restartable(&shop.web)], vec![policy]));
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(1).await;
    *probes.failing.lock().unwrap() = vec!["b"];
    minutes(1).await;
    let kinds = |runs: &[(Outcome, RunState)]| -> Vec<_> {
        runs.iter().rev().map(|(_, state)| format!("{:?}", state.plan.steps()[0].change.kind)).collect()
    };
    assert_eq!(kinds(&shop.runs().await), ["Restart"]);
    assert_eq!(shop.revision().await, "v2");
    for _ in 0..40 {
        if shop.revision().await == "v1" {
            probes.failing.lock().unwrap().clear();
        }
        sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(kinds(&shop.runs().await), ["Restart", "Restart", "Rollback"]);
    assert_eq!(shop.revision().await, "v1");
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn restarts_are_bounded_and_most_instances_failing_is_no_matter_of_them() {
    let shop = Shop::new();
    let probes = Arc::new(Probes { failing: Mutex::new(vec!["b"]), all: vec!["a", "b", "c"] });
    let check = Arc::new(HealthCheck::new(probes.clone(), id("web")));
    let going =
        go(shop
            .supervisor(vec![restartable(&shop.web)], vec![Policy::new("health", check, [Action::Restart])]));
    // It has not changed: there is nothing to roll back.
    minutes(50).await;
    assert_eq!(shop.runs().await.len(), 3);
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("restarted 3 times within an hour"));
    *probes.failing.lock().unwrap() = vec!["a", "b"];
    minutes(60).await;
    assert_eq!(shop.runs().await.len(), 3);
    assert!(
        shop.messages(Happening::HeldBack).last().unwrap().summary.contains("2 of 3 instances fail at once")
    );
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_gets_stuck_is_told_with_what_to_do_and_alerts_are_repeated_and_end() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    minutes(1).await;
    shop.web.fail_write(1, Error::new(ErrorKind::PermissionDenied, "may not write"));
    shop.metrics.set("errors", 400.0);
    minutes(6).await;
    let failed = &shop.messages(Happening::Failed)[0];
    assert!(failed.details.iter().any(|line| line.contains("may not write")), "{failed:?}");
    assert!(failed.next[0].starts_with("rollback show "));
    let names = || -> Vec<String> {
        let alerts = shop.people.alerts.lock().unwrap();
        alerts.iter().map(|alert| alert.labels["alertname"].clone()).collect()
    };
    assert!(names().contains(&"RollbackTriggerFiring".into()));
    let ends = shop.people.alerts.lock().unwrap()[0].ends_at;
    assert!(ends > shop.clock.now(), "it does not resolve itself");
    shop.metrics.set("errors", 0.0);
    minutes(3).await;
    assert_eq!(names(), ["RollbackSupervisorHeartbeat"]);
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_is_told_after_a_restart_and_holds_nothing_up() {
    let shop = Shop::new();
    *shop.people.deaf.lock().unwrap() = true;
    let going = shop.watch(shop.policy());
    shop.deploy_bad("v2").await;
    minutes(6).await;
    assert_eq!(shop.revision().await, "v1", "nobody hears, and it acts");
    going.kill();
    *shop.people.deaf.lock().unwrap() = false;
    shop.metrics.set("errors", 0.0);
    let next = shop.watch(shop.policy());
    minutes(1).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::Started, Happening::Converged]);
    next.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_could_not_act_as_it_says_is_refused() {
    let shop = Shop::new();
    let refused = |policies: Vec<Policy>, supervised: Vec<Supervised>| {
        let outbox = Outbox::new(Vec::new(), shop.journal.clone());
        let made = Supervisor::new(
            Engine::new(shop.journal.clone()),
            shop.journal.clone(),
            outbox,
            supervised,
            policies,
        );
        made.unwrap_err().to_string()
    };
    let web = || vec![Supervised::new(Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>)];
    assert!(refused(vec![shop.policy()], vec![]).contains("memory/web is not among the components"));
    assert!(refused(vec![shop.policy(), shop.policy()], web()).contains("two have this name"));
    let with = |actions: &[Action]| Policy::new("p", shop.error_rate(), actions);
    assert!(refused(vec![with(&[])], web()).contains("does nothing"));
    assert!(refused(vec![with(&[Action::Rollback, Action::Propose])], web()).contains("either"));
    assert!(refused(vec![with(&[Action::Restart])], web()).contains("cannot be restarted"));
}

#[tokio::test]
async fn a_judgement_follows_the_end_of_a_run_and_nothing_else_does() {
    let shop = Shop::new();
    shop.web.deploy("v2", &json!({"image": "web:2"}));
    let web = Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>;
    let plan = rollback_core::Planner::new()
        .rollback("web", web.clone(), rollback_core::Target::Previous, &[])
        .plan()
        .await
        .unwrap();
    let engine = Engine::new(shop.journal.clone());
    let options = rollback_core::RunOptions::by("me");
    let report = engine.execute(&plan, &[web].into_iter().collect(), options).await.unwrap();
    let judgement = || rollback_core::Judgement {
        recovery: Recovery::Recovered,
        message: "all is well".into(),
        points: Vec::new(),
    };
    engine.judge(report.run, judgement()).await.unwrap();
    assert_eq!(engine.judge(report.run, judgement()).await.unwrap_err().kind(), ErrorKind::Journal);
    let entry =
        Entry { at: start(), event: Event::RunFinished { outcome: Outcome::Abandoned, reason: None } };
    assert_eq!(shop.journal.append(report.run, entry).await.unwrap_err().kind(), ErrorKind::Journal);
}

#[tokio::test(start_paused = true)]
async fn what_a_plan_moves_along_is_held_as_well_and_a_hold_stops_a_run_before_its_next_step() {
    let step = |name: &str, does, after: &[&str]| BlueprintStep {
        id: name.into(),
        component: id(name),
        does,
        after: after.iter().map(|&name| name.to_owned()).collect(),
    };
    let holding = |shop: &Shop| Holding {
        by: "ann".into(),
        since: shop.clock.now(),
        until: shop.clock.now().saturating_add(Duration::from_secs(HOUR)),
        reason: "at work".into(),
    };
    for late in [false, true] {
        let (shop, db) = (Shop::new(), component("db"));
        let mut policy = shop.policy();
        policy.plan = Some(Blueprint {
            name: "both".into(),
            on_failure: FailurePolicy::Halt,
            steps: vec![step("web", Does::Return, &[]), step("db", Does::Restart, &["web"])],
        });
        let supervised = vec![Supervised::new(Arc::new(shop.web.clone()) as _), restartable(&db)];
        let going = go(shop.supervisor(supervised, vec![policy]));
        let realm = Realm::new("memory");
        if late {
            // Long enough for a hold to come in between.
            shop.web.set_settling(rollback_testkit::Settling::After(Duration::from_secs(60)));
        } else {
            holding(&shop).place(&*shop.journal, &realm, &id("db")).await.unwrap();
        }
        shop.deploy_bad("v2").await;
        minutes(5).await;
        if late {
            sleep(Duration::from_secs(30)).await;
            assert_eq!(shop.revision().await, "v1", "the first step is under way");
            holding(&shop).place(&*shop.journal, &realm, &id("db")).await.unwrap();
        }
        minutes(5).await;
        assert_eq!(db.writes(), 0);
        if late {
            assert_eq!(shop.runs().await[0].0, Outcome::Halted);
            assert!(shop.messages(Happening::Failed)[0].details[0].contains("ann holds automation"));
        } else {
            assert_eq!((shop.runs().await.len(), shop.revision().await), (0, "v2".into()));
            assert!(shop.messages(Happening::HeldBack)[0].summary.contains("ann holds automation"));
        }
        going.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_run_is_an_alert_until_another_one_has_ended_well_also_after_a_restart() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    minutes(10).await;
    shop.web.deploy("v2", &json!({"image": "web:2", "limit": 2}));
    minutes(1).await;
    shop.web.fail_write(1, Error::new(ErrorKind::Refused, "only a human can go on").stuck());
    shop.metrics.set("errors", 400.0);
    minutes(6).await;
    assert_eq!(shop.runs().await[0].0, Outcome::Stuck);
    let told = &shop.messages(Happening::Stuck)[0];
    assert!(told.next.iter().all(|next| !next.contains("resume")), "it has ended: {told:?}");
    shop.metrics.set("errors", 0.0);
    let is_told = || {
        let alerts = shop.people.alerts.lock().unwrap();
        alerts.iter().any(|a| a.labels["alertname"] == "RollbackStuck" && a.ends_at > shop.clock.now())
    };
    minutes(3).await;
    assert!(is_told(), "also once the symptom is gone");
    going.end().await;
    let going = shop.watch(shop.policy());
    minutes(3).await;
    assert!(is_told(), "also after a restart");
    let web = Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>;
    let planner =
        rollback_core::Planner::new().rollback("web", web.clone(), rollback_core::Target::Previous, &[]);
    let plan = planner.plan().await.unwrap();
    let engine = Engine::new(shop.journal.clone()).with_clock(shop.clock.clone());
    let options = rollback_core::RunOptions::by("ann");
    let report = engine.execute(&plan, &[web].into_iter().collect(), options).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    minutes(2).await;
    assert!(!is_told());
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_refuses_is_told_once_and_never_said_to_begin() {
    let shop = Shop::new();
    let leases = MemoryLease::new(Duration::from_secs(15));
    let request = rollback_core::LeaseRequest {
        realm: Realm::new("memory"),
        component: id("web"),
        run: rollback_core::RunId::random(),
        actor: "ann".into(),
        break_reason: None,
        waiting: None,
    };
    let held = rollback_core::Lease::acquire(&leases, &request).await.unwrap();
    let keeping = tokio::spawn(async move { held.keep().await });
    let supervised = vec![Supervised::new(Arc::new(shop.web.clone()) as Arc<dyn Rollbackable>)];
    let lease_of = {
        let leases = leases.clone();
        Arc::new(move |_: &Plan| Arc::new(leases.clone()) as Arc<dyn rollback_core::Lease>)
    };
    let going = go(shop.supervisor(supervised, vec![shop.policy()]).with_lease_of(lease_of));
    shop.deploy_bad("v2").await;
    minutes(20).await;
    assert_eq!(shop.told(), [Happening::Firing, Happening::HeldBack]);
    assert!(shop.messages(Happening::HeldBack)[0].summary.contains("is held by run"));
    // Nothing was begun, so nothing of it counts.
    keeping.abort();
    minutes(2).await;
    assert_eq!((shop.runs().await.len(), shop.revision().await), (1, "v1".into()));
    going.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pending_duration_survives_a_stop_in_the_middle_of_an_evaluation() {
    let shop = Shop::new();
    let first = shop.watch(shop.policy());
    shop.deploy_bad("v2").await;
    minutes(4).await;
    first.end().await;
    sleep(Duration::from_secs(5)).await;
    let second = shop.watch(shop.policy());
    sleep(Duration::from_secs(70)).await;
    assert_eq!(shop.revision().await, "v1");
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_is_not_judged_by_what_people_deploy_meanwhile() {
    let shop = Shop::new();
    let going = shop.watch(shop.policy());
    shop.deploy_bad("v2").await;
    minutes(6).await;
    shop.metrics.set("errors", 0.0);
    minutes(1).await;
    shop.web.deploy("v3", &json!({"image": "web:3"}));
    minutes(20).await;
    assert_eq!(shop.told().last(), Some(&Happening::RecoveryUnknown), "{:?}", shop.told());
    let judged = shop.runs().await[0].1.judged.clone().unwrap();
    assert!(judged.message.contains("another revision was put in place"));
    going.end().await;
}
