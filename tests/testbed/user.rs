//! Users without any right, for tests of RBAC.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::namespace::Namespace;
use crate::testbed::Testbed;
use crate::{control_plane, kubeconfig};

/// A user who may do nothing but what a test allows.
#[derive(Debug)]
pub struct RestrictedUser {
    testbed: &'static Testbed,
    name: String,
    subject: Value,
    token: String,
    kubeconfig: PathBuf,
    config: Config,
    _namespace: Option<Namespace>,
}

impl RestrictedUser {
    /// A user of the token file of our own API server.
    pub(crate) async fn from_token_file(testbed: &'static Testbed, index: usize) -> Self {
        assert!(index < control_plane::USERS, "more than {} users", control_plane::USERS);
        let (name, token) = control_plane::user(index);
        let subject = json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
        Self::with_token(testbed, name, subject, token, None).await
    }

    /// A service account of a cluster that has no users of ours.
    pub(crate) async fn from_service_account(testbed: &'static Testbed) -> Self {
        let namespace = testbed.namespace("user").await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "user"}});
        namespace.create(&account).await;
        let path = format!("{}/token", namespace.path("ServiceAccount", "user"));
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = namespace.request(Method::POST, &path, "application/json", request).await.unwrap();
        let token = answer["status"]["token"].as_str().expect("a token").to_owned();
        let subject = json!({"kind": "ServiceAccount", "name": "user", "namespace": namespace.name()});
        let name = format!("system:serviceaccount:{}:user", namespace.name());
        Self::with_token(testbed, name, subject, token, Some(namespace)).await
    }

    async fn with_token(
        testbed: &'static Testbed,
        name: String,
        subject: Value,
        token: String,
        namespace: Option<Namespace>,
    ) -> Self {
        let (kubeconfig, config) = testbed.kubeconfig_of(&name, &token).await;
        Self { testbed, name, subject, token, kubeconfig, config, _namespace: namespace }
    }

    /// The user's name, as the API server and RBAC know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The subject of a `RoleBinding` to this user.
    pub fn subject(&self) -> &Value {
        &self.subject
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The user's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the user, for the calling runtime.
    pub fn client(&self) -> Client {
        kubeconfig::client(&self.config)
    }

    /// Adds rules, as a Role has them, in a namespace, and waits until the server honours them.
    pub async fn allow(&self, namespace: &Namespace, rules: &Value) {
        self.bind(namespace, "Role", rules).await;
    }

    /// Adds rules, as a `ClusterRole` has them, in the whole cluster, and waits until the server
    /// honours them.
    pub async fn allow_everywhere(&self, namespace: &Namespace, rules: &Value) {
        self.bind(namespace, "ClusterRole", rules).await;
    }

    async fn bind(&self, namespace: &Namespace, kind: &str, rules: &Value) {
        let api = "rbac.authorization.k8s.io";
        let role = self.testbed.unique("role");
        let mut object = json!({"apiVersion": format!("{api}/v1"), "kind": kind, "metadata": {"name": role}});
        object["rules"] = rules.clone();
        namespace.create(&object).await;
        namespace
            .create(&json!({
                "apiVersion": format!("{api}/v1"), "kind": format!("{kind}Binding"),
                "metadata": {"name": role}, "subjects": [self.subject],
                "roleRef": {"apiGroup": api, "kind": kind, "name": role},
            }))
            .await;
        self.wait_until_allowed(namespace, kind == "ClusterRole", rules).await;
    }

    /// The authorizer learns of roles from a watch, a moment after they are written.
    async fn wait_until_allowed(&self, namespace: &Namespace, everywhere: bool, rules: &Value) {
        let rule = rules.as_array().and_then(|rules| rules.last()).expect("a rule");
        let (resource, subresource) = {
            let text = rule["resources"][0].as_str().expect("a rule of resources");
            text.split_once('/').unwrap_or((text, ""))
        };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": self.name,
            "resourceAttributes": {
                "namespace": if everywhere { "" } else { namespace.name() },
                "verb": rule["verbs"][0], "group": rule["apiGroups"][0],
                "resource": resource, "subresource": subresource, "name": rule["resourceNames"][0],
            },
        }});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        for _ in 0..200 {
            let answer =
                namespace.request(Method::POST, path, "application/json", review.clone()).await.unwrap();
            if answer["status"]["allowed"] == true {
                return;
            }
            self.testbed.pause(Duration::from_millis(25)).await;
        }
        panic!("{} is still not allowed {rule}", self.name);
    }
}
