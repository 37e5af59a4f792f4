//! Triggers, over samples that the tests choose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use rollback_core::trigger::{
    AllOf, AnyOf, Baseline, Evaluation, Health, HealthCheck, HealthProbe, Limit, Line, Memory, Metric,
    MetricSource, Not, Point, Scope, Series, Threshold, Trigger, Verdict, Window, error_rate, latency_p99,
};
use rollback_core::{ComponentId, Error, ErrorKind, Result, Timestamp};

/// What each query answers.
#[derive(Debug, Default)]
struct Metrics(Mutex<BTreeMap<String, Result<Vec<Series>, ErrorKind>>>);

impl Metrics {
    fn set(&self, query: &str, value: f64) {
        self.answer(query, Ok(vec![Series::of(value)]));
    }

    fn answer(&self, query: &str, answer: Result<Vec<Series>, ErrorKind>) {
        self.0.lock().unwrap().insert(query.to_owned(), answer);
    }
}

#[async_trait]
impl MetricSource for Metrics {
    async fn sample(&self, query: &str, at: Timestamp) -> Result<Vec<Series>> {
        let answers = self.0.lock().unwrap();
        // Another time is another query.
        let then = (at < start()).then(|| format!("{query} then"));
        match answers.get(&then.unwrap_or(query.to_owned())) {
            Some(Ok(series)) => Ok(series.clone()),
            Some(Err(kind)) => Err(Error::new(*kind, "the source says no")),
            None => Ok(Vec::new()),
        }
    }

    async fn range(&self, _: &str, from: Timestamp, to: Timestamp, step: Duration) -> Result<Vec<Line>> {
        assert!(from < to && !step.is_zero());
        let points = vec![Point { at: from, value: 1.0 }, Point { at: to, value: 2.0 }];
        Ok(vec![Line { labels: BTreeMap::new(), points }])
    }
}

fn start() -> Timestamp {
    "2026-11-23T03:00:00Z".parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    start().saturating_add(Duration::from_secs(seconds))
}

fn web(name: &str) -> ComponentId {
    ComponentId::new("deployment", Some("shop"), name).unwrap()
}

/// A trigger that is evaluated every 15 s.
struct Watch<T> {
    trigger: T,
    memory: Memory,
    seconds: u64,
}

impl<T: Trigger> Watch<T> {
    fn new(trigger: T) -> Self {
        Self { trigger, memory: Memory::default(), seconds: 0 }
    }

    async fn look(&mut self) -> Verdict {
        self.seconds += 15;
        let seen = self.trigger.evaluate(after(self.seconds), &mut self.memory).await.unwrap();
        assert_eq!(seen.evaluated, 1);
        seen.of(&web("web"))
    }

    /// The verdict after so many seconds more, none of which before it fired.
    async fn quiet(&mut self, seconds: u64) -> Verdict {
        let mut last = Verdict::Hold;
        for _ in 0..seconds / 15 {
            assert!(!is_firing(&last), "too early, after {} s: {last:?}", self.seconds);
            last = self.look().await;
        }
        last
    }
}

fn is_firing(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Firing(_))
}

fn rate() -> (Arc<Metrics>, Watch<Threshold>) {
    let metrics = Arc::new(Metrics::default());
    metrics.set("requests", 1000.0);
    let watch = Watch::new(error_rate(metrics.clone(), web("web"), "errors", "requests"));
    (metrics, watch)
}

#[tokio::test]
async fn an_error_rate_fires_after_five_minutes_and_shows_by_what() {
    let (metrics, mut watch) = rate();
    metrics.set("errors", 50.0);
    assert_eq!(watch.quiet(3600).await, Verdict::Hold, "5 % is not above 5 %");
    metrics.set("errors", 60.0);
    assert_eq!(watch.quiet(300).await, Verdict::Hold);
    let Verdict::Firing(evidence) = watch.look().await else { panic!("five minutes are over") };
    assert_eq!((evidence.value, evidence.limit, evidence.since), (Some(0.06), Some(0.05), Some(after(3615))));
    assert!(evidence.summary.starts_with("6.00 % is above 5.00 % since"), "{}", evidence.summary);
    assert_eq!(evidence.points.len(), 2);
    metrics.set("errors", 10.0);
    assert_eq!(watch.look().await, Verdict::Hold);
    metrics.set("errors", 500.0);
    assert!(is_firing(&watch.quiet(315).await), "one good sample begins anew");
}

