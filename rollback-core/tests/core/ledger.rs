//! What is returned to, with what is known of a component.

use std::sync::Arc;

use rollback_core::{
    Change, ComponentId, Error, ErrorKind, Fact, FailurePolicy, Journal, Ledger, Mark, MemoryJournal, Note,
    Outcome, Planner, Realm, Record, Rollbackable, Snapshot, Target, Timestamp, join, snapshot_of,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;

use crate::world::{component, components, engine, options, options_with, parts, plan};

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_millis(second * 1000).unwrap()
}

async fn note(ledger: &dyn Ledger, web: &MemoryComponent, second: i64, fact: Fact) {
    let realm = web.realm().await.unwrap();
    let note = Note { at: at(second), by: "tester".into(), fact };
    ledger.note(&realm, web.id(), vec![note]).await.unwrap();
}

async fn mark(ledger: &dyn Ledger, web: &MemoryComponent, id: &str, mark: Mark, second: i64) {
    let Snapshot { id, fingerprint, summary, content } = snapshot_of(web, id).await.unwrap();
    let snapshot = Some(Snapshot { id: id.clone(), fingerprint: fingerprint.clone(), summary, content });
    let fact = Fact::Marked { id, fingerprint, mark, why: Some("because".into()), snapshot };
    note(ledger, web, second, fact).await;
}

async fn resolve(
    ledger: &Arc<MemoryJournal>,
    web: &MemoryComponent,
    target: Target,
) -> Result<Change, Error> {
    let planner = Planner::new().with_ledger(ledger.clone());
    let plan = planner.rollback("web", Arc::new(web.clone()), target, &[]).plan().await?;
    Ok(plan.steps()[0].change.clone())
}

fn revision(id: &str) -> Target {
    Target::Revision(id.into())
}

#[tokio::test(start_paused = true)]
async fn the_last_good_revision_is_the_newest_marked_good_that_is_not_in_place() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    let unmarked = resolve(&ledger, &web, Target::LastGood).await.unwrap();
    assert_eq!(unmarked.to.id, "v2");
    assert!(unmarked.warnings[0].contains("no other revision is recorded good"), "{unmarked:?}");
    mark(&*ledger, &web, "v3", Mark::Good, 1).await;
    mark(&*ledger, &web, "v1", Mark::Good, 2).await;
    let good = resolve(&ledger, &web, Target::LastGood).await.unwrap();
    assert_eq!(good.to.id, "v1");
    assert!(good.warnings[0].contains("marked good at 1970-01-01T00:00:02Z by tester"), "{good:?}");
    let without = Planner::new().rollback("web", Arc::new(web), Target::LastGood, &[]).plan().await.unwrap();
    assert_eq!(without.steps()[0].change.to.id, "v2");
}

