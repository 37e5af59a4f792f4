//! What people do by hand, done here, and seen through MLflow's own client.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    ErrorKind, Fact, Ledger, Mark, MemoryJournal, Note, Outcome, Planner, Position, Rollbackable, RunId,
    StepContext, StepId, Target, snapshot_of,
};
use rollback_mlflow::{ModelPointer, Stage};
use rollback_tests::{Mlflow, MlflowVersion};
use serde_json::json;

use crate::world::{baseline, champion, options, production, registry, revision, undo};

fn context() -> StepContext {
    StepContext::new(RunId::random(), StepId::new("model"), Duration::from_secs(30))
}

const BOTH: [MlflowVersion; 2] = [MlflowVersion::Three, MlflowVersion::Two];

#[tokio::test]
async fn of_inflow_baseline_the_versions_are_listed_version_5_is_archived_and_version_4_promoted() {
    for version in BOTH {
        let server = Mlflow::shared(version).await;
        let model = baseline(server).await;
        let pointer = production(server.url(), &model);
        assert_eq!(pointer.id().to_string(), format!("model/{model}@production"));
        let listed: Vec<_> =
            pointer.history().await.unwrap().into_iter().map(|r| (r.id, r.current, r.summary)).collect();
        let seen = server
            .python(&format!(
                "versions = client.search_model_versions(\"name='{model}'\")\n\
                 print(json.dumps(sorted(([v.version, v.current_stage == 'Production', v.source] for v in versions), reverse=True)))"
            ))
            .await;
        let listed: Vec<_> =
            listed.iter().map(|(id, current, source)| json!([id, current, source])).collect();
        let seen: Vec<_> = seen
            .as_array()
            .unwrap()
            .iter()
            .map(|v| json!([v[0].to_string().trim_matches('"'), v[1], v[2]]))
            .collect();
        assert_eq!(listed, seen, "what its client lists is what we list");

        let report = undo(&pointer, Target::Previous).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        assert_eq!((report.steps[0].from.as_str(), report.steps[0].to.as_str()), ("5", "4"));
        let stages = server
            .python(&format!(
                "print(json.dumps({{str(v.version): v.current_stage for v in client.search_model_versions(\"name='{model}'\")}}))"
            ))
            .await;
        assert_eq!(
            stages,
            json!({"1": "None", "2": "None", "3": "None", "4": "Production", "5": "Archived"})
        );
        let tags = server
            .python(&format!(
                "print(json.dumps([client.get_registered_model('{model}').tags, client.get_model_version('{model}', '4').tags, client.get_model_version('{model}', '5').tags]))"
            ))
            .await;
        for tags in tags.as_array().unwrap() {
            let tag = tags["rollback.stage.Production"].as_str().unwrap();
            for part in [&*report.run.to_string(), "ann@here", "worse answers", "\"5\"", "\"4\""] {
                assert!(tag.contains(part), "{part}: {tag}");
            }
        }
        let marks: Vec<_> = pointer.history().await.unwrap().into_iter().map(|r| r.mark).collect();
        assert_eq!(marks[0], Some(Mark::Left), "5 was left");
        let latest = server
            .python(&format!(
                "print(json.dumps([str(v.version) for v in client.get_latest_versions('{model}', stages=['Production'])]))"
            ))
            .await;
        let status = pointer.status().await.unwrap();
        assert!(status.is_converged() && status.message.ends_with("at version 4"), "{status:?}");
        let current: Vec<_> =
            pointer.history().await.unwrap().into_iter().filter(|r| r.current).map(|r| r.id).collect();
        assert_eq!(json!(current), latest, "what its client takes for the one in Production is what we do");
        let second = undo(&pointer, Target::Previous).await.unwrap();
        assert_eq!(second.steps[0].to, "3", "further back, not to what was left: {second:#?}");
    }
}

#[tokio::test]
async fn an_alias_is_moved_to_the_version_before_and_back() {
    for version in BOTH {
        let server = Mlflow::shared(version).await;
        let model = baseline(server).await;
        let pointer = champion(server.url(), &model);
        assert!(pointer.status().await.unwrap().is_converged());
        let changes = pointer.prepare(&revision("v4")).await.unwrap();
        let report = undo(&pointer, revision("4")).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        let script = format!(
            "print(json.dumps(str(client.get_model_version_by_alias('{model}', 'champion').version)))"
        );
        assert_eq!(server.python(&script).await, "4");
        pointer.apply(&context(), &changes[0].reversed()).await.unwrap();
        assert_eq!(server.python(&script).await, "5");
    }
}

