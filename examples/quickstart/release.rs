//! A component of your own: a service whose release is the folder that a link names.
//!
//! ```text
//! current -> releases/v5      the only thing that a rollback changes
//! releases/v3, v4, v5         what was ever deployed; never edited
//! ```
//!
//! Everything that the library does for a component (plans, order, retries, journal, verification,
//! compensation) stands on the few promises that are kept here. `rollback_testkit::conformance!` tests all
//! of them; see `examples/tests/quickstart.rs`.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    Change, ChangeKind, ComponentId, Error, ErrorKind, FieldChange, Fingerprint, Position, Realm, Result,
    Revision, Rollbackable, Snapshot, StepContext, Target, Verification, VerificationState,
};
use serde_json::{Map, json};
use tokio::time::{Instant, sleep, timeout};

use super::service::get;

const PAUSE: Duration = Duration::from_millis(50);
const GOOD_ANSWERS: u32 = 3;

/// A service whose release is the folder that the link `current` names.
#[derive(Debug)]
pub(crate) struct Release {
    id: ComponentId,
    root: PathBuf,
    service: SocketAddr,
}

impl Release {
    /// The service of this name, with its releases below `root`, listening at `service`.
    pub(crate) fn new(name: &str, root: &Path, service: SocketAddr) -> Result<Self> {
        let root = root.canonicalize().map_err(failed("finding the folder"))?;
        Ok(Self { id: ComponentId::new("release", None, name)?, root, service })
    }

    fn current(&self) -> Result<String> {
        let link = fs::read_link(self.root.join("current")).map_err(failed("reading the link"))?;
        Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// The names of all releases, newest first: v10 before v9.
    fn releases(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(self.root.join("releases")).map_err(failed("listing the releases"))?;
        let mut names: Vec<_> =
            names.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_by_key(|name| std::cmp::Reverse((name.len(), name.clone())));
        Ok(names)
    }

    /// A release as a state to be in. Releases are kept, so a reference is enough; the fingerprint of its
    /// files is part of it, so that `v4` with other files is not taken for the `v4` of the plan.
    fn snapshot(&self, release: &str) -> Result<Snapshot> {
        let mut files = Map::new();
        let folder = fs::read_dir(self.root.join("releases").join(release));
        for file in folder.map_err(failed("listing a release"))?.flatten() {
            let bytes = fs::read(file.path()).map_err(failed("reading a release"))?;
            files.insert(file.file_name().to_string_lossy().into_owned(), bytes.into());
        }
        let content = json!({"release": release, "files": Fingerprint::of(&files.into())});
        Ok(Snapshot {
            id: release.into(),
            fingerprint: Fingerprint::of(&content),
            summary: format!("release {release}"),
            content,
        })
    }

    /// Compares content part by part, and no counter or date: whoever deployed something else meanwhile is
    /// noticed, whoever edited something that this change does not touch is not in the way.
    fn position(&self, change: &Change) -> Result<Position> {
        let current = self.current()?;
        let intact = self.snapshot(&change.to.id).is_ok_and(|now| now.fingerprint == change.to.fingerprint);
        Ok(Position::of_parts([
            ("current".to_owned(), current == change.from.id, current == change.to.id),
            (format!("releases/{}", change.to.id), intact, intact),
        ]))
    }

    /// A link cannot be changed in place, and between removing and making one there would be none: a new
    /// one is renamed over it, which happens at once or not at all.
    fn point_at(&self, release: &str) -> Result<()> {
        let new = self.root.join(".current.new");
        let _ = fs::remove_file(&new); // what a crash may have left
        std::os::unix::fs::symlink(Path::new("releases").join(release), &new)
            .and_then(|()| fs::rename(&new, self.root.join("current")))
            .map_err(failed("replacing the link"))
    }

    async fn look(&self, release: &str) -> Verification {
        let answer = match timeout(Duration::from_secs(1), get(self.service)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Verification::progressing(format!("no answer: {error}")),
            Err(_) => return Verification::progressing("no answer within a second"),
        };
        match answer.status.as_str() {
            _ if answer.release != release => {
                Verification::progressing(format!("{} still answers", answer.release))
            }
            "200 OK" => Verification::converged(format!("{release} answers 200 OK")),
            "503 Service Unavailable" => Verification::progressing(format!("{release} is starting")),
            status => Verification::failed(format!("{release} answers {status}")),
        }
    }
}

#[async_trait]
impl Rollbackable for Release {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    /// Two folders are two systems: a plan made for one is refused on the other.
    async fn realm(&self) -> Result<Realm> {
        Ok(Realm::new(format!("file:{}", self.root.display())))
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        let current = self.current()?;
        let revision = |name: String| {
            let Snapshot { id, fingerprint, summary, .. } = self.snapshot(&name)?;
            let current = id == current;
            Ok(Revision {
                id,
                fingerprint,
                current,
                summary,
                created: None,
                since: None,
                cause: None,
                mark: None,
            })
        };
        self.releases()?.into_iter().map(revision).collect()
    }

