//! Health probes: what asks pods and addresses whether they are well, for the
//! [`HealthCheck`](rollback_core::trigger::HealthCheck) of `rollback-core`. Behind the feature `probe`.
//!
//! - [`PodProbe`] asks each pod of a [`Workload`](crate::Workload), and names it as a restart takes it.
//! - [`AddressProbe`] asks one address.
//! - [`HttpCheck`] says how either is asked over HTTP, and what is a good answer.
//!
//! No proxy is used, no redirect is followed, no cookie is kept, and each probe makes a connection of its own.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use rollback_k8s::probe::{AddressProbe, HttpCheck, PodProbe};
//!
//! # fn example(web: rollback_k8s::Workload, token: &str) -> rollback_core::Result<()> {
//! let mut check = HttpCheck::new("/v2/health/ready");
//! check.headers.insert("Authorization".into(), format!("Bearer {token}").into());
//! let by_http = PodProbe::http(&web, 8080, check)?.with_grace(Duration::from_secs(300));
//! let by_tcp = PodProbe::tcp(&web, "grpc", Duration::from_secs(2))?;
//! let by_readiness = PodProbe::readiness(&web);
//! let outside = AddressProbe::http("https://shop.example.com/healthz", HttpCheck::default())?;
//! # Ok(())
//! # }
//! ```

mod address;
mod http;
mod pods;

use std::net::SocketAddr;
use std::time::Duration;

use rollback_core::trigger::Health;
use rollback_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

pub use self::http::{HttpCheck, Scheme};
pub use address::AddressProbe;
pub use pods::{PodPort, PodProbe};

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn refuse_no_time(limit: Duration) -> Result<()> {
    if limit.is_zero() { Err(invalid("a probe takes some time, and its timeout is none")) } else { Ok(()) }
}

/// What an exchange gives that began then and may take so long.
async fn within(limit: Duration, begin: Instant, exchange: impl Future<Output = Health>) -> Health {
    let rest = limit.saturating_sub(begin.elapsed());
    let late = || Health::Failed(format!("there was no answer within {limit:?}"));
    timeout(rest, exchange).await.unwrap_or_else(|_| late())
}

/// Whether one of these takes a connection.
async fn connect(addresses: &[SocketAddr]) -> Health {
    if addresses.is_empty() {
        return Health::Unknown("it has no address".into());
    }
    // Side by side: one address that swallows packets must not use up the time of the others.
    let tries = addresses.iter().map(|address| Box::pin(TcpStream::connect(*address)));
    match futures::future::select_ok(tries).await {
        Ok(_) => Health::Healthy,
        Err(error) => Health::Failed(format!("cannot be reached: {error}")),
    }
}
