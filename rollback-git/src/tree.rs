//! The part of a commit that a kustomization needs, as files in a private folder.
//!
//! Everything in a repository is data of somebody who may not be trusted: no path leaves the tree, no link is followed
//! out of it, and there are limits to how much is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use git2::{FileMode, ObjectType};
use rollback_core::{Error, ErrorKind, Result};
use tempfile::TempDir;

use crate::error::{from_git, from_io, refused};
use crate::kustomization::{self, KUSTOMIZATIONS};
use crate::repository::{Commit, oid};
use crate::yaml;

/// How much of a commit is written at most.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Files and links. Default: 20,000.
    pub files: usize,
    /// Bytes of one file. Default: 16 MiB.
    pub file_bytes: usize,
    /// Bytes of all files. Default: 256 MiB.
    pub bytes: usize,
    /// How deep folders are nested. Default: 64.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 20_000, file_bytes: 16 << 20, bytes: 256 << 20, depth: 64 }
    }
}

const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// How many links lead to a file at most, as for the system.
const MOST_LINKS: usize = 40;

/// A private folder with a part of a commit, removed when dropped.
#[derive(Debug)]
pub struct Folder {
    // Held, not used: whoever can lock it knows that this process has ended.
    _lock: fs::File,
    holder: TempDir,
    path: PathBuf,
    remotes: Vec<String>,
}

impl Folder {
    /// The folder of the path that was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that stands for the root of the repository.
    pub fn root(&self) -> PathBuf {
        self.holder.path().join(TREE)
    }

    /// An empty folder of its own beside the tree.
    pub(crate) fn nothing(&self) -> Result<PathBuf> {
        let path = self.holder.path().join("nothing");
        fs::create_dir_all(&path).map_err(|e| from_io(e, "cannot make a temporary folder"))?;
        Ok(path)
    }

    /// What its kustomizations would fetch from elsewhere.
    pub fn remotes(&self) -> &[String] {
        &self.remotes
    }

    pub(crate) fn write(
        repository: &git2::Repository,
        commit: &Commit,
        path: &Path,
        limits: Limits,
    ) -> Result<Self> {
        let path = inside(Path::new(""), path).ok_or_else(|| {
            let message = format!("{} is not a path inside the repository", path.display());
            Error::new(ErrorKind::InvalidConfig, message)
        })?;
        let tree = repository
            .find_commit(oid(commit)?)
            .and_then(|found| found.tree())
            .map_err(|e| from_git(e, format!("cannot read commit {}", commit.id)))?;
        let mut part = Part {
            repository,
            root: &tree,
            limits,
            entries: BTreeMap::new(),
            folders: 0,
            bytes: 0,
            remotes: Vec::new(),
        };
        if part.kind(&path)? != Some(ObjectType::Tree) {
            let message = format!("{} is no folder at commit {}", path.display(), short(commit));
            return Err(Error::new(ErrorKind::NotFound, message)
                .with_hint("see which tags hold it with: rollback history"));
        }
        part.collect(&path)?;
        part.check_links()?;
        remove_stale();
        let (holder, lock) = make()?;
        part.write(&holder.path().join(TREE))?;
        let path = holder.path().join(TREE).join(path);
        Ok(Self { _lock: lock, holder, path, remotes: part.remotes })
    }
}

fn short(commit: &Commit) -> &str {
    commit.id.get(..12).unwrap_or(&commit.id)
}

/// A path relative to a folder, without `.` and `..`; none where it leaves the tree.
pub(crate) fn inside(folder: &Path, path: &Path) -> Option<PathBuf> {
    let mut plain = folder.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !plain.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(plain)
}

/// What is written at one path.
enum Entry {
    File { content: Vec<u8>, is_program: bool },
    Link(PathBuf),
}

/// The part of a tree that is needed.
struct Part<'a> {
    repository: &'a git2::Repository,
    root: &'a git2::Tree<'a>,
    limits: Limits,
    entries: BTreeMap<PathBuf, Entry>,
    folders: usize,
    bytes: usize,
    remotes: Vec<String>,
}

