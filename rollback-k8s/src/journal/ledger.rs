//! The ledger: for each component a Secret, because snapshots may hold what not everyone should see.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rollback_core::{
    ComponentId, Disposition, Error, ErrorKind, Fingerprint, Ledger, Note, Realm, Record, Result,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{KubernetesJournal, unusable};
use crate::cluster::MANAGER;
use crate::json;

/// How often what others have written meanwhile is read again.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

fn name(realm: &Realm, component: &ComponentId) -> String {
    let hash = Fingerprint::of(&json!([realm, component]));
    format!("rollback-ledger-{}", hash.as_str().trim_start_matches("sha256:").get(..32).unwrap_or_default())
}

fn decode(component: &ComponentId, secret: &Value) -> Result<Record> {
    let damaged = || {
        let message = format!("Secret {} does not hold what is known of {component}", json::name(secret));
        Error::new(ErrorKind::Journal, message)
            .with_hint("delete that Secret: marks and snapshots begin anew")
    };
    let text = json::text(secret, "/data/record").ok_or_else(damaged)?;
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| damaged().with_source(error))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged().with_source(error))
}

impl KubernetesJournal {
    async fn read_ledger(&self, realm: &Realm, component: &ComponentId) -> Result<Option<Value>> {
        let path = format!("{}/{}", self.secrets_path(), name(realm, component));
        match self.0.cluster.get(&path, "reading the ledger").await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(error)),
        }
    }
}

#[async_trait]
impl Ledger for KubernetesJournal {
    async fn record(&self, realm: &Realm, component: &ComponentId) -> Result<Record> {
        match self.read_ledger(realm, component).await? {
            Some(secret) => decode(component, &secret),
            None => Ok(Record::default()),
        }
    }

    async fn note(&self, realm: &Realm, component: &ComponentId, notes: Vec<Note>) -> Result<()> {
        const WHAT: &str = "writing the ledger";
        for _ in 0..ATTEMPTS {
            let secret = self.read_ledger(realm, component).await?;
            let mut record =
                secret.as_ref().map_or_else(|| Ok(Record::default()), |s| decode(component, s))?;
            for note in &notes {
                record.add(note.clone());
            }
            let bytes = serde_json::to_vec(&record).map_err(|error| {
                Error::new(ErrorKind::Journal, "what is known cannot be stored as JSON").with_source(error)
            })?;
            let version = secret.as_ref().and_then(|secret| json::text(secret, "/metadata/resourceVersion"));
            let object = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "rollback.dev/ledger",
                "metadata": {
                    "name": name(realm, component), "namespace": self.namespace(), "resourceVersion": version,
                    "labels": {"app.kubernetes.io/managed-by": MANAGER},
                    "annotations": {
                        "rollback.dev/realm": realm.as_str(), "rollback.dev/component": component.to_string(),
                    },
                },
                "data": {"record": BASE64_STANDARD.encode(bytes)},
            });
            let written = match version {
                Some(_) => {
                    let path = format!("{}/{}", self.secrets_path(), name(realm, component));
                    self.0.cluster.put(&path, &object, WHAT).await
                }
                None => self.0.cluster.post(&self.secrets_path(), &object, WHAT).await,
            };
            match written {
                Ok(_) => return Ok(()),
                // Somebody else was faster, or the answer was lost: noting it twice changes nothing.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) if error.disposition() == Disposition::Indeterminate => {}
                Err(error) => return Err(unusable(error)),
            }
            sleep(PAUSE).await;
        }
        Err(Error::new(ErrorKind::Journal, "the ledger is written by others all the time").temporary(None))
    }
}
