//! `rollback show`

use rollback_core::{Clock as _, RunReport, SystemClock};

use super::next::{self, Way};
use crate::args::ShowArgs;
use crate::exit::{Exit, Failure};
use crate::output::{self, json, table};
use crate::session::App;
use crate::{journal, place};

pub(crate) async fn run(app: &App, args: ShowArgs) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let (run, state) = kept.find(&args.run).await?;
    let report = RunReport::new(run, &state);
    let next =
        next::commands(&state.plan, &report, &Way::kept(app, &kept, place::undo_flags(&state.locators)));
    output::result(app.global.output, &json::run(&report, &next), || {
        table::show(&state.plan, &report, SystemClock.now()) + &next::listed(&next)
    });
    Ok(Exit::Done)
}
