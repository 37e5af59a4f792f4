//! Repositories of somebody who means no good, or made a mistake.

use std::path::Path;

use git2::{ObjectType, Oid};
use rollback_core::{Error, ErrorKind};
use rollback_git::Limits;

use crate::world::{Repo, STAGING};

async fn refused(repo: &Repo) -> String {
    let error = repo.staging().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn links_that_leave_the_tree_or_lead_round_are_refused() {
    for (target, part) in [
        ("/etc/passwd", "outside the repository"),
        ("../../../../../etc/passwd", "outside the repository"),
        ("self.yaml", "in a circle"),
    ] {
        let repo = Repo::with_environment();
        repo.link(&format!("{STAGING}/self.yaml"), target);
        repo.commit("a link");
        let said = refused(&repo).await;
        assert!(said.contains(part) && said.contains("self.yaml"), "{target}: {said}");
    }
    // By its text it stays inside, and through the other link it would not.
    let repo = Repo::with_environment();
    repo.link(&format!("{STAGING}/up"), "../../../..");
    repo.link(&format!("{STAGING}/evil.yaml"), "up/../../outside.yaml");
    repo.commit("a link through a link");
    assert!(refused(&repo).await.contains("leads through another"));
    let repo = Repo::with_environment();
    repo.write(&format!("{STAGING}/k.txt"), "resources: []\n");
    std::fs::remove_file(repo.path().join(STAGING).join("kustomization.yaml")).unwrap();
    repo.link(&format!("{STAGING}/kustomization.yaml"), "k.txt");
    repo.commit("a kustomization that is a link");
    assert!(refused(&repo).await.contains("has to be a file"));
    let repo = Repo::with_environment();
    repo.link(&format!("{STAGING}/a.yaml"), "b.yaml");
    repo.link(&format!("{STAGING}/b.yaml"), "a.yaml");
    repo.commit("two links");
    assert!(refused(&repo).await.contains("in a circle"));
}

#[tokio::test]
async fn a_link_inside_the_repository_brings_what_it_leads_to() {
    let repo = Repo::with_environment();
    repo.write("shared/extra.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\n");
    repo.link("infra/kubernetes/base/extra.yaml", "../../../shared/extra.yaml");
    repo.commit("a link");
    let folder = repo.staging().await.unwrap();
    let linked = folder.root().join("infra/kubernetes/base/extra.yaml");
    assert!(std::fs::read_to_string(linked).unwrap().contains("extra"));
}

#[tokio::test]
async fn submodules_and_lfs_pointers_are_named() {
    let repo = Repo::with_environment();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n";
    repo.write(&format!("{STAGING}/model.bin"), pointer);
    repo.commit("a pointer");
    assert!(refused(&repo).await.contains("Git LFS"));

    let (repo, other) = (Repo::with_environment(), Repo::with_environment());
    let url = other.path().display().to_string();
    repo.git(&["submodule", "--quiet", "add", &url, &format!("{STAGING}/charts")]);
    repo.commit("a submodule");
    let said = refused(&repo).await;
    assert!(said.contains("submodule") && said.contains("staging/charts"), "{said}");
}

/// A commit whose environment is a tree of these raw entries: mode, name and object.
fn raw(repo: &Repo, entries: &[(&str, &[u8], Oid)]) {
    let git = git2::Repository::open(repo.path()).unwrap();
    let odb = git.odb().unwrap();
    let tree_of = |entries: &[(&str, &[u8], Oid)]| {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        odb.write(ObjectType::Tree, &bytes).unwrap()
    };
    let mut id = tree_of(entries);
    for name in STAGING.rsplit('/') {
        id = tree_of(&[("40000", name.as_bytes(), id)]);
    }
    let tree = git.find_tree(id).unwrap();
    let who = git2::Signature::now("ann", "ann@here").unwrap();
    git.commit(Some("refs/heads/main"), &who, &who, "raw", &tree, &[]).unwrap();
}

fn blob(repo: &Repo, content: &[u8]) -> Oid {
    git2::Repository::open(repo.path()).unwrap().blob(content).unwrap()
}

#[tokio::test]
async fn names_that_no_file_can_have_are_refused() {
    for (name, part) in [
        (&b".."[..], "\"..\""),
        (b".git", "\".git\""),
        (b"a/../../b", "not one of a file"),
        (b"\xff\xfe.yaml", "not UTF-8"),
    ] {
        let repo = Repo::new();
        let id = blob(&repo, b"x: 1\n");
        raw(&repo, &[("100644", name, id)]);
        let error: Error = repo.staging().await.unwrap_err();
        assert!(error.to_string().contains(part), "{name:?}: {error:?}");
    }
}

#[tokio::test]
async fn there_are_limits_to_size_number_and_depth() {
    let repo = Repo::with_environment();
    repo.write(&format!("{STAGING}/huge.bin"), vec![b'x'; 17 << 20]);
    repo.commit("a large file");
    let said = refused(&repo).await;
    assert!(said.contains("huge.bin has 17825792 bytes"), "{said}");

    let repo = Repo::new();
    let id = blob(&repo, b"x: 1\n");
    let names: Vec<String> = (0..20_001).map(|n| format!("{n:05}.yaml")).collect();
    let entries: Vec<_> = names.iter().map(|name| ("100644", name.as_bytes(), id)).collect();
    raw(&repo, &entries);
    assert!(refused(&repo).await.contains("more than 20000 files"));

    // Few objects that stand for more folders than can be visited.
    let repo = Repo::new();
    let git = git2::Repository::open(repo.path()).unwrap();
    let mut id = git.treebuilder(None).unwrap().write().unwrap();
    for _ in 0..30 {
        let mut tree = git.treebuilder(None).unwrap();
        for name in 0..10 {
            tree.insert(name.to_string(), id, 0o040_000).unwrap();
        }
        id = tree.write().unwrap();
    }
    raw(&repo, &[("40000", b"many", id)]);
    assert!(refused(&repo).await.contains("more than 20000 folders"));

    let repo = Repo::with_environment();
    let deep = format!("{STAGING}/{}/a.yaml", vec!["d"; 80].join("/"));
    repo.write(&deep, "x: 1\n");
    repo.commit("deep");
    assert!(refused(&repo).await.contains("deeper than 64"));

    let mut limits = Limits::default();
    limits.bytes = 100;
    let repo = Repo::with_environment();
    let error = repo.open().materialize(&repo.head().await, Path::new(STAGING), limits).await.unwrap_err();
    assert!(error.to_string().contains("more than 100 bytes"), "{error}");
}

#[tokio::test]
async fn what_fetches_runs_or_reads_elsewhere_does_not_render() {
    let plugin = "apiVersion: x/v1\nkind: Evil\nmetadata:\n  name: evil\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: ./evil.sh}\n";
    for (kustomization, part) in [
        ("resources: [https://example.com/a.yaml]\n", "fetches from elsewhere: https://example.com/a.yaml"),
        ("resources: ['git@example.com:a/b']\n", "fetches from elsewhere"),
        ("helmCharts:\n- {name: c, repo: 'https://example.com', version: '1'}\n", "enable-helm"),
        ("generators: [plugin.yaml]\n", "plugin"),
        ("configMapGenerator:\n- {name: a, files: [../../../../docs/README.md]}\n", "README.md"),
        ("resources: [missing.yaml]\n", "missing.yaml"),
        ("Resources: [https://example.com/a.yaml]\n", "fetches from elsewhere"),
        ("patches: [{path: 'http://example.com/p.yaml'}]\n", "fetches from elsewhere"),
        ("configMapGenerator: [{name: a, files: ['k=http://example.com/f']}]\n", "fetches from elsewhere"),
        ("a: &a {resources: [x]}\nb: {<<: *a}\n", "merges maps"),
        ("resources: []\n---\nresources: []\n", "several documents"),
        ("resources: [../../../../../outside]\n", "outside the repository"),
        ("resources: [a: b\n", "is not valid"),
    ] {
        let repo = Repo::with_environment();
        repo.write(&format!("{STAGING}/kustomization.yaml"), kustomization);
        repo.write(&format!("{STAGING}/plugin.yaml"), plugin);
        repo.write(&format!("{STAGING}/evil.sh"), "#!/bin/sh\ntouch /tmp/rollback-evil\n");
        repo.commit("hostile");
        let error = repo.render().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{kustomization}: {error:?}");
        assert!(error.to_string().contains(part), "{kustomization}: {error}");
    }
    assert!(!Path::new("/tmp/rollback-evil").exists());
}

#[tokio::test]
async fn a_yaml_bomb_ends_with_an_error_and_not_with_the_memory() {
    let level = |n: usize| {
        let below = if n == 0 { "x".to_owned() } else { format!("*a{}", n - 1) };
        format!("a{n}: &a{n} [{}]\n", vec![below; 9].join(", "))
    };
    let bomb: Vec<String> = (0..12).map(level).collect();
    let repo = Repo::new();
    repo.write(&format!("{STAGING}/bomb.yaml"), bomb.concat());
    repo.commit("a bomb");
    let error = repo.render().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
}
