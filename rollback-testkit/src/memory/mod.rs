//! A component in memory.

mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    Access, Change, ChangeKind, ComponentId, Error, ErrorKind, Fingerprint, Position, Realm, RestartScope,
    Restartable, Result, Revision, Rollbackable, Snapshot, StepContext, Target, Verification,
    VerificationState,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use state::{Fault, Parts, State, content, parts_of};

/// How a component settles after a write.
#[derive(Clone, Debug)]
pub enum Settling {
    /// It is on the way for this long.
    After(Duration),
    /// It stays on the way for ever.
    Never,
    /// It fails, with this reason.
    Fails(String),
}

/// A component whose content lives in memory, with knobs for everything that can go wrong.
///
/// Its content is a set of named parts. A change takes one write per part that differs, each a
/// compare-and-set announced by [`StepContext::before_write`]. Clones share the content and the knobs,
/// which can be turned while an engine works on it.
///
/// ```
/// use rollback_core::{ComponentId, Rollbackable, Target};
/// use rollback_testkit::MemoryComponent;
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> rollback_core::Result<()> {
/// let web = MemoryComponent::new(ComponentId::new("memory", None, "web")?);
/// web.deploy("v1", &json!({"image": "web:1", "limit": 1}));
/// web.deploy("v2", &json!({"image": "web:2", "limit": 2}));
/// let changes = web.prepare(&Target::Previous).await?;
/// assert_eq!(changes[0].to.id, "v1");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryComponent {
    id: ComponentId,
    realm: Realm,
    state: Arc<Mutex<State>>,
}

const LOOK: Duration = Duration::from_millis(10);

impl MemoryComponent {
    /// A component with no content yet, in the realm `memory`, that settles at once.
    pub fn new(id: ComponentId) -> Self {
        Self { id, realm: Realm::new("memory"), state: Arc::new(Mutex::new(State::new())) }
    }

    /// The same component in another realm.
    #[must_use]
    pub fn with_realm(mut self, realm: Realm) -> Self {
        self.realm = realm;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new revision in place: an object of parts and their values.
    pub fn deploy(&self, id: &str, parts: &Value) {
        self.state().deploy(id, parts_of(parts));
    }

    /// The live parts with their values.
    pub fn live(&self) -> Value {
        content(&self.state().live)
    }

    /// Sets a part from outside, as another client would; a part that no revision names is one that no
    /// rollback touches. Null removes it.
    pub fn edit(&self, part: &str, value: Value) {
        self.state().set(part, value);
    }

    /// Replaces the object by another of the same name and content.
    pub fn recreate(&self) {
        self.state().uid += 1;
    }

    /// How many writes were made.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// How many writes were asked for, with those that were turned down.
    pub fn write_attempts(&self) -> u64 {
        self.state().attempts
    }

    /// How many reads were asked for.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Fails the nth write from now on, counted from 1, with nothing written.
    pub fn fail_write(&self, nth: u64, error: Error) {
        self.state().on_write(nth, Fault::Fail(error));
    }

    /// Makes the nth write from now on, counted from 1, and answers that the connection broke.
    pub fn lose_response(&self, nth: u64) {
        self.state().on_write(nth, Fault::Lose);
    }

    /// Makes the nth write from now on, counted from 1, and never answers, as if the process had died.
    pub fn hang_after_write(&self, nth: u64) {
        self.state().on_write(nth, Fault::Hang);
    }

    /// Answers the next reads with these errors, one each.
    pub fn fail_reads(&self, errors: impl IntoIterator<Item = Error>) {
        self.state().read_errors.extend(errors);
    }

    /// Answers every read, or every write, as a server that gives this status and serves nothing.
    pub fn answer(&self, access: Access, status: Option<u16>) {
        self.state().answer(access, status);
    }

    /// Sets how long every request takes. Default: it waits once for the scheduler, before and after.
    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Sets how it settles after a write. Default: at once.
    pub fn set_settling(&self, settling: Settling) {
        self.state().settling = settling;
    }

    /// Sets how it settles while this revision is in place.
    pub fn set_settling_of(&self, revision: &str, settling: Settling) {
        self.state().settling_of.insert(revision.into(), settling);
    }

    // Every request can be dropped before it is served, and after.
    async fn travel(&self) {
        let latency = self.state().latency;
        if latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            sleep(latency / 2).await;
        }
    }

    async fn read<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T> {
        self.travel().await;
        let seen = {
            let mut state = self.state();
            state.read().map(|()| look(&state))
        };
        self.travel().await;
        seen.map_err(|e| e.with_component(&self.id))
    }

