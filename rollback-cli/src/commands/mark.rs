//! `rollback mark`

use rollback_core::{Clock as _, Error, ErrorKind, Fact, Mark, Note, SystemClock, join, snapshot_of};
use rollback_k8s::GitOps;
use rollback_mlflow::ArtifactCheck;
use serde_json::json;

use crate::args::MarkArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::output;
use crate::parts::{Servers, Settings};
use crate::session::{self, App};

pub(crate) async fn run(app: &App, args: MarkArgs) -> Result<Exit, Failure> {
    let name = app.component(std::slice::from_ref(&args.component))?;
    let kept = journal::lasting(app).await?;
    let part = Servers::default().part(app, &name, &reading(&kept)).await?;
    part.first_contact().await?;
    let component = part.component();
    let (id, realm) = (component.id(), component.realm().await?);
    let record = kept.ledger.record(&realm, id).await?;
    let revisions = join(component.history().await?, &record);
    let Some(revision) = revisions.iter().find(|revision| revision.id == args.revision) else {
        let known: Vec<_> = revisions.iter().map(|revision| revision.id.as_str()).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("it has no revision {}", args.revision))
            .with_component(id)
            .with_hint(format!("the revisions known are: {}", known.join(", ")))
            .into());
    };
    let mark = Mark::from(args.mark);
    let fact = Fact::Marked {
        id: revision.id.clone(),
        fingerprint: revision.fingerprint.clone(),
        mark,
        why: args.reason,
        // One that the cluster has forgotten is in the ledger already, or lost.
        snapshot: snapshot_of(&*component, &revision.id).await.ok(),
    };
    let note = Note { at: SystemClock.now(), by: session::actor(), fact };
    kept.ledger.note(&realm, id, vec![note]).await?;
    let value = json!({"component": id.to_string(), "revision": revision.id, "mark": mark});
    output::result(app.global.output, &value, || {
        format!("{id}: revision {} is marked {mark}\n", revision.id)
    });
    Ok(Exit::Done)
}

/// A state is taken down whatever stands in the way of returning to it now.
pub(super) fn reading(kept: &Kept) -> Settings {
    let mut settings = Settings { artifact_check: ArtifactCheck::Skip, ..Settings::knowing(&kept.ledger) };
    settings.reads_only = true;
    settings.workload.force = true;
    settings.workload.gitops = GitOps::Ignore;
    settings
}
