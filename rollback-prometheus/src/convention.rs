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
    /// The queue proxy of Knative before 1.19, through which KServe serves in Knative mode: `revision_app_request_count`,
    /// `revision_app_request_latencies`. Latency in milliseconds. Later ones have other names, which are not here yet.
    Knative,
}

impl Convention {
    /// The queries for how many requests failed, with a status of 500 or above, and how many there were, in a time: for
    /// [`error_rate`](rollback_core::trigger::error_rate). `labels` say whose they are, such as
    /// `("namespace", "inflow-staging")`; `by` names the labels that tell apart the series of several components.
    ///
    /// `window` is how far each query looks back: best a minute, however long a breach has to last.
    pub fn error_rate(self, labels: &[(&str, &str)], by: &[&str], window: Duration) -> [String; 2] {
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
        let labels = selectors(own, labels);
        let (window, by) = (seconds(window), grouping(by));
        let count = |more: &str| {
            let mut all = labels.clone();
            all.extend((!more.is_empty()).then(|| more.to_owned()));
            format!("sum{by}(increase({metric}{{{}}}[{window}]))", all.join(","))
        };
        [count(status), count("")]
    }

    /// The query for the 99th percentile of the latency over a time: for
    /// [`latency_p99`](rollback_core::trigger::latency_p99).
    pub fn latency_p99(self, labels: &[(&str, &str)], by: &[&str], window: Duration) -> String {
        let (metric, own) = match self {
            Self::HttpServer => ("http_server_request_duration_seconds_bucket", None),
            Self::Istio => ("istio_request_duration_milliseconds_bucket", Some(("reporter", "destination"))),
            Self::NginxIngress => ("nginx_ingress_controller_request_duration_seconds_bucket", None),
            Self::Knative => ("revision_app_request_latencies_bucket", None),
        };
        let (labels, window) = (selectors(own, labels).join(","), seconds(window));
        let by = grouping(&[&["le"], by].concat());
        format!("histogram_quantile(0.99, sum{by}(rate({metric}{{{labels}}}[{window}])))")
    }
}

/// Those of the convention, unless the caller has another value for one.
fn selectors(own: Option<(&str, &str)>, labels: &[(&str, &str)]) -> Vec<String> {
    let own = own.filter(|(label, _)| labels.iter().all(|(other, _)| other != label));
    own.iter().chain(labels).map(selector).collect()
}

fn grouping(by: &[&str]) -> String {
    if by.is_empty() { String::new() } else { format!(" by ({}) ", by.join(", ")) }
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
        let [errors, requests] = Convention::NginxIngress.error_rate(&labels, &[], Duration::from_secs(60));
        assert_eq!(
            requests,
            r#"sum(increase(nginx_ingress_controller_requests{ns="a\"} or vector(1) #\\"}[60s]))"#
        );
        assert!(errors.contains(r#"#\\",status=~"5.."}"#), "{errors}");
    }

    #[test]
    fn series_are_told_apart_by_labels_and_a_caller_may_ask_the_source() {
        let labels = [("reporter", "source")];
        let p99 = Convention::Istio.latency_p99(&labels, &["destination_workload"], Duration::from_secs(60));
        assert_eq!(
            p99,
            r#"histogram_quantile(0.99, sum by (le, destination_workload) (rate(istio_request_duration_milliseconds_bucket{reporter="source"}[60s])))"#
        );
    }
}
