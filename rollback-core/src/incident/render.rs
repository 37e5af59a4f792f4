//! From the data to text: one view for both templates, so that they say the same.

use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Value, json};

use super::chart::{Shape, draw};
use super::escape;
use super::{Incident, Moment, Moved};
use crate::{Error, ErrorKind, Result, Timestamp};

const TEMPLATES: [(&str, &str); 3] = [
    ("report.md", include_str!("report.md.jinja")),
    ("report.html", include_str!("report.html.jinja")),
    ("chart.svg", include_str!("chart.svg.jinja")),
];

/// More of them tell nobody anything.
const MOST_INSTANCES: usize = 20;
const MOST_MOVES: usize = 3;

/// The report as Markdown, with an image of the file at the relative path `chart_file`.
///
/// # Errors
/// None that an incident can cause.
pub fn markdown(incident: &Incident, chart_file: Option<&str>) -> Result<String> {
    let mut view = view(incident);
    put(&mut view, "chart", json!(chart_file));
    render(&environment()?, "report.md", view)
}

/// The report as one HTML file that needs nothing else, with the chart in it.
///
/// # Errors
/// None that an incident can cause.
pub fn html(incident: &Incident) -> Result<String> {
    let mut view = view(incident);
    put(&mut view, "wideChart", json!(draw(incident, Shape::Wide)?));
    put(&mut view, "narrowChart", json!(draw(incident, Shape::Narrow)?));
    render(&environment()?, "report.html", view)
}

pub(super) fn render(environment: &Environment<'_>, name: &str, view: Value) -> Result<String> {
    environment.get_template(name).and_then(|template| template.render(Serde(view))).map_err(broken)
}

pub(super) fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()
            .map_err(broken)?,
    );
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|name| match name {
        "report.md" => AutoEscape::None,
        _ => AutoEscape::Html,
    });
    environment.add_filter("md", |text: &str| escape::md(text));
    environment.add_filter("code", |text: &str| escape::code(text));
    environment.add_filter("fence", |text: &str, language: &str| escape::fence(text, language));
    environment.add_filter("target", |path: &str| escape::target(path));
    environment.add_filter("words", |name: &str| words(name));
    environment.add_filter("tone", |name: &str| tone(name));
    for (name, source) in TEMPLATES {
        environment.add_template(name, source).map_err(broken)?;
    }
    Ok(environment)
}

fn broken(error: minijinja::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the report cannot be rendered").with_source(error)
}

/// What the templates show. Every text in it is tame; none is escaped.
fn view(incident: &Incident) -> Value {
    let mut view = json!({
        "run": incident.run,
        "title": incident.title,
        "outcome": incident.outcome,
        "automatic": incident.automatic,
        "verdict": incident.recovery.as_ref().map(|recovery| &recovery.verdict),
        "summary": summary(incident),
        "phases": phases(incident).into_iter()
            .map(|(name, took)| json!({ "name": name, "took": spoken(took) })).collect::<Vec<_>>(),
        "facts": facts(incident).into_iter()
            .map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>(),
        "trigger": trigger(incident),
        "recovery": incident.recovery.as_ref().map(|recovery| json!({
            "verdict": recovery.verdict, "at": full(recovery.at), "message": recovery.message,
        })),
        "origin": if breach(incident).is_some() { "the start of the breach" } else { "the start of the run" },
        "timeline": timeline(incident),
        "changes": incident.changes,
        "heldBack": incident.held_back.iter().map(|held| json!({
            "at": full(held.at), "policy": held.policy, "component": held.component, "reason": held.reason,
        })).collect::<Vec<_>>(),
        "followUps": incident.follow_ups.iter()
            .map(|task| json!({ "what": task.what, "due": task.due.map(full) })).collect::<Vec<_>>(),
        "holds": incident.holds.iter().map(|hold| json!({
            "component": hold.component, "until": full(hold.until), "by": hold.by, "reason": hold.reason,
        })).collect::<Vec<_>>(),
        "notes": incident.notes,
    });
    escape::tame_all(&mut view);
    view
}