#[tokio::test]
async fn what_was_archived_as_the_present_one_was_promoted_is_the_guess() {
    for version in BOTH {
        let server = Mlflow::shared(version).await;
        let model = server.model(&["s3://m/1", "s3://m/2", "s3://m/3", "s3://m/4"]).await;
        server.stage(&model, "1", "Production", true).await;
        // Never served: archived by hand, and higher.
        server.stage(&model, "2", "Archived", false).await;
        server.stage(&model, "3", "Production", true).await;
        let pointer = production(server.url(), &model);
        let change = pointer.prepare(&Target::Previous).await.unwrap().remove(0);
        assert_eq!((change.from.id.as_str(), change.to.id.as_str()), ("3", "1"), "{change:?}");
        assert!(change.warnings.iter().any(|w| w.contains("a guess, by the time")), "{change:?}");
        // Whose description is edited, has another time.
        let edit = json!({"name": model, "version": "1", "description": "the best we had"});
        server.call("PATCH", "model-versions/update", &edit).await;
        assert_eq!(pointer.prepare(&Target::Previous).await.unwrap()[0].to.id, "2");
    }
}

#[tokio::test]
async fn what_the_ledger_knows_and_the_server_has_deleted_is_skipped_and_told() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let pointer: Arc<ModelPointer> = Arc::new(production(server.url(), &model));
    let ledger = Arc::new(MemoryJournal::new());
    let realm = pointer.realm().await.unwrap();
    for (id, at) in [("1", 1), ("3", 2), ("5", 3)] {
        let snapshot = snapshot_of(&*pointer, id).await.unwrap();
        let at = format!("2026-11-23T03:00:0{at}Z").parse().unwrap();
        let note = Note { at, by: "ci".into(), fact: Fact::InPlace { snapshot } };
        ledger.note(&realm, pointer.id(), vec![note]).await.unwrap();
    }
    let plan = async || {
        let planner = Planner::new().with_ledger(ledger.clone());
        let plan = planner.rollback("model", pointer.clone(), Target::Previous, &[]).plan().await.unwrap();
        plan.steps()[0].change.clone()
    };
    let delete = async |version: &str| {
        server.call("DELETE", "model-versions/delete", &json!({"name": model, "version": version})).await;
    };
    delete("3").await;
    let change = plan().await;
    assert_eq!(change.to.id, "1", "{change:?}");
    let told = |says: &str| assert!(change.warnings.iter().any(|w| w.contains(says)), "{says}: {change:?}");
    told("revision 3 was in place from 2026-11-23T03:00:02Z on, as recorded, and is skipped");
    told("has no version 3");
    delete("1").await;
    let change = plan().await;
    assert_eq!(change.to.id, "4", "the server's own order, once nothing that is known is left: {change:?}");
    let skipped = change.warnings.iter().filter(|w| w.contains("is skipped")).count();
    assert_eq!(skipped, 2, "{change:?}");
}

#[tokio::test]
async fn a_version_that_is_not_ready_is_shown_and_refused() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    // The server that tests run makes every version READY at once.
    let script = format!(
        "import sqlite3\nc = sqlite3.connect('{}', timeout=30)\n\
         c.execute(\"update model_versions set status='FAILED_REGISTRATION', status_message='copy failed' where name='{model}' and version=4\")\n\
         c.commit()\nprint(json.dumps(client.get_model_version('{model}', '4').status))",
        server.database().display()
    );
    assert_eq!(server.python(&script).await, "FAILED_REGISTRATION");
    let pointer = production(server.url(), &model);
    let history = pointer.history().await.unwrap();
    assert!(history[1].summary.contains("(FAILED_REGISTRATION)"), "{history:?}");
    let error = undo(&pointer, revision("4")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("FAILED_REGISTRATION copy failed"), "{error}");
    assert_eq!(pointer.prepare(&Target::Previous).await.unwrap()[0].to.id, "3");
}

