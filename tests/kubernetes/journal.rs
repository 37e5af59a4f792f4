//! The journal in the cluster: what survives, what others see, and who may write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use rollback_core::{
    Change, ChangeKind, ComponentId, Components, Engine, Entry, ErrorKind, Event, FailurePolicy, Fingerprint,
    Journal, Outcome, Plan, Planner, Realm, Retention, Rollbackable, RunId, RunOptions, RunReport, Snapshot,
    Step, StepEvent, StepId, Target,
};
use rollback_k8s::{CUSTOM_RESOURCE_DEFINITION, KubernetesJournal};
use rollback_testkit::MemoryComponent;
use rollback_tests::{Fault, FaultProxy, Matcher, Namespace, Testbed};
use serde_json::{Value, json};

use crate::rights::user_with;
use crate::undo::{cluster, connect, rolled_out};

const RUNS: &str = "rollback.dev/v1alpha1/RollbackRun";

/// A namespace of a cluster that knows `RollbackRuns`.
pub(crate) async fn home(prefix: &str) -> Namespace {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace(prefix).await;
    let definition: Value = serde_yaml_ng::from_str(CUSTOM_RESOURCE_DEFINITION).unwrap();
    namespace.apply(&definition).await;
    let established = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Established" && c["status"] == "True"))
    };
    namespace.wait("CustomResourceDefinition", "rollbackruns.rollback.dev", "established", established).await;
    // It is served a moment after it says so.
    let begun = Instant::now();
    let list = namespace.path(RUNS, "");
    while namespace.request(Method::GET, &list, "application/json", Value::Null).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30), "RollbackRuns are not served");
        testbed.pause(Duration::from_millis(100)).await;
    }
    namespace
}

/// The journal, as a process of its own sees it.
pub(crate) async fn open(namespace: &Namespace) -> KubernetesJournal {
    KubernetesJournal::new(&cluster(Testbed::shared().await).await, namespace.name(), "a-process")
}

async fn open_through(proxy: &FaultProxy, namespace: &Namespace) -> KubernetesJournal {
    KubernetesJournal::new(&connect(proxy.kubeconfig()).await, namespace.name(), "a-process")
}

fn component(name: &str) -> MemoryComponent {
    let component = MemoryComponent::new(ComponentId::new("memory", None, name).unwrap());
    for version in 1..=3 {
        component.deploy(&format!("v{version}"), &json!({"image": version, "limit": version}));
    }
    component
}

async fn undo(journal: KubernetesJournal, names: &[&str]) -> RunReport {
    let (mut planner, mut components) = (Planner::new(), Components::new());
    for name in names {
        let component = Arc::new(component(name));
        planner = planner.rollback(*name, component.clone(), Target::Previous, &[]);
        components = components.with(component);
    }
    let plan = planner.plan().await.unwrap();
    let mut options = RunOptions::by("ann@here");
    options.reason = Some("too slow".into());
    Engine::new(Arc::new(journal)).execute(&plan, &components, options).await.unwrap()
}

fn snapshot(id: &str, filling: usize) -> Snapshot {
    let content = json!({"id": id, "password": "correct-horse", "filling": "x".repeat(filling)});
    Snapshot { id: id.into(), fingerprint: Fingerprint::of(&content), summary: id.into(), content }
}

fn plan(names: &[String], filling: usize) -> Plan {
    let step = |name: &String| Step {
        id: StepId::new(name.as_str()),
        after: Vec::new(),
        change: Change {
            component: ComponentId::new("memory", Some("scope"), name).unwrap(),
            realm: Realm::new("here"),
            kind: ChangeKind::Rollback,
            from: snapshot("v2", filling),
            to: snapshot("v1", filling),
            identity: None,
            diff: Vec::new(),
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: None,
        },
    };
    Plan::new(names.iter().map(step).collect(), FailurePolicy::Halt).unwrap()
}

fn entry(event: Event) -> Entry {
    Entry { at: "2026-11-23T03:00:00.123456789Z".parse().unwrap(), event }
}

fn start(plan: Plan) -> Entry {
    entry(Event::RunStarted {
        plan: Box::new(plan),
        actor: "ann".into(),
        reason: None,
        settings: RunOptions::by("ann").settings,
        locators: Vec::new(),
        cause: None,
    })
}

