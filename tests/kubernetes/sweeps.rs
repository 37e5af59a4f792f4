//! Every point at which a run can go wrong, for Deployments on the real API server; and for the journal in the
//! cluster, which the next process opens anew.

use std::sync::Arc;

use rollback_core::{Journal, SqliteJournal};
use rollback_testkit::sweeps::Journals;
use tempfile::TempDir;

type Deployment = crate::conformance::World<crate::conformance::OfDeployment>;

struct File(TempDir);

impl Journals for File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn Journal> {
        Arc::new(SqliteJournal::open(self.0.path().join("runs.db")).unwrap())
    }
}

rollback_testkit::sweeps!(Deployment, File);