#[tokio::test]
async fn a_stage_can_be_emptied_and_says_so() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let pointer = production(server.url(), &model);
    let change = pointer.prepare(&revision("none")).await.unwrap().remove(0);
    assert!(change.warnings.iter().any(|w| w.contains("Production will be empty")), "{change:?}");
    let report = undo(&pointer, revision("none")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(server.observe(&model).await["stages"]["5"], "Archived");
    let alias = champion(server.url(), &model).prepare(&revision("none")).await.unwrap_err();
    assert_eq!(alias.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn two_versions_that_somebody_left_in_a_stage_are_seen_and_repaired_by_a_planned_change() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    server.stage(&model, "3", "Production", false).await;
    let pointer = production(server.url(), &model);
    let seen = pointer.status().await.unwrap();
    assert!(!seen.is_converged() && seen.message.contains("5, 3"), "{seen:?}");
    let change = pointer.prepare(&Target::Previous).await.unwrap().remove(0);
    assert_eq!((change.from.id.as_str(), change.to.id.as_str()), ("5+3", "3"));
    assert!(change.warnings.iter().any(|w| w.contains("are all in Production")), "{change:?}");
    let before = server.observe(&model).await;
    let report = undo(&pointer, Target::Previous).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(server.observe(&model).await["stages"]["5"], "Archived");
    pointer.apply(&context(), &change.reversed()).await.unwrap();
    assert_eq!(server.observe(&model).await, before, "a reversal brings back both");
}

#[tokio::test]
async fn what_the_ledger_knows_is_no_guess() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let pointer: Arc<ModelPointer> = Arc::new(production(server.url(), &model));
    let guess = pointer.prepare(&Target::Previous).await.unwrap().remove(0);
    assert!(guess.warnings.iter().any(|w| w.contains("is a guess")), "{guess:?}");
    let ledger = Arc::new(MemoryJournal::new());
    let realm = pointer.realm().await.unwrap();
    for id in ["2", "5"] {
        let snapshot = snapshot_of(&*pointer, id).await.unwrap();
        let note = Note {
            at: "2026-11-23T03:00:00Z".parse().unwrap(),
            by: "ci".into(),
            fact: Fact::InPlace { snapshot },
        };
        ledger.note(&realm, pointer.id(), vec![note]).await.unwrap();
    }
    let planner = Planner::new().with_ledger(ledger);
    let plan = planner.rollback("model", pointer.clone(), Target::Previous, &[]).plan().await.unwrap();
    let change = &plan.steps()[0].change;
    assert_eq!(change.to.id, "2", "it was in Production before 5: {change:?}");
    assert!(!change.warnings.iter().any(|w| w.contains("is a guess")), "{change:?}");
}

#[tokio::test]
async fn a_run_that_took_its_move_back_left_no_version() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    for pointer in [production(server.url(), &model), champion(server.url(), &model)] {
        let change = pointer.prepare(&revision("4")).await.unwrap().remove(0);
        let cx = context();
        pointer.apply(&cx, &change).await.unwrap();
        pointer.apply(&cx, &change.reversed()).await.unwrap();
        assert!(pointer.history().await.unwrap().iter().all(|version| version.mark.is_none()));
        assert_eq!(pointer.prepare(&Target::Previous).await.unwrap()[0].to.id, "4");
    }
}

#[tokio::test]
async fn a_recorded_state_moves_no_version_beside() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let pointer = production(server.url(), &model);
    let change = pointer.prepare(&revision("4")).await.unwrap().remove(0);
    pointer.apply(&context(), &change).await.unwrap();
    server.stage(&model, "3", "Production", true).await;
    server.stage(&model, "5", "Staging", false).await;
    let back = pointer.prepare(&Target::Snapshot(Box::new(change.to))).await.unwrap().remove(0);
    let moved: Vec<_> = back.diff.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(moved, ["/versions/3/stage", "/versions/4/stage"]);
}

#[tokio::test]
async fn what_was_to_stay_is_not_there_any_more_once_it_was_moved() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let pointer = production(server.url(), &model);
    let change = pointer.prepare(&revision("5")).await.unwrap().remove(0);
    assert!(change.is_noop());
    assert_eq!(pointer.locate(&change).await.unwrap(), Position::To);
    server.stage(&model, "5", "Archived", false).await;
    let position = pointer.locate(&change).await.unwrap();
    assert!(matches!(position, Position::Elsewhere(_)), "{position:?}");
}

