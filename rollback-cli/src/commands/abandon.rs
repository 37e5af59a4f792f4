//! `rollback abandon`

use rollback_core::Engine;

use super::carry_out;
use super::next::Way;
use crate::aftermath::Aftermath;
use crate::args::AbandonArgs;
use crate::exit::{Exit, Failure};
use crate::session::App;
use crate::{journal, output, place};

pub(crate) async fn run(app: &App, args: AbandonArgs) -> Result<Exit, Failure> {
    let kept = journal::existing(app).await?;
    let (run, state) = kept.find(&args.run).await?;
    let report = Engine::new(kept.journal.clone()).abandon(run, &args.reason).await?;
    if !app.global.quiet {
        output::say(&format!("run {run} is closed as it stands"));
    }
    let way = Way::kept(app, &kept, place::undo_flags(&state.locators));
    carry_out::tell(app, &state.plan, &report, &way);
    Aftermath::new(app, &kept, args.no_notify).ended(&state.plan, &report).await;
    Ok(Exit::Done)
}