fn put(view: &mut Value, name: &str, value: Value) {
    if let Some(fields) = view.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// What a tired person must know, in as few words as possible.
fn summary(incident: &Incident) -> Vec<String> {
    let is_rollback = incident.changes.iter().any(|change| change.kind == "rollback");
    let noun = if is_rollback || incident.changes.is_empty() { "rollback" } else { "restart" };
    let done = incident.changes.iter().filter(|change| tone(&change.outcome) == "good").count();
    let of = format!("{done} of {} {} done", incident.changes.len(), plural("step", incident.changes.len()));
    let mut told = vec![match incident.outcome.as_str() {
        "Completed" => format!("The {noun} completed."),
        "Halted" => {
            format!("The {noun} halted, with {of}: a step failed, and what was done before it stands.")
        }
        "Compensated" => {
            format!("The {noun} was taken back: a step failed, and what had been done is reversed.")
        }
        "Stuck" => format!("The {noun} is stuck, with {of}: a person must finish it."),
        "Unfinished" => format!("The {noun} has not ended, with {of}."),
        "Abandoned" => format!("The {noun} was abandoned by a person, with {of}."),
        "NothingToDo" => "There was nothing to do: every component was there already.".into(),
        other => format!("The {noun} ended as {other}."),
    }];
    if incident.outcome != "NothingToDo" {
        told.extend(moves(incident));
    }
    match incident.recovery.as_ref().map(|recovery| recovery.verdict.as_str()) {
        Some("Recovered") => told.push("The metric recovered.".into()),
        Some("NotRecovered") => told.push("The metric did not recover: the symptom stays.".into()),
        Some(_) => told.push("Whether the metric recovered is unknown.".into()),
        None if incident.automatic => told.push("Whether the metric recovered has not been judged.".into()),
        None => {}
    }
    told
}

fn moves(incident: &Incident) -> Option<String> {
    let of = |Moved { component, from, to, kind, outcome, .. }: &Moved| {
        let done = tone(outcome) == "good";
        match kind.as_str() {
            _ if outcome == "Compensated" => format!("{component} is back at {from}"),
            "restart" if done => format!("{component} was restarted at {from}"),
            "restart" => format!("{component} was to be restarted at {from}"),
            _ if done => format!("{component} went from {from} to {to}"),
            _ => format!("{component} was to go from {from} to {to}"),
        }
    };
    let mut moves: Vec<String> = incident.changes.iter().take(MOST_MOVES).map(of).collect();
    let more = incident.changes.len().saturating_sub(MOST_MOVES);
    if more > 0 {
        moves.push(format!("and {more} more"));
    }
    (!moves.is_empty()).then(|| format!("{}.", moves.join(", ")))
}

/// How long it took from one thing to the next, as far as both are known and in order.
fn phases(incident: &Incident) -> Vec<(&'static str, Duration)> {
    let fired = incident.trigger.as_ref();
    let (changed, since) = (fired.and_then(|fired| fired.changed_at), breach(incident));
    let decided = fired.map(|fired| fired.decided_at);
    let end = incident.finished_at;
    let recovered = incident.recovery.as_ref().filter(|it| it.verdict == "Recovered").map(|it| it.at);
    let completed = incident.outcome == "Completed";
    let to_end = if completed { "decision to converged" } else { "decision to end of run" };
    [
        ("change to breach", changed, since),
        ("breach to decision", since, decided),
        (to_end, decided, end),
        ("run", Some(incident.started_at).filter(|_| decided.is_none()), end),
        ("converged to recovered", end.filter(|_| completed), recovered),
    ]
    .into_iter()
    .filter_map(|(name, from, to)| {
        let (from, to) = (from?, to?);
        (from <= to).then(|| (name, to.since(from)))
    })
    .collect()
}

fn facts(incident: &Incident) -> Vec<(&'static str, String)> {
    let fired = incident.trigger.as_ref();
    let how = if incident.automatic { "automatically" } else { "by hand" };
    let timed = |at| format!("{} ({})", full(at), offset(at, origin(incident)));
    [
        ("Run", Some(incident.run.clone())),
        ("Started by", Some(format!("{}, {how}", incident.actor))),
        ("Reason", incident.reason.clone()),
        ("Changed", fired.and_then(|fired| fired.changed_at).map(timed)),
        ("Breach since", breach(incident).map(timed)),
        ("Decided", fired.map(|fired| timed(fired.decided_at))),
        ("Run began", Some(timed(incident.started_at))),
        ("Run ended", Some(incident.finished_at.map_or("not yet".into(), timed))),
        ("Judged", incident.recovery.as_ref().map(|recovery| timed(recovery.at))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn trigger(incident: &Incident) -> Option<Value> {
    let fired = incident.trigger.as_ref()?;
    let shown = |value: Option<f64>| value.filter(|it| it.is_finite()).map(|it| number(it, fired.is_share));
    let instances: Vec<&String> = fired.instances.iter().take(MOST_INSTANCES).collect();
    Some(json!({
        "policy": fired.policy,
        "component": fired.component,
        "summary": fired.summary,
        "value": shown(fired.value),
        "limit": shown(fired.limit),
        "more": fired.instances.len() - instances.len(),
        "instances": instances,
    }))
}

fn timeline(incident: &Incident) -> Vec<Value> {
    let mut moments: Vec<_> = incident.timeline.iter().collect();
    moments.sort_by_key(|moment| moment.at);
    let row = |moment: &&Moment| {
        json!({
            "day": utc(moment.at, "%F"),
            "time": utc(moment.at, "%T"),
            "iso": moment.at.to_string(),
            "offset": offset(moment.at, origin(incident)),
            "what": moment.what,
            "detail": moment.detail,
            "tone": moment.tone,
        })
    };
    moments.iter().map(row).collect()
}

fn breach(incident: &Incident) -> Option<Timestamp> {
    incident.trigger.as_ref().and_then(|fired| fired.since)
}

/// From when offsets count.
fn origin(incident: &Incident) -> Timestamp {
    breach(incident).unwrap_or(incident.started_at)
}

pub(super) fn utc(at: Timestamp, format: &str) -> String {
    jiff::Timestamp::from_millisecond(at.as_unix_millis())
        .map(|at| at.strftime(format).to_string())
        .unwrap_or_default()
}

fn full(at: Timestamp) -> String {
    utc(at, "%F %T UTC")
}

fn offset(at: Timestamp, origin: Timestamp) -> String {
    if at < origin {
        format!("-{}", spoken(origin.since(at)))
    } else {
        format!("+{}", spoken(at.since(origin)))
    }
}

/// A duration in its two greatest units.
fn spoken(duration: Duration) -> String {
    match duration.as_secs() {
        s @ ..60 => format!("{s}s"),
        s @ ..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ ..86_400 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        s => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// A number for people: four digits at most, a share in percent.
pub(super) fn number(value: f64, is_share: bool) -> String {
    if is_share {
        return format!("{} %", number(value * 100.0, false));
    }
    match value.abs() {
        0.0 => "0".into(),
        1e9..1e15 => format!("{}G", digits(value / 1e9)),
        1e6..1e9 => format!("{}M", digits(value / 1e6)),
        1e4..1e6 => format!("{}k", digits(value / 1e3)),
        1e-6..1e4 => digits(value).to_string(),
        _ => format!("{:e}", digits(value)),
    }
}

fn digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn plural(noun: &str, count: usize) -> String {
    if count == 1 { noun.into() } else { format!("{noun}s") }
}

/// `NotRecovered` as `Not recovered`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for (place, c) in name.chars().enumerate() {
        if place > 0 && c.is_ascii_uppercase() && !words.ends_with(' ') {
            words.push(' ');
            words.push(c.to_ascii_lowercase());
        } else {
            words.push(c);
        }
    }
    words
}

/// Whether an outcome or verdict is good news.
fn tone(name: &str) -> &'static str {
    match name {
        "Completed" | "Verified" | "Applied" | "Recovered" => "good",
        "Halted" | "Stuck" | "Failed" | "CompensationFailed" | "Refused" | "NotRecovered" => "bad",
        "Compensated" | "Unfinished" | "Abandoned" | "Unknown" | "Skipped" | "Pending" => "warning",
        _ => "plain",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_two_units() {
        let told = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!([told(0), told(59), told(303), told(3_600)], ["0s", "59s", "5m03s", "1h00m"]);
        assert_eq!([told(86_399), told(183_600)], ["23h59m", "2d03h"]);
    }

    #[test]
    fn offsets_have_a_sign() {
        let at = |seconds: i64| Timestamp::from_unix_millis(seconds * 1_000).unwrap();
        assert_eq!(offset(at(303), at(0)), "+5m03s");
        assert_eq!(offset(at(0), at(130)), "-2m10s");
        assert_eq!(offset(at(7), at(7)), "+0s");
    }

    #[test]
    fn numbers_are_short() {
        let told = |value| number(value, false);
        assert_eq!([told(0.0), told(-0.0), told(0.25), told(1_234.56)], ["0", "0", "0.25", "1235"]);
        assert_eq!([told(12_345.0), told(-2.5e6), told(3e9)], ["12.35k", "-2.5M", "3G"]);
        assert_eq!([told(1e300), told(1.234_56e-9)], ["1e300", "1.235e-9"]);
        assert_eq!([number(0.05, true), number(0.123_456, true)], ["5 %", "12.35 %"]);
    }

    #[test]
    fn names_become_words() {
        assert_eq!(words("NotRecovered"), "Not recovered");
        assert_eq!(words("NothingToDo"), "Nothing to do");
        assert_eq!(words("verified"), "verified");
    }
}
