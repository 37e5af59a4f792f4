//! What a plan says before anything is done: refusals, warnings, and which revision it chooses.

use rollback_core::{Change, Error, ErrorKind, Rollbackable, Target};
use rollback_k8s::{GitOps, Workload, WorkloadKind, WorkloadOptions};
use rollback_tests::{Namespace, Testbed, objects};
use serde_json::{Value, json};

use crate::undo::{cluster, context, image, rolled_out, workload};

/// Look-ups are shared for some seconds, so each plan has a handle of its own.
async fn web(prefix: &str, images: &[&str]) -> (Namespace, Workload) {
    rolled_out(prefix, images, 1).await
}

async fn previous(namespace: &Namespace) -> Result<Change, Error> {
    previous_with(namespace, WorkloadOptions::default()).await
}

async fn previous_with(namespace: &Namespace, options: WorkloadOptions) -> Result<Change, Error> {
    let cluster = cluster(Testbed::shared().await).await;
    let web = Workload::new(&cluster, WorkloadKind::Deployment, namespace.name(), "web", options)?;
    web.prepare(&Target::Previous).await.map(|mut changes| changes.remove(0))
}

fn warned(change: &Change, of: &str) -> bool {
    change.warnings.iter().any(|warning| warning.contains(of))
}

async fn metadata(namespace: &Namespace, change: Value) {
    namespace.merge("Deployment", "web", &json!({"metadata": change})).await;
}

#[tokio::test]
async fn a_restart_is_no_revision_to_return_to() {
    let (namespace, _) = web("restarted", &["app:1", "app:2"]).await;
    namespace.kubectl(&["rollout", "restart", "deployment/web"]).await.ok();
    namespace.rolled_out("Deployment", "web").await;
    let change = previous(&namespace).await.unwrap();
    assert_eq!((change.from.id.as_str(), change.to.id.as_str()), ("3", "1"));
    assert!(warned(&change, "revision 2 differs from the current one only by a restart"), "{change:?}");
}

#[tokio::test]
async fn while_a_rollout_is_under_way_what_still_serves_is_the_previous_revision() {
    let (namespace, _) = web("serving", &["app:1"]).await;
    for image in ["app:never-ready-2", "app:never-ready-3"] {
        namespace.patch("Deployment", "web", &objects::image_patch(image)).await;
        namespace
            .wait("Deployment", "web", "a new pod is there", |object| {
                object["status"]["observedGeneration"] == object["metadata"]["generation"]
                    && object["status"]["updatedReplicas"] == 1
            })
            .await;
    }
    let change = previous(&namespace).await.unwrap();
    assert_eq!((change.from.id.as_str(), change.to.id.as_str()), ("3", "1"), "{:?}", change.warnings);
    assert!(warned(&change, "still serves"), "{:?}", change.warnings);
}

#[tokio::test]
async fn a_renumbered_revision_is_still_found_by_its_old_number() {
    let (namespace, web) = web("renumbered", &["app:1", "app:2"]).await;
    namespace.kubectl(&["rollout", "undo", "deployment/web"]).await.ok();
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:4")).await;
    namespace.rolled_out("Deployment", "web").await;
    let change = web.prepare(&Target::Revision("1".into())).await.unwrap().remove(0);
    assert_eq!((change.to.id.as_str(), change.to.summary.as_str()), ("3", "app:1"));
    assert!(warned(&change, "revision 1 is number 3"), "{:?}", change.warnings);
}

#[tokio::test]
async fn paused_and_dying_objects_are_refused_with_the_way_out() {
    let (namespace, _) = web("paused", &["app:1", "app:2"]).await;
    namespace.kubectl(&["rollout", "pause", "deployment/web"]).await.ok();
    let error = previous(&namespace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.hint().unwrap().contains("kubectl rollout resume deployment/web"), "{error:?}");

    namespace.kubectl(&["rollout", "resume", "deployment/web"]).await.ok();
    metadata(&namespace, json!({"finalizers": ["rollback.test/keep"]})).await;
    namespace.kubectl(&["delete", "deployment/web", "--wait=false"]).await.ok();
    let error = previous(&namespace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("being deleted"), "{error}");
    metadata(&namespace, json!({"finalizers": []})).await;
}