#[tokio::test]
async fn what_is_missing_is_never_a_reason() {
    for (query, answer) in [
        ("errors", Ok(vec![Series::of(f64::NAN)])),
        ("errors", Ok(vec![Series::of(f64::INFINITY)])),
        ("errors", Ok(vec![Series::of(900.0), Series::of(900.0)])),
        ("errors", Err(ErrorKind::Unavailable)),
        ("requests", Ok(Vec::new())),
        ("requests", Err(ErrorKind::Timeout)),
        ("requests", Ok(vec![Series::of(f64::NAN)])),
    ] {
        let (metrics, mut watch) = rate();
        metrics.set("errors", 900.0);
        watch.quiet(150).await;
        metrics.answer(query, answer.clone());
        let verdict = watch.quiet(60).await;
        assert!(matches!(verdict, Verdict::Unknown(_)), "{query} {answer:?}: {verdict:?}");
        // What was pending before has begun anew.
        metrics.set("errors", 900.0);
        metrics.set("requests", 1000.0);
        assert!(!is_firing(&watch.quiet(300).await), "{query} {answer:?}");
        assert!(is_firing(&watch.look().await), "{query} {answer:?}");
        metrics.answer(query, answer.clone());
        let verdict = watch.quiet(1200).await;
        assert!(matches!(verdict, Verdict::Unknown(_)), "{query} {answer:?}: {verdict:?}");
    }
    let (metrics, mut watch) = rate();
    assert_eq!(watch.quiet(1200).await, Verdict::Hold, "no series of errors beside requests is no error");
    metrics.set("requests", 3.0);
    metrics.set("errors", 1.0);
    assert_eq!(watch.quiet(1200).await, Verdict::Hold, "one of three requests says nothing");
    metrics.set("requests", 0.0);
    assert_eq!(watch.quiet(1200).await, Verdict::Hold);
    let seen = watch.trigger.evaluate(after(80_000), &mut watch.memory).await.unwrap();
    assert!(!seen.is_well(&web("web")), "no traffic is no proof of health");
    // Nor does a dip of the traffic begin anew.
    metrics.set("requests", 1000.0);
    metrics.set("errors", 900.0);
    watch.seconds = 85_000;
    watch.quiet(150).await;
    metrics.set("requests", 99.0);
    watch.look().await;
    metrics.set("requests", 1000.0);
    assert!(is_firing(&watch.quiet(150).await));
    metrics.answer("errors", Err(ErrorKind::InvalidConfig));
    let error = watch.trigger.evaluate(after(90_000), &mut watch.memory).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "a query that is none is told at once");
}

#[tokio::test]
async fn latency_is_compared_with_the_day_before_and_with_a_floor() {
    let metrics = Arc::new(Metrics::default());
    let mut watch = Watch::new(latency_p99(metrics.clone(), web("web"), "p99", 0.05));
    metrics.set("p99", 0.3);
    let verdict = watch.quiet(1200).await;
    assert!(matches!(&verdict, Verdict::Unknown(why) if why.contains("to compare with")), "{verdict:?}");
    metrics.set("p99 then", 0.2);
    assert_eq!(watch.quiet(1200).await, Verdict::Hold);
    metrics.set("p99", 0.5);
    assert!(is_firing(&watch.quiet(615).await));
    // Near zero every increase would be one.
    metrics.set("p99 then", 0.0001);
    metrics.set("p99", 0.09);
    assert_eq!(watch.quiet(1200).await, Verdict::Hold);
    metrics.set("p99", 0.11);
    assert!(is_firing(&watch.quiet(615).await));
}

