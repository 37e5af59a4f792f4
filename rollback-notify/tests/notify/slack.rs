//! Slack, as its documentation says that it answers.

use std::time::Duration;

use rollback_core::{Disposition, ErrorKind, Notifier as _};
use rollback_notify::{Slack, SlackConfig};
use serde_json::{Value, json};

use crate::server::{Reply, Server};
use crate::{SECRET, all_of, notification};

fn bot(server: &Server) -> Slack {
    let mut config = SlackConfig::bot("#incidents", format!("xoxb-{SECRET}"));
    config.api_url = Some(format!("{}/api", server.url()));
    Slack::new(config).unwrap()
}

fn webhook(server: &Server) -> Slack {
    Slack::new(SlackConfig::webhook(format!("{}/services/T/B/{SECRET}", server.url()))).unwrap()
}

/// The answer to a message, which may be in a thread.
fn posted(ts: &str, thread: Option<&str>) -> Reply {
    let mut message = json!({"text": "x", "ts": ts});
    if let Some(thread) = thread {
        message["thread_ts"] = thread.into();
    }
    Reply::new(200, json!({"ok": true, "channel": "C123", "ts": ts, "message": message}).to_string())
}

fn refused(word: &str) -> Reply {
    Reply::new(200, json!({"ok": false, "error": word}).to_string())
}

#[tokio::test]
async fn what_belongs_together_is_one_thread() {
    let root = "1700000000.000100";
    let server = Server::start([
        posted(root, None),
        posted("1700000001.000200", Some(root)),
        posted("1700000002.000300", Some(root)),
    ])
    .await;
    let slack = bot(&server);
    let thread = slack.notify(&notification("started"), None).await.unwrap();
    assert_eq!(thread.as_deref(), Some("C123 1700000000.000100"));
    for event in ["converged", "stuck"] {
        let again = slack.notify(&notification(event), thread.as_deref()).await.unwrap();
        assert_eq!(again, thread, "{event}");
    }

    let requests = server.requests();
    for request in &requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/api/chat.postMessage"));
        assert_eq!(request.header("authorization"), format!("Bearer xoxb-{SECRET}"));
        assert_eq!(request.header("content-type"), "application/json; charset=utf-8");
        assert!(request.header("user-agent").starts_with("rollback/"), "{request:?}");
    }
    let [first, second, third] = [0, 1, 2].map(|index: usize| requests[index].json());
    assert_eq!(first["channel"], "#incidents");
    assert_eq!(first["text"], "Started: web returns to 2 &amp; stays &lt;!here&gt;");
    assert!(first["blocks"].is_array(), "{first}");
    assert_eq!((&first["thread_ts"], &first["reply_broadcast"]), (&Value::Null, &Value::Null));
    assert_eq!((&second["channel"], &second["thread_ts"]), (&json!("C123"), &json!(root)));
    assert_eq!(second["reply_broadcast"], Value::Null);
    assert_eq!((&third["thread_ts"], &third["reply_broadcast"]), (&json!(root), &json!(true)));
}

#[tokio::test]
async fn a_thread_that_was_deleted_begins_anew() {
    let old = Some("C123 1700000000.000100");
    // Slack posts the reply by itself, and says so by what it leaves out.
    let server = Server::start([posted("1700000009.000900", None)]).await;
    let new = bot(&server).notify(&notification("stuck"), old).await.unwrap();
    assert_eq!(new.as_deref(), Some("C123 1700000009.000900"));

    let server = Server::start([refused("thread_not_found"), posted("1700000009.000900", None)]).await;
    let new = bot(&server).notify(&notification("stuck"), old).await.unwrap();
    assert_eq!(new.as_deref(), Some("C123 1700000009.000900"));
    let again = server.requests()[1].json();
    assert_eq!((&again["channel"], &again["thread_ts"]), (&json!("#incidents"), &Value::Null));
}

