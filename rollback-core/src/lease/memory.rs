//! Leases of one process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Hold, Lease, LeaseRequest, LeaseTerm};
use crate::{ComponentId, Error, ErrorKind, Realm, Result, RunId};

/// Leases that live and die with the process, expire, and are taken over: for tests.
#[derive(Clone, Debug)]
pub struct MemoryLease {
    length: Duration,
    held: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    rows: BTreeMap<Key, Row>,
}

type Key = (Realm, ComponentId);

#[derive(Debug)]
struct Row {
    run: RunId,
    holder: String,
    token: u64,
    ends: Instant,
}

impl MemoryLease {
    /// Leases that expire after this long, of which their holders count on two thirds.
    pub fn new(length: Duration) -> Self {
        Self { length, held: Arc::default() }
    }

    /// Takes a component away from its holder, as the operator of the system could.
    pub fn take_away(&self, realm: &Realm, component: &ComponentId) {
        table(&self.held).rows.remove(&(realm.clone(), component.clone()));
    }

    /// The run that has a component.
    pub fn holder(&self, realm: &Realm, component: &ComponentId) -> Option<RunId> {
        let table = table(&self.held);
        let row = table.rows.get(&(realm.clone(), component.clone()))?;
        (Instant::now() < row.ends).then_some(row.run)
    }
}

fn table(held: &Mutex<Table>) -> MutexGuard<'_, Table> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Lease for MemoryLease {
    async fn acquire(&self, request: &LeaseRequest) -> Result<Box<dyn Hold>> {
        // As asking a server does.
        tokio::task::yield_now().await;
        let key = (request.realm.clone(), request.component.clone());
        let now = Instant::now();
        let mut table = table(&self.held);
        let mut broken = None;
        if let Some(row) = table.rows.get(&key)
            && row.run != request.run
            && now < row.ends
        {
            if request.break_reason.is_none() {
                return Err(request.refused(&row.holder));
            }
            broken = Some(row.holder.clone());
        }
        table.next += 1;
        let token = table.next;
        let row = Row { run: request.run, holder: request.holder(), token, ends: now + self.length };
        table.rows.insert(key.clone(), row);
        Ok(Box::new(Held {
            term: LeaseTerm::new(&request.component, now, self.length * 2 / 3),
            lease: self.clone(),
            key,
            token,
            broken,
        }))
    }
}

#[derive(Debug)]
struct Held {
    lease: MemoryLease,
    key: Key,
    token: u64,
    term: LeaseTerm,
    broken: Option<String>,
}

#[async_trait]
impl Hold for Held {
    fn check(&self) -> Result<()> {
        self.term.check()
    }

    async fn keep(&self) -> Error {
        self.term
            .keep(async || {
                let mut table = table(&self.lease.held);
                match table.rows.get_mut(&self.key).filter(|row| row.token == self.token) {
                    Some(row) => {
                        row.ends = Instant::now() + self.lease.length;
                        Ok(())
                    }
                    None => Err(Error::new(ErrorKind::LeaseLost, "another holder has taken it")),
                }
            })
            .await
    }

    fn broken(&self) -> Option<String> {
        self.broken.clone()
    }

    async fn release(&self) {
        let mut table = table(&self.lease.held);
        if table.rows.get(&self.key).is_some_and(|row| row.token == self.token) {
            table.rows.remove(&self.key);
        }
    }
}
