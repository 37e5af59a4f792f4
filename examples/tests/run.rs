//! The examples run, end by themselves, and tell what they promise.

// Each is included with its `main`, which only calls `tell`.
#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../custom_trigger.rs"]
mod custom_trigger;
#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../notifications.rs"]
mod notifications;
#[allow(dead_code, reason = "`main` is not called here")]
#[path = "../supervised_service.rs"]
mod supervised_service;

/// Whether all parts are told, in this order.
#[track_caller]
fn assert_told(told: &[u8], parts: &[&str]) {
    let told = String::from_utf8_lossy(told).into_owned();
    let mut rest = told.as_str();
    for part in parts {
        let next = rest.split_once(*part);
        assert!(next.is_some(), "{part:?} should come next in:\n{told}");
        rest = next.map_or("", |(_, after)| after);
    }
}

#[tokio::test]
async fn a_service_supervises_undoes_and_shuts_down() {
    let mut out = Vec::new();
    supervised_service::tell(&mut out).await.unwrap();
    let parts = [
        "GET /healthz  200 OK: alive",
        "GET /readyz   503 Service Unavailable: nothing is evaluated yet",
        "GET /readyz   200 OK: the supervisor evaluates",
        "POST /undo    200 OK: memory/web from v2 to v1: Completed",
        "POST /undo    409 Conflict: ",
        r#"In place is {"image":"web:1"}."#,
        "Everything has stopped.",
    ];
    assert_told(&out, &parts);
}

#[tokio::test]
async fn a_trigger_of_ones_own_fires_alone_combined_and_over_time() {
    let mut out = Vec::new();
    custom_trigger::tell(&mut out).await.unwrap();
    let parts = [
        "03:01:00Z: 900 messages wait",
        "too long           holds\n",
        "and not shrinking  holds\n",
        "for two minutes    holds\n",
        "03:02:00Z: 1500 messages wait",
        "too long           FIRES: 1500 messages wait, more than 1000\n",
        "and not shrinking  FIRES: 1500 messages wait, more than 1000, and ",
        "for two minutes    holds: it is beyond its limit since 2026-11-23T03:02:00Z",
        "03:04:00Z: 2100 messages wait",
        "too long           FIRES: 2100",
        "and not shrinking  holds\n",
        "for two minutes    FIRES: 2100.0000 is above 1000.0000 since 2026-11-23T03:02:00Z",
        "03:06:00Z: nobody knows how many messages wait",
        "too long           unknown: nobody knows how long the queue was at 2026-11-23T03:06:00Z",
        "and not shrinking  unknown: ",
        "for two minutes    unknown: ",
        "03:07:00Z: 3000 messages wait",
        "and not shrinking  unknown: nobody knows how long the queue was at 2026-11-23T03:06:00Z",
    ];
    assert_told(&out, &parts);
}

#[tokio::test]
async fn people_are_told_on_the_second_attempt() {
    let mut out = Vec::new();
    notifications::tell(&mut out).await.unwrap();
    let parts = [
        "1 message waits",
        "(the pager does not answer)",
        "new page: the rollback of memory/web from v2 to v1 is done and verified",
        "next: rollback show ",
        "0 messages are left",
        "on page 1: memory/web: all is well again",
        "0 messages are left.",
    ];
    assert_told(&out, &parts);
}
