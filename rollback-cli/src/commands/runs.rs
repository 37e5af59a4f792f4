//! `rollback runs`

use rollback_core::{Clock as _, SystemClock};

use crate::exit::{Exit, Failure};
use crate::journal;
use crate::output::{self, json, table};
use crate::session::App;

pub(crate) async fn run(app: &App) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let runs = kept.journal.runs().await?;
    output::result(app.global.output, &json::runs(&runs), || table::runs(&runs, SystemClock.now()));
    Ok(Exit::Done)
}
