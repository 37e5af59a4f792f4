//! Components that break one promise each, and the case that finds it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use rollback_core::{
    Access, Change, ComponentId, Error, ErrorKind, Position, Realm, Result, Revision, Rollbackable,
    StepContext, Target, Verification,
};
use rollback_testkit::{Deployed, Fixture, MemoryComponent, conformance, sweeps};
use serde_json::{Value, json};

use crate::memory::Memory;

const ANNOUNCES_NOTHING: u8 = 0;
const OVERWRITES_WHAT_MOVED: u8 = 1;
const WRITES_WHILE_READING: u8 = 2;
const FORGETS_A_PART: u8 = 3;
const WRITES_AT_THE_TARGET: u8 = 4;
const SHOWS_A_SECRET: u8 = 5;
const CONVERGES_TOO_SOON: u8 = 6;
const GIVES_UP_TOO_SOON: u8 = 7;
const IS_SURE_OF_A_LOST_WRITE: u8 = 8;
const TAKES_ANOTHER_FOR_ITS_OWN: u8 = 9;
const PLANS_DIFFERENTLY_EACH_TIME: u8 = 10;
const CANNOT_GO_ON_HALF_WAY: u8 = 11;
const HAS_NO_CHANGE_FOR_NOTHING: u8 = 12;
const RESETS_WHAT_IS_NOT_ITS_OWN: u8 = 13;
const LEAVES_A_MARK_WHEN_DROPPED: u8 = 14;

struct Broken<const HOW: u8>(Memory);

struct Component<const HOW: u8>(MemoryComponent);

static PLANS: AtomicU32 = AtomicU32::new(0);

impl<const HOW: u8> Component<HOW> {
    async fn seen_by_it(&self, change: &Change) -> Result<Change> {
        let mut change = change.clone();
        if HOW == FORGETS_A_PART {
            for content in [&mut change.from.content, &mut change.to.content] {
                content.as_object_mut().unwrap().remove("only-in-the-first");
            }
        }
        if HOW == TAKES_ANOTHER_FOR_ITS_OWN {
            let now = self.0.prepare(&Target::Previous).await?;
            change.identity.clone_from(&now[0].identity);
        }
        Ok(change)
    }
}

impl<const HOW: u8> fmt::Debug for Component<HOW> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if HOW == SHOWS_A_SECRET { self.0.live() } else { json!({}) };
        write!(f, "Component({shown})")
    }
}

#[async_trait]
impl<const HOW: u8> Rollbackable for Component<HOW> {
    fn id(&self) -> &ComponentId {
        self.0.id()
    }

    async fn realm(&self) -> Result<Realm> {
        self.0.realm().await
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        self.0.history().await
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        let mut changes = self.0.prepare(target).await?;
        if HOW == PLANS_DIFFERENTLY_EACH_TIME {
            let plan = PLANS.fetch_add(1, Ordering::SeqCst);
            changes[0].warnings.push(format!("this is plan {plan}"));
        }
        if HOW == HAS_NO_CHANGE_FOR_NOTHING {
            changes.retain(|change| !change.is_noop());
        }
        Ok(changes)
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        if HOW == WRITES_WHILE_READING {
            self.0.edit("port", json!(81));
        }
        let position = self.0.locate(&self.seen_by_it(change).await?).await?;
        if HOW == CANNOT_GO_ON_HALF_WAY && position == Position::Between {
            return Ok(Position::Elsewhere("half-way".into()));
        }
        Ok(position)
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let change = &self.seen_by_it(change).await?;
        let position = self.0.locate(change).await?;
        match (HOW, position) {
            (ANNOUNCES_NOTHING, _) => {
                let silent = StepContext::new(cx.run(), cx.step().clone(), Duration::from_secs(9));
                return self.0.apply(&silent, change).await;
            }
            (OVERWRITES_WHAT_MOVED, Position::Elsewhere(_)) => {
                for (part, value) in change.to.content.as_object().unwrap() {
                    self.0.edit(part, value.clone());
                }
                return Ok(());
            }
            (WRITES_AT_THE_TARGET, Position::To) if !change.is_noop() => {
                self.0.apply(cx, &change.reversed()).await?;
            }
            (CANNOT_GO_ON_HALF_WAY, Position::Between) => {
                return Err(Error::new(ErrorKind::Conflict, "half-way"));
            }
            (RESETS_WHAT_IS_NOT_ITS_OWN, _) => self.0.edit("replicas", json!(3)),
            (LEAVES_A_MARK_WHEN_DROPPED, Position::From) => {
                self.0.edit("image", json!("being written"));
                tokio::task::yield_now().await;
                self.0.edit("image", change.from.content["image"].clone());
            }
            _ => {}
        }
        match self.0.apply(cx, change).await {
            Err(error) if HOW == IS_SURE_OF_A_LOST_WRITE => Err(Error::new(error.kind(), error.to_string())),
            done => done,
        }
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        match HOW {
            CONVERGES_TOO_SOON => Ok(Verification::converged("the request was accepted")),
            GIVES_UP_TOO_SOON => Ok(Verification::progressing("some other time")),
            _ => self.0.verify(cx, &self.seen_by_it(change).await?).await,
        }
    }

