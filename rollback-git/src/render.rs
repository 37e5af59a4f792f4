//! From a folder to the objects that it stands for.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Error, ErrorKind, Fingerprint, Result};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{from_io, refused};
use crate::kustomization::KUSTOMIZATIONS;
use crate::tree::Folder;
use crate::yaml;

/// What a folder renders.
#[derive(Clone, PartialEq)]
pub struct Rendering {
    /// The objects, raw, in the order in which they were rendered.
    pub objects: Vec<Value>,
    /// What the renderer warned of.
    pub warnings: Vec<String>,
    /// What rendered them, for people.
    pub renderer: String,
}

impl Rendering {
    /// The identity of the objects, in whatever order.
    pub fn digest(&self) -> Fingerprint {
        let mut prints: Vec<_> = self.objects.iter().map(Fingerprint::of).collect();
        prints.sort_unstable();
        Fingerprint::of(&serde_json::json!(prints))
    }
}

impl fmt::Debug for Rendering {
    // The objects may be Secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objects, warnings, renderer } = self;
        f.debug_struct("Rendering")
            .field("objects", &objects.len())
            .field("warnings", warnings)
            .field("renderer", renderer)
            .finish()
    }
}

/// Renders a folder. The same folder renders the same objects.
#[async_trait]
pub trait Renderer: fmt::Debug + Send + Sync {
    /// What the folder renders. Writes nowhere, runs no program that the folder names, and fetches nothing unless that
    /// is allowed.
    ///
    /// # Errors
    /// `Refused` for a folder that does not render, with what the renderer said; `InvalidConfig` where there is no
    /// renderer; `Timeout`.
    async fn render(&self, folder: &Folder) -> Result<Rendering>;
}

/// Renders by `kustomize build`, or `kubectl kustomize`, what has a kustomization, and all manifests of a folder that has
/// none, as `kubectl apply -f` takes them.
///
/// The program runs without plugins, Helm, or the user's settings, reads no file outside the root of its
/// kustomization, and finds no `git` to fetch with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Kustomize {
    /// The program: `kustomize`, or `kubectl`, which has it built in. Default: whichever is on the `PATH`, `kustomize`
    /// first.
    pub program: Option<PathBuf>,
    /// How long it may take. Default: 60 s.
    pub timeout: Duration,
    /// How many bytes it may print. Default: 64 MiB.
    pub bytes: u64,
    /// Whether bases may be fetched from elsewhere, which makes the rendering depend on more than the commit.
    pub allow_network: bool,
}

impl Default for Kustomize {
    fn default() -> Self {
        Self { program: None, timeout: Duration::from_secs(60), bytes: 64 << 20, allow_network: false }
    }
}

impl Kustomize {
    /// By this program.
    pub fn program(program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()), ..Self::default() }
    }

    fn find(&self) -> Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let on_path =
            |name: &Path| folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
        if let Some(program) = &self.program {
            // It runs elsewhere, and with another PATH.
            let is_name = program.components().count() == 1;
            let found = on_path(program).filter(|_| is_name);
            return match found {
                Some(found) => Ok(found),
                None => std::path::absolute(program).map_err(|e| from_io(e, "there is no current folder")),
            };
        }
        let found = ["kustomize", "kubectl"].iter().find_map(|name| on_path(Path::new(name)));
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                "there is neither kustomize nor kubectl on the PATH to render with",
            )
            .with_hint("install one of them")
        })
    }

    async fn build(&self, folder: &Folder) -> Result<Rendering> {
        let program = self.find()?;
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let verb = if name.starts_with("kubectl") { "kustomize" } else { "build" };
        let renderer = format!("{} {verb}", program.display());
        let nothing = folder.nothing()?;
        let mut command = Command::new(&program);
        command
            .arg(verb)
            .arg(folder.path())
            .env_clear()
            .env("HOME", &nothing)
            .env("XDG_CONFIG_HOME", &nothing);
        if self.allow_network {
            command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        } else {
            // It fetches without a program, too: through a proxy that is not there.
            command.env("PATH", &nothing).env("HTTP_PROXY", NOWHERE).env("HTTPS_PROXY", NOWHERE);
        }
        command.current_dir(&nothing).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        let late = || {
            let message = format!("rendering took longer than {} s", self.timeout.as_secs());
            Error::new(ErrorKind::Timeout, message)
        };
        let (output, said, succeeded) =
            timeout(self.timeout, self.run(command, &renderer)).await.map_err(|_| late())??;
        let said = said.replace(&format!("{}/", folder.root().display()), "");
        if !succeeded {
            return Err(refused(format!("it does not render: {}", reason(&said))));
        }
        let warnings =
            said.lines().map(|line| line.trim().trim_start_matches("# Warning: ")).map(without_time);
        let warnings = warnings.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(Rendering { objects: parse(&output)?, warnings, renderer })
    }

    /// What a program prints to stdout and stderr, and whether it succeeded.
    async fn run(&self, mut command: Command, name: &str) -> Result<(String, String, bool)> {
        let failed = |e: std::io::Error| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound {
                ErrorKind::InvalidConfig
            } else {
                ErrorKind::Unavailable
            };
            Error::new(kind, format!("{name} cannot be run")).with_source(e)
        };
        let mut child = command.spawn().map_err(failed)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Unexpected, format!("{name} has no output")));
        };
        let output = async {
            let mut bytes = Vec::new();
            stdout.take(self.bytes + 1).read_to_end(&mut bytes).await.map_err(failed)?;
            if bytes.len() as u64 > self.bytes {
                return Err(refused(format!("it renders more than {} bytes", self.bytes)));
            }
            Ok(bytes)
        };
        let said = async {
            let mut bytes = Vec::new();
            stderr.take(self.bytes).read_to_end(&mut bytes).await.map_err(failed)?;
            Ok(bytes)
        };
        let (output, said) = tokio::try_join!(output, said)?;
        let status = child.wait().await.map_err(failed)?;
        if matches!(status.code(), Some(126 | 127)) {
            let said = String::from_utf8_lossy(&said).into_owned();
            let message = format!("{name} cannot be run: {}", reason(&said));
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(
                "name the program itself: a wrapper finds nothing on the empty PATH that it runs with",
            ));
        }
        let output =
            String::from_utf8(output).map_err(|e| refused("it renders what is not UTF-8").with_source(e))?;
        Ok((output, String::from_utf8_lossy(&said).into_owned(), status.success()))
    }
}

