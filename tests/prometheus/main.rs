//! Triggers on a real Prometheus, which scrapes what the tests say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]
#![allow(clippy::disallowed_methods, reason = "real programs live in real time")]

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollback_core::trigger::{
    Line, Memory, MetricSource as _, Threshold, Trigger as _, Verdict, Window, error_rate,
};
use rollback_core::{Clock as _, ComponentId, Disposition, ErrorKind, SystemClock, Timestamp};
use rollback_prometheus::{Convention, Prometheus, PrometheusConfig};
use rollback_tests::PrometheusServer;

fn now() -> Timestamp {
    SystemClock.now()
}

fn prometheus(url: &str) -> Prometheus {
    Prometheus::new(PrometheusConfig::new(url)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sort_of_answer_is_told_apart() {
    let server = PrometheusServer::start().await;
    server.show(r#"x{version="1"}"#, 1.0);
    server.show(r#"x{version="2"}"#, 2.0);
    server.wait("x").await;
    let source = prometheus(server.url());
    let sample = async |query: &str| source.sample(query, now()).await;
    let values = async |query: &str| -> Vec<f64> {
        sample(query).await.unwrap().iter().map(|one| one.value).collect()
    };
    assert_eq!(values("sum(x)").await, [3.0]);
    assert_eq!(values("scalar(sum(x))").await, [3.0]);
    assert_eq!(values("x > 9").await, [0.0; 0]);
    assert!(values("sum(x) * 0 / 0").await[0].is_nan());
    assert_eq!(values("vector(1) / 0").await, [f64::INFINITY]);
    let all = sample("x").await.unwrap();
    let versions: Vec<_> = all.iter().map(|one| one.labels["version"].as_str()).collect();
    assert_eq!(versions, ["1", "2"]);

    for (query, kind, part) in [
        ("sum(((", ErrorKind::InvalidConfig, "unclosed left parenthesis"),
        ("", ErrorKind::InvalidConfig, "no expression found"),
        ("x[5s]", ErrorKind::InvalidConfig, "gives a matrix"),
        ("\"text\"", ErrorKind::InvalidConfig, "gives a string"),
        ("x * on(job) x", ErrorKind::Refused, "many-to-many"),
    ] {
        let error = sample(query).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{query}: {error:?}");
        assert!(error.to_string().contains(part), "{query}: {error}");
    }
    // One that takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = PrometheusConfig::new(format!("http://{}", silent.local_addr().unwrap()));
    config.timeout = Duration::from_millis(100);
    let error = Prometheus::new(config).unwrap().sample("x", now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(matches!(error.disposition(), Disposition::Temporary(_)), "{error:?}");
    let error = prometheus(&format!("{}/nowhere", server.url())).sample("x", now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    let error = prometheus("http://127.0.0.1:9").sample("x", now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");

    server.wait("count_over_time(x{version=\"1\"}[5s]) > 3").await;
    let begin = now().saturating_sub(Duration::from_secs(5));
    let lines = source.range("sum(x)", begin, now(), Duration::from_secs(1)).await.unwrap();
    let [Line { points, .. }] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(points.len() >= 3 && points.iter().all(|point| (point.value - 3.0).abs() < 1e-9), "{points:?}");
    assert!(points.windows(2).all(|two| two[0].at < two[1].at));
    let lines = source.range("x", begin, now(), Duration::from_secs(1)).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.labels["version"].as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let long = source.range(
        "vector(1)",
        begin.saturating_sub(Duration::from_secs(864_000)),
        now(),
        Duration::from_secs(1),
    );
    assert!(long.await.unwrap()[0].points.len() <= 1001, "the server refuses more than 11,000");
}

/// Evaluates every second until a verdict is as wanted; answers how long that took.
async fn until(
    trigger: &Threshold,
    memory: &mut Memory,
    wanted: fn(&Verdict) -> bool,
    most: u64,
) -> Duration {
    let begin = Instant::now();
    let component = &trigger.components()[0];
    loop {
        let verdict = trigger.evaluate(now(), memory).await.unwrap().of(component);
        if wanted(&verdict) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < Duration::from_secs(most), "{verdict:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn fires(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Firing(_))
}

fn holds(verdict: &Verdict) -> bool {
    *verdict == Verdict::Hold
}

fn is_unknown(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unknown(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_rate_fires_while_it_is_too_high_and_never_because_the_metric_is_missing() {
    let server = Arc::new(PrometheusServer::start().await);
    let bad = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // The first increment of a series is not seen by a rate.
    server.show(r#"http_server_request_duration_seconds_count{http_response_status_code="200"}"#, 0.0);
    let traffic = tokio::spawn({
        let (server, bad) = (server.clone(), bad.clone());
        async move {
            loop {
                server.add(
                    r#"http_server_request_duration_seconds_count{http_response_status_code="200"}"#,
                    10.0,
                );
                if bad.load(std::sync::atomic::Ordering::SeqCst) {
                    server.add(
                        r#"http_server_request_duration_seconds_count{http_response_status_code="503"}"#,
                        5.0,
                    );
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let web = ComponentId::new("deployment", Some("shop"), "web").unwrap();
    let [errors, requests] = Convention::HttpServer.error_rate(&[], &[], Duration::from_secs(5));
    let mut trigger = error_rate(Arc::new(prometheus(server.url())), web, errors, requests);
    trigger.interval = Duration::from_secs(1);
    trigger.window = Window::For(Duration::from_secs(4));
    let mut memory = Memory::default();
    // Well, without any series of errors: it holds, and is not unknown.
    until(&trigger, &mut memory, holds, 30).await;
    bad.store(true, std::sync::atomic::Ordering::SeqCst);
    let took = until(&trigger, &mut memory, fires, 30).await;
    assert!(took >= Duration::from_secs(4), "it fired after {took:?}");
    let Verdict::Firing(evidence) =
        trigger.evaluate(now(), &mut memory).await.unwrap().of(&trigger.components()[0])
    else {
        panic!("it fires still")
    };
    assert!(evidence.value.unwrap() > 0.05 && !evidence.points.is_empty(), "{evidence:?}");
    // A Prometheus that is gone is nothing to act on.
    server.kill();
    for _ in 0..4 {
        let verdict = trigger.evaluate(now(), &mut memory).await.unwrap().of(&trigger.components()[0]);
        assert!(is_unknown(&verdict), "{verdict:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    server.launch().await;
    until(&trigger, &mut memory, fires, 40).await;
    bad.store(false, std::sync::atomic::Ordering::SeqCst);
    until(&trigger, &mut memory, holds, 40).await;
    // The metric goes away while a breach is pending.
    bad.store(true, std::sync::atomic::Ordering::SeqCst);
    let is_pending = async |memory: &mut Memory| {
        let seen = trigger.evaluate(now(), memory).await.unwrap();
        assert!(seen.verdicts.is_empty(), "{seen:?}");
        !seen.is_well(&trigger.components()[0])
    };
    while !is_pending(&mut memory).await {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    traffic.abort();
    server.show_nothing();
    // What was shown before is in the queries for as long as they look back; then there is nothing.
    until(&trigger, &mut memory, is_unknown, 20).await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let verdict = trigger.evaluate(now(), &mut memory).await.unwrap().of(&trigger.components()[0]);
        assert!(is_unknown(&verdict), "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queries_of_each_convention_give_one_series() {
    let server = PrometheusServer::start().await;
    let conventions = [
        (
            Convention::HttpServer,
            "http_server_request_duration_seconds",
            "http_server_request_duration_seconds_count",
            r#"http_response_status_code="200""#,
            r#"http_response_status_code="500""#,
            "",
        ),
        (
            Convention::Istio,
            "istio_request_duration_milliseconds",
            "istio_requests_total",
            r#"response_code="200""#,
            r#"response_code="503""#,
            r#"reporter="destination","#,
        ),
        (
            Convention::NginxIngress,
            "nginx_ingress_controller_request_duration_seconds",
            "nginx_ingress_controller_requests",
            r#"status="200""#,
            r#"status="502""#,
            "",
        ),
        (
            Convention::Knative,
            "revision_app_request_latencies",
            "revision_app_request_count",
            r#"response_code_class="2xx""#,
            r#"response_code_class="5xx""#,
            "",
        ),
    ];
    for step in 0..9 {
        for (_, histogram, counter, good, bad, own) in conventions {
            let label = format!(r#"{own}ns="a \"b\"""#);
            let count = f64::from(step) * 100.0;
            server.show(&format!("{counter}{{{label},{good}}}"), count);
            server.show(&format!("{counter}{{{label},{bad}}}"), count / 10.0);
            // What others than the destination report does not count.
            let other = label.replace("destination", "source");
            if other != label {
                server.show(&format!("{counter}{{{other},{bad}}}"), count * 7.0);
            }
            for (le, share) in [("0.1", 0.5), ("1", 1.0), ("+Inf", 1.0)] {
                server.show(&format!("{histogram}_bucket{{{label},le=\"{le}\"}}"), count * share);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let source = prometheus(server.url());
    let labels = [("ns", "a \"b\"")];
    for (convention, ..) in conventions {
        server.wait(&convention.latency_p99(&labels, &[], Duration::from_secs(10))).await;
        let [errors, requests] = convention.error_rate(&labels, &[], Duration::from_secs(10));
        let value = async |query: &str| match source.sample(query, now()).await.unwrap().as_slice() {
            [one] => one.value,
            other => panic!("{convention:?} {query}: {other:?}"),
        };
        let ratio = value(&errors).await / value(&requests).await;
        assert!((ratio - 1.0 / 11.0).abs() < 0.01, "{convention:?}: {ratio}");
        let p99 = value(&convention.latency_p99(&labels, &[], Duration::from_secs(10))).await;
        assert!(p99 > 0.9 && p99 <= 1.0, "{convention:?}: {p99}");
    }
}

/// A server that answers every request the same, and says what it was sent.
fn answering(body: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 8192];
            let length = stream.read(&mut bytes).unwrap();
            let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    (url, receiver)
}

#[tokio::test]
async fn credentials_are_sent_and_what_is_incomplete_is_no_answer() {
    let whole = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]},"warnings":["PromQL info: x"]}"#;
    let (url, sent) = answering(whole);
    let mut config = PrometheusConfig::new(&url);
    config.token = Some("t0ken".into());
    let series = Prometheus::new(config.clone()).unwrap().sample("x", now()).await.unwrap();
    assert_eq!(series, [rollback_core::trigger::Series::of(2.0)]);
    assert!(sent.recv().unwrap().to_lowercase().contains("authorization: bearer t0ken"));
    config.username = Some("ann".into());
    config.password = Some("hunter2".into());
    Prometheus::new(config).unwrap().sample("x", now()).await.unwrap();
    assert!(sent.recv().unwrap().contains("Basic YW5uOmh1bnRlcjI="));

    let partial = r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["a store did not answer"]}"#;
    let error = prometheus(&answering(partial).0).sample("x", now()).await.unwrap_err();
    assert!(error.to_string().contains("incomplete: a store did not answer"), "{error:?}");
    let error = prometheus(&answering("<html>").0).sample("x", now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
}
