//! Results for people.

use std::time::Duration;

use comfy_table::{Table, presets};
use rollback_core::{
    ChangeKind, Mark, Plan, Revision, RunReport, RunSummary, Step, StepOutcome, StepReport, Timestamp,
    Verification, VerificationState,
};

use super::{diff, mask, plain, told};

pub(crate) fn history(revisions: &[Revision], now: Timestamp) -> String {
    let mut rows = Vec::new();
    for revision in revisions {
        let created = revision.created.map(|at| ago(at, now));
        rows.push([
            revision.id.clone(),
            if revision.current { "*" } else { "" }.to_owned(),
            created.unwrap_or_else(|| "<unknown>".into()),
            revision.mark.as_ref().map(Mark::to_string).unwrap_or_default(),
            revision.cause.as_deref().map_or_else(|| "<none>".into(), |cause| plain(&mask::text(cause))),
            plain(&revision.summary),
        ]);
    }
    columns(["REVISION", "CURRENT", "CREATED", "MARK", "CHANGE-CAUSE", "RUNS"], rows)
}

/// Which runs there are.
pub(crate) fn runs(runs: &[RunSummary], now: Timestamp) -> String {
    let row = |run: &RunSummary| {
        let components: Vec<_> = run.components.iter().map(ToString::to_string).collect();
        [
            run.run.to_string(),
            format!("{:?}", run.outcome),
            ago(run.started_at, now),
            run.finished_at.map(|at| age(at.since(run.started_at))).unwrap_or_default(),
            components.join(", "),
        ]
    };
    columns(["RUN", "OUTCOME", "STARTED", "TOOK", "COMPONENTS"], runs.iter().map(row))
}

/// A run that was: what, by whom and why, and how each of its steps went.
pub(crate) fn show(plan: &Plan, report: &RunReport, now: Timestamp) -> String {
    let mut head = vec![
        format!("run      {}", report.run),
        format!("outcome  {:?}", report.outcome),
        format!("actor    {}", plain(&report.actor)),
    ];
    head.extend(report.reason.iter().map(|reason| format!("reason   {}", plain(reason))));
    head.extend(report.broken_leases.iter().map(|broken| {
        let (component, holder) = (&broken.component, plain(&broken.holder));
        format!("broke    the lease of {component} ({holder}): {}", plain(&broken.reason))
    }));
    head.push(format!("started  {}", ago(report.started_at, now)));
    head.extend(report.finished_at.map(|at| format!("took     {}", age(at.since(report.started_at)))));
    head.push(format!("plan     {}", report.plan));
    head.join("\n") + "\n" + &run(plan, report)
}

pub(crate) fn columns<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// When something was, as seen from now.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", age(now.since(at)))
}

/// When something will be, as seen from now.
pub(crate) fn ahead(at: Timestamp, now: Timestamp) -> String {
    format!("in {}", age(at.since(now)))
}

