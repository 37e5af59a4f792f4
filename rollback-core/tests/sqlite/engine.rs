//! An engine that records in a file.

use std::sync::Arc;

use rollback_core::{
    ComponentId, Components, Engine, FailurePolicy, Journal, Outcome, Planner, Rollbackable, RunOptions,
    RunReport, RunState, StepOutcome, Target,
};
use rollback_testkit::MemoryComponent;
use serde_json::json;

use crate::world::Home;

fn component(name: &str) -> Arc<MemoryComponent> {
    let component = MemoryComponent::new(ComponentId::new("memory", None, name).unwrap());
    for version in 1..=2 {
        component.deploy(&format!("v{version}"), &json!({"image": version}));
    }
    Arc::new(component)
}

#[tokio::test]
async fn an_engine_completes_a_run_that_the_file_retells() {
    let home = Home::new();
    let all: Vec<_> = (0..12).map(|n| component(&format!("c{n}"))).collect();
    let mut planner = Planner::new().on_failure(FailurePolicy::Halt);
    for component in &all {
        planner = planner.rollback(component.id().name(), component.clone(), Target::Previous, &[]);
    }
    let plan = planner.plan().await.unwrap();
    let components: Components = all.iter().map(|c| c.clone() as Arc<dyn Rollbackable>).collect();
    let report = {
        let engine = Engine::new(Arc::new(home.open())).with_concurrency(12);
        engine.execute(&plan, &components, RunOptions::by("test")).await.unwrap()
    };
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(report.steps.iter().all(|step| step.outcome == StepOutcome::Verified));
    assert!(all.iter().all(|component| component.live() == json!({"image": 1})));

    let journal = home.open();
    let state = RunState::replay(&journal.entries(report.run).await.unwrap()).unwrap();
    assert_eq!(RunReport::new(report.run, &state), report);
    assert_eq!(journal.runs().await.unwrap()[0].outcome, Outcome::Completed);
}

#[tokio::test]
async fn another_engine_goes_on_from_the_file() {
    let home = Home::new();
    let web = component("web");
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await.unwrap();
    let components: Components = [web.clone() as Arc<dyn Rollbackable>].into_iter().collect();
    let mut options = RunOptions::by("one");
    let (run, stop) = (options.run, options.cancellation.clone());
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    options.progress = Some(sender);
    let engine = Engine::new(Arc::new(home.open()));
    let begun = async {
        events.recv().await;
        stop.cancel();
    };
    let (stopped, ()) = tokio::join!(engine.execute(&plan, &components, options), begun);
    assert_eq!(stopped.unwrap().outcome, Outcome::Unfinished);
    drop(engine);
    let engine = Engine::new(Arc::new(home.open()));
    let report = engine.resume(run, &components, RunOptions::by("two")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert_eq!(web.live(), json!({"image": 1}));
}
