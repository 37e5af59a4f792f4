//! Repositories that the tests make.

use std::path::{Path, PathBuf};
use std::process::Command;

use rollback_core::Error;
use rollback_git::{Commit, Folder, Kustomize, Limits, Renderer as _, Rendering, Repository};
use tempfile::TempDir;

pub(crate) const STAGING: &str = "infra/kubernetes/environments/staging";

/// A repository with a working tree, made by the program git.
pub(crate) struct Repo {
    pub(crate) folder: TempDir,
}

impl Repo {
    pub(crate) fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap() };
        this.git(&["init", "--quiet", "--initial-branch=main"]);
        this
    }

    /// One whose environment `staging` uses a base and an image of this tag, committed and tagged `v1.0.0`.
    pub(crate) fn with_environment() -> Self {
        let this = Self::new();
        this.write("infra/kubernetes/base/kustomization.yaml", "resources: [web.yaml]\n");
        this.write(
            "infra/kubernetes/base/web.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {from: base}\n",
        );
        this.write(
            &format!("{STAGING}/kustomization.yaml"),
            "resources: [../../base]\nnamePrefix: staging-\nconfigMapGenerator:\n- {name: model, literals: [version=4]}\n",
        );
        this.write("docs/README.md", "nothing to render\n");
        this.commit("first");
        this.git(&["tag", "v1.0.0"]);
        this
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(self.path(), args)
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    pub(crate) fn commit(&self, subject: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", subject]);
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::local(self.path()).unwrap()
    }

    pub(crate) async fn head(&self) -> Commit {
        self.open().resolve("main").await.unwrap()
    }

    pub(crate) async fn staging(&self) -> Result<Folder, Error> {
        self.open().materialize(&self.head().await, Path::new(STAGING), Limits::default()).await
    }

    pub(crate) async fn render(&self) -> Result<Rendering, Error> {
        kustomize().render(&self.staging().await?).await
    }
}

pub(crate) fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=ann", "-c", "user.email=ann@here", "-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The kustomize of the tests.
pub(crate) fn kustomize() -> Kustomize {
    Kustomize::program(rollback_tests::kustomize())
}

/// The paths of all files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all.sort();
    all
}
