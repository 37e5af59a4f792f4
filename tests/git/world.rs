//! Repositories that the tests make.

use std::path::{Path, PathBuf};

use rollback_core::Error;
use rollback_git::{Commit, Folder, Kustomize, Limits, Renderer as _, Rendering, Repository};
pub(crate) use rollback_tests::git;

pub(crate) const STAGING: &str = "infra/kubernetes/environments/staging";

/// A repository that the library can be shown.
pub(crate) struct Repo(rollback_tests::Repo);

impl std::ops::Deref for Repo {
    type Target = rollback_tests::Repo;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Repo {
    pub(crate) fn new() -> Self {
        Self(rollback_tests::Repo::new())
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

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
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
