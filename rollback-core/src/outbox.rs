//! What people are to be told, until they are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::{
    Alert, Clock, ComponentId, Disposition, Error, ErrorKind, Fact, Ledger, Note, Notification, Notifier,
    Realm, Result, SystemClock,
};

/// How many messages wait for one notifier at most; the oldest go.
const MOST_WAITING: usize = 100;

/// How many threads are known of one notifier at most.
const MOST_THREADS: usize = 100;

/// What nobody could be told of for this long is news to nobody.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a record may take: what is not recorded is told all the same.
const LEDGER_PATIENCE: Duration = Duration::from_secs(10);

/// Delivers notifications, each to every notifier in the order in which they were sent, without ever holding up whoever
/// sends them.
///
/// What is not delivered yet is recorded in the ledger, and is tried again after a restart, for a day. A message can
/// arrive twice, when its answer was lost or the process ended in between.
#[derive(Debug)]
pub struct Outbox {
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    queues: Vec<Queue>,
}

#[derive(Debug)]
struct Queue {
    notifier: Arc<dyn Notifier>,
    /// Under which name the ledger keeps it.
    key: String,
    state: Mutex<State>,
    changed: Notify,
}

/// What is recorded of a notifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct State {
    waiting: VecDeque<Notification>,
    /// What was turned down, and is tried again only after a restart.
    undelivered: Vec<Notification>,
    /// What the notifier calls the threads, the newest at the end.
    threads: VecDeque<(String, String)>,
    #[serde(skip)]
    sending: bool,
    #[serde(skip)]
    loaded: bool,
}

impl State {
    fn trim(&mut self) {
        while self.waiting.len() > MOST_WAITING {
            if let Some(lost) = self.waiting.pop_front() {
                tracing::error!(summary = lost.summary, "too many messages wait: one is given up");
            }
        }
        while self.threads.len() > MOST_THREADS {
            self.threads.pop_front();
        }
        let surplus = self.undelivered.len().saturating_sub(MOST_WAITING);
        self.undelivered.drain(..surplus);
    }
}

impl Outbox {
    /// One that records in this ledger what these notifiers have not been told yet.
    pub fn new(notifiers: Vec<Arc<dyn Notifier>>, ledger: Arc<dyn Ledger>) -> Self {
        let mut queues: Vec<Queue> = Vec::new();
        for notifier in notifiers {
            // Two of one name are told apart by their order.
            let same = queues.iter().filter(|queue| queue.notifier.name() == notifier.name()).count();
            let name = notifier.name();
            let key = if same == 0 { name.to_owned() } else { format!("{name} {}", same + 1) };
            queues.push(Queue { notifier, key, state: Mutex::default(), changed: Notify::new() });
        }
        Self { ledger, clock: Arc::new(SystemClock), queues }
    }