#[tokio::test]
async fn the_name_of_a_model_may_hold_what_those_of_components_may_not() {
    for version in BOTH {
        let server = Mlflow::shared(version).await;
        let model = format!("bob's 50% {:08x}", fastrand::u32(..));
        server.model_named(&model, &["s3://models/a/v1", "s3://models/a/v2"]).await;
        server.stage(&model, "2", "Production", true).await;
        let pointer = production(server.url(), &model);
        assert!(pointer.id().to_string().starts_with("model/bob's%2050%25%20"), "{}", pointer.id());
        let report = undo(&pointer, Target::Previous).await.unwrap();
        assert_eq!((report.outcome, report.steps[0].to.as_str()), (Outcome::Completed, "1"), "{report:#?}");
    }
}

#[tokio::test]
async fn what_is_typed_wrongly_is_told_with_nothing_changed() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let before = server.observe(&model).await;
    let pointer = production(server.url(), &model);
    for (target, kind, says) in [
        ("9", ErrorKind::NotFound, "the versions are: 5, 4, 3, 2, 1"),
        ("x", ErrorKind::InvalidConfig, "numbers from 1"),
        ("", ErrorKind::InvalidConfig, "numbers from 1"),
    ] {
        let error = undo(&pointer, revision(target)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.hint().unwrap().contains(says), "{error:?}");
    }
    let nobody = production(server.url(), "no-such-model").history().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound, "{nobody:?}");
    let registry = registry(server.url());
    let several = champion(server.url(), &model).prepare(&revision("5+3")).await.unwrap_err();
    assert_eq!(several.kind(), ErrorKind::InvalidConfig, "{several:?}");
    let unset = ModelPointer::alias(&registry, &model, "challenger", options()).unwrap();
    let error = unset.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.hint().unwrap().contains("champion"), "{error:?}");
    for alias in ["", "latest", "LATEST", "v9", "a b", "a/b"] {
        let error = ModelPointer::alias(&registry, &model, alias, options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{alias}");
    }
    assert!("bogus".parse::<Stage>().is_err() && "None".parse::<Stage>().is_err());
    assert_eq!("production".parse::<Stage>().unwrap(), Stage::Production);
    assert_eq!(server.observe(&model).await, before);
}

#[tokio::test]
async fn what_somebody_else_has_left_is_not_gone_back_to_by_a_record_that_does_not_know() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let sources: Vec<_> = (1..=7).map(|n| format!("s3://models/baseline/v{n}")).collect();
    let model = server.model(&sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.alias(&model, "champion", "7").await;
    let pointer = Arc::new(champion(server.url(), &model));
    let ledger = Arc::new(MemoryJournal::new());
    let realm = pointer.realm().await.unwrap();
    let in_place = async |version: &str, at: &str| {
        let snapshot = snapshot_of(&*pointer, version).await.unwrap();
        let note = Note { at: at.parse().unwrap(), by: "ann".into(), fact: Fact::InPlace { snapshot } };
        ledger.note(&realm, pointer.id(), vec![note]).await.unwrap();
    };
    // Of one who undid 7 to 6 and kept it on their machine.
    undo(&pointer, revision("6")).await.unwrap();
    in_place("6", "2026-11-23T03:00:00Z").await;
    // Of another, who then undid 6 to 5.
    undo(&pointer, revision("5")).await.unwrap();
    let plan = async || {
        let planner = Planner::new().with_ledger(ledger.clone());
        let plan = planner.rollback("model", pointer.clone(), Target::Previous, &[]).plan().await.unwrap();
        plan.steps()[0].change.clone()
    };
    let change = plan().await;
    assert_eq!((change.from.id.as_str(), change.to.id.as_str()), ("5", "4"), "{change:?}");
    // Also where the record knows the present one, and not that the one before was left.
    in_place("5", "2026-11-23T04:00:00Z").await;
    let change = plan().await;
    assert_eq!(change.to.id, "4", "{change:?}");
}

#[tokio::test]
async fn of_a_model_that_is_known_by_aliases_the_empty_stage_says_so() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = server.model(&["s3://m/1", "s3://m/2"]).await;
    server.alias(&model, "champion", "2").await;
    let pointer = production(server.url(), &model);
    let error = pointer.prepare(&Target::Previous).await.unwrap_err();
    assert!(error.hint().unwrap().contains("--alias champion"), "{error:?}");
    let change = pointer.prepare(&revision("1")).await.unwrap().remove(0);
    assert!(change.warnings.iter().any(|w| w.contains("aliases point to some")), "{change:?}");
}
