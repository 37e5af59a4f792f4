//! Triggers of your own, for the length of a queue that a closure knows: alone, combined, and over time.
//!
//! There are two ways, and this shows both:
//!
//! - [`QueueLength`] implements `Trigger`. It says what it sees at one moment, and fires at once. What a trigger
//!   remembers in its `Memory` is written by the library's own triggers alone, so one of your own keeps nothing
//!   there. That makes it a good part of `AllOf`, `AnyOf` and `Not`.
//! - [`QueueMetric`] implements `MetricSource`, and a `Threshold` watches it. How long the queue has been too long
//!   is then remembered for you, also across a restart. Take this one where a single look must not fire.
//!
//! `cargo run --example custom_trigger` evaluates them for eight simulated minutes. A supervisor does the same
//! with the clock: `Policy::new("queue", trigger, [Action::Alert, Action::Rollback])`.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::trigger::{
    AllOf, Evaluation, Evidence, Limit, Line, Memory, Metric, MetricSource, Not, Point, Series, Threshold,
    Trigger, Verdict, Window,
};
use rollback_core::{ComponentId, Timestamp};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// How long the queue is at a time; none where nobody knows. The time is an argument, so that an evaluation can
/// be repeated, and tested without waiting.
type Length = Arc<dyn Fn(Timestamp) -> Option<u32> + Send + Sync>;

/// How often everything is evaluated.
const EVERY: Duration = Duration::from_secs(60);

/// How many messages may wait.
const MOST: u32 = 1000;

/// The length in each simulated minute.
const LENGTHS: [Option<u32>; 8] =
    [Some(200), Some(900), Some(1500), Some(2400), Some(2100), Some(2600), None, Some(3000)];

#[tokio::main]
async fn main() -> Result<()> {
    tell(&mut std::io::stdout()).await
}

/// When it fires.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// More messages wait than this.
    LongerThan(u32),
    /// Fewer messages wait than one interval before.
    Shrinks,
}

/// Looks at the length of a queue, and remembers nothing.
struct QueueLength {
    /// What is to blame: the service that is to empty the queue.
    worker: ComponentId,
    length: Length,
    rule: Rule,
}

impl fmt::Debug for QueueLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueLength").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl QueueLength {
    /// Says `Unknown` where a number is missing: that is never a reason to act, and told to people when it lasts.
    fn verdict(&self, at: Timestamp) -> Verdict {
        let unknown =
            |at: Timestamp| Verdict::Unknown(format!("nobody knows how long the queue was at {at}"));
        let Some(now) = (self.length)(at) else { return unknown(at) };
        let (fires, limit, summary) = match self.rule {
            Rule::LongerThan(most) => (now > most, most, format!("{now} messages wait, more than {most}")),
            Rule::Shrinks => {
                let earlier = at.saturating_sub(EVERY);
                let Some(before) = (self.length)(earlier) else { return unknown(earlier) };
                (now < before, before, format!("{now} messages wait, fewer than {before}"))
            }
        };
        if !fires {
            return Verdict::Hold;
        }
        let (value, limit) = (Some(f64::from(now)), Some(f64::from(limit)));
        Verdict::Firing(Evidence { summary, since: Some(at), value, limit, ..Evidence::default() })
    }
}

#[async_trait]
impl Trigger for QueueLength {
    fn components(&self) -> Vec<ComponentId> {
        vec![self.worker.clone()]
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    async fn evaluate(&self, at: Timestamp, _: &mut Memory) -> rollback_core::Result<Evaluation> {
        let mut evaluation = Evaluation { evaluated: 1, ..Evaluation::default() };
        let verdict = self.verdict(at);
        // What is not among the verdicts was looked at, and holds.
        if verdict != Verdict::Hold {
            evaluation.verdicts.insert(self.worker.clone(), verdict);
        }
        Ok(evaluation)
    }
}

/// The same length as a metric. There is one, so the text of a query does not matter.
struct QueueMetric(Length);

impl fmt::Debug for QueueMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueMetric")
    }
}

#[async_trait]
impl MetricSource for QueueMetric {
    /// No series where nobody knows: a 0 would say that all is well.
    async fn sample(&self, _: &str, at: Timestamp) -> rollback_core::Result<Vec<Series>> {
        let length = (self.0)(at);
        Ok(length.map(|length| Series::of(f64::from(length))).into_iter().collect())
    }

    async fn range(
        &self,
        _: &str,
        from: Timestamp,
        to: Timestamp,
        step: Duration,
    ) -> rollback_core::Result<Vec<Line>> {
        let times = std::iter::successors(Some(from), |at| Some(at.saturating_add(step)));
        let point = |at: Timestamp| Some(Point { at, value: f64::from((self.0)(at)?) });
        let points = times.take_while(|at| *at <= to).filter_map(point).collect();
        Ok(vec![Line { points, ..Line::default() }])
    }
}

/// Evaluates three triggers minute by minute, and writes what each says.
pub(crate) async fn tell(out: &mut impl Write) -> Result<()> {
    let start: Timestamp = "2026-11-23T03:00:00Z".parse()?;
    let worker = ComponentId::new("deployment", Some("shop"), "worker")?;
    let length: Length = Arc::new(move |at: Timestamp| {
        let minute = usize::try_from(at.since(start).as_secs() / 60).ok()?;
        LENGTHS.get(minute).copied().flatten()
    });
    let queue = |rule: Rule| QueueLength { worker: worker.clone(), length: length.clone(), rule };

    // A long queue that gets shorter needs no rollback: the worker catches up.
    let too_long: Arc<dyn Trigger> = Arc::new(queue(Rule::LongerThan(MOST)));
    let not_shrinking: Arc<dyn Trigger> = Arc::new(Not(Arc::new(queue(Rule::Shrinks))));
    let stuck: Arc<dyn Trigger> = Arc::new(AllOf(vec![too_long.clone(), not_shrinking]));

    let mut threshold = Threshold::new(
        Arc::new(QueueMetric(length.clone())),
        worker.clone(),
        Metric::Value("length".into()),
        Limit::Above(f64::from(MOST)),
        Window::For(Duration::from_secs(120)),
    );
    threshold.interval = EVERY;
    let lasting: Arc<dyn Trigger> = Arc::new(threshold);

    // A memory for each: a supervisor keeps them in its ledger.
    let triggers = [("too long", too_long), ("and not shrinking", stuck), ("for two minutes", lasting)];
    let mut watched = triggers.map(|(name, trigger)| (name, trigger, Memory::default()));
    let mut at = start;
    for waiting in LENGTHS {
        let waiting = waiting.map_or_else(|| "nobody knows how many".to_owned(), |length| length.to_string());
        writeln!(out, "{at}: {waiting} messages wait")?;
        for (name, trigger, memory) in &mut watched {
            let seen = trigger.evaluate(at, memory).await?;
            writeln!(out, "    {name:<17}  {}", said(&seen, &worker))?;
        }
        at = at.saturating_add(EVERY);
    }
    Ok(())
}

fn said(seen: &Evaluation, component: &ComponentId) -> String {
    match seen.of(component) {
        Verdict::Firing(evidence) => format!("FIRES: {}", evidence.summary),
        Verdict::Unknown(why) => format!("unknown: {why}"),
        Verdict::Hold => match seen.unproven.get(component) {
            Some(why) => format!("holds: {why}"),
            None => "holds".into(),
        },
    }
}
