//! Repeating one request that certainly had no effect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::sleep;

use crate::{Disposition, Result};

/// The longest pause that a server may ask for before a read fails instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Makes a request that only reads, and repeats it up to three times while it fails for the moment: the one
/// place outside a step where a request is repeated. Waits as long as the server asks, at most 10 s, else
/// 0.2 s and longer each time, with jitter.
///
/// ```
/// # async fn example(registry: Registry) -> rollback_core::Result<u32> {
/// let version = rollback_core::retry_read(|| registry.version()).await?;
/// # Ok(version)
/// # }
/// # struct Registry;
/// # impl Registry { async fn version(&self) -> rollback_core::Result<u32> { Ok(4) } }
/// ```
///
/// # Errors
/// The last error, or the first that is not [`Disposition::Temporary`].
pub async fn retry_read<T, F>(mut read: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200));
    let mut pauses = backoff.with_max_times(3).with_jitter().build();
    loop {
        let error = match read().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Disposition::Temporary(after) = error.disposition() else { return Err(error) };
        match (pauses.next(), after.unwrap_or_default()) {
            (Some(pause), after) if after <= LONGEST_PAUSE => sleep(pause.max(after)).await,
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    async fn attempts(disposition: Disposition) -> u32 {
        let mut attempts = 0;
        let error = retry_read(|| {
            attempts += 1;
            let error = Error::new(ErrorKind::Unavailable, "x");
            std::future::ready(Err::<(), _>(match disposition {
                Disposition::Temporary(after) => error.temporary(after),
                Disposition::Indeterminate => error.indeterminate(),
                _ => error,
            }))
        })
        .await
        .unwrap_err();
        assert_eq!(error.disposition(), disposition);
        attempts
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_passes_is_repeated_and_not_for_long() {
        assert_eq!(attempts(Disposition::Temporary(None)).await, 4);
        assert_eq!(attempts(Disposition::Temporary(Some(Duration::from_secs(60)))).await, 1);
        assert_eq!(attempts(Disposition::Permanent).await, 1);
        assert_eq!(attempts(Disposition::Indeterminate).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_asked_again_when_it_says_so() {
        let begun = tokio::time::Instant::now();
        let mut failures = 1;
        let read = retry_read(|| {
            if failures == 0 {
                return std::future::ready(Ok(begun.elapsed()));
            }
            failures -= 1;
            let busy = Error::new(ErrorKind::RateLimited, "x").temporary(Some(Duration::from_secs(5)));
            std::future::ready(Err(busy))
        });
        assert!(read.await.unwrap() >= Duration::from_secs(5));
    }
}
