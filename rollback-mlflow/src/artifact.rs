//! Whether what a version refers to is still there.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt as _, RetryConfig};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// What to do where an artifact store cannot be asked. An artifact that is certainly absent is refused unless the
/// check is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ArtifactCheck {
    /// Refuse.
    Require,
    /// Go on, with a warning.
    #[default]
    Warn,
    /// Nothing is asked.
    Skip,
}

/// Settings of artifact stores beside those of the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on,
/// and MLflow's `MLFLOW_S3_ENDPOINT_URL`), under the names that the crate `object_store` has for them, such as
/// `aws_endpoint`. Values are never shown.
#[derive(Clone, Default)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Sets one.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    There,
    Absent,
    /// It cannot be told, and why.
    Unknown(String),
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Looks for anything below an artifact's location.
pub(crate) async fn look(uri: &str, options: &StoreOptions) -> Found {
    match timeout(PATIENCE, find(uri, options)).await {
        Ok(found) => found,
        Err(_) => Found::Unknown("its store does not answer".into()),
    }
}

async fn find(uri: &str, options: &StoreOptions) -> Found {
    let unknown = |why: String| Found::Unknown(why);
    let (scheme, rest) = uri.split_once(':').unwrap_or(("file", uri));
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    match scheme {
        "file" => {
            let is_uri = rest.len() < uri.len();
            let path = if is_uri { percent_decode_str(rest).decode_utf8_lossy() } else { rest.into() };
            match tokio::fs::metadata(Path::new(&*path)).await {
                Ok(_) => Found::There,
                Err(e) if e.kind() == ErrorKind::NotFound && path.starts_with('/') => {
                    // A path of the server's machine says nothing on this one.
                    unknown("it is a path that does not exist on this machine".into())
                }
                Err(e) => unknown(e.kind().to_string()),
            }
        }
        "s3" | "s3a" => {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            let mut builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
            if let Some(endpoint) = std::env::var("MLFLOW_S3_ENDPOINT_URL").ok().filter(|url| !url.is_empty())
            {
                builder = builder.with_endpoint(endpoint);
            }
            for (name, value) in &options.0 {
                // Others are for another store.
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
            let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
            match builder.with_allow_http(is_plain).build() {
                Ok(store) => list(&store, key).await,
                Err(error) => unknown(format!("its store cannot be asked: {error}")),
            }
        }
        other => elsewhere(other, uri, options).await,
    }
}

#[cfg(any(feature = "azure", feature = "gcp"))]
async fn elsewhere(_: &str, uri: &str, options: &StoreOptions) -> Found {
    let parsed = url::Url::parse(uri).map_err(|error| error.to_string());
    let store = parsed
        .and_then(|url| object_store::parse_url_opts(&url, &options.0).map_err(|error| error.to_string()));
    match store {
        Ok((store, path)) => list(&*store, path.as_ref()).await,
        Err(why) => Found::Unknown(why),
    }
}

#[cfg(not(any(feature = "azure", feature = "gcp")))]
#[allow(clippy::unused_async, reason = "as with those features")]
async fn elsewhere(scheme: &str, _: &str, _: &StoreOptions) -> Found {
    Found::Unknown(format!("stores of {scheme}: are not checked"))
}

/// A store knows no folders: anything below the path will do, and the crate ends the prefix with a slash, so that
/// `v4` is not found in `v40`. A model may be one object as well.
async fn list(store: &dyn ObjectStore, key: &str) -> Found {
    let key = match StorePath::parse(key.trim_matches('/')) {
        Ok(key) => key,
        Err(error) => return Found::Unknown(error.to_string()),
    };
    match store.list(Some(&key)).next().await {
        Some(Ok(_)) => Found::There,
        None if !key.as_ref().is_empty() => match store.head(&key).await {
            Ok(_) => Found::There,
            Err(object_store::Error::NotFound { .. }) => Found::Absent,
            Err(error) => Found::Unknown(format!("its store cannot be asked: {}", kind_of(&error))),
        },
        Some(Err(object_store::Error::NotFound { .. })) | None => Found::Absent,
        Some(Err(error)) if error.to_string().contains("NoSuchBucket") => Found::Absent,
        // Its text may quote the request; its kind says enough.
        Some(Err(error)) => Found::Unknown(format!("its store cannot be asked: {}", kind_of(&error))),
    }
}

fn kind_of(error: &object_store::Error) -> &'static str {
    match error {
        object_store::Error::PermissionDenied { .. } => "permission denied",
        object_store::Error::Unauthenticated { .. } => "no valid credentials",
        _ => "no answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_looked_for_and_what_cannot_be_asked_is_not_called_absent() {
        let none = StoreOptions::default();
        let shown = format!("{:?}", StoreOptions::default().with("aws_secret_access_key", "hunter2"));
        assert!(!shown.contains("hunter2"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a b%20c")).unwrap();
        let path = folder.path().display();
        for there in [format!("file://{path}/a%20b%2520c"), format!("{path}/a b%20c")] {
            assert_eq!(look(&there, &none).await, Found::There, "{there}");
        }
        assert_eq!(look("file:///", &none).await, Found::There);
        assert!(matches!(look("file:///no/such/folder", &none).await, Found::Unknown(_)));
        for elsewhere in ["dbfs:/", "mlflow-artifacts:/"] {
            assert!(matches!(look(elsewhere, &none).await, Found::Unknown(_)), "{elsewhere}");
        }
        assert_eq!(look("file:/", &none).await, Found::There);
        assert!(matches!(look("hdfs://h/x", &none).await, Found::Unknown(_)));
    }
}