fn started(name: &str) -> Entry {
    entry(Event::Step { step: StepId::new(name), event: StepEvent::Started { attempt: 1 } })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_run_is_seen_by_others_without_the_states_of_its_components() {
    let namespace = home("journal-seen").await;
    let report = undo(open(&namespace).await, &["web", "db"]).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let run = report.run.to_string();

    let other = open(&namespace).await;
    let runs = other.runs().await.unwrap();
    assert_eq!((runs.len(), runs[0].run, runs[0].outcome), (1, report.run, Outcome::Completed));
    assert_eq!(runs[0].components.len(), 2);
    let entries = other.entries(report.run).await.unwrap();
    let state = rollback_core::RunState::replay(&entries).unwrap();
    assert_eq!(RunReport::new(report.run, &state), report);

    let table = namespace.kubectl(&["get", "rbr"]).await.ok();
    for part in ["NAME", "OUTCOME", "AGE", run.as_str(), "Completed", "memory/web", "ann@here"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let described = namespace.kubectl(&["describe", "rbr", &run]).await.ok();
    for part in ["too slow", "Verified", "v3", "v2"] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let object = namespace.get(RUNS, &run).await.to_string();
    assert!(!object.contains("limit"), "a state is in it: {object}");
    assert!(namespace.list("Lease", "").await.is_empty());

    namespace.delete(RUNS, &run).await;
    namespace.wait_list("Secret", "rollback.dev/run", "gone with the run", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn a_run_is_judged_after_its_end_once_and_by_whoever_watches() {
    let namespace = home("judged").await;
    let report = undo(open(&namespace).await, &["web"]).await;
    let judgement = || rollback_core::Judgement {
        recovery: rollback_core::Recovery::Recovered,
        message: "all is well".into(),
        points: Vec::new(),
    };
    // From another process than the one that carried it out.
    let engine = Engine::new(Arc::new(open(&namespace).await));
    engine.judge(report.run, judgement()).await.unwrap();
    assert_eq!(engine.judge(report.run, judgement()).await.unwrap_err().kind(), ErrorKind::Journal);
    let journal = open(&namespace).await;
    let state = rollback_core::RunState::replay(&journal.entries(report.run).await.unwrap()).unwrap();
    assert_eq!((state.outcome, state.judged), (Outcome::Completed, Some(judgement())));
    assert_eq!(journal.runs().await.unwrap()[0].outcome, Outcome::Completed);
}

#[tokio::test]
async fn a_dead_process_is_waited_out_and_may_write_nothing_more() {
    let namespace = home("journal-dead").await;
    let (first, second) = (open(&namespace).await, open(&namespace).await);
    let run = RunId::random();
    let claim = first.claim(run).await.unwrap();
    first.begin(run, start(plan(&names(&["web"]), 10))).await.unwrap();
    let refused = second.claim(run).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "it lives: {refused:?}");
    assert!(refused.to_string().contains("a-process"), "{refused}");
    assert_eq!(first.claim(run).await.unwrap_err().kind(), ErrorKind::Refused);

    // As its operator could, who knows that it hangs.
    namespace.delete("Lease", &format!("rollback-run-{run}")).await;
    let _second = second.claim(run).await.unwrap();
    let late = first.append(run, started("web")).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LeaseLost, "{late:?}");
    second.append(run, started("web")).await.unwrap();
    assert_eq!(second.entries(run).await.unwrap().len(), 2);
    drop(claim);
}

#[tokio::test]
async fn a_claim_that_is_dropped_is_given_back() {
    let namespace = home("journal-back").await;
    let (first, second) = (open(&namespace).await, open(&namespace).await);
    let run = RunId::random();
    drop(first.claim(run).await.unwrap());
    namespace.wait_list("Lease", "", "given back", <[Value]>::is_empty).await;
    let unclaimed = first.begin(run, start(plan(&names(&["web"]), 10))).await.unwrap_err();
    assert_eq!(unclaimed.kind(), ErrorKind::Journal);
    let begun = Instant::now();
    drop(second.claim(run).await.unwrap());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_lost_answer_to_any_write_loses_and_doubles_nothing() {
    let namespace = home("journal-lost").await;
    let proxy = Testbed::shared().await.proxy().await;
    let calm = undo(open_through(&proxy, &namespace).await, &["calm"]).await;
    let writes = proxy.writes().len();
    assert!(writes >= 8, "{writes}");
    let expected = open(&namespace).await.entries(calm.run).await.unwrap().len();
    for nth in 1..=writes {
        for fault in [Fault::DropResponse, Fault::Reset] {
            let proxy = Testbed::shared().await.proxy().await;
            for method in ["POST", "PATCH", "PUT", "DELETE"] {
                // The nth of all: what comes before it of other methods does not count here.
                proxy.fault(Matcher::method(method).nth(nth), fault.clone());
            }
            let report = undo(open_through(&proxy, &namespace).await, &[&format!("c{nth}")]).await;
            assert_eq!(report.outcome, Outcome::Completed, "{fault:?} {nth}: {report:#?}");
            let entries = open(&namespace).await.entries(report.run).await.unwrap();
            assert_eq!(entries.len(), expected, "{fault:?} {nth}: {entries:#?}");
            open(&namespace).await.forget(&[report.run]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn runs_of_one_component_do_not_begin_side_by_side() {
    let namespace = home("journal-overlap").await;
    let runs: Vec<_> = (0..6).map(|_| RunId::random()).collect();
    let begun = runs.iter().map(async |run| {
        let journal = open(&namespace).await;
        let claim = journal.claim(*run).await.unwrap();
        let begun = journal.begin(*run, start(plan(&names(&["web"]), 10))).await;
        (begun, claim, journal)
    });
    let all = futures::future::join_all(begun).await;
    let refused: Vec<_> = all.iter().filter_map(|(begun, ..)| begun.as_ref().err()).collect();
    assert!(refused.len() >= 5, "at most one may begin");
    assert!(refused.iter().all(|error| error.kind() == ErrorKind::Refused), "{refused:#?}");
    let listed = open(&namespace).await.runs().await.unwrap();
    assert_eq!(listed.len(), 6 - refused.len(), "what was refused left nothing");
    let secrets = namespace.list("Secret", "rollback.dev/run").await;
    assert_eq!(secrets.len(), listed.len());
}

#[tokio::test]
async fn a_large_plan_is_split_and_one_that_is_too_large_is_refused_with_nothing_done() {
    let namespace = home("journal-large").await;
    let journal = open(&namespace).await;
    let run = RunId::random();
    let _claim = journal.claim(run).await.unwrap();
    let large = start(plan(&names(&["a", "b"]), 400_000));
    journal.begin(run, large.clone()).await.unwrap();
    assert_eq!(namespace.list("Secret", "rollback.dev/run").await.len(), 3);
    assert_eq!(open(&namespace).await.entries(run).await.unwrap(), [large]);

    let many: Vec<_> = (0..501).map(|n| format!("s{n}")).collect();
    for (plan, says) in [(plan(&names(&["c"]), 3_000_000), "KiB"), (plan(&many, 10), "500 steps")] {
        let run = RunId::random();
        let _claim = journal.claim(run).await.unwrap();
        let refused = journal.begin(run, start(plan)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert!(refused.to_string().contains(says), "{refused}");
    }
    assert_eq!(journal.runs().await.unwrap().len(), 1);
    assert_eq!(namespace.list("Secret", "rollback.dev/run").await.len(), 3);
}

#[tokio::test]
async fn as_many_steps_as_it_takes_are_recorded_to_their_end() {
    let namespace = home("journal-many").await;
    let journal = open(&namespace).await;
    let many: Vec<_> = (0..KubernetesJournal::MOST_STEPS).map(|n| format!("step-number-{n}")).collect();
    let run = RunId::random();
    let _claim = journal.claim(run).await.unwrap();
    journal.begin(run, start(plan(&many, 10))).await.unwrap();
    // The largest that one step comes to, with an error as long as those of a server.
    let error = rollback_core::Error::new(ErrorKind::Unavailable, "x".repeat(300)).report();
    let step = |name: &String, event| entry(Event::Step { step: StepId::new(name.as_str()), event });
    for name in many.iter().take(20) {
        journal.append(run, step(name, StepEvent::Started { attempt: 1 })).await.unwrap();
        journal.append(run, step(name, StepEvent::Failed { error: error.clone() })).await.unwrap();
    }
    let object = namespace.get(RUNS, &run.to_string()).await;
    let each = object["status"]["entries"].to_string().len() / 20;
    assert!(each * many.len() < 1024 * 1024, "{each} bytes a step are too many for {} steps", many.len());
}

#[tokio::test]
async fn old_runs_are_pruned_and_unfinished_ones_are_not() {
    let namespace = home("journal-prune").await;
    let journal = open(&namespace).await;
    let ended = [undo(journal.clone(), &["a"]).await.run, undo(journal.clone(), &["b"]).await.run];
    let open_run = RunId::random();
    let _claim = journal.claim(open_run).await.unwrap();
    journal.begin(open_run, start(plan(&names(&["c"]), 10))).await.unwrap();
    let engine = Engine::new(Arc::new(journal.clone()));
    assert_eq!(engine.prune(Retention { runs: 1, age: Duration::MAX }).await.unwrap(), 1);
    let left: BTreeSet<_> = journal.runs().await.unwrap().into_iter().map(|run| run.run).collect();
    assert_eq!(left, BTreeSet::from([ended[1], open_run]));
    assert_eq!(namespace.list("Secret", "rollback.dev/run").await.len(), 2);
    assert_eq!(journal.forget(&[open_run]).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(journal.entries(ended[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_stands_in_the_way_is_told_before_anything_is_done() {
    let namespace = home("journal-way").await;
    let testbed = Testbed::shared().await;
    let user = user_with(&namespace, &["rollback-view"]).await;
    let forbidden = KubernetesJournal::new(&connect(user.kubeconfig()).await, namespace.name(), "a-process");
    let error = forbidden.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.hint().unwrap().contains("rollback-journal"), "{error:?}");

    let proxy = testbed.proxy().await;
    proxy.fault(Matcher::any().path("rollbackruns"), Fault::Status { code: 404, retry_after: None });
    let error = open_through(&proxy, &namespace).await.check().await.unwrap_err();
    assert!(error.hint().unwrap().contains("rollback crd | kubectl apply"), "{error:?}");

    let (_namespace, web) = rolled_out("journal-undone", &["app:1", "app:2"], 1).await;
    let web: Arc<dyn Rollbackable> = Arc::new(web);
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await.unwrap();
    let engine = Engine::new(Arc::new(forbidden));
    let error =
        engine.execute(&plan, &Components::new().with(web.clone()), RunOptions::by("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    let change = &plan.steps()[0].change;
    assert_eq!(web.locate(change).await.unwrap(), rollback_core::Position::From);
}

#[tokio::test]
async fn keeping_runs_in_the_cluster_takes_the_rights_for_that() {
    let namespace = home("journal-rights").await;
    let user = user_with(&namespace, &["rollback-journal"]).await;
    let journal = KubernetesJournal::new(&connect(user.kubeconfig()).await, namespace.name(), "a-process");
    journal.check().await.unwrap();
    let report = undo(journal.clone(), &["web"]).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    journal.forget(&[report.run]).await.unwrap();
}

#[tokio::test]
async fn steps_side_by_side_share_requests_and_their_events_keep_their_order() {
    let namespace = home("journal-group").await;
    let proxy = Testbed::shared().await.proxy().await;
    let many: Vec<_> = (0..40).map(|n| format!("c{n}")).collect();
    let report =
        undo(open_through(&proxy, &namespace).await, &many.iter().map(String::as_str).collect::<Vec<_>>())
            .await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let entries = open(&namespace).await.entries(report.run).await.unwrap();
    assert_eq!(entries.len(), 2 + 3 * many.len());
    let is_event = |request: &&rollback_tests::Recorded| {
        request.method == "PATCH" && request.path.contains("rollbackruns")
    };
    let patches = proxy.requests().iter().filter(is_event).count();
    assert!(patches * 2 < entries.len(), "{patches} requests for {} events", entries.len());
}

#[tokio::test]
async fn a_beginning_that_fails_half_way_leaves_nothing() {
    let namespace = home("journal-half").await;
    let proxy = Testbed::shared().await.proxy().await;
    let journal = open_through(&proxy, &namespace).await;
    let run = RunId::random();
    let claim = journal.claim(run).await.unwrap();
    let denied = Fault::Status { code: 403, retry_after: None };
    proxy.fault(Matcher::method("POST").path("rollbackruns"), denied);
    let error = journal.begin(run, start(plan(&names(&["web"]), 10))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    claim.release().await;
    assert!(namespace.list("Secret", "rollback.dev/run").await.is_empty());
    assert!(namespace.list("Lease", "").await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_in_nobody_s_way() {
    let namespace = home("journal-odd").await;
    let odd = json!({
        "apiVersion": "rollback.dev/v1alpha1", "kind": "RollbackRun",
        "metadata": {"name": "odd", "labels": {"rollback.dev/unfinished": "true"}},
        "spec": {"actor": "x", "components": [], "moves": [], "parts": 0},
        "status": {"outcome": "Unfinished", "startedAt": "x", "count": 1, "entries": []},
    });
    namespace.create(&odd).await;
    let report = undo(open(&namespace).await, &["web"]).await;
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(open(&namespace).await.runs().await.unwrap().len(), 1);
    namespace.delete("Secret", &format!("rollback-run-{}-0", report.run)).await;
    let torn = open(&namespace).await.entries(report.run).await.unwrap_err();
    assert!(torn.hint().unwrap().contains("kubectl delete rollbackrun"), "{torn:?}");
}
