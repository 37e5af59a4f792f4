//! What a component says when something fails.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};

use rollback_core::{Access, Disposition, Error, Position};

use super::{able, apply, context, err, locate, ok, to_older};
use crate::Fixture;

const READ: [u16; 9] = [401, 403, 404, 408, 429, 500, 502, 503, 504];
const WRITE: [u16; 6] = [401, 403, 429, 500, 503, 504];

#[track_caller]
fn assert_as_core_says(error: &Error, status: u16, access: Access) {
    let expected = Error::from_http_status(status, None, access, "");
    let same = match expected.disposition() {
        Disposition::Temporary(_) => matches!(error.disposition(), Disposition::Temporary(_)),
        other => error.disposition() == other,
    };
    assert!(
        error.kind() == expected.kind() && same,
        "{status} to a {access:?} should be {:?}, {:?}: {error:?}",
        expected.kind(),
        expected.disposition()
    );
}

/// The status of a failed request gives the kind and the disposition that core has for it, and a request
/// that was turned down changed nothing.
pub async fn http_statuses_map_to_kind_and_disposition<F: Fixture>() {
    let fixture = F::new().await;
    let component = fixture.component().await;
    let changes = to_older(&fixture).await;
    let Some(change) = changes.first() else { panic!("prepare gave no change") };
    for status in READ {
        able("answer", fixture.answer(Access::Read, Some(status)).await);
        let error = err("history", component.history().await);
        fixture.answer(Access::Read, None).await;
        assert_as_core_says(&error, status, Access::Read);
    }
    let before = fixture.observe().await;
    for status in WRITE {
        able("answer", fixture.answer(Access::Write, Some(status)).await);
        let error = err("apply", apply(&fixture, change).await);
        fixture.answer(Access::Write, None).await;
        assert_as_core_says(&error, status, Access::Write);
        assert_eq!(locate(&fixture, change).await, Position::From, "after {status}");
        assert_eq!(fixture.observe().await, before, "after {status}");
    }
}

/// No secret is in the `Debug` of the component and of what it gives, in a summary, a warning, a line of
/// progress, or an error with its causes. (A diff holds values; who prints it masks them.)
pub async fn no_secret_is_shown<F: Fixture>() {
    let fixture = F::new().await;
    let secrets = able("secrets", fixture.secrets().await);
    assert!(!secrets.is_empty() && !secrets.iter().any(String::is_empty), "Fixture::secrets plants none");
    let component = fixture.component().await;
    let changes = to_older(&fixture).await;
    let Some(change) = changes.first() else { panic!("prepare gave no change") };

    let mut shown = vec![format!("{component:?}"), format!("{changes:?}")];
    shown.extend(changes.iter().flat_map(|change| change.warnings.clone()));
    shown.extend(changes.iter().flat_map(|change| [&change.from, &change.to].map(|s| s.summary.clone())));
    shown.push(format!("{:?}", ok("history", component.history().await)));
    shown.push(format!("{:?}", ok("status", component.status().await)));
    shown.extend(told(&err("prepare", component.prepare(&fixture.unknown()).await)));
    for status in [401, 500] {
        if fixture.answer(Access::Read, Some(status)).await.is_some() {
            shown.extend(told(&err("history", component.history().await)));
            fixture.answer(Access::Read, None).await;
        }
    }
    let progress = Arc::new(Mutex::new(Vec::new()));
    let sink = progress.clone();
    let cx = context(&fixture).with_progress(Arc::new(move |text| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }));
    ok("apply", component.apply(&cx, change).await);
    shown.push(format!("{:?}", ok("verify", component.verify(&cx, change).await)));
    able("edit_touched", fixture.edit_touched().await);
    shown.push(format!("{:?}", locate(&fixture, change).await));
    shown.extend(told(&err("apply", apply(&fixture, change).await)));
    shown.append(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));

    for text in shown {
        let Some(at) = secrets.iter().filter_map(|secret| text.find(secret.as_str())).min() else { continue };
        // What follows would show it once more, in the log of the test.
        panic!("a secret follows here: {}", text.get(..at).unwrap_or_default());
    }
}

fn told(error: &Error) -> Vec<String> {
    let mut texts = vec![error.to_string(), format!("{error:?}"), format!("{:?}", error.report())];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.extend([cause.to_string(), format!("{cause:?}")]);
        source = cause.source();
    }
    texts
}
