//! Which revisions there are, and that reading them leaves the working tree alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rollback_core::ErrorKind;
use rollback_git::{Limits, Repository};

use crate::world::{Repo, STAGING, files, git};

#[tokio::test]
async fn a_hundred_tags_are_listed_in_the_order_of_their_versions() {
    let repo = Repo::new();
    repo.write("other.txt", "no environment yet");
    repo.commit("before");
    repo.git(&["tag", "v0.0.1"]);
    repo.write(&format!("{STAGING}/a.yaml"), "a: 1\n");
    repo.commit("the environment");
    for minor in 0..100 {
        repo.git(&["tag", &format!("v1.{minor}.0")]);
    }
    repo.git(&["tag", "-a", "-m", "annotated", "v2.0.0-rc.1"]);
    repo.git(&["tag", "vnext"]);
    repo.git(&["tag", "w1.0.0"]);
    let tags = repo.open().tags("v*", Path::new(STAGING)).await.unwrap();
    let names: Vec<_> = tags.iter().map(|tag| tag.name.as_str()).collect();
    assert_eq!(names[..3], ["v2.0.0-rc.1", "v1.99.0", "v1.98.0"]);
    assert_eq!(names[100..], ["v1.0.0", "vnext"]);
    assert_eq!((tags[0].commit.subject.as_str(), tags[0].commit.id.len()), ("the environment", 40));
}

#[tokio::test]
async fn tags_branches_and_commits_are_found_and_what_is_missing_is_explained() {
    let repo = Repo::with_environment();
    let first = repo.git(&["rev-parse", "HEAD"]);
    repo.git(&["checkout", "--quiet", "-b", "v1.0.0-fix"]);
    repo.commit("second");
    let second = repo.git(&["rev-parse", "HEAD"]);
    // A branch of the same name does not hide the tag.
    repo.git(&["branch", "v1.0.0"]);
    let open = repo.open();
    for (revision, id) in
        [("v1.0.0", &first), ("v1.0.0-fix", &second), (&second[..10], &second), (&first, &first)]
    {
        assert_eq!(open.resolve(revision).await.unwrap().id, *id, "{revision}");
    }
    assert_eq!(open.resolve("HEAD").await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    let error = open.resolve("v9.9.9").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap_or_default().contains("git fetch --tags"), "{error:?}");

    let shallow = tempfile::tempdir().unwrap();
    let url = format!("file://{}", repo.path().display());
    git(shallow.path(), &["clone", "--quiet", "--depth=1", "--no-tags", "--branch=v1.0.0-fix", &url, "."]);
    let error = Repository::local(shallow.path()).unwrap().resolve("v1.0.0").await.unwrap_err();
    assert!(error.hint().unwrap_or_default().contains("--unshallow"), "{error:?}");

    let nowhere = tempfile::tempdir().unwrap();
    let error = Repository::local(nowhere.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
}

#[tokio::test]
async fn what_is_needed_is_written_privately_and_the_working_tree_is_left_alone() {
    let repo = Repo::with_environment();
    repo.git(&["checkout", "--quiet", "--detach"]);
    repo.write(&format!("{STAGING}/kustomization.yaml"), "dirty: true\n");
    repo.write("untracked.txt", "x");
    let before = repo.git(&["status", "--porcelain=v2", "--branch"]);
    let folder = repo.staging().await.unwrap();
    let root = folder.root();
    let written: Vec<_> =
        files(&root).into_iter().map(|p| p.strip_prefix(&root).unwrap().to_owned()).collect();
    let expected = [
        "infra/kubernetes/base/kustomization.yaml".to_owned(),
        "infra/kubernetes/base/web.yaml".to_owned(),
        format!("{STAGING}/kustomization.yaml"),
    ];
    assert_eq!(written, expected.map(std::path::PathBuf::from));
    let text = fs::read_to_string(folder.path().join("kustomization.yaml")).unwrap();
    assert!(text.contains("staging-"), "what is committed, and not what is dirty: {text}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&root), mode(root.parent().unwrap()), mode(&folder.path().join("kustomization.yaml"))),
        (0o700, 0o700, 0o600)
    );
    assert_eq!(repo.git(&["status", "--porcelain=v2", "--branch"]), before);
    drop(folder);
    assert!(!root.exists());
}

#[tokio::test]
async fn a_path_that_the_commit_does_not_hold_is_not_found() {
    let repo = Repo::with_environment();
    let (open, head) = (repo.open(), repo.head().await);
    for (path, kind) in [
        ("infra/kubernetes/environments/prod", ErrorKind::NotFound),
        ("docs/README.md", ErrorKind::NotFound),
        ("../outside", ErrorKind::InvalidConfig),
        ("/etc", ErrorKind::InvalidConfig),
    ] {
        let error = open.materialize(&head, Path::new(path), Limits::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{path}: {error:?}");
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_removed_by_the_next_one() {
    let repo = Repo::with_environment();
    let left = tempfile::Builder::new().prefix("rollback-git-").tempdir().unwrap().keep();
    fs::write(left.join("lock"), "").unwrap();
    let held = tempfile::Builder::new().prefix("rollback-git-").tempdir().unwrap();
    let lock = fs::File::create(held.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let old = SystemTime::now() - Duration::from_secs(600);
    for folder in [left.as_path(), held.path()] {
        fs::File::open(folder).unwrap().set_modified(old).unwrap();
    }
    drop(repo.staging().await.unwrap());
    assert!(!left.exists(), "its process has ended");
    assert!(held.path().exists(), "its process goes on");
}

#[tokio::test]
async fn a_repository_elsewhere_is_fetched_and_fetched_again() {
    let repo = Repo::with_environment();
    let cache = tempfile::tempdir().unwrap();
    let url = format!("file://{}", repo.path().display());
    let first = Repository::fetched(&url, cache.path()).await.unwrap().resolve("v1.0.0").await.unwrap();
    repo.commit("second");
    repo.git(&["tag", "--force", "v1.0.0"]);
    repo.git(&["tag", "v1.1.0"]);
    let again = Repository::fetched(&url, cache.path()).await.unwrap();
    assert_eq!(again.tags("v*", Path::new(STAGING)).await.unwrap().len(), 2);
    assert_ne!(again.resolve("v1.0.0").await.unwrap().id, first.id, "a tag that moved is taken over");

    let missing = Repository::fetched("file:///nonexistent/a.git", cache.path()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unavailable, "{missing:?}");
    for url in ["--upload-pack=/bin/false", "ext::sh -c id"] {
        assert!(Repository::fetched(url, cache.path()).await.is_err(), "{url}");
    }
}
