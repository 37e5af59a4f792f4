//! Owning a component while a run changes it.

pub(crate) mod file;
mod local;
mod memory;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    Clock as _, ComponentId, Error, ErrorKind, ProgressSink, Realm, Result, RunId, SystemClock, Timestamp,
};

pub use local::LocalLease;
pub use memory::MemoryLease;

/// Sees to it that one run at a time changes a component.
///
/// A lease keeps people and programs out of each other's way. It does not replace the precondition of a
/// write: a process can be paused after it has looked at its lease and before its write arrives.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync {
    /// Takes a component for a run. May wait until a holder that is no longer heard of counts as dead, and
    /// takes over at once from an earlier process of the same run: the journal's claim has made sure that it
    /// is gone. Safe to drop: what was taken expires.
    ///
    /// # Errors
    /// `Refused`, naming the holder, while another run has it and the request does not break its lease;
    /// `PermissionDenied` where leases may not be written; else as the system answers.
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>>;
}

/// A component that is held for a run.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Hold: fmt::Debug + Send + Sync {
    /// Whether it is still held, as far as can be said without asking anybody.
    ///
    /// # Errors
    /// `LeaseLost` once it is not, or may not be.
    fn check(&self) -> Result<()>;

    /// Renews for as long as it is polled. Ends with [`check`](Self::check)'s error once it is lost.
    async fn keep(&self) -> Error;

    /// Whose lease was broken to get this one.
    fn broken(&self) -> Option<String>;

    /// Gives it up, so that nobody has to wait. What fails is left to expire.
    async fn release(&self);
}

/// Who wants what.
#[derive(Clone)]
pub struct LeaseRequest {
    /// Where the component lives.
    pub realm: Realm,
    /// Which one it is.
    pub component: ComponentId,
    /// The run that is about to change it.
    pub run: RunId,
    /// Who or what carries the run out.
    pub actor: String,
    /// Why the lease of another holder is to be broken; none where it is to be respected.
    pub break_reason: Option<String>,
    /// Told what the request waits for.
    pub waiting: Option<ProgressSink>,
}

impl fmt::Debug for LeaseRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseRequest")
            .field("component", &self.component)
            .field("run", &self.run)
            .field("actor", &self.actor)
            .field("break_reason", &self.break_reason)
            .finish_non_exhaustive()
    }
}

impl LeaseRequest {
    /// That another holder has the component, for implementations: `holder` names it, `hint` says more of it.
    pub fn refused(&self, holder: &str) -> Error {
        Error::new(ErrorKind::Refused, format!("{} is held by {holder}", self.component))
            .with_component(&self.component)
            .with_hint("wait until it has ended; if it is certainly gone: --break-lease --reason TEXT")
    }

    /// The holder as others are told of it.
    pub fn holder(&self) -> String {
        format!("run {} of {}", self.run, self.actor)
    }
}

/// How long a holder may count on a lease that expires: from before the request that took or renewed it was
/// sent, on this process's own monotonic clock. For implementations.
#[derive(Debug)]
pub struct LeaseTerm {
    component: ComponentId,
    length: Duration,
    state: Mutex<TermState>,
}

#[derive(Debug)]
struct TermState {
    /// When the request that took or renewed it last was sent, by both clocks.
    asked: Instant,
    asked_wall: Timestamp,
    lost: Option<String>,
}

impl LeaseTerm {
    /// A term that began when the request was about to be sent.
    pub fn new(component: &ComponentId, asked: Instant, length: Duration) -> Self {
        let state = Mutex::new(TermState { asked, asked_wall: wall(asked), lost: None });
        Self { component: component.clone(), length, state }
    }

    fn state(&self) -> MutexGuard<'_, TermState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was renewed by a request that was about to be sent then. What was lost stays lost.
    pub fn renewed(&self, asked: Instant) {
        // One that ended before it was renewed may have had another holder meanwhile.
        if self.check().is_ok() {
            let mut state = self.state();
            state.asked = asked;
            state.asked_wall = wall(asked);
        }
    }

    /// Another has it, or it is gone.
    pub fn lose(&self, why: impl Into<String>) {
        self.state().lost.get_or_insert(why.into());
    }

    /// Whether it still runs: by the monotonic clock, and by that of the wall, because the first stands still
    /// while a machine is suspended.
    ///
    /// # Errors
    /// `LeaseLost` once it does not.
    pub fn check(&self) -> Result<()> {
        let state = self.state();
        let by_wall = SystemClock.now().since(state.asked_wall);
        let why = match &state.lost {
            Some(why) => why.as_str(),
            None if state.asked.elapsed().max(by_wall) < self.length => return Ok(()),
            None => "it could not be renewed in time",
        };
        let message = format!("the lease of {} is lost: {why}", self.component);
        Err(Error::new(ErrorKind::LeaseLost, message)
            .with_component(&self.component)
            .with_hint("see who has it now, then go on with: rollback resume"))
    }

    /// Renews with `renew` a third of its length after the last time, until it is lost. An error of `renew` that
    /// is `LeaseLost` ends it; after any other, and after none in a third of its length, it is tried again.
    pub async fn keep<F: Future<Output = Result<()>>>(&self, renew: impl Fn() -> F) -> Error {
        let third = self.length / 3;
        loop {
            if let Err(lost) = self.check() {
                return lost;
            }
            let last = self.state().asked;
            sleep_until(last + third).await;
            let (asked, ends) = (Instant::now(), last + self.length);
            match timeout_at(ends.min(asked + third), renew()).await {
                Ok(Ok(())) => self.renewed(asked),
                Ok(Err(error)) if error.kind() == ErrorKind::LeaseLost => self.lose(error.to_string()),
                failed => {
                    let error = failed.ok().and_then(Result::err);
                    tracing::warn!(component = %self.component, ?error, "cannot renew");
                    sleep_until(ends.min(Instant::now() + third / 3)).await;
                }
            }
        }
    }
}

fn wall(asked: Instant) -> Timestamp {
    SystemClock.now().saturating_sub(asked.elapsed())
}

const _: Option<&dyn Lease> = None;
const _: Option<&dyn Hold> = None;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_term_counts_from_the_request_and_what_is_lost_stays_lost() {
        let web = ComponentId::new("memory", None, "web").unwrap();
        let asked = Instant::now();
        let term = LeaseTerm::new(&web, asked, Duration::from_secs(9));
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(term.check().is_ok());
        term.renewed(asked + Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(term.check().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(term.check().unwrap_err().kind(), ErrorKind::LeaseLost);
        term.renewed(Instant::now());
        assert_eq!(term.check().unwrap_err().kind(), ErrorKind::LeaseLost, "somebody may have had it since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_renewed_is_kept_to_its_end_and_no_longer() {
        let web = ComponentId::new("memory", None, "web").unwrap();
        let begun = Instant::now();
        let term = LeaseTerm::new(&web, begun, Duration::from_secs(9));
        let renewals = std::sync::atomic::AtomicU32::new(0);
        let lost = term
            .keep(async || match renewals.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0..4 => Ok(()),
                4 => Err(Error::new(ErrorKind::Unavailable, "no answer")),
                _ => std::future::pending().await,
            })
            .await;
        assert_eq!(lost.kind(), ErrorKind::LeaseLost);
        assert_eq!(begun.elapsed(), Duration::from_secs(4 * 3 + 9));
    }
}
