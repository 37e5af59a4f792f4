//! One watch per kind and namespace, shared by everything that verifies there.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{StreamExt, TryStreamExt};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use rollback_core::ErrorReport;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error;

pub(crate) struct Watches {
    client: Client,
    running: Mutex<HashMap<(String, String), Weak<Watch>>>,
}

impl Watches {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, running: Mutex::default() }
    }

    /// The watch of a kind in a namespace: the one under way, or a new one. It ends with its last holder.
    pub(crate) fn subscribe(&self, resource: &ApiResource, namespace: &str) -> Arc<Watch> {
        let key = (format!("{}/{}", resource.api_version, resource.plural), namespace.to_owned());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = running.get(&key).and_then(Weak::upgrade) {
            return watch;
        }
        running.retain(|_, watch| watch.strong_count() > 0);
        let api = Api::namespaced_with(self.client.clone(), namespace, resource);
        let watch = Arc::new(Watch::start(api));
        running.insert(key, Arc::downgrade(&watch));
        watch
    }
}

/// What a watch has seen so far.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    changes: watch::Receiver<()>,
    task: JoinHandle<()>,
}

/// Wakes up when a watch has seen something new.
#[derive(Debug)]
pub struct Changes {
    changes: watch::Receiver<()>,
    /// The watch goes on while somebody listens.
    _watch: Arc<Watch>,
}

impl Changes {
    pub(crate) fn of(watch: Arc<Watch>) -> Self {
        Self { changes: watch.changes.clone(), _watch: watch }
    }

    /// Waits until there is something new.
    pub async fn next(&mut self) {
        if self.changes.changed().await.is_err() {
            // The watch has ended, so nothing new will come.
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Default)]
struct Seen {
    synced: bool,
    objects: BTreeMap<String, Arc<Value>>,
    error: Option<ErrorReport>,
}

impl Watch {
    fn start(api: Api<DynamicObject>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (tell, changes) = watch::channel(());
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                // A connection that died without a word is noticed when the server should have ended it.
                let config = watcher::Config::default().timeout(30);
                let mut events = watcher(api, config).backoff(Quick::new()).boxed();
                let mut relisted = BTreeMap::new();
                loop {
                    let event = events.try_next().await;
                    let mut seen = lock(&seen);
                    match event {
                        Ok(Some(event)) => seen.take(event, &mut relisted),
                        Ok(None) => return,
                        Err(e) => seen.error = Some(report(e)),
                    }
                    drop(seen);
                    let _ = tell.send(());
                }
            }
        });
        Self { seen, changes, task }
    }

    /// The object of this name; an error when nothing could be seen yet.
    pub(crate) fn get(&self, name: &str) -> Sight<Option<Arc<Value>>> {
        self.look(|seen| seen.objects.get(name).cloned())
    }

    /// The objects that fit.
    pub(crate) fn select(&self, fits: impl Fn(&Value) -> bool) -> Sight<Vec<Arc<Value>>> {
        self.look(|seen| seen.objects.values().filter(|object| fits(object)).cloned().collect())
    }

    /// What keeps the watch from seeing more, if anything does now.
    pub(crate) fn trouble(&self) -> Option<ErrorReport> {
        lock(&self.seen).error.clone()
    }

    fn look<T>(&self, read: impl FnOnce(&Seen) -> T) -> Sight<T> {
        let seen = lock(&self.seen);
        match (&seen.error, seen.synced) {
            (_, true) => Sight::Seen(read(&seen)),
            (Some(error), false) => Sight::Blocked(error.clone()),
            (None, false) => Sight::NotYet,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// In an emergency a broken watch is taken up again within seconds, with jitter.
struct Quick(backon::ExponentialBackoff);

impl Quick {
    fn new() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .without_max_times()
            .with_jitter();
        Self(builder.build())
    }
}

impl Iterator for Quick {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for Quick {
    fn reset(&mut self) {
        *self = Self::new();
    }
}

/// What can be seen through a watch.
pub(crate) enum Sight<T> {
    /// This, as of the last event.
    Seen(T),
    /// Nothing yet: the first list is under way.
    NotYet,
    /// Nothing: this is what the server answers.
    Blocked(ErrorReport),
}

impl Seen {
    fn take(&mut self, event: watcher::Event<DynamicObject>, relisted: &mut BTreeMap<String, Arc<Value>>) {
        match event {
            watcher::Event::Apply(object) => {
                let (name, object) = entry(object);
                self.objects.insert(name, object);
            }
            watcher::Event::Delete(object) => {
                self.objects.remove(&object.metadata.name.unwrap_or_default());
            }
            watcher::Event::Init => relisted.clear(),
            watcher::Event::InitApply(object) => {
                let (name, object) = entry(object);
                relisted.insert(name, object);
            }
            watcher::Event::InitDone => {
                self.objects = std::mem::take(relisted);
                self.synced = true;
            }
        }
        self.error = None;
    }
}

fn entry(object: DynamicObject) -> (String, Arc<Value>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    (name, Arc::new(serde_json::to_value(object).unwrap_or_default()))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(error: watcher::Error) -> ErrorReport {
    use rollback_core::{Access, Error, ErrorKind};
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return Error::new(ErrorKind::Unavailable, format!("watching: {error}")).temporary(None).report();
    };
    match cause {
        kube::Error::Api(status) => {
            let message = format!("watching: {}", status.message);
            Error::from_http_status(status.code, None, Access::Read, message).report()
        }
        cause => error::from_kube(cause, Access::Read, "watching").report(),
    }
}
