//! What a revision renders.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rollback_core::ErrorKind;
use rollback_git::{Kustomize, Renderer as _};

use crate::world::{Repo, STAGING, kustomize};

#[tokio::test]
async fn kustomize_and_kubectl_render_the_same() {
    let repo = Repo::with_environment();
    let folder = repo.staging().await.unwrap();
    let by_kustomize = kustomize().render(&folder).await.unwrap();
    let by_kubectl = Kustomize::program(rollback_tests::kubectl()).render(&folder).await.unwrap();
    assert_eq!(by_kustomize.objects, by_kubectl.objects);
    assert_eq!(by_kustomize.digest(), by_kubectl.digest());
    let names: Vec<_> =
        by_kustomize.objects.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 2);
    assert!(
        names.contains(&"staging-web") && names.iter().any(|name| name.starts_with("staging-model-")),
        "{names:?}"
    );
}

#[tokio::test]
async fn warnings_are_passed_on() {
    let repo = Repo::with_environment();
    repo.write(
        &format!("{STAGING}/kustomization.yaml"),
        "resources: [../../base]\ncommonLabels: {team: a}\n",
    );
    repo.commit("deprecated");
    let rendering = repo.render().await.unwrap();
    assert!(rendering.warnings[0].contains("commonLabels"), "{rendering:?}");
}

#[tokio::test]
async fn a_folder_of_plain_manifests_means_what_it_means_to_kubectl() {
    let repo = Repo::new();
    repo.write(
        &format!("{STAGING}/b.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec:\n  volumes: [{name: v, secret: {secretName: s, defaultMode: 0400}}]\n---\n",
    );
    let list = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}"#;
    repo.write(&format!("{STAGING}/a.json"), list);
    repo.write(&format!("{STAGING}/notes.txt"), "not a manifest");
    repo.write(&format!("{STAGING}/below/c.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n");
    repo.commit("plain");
    let rendering = repo.render().await.unwrap();
    let mut names: Vec<_> =
        rendering.objects.iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    let pod = rendering.objects.iter().find(|object| object["kind"] == "Pod").unwrap();
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["defaultMode"], 256);

    repo.write(&format!("{STAGING}/b.yaml"), "kind: ConfigMap\nkind: Secret\n");
    repo.commit("twice");
    assert_eq!(repo.render().await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn a_renderer_that_is_missing_slow_or_talkative_is_told() {
    let repo = Repo::with_environment();
    let folder = repo.staging().await.unwrap();
    let error = Kustomize::program("/nonexistent/kustomize").render(&folder).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");

    let programs = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = programs.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let mut slow = Kustomize::program(program("slow", "#!/bin/sh\nexec /bin/sleep 60\n"));
    slow.timeout = Duration::from_secs(1);
    let begun = Instant::now();
    let error = slow.render(&folder).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));

    let mut talkative = Kustomize::program(program("talkative", "#!/bin/sh\nexec /usr/bin/yes '# x'\n"));
    talkative.bytes = 1000;
    let error = talkative.render(&folder).await.unwrap_err();
    assert!(error.to_string().contains("more than 1000 bytes"), "{error}");
}

#[tokio::test]
async fn two_hundred_objects_among_five_thousand_files_are_rendered() {
    let repo = Repo::with_environment();
    let resources: Vec<String> = (0..200).map(|n| format!("- objects/{n}.yaml\n")).collect();
    for n in 0..200 {
        repo.write(
            &format!("{STAGING}/objects/{n}.yaml"),
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}}}\n"),
        );
    }
    for n in 0..5_000 {
        repo.write(&format!("elsewhere/{}/{n}.txt", n % 50), "x");
    }
    repo.write(&format!("{STAGING}/kustomization.yaml"), format!("resources:\n{}", resources.concat()));
    repo.commit("many");
    let folder = repo.staging().await.unwrap();
    assert!(!folder.root().join("elsewhere").exists());
    assert_eq!(kustomize().render(&folder).await.unwrap().objects.len(), 200);
}
