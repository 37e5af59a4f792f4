//! The metric that fired, drawn.
//!
//! A template with scales of our own, because plotters writes its colours and fonts into every element: no dark mode,
//! no system fonts, no other layout for a narrow page, and overlapping labels are left to the caller all the same.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::escape::tame;
use super::render::{environment, number, utc};
use super::{Fired, Incident};
use crate::trigger::Point;
use crate::{Result, Timestamp};

const MOST_POINTS: usize = 400;
/// Numbers beyond this are no measurements, and overflow when scaled.
const LARGEST: f64 = 1e100;
const STEPS: [i64; 22] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400,
    172_800, 604_800, 2_592_000, 31_536_000,
];

/// What size to draw for: text does not scale with the picture.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Wide,
    Narrow,
}

/// The triggering metric before and after the rollback, with its limit, the change, the breach, the decision and the
/// run, as an SVG document that stands alone or goes into a page. None with fewer than two points.
pub fn chart(incident: &Incident) -> Option<String> {
    draw(incident, Shape::Wide).ok().flatten()
}

pub(super) fn draw(incident: &Incident, shape: Shape) -> Result<Option<String>> {
    let points = points_of(incident);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(None) };
    if first.at == last.at {
        return Ok(None);
    }
    let chart = Chart::new(incident, shape, first.at, last.at, &points);
    super::render::render(&environment()?, "chart.svg", chart.context(incident, &points)).map(Some)
}

/// All points in order, one a time, and only numbers.
fn points_of(incident: &Incident) -> Vec<Point> {
    let before = incident.trigger.iter().flat_map(|fired| &fired.points);
    let after = incident.recovery.iter().flat_map(|recovery| &recovery.points);
    let mut points: Vec<Point> =
        before.chain(after).filter(|point| point.value.abs() <= LARGEST).copied().collect();
    points.sort_by_key(|point| point.at);
    points.dedup_by_key(|point| point.at);
    points
}

/// Fewer points with the same extremes: the least and the greatest of each chunk.
fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(MOST_POINTS);
    for chunk in points.chunks(points.len().div_ceil(MOST_POINTS / 2)) {
        let by_value = |a: &&Point, b: &&Point| a.value.total_cmp(&b.value);
        if let (Some(low), Some(high)) = (chunk.iter().min_by(by_value), chunk.iter().max_by(by_value)) {
            kept.extend([*low, *high]);
        }
    }
    kept.sort_by_key(|point| point.at);
    kept.dedup_by_key(|point| point.at);
    kept
}

/// The place of the drawing in the picture, and what its edges stand for.
struct Chart {
    width: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    start: Timestamp,
    end: Timestamp,
    low: f64,
    high: f64,
    step: f64,
    is_share: bool,
}

impl Chart {
    fn new(incident: &Incident, shape: Shape, first: Timestamp, last: Timestamp, points: &[Point]) -> Self {
        let fired = incident.trigger.as_ref();
        // What lies far from the points would squeeze them; the legend tells it.
        let room = last.since(first);
        let times = || times_of(incident).into_iter().flatten();
        let start = times().filter(|at| first.since(*at) <= room).fold(first, Timestamp::min);
        let end = times().filter(|at| at.since(last) <= room).fold(last, Timestamp::max);

        let limit = fired.and_then(limit_of);
        let values = || points.iter().map(|point| point.value).chain(limit);
        let (lowest, highest) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
        let step = nice((highest - lowest) / 4.5);
        let (width, height) = match shape {
            Shape::Wide => (860.0, 280.0),
            Shape::Narrow => (360.0, 240.0),
        };
        Self {
            width,
            left: 60.0,
            right: width - 34.0,
            top: 40.0,
            bottom: height,
            start,
            end,
            low: (lowest / step).floor() * step,
            high: ((highest + 0.05 * step) / step).ceil() * step,
            step,
            is_share: fired.is_some_and(|fired| fired.is_share),
        }
    }

