//! What is checked before anything begins, and runs with nothing to do.

use std::sync::Arc;

use rollback_core::{
    Components, Error, ErrorKind, FailurePolicy, Journal, MemoryJournal, Outcome, Planner, Position, Realm,
    RestartScope, Rollbackable, StepOutcome, Target,
};

use crate::world::{
    Listening, WRITES, assert_error, component, components, engine, id, options, options_with, parts, plan,
    run, step,
};

#[tokio::test(start_paused = true)]
async fn another_realm_is_refused_before_anything_begins() {
    let [web, model] = ["web", "model"].map(component);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[]), (&model, &[])]).await;
    let moved = model.clone().with_realm(Realm::new("elsewhere"));
    let journal = Arc::new(MemoryJournal::new());
    let all = components(&[&web, &moved]);
    let error = engine(journal.clone()).execute(&plan, &all, options()).await.unwrap_err();
    assert_eq!((error.kind(), error.component()), (ErrorKind::Refused, Some(model.id())));
    assert!(error.to_string().contains("elsewhere"), "{error}");
    assert_eq!(journal.runs().await.unwrap(), []);
    assert_eq!(web.write_attempts() + model.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_component_that_was_not_given_is_refused_before_anything_begins() {
    let [web, model] = ["web", "model"].map(component);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[]), (&model, &[])]).await;
    let journal = Arc::new(MemoryJournal::new());
    let error = engine(journal.clone()).execute(&plan, &components(&[&web]), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_eq!(journal.runs().await.unwrap(), []);
    assert_eq!(web.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_refused_while_an_unfinished_one_touches_its_component() {
    let [web, model] = ["web", "model"].map(component);
    let both = plan(FailurePolicy::Halt, &[(&web, &[]), (&model, &[])]).await;
    let only_web = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let other = component("other");
    let only_other = plan(FailurePolicy::Halt, &[(&other, &[])]).await;
    let engine = engine(Arc::new(MemoryJournal::new()));

    let stopped = options();
    stopped.cancellation.cancel();
    let first = engine.execute(&both, &components(&[&web, &model]), stopped).await.unwrap();
    assert_eq!(first.outcome, Outcome::Unfinished);

    let error = engine.execute(&only_web, &components(&[&web]), options()).await.unwrap_err();
    assert_eq!((error.kind(), error.component()), (ErrorKind::Refused, Some(web.id())));
    assert!(error.to_string().contains(&first.run.to_string()), "{error}");
    assert_eq!(web.write_attempts(), 0);

    let report = engine.execute(&only_other, &components(&[&other]), options()).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_be_recorded_begins_nothing() {
    let web = component("web");
    let plan = plan(FailurePolicy::Halt, &[(&web, &[])]).await;
    let journal = Listening::new(|_, _| Err(Error::new(ErrorKind::Journal, "disk full")));
    let error = engine(journal).execute(&plan, &components(&[&web]), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(web.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_do_writes_nothing() {
    let web = component("web");
    let current = Target::Revision("v3".into());
    let plan = Planner::new().rollback("web", Arc::new(web.clone()), current, &[]).plan().await.unwrap();
    assert!(plan.is_noop());
    let (report, _) = run(&plan, &[&web], options()).await;
    assert_eq!(report.outcome, Outcome::NothingToDo);
    assert_eq!(step(&report, "web").outcome, StepOutcome::NothingToDo);
    assert!(!report.changed());
    assert_eq!(web.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_do_is_refused_once_it_has_moved() {
    let [web, model] = ["web", "model"].map(component);
    let plan = Planner::new()
        .rollback("web", Arc::new(web.clone()), Target::Revision("v3".into()), &[])
        .rollback("model", Arc::new(model.clone()), Target::Previous, &["web"])
        .plan()
        .await
        .unwrap();
    web.edit("image", 9.into());
    let (report, _) = run(&plan, &[&web, &model], options()).await;
    assert_eq!(report.outcome, Outcome::Halted);
    assert_eq!(step(&report, "web").outcome, StepOutcome::Refused);
    assert_error(step(&report, "web"), ErrorKind::Conflict, "image");
    assert_eq!(step(&report, "model").outcome, StepOutcome::Skipped);
    assert_eq!(web.write_attempts() + model.write_attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_plan_with_something_to_do_is_completed_past_a_step_with_nothing_to_do() {
    let [web, model] = ["web", "model"].map(component);
    let plan = Planner::new()
        .rollback("web", Arc::new(web.clone()), Target::Revision("v3".into()), &[])
        .rollback("model", Arc::new(model.clone()), Target::Previous, &["web"])
        .plan()
        .await
        .unwrap();
    let (report, _) = run(&plan, &[&web, &model], options()).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(step(&report, "web").outcome, StepOutcome::NothingToDo);
    assert_eq!(step(&report, "model").outcome, StepOutcome::Verified);
    assert_eq!((web.writes(), model.writes()), (0, WRITES));
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_step_that_is_made_once() {
    let web = component("web");
    let restart = || Planner::new().restart("web", Arc::new(web.clone()), RestartScope::All, &[]).plan();
    let plan = restart().await.unwrap();
    for _ in 0..2 {
        let (report, _) = run(&plan, &[&web], options()).await;
        assert_eq!(report.outcome, Outcome::Completed);
    }
    assert_eq!(web.writes(), 1);
    let change = &plan.step(&id("web")).unwrap().change;
    assert_eq!(web.locate(change).await.unwrap(), Position::To);
    assert_eq!(web.live()["image"], parts(3)["image"], "the revision stays");
    assert_ne!(restart().await.unwrap().digest(), plan.digest(), "the next restart is another");
}

#[tokio::test(start_paused = true)]
async fn without_verification_a_step_is_done_once_it_is_applied() {
    let [web, model] = ["web", "model"].map(component);
    web.set_settling(rollback_testkit::Settling::Never);
    let plan = plan(FailurePolicy::Halt, &[(&web, &[]), (&model, &["web"])]).await;
    let (report, _) = run(&plan, &[&web, &model], options_with(|settings| settings.verify = false)).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert!(report.steps.iter().all(|step| step.outcome == StepOutcome::Applied), "{report:?}");
    assert_eq!((web.live(), model.live()), (parts(2), parts(2)));
}

#[test]
fn an_unknown_component_is_named() {
    let error = Components::new().get(component("web").id()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("memory/web"), "{error}");
}
