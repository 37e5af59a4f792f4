//! With exactly the rights that the manifests give, each operation works; with fewer, it says which is missing.

use std::time::Duration;

use rollback_core::{ErrorKind, Outcome, Rollbackable, RunId, StepContext, StepId, Target};
use rollback_tests::{RestrictedUser, Testbed};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{connect, deploy, predictor, service, undo, with_models};

/// The rules of a role that is shipped.
fn rules(role: &str) -> Value {
    let roles = include_str!("../../rollback-kserve/rbac/roles.yaml");
    let mut documents =
        serde_yaml_ng::Deserializer::from_str(roles).map(|role| Value::deserialize(role).unwrap());
    documents.find(|document| document["metadata"]["name"] == role).unwrap()["rules"].clone()
}

#[tokio::test]
async fn each_operation_takes_the_rights_that_are_shipped_and_no_more() {
    for mode in ["Knative", "Standard"] {
        let namespace = with_models(mode, &["v4", "v5"]).await;
        let user = async |role: &str| -> RestrictedUser {
            let user = Testbed::shared().await.user().await;
            user.allow(&namespace, &rules(role)).await;
            user
        };
        let viewer = user("rollback-kserve-view").await;
        let view = service(&connect(viewer.kubeconfig()).await, &namespace);
        assert_eq!(view.history().await.unwrap().len(), 2, "{mode}");
        assert!(view.status().await.unwrap().is_converged(), "{mode}");
        let change = view.prepare(&Target::Previous).await.unwrap().remove(0);
        let cx = StepContext::new(RunId::random(), StepId::new("x"), Duration::from_secs(5));
        let error = view.apply(&cx, &change).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{mode}");
        assert!(error.to_string().contains("cannot patch resource \"inferenceservices\""), "{error}");

        if mode == "Standard" {
            deploy(&namespace, &json!({"predictor": predictor("crash-loop")})).await;
            let crashes = async {
                while !view.status().await.unwrap().message.contains("CrashLoopBackOff") {
                    Testbed::shared().await.pause(Duration::from_millis(100)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), crashes).await.unwrap();
        }
        let operator = user("rollback-kserve-undo").await;
        let report =
            undo(&service(&connect(operator.kubeconfig()).await, &namespace), Target::Previous).await;
        assert_eq!(report.outcome, Outcome::Completed, "{mode}: {report:#?}");
    }
}