#[tokio::test]
async fn the_words_of_slack_become_errors_with_a_way_out() {
    for (word, kind, hint) in [
        ("channel_not_found", ErrorKind::NotFound, "invite"),
        ("not_in_channel", ErrorKind::PermissionDenied, "invite"),
        ("invalid_auth", ErrorKind::Unauthenticated, "xoxb"),
        ("is_archived", ErrorKind::Refused, "archive"),
        ("invalid_blocks", ErrorKind::Unexpected, "report"),
    ] {
        let server = Server::start([refused(word)]).await;
        let error = bot(&server).notify(&notification("failed"), None).await.unwrap_err();
        assert_eq!((error.kind(), error.disposition()), (kind, Disposition::Permanent), "{error:?}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        assert!(!all_of(&error).contains(SECRET), "{error:?}");
        assert_eq!(server.requests().len(), 1);
    }
    let scope =
        json!({"ok": false, "error": "missing_scope", "needed": "chat:write", "provided": "identify"});
    let server = Server::start([Reply::new(200, scope.to_string())]).await;
    let error = bot(&server).notify(&notification("failed"), None).await.unwrap_err();
    assert_eq!(error.to_string(), "the bot token has not the scope chat:write");
}

#[tokio::test]
async fn what_passes_is_told_with_its_time() {
    let limited = || refused("ratelimited").with("Retry-After", "30");
    for (reply, kind, after) in [
        (Reply::new(429, "").with("Retry-After", "30"), ErrorKind::RateLimited, Some(30)),
        (limited(), ErrorKind::RateLimited, Some(30)),
        (Reply::new(429, "").with("Retry-After", "999999999"), ErrorKind::RateLimited, Some(3600)),
        (
            Reply::new(429, "").with("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ErrorKind::RateLimited,
            None,
        ),
        (refused("internal_error"), ErrorKind::Unavailable, None),
        (Reply::new(503, "<html>"), ErrorKind::Unavailable, None),
    ] {
        let server = Server::start([reply.clone()]).await;
        let error = bot(&server).notify(&notification("failed"), None).await.unwrap_err();
        let disposition = Disposition::Temporary(after.map(Duration::from_secs));
        assert_eq!((error.kind(), error.disposition()), (kind, disposition), "{reply:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_bot_is_checked_without_a_message() {
    let well = || Reply::new(200, json!({"ok": true, "user": "rollback"}).to_string());
    for (reply, is_fine) in [
        (well(), true),
        (well().with("X-OAuth-Scopes", "channels:read,chat:write"), true),
        (well().with("X-OAuth-Scopes", "channels:read"), false),
    ] {
        let server = Server::start([reply]).await;
        assert_eq!(bot(&server).check().await.is_ok(), is_fine);
        assert_eq!(server.request().path, "/api/auth.test");
    }
    let server = Server::start([refused("token_revoked")]).await;
    assert_eq!(bot(&server).check().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let server = Server::start([Reply::new(200, "<html>")]).await;
    assert_eq!(bot(&server).check().await.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_webhook_has_no_threads_and_says_that_a_channel_has_no_effect() {
    let server = Server::start([Reply::new(200, "ok")]).await;
    let thread =
        webhook(&server).notify(&notification("stuck"), Some("C123 1700000000.000100")).await.unwrap();
    assert_eq!(thread, None);
    let request = server.request();
    assert_eq!(
        (request.path.as_str(), request.header("authorization")),
        (format!("/services/T/B/{SECRET}").as_str(), "")
    );
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!((&body["thread_ts"], &body["channel"]), (&Value::Null, &Value::Null));
    assert!(body["blocks"].is_array() && body["text"].is_string(), "{body}");

    let mut config = SlackConfig::webhook(format!("{}/services/T/B/{SECRET}", server.url()));
    assert_eq!(Slack::new(config.clone()).unwrap().check().await.unwrap(), [""; 0]);
    config.channel = Some("#incidents".into());
    let notes = Slack::new(config).unwrap().check().await.unwrap();
    assert!(notes.len() == 1 && notes[0].contains("#incidents has no effect"), "{notes:?}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_address_of_a_webhook_is_in_no_error() {
    for (reply, kind) in [
        (Reply::new(404, "no_service"), ErrorKind::NotFound),
        (Reply::new(400, "invalid_payload"), ErrorKind::Unexpected),
        (Reply::new(403, "action_prohibited"), ErrorKind::PermissionDenied),
        (Reply::new(410, "channel_is_archived"), ErrorKind::Refused),
        (Reply::new(404, format!("Cannot POST /services/T/B/{SECRET}")), ErrorKind::NotFound),
        (Reply::new(429, "").with("Retry-After", "1"), ErrorKind::RateLimited),
        (Reply::new(302, "").with("Location", format!("/elsewhere/{SECRET}")), ErrorKind::InvalidConfig),
    ] {
        let server = Server::start([reply.clone()]).await;
        let slack = webhook(&server);
        let error = slack.notify(&notification("failed"), None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reply:?}: {error:?}");
        assert!(!all_of(&error).contains(SECRET), "{error:?}");
        assert!(!format!("{slack:?} {}", slack.name()).contains(SECRET), "{slack:?}");
        // No redirect is followed.
        assert_eq!(server.requests().len(), 1, "{reply:?}");
    }
    let gone = Slack::new(SlackConfig::webhook(format!("http://127.0.0.1:9/services/T/B/{SECRET}"))).unwrap();
    let error = gone.notify(&notification("failed"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (ErrorKind::Unavailable, Disposition::Temporary(None)));
    assert!(!all_of(&error).contains(SECRET), "{error:?}");

    // One that takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = SlackConfig::webhook(format!("http://{}/{SECRET}", silent.local_addr().unwrap()));
    config.timeout = Duration::from_millis(100);
    let error = Slack::new(config).unwrap().notify(&notification("failed"), None).await.unwrap_err();
    assert_eq!((error.kind(), error.disposition()), (ErrorKind::Timeout, Disposition::Temporary(None)));
    assert!(!all_of(&error).contains(SECRET), "{error:?}");
}
