//! Alertmanager, as 0.25 answers.

use std::collections::BTreeMap;

use rollback_core::{Alert, Disposition, ErrorKind, Notifier as _};
use rollback_notify::{Alertmanager, AlertmanagerConfig};
use serde_json::json;

use crate::server::{Reply, Server};
use crate::{SECRET, all_of, at, notification};

fn alert() -> Alert {
    let map = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Alert {
        labels: map(&[("alertname", "RollbackStuck"), ("app.kubernetes.io/name", "web"), ("scope", "")]),
        annotations: map(&[("summary", "web needs a human")]),
        starts_at: at(1_795_444_785),
        ends_at: at(1_795_445_085),
    }
}

fn alertmanager(server: &Server) -> Alertmanager {
    Alertmanager::new(AlertmanagerConfig::new(server.url())).unwrap()
}

#[tokio::test]
async fn it_is_told_what_stands_and_not_of_events() {
    // The body of a success is empty.
    let server = Server::start([Reply::new(200, "")]).await;
    let mut config = AlertmanagerConfig::new(format!("{}/prefix/", server.url()));
    config.token = Some(SECRET.into());
    let alertmanager = Alertmanager::new(config).unwrap();
    assert_eq!(alertmanager.notify(&notification("stuck"), None).await.unwrap(), None);
    alertmanager.alerts(&[]).await.unwrap();
    assert_eq!(server.requests().len(), 0);

    alertmanager.alerts(&[alert()]).await.unwrap();
    let request = server.request();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/prefix/api/v2/alerts"));
    assert_eq!(request.header("authorization"), format!("Bearer {SECRET}"));
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(
        request.json(),
        json!([{
            "labels": {"alertname": "RollbackStuck", "app_kubernetes_io_name": "web"},
            "annotations": {"summary": "web needs a human"},
            "startsAt": at(1_795_444_785).to_string(),
            "endsAt": at(1_795_445_085).to_string(),
        }])
    );
}

#[tokio::test]
async fn a_user_is_named_before_a_token() {
    let server = Server::start([Reply::new(200, "")]).await;
    let mut config = AlertmanagerConfig::new(server.url());
    config.username = Some("ann".into());
    config.password = Some(SECRET.into());
    config.token = Some("x".into());
    Alertmanager::new(config).unwrap().alerts(&[alert()]).await.unwrap();
    // ann:hunter2
    assert_eq!(server.request().header("authorization"), "Basic YW5uOmh1bnRlcjI=");
}

#[tokio::test]
async fn every_shape_of_an_error_is_told() {
    for (reply, kind, text) in [
        (
            Reply::new(400, r#""at least one label pair required""#),
            ErrorKind::Refused,
            "at least one label pair required",
        ),
        (
            Reply::new(422, r#"{"code":602,"message":"0.labels in body is required"}"#),
            ErrorKind::Refused,
            "0.labels in body is required",
        ),
        (Reply::new(401, ""), ErrorKind::Unauthenticated, "Alertmanager answered 401"),
        (
            Reply::new(404, "404 page not found\n"),
            ErrorKind::InvalidConfig,
            "there is no API of Alertmanager",
        ),
        (Reply::new(308, "").with("Location", "/elsewhere"), ErrorKind::InvalidConfig, "leads elsewhere"),
    ] {
        let server = Server::start([reply.clone()]).await;
        let error = alertmanager(&server).alerts(&[alert()]).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.disposition()),
            (kind, Disposition::Permanent),
            "{reply:?}: {error:?}"
        );
        assert!(error.to_string().contains(text), "{error:?}");
        assert_eq!(server.requests().len(), 1, "{reply:?}");
    }
    let server = Server::start([Reply::new(500, r#"{"code":500,"message":"disk full"}"#)]).await;
    let error = alertmanager(&server).alerts(&[alert()]).await.unwrap_err();
    assert_eq!(error.disposition(), Disposition::Temporary(None), "{error:?}");
    assert_eq!(error.to_string(), "Alertmanager answered 500: disk full");
    let gone = Alertmanager::new(AlertmanagerConfig::new("http://127.0.0.1:9")).unwrap();
    let error = gone.alerts(&[alert()]).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (ErrorKind::Unavailable, Disposition::Temporary(None)));
}

#[tokio::test]
async fn it_is_checked_by_its_status() {
    let status = json!({
        "cluster": {"status": "disabled"},
        "config": {"original": ""},
        "uptime": "2026-11-23T14:42:33.812Z",
        "versionInfo": {"version": "0.25.0"},
    });
    let server = Server::start([Reply::new(200, status.to_string())]).await;
    assert_eq!(alertmanager(&server).check().await.unwrap(), [""; 0]);
    assert_eq!(server.request().path, "/api/v2/status");
    for body in ["{}", "<html>", "", r#""ok""#] {
        let server = Server::start([Reply::new(200, body)]).await;
        let error = alertmanager(&server).check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{body}: {error:?}");
    }
    let server = Server::start([Reply::new(401, "")]).await;
    let mut config = AlertmanagerConfig::new(server.url());
    config.token = Some(SECRET.into());
    let error = Alertmanager::new(config).unwrap().check().await.unwrap_err();
    assert!(error.hint().is_some() && !all_of(&error).contains(SECRET), "{error:?}");
}
