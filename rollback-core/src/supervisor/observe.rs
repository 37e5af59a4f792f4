//! Looks at components, read-only, and keeps the ledger of what was in place when, and of what was good.

use serde_json::Value;

use super::Supervisor;
use super::standing::Standing;
use crate::{ComponentId, Fact, Mark, Note, Realm, Record, Result, Revision, Timestamp, join, snapshot_of};

/// Under which name a component's record keeps what the supervisor remembers of it.
pub(super) const KEY: &str = "supervisor";

/// What the supervisor remembers of a component; of what cannot be read, nothing.
pub(super) fn standing(record: &Record) -> Standing {
    record.memory(KEY).and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
}

/// What is known of a component right now.
pub(super) struct Known {
    pub(super) realm: Realm,
    pub(super) record: Record,
    /// As the system itself tells it.
    pub(super) history: Vec<Revision>,
}

impl Known {
    pub(super) fn current(&self) -> Option<&Revision> {
        self.history.iter().find(|revision| revision.current)
    }
}

/// What one look found.
pub(super) struct Looked {
    pub(super) known: Known,
    pub(super) settled: bool,
}

impl Supervisor {
    pub(super) async fn known(&self, component: &ComponentId) -> Result<Known> {
        let component = &self.supervised(component)?.component;
        let realm = component.realm().await?;
        let (record, history) =
            futures::future::try_join(self.ledger.record(&realm, component.id()), component.history())
                .await?;
        Ok(Known { realm, record, history })
    }

    /// Looks at a component, and notes what is in place where that is new.
    pub(super) async fn look(&self, component: &ComponentId) -> Result<Looked> {
        let known = self.known(component).await?;
        let own = &self.supervised(component)?.component;
        let settled = own.status().await.is_ok_and(|status| status.is_converged());
        if let Some(current) = known.current() {
            let last = known.record.in_place().last().map(|(_, fingerprint)| fingerprint);
            if last != Some(&current.fingerprint) && !self.options.observe {
                let snapshot = snapshot_of(&**own, &current.id).await?;
                // It is in place now; when the system says so, since then.
                let at = current
                    .since
                    .filter(|since| *since <= self.clock.now())
                    .unwrap_or_else(|| self.clock.now());
                if snapshot.fingerprint == current.fingerprint {
                    self.note(&known.realm, component, vec![(at, Fact::InPlace { snapshot })]).await?;
                }
            }
        }
        Ok(Looked { known, settled })
    }

    /// Records that what is in place is good, unless somebody has called it anything already.
    pub(super) async fn mark_good(
        &self,
        component: &ComponentId,
        known: &Known,
        since: Timestamp,
    ) -> Result<()> {
        let Some(current) = known.current() else { return Ok(()) };
        let joined = join(known.history.clone(), &known.record);
        let mark = joined.iter().find(|revision| revision.current).and_then(|revision| revision.mark);
        if matches!(mark, Some(Mark::Good | Mark::Bad)) || self.options.observe {
            return Ok(());
        }
        let snapshot = snapshot_of(&*self.supervised(component)?.component, &current.id).await.ok();
        let fact = Fact::Marked {
            id: current.id.clone(),
            fingerprint: current.fingerprint.clone(),
            mark: Mark::Good,
            why: Some(format!("settled, and well by all its triggers since {since}")),
            snapshot: snapshot.filter(|snapshot| snapshot.fingerprint == current.fingerprint),
        };
        self.note(&known.realm, component, vec![(self.clock.now(), fact)]).await
    }

    pub(super) async fn note(
        &self,
        realm: &Realm,
        component: &ComponentId,
        facts: Vec<(Timestamp, Fact)>,
    ) -> Result<()> {
        if self.options.observe || facts.is_empty() {
            return Ok(());
        }
        let by = &self.options.actor;
        let notes = facts.into_iter().map(|(at, fact)| Note { at, by: by.clone(), fact }).collect();
        self.ledger.note(realm, component, notes).await
    }

    /// Remembers where a component stands.
    pub(super) async fn remember(
        &self,
        realm: &Realm,
        component: &ComponentId,
        standing: &Standing,
    ) -> Result<()> {
        let value = serde_json::to_value(standing).unwrap_or(Value::Null);
        let fact = Fact::Memory { policy: KEY.to_owned(), value };
        self.note(realm, component, vec![(self.clock.now(), fact)]).await
    }
}