#[tokio::test(start_paused = true)]
async fn what_is_marked_bad_is_refused_by_name_and_skipped_otherwise() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    mark(&*ledger, &web, "v2", Mark::Bad, 1).await;
    let refused = resolve(&ledger, &web, revision("v2")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("marked bad, by tester") && refused.to_string().contains("because"));
    assert!(refused.hint().unwrap().contains("--force"));
    let planner = Planner::new().with_ledger(ledger.clone()).forced(true);
    let forced = planner.rollback("web", Arc::new(web.clone()), revision("v2"), &[]).plan().await.unwrap();
    assert_eq!(forced.steps()[0].change.to.id, "v2");

    let previous = resolve(&ledger, &web, Target::Previous).await.unwrap();
    assert_eq!(previous.to.id, "v1");
    assert!(previous.warnings[0].contains("v2 is marked bad, and is skipped"), "{previous:?}");
    mark(&*ledger, &web, "v1", Mark::Bad, 2).await;
    let nothing = resolve(&ledger, &web, Target::Previous).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    assert!(nothing.hint().unwrap().contains("--to-revision"), "{nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rollback_records_what_it_left_and_a_second_one_goes_further_back() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    let engine = engine(ledger.clone()).with_ledger(ledger.clone());
    for (from, to) in [("v3", "v2"), ("v2", "v1")] {
        let planner = Planner::new().with_ledger(ledger.clone());
        let plan =
            planner.rollback("web", Arc::new(web.clone()), Target::Previous, &[]).plan().await.unwrap();
        assert_eq!(plan.steps()[0].change.to.id, to);
        let report = engine.execute(&plan, &components(&[&web]), options()).await.unwrap();
        assert_eq!((report.outcome, report.warnings), (Outcome::Completed, Vec::new()));
        let record = ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap();
        let left = snapshot_of(&web, from).await.unwrap();
        assert_eq!(record.left(&left.fingerprint, from).unwrap().run, report.run);
    }
    web.deploy("v4", &parts(4));
    // v3 and v2 were left, by their own rule the previous one would be v3.
    let previous = resolve(&ledger, &web, Target::Previous).await.unwrap();
    assert_eq!(previous.to.id, "v1");
    assert!(previous.warnings[0].contains("v3 was left by a rollback"), "{previous:?}");
    mark(&*ledger, &web, "v3", Mark::Good, i64::from(u32::MAX)).await;
    assert_eq!(resolve(&ledger, &web, Target::Previous).await.unwrap().to.id, "v3", "good after all");
    let marks: Vec<_> = listed(&ledger, &web).await.into_iter().map(|(id, mark, _)| (id, mark)).collect();
    let expect = [("v4", None), ("v3", Some(Mark::Good)), ("v2", Some(Mark::Left)), ("v1", None)];
    assert_eq!(marks, expect.map(|(id, mark)| (id.to_owned(), mark)));
}

