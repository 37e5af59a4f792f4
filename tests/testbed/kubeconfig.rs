//! Kubeconfig files and the clients made from them.

use std::path::Path;

use k8s_openapi::ByteString;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

/// Writes a kubeconfig. Without an authority the server is one of plain HTTP.
pub(crate) fn write(path: &Path, server: &str, authority: Option<&Path>, token: Option<&str>) {
    let cluster = match authority {
        Some(file) => json!({"server": server, "certificate-authority": file}),
        None => json!({"server": server}),
    };
    let user = token.map_or(json!({}), |token| json!({"token": token}));
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": cluster}],
        "users": [{"name": "testbed", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    });
    std::fs::write(path, kubeconfig.to_string()).expect("write a kubeconfig");
}

/// Reads a kubeconfig, with the client's own retries off: a test counts requests.
pub(crate) async fn read(path: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(path)
        .unwrap_or_else(|error| panic!("the kubeconfig {} can't be read: {error}", path.display()));
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap_or_else(|error| panic!("the kubeconfig {} is of no use: {error}", path.display()));
    config.default_retry = false;
    config
}

/// A client whose connections belong to the calling runtime.
pub(crate) fn client(config: &Config) -> Client {
    Client::try_from(config.clone()).expect("make a client of the testbed")
}

/// Bytes in the armour that certificates and keys are kept in.
pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    // ByteString is base64 in JSON: the one encoder that is at hand.
    let base64 = serde_json::to_value(ByteString(bytes.to_vec())).expect("base64");
    let base64 = base64.as_str().expect("base64 is a string");
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}