    async fn status(&self) -> Result<Verification> {
        self.0.status().await
    }
}

#[async_trait]
impl<const HOW: u8> Fixture for Broken<HOW> {
    async fn new() -> Self {
        Self(Memory::new().await)
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        Arc::new(Component::<HOW>(self.0.0.clone()))
    }

    fn older(&self) -> Deployed {
        self.0.older()
    }

    async fn observe(&self) -> Value {
        self.0.observe().await
    }

    fn glance(&self) -> Duration {
        self.0.glance()
    }

    async fn writes(&self) -> Option<u64> {
        self.0.writes().await
    }

    async fn edit_touched(&self) -> Option<()> {
        self.0.edit_touched().await
    }

    async fn edit_untouched(&self) -> Option<()> {
        self.0.edit_untouched().await
    }

    async fn untouched(&self) -> Option<Value> {
        self.0.untouched().await
    }

    async fn recreate(&self) -> Option<()> {
        self.0.recreate().await
    }

    async fn lose_next_response(&self) -> Option<()> {
        self.0.lose_next_response().await
    }

    async fn answer(&self, access: Access, status: Option<u16>) -> Option<()> {
        self.0.answer(access, status).await
    }

    async fn never_settles(&self) -> Option<Target> {
        self.0.never_settles().await
    }

    async fn secrets(&self) -> Option<Vec<String>> {
        self.0.secrets().await
    }
}

async fn why_it_fails(case: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(case).catch_unwind().await.expect_err("the case should have failed");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&str>().unwrap()).to_owned(),
    }
}

macro_rules! found_out {
    ($($test:ident: $how:ident by $case:ident, $why:literal;)*) => { $(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            let why = why_it_fails(conformance::$case::<Broken<$how>>()).await;
            assert!(why.contains($why), "{why}");
        }
    )* };
}