#[tokio::test]
async fn an_object_that_a_controller_would_take_back_is_refused_unless_told_otherwise() {
    let (namespace, _) = web("gitops", &["app:1", "app:2"]).await;
    let tracking = json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:ns/web"}});
    metadata(&namespace, tracking).await;
    let error = previous(&namespace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.hint().unwrap().contains("argocd app"), "{error:?}");
    let mut options = WorkloadOptions::default();
    options.gitops = GitOps::Ignore;
    let change = previous_with(&namespace, options).await.unwrap();
    assert!(warned(&change, "Argo CD application shop may take the rollback back"));
}

#[tokio::test]
async fn a_return_of_the_bad_revision_is_seen_while_a_contested_object_is_watched() {
    let (namespace, _) = web("taken-back", &["app:1", "app:2"]).await;
    metadata(&namespace, json!({"labels": {"argocd.argoproj.io/instance": "shop"}})).await;
    let mut options = WorkloadOptions::default();
    options.gitops = GitOps::Ignore;
    let cluster = cluster(Testbed::shared().await).await;
    let web = Workload::new(&cluster, WorkloadKind::Deployment, namespace.name(), "web", options).unwrap();
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let revert = async {
        namespace.rolled_out("Deployment", "web").await;
        // The server notes who wrote when in whole seconds.
        Testbed::shared().await.pause(std::time::Duration::from_millis(1100)).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.json");
        std::fs::write(&file, objects::deployment("web", "app:2", 1).to_string()).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let args =
            ["apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", &file];
        namespace.kubectl(&args).await.ok();
    };
    let cx = context();
    let (seen, ()) = tokio::join!(web.verify(&cx, &change), revert);
    let message = seen.unwrap().message;
    assert!(message.contains("argocd-controller"), "{message}");
}

#[tokio::test]
async fn what_the_target_needs_must_exist_and_what_changed_since_is_named() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("references").await;
    namespace.create(&objects::config_map("settings", &json!({"mode": "a"}))).await;
    let mut object = objects::deployment("web", "app:1", 1);
    object["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "extra", "optional": true}}]);
    namespace.create(&object).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    namespace.rolled_out("Deployment", "web").await;
    let change = previous(&namespace).await.unwrap();
    assert!(!warned(&change, "ConfigMap settings"), "{:?}", change.warnings);

    namespace.merge("ConfigMap", "settings", &json!({"data": {"mode": "b"}})).await;
    let change = previous(&namespace).await.unwrap();
    assert!(warned(&change, "ConfigMap settings changed since revision 1 last ran"), "{:?}", change.warnings);
    assert!(warned(&change, "not restored by this undo"));

    namespace.delete("ConfigMap", "settings").await;
    let error = previous(&namespace).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("ConfigMap settings"), "{error}");
    let mut options = WorkloadOptions::default();
    options.force = true;
    assert!(warned(&previous_with(&namespace, options).await.unwrap(), "ConfigMap settings"));
}

#[tokio::test]
async fn warnings_tell_what_the_reader_should_know() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("warnings").await;
    let mut object = objects::deployment("web", "app:1", 1);
    object["spec"]["revisionHistoryLimit"] = json!(1);
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    object["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("Helm");
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "meta.helm.sh/release-name": "shop"});
    namespace.create(&object).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    namespace.rolled_out("Deployment", "web").await;
    let scaler = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}},
    });
    namespace.create(&scaler).await;
    let change = previous(&namespace).await.unwrap();
    for wanted in [
        "Helm release shop",
        "last-applied annotation",
        "revisionHistoryLimit is 1",
        "strategy Recreate",
        "HorizontalPodAutoscaler web scales it",
    ] {
        assert!(warned(&change, wanted), "{wanted}: {:#?}", change.warnings);
    }
}

#[tokio::test]
async fn an_annotation_of_somebody_else_stays_and_the_change_cause_moves() {
    let (namespace, web) = web("annotations", &["app:1"]).await;
    metadata(&namespace, json!({"annotations": {"kubernetes.io/change-cause": "first"}})).await;
    namespace.rolled_out("Deployment", "web").await;
    namespace.patch("Deployment", "web", &objects::image_patch("app:2")).await;
    metadata(&namespace, json!({"annotations": {"kubernetes.io/change-cause": "second", "team": "a"}})).await;
    namespace.rolled_out("Deployment", "web").await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let after = namespace.rolled_out("Deployment", "web").await;
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(
        (&annotations["kubernetes.io/change-cause"], &annotations["team"]),
        (&json!("first"), &json!("a"))
    );
    let left: Value = serde_json::from_str(annotations["rollback.dev/left"].as_str().unwrap()).unwrap();
    assert_eq!(left[0]["revision"], "2");
    let mark = web.history().await.unwrap().into_iter().find(|r| r.id == "2").unwrap().mark;
    assert_eq!(mark, Some(rollback_core::Mark::Left));
}

