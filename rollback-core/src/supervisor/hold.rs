//! People hold automation: it goes on to observe and to tell, and does nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::REALM;
use crate::{ComponentId, Fact, Ledger, Note, Realm, Record, Result, Timestamp};

/// Under which name the ledger keeps it.
const KEY: &str = "hold";

/// That nothing is to be done with a component by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holding {
    /// Who says so.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
}

impl Holding {
    /// What holds a component at this time, as its record says.
    pub fn of(record: &Record, now: Timestamp) -> Option<Self> {
        let holding: Self = serde_json::from_value(record.memory(KEY)?.clone()).ok()?;
        (holding.until > now).then_some(holding)
    }

    /// Notes it of a component, unless one that lasts longer is there. Repeating it changes nothing.
    ///
    /// # Errors
    /// `Journal` when the ledger cannot be read or written.
    pub async fn place(&self, ledger: &dyn Ledger, realm: &Realm, component: &ComponentId) -> Result<()> {
        let there = Self::of(&ledger.record(realm, component).await?, self.since);
        if there.is_some_and(|there| there.until >= self.until) {
            return Ok(());
        }
        self.set(ledger, realm, component).await
    }

    /// Notes it of a component, in place of what is there.
    ///
    /// # Errors
    /// `Journal` when the ledger cannot be written.
    pub async fn set(&self, ledger: &dyn Ledger, realm: &Realm, component: &ComponentId) -> Result<()> {
        let value = serde_json::to_value(self).unwrap_or_default();
        ledger.note(realm, component, vec![self.note(value)]).await
    }

    /// Ends what holds a component.
    ///
    /// # Errors
    /// `Journal` when the ledger cannot be written.
    pub async fn lift(
        ledger: &dyn Ledger,
        realm: &Realm,
        component: &ComponentId,
        (at, by): (Timestamp, &str),
    ) -> Result<()> {
        let fact = Fact::Memory { policy: KEY.to_owned(), value: Value::Null };
        ledger.note(realm, component, vec![Note { at, by: by.to_owned(), fact }]).await
    }

    fn note(&self, value: Value) -> Note {
        let fact = Fact::Memory { policy: KEY.to_owned(), value };
        Note { at: self.since, by: self.by.clone(), fact }
    }
}

/// What stands for all components together.
///
/// # Errors
/// None in fact: the name is a valid one.
pub fn everything() -> Result<(Realm, ComponentId)> {
    Ok((Realm::new(REALM), ComponentId::new("supervisor", None, "all")?))
}
