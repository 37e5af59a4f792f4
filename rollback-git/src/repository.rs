//! The revisions of a repository that hold a path. Nothing here touches the working tree, the index or a ref.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use git2::{ObjectType, Oid};
use rollback_core::{Error, ErrorKind, Result, Timestamp};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{from_git, from_io};
use crate::kustomization::KUSTOMIZATIONS;
use crate::tree::{Folder, Limits};

/// How long fetching may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its full id, in hexadecimal.
    pub id: String,
    /// When it was committed.
    pub committed: Timestamp,
    /// The first line of its message.
    pub subject: String,
}

/// A tag that holds the path that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name, without `refs/tags/`.
    pub name: String,
    /// The commit that it points to.
    pub commit: Commit,
}

/// A git repository, read from its objects alone: what is checked out, staged or dirty does not matter.
///
/// Every call opens it anew, so that it sees what was fetched since; a handle can be used from any thread.
///
/// ```no_run
/// use std::path::Path;
/// use rollback_git::{Limits, Repository};
///
/// # async fn example() -> rollback_core::Result<()> {
/// let repository = Repository::local(".")?;
/// let path = Path::new("infra/kubernetes/environments/staging");
/// for tag in repository.tags("v*", path).await? {
///     println!("{} {} {}", tag.name, tag.commit.committed, tag.commit.subject);
/// }
/// let commit = repository.resolve("v1.4.0").await?;
/// let folder = repository.materialize(&commit, path, Limits::default()).await?;
/// println!("{}", folder.path().display());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// The repository of this folder, or of a folder above it.
    ///
    /// # Errors
    /// `InvalidConfig` when there is none, `PermissionDenied` when it belongs to somebody who is not trusted.
    pub fn local(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let found = git2::Repository::discover(folder).map_err(|e| {
            if e.code() == git2::ErrorCode::NotFound {
                return Error::new(
                    ErrorKind::InvalidConfig,
                    format!("{} is not in a git repository", folder.display()),
                )
                .with_hint("name the folder of a clone with --repo");
            }
            from_git(e, format!("cannot open the repository of {}", folder.display()))
        })?;
        Ok(Self { folder: found.path().to_owned() })
    }

    /// The repository at a URL, fetched into a bare clone in `cache`, which is made where it is missing.
    ///
    /// It is fetched by the program `git`, with the user's own credential helpers, ssh settings and known hosts, as by
    /// hand; it never asks on a terminal. `https`, `ssh` and `file` are the transports allowed.
    ///
    /// # Errors
    /// `InvalidConfig` where there is no `git` or the URL is none, `Unavailable` or `Timeout`, which are temporary,
    /// with what git said.
    pub async fn fetched(url: &str, cache: &Path) -> Result<Self> {
        if url.starts_with('-') {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{url:?} is not the URL of a repository"),
            ));
        }
        let failed = |e| from_io(e, format!("cannot make the folder {}", cache.display()));
        let cache = &std::path::absolute(cache).map_err(failed)?;
        if cache.join("HEAD").exists() {
            // It refuses one of somebody else, whose settings would be programs to run.
            git2::Repository::open(cache)
                .map_err(|e| from_git(e, format!("cannot open the clone {}", cache.display())))?;
        } else {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache).map_err(failed)?;
            git(&["init", "--quiet", "--bare"], cache, url).await?;
        }
        // By this it is the same repository as any other clone of it.
        git(&["config", "remote.origin.url", &without_password(url)], cache, url).await?;
        // Tags that moved are taken over: who pinned one compares commits.
        let refspecs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let fetch =
            ["fetch", "--quiet", "--no-tags", "--force", "--prune", "--no-recurse-submodules", "--", url];
        git(&[&fetch[..], &refspecs[..]].concat(), cache, url).await?;
        Ok(Self { folder: cache.to_owned() })
    }

    /// Host and path of a URL: what tells a repository apart from others, however it is reached.
    pub fn place(url: &str) -> String {
        place_of(url)
    }

    /// The folder of its objects.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Host and path of the remote `origin`, else the path of the repository: what tells it apart from others, however it
    /// is reached.
    ///
    /// # Errors
    /// As [`Repository::local`].
    pub fn identity(&self) -> Result<String> {
        let config =
            self.open()?.config().map_err(|e| from_git(e, "cannot read the settings of the repository"))?;
        // As it is written: what it is rewritten to differs from person to person.
        let url = config.get_string("remote.origin.url").ok();
        Ok(url.map_or_else(|| self.folder.display().to_string(), |url| place_of(&url)))
    }

    /// The tags that match a pattern (as of the shell, such as `v*`) and hold the path, newest version first. What is
    /// no semantic version comes after those that are, newest commit first.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn tags(&self, pattern: &str, path: &Path) -> Result<Vec<Tag>> {
        let pattern = pattern.to_owned();
        let path = crate::tree::inside(Path::new(""), path).ok_or_else(|| {
            let message = format!("{} is not a path inside the repository", path.display());
            Error::new(ErrorKind::InvalidConfig, message)
        })?;
        self.read(move |repository| {
            let names =
                repository.tag_names(Some(&pattern)).map_err(|e| from_git(e, "cannot list the tags"))?;
            let mut tags = Vec::new();
            // One that is not UTF-8 cannot be named by anybody here.
            for name in names.iter().filter_map(|name| name.ok().flatten()) {
                let tag = repository
                    .find_reference(&format!("refs/tags/{name}"))
                    .and_then(|reference| reference.peel(ObjectType::Any));
                let tag = tag.map_err(|e| from_git(e, format!("cannot read tag {name}")))?;
                // A tag may name a tree or a file.
                let Ok(commit) = tag.peel_to_commit() else { continue };
                let tree =
                    commit.tree().map_err(|e| from_git(e, format!("cannot read the tree of {name}")))?;
                let is_folder = |entry: git2::TreeEntry<'_>| entry.kind() == Some(ObjectType::Tree);
                if path.as_os_str().is_empty() || tree.get_path(&path).is_ok_and(is_folder) {
                    tags.push(Tag { name: name.to_owned(), commit: commit_of(&commit)? });
                }
            }
            tags.sort_by(|a, b| {
                let key = |tag: &Tag| (version_of(&tag.name), tag.commit.committed);
                key(b).cmp(&key(a)).then_with(|| b.name.cmp(&a.name))
            });
            Ok(tags)
        })
        .await
    }

    /// The folders that hold a kustomization in what is checked out: what may be an environment.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub async fn kustomizations(&self) -> Result<Vec<String>> {
        self.read(|repository| {
            let failed = |e| from_git(e, "cannot read what is checked out");
            let tree = repository.head().and_then(|head| head.peel_to_tree()).map_err(failed)?;
            let mut folders = Vec::new();
            tree.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
                if entry.name().is_ok_and(|name| KUSTOMIZATIONS.contains(&name)) {
                    folders.push(folder.trim_end_matches('/').to_owned());
                }
                git2::TreeWalkResult::Ok
            })
            .map_err(failed)?;
            folders.retain(|folder| !folder.is_empty());
            folders.dedup();
            Ok(folders)
        })
        .await
    }

    /// The commit that a tag, a branch or the beginning of a commit's id names, in this order.
    ///
    /// # Errors
    /// `NotFound` for what names none, with the reason where the clone is shallow; `InvalidConfig` for the beginning of
    /// several ids.
    pub async fn resolve(&self, revision: &str) -> Result<Commit> {
        let revision = revision.to_owned();
        if revision == "HEAD" {
            // What is checked out is nobody's revision, and the remote's default branch is not meant either.
            return Err(Error::new(ErrorKind::InvalidConfig, "HEAD names no revision of an environment")
                .with_hint("name a tag, a branch or a commit"));
        }
        self.read(move |repository| {
            for prefix in ["refs/tags/", "refs/heads/", "refs/remotes/origin/"] {
                if let Ok(reference) = repository.find_reference(&format!("{prefix}{revision}")) {
                    let commit = reference.peel_to_commit();
                    return commit_of(
                        &commit.map_err(|e| from_git(e, format!("{revision} names no commit")))?,
                    );
                }
            }
            let is_id = revision.len() >= 7 && revision.chars().all(|c| c.is_ascii_hexdigit());
            if is_id {
                match repository.find_commit_by_prefix(&revision) {
                    Ok(commit) => return commit_of(&commit),
                    Err(e) if e.code() == git2::ErrorCode::Ambiguous => {
                        return Err(from_git(
                            e,
                            format!("{revision} is the beginning of several commits' ids"),
                        ));
                    }
                    Err(_) => {}
                }
            }
            let error = Error::new(
                ErrorKind::NotFound,
                format!("{revision} is no tag, branch or commit of the repository"),
            );
            Err(if repository.is_shallow() {
                error.with_hint("the clone is shallow, and may lack it: git fetch --unshallow --tags")
            } else {
                error.with_hint("fetch it first, if it is newer than the clone: git fetch --tags")
            })
        })
        .await
    }

    /// Writes what a path of a commit takes to be rendered into a private folder, which is removed with the answer.
    ///
    /// # Errors
    /// `NotFound` for a path that the commit does not hold, `Refused` for content that is not safe or not complete:
    /// links and names that leave the tree, submodules, Git LFS pointers, more than the limits.
    pub async fn materialize(&self, commit: &Commit, path: &Path, limits: Limits) -> Result<Folder> {
        let (commit, path) = (commit.clone(), path.to_owned());
        self.read(move |repository| Folder::write(repository, &commit, &path, limits)).await
    }

    fn open(&self) -> Result<git2::Repository> {
        git2::Repository::open(&self.folder)
            .map_err(|e| from_git(e, format!("cannot open the repository {}", self.folder.display())))
    }

    /// Reads on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&git2::Repository) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || read(&this.open()?)).await;
        done.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Unexpected, "reading the repository ended early").with_source(e))
        })
    }
}

