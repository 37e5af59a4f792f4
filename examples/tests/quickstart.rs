//! The quickstart tells the truth, and its component keeps every promise.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly, in its helpers too")]

#[path = "../quickstart/automatic.rs"]
mod automatic;
#[path = "../quickstart/release.rs"]
mod release;
#[path = "../quickstart/service.rs"]
mod service;
#[path = "../quickstart/story.rs"]
mod story;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{Outcome, Rollbackable, Target};
use rollback_testkit::{Deployed, Fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

use release::Release;
use service::Service;

struct Releases {
    root: TempDir,
    service: Service,
    seen: Mutex<(u64, u64)>,
}

const PASSWORD: &str = "correct-horse-battery-staple";

impl Releases {
    fn point_at(&self, release: &str) {
        story::point_at(self.root.path(), release).unwrap();
    }

    fn content(release: &str) -> Value {
        json!(format!("releases/{release}"))
    }
}

#[async_trait]
impl Fixture for Releases {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for (release, status) in
            [("v1", "200 OK"), ("v2", "503 Service Unavailable"), ("v3", "200 OK"), ("v4", "200 OK")]
        {
            story::lay_down(root.path(), release, status).unwrap();
            fs::write(root.path().join("releases").join(release).join("password"), PASSWORD).unwrap();
        }
        fs::write(root.path().join("log-level"), "info").unwrap();
        let service = Service::start(root.path()).await.unwrap();
        let fixture = Self { root, service, seen: Mutex::default() };
        fixture.point_at("v4");
        fixture
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        Arc::new(Release::new("web", self.root.path(), self.service.address).unwrap())
    }

    fn older(&self) -> Deployed {
        Deployed { target: Target::Revision("v1".into()), content: Self::content("v1") }
    }

    async fn observe(&self) -> Value {
        json!(fs::read_link(self.root.path().join("current")).unwrap())
    }

    fn glance(&self) -> Duration {
        Duration::from_millis(300)
    }

    // A change writes once, and a link is replaced by a new one, so another inode is one write more.
    async fn writes(&self) -> Option<u64> {
        let inode = fs::symlink_metadata(self.root.path().join("current")).unwrap().ino();
        let mut seen = self.seen.lock().unwrap();
        if seen.1 != inode {
            *seen = (seen.0 + 1, inode);
        }
        Some(seen.0)
    }

    async fn edit_touched(&self) -> Option<()> {
        self.point_at("v3");
        Some(())
    }

    async fn edit_untouched(&self) -> Option<()> {
        fs::write(self.root.path().join("log-level"), "debug").unwrap();
        Some(())
    }

    async fn untouched(&self) -> Option<Value> {
        Some(fs::read_to_string(self.root.path().join("log-level")).unwrap().into())
    }

    async fn never_settles(&self) -> Option<Target> {
        Some(Target::Revision("v2".into()))
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        Some(vec![PASSWORD.into()])
    }
}

rollback_testkit::conformance!(
    Releases,
    skip {
        a_lost_response_and_apply_again_is_applying_once: "renaming a file sends no response that could be lost",
        another_object_of_the_same_name_is_a_conflict: "a link has no identity beside its name",
        http_statuses_map_to_kind_and_disposition: "it changes files, and asks no server to",
    }
);

#[tokio::test]
async fn a_release_edited_since_the_plan_is_a_conflict() {
    let fixture = Releases::new().await;
    let component = fixture.component().await;
    let changes = component.prepare(&fixture.older().target).await.unwrap();
    story::lay_down(fixture.root.path(), "v1", "500 Internal Server Error").unwrap();
    let position = component.locate(changes.first().unwrap()).await.unwrap();
    assert_eq!(position, rollback_core::Position::Elsewhere("releases/v1".into()));
}

#[tokio::test]
async fn the_story_ends_with_the_service_answering() {
    let mut out = Vec::new();
    let reports = tempfile::tempdir().unwrap();
    let report = story::tell(&mut out, reports.path()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    let told = String::from_utf8(out).unwrap();
    let parts = [
        "v5 says 500 Internal Server Error",
        "step web: release/web  v5 -> v4",
        "recorded: web is about to change",
        "point the link at v4",
        "recorded: web is changed",
        "v4 answers 200 OK, 3 times in a row",
        "v4 says 200 OK",
        "v6 is deployed, and fails",
        "Firing: release/web: error-rate fires: ",
        "Started: the rollback of release/web from v6 to v4 begins",
        "Converged: the rollback of release/web from v6 to v4 is done and verified",
        "Recovered: release/web: all is well again",
        "v4 says 200 OK",
    ];
    let mut rest = told.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("{part:?} should come next in:\n{told}") };
        rest = rest.split_at(at).1;
    }
    let mut written: Vec<_> =
        fs::read_dir(reports.path()).unwrap().map(|file| file.unwrap().path()).collect();
    written.sort();
    let ends: Vec<_> = written.iter().filter_map(|path| path.extension()?.to_str()).collect();
    assert_eq!(ends, ["html", "json", "md", "svg"]);
}
