//! The identity of what a path of a commit takes to be rendered, without reading all of it.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use git2::{FileMode, ObjectType, TreeWalkMode, TreeWalkResult};
use rollback_core::{Fingerprint, Result};
use serde_json::json;

use crate::error::from_git;
use crate::kustomization::{self, KUSTOMIZATIONS};
use crate::repository::{Commit, Repository, oid};
use crate::tree::inside;

impl Repository {
    /// The identity of a path of a commit, with all to which its kustomizations and links refer: two commits that have
    /// the same render the same.
    ///
    /// # Errors
    /// When the repository cannot be read. What is not safe to render has an identity, too.
    pub async fn state(&self, commit: &Commit, path: &Path) -> Result<Fingerprint> {
        let (commit, path) = (commit.clone(), path.to_owned());
        self.read(move |repository| state(repository, &commit, &path)).await
    }
}

fn state(repository: &git2::Repository, commit: &Commit, path: &Path) -> Result<Fingerprint> {
    let failed = |e| from_git(e, format!("cannot read commit {}", commit.id));
    let root = repository.find_commit(oid(commit)?).and_then(|commit| commit.tree()).map_err(failed)?;
    let mut due = VecDeque::from([path.to_owned()]);
    let mut parts: BTreeMap<PathBuf, String> = BTreeMap::new();
    while let Some(path) = due.pop_front() {
        if path.ancestors().any(|above| parts.contains_key(above)) {
            continue;
        }
        let (id, kind) = if path.as_os_str().is_empty() {
            (root.id(), Some(ObjectType::Tree))
        } else {
            let Ok(entry) = root.get_path(&path) else {
                // What is missing is part of the state, too.
                parts.insert(path, String::new());
                continue;
            };
            (entry.id(), entry.kind())
        };
        parts.insert(path.clone(), id.to_string());
        if kind == Some(ObjectType::Tree) {
            let tree = repository.find_tree(id).map_err(failed)?;
            let walk = |folder: &str, entry: &git2::TreeEntry<'_>| {
                due.extend(referred(repository, &path.join(folder), entry));
                TreeWalkResult::Ok
            };
            tree.walk(TreeWalkMode::PreOrder, walk).map_err(failed)?;
        }
    }
    let parts: BTreeMap<_, _> =
        parts.iter().map(|(path, id)| (path.to_string_lossy().into_owned(), id)).collect();
    Ok(Fingerprint::of(&json!({"path": path.to_string_lossy(), "parts": parts})))
}

/// To what else an entry refers. What cannot be read is for rendering to refuse.
fn referred(repository: &git2::Repository, folder: &Path, entry: &git2::TreeEntry<'_>) -> Vec<PathBuf> {
    let is_link = entry.filemode() == i32::from(FileMode::Link);
    let is_kustomization = entry.name().is_ok_and(|name| KUSTOMIZATIONS.contains(&name));
    if !is_link && !is_kustomization {
        return Vec::new();
    }
    let Ok(blob) = repository.find_blob(entry.id()) else { return Vec::new() };
    let targets = if is_link {
        vec![PathBuf::from(std::ffi::OsStr::from_bytes(blob.content()))]
    } else {
        kustomization::read(blob.content())
            .map(|referred| referred.folders.into_iter().map(PathBuf::from).collect())
            .unwrap_or_default()
    };
    targets.iter().filter_map(|target| inside(folder, target)).collect()
}
