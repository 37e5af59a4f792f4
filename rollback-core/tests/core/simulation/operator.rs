//! Those who act: operators with processes that die, and people who edit by hand.

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::future::join_all;
use rollback_core::{
    Components, Engine, Error, ErrorKind, FailurePolicy, Journal, Outcome, Plan, Planner, Rollbackable,
    RunId, RunOptions, RunReport, Target, TokioClock,
};
use tokio::time::{sleep, timeout};

use super::component::Simulated;
use super::world::{World, lock};

/// How many operators there are at most.
pub(crate) const MOST: usize = 3;

pub(crate) async fn live(world: &Arc<World>) {
    let operators = world.draw(|random| random.usize(1..=MOST));
    let all = (0..operators).map(|name| Operator { name, world: world.clone() });
    tokio::join!(join_all(all.map(Operator::act)), edit(world));
    // What is still on its way arrives.
    world.calm_down();
    sleep(Duration::from_secs(120)).await;
    for name in 0..world.journals.len() {
        let operator = Operator { name, world: world.clone() };
        operator.clean_up().await;
    }
}

/// Edits by hand.
async fn edit(world: &Arc<World>) {
    for _ in 0..world.draw(|random| random.u8(0..3)) {
        sleep(world.draw(|random| Duration::from_secs(random.u64(1..400)))).await;
        let place = world.draw(|random| random.usize(0..world.servers.len()));
        world.draw(|random| lock(&world.servers[place]).edit(random));
        world.count("edit by hand");
        world.tell(|| format!("c{place} is edited"));
    }
}

struct Operator {
    name: usize,
    world: Arc<World>,
}

impl Operator {
    fn journal(&self) -> usize {
        self.name.min(self.world.journals.len() - 1)
    }

    fn engine(&self) -> Engine {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(10))
            .without_max_times();
        let clock = TokioClock::starting_at("2026-11-23T03:00:00Z".parse().unwrap());
        let engine = Engine::new(self.world.journals[self.journal()].clone())
            .with_clock(Arc::new(clock))
            .with_backoff(backoff)
            .with_ledger(self.world.ledger.clone());
        match &self.world.lease {
            Some(lease) => engine.with_lease(Arc::new(lease.clone())),
            None => engine,
        }
    }

    /// The components as a new process sees them.
    fn components(&self) -> Vec<Arc<dyn Rollbackable>> {
        let places = 0..self.world.servers.len();
        places.map(|place| Arc::new(Simulated::new(&self.world, place, self.journal())) as _).collect()
    }

    fn options(&self, run: RunId) -> RunOptions {
        let mut options = RunOptions::by(format!("operator-{}", self.name));
        options.run = run;
        options.break_lease = self.world.goes_wrong(50, "asks to break a lease").then(|| "it hangs".into());
        options
    }

    async fn act(self) {
        for _ in 0..self.world.draw(|random| random.u8(1..=3)) {
            sleep(self.world.draw(|random| Duration::from_millis(random.u64(0..60_000)))).await;
            let Ok(plan) = self.plan().await else { continue };
            let run = self.world.new_run();
            self.world.tell(|| format!("operator {} begins {run}", self.name));
            let components: Components = self.components().into_iter().collect();
            let engine = self.engine();
            self.process(engine.execute(&plan, &components, self.options(run))).await;
            Box::pin(self.follow_up(run)).await;
        }
    }

    /// Returns some of the components to where they were, in some order.
    async fn plan(&self) -> Result<Plan, Error> {
        let policies = [FailurePolicy::Halt, FailurePolicy::Compensate, FailurePolicy::Continue];
        let policy = policies[self.world.draw(|random| random.usize(0..3))];
        let mut planner = Planner::new().on_failure(policy).with_ledger(self.world.ledger.clone());
        let mut named: Vec<String> = Vec::new();
        for component in self.components() {
            if self.world.draw(|random| random.u8(0..4)) == 0 && !named.is_empty() {
                continue;
            }
            let target = match self.world.draw(|random| random.u8(0..4)) {
                0 => Target::Revision(self.world.draw(|random| random.u8(1..5)).to_string()),
                _ => Target::Previous,
            };
            let before = |name: &&String| !name.is_empty() && self.world.draw(fastrand::Rng::bool);
            let after: Vec<&str> = named.iter().filter(before).map(String::as_str).collect();
            let name = component.id().name().to_owned();
            planner = planner.rollback(name.clone(), component, target, &after);
            named.push(name);
        }
        planner.plan().await
    }

    /// Works in a process, which may die at any time.
    async fn process(&self, work: impl Future<Output = Result<RunReport, Error>>) {
        let dies = self.world.goes_wrong(400, "process died");
        let life = if dies { self.world.draw(|random| random.u64(1..60_000)) } else { 86_400_000 };
        match timeout(Duration::from_millis(life), work).await {
            Ok(Ok(report)) => {
                let error = report.error.as_ref().map(|error| error.kind);
                self.world.tell(|| format!("{} is {:?} {error:?}", report.run, report.outcome));
                if error == Some(ErrorKind::LeaseLost) {
                    self.world.count("lease lost");
                }
                if !report.broken_leases.is_empty() {
                    self.world.count("lease broken");
                }
            }
            Ok(Err(error)) => {
                self.world.tell(|| format!("operator {} is told: {error}", self.name));
                if error.to_string().contains("is held by") {
                    self.world.count("lease refused");
                }
            }
            Err(_) => self.world.tell(|| format!("the process of operator {} dies", self.name)),
        }
    }

    fn outcome(&self, run: RunId) -> Option<Outcome> {
        Some(self.world.journals[self.journal()].state(run)?.outcome)
    }

    /// Goes on with a run, closes it, takes it back, or leaves it.
    async fn follow_up(&self, run: RunId) {
        for _ in 0..3 {
            sleep(self.world.draw(|random| Duration::from_secs(random.u64(0..40)))).await;
            let choice = self.world.draw(|random| random.u8(0..10));
            match (self.outcome(run), choice) {
                (Some(Outcome::Unfinished), 0) => {
                    self.world.count("abandoned");
                    let _ = self.engine().abandon(run, "seen to by hand").await;
                }
                (Some(Outcome::Unfinished), 1..8) => {
                    self.world.count("resumed");
                    let components: Components = self.components().into_iter().collect();
                    let engine = self.engine();
                    self.process(engine.resume(run, &components, self.options(run))).await;
                }
                (Some(Outcome::Completed | Outcome::Halted | Outcome::Stuck), 0..3) => {
                    let state = self.world.journals[self.journal()].state(run).unwrap();
                    let Ok(back) = state.reversal() else { return };
                    self.world.count("reverted");
                    let components: Components = self.components().into_iter().collect();
                    let engine = self.engine();
                    self.process(engine.execute(&back, &components, self.options(self.world.new_run())))
                        .await;
                    return;
                }
                (Some(Outcome::Unfinished), _) => {}
                _ => return,
            }
        }
    }

    /// Ends all that is unfinished, while nothing goes wrong.
    async fn clean_up(&self) {
        let journal = &self.world.journals[self.journal()];
        for _ in 0..3 {
            for run in journal.runs().await.unwrap() {
                if run.outcome == Outcome::Unfinished {
                    let components: Components = self.components().into_iter().collect();
                    let engine = self.engine();
                    let mut options = self.options(run.run);
                    options.break_lease = None;
                    let report = engine.resume(run.run, &components, options).await;
                    self.world.tell(|| format!("{} is cleaned up: {:?}", run.run, report.map(|r| r.outcome)));
                }
            }
        }
    }
}
