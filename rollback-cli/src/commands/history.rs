//! `rollback history`

use rollback_core::{Clock as _, Record, Rollbackable, SystemClock, join};

use crate::args::HistoryArgs;
use crate::exit::{Exit, Failure};
use crate::journal::{self, Kept};
use crate::output::{self, json, table};
use crate::parts::{Servers, Settings};
use crate::session::App;

pub(crate) async fn run(app: &App, args: HistoryArgs) -> Result<Exit, Failure> {
    let name = app.component(&args.component)?;
    // A revision is listed also where nothing says what is known of it.
    let kept = journal::known(app).await;
    let settings = kept.as_ref().map_or_else(|_| Settings::default(), |kept| Settings::knowing(&kept.ledger));
    let part = Servers::default().part(app, &name, &settings).await?;
    part.first_contact().await?;
    let component = part.component();
    let mut revisions = component.history().await?;
    match record_of(kept, &*component).await {
        Ok(record) => revisions = join(revisions, &record),
        Err(failure) => {
            let why = output::told(&failure.error.report().message);
            output::say(&format!("warning: marks are not shown: {why}"));
        }
    }
    output::result(app.global.output, &json::history(component.id(), &revisions), || {
        table::history(&revisions, SystemClock.now())
    });
    Ok(Exit::Done)
}

async fn record_of(kept: Result<Kept, Failure>, component: &dyn Rollbackable) -> Result<Record, Failure> {
    Ok(kept?.ledger.record(&component.realm().await?, component.id()).await?)
}