impl Part<'_> {
    fn kind(&self, path: &Path) -> Result<Option<ObjectType>> {
        if path.as_os_str().is_empty() {
            return Ok(Some(ObjectType::Tree));
        }
        match self.root.get_path(path) {
            Ok(entry) => Ok(entry.kind()),
            Err(e) if e.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(e) => Err(from_git(e, format!("cannot read {}", path.display()))),
        }
    }

    /// A folder with everything in it, and the folders to which its kustomizations refer.
    fn collect(&mut self, path: &Path) -> Result<()> {
        let mut due = VecDeque::from([path.to_owned()]);
        let mut done = BTreeSet::new();
        while let Some(path) = due.pop_front() {
            if !done.insert(path.clone()) {
                continue;
            }
            match self.kind(&path)? {
                Some(ObjectType::Tree) => {
                    let tree = if path.as_os_str().is_empty() {
                        self.root.clone()
                    } else {
                        let entry = self.root.get_path(&path);
                        let object = entry.and_then(|entry| entry.to_object(self.repository));
                        let object =
                            object.map_err(|e| from_git(e, format!("cannot read {}", path.display())))?;
                        object.into_tree().map_err(|_| refused(format!("{} is no folder", path.display())))?
                    };
                    self.folder(&path, &tree, &mut due)?;
                }
                // A file that a link leads to, or that a kustomization outside its own folder names.
                Some(_) => {
                    let entry = self.root.get_path(&path);
                    let entry = entry.map_err(|e| from_git(e, format!("cannot read {}", path.display())))?;
                    self.entry(&path, &entry, &mut due)?;
                }
                // What is missing is for kustomize to say.
                None => {}
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, tree: &git2::Tree<'_>, due: &mut VecDeque<PathBuf>) -> Result<()> {
        if path.components().count() > self.limits.depth {
            let message = format!("{} is nested deeper than {} folders", path.display(), self.limits.depth);
            return Err(refused(message));
        }
        // A small repository can hold more folders than anybody can visit.
        self.folders += 1;
        if self.folders > self.limits.files {
            return Err(refused(format!("it takes more than {} folders", self.limits.files)));
        }
        for entry in tree {
            let name = plain_name(entry.name_bytes(), path)?;
            let below = path.join(name);
            if entry.kind() == Some(ObjectType::Tree) {
                self.check_size(entry.id(), &below)?;
                let object = entry.to_object(self.repository);
                let object = object.map_err(|e| from_git(e, format!("cannot read {}", below.display())))?;
                let tree =
                    object.into_tree().map_err(|_| refused(format!("{} is no folder", below.display())))?;
                self.folder(&below, &tree, due)?;
            } else {
                self.entry(&below, &entry, due)?;
            }
        }
        Ok(())
    }

    /// The size of an object, from its head: what is too large is never read.
    fn check_size(&self, id: git2::Oid, path: &Path) -> Result<usize> {
        let size = self.repository.odb().and_then(|odb| odb.read_header(id));
        let (size, _) = size.map_err(|e| missing(e, &path.display().to_string(), self.repository))?;
        if size <= self.limits.file_bytes {
            return Ok(size);
        }
        let most = self.limits.file_bytes;
        Err(refused(format!("{} has {size} bytes, and more than {most} are not read", path.display()))
            .with_hint("an environment's folder should hold manifests only"))
    }

    /// Where a link leads. Through another link it would lead elsewhere than its text says.
    fn led_to(&self, link: &Path, target: &Path) -> Result<PathBuf> {
        let outside = || {
            refused(format!("{} is a link to {}, outside the repository", link.display(), target.display()))
        };
        let mut at = link.parent().unwrap_or(Path::new("")).to_owned();
        let mut parts = target.components().peekable();
        while let Some(part) = parts.next() {
            match part {
                Component::Normal(name) => {
                    at.push(name);
                    let is_link = self
                        .root
                        .get_path(&at)
                        .is_ok_and(|entry| entry.filemode() == i32::from(FileMode::Link));
                    if is_link && parts.peek().is_some() {
                        let through = at.display();
                        return Err(refused(format!(
                            "{} is a link that leads through another, {through}",
                            link.display()
                        )));
                    }
                }
                Component::CurDir => {}
                Component::ParentDir if at.pop() => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
            }
        }
        Ok(at)
    }

    fn entry(&mut self, path: &Path, entry: &git2::TreeEntry<'_>, due: &mut VecDeque<PathBuf>) -> Result<()> {
        let shown = path.display();
        if entry.kind() == Some(ObjectType::Commit) {
            return Err(refused(format!("{shown} is a submodule, whose content is not in this repository"))
                .with_hint("move what the environment needs into the repository"));
        }
        if self.entries.contains_key(path) {
            return Ok(());
        }
        if self.entries.len() >= self.limits.files {
            return Err(refused(format!("it takes more than {} files", self.limits.files)));
        }
        self.bytes += self.check_size(entry.id(), path)?;
        if self.bytes > self.limits.bytes {
            return Err(refused(format!("it takes more than {} bytes", self.limits.bytes)));
        }
        let blob = self.repository.find_blob(entry.id());
        let blob = blob.map_err(|e| missing(e, &shown.to_string(), self.repository))?;
        let content = blob.content();
        if entry.filemode() == i32::from(FileMode::Link) {
            let target = PathBuf::from(std::ffi::OsStr::from_bytes(content));
            let is_kustomization = path.file_name().and_then(|name| name.to_str());
            if is_kustomization.is_some_and(|name| KUSTOMIZATIONS.contains(&name)) {
                return Err(refused(format!("{shown} is a link: a kustomization has to be a file")));
            }
            due.push_back(self.led_to(path, &target)?);
            self.entries.insert(path.to_owned(), Entry::Link(target));
            return Ok(());
        }
        if content.starts_with(LFS_POINTER) {
            return Err(refused(format!(
                "{shown} is a pointer of Git LFS, whose content is not in this repository"
            )));
        }
        let is_kustomization = path.file_name().and_then(|name| name.to_str());
        if is_kustomization.is_some_and(|name| KUSTOMIZATIONS.contains(&name)) {
            let referred = kustomization::read(content).map_err(|why| refused(format!("{shown} {why}")))?;
            let folder = path.parent().unwrap_or(Path::new(""));
            for entry in referred.folders {
                match inside(folder, Path::new(&entry)) {
                    Some(path) => due.push_back(path),
                    None => {
                        return Err(refused(format!("{shown} refers to {entry}, outside the repository")));
                    }
                }
            }
            self.remotes.extend(referred.remotes);
        }
        let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if is_yaml && std::str::from_utf8(content).is_ok_and(yaml::is_too_much) {
            return Err(refused(format!("{shown} stands for more than can be read: its aliases multiply")));
        }
        let is_program = entry.filemode() == i32::from(FileMode::BlobExecutable);
        self.entries.insert(path.to_owned(), Entry::File { content: content.to_vec(), is_program });
        Ok(())
    }

    /// Refuses links that lead round in a circle, or through which a file would be written elsewhere.
    fn check_links(&self) -> Result<()> {
        for path in self.entries.keys() {
            let mut at = path.clone();
            for hops in 0.. {
                if hops > MOST_LINKS {
                    return Err(refused(format!(
                        "{} is a link that leads round in a circle",
                        path.display()
                    )));
                }
                let Some(Entry::Link(target)) = self.entries.get(&at) else { break };
                let folder = at.parent().unwrap_or(Path::new("")).to_owned();
                match inside(&folder, target) {
                    Some(next) => at = next,
                    None => return Err(refused(format!("{} leads outside the repository", path.display()))),
                }
            }
            let mut above = path.parent();
            while let Some(folder) = above.filter(|folder| !folder.as_os_str().is_empty()) {
                if self.entries.contains_key(folder) {
                    return Err(refused(format!("{} is below what is no folder", path.display())));
                }
                above = folder.parent();
            }
        }
        Ok(())
    }

    fn write(&self, root: &Path) -> Result<()> {
        let failed = |e| from_io(e, "cannot write the files of the revision to the temporary folder");
        let make =
            |folder: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed);
        make(root)?;
        for (path, entry) in &self.entries {
            let path = root.join(path);
            if let Some(folder) = path.parent() {
                make(folder)?;
            }
            match entry {
                Entry::File { content, is_program } => {
                    let mode = if *is_program { 0o700 } else { 0o600 };
                    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
                    file.and_then(|mut file| file.write_all(content)).map_err(failed)?;
                }
                Entry::Link(target) => std::os::unix::fs::symlink(target, &path).map_err(failed)?,
            }
        }
        // What the system makes of the links, whatever was thought of them before.
        let real = root.canonicalize().map_err(failed)?;
        for (path, _) in self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Link(_))) {
            if root.join(path).canonicalize().is_ok_and(|end| !end.starts_with(&real)) {
                return Err(refused(format!("{} leads outside the repository", path.display())));
            }
        }
        Ok(())
    }
}