#[tokio::test]
async fn one_query_speaks_for_many_components() {
    let metrics = Arc::new(Metrics::default());
    let series = |name: &str, value: f64| {
        let labels = [("namespace", "shop"), ("deployment", name)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Series { labels: labels.into(), value }
    };
    metrics.answer("errors", Ok(vec![series("bad", 20.0), series("gone", 20.0), series("stranger", 99.0)]));
    metrics.answer("requests", Ok(vec![series("bad", 100.0), series("good", 100.0)]));
    let mut trigger = error_rate(metrics, web("unused"), "errors", "requests");
    trigger.scope = Scope::Each {
        components: ["bad", "good", "gone"].map(web).to_vec(),
        scope_label: "namespace".into(),
        name_label: "deployment".into(),
    };
    trigger.window = Window::InARow(1);
    let seen = trigger.evaluate(start(), &mut Memory::default()).await.unwrap();
    assert_eq!((seen.evaluated, seen.verdicts.len()), (3, 2));
    assert!(is_firing(&seen.of(&web("bad"))));
    assert_eq!(seen.of(&web("good")), Verdict::Hold);
    assert!(matches!(seen.of(&web("gone")), Verdict::Unknown(_)), "it is known, and not in the answer");
}

#[derive(Debug, Default)]
struct Pods(Mutex<BTreeMap<String, Health>>);

#[async_trait]
impl HealthProbe for Pods {
    async fn probe(&self) -> Result<BTreeMap<String, Health>> {
        Ok(self.0.lock().unwrap().clone())
    }
}

#[tokio::test]
async fn three_failures_in_a_row_of_one_instance_fire_and_name_it() {
    let pods = Arc::new(Pods::default());
    let set = |name: &str, health: Health| drop(pods.0.lock().unwrap().insert(name.into(), health));
    let failed = || Health::Failed("503".into());
    let mut check = HealthCheck::new(pods.clone(), web("web"));
    check.interval = Duration::from_secs(15);
    let mut watch = Watch::new(check);
    assert!(matches!(watch.look().await, Verdict::Unknown(_)), "nobody to ask");
    set("a", Health::Healthy);
    set("b", failed());
    assert_eq!([watch.look().await, watch.look().await], [Verdict::Hold, Verdict::Hold]);
    let Verdict::Firing(evidence) = watch.look().await else { panic!("three in a row") };
    assert_eq!(evidence.instances, ["b"]);
    assert!(evidence.summary.contains("1 of 2 instances fail: b: 503"), "{}", evidence.summary);
    set("b", Health::Healthy);
    assert_eq!(watch.look().await, Verdict::Hold);
    set("b", failed());
    assert_eq!([watch.look().await, watch.look().await], [Verdict::Hold, Verdict::Hold]);
    set("b", Health::Unknown("no route".into()));
    assert_eq!(watch.look().await, Verdict::Hold, "a is well, and of b nothing is known");
    set("b", failed());
    assert!(is_firing(&watch.look().await), "what is unknown does not begin anew at once");
    // Another pod of the name begins anew.
    pods.0.lock().unwrap().remove("b");
    assert_eq!(watch.look().await, Verdict::Hold);
    set("b", failed());
    assert_eq!(watch.look().await, Verdict::Hold);
    set("a", Health::Unknown("no route".into()));
    set("b", Health::Unknown("no route".into()));
    assert!(matches!(watch.look().await, Verdict::Unknown(_)));
}

#[tokio::test]
async fn combined_triggers_follow_a_logic_of_three_values() {
    let metrics = Arc::new(Metrics::default());
    let part = |query: &str| -> Arc<dyn Trigger> {
        let metric = Metric::Value(query.into());
        Arc::new(Threshold::new(metrics.clone(), web("web"), metric, Limit::Above(1.0), Window::InARow(1)))
    };
    metrics.set("fires", 2.0);
    metrics.set("holds", 0.0);
    let look = async |trigger: &dyn Trigger| {
        let seen = trigger.evaluate(start(), &mut Memory::default()).await.unwrap();
        match seen.of(&web("web")) {
            Verdict::Firing(_) => 'f',
            Verdict::Hold => 'h',
            Verdict::Unknown(_) => 'u',
        }
    };
    for (parts, all, any) in [
        (["fires", "fires"], 'f', 'f'),
        (["fires", "holds"], 'h', 'f'),
        (["fires", "absent"], 'u', 'f'),
        (["holds", "absent"], 'h', 'u'),
        (["holds", "holds"], 'h', 'h'),
        (["absent", "absent"], 'u', 'u'),
    ] {
        let both = parts.map(part).to_vec();
        assert_eq!((look(&AllOf(both.clone())).await, look(&AnyOf(both)).await), (all, any), "{parts:?}");
    }
    for (query, expected) in [("fires", 'h'), ("holds", 'f'), ("absent", 'u')] {
        assert_eq!(look(&Not(part(query))).await, expected, "{query}");
    }
    // What holds only because nothing is known for long enough is nothing to conclude from.
    let metric = Metric::Value("fires".into());
    let pending = Threshold::new(metrics.clone(), web("web"), metric, Limit::Above(1.0), Window::InARow(2));
    assert_eq!(look(&Not(Arc::new(pending))).await, 'u');
    let metric = Metric::Value("fires".into());
    let other = Threshold::new(metrics.clone(), web("other"), metric, Limit::Above(1.0), Window::InARow(1));
    let both = AllOf(vec![part("fires"), Arc::new(other)]);
    let error = both.evaluate(start(), &mut Memory::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "one would be judged by a part of them");
}

#[tokio::test]
async fn who_takes_over_goes_on_with_what_is_pending() {
    let (metrics, mut watch) = rate();
    metrics.set("errors", 600.0);
    watch.quiet(150).await;
    let stored = serde_json::to_string(&watch.memory).unwrap();
    let mut other = Watch { memory: serde_json::from_str(&stored).unwrap(), ..rate().1 };
    other.trigger = watch.trigger.clone();
    other.seconds = watch.seconds;
    assert!(is_firing(&other.quiet(165).await));
    // Unless too much time has passed.
    let mut late = Watch { memory: serde_json::from_str(&stored).unwrap(), ..rate().1 };
    late.trigger = watch.trigger.clone();
    late.seconds = watch.seconds + 60;
    assert_eq!(late.quiet(165).await, Verdict::Hold);
}

#[tokio::test]
async fn what_is_remembered_belongs_to_a_component_and_a_rule() {
    let (metrics, mut watch) = rate();
    metrics.set("errors", 600.0);
    watch.quiet(285).await;
    let mut forgotten = watch.memory.clone();
    forgotten.forget(&web("other"));
    assert_eq!(forgotten, watch.memory);
    forgotten.forget(&web("web"));
    let seen = watch.trigger.evaluate(after(300), &mut forgotten).await.unwrap();
    assert_eq!(seen.of(&web("web")), Verdict::Hold);
    let mut other = watch.trigger.clone();
    other.limit = Limit::Above(0.1);
    let seen = other.evaluate(after(300), &mut watch.memory.clone()).await.unwrap();
    assert_eq!(seen.of(&web("web")), Verdict::Hold, "another rule has seen nothing yet");
    watch.look().await;
    let seen = watch.trigger.evaluate(after(315), &mut watch.memory).await.unwrap();
    assert!(is_firing(&seen.of(&web("web"))));
    let stored = serde_json::to_string(&seen).unwrap();
    assert_eq!(serde_json::from_str::<Evaluation>(&stored).unwrap(), seen);
}

#[tokio::test]
async fn since_when_is_not_younger_than_it_was() {
    let metrics = Arc::new(Metrics::default());
    metrics.set("x", 2.0);
    let metric = Metric::Value("x".into());
    let window = Window::MOfN { m: 3, n: 4 };
    let mut watch = Watch::new(Threshold::new(metrics, web("web"), metric, Limit::Above(1.0), window));
    let mut last = Verdict::Hold;
    for _ in 0..100 {
        last = watch.look().await;
    }
    let Verdict::Firing(evidence) = last else { panic!("all of them are") };
    assert_eq!(evidence.since, Some(after(15)));
}

#[tokio::test]
async fn what_could_never_fire_is_an_error() {
    let metrics = Arc::new(Metrics::default());
    for limit in [
        Limit::Above(f64::NAN),
        Limit::AboveBaseline { factor: f64::INFINITY, baseline: Baseline::Fixed(1.0), floor: 0.0 },
    ] {
        let metric = Metric::Value("x".into());
        let trigger = Threshold::new(metrics.clone(), web("web"), metric, limit, Window::InARow(1));
        let error = trigger.evaluate(start(), &mut Memory::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
    let mut five = error_rate(metrics.clone(), web("web"), "errors", "requests");
    five.limit = Limit::Above(5.0);
    let mut never = error_rate(metrics, web("web"), "errors", "requests");
    never.window = Window::MOfN { m: 5, n: 3 };
    for trigger in [five, never] {
        assert!(trigger.evaluate(start(), &mut Memory::default()).await.is_err(), "{trigger:?}");
    }
}

fn samples() -> impl Strategy<Value = Vec<Option<f64>>> {
    let number = prop_oneof![4 => 0.0_f64..2.0, 1 => Just(f64::NAN), 1 => Just(f64::NEG_INFINITY), 1 => Just(f64::INFINITY)];
    prop::collection::vec(prop_oneof![5 => number.prop_map(Some), 1 => Just(None)], 1..80)
}

proptest! {
    #[test]
    fn it_fires_only_on_numbers_that_were_beyond_the_limit_all_the_time(samples in samples()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let fired = runtime.block_on(async {
            let metrics = Arc::new(Metrics::default());
            let (metric, window) = (Metric::Value("x".into()), Window::For(Duration::from_secs(45)));
            let mut watch = Watch::new(Threshold::new(metrics.clone(), web("web"), metric, Limit::Above(1.0), window));
            let mut fired = Vec::new();
            for sample in &samples {
                match sample {
                    Some(value) => metrics.set("x", *value),
                    None => metrics.answer("x", Ok(Vec::new())),
                }
                fired.push(is_firing(&watch.look().await));
            }
            fired
        });
        for (index, is_firing) in fired.into_iter().enumerate() {
            let before = &samples[..=index];
            let since = before.iter().rev().take_while(|sample| {
                sample.is_none_or(|value| !value.is_finite() || value > 1.0)
            });
            let beyond = since.flatten().filter(|value| value.is_finite()).count();
            if is_firing {
                prop_assert!(before[index].is_some_and(|value| value.is_finite() && value > 1.0));
                prop_assert!(beyond >= 2, "by {beyond} samples alone");
            } else if index >= 3 {
                let all = before[index - 3..].iter().all(|sample| sample.is_some_and(|v| v.is_finite() && v > 1.0));
                prop_assert!(!all, "45 s of breaches");
            }
        }
    }
}