found_out! {
    a_write_that_is_not_announced:
        ANNOUNCES_NOTHING by every_write_is_announced, "no write announced";
    a_write_that_no_gate_can_stop:
        ANNOUNCES_NOTHING by stopped_after_any_write_apply_finishes, "no write that it announced";
    an_edit_overwritten:
        OVERWRITES_WHAT_MOVED by an_edit_of_what_the_change_touches_is_a_conflict, "apply should have failed";
    a_read_that_writes:
        WRITES_WHILE_READING by reads_do_not_write, "a read changed something";
    a_part_forgotten:
        FORGETS_A_PART by apply_reaches_the_target, "only-in-the-first";
    a_write_made_twice:
        WRITES_AT_THE_TARGET by applying_twice_is_applying_once, "applying again wrote";
    a_secret_in_debug:
        SHOWS_A_SECRET by no_secret_is_shown, "a secret";
    success_claimed_before_it_settles:
        CONVERGES_TOO_SOON by what_never_settles_is_progressing_at_the_deadline, "Converged";
    success_claimed_before_it_is_applied:
        CONVERGES_TOO_SOON by what_is_not_applied_is_not_verified, "before apply";
    a_deadline_not_waited_for:
        GIVES_UP_TOO_SOON by what_never_settles_is_progressing_at_the_deadline, "before the deadline";
    a_lost_response_taken_for_a_failure:
        IS_SURE_OF_A_LOST_WRITE by a_lost_response_and_apply_again_is_applying_once, "Permanent";
    a_status_misread:
        IS_SURE_OF_A_LOST_WRITE by http_statuses_map_to_kind_and_disposition, "429 to a Write";
    another_object_taken_for_its_own:
        TAKES_ANOTHER_FOR_ITS_OWN by another_object_of_the_same_name_is_a_conflict, "said to be at From";
    a_plan_that_varies:
        PLANS_DIFFERENTLY_EACH_TIME by prepare_is_deterministic_and_round_trips, "prepared twice";
    a_change_that_cannot_be_finished:
        CANNOT_GO_ON_HALF_WAY by stopped_after_any_write_apply_finishes, "after 1 writes: Elsewhere";
    a_change_that_cannot_be_reversed:
        CANNOT_GO_ON_HALF_WAY by stopped_after_any_write_the_reversed_change_restores, "Elsewhere";
    no_change_for_nothing_to_do:
        HAS_NO_CHANGE_FOR_NOTHING by returning_to_the_current_revision_is_nothing_to_do, "no change";
    something_else_reset:
        RESETS_WHAT_IS_NOT_ITS_OWN by an_edit_of_anything_else_is_no_conflict, "should have survived";
    a_state_that_nothing_explains:
        LEAVES_A_MARK_WHEN_DROPPED by dropped_at_any_await_apply_finishes, "dropped at await";
}

macro_rules! found_out_by_sweeping {
    ($($test:ident: $how:ident by $sweep:ident, $why:literal;)*) => { $(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            let why = why_it_fails(sweeps::$sweep::<Broken<$how>, sweeps::InMemory>()).await;
            assert!(why.contains($why), "{why}");
        }
    )* };
}

found_out_by_sweeping! {
    a_step_that_repeats_its_writes:
        WRITES_AT_THE_TARGET by any_step_repeated_changes_nothing_more, "once and repeated";
    a_crash_that_cannot_be_gone_on_from:
        CANNOT_GO_ON_HALF_WAY by crashed_before_or_after_any_write_a_run_is_resumed, "resumed after";
    a_crash_after_which_everything_is_written_again:
        WRITES_AT_THE_TARGET by crashed_before_or_after_any_write_a_run_is_resumed, "writes, point";
    a_lost_write_taken_for_none:
        IS_SURE_OF_A_LOST_WRITE by the_response_of_any_write_lost_the_run_completes, "Halted";
    a_sweep_that_meets_no_write:
        ANNOUNCES_NOTHING by the_response_of_any_write_lost_the_run_completes, "no point to be met";
}

/// A fixture that can do nothing but what it must.
struct Bare(Memory);

#[async_trait]
impl Fixture for Bare {
    async fn new() -> Self {
        Self(Memory::new().await)
    }

    async fn component(&self) -> Arc<dyn Rollbackable> {
        self.0.component().await
    }

    fn older(&self) -> Deployed {
        self.0.older()
    }

    async fn observe(&self) -> Value {
        self.0.observe().await
    }
}

#[tokio::test]
async fn a_missing_ability_fails_the_case_and_is_named() {
    for (why, ability) in [
        (why_it_fails(conformance::reads_do_not_write::<Bare>()).await, "writes"),
        (why_it_fails(conformance::no_secret_is_shown::<Bare>()).await, "secrets"),
        (why_it_fails(conformance::http_statuses_map_to_kind_and_disposition::<Bare>()).await, "answer"),
        (
            why_it_fails(conformance::another_object_of_the_same_name_is_a_conflict::<Bare>()).await,
            "recreate",
        ),
    ] {
        assert!(why.contains(&format!("needs Fixture::{ability}")), "{why}");
    }
}
