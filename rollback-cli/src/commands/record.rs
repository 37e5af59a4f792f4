//! `rollback record`

use rollback_core::{Clock as _, Error, ErrorKind, Fact, Note, SystemClock, snapshot_of};
use serde_json::json;

use super::mark::reading;
use crate::args::RecordArgs;
use crate::exit::{Exit, Failure};
use crate::parts::{Part, Servers};
use crate::session::{self, App};
use crate::{journal, output};

pub(crate) async fn run(app: &App, args: RecordArgs) -> Result<Exit, Failure> {
    let name = app.component(&args.component)?;
    let kept = journal::lasting(app).await?;
    let part = Servers::default().part(app, &name, &reading(&kept)).await?;
    part.first_contact().await?;
    let component = part.component();
    let (id, realm) = (component.id(), component.realm().await?);
    let history = component.history().await?;
    let current = history
        .iter()
        .find(|revision| revision.current)
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "no revision is in place").with_component(id))?;
    if matches!(part, Part::Service(_)) && current.id == "unrecorded" {
        return Err(Error::new(ErrorKind::Refused, "KServe has not taken up the spec that is live")
            .with_component(id)
            .with_hint("record it once it serves: rollback status --watch")
            .into());
    }
    let snapshot = snapshot_of(&*component, &current.id).await?;
    let at = current.since.unwrap_or_else(|| SystemClock.now());
    let note = Note { at, by: session::actor(), fact: Fact::InPlace { snapshot } };
    kept.ledger.note(&realm, id, vec![note]).await?;
    let value = json!({"component": id.to_string(), "revision": current.id});
    output::result(app.global.output, &value, || format!("{id}: revision {} is recorded\n", current.id));
    Ok(Exit::Done)
}
