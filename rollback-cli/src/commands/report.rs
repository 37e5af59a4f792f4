//! `rollback report`

use std::time::Duration;

use rollback_core::incident::{collect, html, markdown};
use rollback_core::{Clock as _, Error, ErrorKind, SystemClock};
use serde_json::json;

use crate::args::{Format, ReportArgs, ReportFormat};
use crate::exit::{Exit, Failure};
use crate::runbook::Runbook;
use crate::session::App;
use crate::{journal, output};

const DUE: Duration = Duration::from_secs(48 * 3600);

pub(crate) async fn run(app: &App, args: ReportArgs) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let (run, _) = kept.find(&args.run).await?;
    let incidents = app.runbook.as_ref().and_then(Runbook::incidents);
    let due = incidents.and_then(|incidents| incidents.due).unwrap_or(DUE);
    let incident = collect(&*kept.journal, &*kept.ledger, run, SystemClock.now(), due).await?;
    let format = match (args.format, app.global.output) {
        (Some(format), _) => format,
        (None, Format::Json | Format::Yaml) => ReportFormat::Json,
        (None, Format::Table) => ReportFormat::Markdown,
    };
    match format {
        ReportFormat::Markdown => output::print(&markdown(&incident, None)?),
        ReportFormat::Html => output::print(&html(&incident)?),
        ReportFormat::Json => {
            let value = serde_json::to_value(&incident).map_err(|e| {
                Error::new(ErrorKind::Unexpected, "the incident cannot be encoded").with_source(e)
            })?;
            // Asked for as a format of the report, it is JSON whatever the output is.
            let format = if args.format.is_some() { Format::Json } else { app.global.output };
            output::result(format, &json!(value), String::new);
        }
    }
    Ok(Exit::Done)
}
