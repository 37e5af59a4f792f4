//! What a run does, as it happens, on stderr.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rollback_core::{ChangeKind, Event, Plan, Progress, Step, StepEvent, StepId};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::{json, say, told};

const STOPPING: &str =
    "stopping: a write in flight is finished first; once more, and it stops at once wherever it is";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Not at all.
    Quiet,
    /// One line for each thing that happens.
    Lines,
    /// One line for each step under way, kept up to date.
    Live,
}

impl Mode {
    pub(crate) fn choose(quiet: bool, is_terminal: bool) -> Self {
        match (quiet, is_terminal) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Live,
            (false, false) => Self::Lines,
        }
    }
}

/// Shows progress until the run has ended; with `record` also every event as a line of JSON, where nothing
/// else keeps it.
pub(crate) async fn show(
    mut events: UnboundedReceiver<Progress>,
    plan: &Plan,
    mode: Mode,
    stop: &CancellationToken,
    record: bool,
) {
    let mut screen = Screen::new(mode);
    let mut stopping = false;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    if let (true, Progress::Recorded(entry)) = (record, &event) {
                        screen.say(&json::entry(entry).to_string());
                    }
                    if let Some((step, news)) = news(&event, plan) {
                        screen.tell(step, &news);
                    }
                }
                None => return,
            },
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                screen.say(STOPPING);
            }
        }
    }
}

/// What there is to tell of a step.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It is under way.
    Doing(String),
    /// It came to an end.
    Ended(String),
}

fn news<'a>(event: &Progress, plan: &'a Plan) -> Option<(&'a Step, News)> {
    let find = |id: &StepId| plan.steps().iter().find(|step| step.id == *id);
    match event {
        Progress::Note { step, text } => Some((find(step)?, News::Doing(told(&awaited(text))))),
        Progress::Recorded(entry) => match &entry.event {
            Event::Step { step, event } => {
                let step = find(step)?;
                Some((step, of_step(event, step)))
            }
            Event::LeaseBroken(broken) => {
                let step = plan.steps().iter().find(|step| step.change.component == broken.component)?;
                Some((step, News::Doing(format!("its lease is broken: {}", told(&broken.holder)))))
            }
            Event::RunStarted { .. }
            | Event::RunResumed { .. }
            | Event::RunFinished { .. }
            | Event::Judged(_) => None,
        },
    }
}

/// What is waited for, without what the line says already: kubectl's words name the component once more.
fn awaited(text: &str) -> Cow<'_, str> {
    match text.split_once(" rollout to finish: ") {
        Some((kubectl, rest)) if kubectl.starts_with("Waiting for ") => format!("waiting: {rest}").into(),
        _ => text.into(),
    }
}

fn of_step(event: &StepEvent, step: &Step) -> News {
    let (from, to) = (&step.change.from.id, &step.change.to.id);
    let begins = match step.change.kind {
        ChangeKind::Rollback => format!("returning to revision {to}"),
        ChangeKind::Restart => "restarting".to_owned(),
    };
    match event {
        StepEvent::Started { attempt: 0 | 1 } => News::Doing(begins),
        StepEvent::Started { attempt } => News::Doing(format!("{begins}, attempt {attempt}")),
        StepEvent::Applied => News::Doing("changed, waiting for it to settle".into()),
        StepEvent::CompensationStarted { .. } => News::Doing(format!("going back to {from}")),
        StepEvent::NothingToDo => News::Ended("nothing to do".into()),
        StepEvent::Verified { message, .. } => News::Ended(format!("done: {}", told(message))),
        StepEvent::Refused { error } => News::Ended(format!("refused: {}", told(&error.message))),
        StepEvent::Failed { error } => News::Ended(format!("failed: {}", told(&error.message))),
        StepEvent::Skipped => News::Ended("skipped".into()),
        StepEvent::Compensated { .. } => News::Ended(format!("back at {from}")),
        StepEvent::CompensationFailed { error } => {
            News::Ended(format!("cannot go back to {from}: {}", told(&error.message)))
        }
    }
}