async fn listed(ledger: &MemoryJournal, web: &MemoryComponent) -> Vec<(String, Option<Mark>, String)> {
    let record = ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap();
    let revisions = join(web.history().await.unwrap(), &record);
    revisions.into_iter().map(|revision| (revision.id, revision.mark, revision.summary)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_compensated_rollback_left_nothing() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    web.set_settling_of("v2", rollback_testkit::Settling::Fails("no".into()));
    let plan = plan(FailurePolicy::Compensate, &[(&web, &[])]).await;
    let engine = engine(ledger.clone()).with_ledger(ledger.clone());
    let report = engine.execute(&plan, &components(&[&web]), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Compensated);
    let record = ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap();
    let print = |id| snapshot_of(&web, id);
    let (two, three) = (print("v2").await.unwrap().fingerprint, print("v3").await.unwrap().fingerprint);
    assert!(record.left(&three, "v3").is_none());
    assert_eq!(record.in_place().iter().map(|(_, print)| print).collect::<Vec<_>>(), [&two, &three]);
}

/// What the system has forgotten and the ledger still holds.
async fn forgotten() -> (MemoryComponent, Arc<MemoryJournal>, Snapshot) {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    let old = MemoryComponent::new(ComponentId::new("memory", None, "web").unwrap());
    old.deploy("v0", &parts(0));
    let old = snapshot_of(&old, "v0").await.unwrap();
    note(&*ledger, &web, 5, Fact::InPlace { snapshot: old.clone() }).await;
    (web, ledger, old)
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_the_system_has_forgotten_can_be_returned_to() {
    let (web, ledger, old) = forgotten().await;
    let back = resolve(&ledger, &web, revision("v0")).await.unwrap();
    assert_eq!(back.to, old);
    let short = &old.fingerprint.as_str()[..19];
    assert_eq!(resolve(&ledger, &web, revision(short)).await.unwrap().to, old);
    let current = snapshot_of(&web, "v2").await.unwrap();
    let by_print = resolve(&ledger, &web, revision(current.fingerprint.as_str())).await.unwrap();
    assert_eq!(by_print.to.id, "v2");
    for unknown in ["v9", "sha256:0000000000000000", "sha256:"] {
        let error = resolve(&ledger, &web, revision(unknown)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{unknown}");
    }
    let fact = Fact::Marked {
        id: "v0".into(),
        fingerprint: old.fingerprint.clone(),
        mark: Mark::Good,
        why: None,
        snapshot: None,
    };
    note(&*ledger, &web, 6, fact).await;
    assert_eq!(resolve(&ledger, &web, Target::LastGood).await.unwrap().to, old);
    let last = listed(&ledger, &web).await.pop().unwrap();
    assert_eq!(last, ("v0".into(), Some(Mark::Good), "revision v0 (from the record)".into()));

    let report = {
        let planner = Planner::new().with_ledger(ledger.clone());
        let plan = planner.rollback("web", Arc::new(web.clone()), revision("v0"), &[]).plan().await.unwrap();
        engine(ledger.clone()).execute(&plan, &components(&[&web]), options()).await.unwrap()
    };
    assert_eq!((report.outcome, web.live()), (Outcome::Completed, parts(0)));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_revision_whose_id_is_taken_goes_by_its_fingerprint() {
    let (web, ledger, old) = forgotten().await;
    web.deploy("v0", &parts(7));
    let last = listed(&ledger, &web).await.pop().unwrap();
    assert_eq!(last.0, old.fingerprint.as_str()[..19]);
    assert_eq!(resolve(&ledger, &web, revision(&last.0)).await.unwrap().to, old);
}

#[tokio::test(start_paused = true)]
async fn where_the_system_knows_no_earlier_revision_the_record_does() {
    let web = MemoryComponent::new(ComponentId::new("memory", None, "web").unwrap());
    web.deploy("v1", &parts(1));
    let ledger = Arc::new(MemoryJournal::new());
    assert_eq!(resolve(&ledger, &web, Target::Previous).await.unwrap_err().kind(), ErrorKind::NotFound);
    let (_, _, old) = forgotten().await;
    note(&*ledger, &web, 5, Fact::InPlace { snapshot: old.clone() }).await;
    let current = snapshot_of(&web, "v1").await.unwrap();
    note(&*ledger, &web, 6, Fact::InPlace { snapshot: current }).await;
    let back = resolve(&ledger, &web, Target::Previous).await.unwrap();
    assert_eq!(back.to, old);
    assert!(back.warnings[0].contains("was in place from 1970-01-01T00:00:05Z"), "{back:?}");
    mark(&*ledger, &web, "v1", Mark::Good, 7).await;
    note(
        &*ledger,
        &web,
        8,
        Fact::Marked {
            id: "v0".into(),
            fingerprint: old.fingerprint,
            mark: Mark::Bad,
            why: None,
            snapshot: None,
        },
    )
    .await;
    assert_eq!(resolve(&ledger, &web, Target::Previous).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn what_was_in_place_at_a_time_is_what_became_so_last_before_it() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    let as_of = async |second| resolve(&ledger, &web, Target::AsOf(at(second))).await;
    assert_eq!(as_of(10).await.unwrap_err().kind(), ErrorKind::NotFound);
    for (second, id) in [(10, "v1"), (20, "v2"), (30, "v3")] {
        let snapshot = snapshot_of(&web, id).await.unwrap();
        note(&*ledger, &web, second, Fact::InPlace { snapshot }).await;
    }
    let early = as_of(9).await.unwrap_err();
    assert!(early.to_string().contains("the earliest known is 1970-01-01T00:00:10Z"), "{early}");
    for (second, id) in [(10, "v1"), (19, "v1"), (20, "v2"), (29, "v2")] {
        assert_eq!(as_of(second).await.unwrap().to.id, id, "as of {second}");
    }
    assert!(as_of(30).await.unwrap().is_noop(), "it is in place");
    web.deploy("v4", &parts(4));
    let unsure = as_of(40).await.unwrap();
    assert_eq!(unsure.to.id, "v3");
    assert!(unsure.warnings.iter().any(|w| w.contains("v4 is in place is not known")), "{unsure:?}");
}

/// A ledger on a full disk.
#[derive(Debug)]
struct Full;

#[async_trait::async_trait]
impl Ledger for Full {
    async fn record(&self, _: &Realm, _: &ComponentId) -> Result<Record, Error> {
        Ok(Record::default())
    }

    async fn note(&self, _: &Realm, _: &ComponentId, _: Vec<Note>) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Journal, "no space is left"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_written_fails_no_run_and_is_told() {
    let web = component("web");
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let engine = engine(Arc::new(MemoryJournal::new())).with_ledger(Arc::new(Full));
    let unverified = options_with(|settings| settings.verify = false);
    let report = engine.execute(&plan, &components(&[&web]), unverified).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.warnings[0].contains("no space is left"), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn pruning_forgets_runs_and_no_mark() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    let engine = engine(ledger.clone()).with_ledger(ledger.clone());
    mark(&*ledger, &web, "v1", Mark::Bad, 1).await;
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    engine.execute(&plan, &components(&[&web]), options()).await.unwrap();
    let kept = rollback_core::Retention { runs: 0, ..Default::default() };
    assert_eq!((engine.prune(kept).await.unwrap(), ledger.runs().await.unwrap().len()), (1, 0));
    let bad = snapshot_of(&web, "v1").await.unwrap().fingerprint;
    assert!(ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap().is_bad(&bad));
    assert_eq!(json!(Mark::Bad), "bad");
}

#[tokio::test(start_paused = true)]
async fn a_crash_right_after_a_rollback_loses_no_note() {
    for polls in 1.. {
        let (web, journal) = (component("web"), Arc::new(MemoryJournal::new()));
        let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
        let engine = engine(journal.clone()).with_ledger(journal.clone());
        let given = components(&[&web]);
        let done = rollback_testkit::poll_times(engine.execute(&plan, &given, options()), polls).await;
        let ended = done.is_some();
        if let Some(run) = journal.runs().await.unwrap().first() {
            if run.outcome == Outcome::Unfinished {
                engine.resume(run.run, &given, options()).await.unwrap();
            }
            let record = journal.record(&web.realm().await.unwrap(), web.id()).await.unwrap();
            let three = snapshot_of(&web, "v3").await.unwrap();
            assert!(record.left(&three.fingerprint, "v3").is_some(), "dropped at await {polls}");
        }
        if ended {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_system_still_knows_and_does_not_return_to_is_not_taken_from_the_record() {
    let (web, ledger) = (component("web"), Arc::new(MemoryJournal::new()));
    for id in ["v1", "v2", "v3"] {
        let snapshot = snapshot_of(&web, id).await.unwrap();
        note(&*ledger, &web, 10, Fact::InPlace { snapshot }).await;
    }
    for (part, value) in [("image", 1), ("limit", 1)] {
        web.edit(part, json!(value));
    }
    let nothing = resolve(&ledger, &web, Target::Previous).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound, "v2 and v3 are newer, not earlier: {nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn noting_again_changes_nothing_also_after_others_have_noted() {
    let (web, ledger) = (component("web"), MemoryJournal::new());
    let [two, three] = ["v2", "v3"].map(|id| snapshot_of(&web, id));
    let (two, three) = (two.await.unwrap(), three.await.unwrap());
    let run = rollback_core::RunId::random();
    let there = [Fact::Left { snapshot: three.clone(), run }, Fact::InPlace { snapshot: two.clone() }];
    let back = [Fact::Left { snapshot: two, run }, Fact::InPlace { snapshot: three }];
    for (second, facts) in [(1, &there), (2, &back)] {
        for fact in facts {
            note(&ledger, &web, second, fact.clone()).await;
        }
    }
    let before = ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap();
    for fact in there {
        note(&ledger, &web, 1, fact).await;
    }
    assert_eq!(ledger.record(&web.realm().await.unwrap(), web.id()).await.unwrap(), before);
}