    /// Keeps what is not delivered apart from that of others, so that two processes that tell the same people do not
    /// deliver each other's messages.
    #[must_use]
    pub fn of(mut self, owner: &str) -> Self {
        for queue in &mut self.queues {
            queue.key.push(':');
            queue.key.push_str(owner);
        }
        self
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Takes a message in, [masked](Notification::masked): recorded when this returns, as far as the ledger can be
    /// written, and delivered by [`deliver`](Self::deliver).
    pub async fn send(&self, message: Notification) {
        let message = message.masked();
        tracing::info!(event = ?message.event, run = ?message.run.map(|run| run.to_string()), "{}", message.summary);
        join_all(self.queues.iter().map(async |queue| {
            queue.load(self).await;
            {
                let mut state = queue.state();
                state.waiting.push_back(message.clone());
                state.trim();
            }
            queue.record(self).await;
            queue.changed.notify_one();
        }))
        .await;
    }

    /// Delivers what was sent, and what an earlier process left, until it is dropped. One at a time delivers.
    pub async fn deliver(&self) {
        join_all(self.queues.iter().map(|queue| queue.deliver(self))).await;
        // With nobody to tell there is nothing to deliver, ever.
        std::future::pending::<()>().await;
    }

    /// Delivers what waits, for at most this long; answers how many messages are left for another time.
    pub async fn flush(&self, patience: Duration) -> usize {
        join_all(self.queues.iter().map(|queue| queue.load(self))).await;
        let done = join_all(self.queues.iter().map(Queue::emptied));
        tokio::select! {
            () = self.deliver() => {}
            _ = timeout(patience, done) => {}
        }
        self.queues.iter().map(Queue::left).sum()
    }

    /// How many messages an earlier process has left.
    pub async fn waiting(&self) -> usize {
        join_all(self.queues.iter().map(|queue| queue.load(self))).await;
        self.queues.iter().map(Queue::left).sum()
    }

    /// Tells every notifier which alerts stand.
    ///
    /// # Errors
    /// The first, once all have been told.
    pub async fn alerts(&self, alerts: &[Alert]) -> Result<()> {
        let told = join_all(self.queues.iter().map(async |queue| {
            let told = timeout(PATIENCE, queue.notifier.alerts(alerts)).await;
            let told = told.unwrap_or_else(|_| Err(late()));
            if let Err(error) = &told {
                tracing::warn!(notifier = queue.notifier.name(), %error, "alerts are not told");
            }
            told
        }));
        told.await.into_iter().collect()
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages are not delivered.
    fn left(&self) -> usize {
        let state = self.state();
        state.waiting.len() + state.undelivered.len()
    }

    fn place(&self) -> Option<(Realm, ComponentId)> {
        Some((Realm::new(super::supervisor::REALM), ComponentId::named_after("notifier", &self.key)?))
    }

    /// Takes up what an earlier process left.
    async fn load(&self, outbox: &Outbox) {
        if self.state().loaded {
            return;
        }
        let Some((realm, component)) = self.place() else { return };
        let Ok(Ok(record)) = timeout(LEDGER_PATIENCE, outbox.ledger.record(&realm, &component)).await else {
            tracing::warn!(notifier = self.notifier.name(), "what was not delivered earlier cannot be read");
            return;
        };
        let kept = record.memory(KEY).and_then(|value| serde_json::from_value::<State>(value.clone()).ok());
        let mut state = self.state();
        if state.loaded {
            return;
        }
        state.loaded = true;
        let State { waiting, undelivered, threads, .. } = kept.unwrap_or_default();
        let fresh: Vec<_> = undelivered.into_iter().chain(waiting).collect();
        for message in fresh.into_iter().rev() {
            if state.waiting.iter().all(|other| other.id != message.id) {
                state.waiting.push_front(message);
            }
        }
        let known = std::mem::take(&mut state.threads);
        state.threads = threads.into_iter().chain(known).collect();
        state.trim();
    }

    async fn record(&self, outbox: &Outbox) {
        // What an earlier process left must not be overwritten.
        self.load(outbox).await;
        if !self.state().loaded {
            return;
        }
        let Some((realm, component)) = self.place() else { return };
        let Ok(value) = serde_json::to_value(&*self.state()) else { return };
        let note = Note {
            at: outbox.clock.now(),
            by: self.notifier.name().to_owned(),
            fact: Fact::Memory { policy: KEY.to_owned(), value },
        };
        let noted = timeout(LEDGER_PATIENCE, outbox.ledger.note(&realm, &component, vec![note])).await;
        if !matches!(noted, Ok(Ok(()))) {
            tracing::warn!(notifier = self.notifier.name(), ?noted, "what is not delivered is not recorded");
        }
    }

    async fn emptied(&self) {
        loop {
            let is_idle = {
                let state = self.state();
                state.waiting.is_empty() && !state.sending
            };
            if is_idle {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn deliver(&self, outbox: &Outbox) {
        self.load(outbox).await;
        loop {
            let next = {
                let mut state = self.state();
                state.sending = !state.waiting.is_empty();
                state.waiting.front().cloned()
            };
            match next {
                Some(message) => self.deliver_one(outbox, message).await,
                None => self.changed.notified().await,
            }
        }
    }

    async fn deliver_one(&self, outbox: &Outbox, message: Notification) {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_secs(300))
            .without_max_times()
            .build();
        let name = self.notifier.name();
        let failed = loop {
            if outbox.clock.now().since(message.at) > STALE {
                tracing::error!(notifier = name, summary = message.summary, "given up after a day");
                break None;
            }
            let thread = self.state().threads.iter().rev().find(|(own, _)| *own == message.thread).cloned();
            let told = self.notifier.notify(&message, thread.as_ref().map(|(_, thread)| thread.as_str()));
            let error = match timeout(PATIENCE, told).await.unwrap_or_else(|_| Err(late())) {
                Ok(new) => {
                    // The last one counts: the one before may have been deleted.
                    if let Some(new) = new.filter(|new| thread.is_none_or(|(_, known)| known != *new)) {
                        self.state().threads.push_back((message.thread.clone(), new));
                    }
                    break None;
                }
                Err(error) => error,
            };
            let after = match error.disposition() {
                Disposition::Temporary(after) => after,
                Disposition::Indeterminate => None,
                _ => {
                    tracing::error!(notifier = name, %error, summary = message.summary, "not delivered");
                    break Some(message.clone());
                }
            };
            let pause = after.or_else(|| pauses.next()).unwrap_or(PATIENCE);
            tracing::warn!(notifier = name, %error, ?pause, "not delivered, and tried again");
            sleep(pause).await;
        };
        {
            let mut state = self.state();
            state.waiting.retain(|other| other.id != message.id);
            state.undelivered.extend(failed);
            state.trim();
        }
        self.record(outbox).await;
        self.state().sending = false;
    }
}

/// Under which name the ledger keeps it.
const KEY: &str = "outbox";

fn late() -> Error {
    Error::new(ErrorKind::Timeout, format!("there was no answer within {} s", PATIENCE.as_secs()))
        .temporary(None)
}
