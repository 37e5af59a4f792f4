//! By what a receiver knows that a webhook comes from who has the secret.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rollback_core::{Error, ErrorKind, Result, Timestamp};
use sha2::Sha256;

/// The header that has the signature: `t=1795444785,v1=` and 64 hexadecimal digits.
pub const SIGNATURE_HEADER: &str = "X-Rollback-Signature";

/// Checks that a body was signed with this secret, and when: for receivers of a [`Webhook`](crate::Webhook).
///
/// `signature` is the value of the header [`SIGNATURE_HEADER`], `body` what was received, byte for byte. `tolerated` is
/// how far the time of the signature may be from `now`, either way: five minutes are usual.
///
/// ```
/// use std::time::Duration;
///
/// use rollback_core::Timestamp;
/// use rollback_notify::verify_signature;
///
/// let body = br#"{"version":1}"#;
/// let signature = "t=1795444785,v1=b57efa86614bf68c2e38b22f7ddeef573c28f9e6e7e810a67382bbda74dfb389";
/// let now = Timestamp::from_unix_millis(1_795_444_790_000)?;
/// verify_signature(b"correct horse", signature, body, now, Duration::from_secs(300))?;
/// assert!(verify_signature(b"wrong horse", signature, body, now, Duration::from_secs(300)).is_err());
/// # Ok::<_, rollback_core::Error>(())
/// ```
///
/// # Errors
/// `Unauthenticated` when the signature does not fit, or is of another time; `InvalidConfig` when the secret is empty.
pub fn verify_signature(
    secret: &[u8],
    signature: &str,
    body: &[u8],
    now: Timestamp,
    tolerated: Duration,
) -> Result<()> {
    let wrong = |why: &str| Error::new(ErrorKind::Unauthenticated, format!("the signature {why}"));
    let mut time = None;
    let mut sums = Vec::new();
    for part in signature.split(',') {
        match part.trim().split_once('=') {
            Some(("t", value)) => time = Some(value),
            Some(("v1", value)) => sums.push(value),
            // What later versions add.
            _ => {}
        }
    }
    let time = time.ok_or_else(|| wrong("has no time"))?;
    let sum = keyed(secret)?.chain_update(time).chain_update(".").chain_update(body);
    let fits = |hex: &&str| unhex(hex).is_some_and(|bytes| sum.clone().verify_slice(&bytes).is_ok());
    if !sums.iter().any(fits) {
        return Err(wrong("does not fit the body").with_hint("both sides need the same secret"));
    }
    let at = time.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1000));
    let at = at.and_then(|at| Timestamp::from_unix_millis(at).ok()).ok_or_else(|| wrong("has no time"))?;
    if now.since(at).max(at.since(now)) > tolerated {
        return Err(wrong(&format!("is of {at}, which is too far from now")));
    }
    Ok(())
}

/// The signature of a body at a time, in seconds since 1970.
pub(crate) fn sign(secret: &[u8], seconds: i64, body: &[u8]) -> Result<String> {
    let sum = keyed(secret)?.chain_update(format!("{seconds}.")).chain_update(body).finalize().into_bytes();
    Ok(sum.iter().fold(format!("t={seconds},v1="), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// An empty secret is one that everybody knows.
fn keyed(secret: &[u8]) -> Result<Hmac<Sha256>> {
    let invalid = |why: &str| Error::new(ErrorKind::InvalidConfig, format!("the secret {why}"));
    if secret.is_empty() {
        return Err(invalid("is empty"));
    }
    Hmac::<Sha256>::new_from_slice(secret).map_err(|_| invalid("cannot be used"))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let byte = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"version":1}"#;
    const KNOWN: &str = "t=1795444785,v1=b57efa86614bf68c2e38b22f7ddeef573c28f9e6e7e810a67382bbda74dfb389";

    fn check(secret: &str, signature: &str, body: &[u8], now: i64) -> Result<()> {
        let now = Timestamp::from_unix_millis(now * 1000).unwrap();
        verify_signature(secret.as_bytes(), signature, body, now, Duration::from_secs(300))
    }

    #[test]
    fn a_signature_is_the_hmac_of_time_and_body() {
        assert_eq!(sign(b"correct horse", 1_795_444_785, BODY).unwrap(), KNOWN);
        assert_eq!(
            sign(b"hunter2", 0, b"").unwrap(),
            "t=0,v1=ff674d0f0e638fca0d9c85484ad4aa6aa736e93b1da416d30696a7e8827cee69"
        );
        assert_eq!(sign(b"", 0, b"").unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn what_does_not_fit_or_is_of_another_time_is_refused() {
        let now = 1_795_444_785;
        for seconds in [now, now + 300, now - 300] {
            check("correct horse", KNOWN, BODY, seconds).unwrap();
        }
        for seconds in [now + 301, now - 301] {
            let error = check("correct horse", KNOWN, BODY, seconds).unwrap_err();
            assert!(error.to_string().contains("too far from now"), "{error}");
        }
        check("wrong horse", KNOWN, BODY, now).unwrap_err();
        check("correct horse", KNOWN, b"{}", now).unwrap_err();
        check("correct horse", &KNOWN.replace("t=1795444785", "t=1795444786"), BODY, now).unwrap_err();
        for signature in ["", "t=1795444785", "t=1795444785,v1=", "t=1795444785,v1=b5", "v1=b57e", "t=x,v1=é"]
        {
            let error = check("correct horse", signature, BODY, now).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{signature}: {error}");
        }
    }

    #[test]
    fn one_of_several_signatures_suffices_and_what_is_unknown_is_passed_over() {
        let several = KNOWN.replace(",v1=", ",v0=00,v1=00,v1=");
        check("correct horse", &several, BODY, 1_795_444_785).unwrap();
        check("correct horse", &KNOWN.replace(',', ", "), BODY, 1_795_444_785).unwrap();
    }
}