const TREE: &str = "tree";
const LOCK: &str = "lock";

/// A private folder, locked for as long as this process has it.
fn make() -> Result<(TempDir, fs::File)> {
    let failed = |e| from_io(e, "cannot make a temporary folder");
    let private = fs::Permissions::from_mode(0o700);
    let holder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir().map_err(failed)?;
    let lock = fs::File::create_new(holder.path().join(LOCK)).map_err(failed)?;
    lock.try_lock().map_err(|e| from_io(e.into(), "cannot lock a temporary folder"))?;
    Ok((holder, lock))
}

/// Removes what processes left that were killed. What cannot be removed stays, and what belongs to somebody else.
fn remove_stale() {
    let own = rustix::process::geteuid().as_raw();
    let folders = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name().as_bytes().starts_with(PREFIX.as_bytes())) {
        let Ok(data) = folder.metadata() else { continue };
        // One that was just made may not be locked yet.
        let is_old = data.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE));
        if !data.is_dir() || data.uid() != own || !is_old {
            continue;
        }
        // Neither a link nor a pipe, which would be waited for.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let lock = fs::OpenOptions::new().read(true).custom_flags(flags).open(folder.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.metadata().is_ok_and(|data| data.is_file()) && lock.try_lock().is_ok())
        {
            let _ = fs::remove_dir_all(folder.path());
        }
    }
}

