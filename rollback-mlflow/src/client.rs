//! The registry's REST API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, header, redirect};
use rollback_core::{Access, Error, ErrorKind, Realm, Result, retry_read};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use crate::config::RegistryConfig;
use crate::error;
use crate::wire::{DownloadAnswer, ModelAnswer, ModelVersion, ModelsAnswer, RegisteredModel, SearchAnswer};

/// A connection to a model registry, shared by all components in it. Cloning is cheap.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    client: Client,
    config: RegistryConfig,
    url: Url,
}

impl Registry {
    /// Makes a client. No request is made yet.
    ///
    /// # Errors
    /// `InvalidConfig` when the configuration cannot be used.
    pub fn new(config: RegistryConfig) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        let url = config.url()?;
        // The one of the Kubernetes client; a program that has chosen another keeps it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(concat!("rollback/", env!("CARGO_PKG_VERSION")))
            .timeout(config.timeout)
            .connect_timeout(Duration::from_secs(5))
            // A redirect would take the credentials along, or turn a write into a read.
            .redirect(redirect::Policy::none())
            .danger_accept_invalid_certs(config.insecure_tls);
        if let Some(path) = &config.server_cert_path {
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
        Ok(Self(Arc::new(Inner { client, config, url })))
    }

    /// The registry's identity: its address.
    pub(crate) fn realm(&self) -> Realm {
        Realm::new(format!("mlflow:{}", self.0.url.as_str().trim_end_matches('/')))
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let url = self.0.url.join(&format!("api/2.0/mlflow/{path}"));
        let url = url.map_err(|e| Error::new(ErrorKind::InvalidConfig, "no such address").with_source(e))?;
        let request = self.0.client.request(method, url);
        let config = &self.0.config;
        Ok(match (&config.username, &config.password, &config.token) {
            (Some(user), Some(password), _) => request.basic_auth(user, Some(password.expose_secret())),
            (_, _, Some(token)) => request.bearer_auth(token.expose_secret()),
            // A user without a password counts for nothing, as for MLflow's own clients.
            (_, _, None) => request,
        })
    }

    async fn send<T: DeserializeOwned>(request: RequestBuilder, access: Access, what: &str) -> Result<T> {
        let response = request.send().await.map_err(|e| error::from_reqwest(e, access, what))?;
        let status = response.status();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = response.text().await.map_err(|e| error::from_reqwest(e, access, what))?;
        if !status.is_success() {
            return Err(error::from_response(status.as_u16(), retry_after, &body, access, what));
        }
        serde_json::from_str(&body).map_err(|e| {
            let told = Error::new(ErrorKind::Unexpected, format!("{what}: the answer is not MLflow's"))
                .with_source(e)
                .with_hint("check that the tracking URI is that of an MLflow server");
            if access == Access::Write { told.indeterminate() } else { told }
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)], what: &str) -> Result<T> {
        retry_read(async || {
            Self::send(self.request(Method::GET, path)?.query(query), Access::Read, what).await
        })
        .await
    }

    async fn write(&self, path: &str, body: &Value, what: &str) -> Result<Value> {
        Self::send(self.request(Method::POST, path)?.json(body), Access::Write, what).await
    }

    /// The names of all registered models.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn model_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut token = String::new();
        let size = self.0.config.page_size.to_string();
        loop {
            let mut query = vec![("max_results", size.as_str()), ("order_by", "name ASC")];
            if !token.is_empty() {
                query.push(("page_token", &token));
            }
            let page: ModelsAnswer =
                self.get("registered-models/search", &query, "listing the registered models").await?;
            names.extend(page.registered_models.into_iter().map(|model| model.name));
            if page.next_page_token.is_empty() {
                return Ok(names);
            }
            token = page.next_page_token;
        }
    }

    pub(crate) async fn model(&self, name: &str) -> Result<RegisteredModel> {
        let what = format!("reading model {name}");
        let answer: ModelAnswer = self.get("registered-models/get", &[("name", name)], &what).await?;
        Ok(answer.registered_model)
    }

    /// All versions, the highest number first. Each page begins below the last number of the one before: the server's own
    /// pages count from the first version, and so leave one out where another is deleted meanwhile.
    pub(crate) async fn versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        let what = format!("listing the versions of model {name}");
        // Filters have no escapes, but a choice of quotes.
        let quote = if name.contains('\'') { '"' } else { '\'' };
        let of_model = format!("name={quote}{name}{quote}");
        let mut filter = of_model.clone();
        let size = self.0.config.page_size.to_string();
        let mut all: Vec<ModelVersion> = Vec::new();
        loop {
            let query =
                [("filter", filter.as_str()), ("order_by", "version_number DESC"), ("max_results", &size)];
            let page: SearchAnswer = self.get("model-versions/search", &query, &what).await?;
            let before = all.last().map(ModelVersion::number);
            all.extend(page.model_versions);
            let last = all.last().map(ModelVersion::number);
            match last.filter(|_| !page.next_page_token.is_empty()) {
                None => return Ok(all),
                Some(last) if before.is_none_or(|before| last < before) => {
                    filter = format!("{of_model} AND version_number < {last}");
                }
                Some(last) => {
                    let message = format!("{what}: the server does not go on below version {last}");
                    return Err(Error::new(ErrorKind::Unexpected, message));
                }
            }
        }
    }

    pub(crate) async fn download_uri(&self, name: &str, version: &str) -> Result<String> {
        let what = format!("asking where version {version} of model {name} is");
        let query = [("name", name), ("version", version)];
        let answer: DownloadAnswer = self.get("model-versions/get-download-uri", &query, &what).await?;
        Ok(answer.artifact_uri)
    }

    pub(crate) async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        let body = json!({"name": name, "alias": alias, "version": version});
        let what = format!("moving alias {alias} of model {name} to version {version}");
        self.write("registered-models/alias", &body, &what).await.map(drop)
    }

    /// Archiving the others is only ever asked for where the server takes it: for any other stage it answers
    /// 500, each time.
    pub(crate) async fn transition(
        &self,
        name: &str,
        version: &str,
        stage: &str,
        archive: bool,
    ) -> Result<()> {
        let body = json!({
            "name": name, "version": version, "stage": stage, "archive_existing_versions": archive,
        });
        let what = format!("moving version {version} of model {name} to {stage}");
        let done = self.write("model-versions/transition-stage", &body, &what).await;
        done.map(drop).map_err(|error| match error.kind() {
            // The model was read there, so it is this path that is unknown.
            ErrorKind::InvalidConfig => Error::new(ErrorKind::Unsupported, "this server has no stages")
                .with_source(error)
                .with_hint("use an alias: --alias champion"),
            _ => error,
        })
    }

    /// Sets a tag of a version, or of the model itself.
    pub(crate) async fn tag(&self, name: &str, version: Option<&str>, key: &str, value: &str) -> Result<()> {
        let (path, body, what) = match version {
            None => (
                "registered-models/set-tag",
                json!({"name": name, "key": key, "value": value}),
                format!("tagging model {name}"),
            ),
            Some(version) => (
                "model-versions/set-tag",
                json!({"name": name, "version": version, "key": key, "value": value}),
                format!("tagging version {version} of model {name}"),
            ),
        };
        self.write(path, &body, &what).await.map(drop)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("config", &self.0.config).finish_non_exhaustive()
    }
}