enum Screen {
    Quiet,
    /// With what was told last of each step: what is said over and over is told once.
    Lines(BTreeMap<StepId, String>),
    Live {
        all: MultiProgress,
        bars: BTreeMap<StepId, ProgressBar>,
        style: ProgressStyle,
    },
}

impl Screen {
    fn new(mode: Mode) -> Self {
        match mode {
            Mode::Quiet => Self::Quiet,
            Mode::Lines => Self::Lines(BTreeMap::new()),
            Mode::Live => Self::Live {
                all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
                bars: BTreeMap::new(),
                style: ProgressStyle::with_template("{spinner} {prefix} {elapsed:>4} {wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            },
        }
    }

    fn tell(&mut self, step: &Step, news: &News) {
        let component = step.change.component.to_string();
        let (News::Doing(text) | News::Ended(text)) = news;
        match self {
            Self::Quiet => {}
            Self::Lines(last) => {
                if last.insert(step.id.clone(), text.clone()).as_ref() != Some(text) {
                    say(&format!("{component}: {text}"));
                }
            }
            Self::Live { all, bars, style } => match news {
                News::Doing(_) => {
                    let bar = bars.entry(step.id.clone()).or_insert_with(|| {
                        let bar = all.add(ProgressBar::new_spinner());
                        bar.set_style(style.clone());
                        bar.set_prefix(component);
                        bar.enable_steady_tick(Duration::from_millis(200));
                        bar
                    });
                    bar.set_message(text.clone());
                }
                News::Ended(_) => {
                    let took = bars.remove(&step.id).map(|bar| {
                        bar.finish_and_clear();
                        format!(" after {}s", bar.elapsed().as_secs())
                    });
                    let _ = all.println(format!("{component}{}: {text}", took.unwrap_or_default()));
                }
            },
        }
    }

    fn say(&self, text: &str) {
        match self {
            Self::Quiet | Self::Lines(_) => say(text),
            Self::Live { all, .. } => {
                let _ = all.println(text);
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Self::Live { bars, .. } = self {
            bars.values().for_each(ProgressBar::finish_and_clear);
        }
    }
}

#[cfg(test)]
mod tests {
    use rollback_core::{Entry, Error, ErrorKind, Outcome};

    use super::*;
    use crate::testing;

    fn recorded(event: StepEvent) -> Option<News> {
        let event = Event::Step { step: StepId::new("web"), event };
        let event = Progress::Recorded(Entry { at: testing::at(0), event });
        news(&event, &testing::plan()).map(|(_, news)| news)
    }

    #[test]
    fn every_stage_of_a_step_is_told() {
        let error = Error::new(ErrorKind::Refused, "it is paused").report();
        let doing = |text: &str| Some(News::Doing(text.into()));
        let ended = |text: &str| Some(News::Ended(text.into()));
        assert_eq!(recorded(StepEvent::Started { attempt: 1 }), doing("returning to revision 4"));
        assert_eq!(recorded(StepEvent::Started { attempt: 2 }), doing("returning to revision 4, attempt 2"));
        assert_eq!(recorded(StepEvent::Refused { error }), ended("refused: it is paused"));
        assert_eq!(recorded(StepEvent::Compensated { message: "x".into() }), ended("back at 5"));
    }

    #[test]
    fn the_end_of_the_run_is_told_by_its_result() {
        let event = Event::RunFinished { outcome: Outcome::Completed, reason: None };
        let event = Progress::Recorded(Entry { at: testing::at(0), event });
        assert_eq!(news(&event, &testing::plan()), None);
    }

    #[test]
    fn a_terminal_gets_live_lines_and_a_log_plain_ones() {
        assert_eq!(Mode::choose(false, true), Mode::Live);
        assert_eq!(Mode::choose(false, false), Mode::Lines);
        assert_eq!(Mode::choose(true, true), Mode::Quiet);
    }
}