/// How old a folder is before it is asked whether its process has ended.
const STALE: std::time::Duration = std::time::Duration::from_secs(60);

/// The beginning of the names of temporary folders.
const PREFIX: &str = "rollback-git-";

/// A name that stands for nothing but itself.
fn plain_name<'a>(name: &'a [u8], folder: &Path) -> Result<&'a str> {
    let text = std::str::from_utf8(name).map_err(|_| {
        let lossy = String::from_utf8_lossy(name).into_owned();
        refused(format!("a name in {} is not UTF-8: {lossy:?}", folder.display()))
    })?;
    let is_plain = !text.is_empty()
        && !matches!(text, "." | "..")
        && !text.eq_ignore_ascii_case(".git")
        && !text.contains(['/', '\0']);
    if is_plain {
        return Ok(text);
    }
    Err(refused(format!("{} holds the name {text:?}, which is not one of a file", folder.display())))
}

/// An object that a clone should have and has not.
fn missing(error: git2::Error, path: &str, repository: &git2::Repository) -> Error {
    let is_absent = error.code() == git2::ErrorCode::NotFound;
    let error = from_git(error, format!("the content of {path} is not in this clone"));
    match (is_absent, repository.is_shallow()) {
        (true, true) => error.with_hint("the clone is shallow: git fetch --unshallow --tags"),
        (true, false) => error.with_hint("the clone is partial: git fetch --refetch, without a filter"),
        (false, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_the_tree() {
        let at = |folder: &str, path: &str| inside(Path::new(folder), Path::new(path));
        assert_eq!(at("a/b", "../c/./d"), Some("a/c/d".into()));
        assert_eq!(at("a", "../.."), None);
        assert_eq!(at("", "/etc/passwd"), None);
        assert_eq!(at("a", ".."), Some("".into()));
    }

    #[test]
    fn names_that_stand_for_something_else_are_refused() {
        for name in [&b".."[..], b".", b"", b".GIT", b"a/b", b"\xff"] {
            assert!(plain_name(name, Path::new("x")).is_err(), "{name:?}");
        }
        assert_eq!(plain_name(b"a b.yaml", Path::new("x")).unwrap(), "a b.yaml");
    }
}
