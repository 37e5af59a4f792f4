//! What all in a world share: chance, the servers, the record of what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use rollback_core::{ComponentId, MemoryJournal, MemoryLease, Realm, RunId};
use tokio::time::{Instant, sleep};

use super::component::Server;
use super::journal::Frail;

/// How often what happened.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

pub(crate) const LEASE: Duration = Duration::from_secs(15);

pub(crate) struct World {
    state: Mutex<State>,
    pub(crate) servers: Vec<Arc<Mutex<Server>>>,
    /// One that all share, as in a cluster, or one for each operator.
    pub(crate) journals: Vec<Arc<Frail>>,
    pub(crate) ledger: Arc<MemoryJournal>,
    /// None in some worlds whose servers compare and set.
    pub(crate) lease: Option<MemoryLease>,
    begun: Instant,
    told: bool,
}

struct State {
    random: Rng,
    calm: bool,
    events: Vec<String>,
    tally: Tally,
    runs: u128,
}

impl World {
    pub(crate) fn new(seed: u64, told: bool) -> Arc<Self> {
        let mut random = Rng::with_seed(seed);
        let servers: Vec<_> = (0..random.usize(1..=4))
            .map(|_| Arc::new(Mutex::new(Server::new(random.u8(0..3) > 0, &mut random))))
            .collect();
        let is_guarded = |server: &Arc<Mutex<Server>>| lock(server).compares;
        let unleased = servers.iter().all(is_guarded) && random.u8(0..4) == 0;
        let journals = if random.bool() { 1 } else { super::operator::MOST };
        Arc::new_cyclic(|world| Self {
            servers,
            journals: (0..journals).map(|_| Frail::new(world.clone())).collect(),
            ledger: Arc::default(),
            lease: (!unleased).then(|| MemoryLease::new(LEASE)),
            begun: Instant::now(),
            told,
            state: Mutex::new(State {
                random,
                calm: false,
                events: Vec::new(),
                tally: Tally::new(),
                runs: u128::from(seed) << 32,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Decides something.
    pub(crate) fn draw<T>(&self, decide: impl FnOnce(&mut Rng) -> T) -> T {
        decide(&mut self.state().random)
    }

    /// Whether something goes wrong that does so this many times in a thousand.
    pub(crate) fn goes_wrong(&self, times: u32, what: &'static str) -> bool {
        let wrong = {
            let mut state = self.state();
            !state.calm && state.random.u32(0..1000) < times
        };
        if wrong {
            self.count(what);
        }
        wrong
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm_down(&self) {
        self.state().calm = true;
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.state().calm
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.state().tally.entry(what).or_default() += 1;
    }

    pub(crate) fn tell(&self, event: impl FnOnce() -> String) {
        let event = format!("{:>9.3} {}", self.begun.elapsed().as_secs_f64(), event());
        if self.told {
            println!("{event}");
        }
        self.state().events.push(event);
    }

    pub(crate) fn end(&self) -> (Vec<String>, Tally) {
        let mut state = self.state();
        (std::mem::take(&mut state.events), std::mem::take(&mut state.tally))
    }

    /// The time that a request takes one way: mostly little, now and then long.
    pub(crate) async fn travel(&self) {
        let milliseconds = self.draw(|random| match random.u8(0..40) {
            0 => random.u64(1_000..40_000),
            1..6 => random.u64(100..1_000),
            _ => random.u64(1..50),
        });
        sleep(Duration::from_millis(if self.is_calm() { 1 } else { milliseconds })).await;
    }

    pub(crate) fn new_run(&self) -> RunId {
        let mut state = self.state();
        state.runs += 1;
        format!("{:032x}", state.runs).parse().unwrap()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn realm() -> Realm {
    Realm::new("simulated")
}

pub(crate) fn id(place: usize) -> ComponentId {
    ComponentId::new("simulated", None, &format!("c{place}")).unwrap()
}
