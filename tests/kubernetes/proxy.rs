//! The proxy misbehaves exactly as told.

use std::time::{Duration, Instant};

use futures::AsyncReadExt as _;
use http::Request;
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, Testbed, objects};
use serde_json::{Value, json};

async fn setup(prefix: &str) -> (Namespace, FaultProxy, kube::Client) {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace(prefix).await;
    namespace.create(&objects::config_map("settings", &json!({"step": "0"}))).await;
    let proxy = testbed.proxy().await;
    let client = proxy.client().await;
    (namespace, proxy, client)
}

fn set(namespace: &Namespace, step: u32) -> Request<Vec<u8>> {
    Request::patch(namespace.path("ConfigMap", "settings"))
        .header("content-type", "application/merge-patch+json")
        .body(json!({"data": {"step": step.to_string()}}).to_string().into_bytes())
        .unwrap()
}

async fn step(namespace: &Namespace) -> String {
    namespace.get("ConfigMap", "settings").await["data"]["step"].as_str().unwrap().to_owned()
}

fn code(result: kube::Result<Value>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_are_forwarded_and_recorded() {
    let (namespace, proxy, client) = setup("record").await;
    client.request::<Value>(set(&namespace, 1)).await.unwrap();
    let path = namespace.path("ConfigMap", "settings");
    let read = Request::get(format!("{path}?timeout=9s")).body(Vec::new()).unwrap();
    assert_eq!(client.request::<Value>(read).await.unwrap()["data"]["step"], "1");

    let requests = proxy.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!((requests[0].method.as_str(), requests[0].path.as_str()), ("PATCH", path.as_str()));
    assert_eq!(requests[0].content_type, "application/merge-patch+json");
    assert_eq!(requests[0].json(), json!({"data": {"step": "1"}}));
    assert_eq!((requests[0].status, requests[1].query.as_str()), (Some(200), "timeout=9s"));
    assert_eq!(proxy.writes().len(), 1);
    proxy.clear();
    assert!(proxy.requests().is_empty());
}

#[tokio::test]
async fn a_dropped_response_has_had_its_effect_and_a_reset_has_none() {
    let (namespace, proxy, client) = setup("drop").await;
    proxy.fault(Matcher::method("PATCH").path("/configmaps/").nth(2), Fault::DropResponse);
    proxy.fault(Matcher::method("PATCH").body(r#""step":"3""#), Fault::Reset);
    client.request::<Value>(set(&namespace, 1)).await.unwrap();
    let error = client.request::<Value>(set(&namespace, 2)).await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    assert_eq!(step(&namespace).await, "2");
    let error = client.request::<Value>(set(&namespace, 3)).await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    assert_eq!(step(&namespace).await, "2");
    client.request::<Value>(set(&namespace, 4)).await.unwrap();

    let statuses: Vec<Option<u16>> = proxy.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [Some(200), Some(200), None, Some(200)]);
}

#[tokio::test]
async fn a_status_is_answered_in_the_server_s_place() {
    let (namespace, proxy, client) = setup("status").await;
    proxy.fault(Matcher::any().times(1), Fault::Status { code: 429, retry_after: Some(7) });
    let response = client.send(set(&namespace, 1).map(kube::client::Body::from)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(step(&namespace).await, "0");
    proxy.fault(Matcher::any(), Fault::Status { code: 503, retry_after: None });
    for _ in 0..2 {
        assert_eq!(code(client.request(set(&namespace, 1)).await), 503);
    }
}

#[tokio::test]
async fn delays_and_holds_put_a_request_off() {
    let (namespace, proxy, client) = setup("delay").await;
    proxy.fault(Matcher::method("PATCH").times(1), Fault::Delay(Duration::from_millis(300)));
    let begin = Instant::now();
    client.request::<Value>(set(&namespace, 1)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));

    let mut hold = proxy.hold(Matcher::method("PATCH"));
    let request = set(&namespace, 2);
    let call = tokio::spawn(async move { client.request::<Value>(request).await });
    hold.reached().await;
    assert_eq!(step(&namespace).await, "1");
    namespace.merge("ConfigMap", "settings", &json!({"data": {"step": "between"}})).await;
    hold.release();
    call.await.unwrap().unwrap();
    assert_eq!(step(&namespace).await, "2");
}

#[tokio::test]
async fn watches_stream_break_off_and_expire() {
    let (namespace, proxy, client) = setup("watch").await;
    let watch = || {
        let path = format!("{}?watch=true&resourceVersion=0", namespace.path("ConfigMap", ""));
        Request::get(path).body(Vec::new()).unwrap()
    };
    let mut bytes = [0; 20];
    let mut stream = std::pin::pin!(client.request_stream(watch()).await.unwrap());
    stream.read_exact(&mut bytes).await.unwrap();
    assert!(bytes.starts_with(br#"{"type":"ADDED""#));

    proxy.fault(Matcher::watch().times(1), Fault::CutStreamAfter(10));
    let mut stream = std::pin::pin!(client.request_stream(watch()).await.unwrap());
    stream.read_exact(&mut bytes[..10]).await.unwrap();
    assert!(stream.read(&mut bytes).await.is_err());

    proxy.fault(Matcher::any(), Fault::Gone);
    let mut text = String::new();
    std::pin::pin!(client.request_stream(watch()).await.unwrap()).read_to_string(&mut text).await.unwrap();
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(code(client.request(set(&namespace, 1)).await), 410);
}

#[tokio::test]
async fn kubectl_goes_through_the_proxy() {
    let (namespace, proxy, _) = setup("kubectl-proxy").await;
    let args = ["-n", namespace.name(), "patch", "configmap/settings", "-p", r#"{"data":{"step":"1"}}"#];
    Testbed::shared().await.kubectl_with(proxy.kubeconfig(), &args).await.ok();
    assert_eq!(step(&namespace).await, "1");
    assert_eq!(proxy.writes().len(), 1);
}
