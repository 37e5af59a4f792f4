//! One supervisor acts at a time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::REALM;
use crate::{ComponentId, ErrorKind, Lease, LeaseRequest, ProgressSink, Realm, Result, RunId};

/// The lead among supervisors of one name, held by a lease.
#[derive(Clone)]
pub struct Leadership {
    lease: Arc<dyn Lease>,
    request: LeaseRequest,
    retry: Duration,
    waiting: Option<ProgressSink>,
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Leadership {
    /// The lead among the supervisors of this name: those that share a runbook, and a journal.
    ///
    /// # Errors
    /// `InvalidConfig` for a name that cannot be one of a component.
    pub fn new(lease: Arc<dyn Lease>, name: &str, actor: impl Into<String>) -> Result<Self> {
        let request = LeaseRequest {
            realm: Realm::new(REALM),
            component: ComponentId::new("supervisor", None, name)?,
            run: RunId::random(),
            actor: actor.into(),
            break_reason: None,
            waiting: None,
        };
        Ok(Self { lease, request, retry: Duration::from_secs(5), waiting: None })
    }

    /// Sets how long to wait before asking again. Default: 5 s.
    #[must_use]
    pub fn with_retry(mut self, retry: Duration) -> Self {
        self.retry = retry;
        self
    }

    /// Sets who is told, once, that another one leads.
    #[must_use]
    pub fn with_waiting(mut self, waiting: ProgressSink) -> Self {
        self.waiting = Some(waiting);
        self
    }

    /// Waits for the lead, works for as long as it is held, and begins anew once it is lost, until stopped. `work` gets
    /// what stops it, and must end soon after; it begins anew where it ends by itself.
    ///
    /// # Errors
    /// Those of `work`; and of the lease what is no matter of waiting, such as a missing right.
    pub async fn keep<F: Future<Output = Result<()>>>(
        &self,
        stop: &CancellationToken,
        work: impl Fn(CancellationToken) -> F,
    ) -> Result<()> {
        let mut is_told = false;
        while !stop.is_cancelled() {
            let hold = tokio::select! {
                hold = self.lease.acquire(&self.request) => hold,
                () = stop.cancelled() => return Ok(()),
            };
            let hold = match hold {
                Ok(hold) => hold,
                Err(error)
                    if !matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidConfig) =>
                {
                    if let (false, Some(waiting)) = (is_told, &self.waiting) {
                        waiting(error.to_string());
                        is_told = true;
                    }
                    tokio::select! {
                        () = sleep(self.retry) => continue,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            };
            is_told = false;
            let leading = stop.child_token();
            let kept = async {
                let lost = hold.keep().await;
                tracing::warn!(error = %lost, "the lead is lost");
                leading.cancel();
                std::future::pending::<()>().await;
            };
            let done = tokio::select! {
                biased;
                done = work(leading.clone()) => done,
                () = kept => Ok(()),
            };
            hold.release().await;
            done?;
        }
        Ok(())
    }
}
