//! Queries for metrics that many services have under the same names.

use std::time::Duration;

/// Whose names the metrics have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// HTTP servers instrumented by OpenTelemetry: `http_server_request_duration_seconds`. Latency in seconds.
    HttpServer,
    /// Istio, as seen by the destination: `istio_requests_total`, `istio_request_duration_milliseconds`. Latency in
    /// milliseconds.
    Istio,
    /// The NGINX ingress controller: `nginx_ingress_controller_requests`. Latency in seconds.
    NginxIngress,
    /// Knative's queue proxy, through which KServe serves in Knative mode: `revision_app_request_count`,
    /// `revision_app_request_latencies`. Latency in milliseconds.
    Knative,
}

impl Convention {
    /// The queries for how many requests failed, with a status of 500 or above, and how many there were, in a time: for
    /// [`error_rate`](rollback_core::trigger::error_rate). `labels` say whose they are, such as
    /// `("namespace", "inflow-staging")`.
    pub fn error_rate(self, labels: &[(&str, &str)], window: Duration) -> [String; 2] {
        let (metric, status, own) = match self {
            Self::HttpServer => {
                ("http_server_request_duration_seconds_count", "http_response_status_code=~\"5..\"", None)
            }
            Self::Istio => {
                ("istio_requests_total", "response_code=~\"5..\"", Some(("reporter", "destination")))
            }
            Self::NginxIngress => ("nginx_ingress_controller_requests", "status=~\"5..\"", None),
            Self::Knative => ("revision_app_request_count", "response_code_class=\"5xx\"", None),
        };
        let labels: Vec<String> = own.iter().chain(labels).map(selector).collect();
        let window = seconds(window);
        let count = |more: &str| {
            let mut all = labels.clone();
            all.extend((!more.is_empty()).then(|| more.to_owned()));
            format!("sum(increase({metric}{{{}}}[{window}]))", all.join(","))
        };
        [count(status), count("")]
    }

    /// The query for the 99th percentile of the latency over a time: for
    /// [`latency_p99`](rollback_core::trigger::latency_p99).
    pub fn latency_p99(self, labels: &[(&str, &str)], window: Duration) -> String {
        let (metric, own) = match self {
            Self::HttpServer => ("http_server_request_duration_seconds_bucket", None),
            Self::Istio => ("istio_request_duration_milliseconds_bucket", Some(("reporter", "destination"))),
            Self::NginxIngress => ("nginx_ingress_controller_request_duration_seconds_bucket", None),
            Self::Knative => ("revision_app_request_latencies_bucket", None),
        };
        let labels: Vec<String> = own.iter().chain(labels).map(selector).collect();
        let (labels, window) = (labels.join(","), seconds(window));
        format!("histogram_quantile(0.99, sum by (le) (rate({metric}{{{labels}}}[{window}])))")
    }
}

fn selector((label, value): &(&str, &str)) -> String {
    let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!("{label}=\"{value}\"")
}

fn seconds(window: Duration) -> String {
    format!("{}s", window.as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        let labels = [("ns", "a\"} or vector(1) #\\")];
        let [errors, requests] = Convention::NginxIngress.error_rate(&labels, Duration::from_secs(300));
        assert_eq!(
            requests,
            r#"sum(increase(nginx_ingress_controller_requests{ns="a\"} or vector(1) #\\"}[300s]))"#
        );
        assert!(errors.contains(r#"#\\",status=~"5.."}"#), "{errors}");
    }
}
