//! Many who move one pointer at once, although the server has no compare-and-set.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, ErrorKind, MemoryJournal, MemoryLease, Outcome, Planner, Rollbackable, RunOptions,
    RunReport, StepOutcome,
};
use rollback_mlflow::{ModelPointer, Registry, RegistryConfig, Stage};
use rollback_tests::{Matcher, Mlflow, MlflowVersion};
use serde_json::{Value, json};

use crate::world::{baseline, options, production, registry, revision, undo};

/// The versions that are in Production.
fn in_production(stages: &Value) -> Vec<&String> {
    let all = stages.as_object().unwrap().iter();
    all.filter(|(_, stage)| **stage == "Production").map(|(version, _)| version).collect()
}

#[tokio::test]
async fn under_a_lease_every_moment_after_has_one_version_in_the_stage() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let lease = MemoryLease::new(Duration::from_secs(15));
    let run = async |n: u64| {
        let pointer: Arc<dyn Rollbackable> = Arc::new(production(server.url(), &model));
        let target = revision(&(n % 5 + 1).to_string());
        let plan = Planner::new().rollback("model", pointer.clone(), target, &[]).plan().await.unwrap();
        let engine = Engine::new(Arc::new(MemoryJournal::new())).with_lease(Arc::new(lease.clone()));
        engine.execute(&plan, &Components::new().with(pointer), RunOptions::by("x")).await
    };
    let all = futures::future::join_all((0..20).map(run)).await;
    let done = all.iter().filter(|r| r.as_ref().is_ok_and(|r| r.outcome == Outcome::Completed)).count();
    let refused = all.iter().filter(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::Refused)).count();
    assert!(done >= 1 && refused >= 1, "{done} done, {refused} refused: {all:#?}");
    let stages = server.observe(&model).await["stages"].clone();
    assert_eq!(in_production(&stages).len(), 1, "{stages}");
}

#[tokio::test]
async fn twenty_at_once_without_a_lease_never_call_an_overlap_completed() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    for _ in 0..3 {
        let model = baseline(server).await;
        let url = server.url();
        let run = |n: u64| {
            let pointer = production(url, &model);
            async move { (n % 4 + 1, undo(&pointer, revision(&(n % 4 + 1).to_string())).await.unwrap()) }
        };
        let all = futures::future::join_all((0..20).map(run)).await;
        let stages = server.observe(&model).await["stages"].clone();
        let serving = in_production(&stages);
        for (to, report) in &all {
            // One that was overtaken before it looked for the last time knows it.
            assert!(
                report.outcome != Outcome::Completed || serving.len() == 1,
                "{serving:?} are in Production, and the run to {to} is called completed: {report:#?}"
            );
        }
        let completed = all.iter().filter(|(_, r)| r.outcome == Outcome::Completed).count();
        println!("{completed} of 20 completed, {} in Production at the end", serving.len());
    }
}

/// Waits until a model has a tag.
async fn tagged(server: &Mlflow, model: &str, key: &str) {
    loop {
        let answer = server.call("GET", "registered-models/get", &json!({"name": model})).await;
        let tags = answer["registered_model"]["tags"].as_array().cloned().unwrap_or_default();
        if tags.iter().any(|tag| tag["key"] == key) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn ten_undos_beside_ten_promotions_of_mlflows_own_client_are_conflicts_and_leave_no_rest() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let script = format!(
        "from concurrent.futures import ThreadPoolExecutor
def promote(n):
    try:
        client.transition_model_version_stage('{model}', str(n % 3 + 3), 'Production', archive_existing_versions=True)
        return 1
    except Exception:
        return 0
client.set_registered_model_tag('{model}', 'begun', 'yes')
with ThreadPoolExecutor(10) as pool:
    print(json.dumps(sum(pool.map(promote, range(10)))))"
    );
    let url = server.url();
    let one = |n: u64| {
        let (pointer, model) = (production(url, &model), model.clone());
        async move {
            tagged(server, &model, "begun").await;
            undo(&pointer, revision(&(n % 2 + 1).to_string())).await.unwrap()
        }
    };
    let undoes = futures::future::join_all((0..10).map(one));
    let (promoted, all) = tokio::join!(server.python(&script), undoes);
    assert!(
        promoted.as_u64().is_some_and(|promoted| promoted > 0),
        "its own client promoted none: {promoted}"
    );
    for report in &all {
        let errors: Vec<_> =
            report.steps.iter().filter_map(|step| step.error.as_ref()).chain(&report.error).collect();
        let is_done = matches!(report.outcome, Outcome::Completed | Outcome::NothingToDo);
        let is_told = !errors.is_empty()
            && errors.iter().all(|e| matches!(e.kind, ErrorKind::Conflict | ErrorKind::Unavailable));
        assert!(is_done || is_told, "{report:#?}");
    }
    let last = undo(&production(url, &model), revision("2")).await.unwrap();
    assert!(matches!(last.outcome, Outcome::Completed | Outcome::NothingToDo), "{last:#?}");
    let stages = server.observe(&model).await["stages"].clone();
    assert_eq!(in_production(&stages), ["2"], "{stages}");
}

#[tokio::test]
async fn a_move_by_somebody_else_while_ours_is_watched_is_a_conflict() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let mut settled = options();
    settled.settle = Duration::from_secs(3);
    let registry = registry(server.url());
    let pointer = ModelPointer::stage(&registry, &model, Stage::Production, settled).unwrap();
    let foreign = async {
        // Of a move it is the last write.
        tagged(server, &model, "rollback.stage.Production").await;
        server.stage(&model, "3", "Production", true).await;
    };
    let (report, ()) = tokio::join!(undo(&pointer, revision("4")), foreign);
    let report = report.unwrap();
    let error = report.steps[0].error.as_ref().unwrap();
    assert_eq!((report.outcome, error.kind, report.changed()), (Outcome::Halted, ErrorKind::Conflict, true));
    assert!(error.message.contains("version 3"), "{error:?}");
}