fn commit_of(commit: &git2::Commit<'_>) -> Result<Commit> {
    let seconds = commit.time().seconds();
    Ok(Commit {
        id: commit.id().to_string(),
        committed: Timestamp::from_unix_millis(seconds.saturating_mul(1000))?,
        subject: commit
            .summary_bytes()
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .unwrap_or_default(),
    })
}

/// The id of a commit as libgit2 has it.
pub(crate) fn oid(commit: &Commit) -> Result<Oid> {
    Oid::from_str(&commit.id).map_err(|e| from_git(e, format!("{:?} is not the id of a commit", commit.id)))
}

/// The version that the name of a tag ends with, such as that of `v1.4.0` or `staging/1.4.0`.
fn version_of(tag: &str) -> Option<semver::Version> {
    let last = tag.rsplit('/').next().unwrap_or(tag);
    semver::Version::parse(last.strip_prefix(['v', 'V']).unwrap_or(last)).ok()
}

/// Host and path of a URL, or of what ssh takes for one.
fn place_of(url: &str) -> String {
    let plain = without_password(url);
    let plain = match plain.split_once("://") {
        Some((_, rest)) => rest.to_owned(),
        // user@host:path, but no path of this machine.
        None => match plain.split_once(':') {
            Some((host, path)) if !host.contains('/') => {
                let host = host.rsplit('@').next().unwrap_or(host);
                format!("{host}/{}", path.trim_start_matches('/'))
            }
            _ => plain,
        },
    };
    plain.trim_end_matches('/').trim_end_matches(".git").to_owned()
}

fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://{}", rest.get(at + 1..).unwrap_or_default()),
        None => url.to_owned(),
    }
}

async fn git(args: &[&str], folder: &Path, url: &str) -> Result<()> {
    let mut command = Command::new("git");
    // A hook that calls us has set where its own repository is.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_users = text.starts_with("GIT_SSH") || text == "GIT_ASKPASS" || text.starts_with("GIT_CONFIG");
        if text.starts_with("GIT_") && !is_users {
            command.env_remove(&name);
        }
    }
    if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
        // ssh asks on the terminal itself.
        command.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
    }
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"])
        .args(args)
        .current_dir(folder)
        .env("GIT_DIR", folder)
        .env("GIT_ALLOW_PROTOCOL", "https:ssh:file")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let shown = without_password(url);
    let started = command.spawn();
    let group = started.as_ref().ok().and_then(tokio::process::Child::id);
    let run = async { started?.wait_with_output().await };
    let output = match timeout(FETCH_TIMEOUT, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "there is no program git to fetch the repository with",
            )
            .with_hint("install git, or name the folder of a clone")
            .with_source(e));
        }
        Ok(Err(e)) => return Err(from_io(e, "git could not be started")),
        Err(_) => {
            // What fetches is a child of git.
            let group = group.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(group) = group {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let message = format!("fetching {shown} took longer than {} s", FETCH_TIMEOUT.as_secs());
            return Err(Error::new(ErrorKind::Timeout, message).temporary(None));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).replace(url, &shown);
    let said = said.lines().last().unwrap_or("it did not say why").trim().to_owned();
    Err(Error::new(ErrorKind::Unavailable, format!("{shown} cannot be fetched: {said}"))
        .temporary(None)
        .with_hint("see whether `git ls-remote` of it works here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_end_of_a_tag() {
        let version = |tag| version_of(tag).map(|version| version.to_string());
        assert_eq!(version("v1.10.0"), Some("1.10.0".into()));
        assert_eq!(version("staging/2.0.0-rc.1"), Some("2.0.0-rc.1".into()));
        assert_eq!([version("release-7"), version("v1.4")], [None, None]);
        assert!(version_of("v1.10.0") > version_of("v1.9.0"));
    }

    #[test]
    fn a_repository_is_the_same_however_it_is_reached() {
        for url in ["https://ann:s@host/team/a.git", "ssh://git@host/team/a", "git@host:team/a.git"] {
            assert_eq!(place_of(url), "host/team/a", "{url}");
        }
        assert_eq!(place_of("/srv/a.git"), "/srv/a");
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(without_password("https://ann:s3cret@host/a.git"), "https://host/a.git");
        assert_eq!(without_password("git@host:a.git"), "git@host:a.git");
        assert_eq!(without_password("/srv/a.git"), "/srv/a.git");
    }
}
