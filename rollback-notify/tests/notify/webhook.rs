//! Webhooks, as a receiver sees them.

use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use rollback_core::{Clock, Disposition, ErrorKind, Notification, Notifier as _, Timestamp};
use rollback_notify::{SIGNATURE_HEADER, Webhook, WebhookConfig, verify_signature};
use serde_json::json;

use crate::server::{Recorded, Reply, Server};
use crate::{SECRET, all_of, at, notification};

const NOW: i64 = 1_795_444_785;

/// A clock that stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        at(NOW)
    }
}

fn webhook(server: &Server) -> Webhook {
    let mut config = WebhookConfig::new(format!("{}/{SECRET}?key={SECRET}", server.url()));
    config.secret = Some(SECRET.into());
    config.clock = Arc::new(Still);
    Webhook::new(config).unwrap()
}

/// As another receiver would, with another library.
fn is_signed(request: &Recorded) -> bool {
    let (time, sum) = request.header(SIGNATURE_HEADER).split_once(",v1=").unwrap();
    let time = time.strip_prefix("t=").unwrap();
    let sum: Vec<u8> =
        (0..sum.len()).step_by(2).map(|at| u8::from_str_radix(&sum[at..at + 2], 16).unwrap()).collect();
    let signed = [time.as_bytes(), b".", &request.body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    time == NOW.to_string() && hmac::verify(&key, &signed, &sum).is_ok()
}

#[tokio::test]
async fn a_receiver_gets_everything_and_knows_from_whom() {
    let server = Server::start([Reply::new(204, ""), Reply::new(200, "thanks")]).await;
    let message = notification("stuck");
    for _ in 0..2 {
        assert_eq!(webhook(&server).notify(&message, None).await.unwrap(), None);
    }
    for request in server.requests() {
        assert_eq!(
            (request.method.as_str(), request.path.clone()),
            ("POST", format!("/{SECRET}?key={SECRET}"))
        );
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("idempotency-key"), message.id);
        assert!(request.header("user-agent").starts_with("rollback/"), "{request:?}");
        let body = request.json();
        assert_eq!(body["version"], json!(1));
        assert_eq!(body["notification"]["event"], json!("stuck"));
        let received: Notification = serde_json::from_value(body["notification"].clone()).unwrap();
        assert_eq!(received, message);

        assert!(is_signed(&request), "{request:?}");
        let check = |secret: &str, now| {
            let signature = request.header(SIGNATURE_HEADER);
            verify_signature(secret.as_bytes(), signature, &request.body, at(now), Duration::from_secs(300))
        };
        check(SECRET, NOW + 5).unwrap();
        assert_eq!(check("other", NOW).unwrap_err().kind(), ErrorKind::Unauthenticated);
        assert_eq!(check(SECRET, NOW + 301).unwrap_err().kind(), ErrorKind::Unauthenticated);
    }
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed_and_every_id_fits_a_header() {
    let server = Server::start([Reply::new(200, "")]).await;
    let mut message = notification("test");
    message.id = "größe\n1".into();
    Webhook::new(WebhookConfig::new(server.url())).unwrap().notify(&message, None).await.unwrap();
    let request = server.request();
    assert_eq!(request.header(SIGNATURE_HEADER), "");
    assert_eq!(request.header("idempotency-key"), r"gr\u{f6}\u{df}e\n1");
    assert_eq!(request.json()["notification"]["id"], json!("größe\n1"));
}

#[tokio::test]
async fn what_may_pass_is_told_apart_and_no_redirect_is_followed() {
    let after = Disposition::Temporary(Some(Duration::from_secs(7)));
    for (status, kind, disposition) in [
        (301, ErrorKind::InvalidConfig, Disposition::Permanent),
        (307, ErrorKind::InvalidConfig, Disposition::Permanent),
        (308, ErrorKind::InvalidConfig, Disposition::Permanent),
        (400, ErrorKind::Refused, Disposition::Permanent),
        (401, ErrorKind::Unauthenticated, Disposition::Permanent),
        (403, ErrorKind::PermissionDenied, Disposition::Permanent),
        (404, ErrorKind::NotFound, Disposition::Permanent),
        (410, ErrorKind::NotFound, Disposition::Permanent),
        (408, ErrorKind::Timeout, after),
        (425, ErrorKind::Refused, after),
        (429, ErrorKind::RateLimited, after),
        (500, ErrorKind::Unavailable, after),
        (503, ErrorKind::Unavailable, after),
    ] {
        // Some servers repeat the address.
        let reply = Reply::new(status, format!("Cannot POST /{SECRET}")).with("Retry-After", "7");
        let server = Server::start([reply.with("Location", format!("/{SECRET}"))]).await;
        let webhook = webhook(&server);
        let error = webhook.notify(&notification("failed"), None).await.unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{status}: {error:?}");
        let host = server.url().trim_start_matches("http://");
        assert!(error.to_string().contains(host), "{error}");
        assert_eq!(webhook.name(), format!("webhook {host}"));
        assert!(!all_of(&error).contains(SECRET), "{error:?}");
        assert!(!format!("{webhook:?}").contains(SECRET), "{webhook:?}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn one_that_does_not_answer_is_tried_again() {
    let gone = Webhook::new(WebhookConfig::new(format!("http://127.0.0.1:9/{SECRET}"))).unwrap();
    let error = gone.notify(&notification("failed"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (ErrorKind::Unavailable, Disposition::Temporary(None)));
    assert!(!all_of(&error).contains(SECRET), "{error:?}");

    // One that takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = WebhookConfig::new(format!("http://{}/{SECRET}", silent.local_addr().unwrap()));
    config.timeout = Duration::from_millis(100);
    let error = Webhook::new(config).unwrap().notify(&notification("failed"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (ErrorKind::Timeout, Disposition::Temporary(None)));
    assert!(!all_of(&error).contains(SECRET), "{error:?}");
}