#[tokio::test]
async fn no_version_is_left_out_where_another_is_deleted_between_two_pages() {
    for version in [MlflowVersion::Three, MlflowVersion::Two] {
        let server = Mlflow::shared(version).await;
        let model = baseline(server).await;
        let proxy = server.proxy().await;
        let mut config = RegistryConfig::new(proxy.url());
        config.page_size = 2;
        let registry = Registry::new(config).unwrap();
        let pointer = ModelPointer::stage(&registry, &model, Stage::Production, options()).unwrap();
        let mut hold = proxy.hold(Matcher::method("GET").path("model-versions/search").query("%3C"));
        let deleted = async {
            hold.reached().await;
            server.call("DELETE", "model-versions/delete", &json!({"name": model, "version": "4"})).await;
            hold.release();
        };
        let (history, ()) = tokio::join!(pointer.history(), deleted);
        let ids: Vec<_> = history.unwrap().into_iter().map(|revision| revision.id).collect();
        assert_eq!(ids, ["5", "4", "3", "2", "1"], "of each page what was there then");
        assert!(registry.model_names().await.unwrap().contains(&model));
    }
}

/// An undo to version 4 during which, between its look and its write, somebody else moves version 2 to this stage;
/// with the stage of version 2 at the end.
async fn undone_while_2_goes_to(stage: &str, archive: bool) -> (RunReport, Value) {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let proxy = server.proxy().await;
    let mut hold = proxy.hold(Matcher::method("POST").path("transition-stage"));
    let pointer = production(proxy.url(), &model);
    let foreign = async {
        hold.reached().await;
        server.stage(&model, "2", stage, archive).await;
        hold.release();
    };
    let (report, ()) = tokio::join!(undo(&pointer, revision("4")), foreign);
    (report.unwrap(), server.observe(&model).await["stages"]["2"].clone())
}

#[tokio::test]
async fn what_somebody_else_moves_beside_it_is_none_of_ours() {
    let (report, second) = undone_while_2_goes_to("Staging", false).await;
    assert_eq!((report.outcome, second), (Outcome::Completed, "Staging".into()), "{report:#?}");
}

#[tokio::test]
async fn what_somebody_else_moves_between_the_look_and_the_write_is_a_conflict() {
    let (report, _) = undone_while_2_goes_to("Production", true).await;
    assert_eq!((report.outcome, report.changed()), (Outcome::Halted, true), "{report:#?}");
    let step = &report.steps[0];
    assert_eq!(step.outcome, StepOutcome::Failed);
    let error = step.error.as_ref().unwrap();
    assert!(
        error.kind == ErrorKind::Conflict && error.message.contains("version 2 is Archived"),
        "{error:?}"
    );
}

#[tokio::test]
async fn who_moves_an_alias_while_ours_is_watched_is_told_with_the_version() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    for (to, kind) in [("2", ErrorKind::Conflict), ("5", ErrorKind::Unavailable)] {
        let model = baseline(server).await;
        let mut options = options();
        options.settle = Duration::from_secs(30);
        let pointer = ModelPointer::alias(&registry(server.url()), &model, "champion", options).unwrap();
        let meddle = async {
            tagged(server, &model, "rollback.alias.champion").await;
            server.alias(&model, "champion", to).await;
        };
        let (report, ()) = tokio::join!(undo(&pointer, revision("4")), meddle);
        let report = report.unwrap();
        assert_eq!((report.outcome, report.changed()), (Outcome::Halted, true), "{report:#?}");
        let error = report.steps[0].error.clone().unwrap();
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.message.contains(&format!("alias champion is at {to}")), "{error:?}");
    }
}

#[tokio::test]
async fn who_moves_an_alias_before_our_write_is_not_overwritten() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let proxy = server.proxy().await;
    let planned = async || {
        let model = baseline(server).await;
        let pointer = ModelPointer::alias(&registry(proxy.url()), &model, "champion", options()).unwrap();
        let pointer: Arc<dyn Rollbackable> = Arc::new(pointer);
        let planner = Planner::new().rollback("model", pointer.clone(), revision("4"), &[]);
        let plan = planner.plan().await.unwrap();
        proxy.clear();
        (model, plan, Components::new().with(pointer))
    };
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let (_, plan, components) = planned().await;
    engine.execute(&plan, &components, RunOptions::by("ann")).await.unwrap();
    let before = proxy.requests().into_iter().take_while(|request| !request.is_write());
    let looks = before.filter(|request| request.path.contains("registered-models/get")).count();

    // Held is the last look, which comes right before the write.
    let (model, plan, components) = planned().await;
    let mut hold = proxy.hold(Matcher::method("GET").path("registered-models/get").nth(looks));
    let meddle = async {
        hold.reached().await;
        server.alias(&model, "champion", "2").await;
        hold.release();
    };
    let (report, ()) = tokio::join!(engine.execute(&plan, &components, RunOptions::by("ann")), meddle);
    let report = report.unwrap();
    let error = report.steps[0].error.clone().unwrap();
    assert_eq!((error.kind, report.changed()), (ErrorKind::Conflict, false), "{report:#?}");
    assert!(error.message.contains("alias champion is at 2"), "{error:?}");
    assert_eq!(server.observe(&model).await["aliases"][0]["version"], "2");
}
