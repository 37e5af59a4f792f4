//! Writing to an object only while it is what was read.

use rollback_core::{Change, Disposition, Error, ErrorKind, Position, Result, StepContext};
use serde_json::Value;

use crate::cluster::MANAGER;
use crate::left::left_entries;
use crate::{Cluster, json, ownership};

/// How often a patch whose guard failed is tried again on what was read since.
const GUARDED_ATTEMPTS: u32 = 5;

impl Cluster {
    /// Makes a change of the object at a path by JSON Patches that fail on anything other than what was read: from
    /// the live object, `position` says where it stands and `operations` what is to be written, with the tests that
    /// guard it. `what` says what is written, for people.
    ///
    /// # Errors
    /// `Conflict` when it is another object or stands elsewhere, with nothing written; what `position` says; and
    /// what the server answers.
    pub async fn patch_guarded(
        &self,
        cx: &StepContext,
        change: &Change,
        (path, what): (&str, &str),
        position: impl Fn(&Value) -> Result<Position>,
        operations: impl Fn(&Value) -> Vec<Value>,
    ) -> Result<()> {
        let mut rejected = None;
        for _ in 0..GUARDED_ATTEMPTS {
            let live = self.get(path, &format!("reading {}", change.component)).await?;
            refuse_another(change, &live)?;
            match position(&live)? {
                Position::To => return Ok(()),
                Position::Elsewhere(what) => return Err(conflict(&live, &what)),
                Position::From | Position::Between => {}
            }
            let seen = Some((json::generation(&live), live.pointer("/metadata/annotations").cloned()));
            if let Some((before, error)) = rejected
                && before == seen
            {
                // The same content was refused twice, so it is not the guard that the server minds.
                return Err(error);
            }
            match self.send_patch(cx, path, operations(&live), what).await {
                Err(e) if is_rejected(&e) => rejected = Some((seen, e)),
                other => return other,
            }
        }
        Err(Error::new(ErrorKind::Conflict, "it keeps changing while the patch is made")
            .with_hint("see who writes to it")
            .temporary(None))
    }

    /// Sends one announced patch, unless there is nothing to write.
    pub(crate) async fn send_patch(
        &self,
        cx: &StepContext,
        path: &str,
        operations: Vec<Value>,
        what: &str,
    ) -> Result<()> {
        if operations.is_empty() {
            return Ok(());
        }
        cx.before_write(what).await?;
        match self.json_patch(path, &Value::Array(operations), what).await {
            Ok(_) => Ok(()),
            Err(e) => {
                if e.disposition() != Disposition::Indeterminate {
                    cx.write_rejected();
                }
                Err(e)
            }
        }
    }
}

/// Refuses an object that is being deleted.
///
/// # Errors
/// `Refused`, with since when.
pub fn refuse_dying(live: &Value) -> Result<()> {
    let Some(since) = json::text(live, "/metadata/deletionTimestamp") else { return Ok(()) };
    Err(Error::new(ErrorKind::Refused, format!("it is being deleted since {since}"))
        .with_hint("wait until it is gone, then create it again"))
}

/// Refuses an object that is not the one of the plan.
///
/// # Errors
/// `Conflict`, with its UID.
pub fn refuse_another(change: &Change, live: &Value) -> Result<()> {
    if change.identity.as_deref() == Some(json::uid(live)) {
        return Ok(());
    }
    let message = format!("it was replaced by another object of the same name, UID {}", json::uid(live));
    Err(Error::new(ErrorKind::Conflict, message).with_hint("plan again"))
}

/// Whether the server may have refused the patch because of its guard: the answer does not tell.
pub(crate) fn is_rejected(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict
        || error.context().any(|(key, value)| key == "status" && value == "422")
}

/// That an object is not what the plan began from: what differs, and who wrote it last.
pub fn conflict(live: &Value, what: &str) -> Error {
    let who = ownership::last_writer(live).map(|(at, manager)| {
        // Another run of this library says more of itself.
        let run = left_entries(live).into_iter().next();
        let run = run.filter(|_| manager == MANAGER);
        let run = run.and_then(|entry| Some(format!(" (run {} by {})", entry.run?, entry.by?)));
        format!(", last written by {manager}{} at {at}", run.unwrap_or_default())
    });
    let message = format!("changed since it was planned: {what}{}", who.unwrap_or_default());
    Error::new(ErrorKind::Conflict, message).with_hint("see what changed, then plan again")
}
