//! The HTTP API.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, header, redirect};
use rollback_core::trigger::{Line, MetricSource, Point, Series};
use rollback_core::{Error, ErrorKind, Result, Timestamp, retry_read};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::config::PrometheusConfig;
use crate::error;

/// How many points a range has at most; the server refuses more than 11,000.
const MOST_POINTS: u32 = 1000;

/// A Prometheus. Cloning is cheap.
#[derive(Clone)]
pub struct Prometheus(Arc<Inner>);

struct Inner {
    client: Client,
    config: PrometheusConfig,
    base: Url,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

#[derive(Deserialize)]
struct Vector {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

#[derive(Deserialize)]
struct Matrix {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

impl Prometheus {
    /// Makes a client. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration cannot be used.
    pub fn new(config: PrometheusConfig) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        let base = config.base()?;
        // The one of the Kubernetes client; a program that has chosen another keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("rollback/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .connect_timeout(Duration::from_secs(5))
            // A redirect would take the credentials along.
            .redirect(redirect::Policy::none())
            .danger_accept_invalid_certs(config.insecure_tls);
        if let Some(path) = &config.ca_path {
            let bad =
                |why: String| invalid(format!("cannot use the certificates in {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
            if all.is_empty() {
                return Err(bad("there is none".into()));
            }
            client = client.tls_certs_only(all);
        }
        let client = client
            .build()
            .map_err(|e| invalid("the connection settings cannot be used".into()).with_source(e))?;
        Ok(Self(Arc::new(Inner { client, config, base })))
    }

    async fn ask(&self, path: &str, form: &[(&str, String)]) -> Result<Data> {
        let Inner { client, config, base } = &*self.0;
        let url = base.join(&format!("api/v1/{path}"));
        let url = url.map_err(|e| Error::new(ErrorKind::InvalidConfig, "no such address").with_source(e))?;
        let request = client.post(url).form(form);
        let request = match (&config.username, &config.password, &config.token) {
            (Some(user), password, _) => {
                request.basic_auth(user, password.as_ref().map(ExposeSecret::expose_secret))
            }
            (None, _, Some(token)) => request.bearer_auth(token.expose_secret()),
            (None, _, None) => request,
        };
        let response = request.send().await.map_err(error::from_reqwest)?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = response.text().await.map_err(error::from_reqwest)?;
        if !status.is_success() {
            return Err(error::from_response(status.as_u16(), retry_after, &body));
        }
        let Answer { data, warnings } = serde_json::from_str(&body).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the answer is not that of Prometheus")
                .with_source(e)
                .with_hint("check host, port and path")
        })?;
        // What is told of the query itself makes its answer no less whole.
        match warnings.into_iter().find(|warning| !warning.starts_with("PromQL")) {
            Some(warning) => {
                Err(Error::new(ErrorKind::Unavailable, format!("the answer is incomplete: {warning}")))
            }
            None => Ok(data),
        }
    }
}

/// A number as Prometheus writes it, which may be `NaN` or `+Inf`.
fn number(text: &str) -> Result<f64> {
    text.parse().map_err(|e| {
        Error::new(ErrorKind::Unexpected, format!("{text:?} is no number of Prometheus")).with_source(e)
    })
}

fn read<T: serde::de::DeserializeOwned>(result: Value) -> Result<T> {
    serde_json::from_value(result)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the answer is not that of Prometheus").with_source(e))
}

fn seconds(at: Timestamp) -> String {
    let millis = at.as_unix_millis();
    let sign = if millis < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", (millis / 1000).abs(), (millis % 1000).abs())
}

fn wrong_type(query: &str, kind: &str) -> Error {
    let message = format!("the query gives a {kind}, and not a number for each series: {query}");
    let error = Error::new(ErrorKind::InvalidConfig, message);
    if kind == "matrix" { error.with_hint("take a rate or an increase of it") } else { error }
}

#[async_trait]
impl MetricSource for Prometheus {
    async fn sample(&self, query: &str, at: Timestamp) -> Result<Vec<Series>> {
        let timeout = format!("{}ms", self.0.config.timeout.as_millis());
        let form = [("query", query.to_owned()), ("time", seconds(at)), ("timeout", timeout)];
        let Data { result_type, result } = retry_read(|| self.ask("query", &form)).await?;
        match result_type.as_str() {
            "vector" => {
                let all: Vec<Vector> = read(result)?;
                all.into_iter()
                    .map(|Vector { metric, value: (_, text) }| {
                        Ok(Series { labels: metric, value: number(&text)? })
                    })
                    .collect()
            }
            "scalar" => {
                let (_, text): (f64, String) = read(result)?;
                Ok(vec![Series::of(number(&text)?)])
            }
            kind => Err(wrong_type(query, kind)),
        }
    }

    async fn range(&self, query: &str, from: Timestamp, to: Timestamp, step: Duration) -> Result<Vec<Line>> {
        let step = step.max(to.since(from) / MOST_POINTS).max(Duration::from_millis(1));
        let form = [
            ("query", query.to_owned()),
            ("start", seconds(from)),
            ("end", seconds(to)),
            ("step", format!("{}", step.as_secs_f64())),
        ];
        let Data { result_type, result } = retry_read(|| self.ask("query_range", &form)).await?;
        if result_type != "matrix" {
            return Err(wrong_type(query, &result_type));
        }
        let all: Vec<Matrix> = read(result)?;
        let point = |(at, text): (f64, String)| {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a time in milliseconds is far from the limits"
            )]
            let at = Timestamp::from_unix_millis((at * 1000.0).round() as i64)?;
            Ok(Point { at, value: number(&text)? })
        };
        let line = |Matrix { metric, values }| {
            let points = values.into_iter().map(point).collect::<Result<_>>()?;
            Ok(Line { labels: metric, points })
        };
        all.into_iter().map(line).collect()
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus").field("config", &self.0.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_written_as_prometheus_does() {
        assert_eq!(seconds(Timestamp::from_unix_millis(1_795_444_785_047).unwrap()), "1795444785.047");
        assert_eq!(seconds(Timestamp::from_unix_millis(-1_500).unwrap()), "-1.500");
        assert!(number("NaN").unwrap().is_nan());
        assert_eq!((number("+Inf").unwrap(), number("0.049").unwrap()), (f64::INFINITY, 0.049));
        assert!(number("many").is_err());
    }
}