#[tokio::test]
async fn a_scale_between_plan_and_apply_is_no_conflict_and_a_new_image_is_one() {
    let (namespace, web) = web("guard", &["app:1", "app:2"]).await;
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    namespace.kubectl(&["scale", "deployment/web", "--replicas=3"]).await.ok();
    web.apply(&context(), &change).await.unwrap();
    let after = namespace.rolled_out("Deployment", "web").await;
    assert_eq!((image(&after), &after["spec"]["replicas"]), ("app:1", &json!(3)));

    let change = web.prepare(&Target::Revision("2".into())).await.unwrap().remove(0);
    namespace.patch("Deployment", "web", &objects::image_patch("app:9")).await;
    let error = web.apply(&context(), &change).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(image(&namespace.get("Deployment", "web").await), "app:9");
}

#[tokio::test]
async fn a_field_that_this_library_does_not_know_comes_back_too() {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("unknown").await;
    let mut object = objects::deployment("web", "app:1", 1);
    let probe = json!({"exec": {"command": ["true"]}, "failureThreshold": 7});
    object["spec"]["template"]["spec"]["containers"][0]["startupProbe"] = probe;
    object["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    namespace.create(&object).await;
    let before = namespace.rolled_out("Deployment", "web").await;
    let other = json!({"spec": {"template": {"spec": {
        "topologySpreadConstraints": null,
        "containers": [{"name": "app", "image": "app:2", "startupProbe": null}],
    }}}});
    namespace.patch("Deployment", "web", &other).await;
    let now = namespace.rolled_out("Deployment", "web").await;
    assert_ne!(before["spec"]["template"], now["spec"]["template"]);
    let web = workload(&cluster(testbed).await, WorkloadKind::Deployment, &namespace, "web");
    let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
    web.apply(&context(), &change).await.unwrap();
    let after = namespace.rolled_out("Deployment", "web").await;
    assert_eq!(before["spec"]["template"], after["spec"]["template"]);
}

#[tokio::test]
async fn after_a_declarative_undo_the_next_apply_removes_the_renamed_sidecar() {
    let testbed = Testbed::shared().await;
    let manifest = |sidecar: &str, image: &str, env: Option<&str>| {
        let mut object = objects::deployment("web", image, 1);
        let mut app = json!({"name": "app", "image": image});
        if let Some(value) = env {
            app["env"] = json!([{"name": "OLD", "value": value}]);
        }
        object["spec"]["template"]["spec"]["containers"] = json!([app, {"name": sidecar, "image": image}]);
        object
    };
    let mut left = Vec::new();
    for declarative in [true, false] {
        let namespace = testbed.namespace("declarative").await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.json");
        let apply = async |object: Value| {
            std::fs::write(&file, object.to_string()).unwrap();
            namespace.kubectl(&["apply", "-f", file.to_str().unwrap()]).await.ok();
            namespace.rolled_out("Deployment", "web").await
        };
        apply(manifest("old-sidecar", "app:1", Some("1"))).await;
        apply(manifest("new-sidecar", "app:2", None)).await;
        let mut options = WorkloadOptions::default();
        options.declarative = declarative;
        let cluster = cluster(testbed).await;
        let web =
            Workload::new(&cluster, WorkloadKind::Deployment, namespace.name(), "web", options).unwrap();
        let change = web.prepare(&Target::Previous).await.unwrap().remove(0);
        assert_eq!(warned(&change, "last-applied"), !declarative);
        web.apply(&context(), &change).await.unwrap();
        let fixed = apply(manifest("new-sidecar", "app:3", None)).await;
        let containers = fixed["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
        let names: Vec<String> = containers.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
        let has_env = containers.iter().any(|c| c["env"].is_array());
        left.push((names.contains(&"old-sidecar".to_owned()), has_env));
    }
    // Without it, what kubectl's own undo leaves behind is left behind.
    assert_eq!(left, [(false, false), (true, true)]);
}