    /// Only looks. What it answers is data: shown to people, recorded, carried out as it is, perhaps by
    /// another process, and reversed by swapping `from` and `to`.
    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        let (current, releases) = (self.current()?, self.releases()?);
        let wanted = match target {
            Target::Previous => releases.iter().skip_while(|name| **name != current).nth(1),
            Target::Revision(id) => releases.iter().find(|name| *name == id),
            Target::Snapshot(state) => releases.iter().find(|name| **name == state.id),
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "folders do not tell what was good, or when"));
            }
        };
        // Names are found in the list, never made into a path as they come.
        let wanted =
            wanted.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no such release: {target:?}")))?;
        let (from, to) = (self.snapshot(&current)?, self.snapshot(wanted)?);
        if let Target::Snapshot(state) = target
            && state.fingerprint != to.fingerprint
        {
            let message = format!("release {wanted} is not what it was when it was recorded");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let diff =
            FieldChange { path: "/current".into(), from: Some(json!(current)), to: Some(json!(wanted)) };
        Ok(vec![Change {
            component: self.id.clone(),
            realm: self.realm().await?,
            kind: ChangeKind::Rollback,
            from,
            to,
            identity: None,
            diff: vec![diff],
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: None,
        }])
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        self.position(change)
    }

    /// Called again after a failure, a crash, or when nobody knows: so it looks first, and does what is
    /// left to do.
    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        if self.position(change)? == Position::To {
            return Ok(());
        }
        // Before every single write: here a lost lease, a full disk under the journal or Ctrl-C stop it.
        cx.before_write(&format!("point the link at {}", change.to.id)).await?;
        // That may have waited, so the comparison comes after it, with no await before the write.
        if let Position::Elsewhere(what) = self.position(change)? {
            cx.write_rejected();
            return Err(Error::new(ErrorKind::Conflict, format!("changed since it was planned: {what}"))
                .with_hint("plan again"));
        }
        self.point_at(&change.to.id)
    }

    /// A change is done when the service serves it, not when the link is written. `Progressing` only at
    /// the deadline: until then there is hope, and afterwards the reason is what people need.
    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let mut good = 0;
        loop {
            if self.position(change)? != Position::To {
                return Ok(Verification::failed(format!("the link does not name {}", change.to.id)));
            }
            let seen = self.look(&change.to.id).await;
            cx.progress(seen.message.as_str());
            match seen.state {
                VerificationState::Failed => return Ok(seen),
                VerificationState::Converged => good += 1,
                VerificationState::Progressing => good = 0,
            }
            if good == GOOD_ANSWERS {
                return Ok(Verification::converged(format!("{}, {good} times in a row", seen.message)));
            }
            if Instant::now() >= cx.deadline() {
                return Ok(Verification::progressing(seen.message));
            }
            tokio::select! {
                () = sleep(PAUSE.min(cx.deadline() - Instant::now())) => {}
                () = cx.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "stopped while watching")),
            }
        }
    }

    async fn status(&self) -> Result<Verification> {
        Ok(self.look(&self.current()?).await)
    }
}

/// Says what failed, of which kind it is, and keeps the cause. Nothing here fails half-way, so no error is
/// `indeterminate()`; a write over a network, whose answer can be lost, is.
fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, what).with_source(error)
    }
}
