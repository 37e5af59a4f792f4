//! Reports in a folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{chart, collect, html, markdown};
use crate::supervisor::Reporter;
use crate::{Clock, Error, ErrorKind, Journal, Ledger, Result, RunId, SystemClock};

/// Writes the report of each run into a folder: `RUN.html`, `RUN.md` with its chart `RUN.svg`, and `RUN.json`. Each file
/// is there whole or not at all.
#[derive(Clone, Debug)]
pub struct IncidentFolder {
    folder: PathBuf,
    journal: Arc<dyn Journal>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    due: Duration,
}

impl IncidentFolder {
    /// Reports of what this journal and ledger hold; the folder is made once it is needed. The root cause is due within
    /// 48 hours.
    pub fn new(folder: impl Into<PathBuf>, journal: Arc<dyn Journal>, ledger: Arc<dyn Ledger>) -> Self {
        let (folder, clock) = (folder.into(), Arc::new(SystemClock));
        Self { folder, journal, ledger, clock, due: Duration::from_secs(48 * 3600) }
    }

    /// Sets how long after an incident its root cause is to be known.
    #[must_use]
    pub fn with_due(mut self, due: Duration) -> Self {
        self.due = due;
        self
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

#[async_trait]
impl Reporter for IncidentFolder {
    async fn report(&self, run: RunId) -> Result<String> {
        let incident = collect(&*self.journal, &*self.ledger, run, self.clock.now(), self.due).await?;
        let json = serde_json::to_string_pretty(&incident).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "the incident cannot be encoded").with_source(e)
        })?;
        let svg = chart(&incident);
        let picture = svg.as_ref().map(|_| format!("{run}.svg"));
        let mut files = vec![
            (format!("{run}.json"), json),
            (format!("{run}.md"), markdown(&incident, picture.as_deref())?),
            (format!("{run}.html"), html(&incident)?),
        ];
        files.extend(picture.zip(svg));
        let folder = self.folder.clone();
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            files.iter().try_for_each(|(name, text)| write(&folder, name, text))?;
            Ok::<_, std::io::Error>(folder.join(format!("{run}.html")))
        });
        let written = written.await.map_err(std::io::Error::other).and_then(|written| written);
        let place = written.map_err(|e| {
            let message = format!("the incident report cannot be written to {}", self.folder.display());
            Error::new(ErrorKind::Unexpected, message).with_source(e)
        })?;
        Ok(place.to_string_lossy().into_owned())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&beside, folder.join(name))).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}
