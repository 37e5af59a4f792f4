//! The manifests of `deploy/`: the server takes them, and what they copy is what is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rollback_k8s::CUSTOM_RESOURCE_DEFINITION;
use rollback_tests::Testbed;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::journal::home;

/// The folder of the manifests.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

/// What kustomize makes of a folder.
fn build(folder: &Path) -> Vec<Value> {
    let output = Command::new(rollback_tests::kustomize()).arg("build").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_yaml_ng::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap()).collect()
}

/// The example, with every component there is.
fn everything() -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    // A kustomization takes only relative paths.
    let here = folder.path().canonicalize().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let at = |path: &Path| format!("{up}{}", path.strip_prefix("/").unwrap().display());
    let components: Vec<_> = std::fs::read_dir(deploy().join("components"))
        .unwrap()
        .map(|entry| at(&entry.unwrap().path()))
        .collect();
    let kustomization = json!({"resources": [at(&deploy().join("example"))], "components": components});
    std::fs::write(here.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    build(&here)
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn the_copies_are_what_is_shipped() {
    for (copy, shipped) in [
        ("base/roles.yaml", include_str!("../../rollback-k8s/rbac/roles.yaml")),
        ("components/kserve/roles.yaml", include_str!("../../rollback-kserve/rbac/roles.yaml")),
        ("components/environments/roles.yaml", include_str!("../../rollback-git/rbac/roles.yaml")),
        ("base/rollbackruns.yaml", CUSTOM_RESOURCE_DEFINITION),
    ] {
        let text = std::fs::read_to_string(deploy().join(copy)).unwrap();
        assert!(text == shipped, "deploy/{copy} differs from what it is a copy of: copy it again");
    }
}

#[tokio::test]
async fn the_server_takes_every_object_that_it_knows() {
    let testbed = Testbed::shared().await;
    let system = home("deploy-system").await;
    let watched = testbed.namespace("deploy-watched").await;
    let text = json!(everything()).to_string();
    let text = text.replace("rollback-system", system.name()).replace("inflow-staging", watched.name());
    let objects: Vec<Value> = serde_json::from_str(&text).unwrap();
    let versions = testbed.kubectl(&["api-versions"]).await.ok();
    let versions: BTreeSet<&str> = versions.lines().collect();
    let is_known = |object: &Value| versions.contains(object["apiVersion"].as_str().unwrap());
    let (known, unknown): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_known);
    for object in unknown {
        assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1", "the server does not know {object:#}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": known});
    std::fs::write(&file, list.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let output = testbed.kubectl(&["apply", "--dry-run=server", "-o", "name", "-f", file]).await;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), known.len(), "{}{}", output.stdout, output.stderr);
}

#[test]
fn the_disruption_budget_has_the_fields_of_its_version() {
    let objects = build(&deploy().join("base"));
    let budget = of_kind(&objects, "PodDisruptionBudget")[0];
    // A field that the type does not know would be lost.
    let read: PodDisruptionBudget = serde_json::from_value(budget.clone()).unwrap();
    assert_eq!(json!(read), *budget);
}

/// A rule as the operator's definition has it (v0.82), as far as alerts go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    r#for: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[test]
fn the_alerts_have_the_fields_of_their_version() {
    let objects = everything();
    let [rule] = of_kind(&objects, "PrometheusRule")[..] else { panic!("one rule") };
    let [group] = &rule["spec"]["groups"].as_array().unwrap()[..] else { panic!("one group") };
    let alerts: Vec<Rule> = serde_json::from_value(group["rules"].clone()).unwrap();
    let names: Vec<_> = alerts.iter().map(|alert| alert.alert.as_str()).collect();
    assert_eq!(
        names,
        ["RollbackSupervisorAbsent", "RollbackSupervisorStale", "RollbackSupervisorLeaderless"]
    );
    for alert in alerts {
        assert!(alert.expr.contains("rollback_") && alert.r#for.ends_with('m'), "{alert:?}");
        assert!(alert.labels.contains_key("severity"), "{alert:?}");
        assert!(alert.annotations.contains_key("summary"), "{alert:?}");
    }
}

/// What the operator's definition of a monitor has of what is used here (v0.82).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Monitor {
    selector: Value,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "that it can be read is what counts")]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
}

#[test]
fn what_is_scraped_is_the_port_of_the_service() {
    let objects = everything();
    let monitor: Monitor =
        serde_json::from_value(of_kind(&objects, "ServiceMonitor")[0]["spec"].clone()).unwrap();
    let service = of_kind(&objects, "Service")[0];
    assert_eq!(monitor.selector["matchLabels"], service["metadata"]["labels"]);
    let [endpoint] = &monitor.endpoints[..] else { panic!("one endpoint") };
    assert_eq!((endpoint.port.as_str(), endpoint.path.as_str()), ("http", "/metrics"));
    assert_eq!(service["spec"]["ports"][0]["name"], "http");
}

#[test]
fn each_binding_gives_a_role_that_is_there_to_the_account_of_the_supervisor() {
    let objects = everything();
    let roles: Vec<_> = of_kind(&objects, "ClusterRole").iter().map(|r| &r["metadata"]["name"]).collect();
    let account = of_kind(&objects, "ServiceAccount")[0];
    let subject = json!({
        "kind": "ServiceAccount",
        "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"],
    });
    let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], subject["name"]);
    let everywhere = of_kind(&objects, "ClusterRoleBinding");
    let bindings = [of_kind(&objects, "RoleBinding"), everywhere.clone()].concat();
    assert_eq!((bindings.len(), everywhere.len()), (5, 1));
    for binding in bindings {
        assert!(roles.contains(&&binding["roleRef"]["name"]), "{binding:#}");
        assert_eq!(binding["subjects"], json!([subject]), "{binding:#}");
    }
    assert_eq!(everywhere[0]["roleRef"]["name"], "rollback-cluster");
}

#[test]
fn the_pods_are_what_a_restricted_namespace_admits() {
    let objects = everything();
    let pod = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    }
    let probed = ["startupProbe", "livenessProbe", "readinessProbe"];
    let paths = probed.map(|probe| pod["containers"][0][probe]["httpGet"]["path"].clone());
    assert_eq!(paths, ["/healthz", "/healthz", "/readyz"]);
}

#[test]
fn what_is_selected_are_the_pods_of_the_deployment() {
    let objects = everything();
    let labels = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        ("Deployment", "/spec/selector/matchLabels"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Service", "/spec/selector"),
    ];
    for (kind, selector) in selectors {
        for object in of_kind(&objects, kind) {
            assert_eq!(object.pointer(selector), Some(labels), "{kind}");
        }
    }
}