    async fn write(&self, change: &Change, part: &str, value: Value) -> Result<()> {
        self.travel().await;
        let (fault, done) = {
            let mut state = self.state();
            let fault = state.next_write();
            let done = match fault {
                Some(Fault::Fail(error)) => return Err(error.with_component(&self.id)),
                ref served => state.compare_and_set(change, part, value).map(|()| served.is_some()),
            };
            (fault, done)
        };
        self.travel().await;
        match (fault, done?) {
            (Some(Fault::Hang), true) => std::future::pending().await,
            (Some(Fault::Lose), true) => {
                let error = Error::new(ErrorKind::Unavailable, "the connection broke before the response");
                Err(error.indeterminate().with_component(&self.id))
            }
            _ => Ok(()),
        }
    }

    fn change(&self, kind: ChangeKind, uid: u64, from: Snapshot, to: Snapshot) -> Change {
        Change {
            component: self.id.clone(),
            realm: self.realm.clone(),
            kind,
            diff: state::diff(&from.content, &to.content),
            from,
            to,
            identity: Some(uid.to_string()),
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: None,
        }
    }

    fn elsewhere(&self, what: &str) -> Error {
        Error::new(ErrorKind::Conflict, format!("changed since it was planned: {what}"))
            .with_component(&self.id)
            .with_hint("plan again")
    }

    async fn look(&self, change: &Change) -> Result<Verification> {
        self.read(|state| match state.locate(change) {
            Position::To => state.settled(),
            Position::Elsewhere(what) => {
                Verification::failed(format!("changed since it was applied: {what}"))
            }
            Position::From | Position::Between => Verification::failed("the change is not applied"),
        })
        .await
    }
}

impl fmt::Debug for MemoryComponent {
    // The values may be planted secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, realm, state: _ } = self;
        f.debug_struct("MemoryComponent").field("id", id).field("realm", realm).finish_non_exhaustive()
    }
}

#[async_trait]
impl Rollbackable for MemoryComponent {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        self.read(|_| self.realm.clone()).await
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        self.read(|state| {
            let current = state.current().map(|(id, _)| id.clone());
            let revision = |(id, parts): &(String, Parts)| Revision {
                id: id.clone(),
                fingerprint: Fingerprint::of(&content(parts)),
                current: current.as_ref() == Some(id),
                created: None,
                since: None,
                cause: None,
                mark: None,
                summary: format!("revision {id}"),
            };
            state.revisions.iter().rev().map(revision).collect()
        })
        .await
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        let (uid, from, to) = self.read(|state| (state.uid, state.snapshot(), state.resolve(target))).await?;
        let to = to.map_err(|e| e.with_component(&self.id))?;
        Ok(vec![self.change(ChangeKind::Rollback, uid, from, to)])
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.read(|state| state.locate(change)).await
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let (position, left) = self.read(|state| (state.locate(change), state.left(change))).await?;
        if let Position::Elsewhere(what) = position {
            return Err(self.elsewhere(&what));
        }
        for (part, value) in left {
            cx.before_write(&format!("set {part} of {}", self.id)).await?;
            self.write(change, &part, value).await.inspect_err(|error| {
                if error.kind() == ErrorKind::Conflict {
                    cx.write_rejected();
                }
            })?;
        }
        Ok(())
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        loop {
            let seen = self.look(change).await?;
            if seen.state != VerificationState::Progressing {
                return Ok(seen);
            }
            cx.progress(seen.message.as_str());
            if Instant::now() >= cx.deadline() {
                return Ok(seen);
            }
            tokio::select! {
                () = sleep(LOOK.min(cx.deadline() - Instant::now())) => {}
                () = cx.cancelled() => {
                    let message = "stopped while the component settles";
                    return Err(Error::new(ErrorKind::Cancelled, message).with_component(&self.id));
                }
            }
        }
    }

    async fn status(&self) -> Result<Verification> {
        self.read(State::settled).await
    }
}

#[async_trait]
impl Restartable for MemoryComponent {
    // The intent names the number of the restart, so that repeating it does nothing more.
    async fn prepare_restart(&self, _: RestartScope) -> Result<Change> {
        let (uid, restarts) = self.read(|state| (state.uid, state.live.get("restarts").cloned())).await?;
        let next = restarts.as_ref().and_then(Value::as_u64).unwrap_or_default() + 1;
        let snapshot = |value: Value| {
            let content = json!({"restarts": value});
            let id = format!("restart {value}");
            Snapshot { fingerprint: Fingerprint::of(&content), summary: id.clone(), id, content }
        };
        let (from, to) = (snapshot(restarts.unwrap_or_default()), snapshot(next.into()));
        Ok(self.change(ChangeKind::Restart, uid, from, to))
    }
}
