//! The leases of a run.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;

use futures::future::{join_all, select_all};

use super::{Engine, RunOptions, stopped};
use crate::{BrokenLease, ComponentId, ErrorKind, Hold, LeaseRequest, Plan, Realm, Result, StepId};

/// What a run holds while it goes on.
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: Vec<Box<dyn Hold>>,
    /// What was not respected to get there.
    pub(super) broken: Vec<BrokenLease>,
}

impl Holds {
    /// Takes every component that the plan is to change, or none.
    pub(super) async fn take(engine: &Engine, plan: &Plan, options: &RunOptions) -> Result<Self> {
        let mut holds = Self::default();
        let Some(lease) = &engine.lease else { return Ok(holds) };
        let moving = plan.steps().iter().filter(|step| !step.change.is_noop());
        // Of each component the first step, which those who watch are told of.
        let moving: BTreeMap<(&Realm, &ComponentId), &StepId> =
            moving.rev().map(|step| ((&step.change.realm, &step.change.component), &step.id)).collect();
        let requests: Vec<_> = moving
            .into_iter()
            .map(|((realm, component), step)| LeaseRequest {
                realm: realm.clone(),
                component: component.clone(),
                run: options.run,
                actor: options.actor.clone(),
                break_reason: options.break_lease.clone(),
                waiting: options.progress.clone().map(|sender| super::notes_of(step, sender)),
            })
            .collect();
        // In one order, so that of two runs one gets all.
        for request in &requests {
            let answer = tokio::select! {
                biased;
                answer = holds.beside(lease.acquire(request)) => answer,
                () = options.cancellation.cancelled() => Err(stopped()),
            };
            let holder = match answer {
                Ok(hold) => {
                    let broken = hold.broken();
                    holds.held.push(hold);
                    broken
                }
                Err(error) if options.break_lease.is_some() && error.kind() != ErrorKind::Cancelled => {
                    Some(format!("not known: {}", error.report().message))
                }
                Err(error) => {
                    holds.release().await;
                    return Err(error);
                }
            };
            if let (Some(holder), Some(reason)) = (holder, &options.break_lease) {
                let (component, reason) = (request.component.clone(), reason.clone());
                holds.broken.push(BrokenLease { component, holder, reason });
            }
        }
        Ok(holds)
    }

    /// Does something, and renews meanwhile.
    pub(super) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.keep() => {}
        }
        // What is lost shows at the next look.
        work.await
    }

    /// Whether all of them are still held.
    pub(super) fn check(&self) -> Result<()> {
        self.held.iter().try_for_each(|hold| hold.check())
    }

    /// Renews them while it is polled, and ends once one is lost.
    pub(super) async fn keep(&self) {
        match self.held.as_slice() {
            [] => pending().await,
            held => drop(select_all(held.iter().map(|hold| hold.keep())).await),
        }
    }

    pub(super) async fn release(self) {
        join_all(self.held.iter().map(|hold| hold.release())).await;
    }
}