/// A time span as kubectl writes it: its leading unit.
fn age(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

pub(crate) fn plan(plan: &Plan, colored: bool) -> String {
    let mut lines = Vec::new();
    for step in plan.steps() {
        lines.push(heading(step));
        let change = &step.change;
        if !change.is_noop() && change.from.summary != change.to.summary {
            lines.push(format!("    {} → {}", plain(&change.from.summary), plain(&change.to.summary)));
        }
        for field in &change.diff {
            lines.extend(diff::lines(field, colored).into_iter().map(|line| format!("    {line}")));
        }
        lines.extend(change.warnings.iter().map(|warning| format!("    warning: {}", plain(warning))));
    }
    lines.push(format!("plan {}", plan.digest()));
    lines.join("\n") + "\n"
}

fn heading(step: &Step) -> String {
    let change = &step.change;
    let (component, from, to) = (&change.component, &change.from.id, &change.to.id);
    if change.is_noop() {
        return nothing_to_do(step);
    }
    let order = match step.after.as_slice() {
        [] => String::new(),
        after => {
            let names: Vec<_> = after.iter().map(rollback_core::StepId::as_str).collect();
            format!(", after {}", names.join(", "))
        }
    };
    match change.kind {
        ChangeKind::Rollback => format!("{component}: revision {from} → {to}{order}"),
        ChangeKind::Restart => format!("{component}: restart ({from} → {to}){order}"),
    }
}

fn nothing_to_do(step: &Step) -> String {
    let (component, to) = (&step.change.component, &step.change.to.id);
    match step.change.kind {
        ChangeKind::Rollback => format!("nothing to do: {component} is at revision {to} already"),
        ChangeKind::Restart => format!("nothing to do: no pod of {component} is to be restarted"),
    }
}

/// What the server's dry run accepted.
pub(crate) fn dry_run(plan: &Plan) -> String {
    // What takes several changes was checked as the one that they amount to.
    let ends = plan.steps().iter().filter(|step| !step.change.passage.to_between);
    ends.fold(String::new(), |text, step| {
        let (component, change) = (&step.change.component, &step.change);
        let from =
            plan.changes_of(component).find(|first| !first.passage.from_between).map(|first| &first.from.id);
        let from = from.filter(|_| change.passage.from_between).unwrap_or(&change.from.id);
        let line = if change.is_noop() {
            nothing_to_do(step)
        } else {
            format!("{component} rolled back ({from} → {}) (server dry run)", change.to.id)
        };
        text + &line + "\n"
    })
}

/// How each step of a run went.
pub(crate) fn run(plan: &Plan, report: &RunReport) -> String {
    let mut text = String::new();
    for (planned, step) in
        report.steps.iter().filter_map(|step| Some((plan.steps().iter().find(|p| p.id == step.id)?, step)))
    {
        text.push_str(&went(planned, step));
        text.push('\n');
        text.push_str(&notes(&step.notes));
    }
    text
}

fn went(planned: &Step, step: &StepReport) -> String {
    let StepReport { component, from, to, .. } = step;
    let is_restart = planned.change.kind == ChangeKind::Restart;
    let (done, moved) = if is_restart {
        ("restarted", String::new())
    } else {
        let done = if planned.change.passage.to_between { "on the way" } else { "rolled back" };
        (done, format!(" ({from} → {to})"))
    };
    match step.outcome {
        StepOutcome::NothingToDo => nothing_to_do(planned),
        StepOutcome::Verified => format!("{component} {done}{moved}"),
        StepOutcome::Applied => format!("{component} {done}{moved}, and not seen to settle"),
        StepOutcome::Refused => format!("{component} refused, nothing was changed"),
        StepOutcome::Failed => format!("{component} failed{moved}"),
        StepOutcome::Skipped => format!("{component} skipped"),
        StepOutcome::Compensated => {
            format!("{component} failed or followed a failure, and is back at {from}")
        }
        StepOutcome::CompensationFailed => {
            format!("{component} failed{moved}, and so did going back to {from}")
        }
        StepOutcome::Pending if step.changed => format!("{component} was interrupted half-way{moved}"),
        StepOutcome::Pending => format!("{component} was not begun"),
    }
}

pub(crate) fn status(seen: &Verification) -> String {
    let message = told(&seen.message);
    let mut text = match seen.state {
        VerificationState::Failed => format!("failed: {message}\n"),
        VerificationState::Converged | VerificationState::Progressing => format!("{message}\n"),
    };
    text.push_str(&notes(&seen.notes));
    text
}

fn notes(notes: &[String]) -> String {
    notes.iter().fold(String::new(), |text, note| text + "    " + &plain(note) + "\n")
}

#[cfg(test)]
mod tests {
    use rollback_core::{Fingerprint, Outcome};
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn a_history_reads_like_kubectls() {
        let revision = |id: &str, current, created| Revision {
            id: id.into(),
            fingerprint: Fingerprint::of(&json!(id)),
            current,
            created,
            since: None,
            cause: None,
            mark: (!current).then_some(Mark::Left),
            summary: format!("web:{id}"),
        };
        let revisions = [revision("5", true, Some(testing::at(0))), revision("4", false, None)];
        assert_eq!(
            history(&revisions, testing::at(7200)),
            "REVISION  CURRENT  CREATED    MARK  CHANGE-CAUSE  RUNS\n\
             5         *        2h ago           <none>        web:5\n\
             4                  <unknown>  left  <none>        web:4\n"
        );
    }

    #[test]
    fn the_runs_are_a_table() {
        let summary = |outcome, finished_at| RunSummary {
            run: testing::RUN.parse().unwrap(),
            outcome,
            started_at: testing::at(0),
            finished_at,
            components: vec![testing::component()],
        };
        let all = [summary(Outcome::Unfinished, None), summary(Outcome::Completed, Some(testing::at(61)))];
        assert_eq!(
            runs(&all, testing::at(7200)),
            "RUN                                   OUTCOME     STARTED  TOOK  COMPONENTS\n\
             01900000-0000-7000-8000-000000000000  Unfinished  2h ago         deployment/shop/web\n\
             01900000-0000-7000-8000-000000000000  Completed   2h ago   61s   deployment/shop/web\n"
        );
    }

    #[test]
    fn a_run_that_was_says_by_whom_and_why() {
        let mut report = testing::report(Outcome::Completed, StepOutcome::Verified, true);
        report.reason = Some("too slow".into());
        let text = show(&testing::plan(), &report, testing::at(7200));
        for line in ["outcome  Completed", "actor    me", "reason   too slow", "took     61s"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.ends_with("deployment/shop/web rolled back (5 → 4)\n"), "{text}");
    }

    #[test]
    fn an_age_has_one_unit() {
        let text = |seconds| age(Duration::from_secs(seconds));
        assert_eq!([5, 119, 120, 7199, 7200, 200_000].map(text), ["5s", "119s", "2m", "119m", "2h", "2d"]);
    }

    #[test]
    fn a_plan_shows_every_change_and_no_secret() {
        let plan = testing::plan();
        assert_eq!(
            super::plan(&plan, false),
            format!(
                "deployment/shop/web: revision 5 → 4\n    \
                 web:5 → web:4\n    \
                 ~ /spec/template/spec/containers/web/image: web:5 → web:4\n    \
                 - /spec/template/spec/containers/web/env/DB_PASSWORD/value: ***\n    \
                 warning: mind the gap\n\
                 plan {}\n",
                plan.digest()
            )
        );
    }

    #[test]
    fn nothing_to_do_is_said() {
        let plan = testing::plan_of(testing::change("4", "4"));
        assert!(
            super::plan(&plan, false)
                .starts_with("nothing to do: deployment/shop/web is at revision 4 already\n")
        );
    }

    #[test]
    fn a_run_is_told_in_kubectls_words() {
        let told =
            |outcome, changed| run(&testing::plan(), &testing::report(Outcome::Completed, outcome, changed));
        assert_eq!(told(StepOutcome::Verified, true), "deployment/shop/web rolled back (5 → 4)\n");
        assert_eq!(told(StepOutcome::Pending, false), "deployment/shop/web was not begun\n");
        assert_eq!(
            told(StepOutcome::Pending, true),
            "deployment/shop/web was interrupted half-way (5 → 4)\n"
        );
    }

    #[test]
    fn a_restart_is_no_rollback() {
        let mut change = testing::change("2 not ready", "replaced");
        change.kind = ChangeKind::Restart;
        let plan = testing::plan_of(change);
        assert!(
            super::plan(&plan, false).starts_with("deployment/shop/web: restart (2 not ready → replaced)")
        );
        let report = testing::report(Outcome::Completed, StepOutcome::Verified, true);
        assert_eq!(run(&plan, &report), "deployment/shop/web restarted\n");
    }
}
