//! Leases that are lost.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use rollback_core::{
    Change, Engine, Error, ErrorKind, FailurePolicy, Hold, Lease, LeaseRequest, Outcome, Result,
};

use super::meddle::{Meddle, Moment, Point};
use super::{Fixture, Journals, MOST_POINTS, World};

/// A lease that is lost when it is looked at for the nth time.
#[derive(Clone, Debug)]
struct Fleeting {
    point: Arc<Point>,
    lost: Arc<AtomicBool>,
}

impl Fleeting {
    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Lease for Fleeting {
    async fn acquire(&self, _: &LeaseRequest) -> Result<Box<dyn Hold>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Hold for Fleeting {
    fn check(&self) -> Result<()> {
        if self.is_lost() || self.point.is_here() {
            self.lost.store(true, Ordering::SeqCst);
            return Err(Error::new(ErrorKind::LeaseLost, "lost by the sweep"));
        }
        Ok(())
    }

    async fn keep(&self) -> Error {
        pending().await
    }

    fn broken(&self) -> Option<String> {
        None
    }

    async fn release(&self) {}
}

/// Counts the writes that are let pass once the lease is lost.
struct Watches {
    lease: Fleeting,
    late: AtomicU32,
}

#[async_trait]
impl Meddle for Watches {
    async fn at(&self, moment: Moment, _: &Change) -> Result<()> {
        if moment == Moment::Write && self.lease.is_lost() {
            self.late.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The leases are lost at each moment in turn at which the run looks at them: before each write and before
/// each entry of the journal. No write is made from then on, the run says why it stopped, and resumed with
/// its leases it completes.
pub async fn the_lease_lost_at_any_moment_the_run_stops_and_can_be_resumed<F: Fixture, J: Journals>() {
    let world = World::<F, J>::new().await;
    for nth in 0..MOST_POINTS {
        let plan = world.plan(FailurePolicy::Halt).await;
        let journals = J::new();
        let lease = Fleeting { point: Point::new(nth), lost: Arc::default() };
        let watches = Arc::new(Watches { lease: lease.clone(), late: AtomicU32::new(0) });
        let meddle: Arc<dyn Meddle> = watches.clone();
        let components = world.components(&meddle, false).await;
        let engine = Engine::new(journals.open()).with_lease(Arc::new(lease.clone()));
        let report = engine.execute(&plan, &components, world.options()).await;
        let report = report.unwrap_or_else(|error| panic!("the run did not begin: {error:?}"));
        if lease.is_lost() {
            assert_eq!(report.outcome, Outcome::Unfinished, "{report:#?}");
            assert_eq!(
                report.error.as_ref().map(|error| error.kind),
                Some(ErrorKind::LeaseLost),
                "{report:#?}"
            );
            assert_eq!(watches.late.load(Ordering::SeqCst), 0, "a write after the loss, point {nth}");
            drop(engine);
            let (_, outcome) = world.resume(journals.open()).await;
            assert_eq!(outcome, Outcome::Completed, "resumed after point {nth}");
        } else {
            assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        }
        world.assert_older(&format!("point {nth}")).await;
        world.reset(&plan).await;
        if !lease.is_lost() {
            assert!(nth > 0, "the lease was never looked at");
            return;
        }
    }
}