    fn x(&self, at: Timestamp) -> f64 {
        let share = at.since(self.start).as_secs_f64() / self.end.since(self.start).as_secs_f64();
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)
    }

    fn shows(&self, at: Timestamp) -> bool {
        (self.start..=self.end).contains(&at)
    }

    /// A time to the second, with its day where that is not the only one.
    fn clock(&self, at: Timestamp) -> String {
        let day = |at| utc(at, "%F");
        utc(at, if day(at) == day(self.start) && day(at) == day(self.end) { "%T" } else { "%m-%d %T" })
    }

    fn context(&self, incident: &Incident, points: &[Point]) -> Value {
        let thin = thinned(points);
        let limit = incident.trigger.as_ref().and_then(limit_of);
        let legend = self.legend(incident, points, limit);
        let (day, last_day) = (utc(self.start, "%F"), utc(self.end, "%F"));
        let of = incident.trigger.as_ref().map_or_else(
            || "The metric after the rollback".to_owned(),
            |fired| format!("The metric of {} for {}", fired.policy, fired.component),
        );
        let told =
            legend.iter().filter_map(|entry| entry.get("text")?.as_str()).collect::<Vec<_>>().join(". ");
        let rows = legend.last().and_then(|entry| entry.get("y")?.as_f64()).unwrap_or(self.bottom);
        json!({
            "width": self.width, "height": rows + 16.0,
            "left": self.left, "right": self.right, "top": self.top, "bottom": self.bottom,
            "title": tame(&of),
            "desc": format!("From {} to {} UTC. {told}.", self.clock(self.start), self.clock(self.end)),
            "day": if day == last_day { format!("{day}, UTC") } else { format!("{day} to {last_day}, UTC") },
            "yTicks": self.y_ticks(), "xTicks": self.x_ticks(),
            "line": self.path(&thin),
            "limit": limit.map(|limit| round(self.y(limit))),
            "band": self.band(incident),
            "marks": self.marks(incident),
            "legend": legend,
        })
    }

    fn y_ticks(&self) -> Vec<Value> {
        (0..=20_u32)
            .map(|n| self.low + f64::from(n) * self.step)
            .take_while(|value| *value <= self.high + self.step / 2.0)
            .map(|value| json!({ "y": round(self.y(value)), "label": number(value, self.is_share) }))
            .collect()
    }

    fn x_ticks(&self) -> Vec<Value> {
        let most = (self.right - self.left) / 85.0;
        let span = self.end.since(self.start).as_secs_f64();
        let fits = |step: &i64| span <= most * Duration::from_secs(step.unsigned_abs()).as_secs_f64();
        let step = STEPS.into_iter().find(fits).unwrap_or(i64::MAX / 1_000);
        let format = match step {
            ..60 => "%H:%M:%S",
            60..86_400 => "%H:%M",
            _ => "%F",
        };
        let first = self.start.as_unix_millis().div_euclid(1_000).div_euclid(step);
        (first..)
            .map_while(|n| Timestamp::from_unix_millis(n.checked_mul(step)?.checked_mul(1_000)?).ok())
            .take_while(|at| *at <= self.end)
            .filter(|at| self.shows(*at))
            .map(|at| json!({ "x": round(self.x(at)), "label": utc(at, format) }))
            .collect()
    }

    /// The line, broken where samples are missing.
    fn path(&self, points: &[Point]) -> String {
        let times = || points.iter().map(|point| point.at);
        let mut gaps: Vec<Duration> = times().zip(times().skip(1)).map(|(a, b)| b.since(a)).collect();
        gaps.sort();
        let longest = gaps.get(gaps.len() / 2).map_or(Duration::MAX, |usual| usual.saturating_mul(5));
        let mut path = String::new();
        let mut previous: Option<Timestamp> = None;
        for point in points {
            let (x, y) = (round(self.x(point.at)), round(self.y(point.value)));
            // Writing to a string cannot fail.
            let _ = match previous {
                Some(at) if point.at.since(at) <= longest => write!(path, "L{x} {y}"),
                // A lone point is a line of no length, which round caps make a dot.
                _ => write!(path, "M{x} {y}h0"),
            };
            previous = Some(point.at);
        }
        path
    }

    fn band(&self, incident: &Incident) -> Option<Value> {
        let end = incident.finished_at.unwrap_or(self.end);
        if end < self.start || incident.started_at > self.end {
            return None;
        }
        let (from, to) = (self.x(incident.started_at), self.x(end));
        Some(json!({ "x": round(from), "width": round((to - from).max(2.0)) }))
    }

    /// The vertical marks, each with a numbered badge above. Badges move aside for each other.
    fn marks(&self, incident: &Incident) -> Vec<Value> {
        const APART: f64 = 20.0;
        let shown: Vec<_> = self.marks_of(incident).into_iter().filter(|mark| mark.number > 0).collect();
        let mut badges: Vec<f64> = Vec::new();
        for mark in &shown {
            let free = badges.last().map_or(f64::MIN, |last| last + APART);
            badges.push(self.x(mark.at).max(free));
        }
        let mut free = self.right + 8.0;
        for badge in badges.iter_mut().rev() {
            *badge = badge.min(free);
            free = *badge - APART;
        }
        let place = |(mark, badge): (&Mark, f64)| {
            let (x, badge) = (round(self.x(mark.at)), round(badge));
            json!({ "x": x, "badge": badge, "number": mark.number, "class": mark.class })
        };
        shown.iter().zip(badges).map(place).collect()
    }

    /// The marks in order of time, numbered where they are shown.
    fn marks_of(&self, incident: &Incident) -> Vec<Mark> {
        let [changed, since, decided, ..] = times_of(incident);
        let named = [
            (changed, "change", "Changed"),
            (since, "breach", "Breach since"),
            (decided, "decision", "Decided"),
        ];
        let mut marks: Vec<Mark> = named
            .into_iter()
            .filter_map(|(at, class, name)| Some(Mark { at: at?, number: 0, class, name }))
            .collect();
        marks.sort_by_key(|mark| mark.at);
        let shown = marks.iter_mut().filter(|mark| self.shows(mark.at));
        shown.zip(1..).for_each(|(mark, number)| mark.number = number);
        marks
    }

    /// What the marks and lines mean, in rows below the axis.
    fn legend(&self, incident: &Incident, points: &[Point], limit: Option<f64>) -> Vec<Value> {
        let told = |value| number(value, self.is_share);
        let values = || points.iter().map(|point| point.value);
        let (lowest, highest) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        let mut entries = vec![("line", 0, format!("Metric, {} to {}", told(lowest), told(highest)))];
        entries.extend(limit.map(|limit| ("limit", 0, format!("Limit {}", told(limit)))));
        for mark in self.marks_of(incident) {
            let beyond = if mark.number > 0 { "" } else { " (not shown)" };
            let text = format!("{} {}{beyond}", mark.name, self.clock(mark.at));
            entries.push((mark.class, mark.number, text));
        }
        let began = self.clock(incident.started_at);
        let ended =
            incident.finished_at.map_or("not ended".to_owned(), |at| format!("to {}", self.clock(at)));
        entries.push(("run", 0, format!("Run {began} {ended}")));

        let (mut x, mut y) = (16.0, self.bottom + 62.0);
        let mut place = |(class, number, text): (&str, usize, String)| {
            // Wider than the widest of the usual system fonts, for what the viewer has is not known.
            let width = 26.0 + 7.4 * f64::from(u16::try_from(text.len()).unwrap_or(u16::MAX));
            if x > 16.0 && x + width > self.width - 8.0 {
                (x, y) = (16.0, y + 22.0);
            }
            let entry = json!({ "x": round(x), "y": y, "class": class, "number": number, "text": text });
            x += width + 14.0;
            entry
        };
        entries.into_iter().map(&mut place).collect()
    }
}

struct Mark {
    at: Timestamp,
    /// Zero where it is not shown.
    number: usize,
    class: &'static str,
    name: &'static str,
}

fn times_of(incident: &Incident) -> [Option<Timestamp>; 5] {
    let fired = incident.trigger.as_ref();
    [
        fired.and_then(|fired| fired.changed_at),
        fired.and_then(|fired| fired.since),
        fired.map(|fired| fired.decided_at),
        Some(incident.started_at),
        incident.finished_at,
    ]
}

fn limit_of(fired: &Fired) -> Option<f64> {
    fired.limit.filter(|limit| limit.abs() <= LARGEST)
}

/// The next greater number that people like to count in.
fn nice(step: f64) -> f64 {
    if step < 1e-100 {
        return 1.0;
    }
    let unit = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 2.5, 5.0].into_iter().map(|n| n * unit).find(|n| *n >= step).unwrap_or(10.0 * unit)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