#[async_trait]
impl Renderer for Kustomize {
    async fn render(&self, folder: &Folder) -> Result<Rendering> {
        if !self.allow_network && !folder.remotes().is_empty() {
            let remotes = folder.remotes().join(", ");
            return Err(refused(format!("a kustomization fetches from elsewhere: {remotes}")).with_hint(
                "hold what it needs in the repository: what is fetched is not pinned by a commit",
            ));
        }
        let is_there = |name: &&str| folder.path().join(name).exists();
        if !KUSTOMIZATIONS.iter().any(is_there) {
            // Read by the same program, so that YAML means the same: what is `yes` or `0400` to kubectl is.
            let resources = manifests(folder.path())?;
            let text = serde_json::json!({"resources": resources}).to_string();
            fs::write(folder.path().join("kustomization.yaml"), text)
                .map_err(|e| from_io(e, "cannot write to the temporary folder"))?;
        }
        self.build(folder).await
    }
}

/// A proxy that nobody serves.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A line without the time that the log of Go puts before it.
fn without_time(line: &str) -> &str {
    let is_time = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '/' || c == ':' || c == ' ');
    line.split_at_checked(20).filter(|(time, _)| is_time(time)).map_or(line, |(_, rest)| rest)
}

/// Why, in one line, without what klog puts before it.
fn reason(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.trim_start().starts_with("# Warning"));
    let text = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let text = text.split_once("err=\"").map_or(text.as_str(), |(_, rest)| rest.trim_end_matches('"'));
    let text = text.trim_start_matches("Error: ").trim_start_matches("error: ");
    // It shows content, which may be that of a Secret.
    let shown = ["node contents", "literal source"].iter().filter_map(|mark| text.find(mark)).min();
    let text = shown.map_or(text, |at| text.get(..at).unwrap_or(text).trim_end_matches([' ', ':', ',']));
    match text.char_indices().nth(MOST_SAID) {
        // The end tells more than the beginning.
        Some(_) => {
            let from = text.chars().count() - MOST_SAID;
            format!("…{}", text.chars().skip(from).collect::<String>())
        }
        None if text.is_empty() => "it did not say why".to_owned(),
        None => text.to_owned(),
    }
}

/// How much of what a renderer says is told, in characters.
const MOST_SAID: usize = 1000;

/// The manifests in a folder, as `kubectl apply -f` takes them: not those in folders below.
fn manifests(folder: &Path) -> Result<Vec<String>> {
    let failed = |e| from_io(e, "cannot read the files of the revision");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if is_manifest && path.is_file() {
            files.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    if files.is_empty() {
        return Err(refused("it holds neither a kustomization nor manifests"));
    }
    files.sort();
    Ok(files)
}

/// The objects of a rendering.
fn parse(text: &str) -> Result<Vec<Value>> {
    let documents =
        yaml::documents(text).map_err(|why| refused(format!("the rendering is not valid: {why}")))?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = format!("document {} of the rendering", index + 1);
        let object: Value =
            serde_json::to_value(document).map_err(|e| refused(format!("{place} is not valid: {e}")))?;
        let is_named = ["/apiVersion", "/kind", "/metadata/name"].iter().all(|pointer| {
            object.pointer(pointer).and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        });
        if !is_named {
            let kind = object.get("kind").and_then(Value::as_str).unwrap_or("no kind");
            return Err(refused(format!("{place} is an object ({kind}) without apiVersion, kind or name")));
        }
        objects.push(object);
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_named() {
        for (text, part) in [
            ("kind: ConfigMap", "document 1 of the rendering is an object (ConfigMap) without"),
            ("a: 1\na: 2", "the rendering is not valid"),
            ("a: [", "the rendering is not valid"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 3}", "without apiVersion"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_reason_is_told_without_times_and_process_ids() {
        let klog = "E1123 14:33:12.788829 25940 run.go:72] \"command failed\" err=\"no such file\"";
        assert_eq!(reason(klog), "no such file");
        assert_eq!(reason("Error: accumulating resources: x"), "accumulating resources: x");
        assert_eq!(reason("Error: wrong node, node contents: {p: hunter2}"), "wrong node");
        assert_eq!(without_time("2026/11/25 18:00:00 well-defined vars"), "well-defined vars");
    }

    #[test]
    fn the_digest_is_of_the_objects_in_whatever_order() {
        let rendering = |objects: &[i64]| Rendering {
            objects: objects.iter().map(|n| serde_json::json!({"n": n})).collect(),
            warnings: Vec::new(),
            renderer: String::new(),
        };
        assert_eq!(rendering(&[1, 2]).digest(), rendering(&[2, 1]).digest());
        assert_ne!(rendering(&[1, 2]).digest(), rendering(&[1, 1]).digest());
    }
}
