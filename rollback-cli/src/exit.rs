//! What the exit code says.

use std::process::ExitCode;

use rollback_core::{Error, ErrorKind, Outcome, RunReport};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Refused, failed or answered no, and nothing was changed; or a watched rollout did not settle.
    Unchanged = 1,
    /// Usage, configuration or connection set-up.
    Usage = 2,
    /// Changed, and wholly compensated.
    Compensated = 3,
    /// Changed, and not in a good end state.
    Changed = 4,
    /// Interrupted.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// How a run ended.
    pub(crate) fn of_run(report: &RunReport) -> Self {
        let cancelled = report.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Cancelled);
        match (report.outcome, report.changed()) {
            (Outcome::NothingToDo | Outcome::Completed, _) => Self::Done,
            (Outcome::Unfinished, _) if cancelled => Self::Interrupted,
            (Outcome::Compensated, false) => Self::Compensated,
            // Also a compensation that left out what cannot be reversed.
            (_, true) => Self::Changed,
            (_, false) => Self::Unchanged,
        }
    }
}

/// Why a command did not do what it was asked, with nothing changed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// What the error says, a line for each thing, where there are several.
    pub(crate) lines: Vec<String>,
    setup: bool,
}

impl Failure {
    /// What was typed or configured cannot be used, or the server cannot be reached at all.
    pub(crate) fn setup(error: Error) -> Self {
        Self { error, lines: Vec::new(), setup: true }
    }

    /// The same, with what it says in lines.
    pub(crate) fn in_lines(self, lines: Vec<String>) -> Self {
        Self { lines, ..self }
    }

    pub(crate) fn interrupted() -> Self {
        Error::new(ErrorKind::Cancelled, "interrupted, nothing was changed").into()
    }

    pub(crate) fn exit(&self) -> Exit {
        match self.error.kind() {
            _ if self.setup => Exit::Usage,
            ErrorKind::InvalidConfig => Exit::Usage,
            ErrorKind::Cancelled => Exit::Interrupted,
            _ => Exit::Unchanged,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, lines: Vec::new(), setup: false }
    }
}

#[cfg(test)]
mod tests {
    use rollback_core::StepOutcome;

    use super::*;
    use crate::testing;

    #[test]
    fn the_code_of_a_run_follows_from_its_outcome_and_from_what_it_changed() {
        let expect = [
            (Outcome::NothingToDo, false, Exit::Done),
            (Outcome::Completed, true, Exit::Done),
            (Outcome::Halted, false, Exit::Unchanged),
            (Outcome::Halted, true, Exit::Changed),
            (Outcome::Compensated, false, Exit::Compensated),
            (Outcome::Compensated, true, Exit::Changed),
            (Outcome::Stuck, false, Exit::Unchanged),
            (Outcome::Stuck, true, Exit::Changed),
            (Outcome::Unfinished, false, Exit::Unchanged),
            (Outcome::Unfinished, true, Exit::Changed),
            (Outcome::Abandoned, false, Exit::Unchanged),
            (Outcome::Abandoned, true, Exit::Changed),
        ];
        for (outcome, changed, exit) in expect {
            let report = testing::report(outcome, StepOutcome::Failed, changed);
            assert_eq!(Exit::of_run(&report), exit, "{outcome:?}, changed: {changed}");
        }
    }

    #[test]
    fn an_interrupted_run_is_130_whether_it_changed_anything_or_not() {
        for changed in [false, true] {
            let mut report = testing::report(Outcome::Unfinished, StepOutcome::Pending, changed);
            report.error = Some(Error::new(ErrorKind::Cancelled, "stopped").report());
            assert_eq!(Exit::of_run(&report), Exit::Interrupted);
        }
        // A signal that came too late to stop anything.
        let report = testing::report(Outcome::Completed, StepOutcome::Verified, true);
        assert_eq!(Exit::of_run(&report), Exit::Done);
    }

    #[test]
    fn a_failure_before_the_run_is_2_where_the_set_up_is_wrong_and_1_otherwise() {
        let failed = |kind| Failure::from(Error::new(kind, "x"));
        assert_eq!(failed(ErrorKind::InvalidConfig).exit(), Exit::Usage);
        assert_eq!(Failure::setup(Error::new(ErrorKind::Unavailable, "x")).exit(), Exit::Usage);
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Refused,
            ErrorKind::PermissionDenied,
            ErrorKind::Unauthenticated,
            ErrorKind::Unavailable,
            ErrorKind::InvalidPlan,
        ] {
            assert_eq!(failed(kind).exit(), Exit::Unchanged, "{kind}");
        }
        assert_eq!(Failure::interrupted().exit(), Exit::Interrupted);
    }
}
