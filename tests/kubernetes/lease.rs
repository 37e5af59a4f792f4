//! Leases on the real API server: one run at a time, from whatever machine.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollback_core::{
    Components, Engine, ErrorKind, Hold, Lease, LeaseRequest, MemoryJournal, Outcome, Planner, Realm,
    Rollbackable, RunId, RunOptions, Target,
};
use rollback_k8s::{KubernetesLease, Workload};
use rollback_tests::{Fault, Matcher, Namespace, Testbed};
use serde_json::json;

use crate::rights::user_with;
use crate::undo::{cluster, connect, image, rolled_out, workload};

const NAME: &str = "rollback-deployment-web";

async fn request(web: &Workload) -> LeaseRequest {
    LeaseRequest {
        realm: web.realm().await.unwrap(),
        component: web.id().clone(),
        run: RunId::random(),
        actor: "ann@here".into(),
        break_reason: None,
        waiting: None,
    }
}

async fn world(prefix: &str) -> (Namespace, Workload, KubernetesLease) {
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace(prefix).await;
    let cluster = cluster(testbed).await;
    let web = workload(&cluster, rollback_k8s::WorkloadKind::Deployment, &namespace, "web");
    (namespace, web, KubernetesLease::new(&cluster))
}

/// Holds a lease until it is dropped, as a process does that lives.
struct Living(tokio::task::JoinHandle<()>);

impl Living {
    fn new(hold: Box<dyn Hold>) -> Self {
        Self(tokio::spawn(async move { drop(hold.keep().await) }))
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_living_holder_is_told_apart_from_a_dead_one() {
    let (namespace, web, lease) = world("lease-dead").await;
    let first = request(&web).await;
    let hold = lease.acquire(&first).await.unwrap();
    let object = namespace.get("Lease", NAME).await;
    assert_eq!(object["spec"]["holderIdentity"], first.holder().as_str());
    let living = Living::new(hold);

    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = told.clone();
    let mut second = request(&web).await;
    second.waiting = Some(Arc::new(move |text| sink.lock().unwrap().push(text)));
    let begun = Instant::now();
    let refused = lease.acquire(&second).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10), "it renews, so it lives: {:?}", begun.elapsed());
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains(&first.holder()), "{refused}");
    assert!(told.lock().unwrap()[0].contains("waiting at most 15 s"), "{told:?}");

    drop(living);
    let begun = Instant::now();
    let hold = lease.acquire(&second).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(15) && waited < Duration::from_secs(40), "{waited:?}");
    assert!(hold.check().is_ok() && hold.broken().is_none());
    assert_eq!(namespace.get("Lease", NAME).await["spec"]["leaseTransitions"], 1);
    hold.release().await;
    assert!(namespace.get_if_exists("Lease", NAME).await.is_null(), "given up, it is gone");
}

#[tokio::test]
async fn the_same_run_takes_over_at_once_and_the_earlier_process_loses_it() {
    let (_namespace, web, lease) = world("lease-same").await;
    let run = request(&web).await;
    let earlier = lease.acquire(&run).await.unwrap();
    let later = lease.acquire(&run).await.unwrap();
    let lost = tokio::time::timeout(Duration::from_secs(20), earlier.keep()).await.unwrap();
    assert_eq!(lost.kind(), ErrorKind::LeaseLost);
    assert_eq!(earlier.check().unwrap_err().kind(), ErrorKind::LeaseLost);
    earlier.release().await;
    assert!(later.check().is_ok());
    let kept = tokio::time::timeout(Duration::from_secs(5), later.keep()).await;
    assert!(kept.is_err(), "what was lost cannot give up what another has: {kept:?}");
    later.release().await;
}

#[tokio::test]
async fn a_lease_is_broken_only_on_record() {
    let (namespace, web, lease) = world("lease-break").await;
    let first = request(&web).await;
    let hold = lease.acquire(&first).await.unwrap();
    let mut second = request(&web).await;
    second.break_reason = Some("its machine is gone".into());
    let begun = Instant::now();
    let broken = lease.acquire(&second).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(broken.broken(), Some(first.holder()));
    let object = namespace.get("Lease", NAME).await;
    let record = object["metadata"]["annotations"]["rollback.dev/broken"].as_str().unwrap();
    assert!(record.contains(&first.holder()) && record.contains("its machine is gone"), "{record}");
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(20), hold.keep()).await.unwrap().kind(),
        ErrorKind::LeaseLost
    );
    broken.release().await;
}

#[tokio::test]
async fn of_many_who_ask_at_once_one_gets_it() {
    let (_namespace, web, lease) = world("lease-many").await;
    let requests = futures::future::join_all((0..8).map(|_| request(&web))).await;
    let asked = requests.iter().map(async |request| {
        let hold = lease.acquire(request).await.ok()?;
        // Renewed, so that the others see that it lives.
        let _ = tokio::time::timeout(Duration::from_secs(12), hold.keep()).await;
        Some(hold)
    });
    let got = futures::future::join_all(asked).await.into_iter().flatten().count();
    assert_eq!(got, 1);
}

#[tokio::test]
async fn a_lost_answer_does_not_lose_the_lease() {
    let (namespace, web, _) = world("lease-lost").await;
    let proxy = Testbed::shared().await.proxy().await;
    let lease = KubernetesLease::new(&connect(proxy.kubeconfig()).await);
    let first = request(&web).await;
    for method in ["POST", "PUT"] {
        proxy.fault(Matcher::method(method).path("/leases").times(1), Fault::DropResponse);
    }
    let hold = lease.acquire(&first).await.unwrap();
    let kept = tokio::time::timeout(Duration::from_secs(12), hold.keep()).await;
    assert!(kept.is_err() && hold.check().is_ok(), "{kept:?}");
    let puts = proxy.requests().iter().filter(|r| r.method == "PUT").count();
    assert!((3..8).contains(&puts), "renewed every few seconds: {puts}");
    hold.release().await;
    assert!(namespace.get_if_exists("Lease", NAME).await.is_null());
}

#[tokio::test]
async fn an_engine_whose_lease_is_deleted_writes_nothing_more() {
    let (namespace, web) = rolled_out("lease-engine", &["app:never-ready", "app:2"], 2).await;
    let cluster = cluster(Testbed::shared().await).await;
    let engine = Engine::new(Arc::new(MemoryJournal::new()));
    let engine = engine.with_lease(Arc::new(KubernetesLease::new(&cluster)));
    let web: Arc<dyn Rollbackable> = Arc::new(web);
    let plan = Planner::new().rollback("web", web.clone(), Target::Previous, &[]).plan().await.unwrap();
    let thief = async {
        namespace.wait("Deployment", "web", "patched", |web| image(web) == "app:never-ready").await;
        namespace.delete("Lease", NAME).await;
    };
    let components = Components::new().with(web);
    let begun = Instant::now();
    let (report, ()) = tokio::join!(engine.execute(&plan, &components, RunOptions::by("ann")), thief);
    let report = report.unwrap();
    assert_eq!((report.outcome, report.error.unwrap().kind), (Outcome::Unfinished, ErrorKind::LeaseLost));
    assert!(begun.elapsed() < Duration::from_secs(60), "long before its deadline");
}

#[tokio::test]
async fn leasing_takes_the_rights_to_lease_and_is_known_beforehand() {
    let (namespace, web, _) = world("lease-rights").await;
    let lease_of = async |roles: &[&str]| {
        let user = user_with(&namespace, roles).await;
        KubernetesLease::new(&connect(user.kubeconfig()).await)
    };
    let allowed = lease_of(&["rollback-lease"]).await;
    assert!(allowed.is_permitted(namespace.name()).await.unwrap());
    let mut request = request(&web).await;
    // Who may not read the namespace kube-system knows the cluster under another realm.
    request.realm = Realm::new("another");
    let hold = allowed.with_namespace(namespace.name()).acquire(&request).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(5), hold.keep()).await.is_err());
    hold.release().await;

    let denied = lease_of(&["rollback-view"]).await.with_namespace(namespace.name());
    assert!(!denied.is_permitted(namespace.name()).await.unwrap());
    assert_eq!(denied.acquire(&request).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn what_lives_elsewhere_needs_a_namespace_for_its_lease() {
    let (namespace, web, lease) = world("lease-elsewhere").await;
    let mut model = request(&web).await;
    model.realm = Realm::new("https://mlflow");
    assert_eq!(lease.acquire(&model).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let hold = lease.with_namespace(namespace.name()).acquire(&model).await.unwrap();
    assert_eq!(namespace.list("Lease", "").await.len(), 1);
    hold.release().await;
    assert_eq!(json!(namespace.list("Lease", "").await), json!([]));
}

#[tokio::test]
async fn a_server_that_fails_is_waited_for_but_not_for_ever() {
    let (_namespace, web, _) = world("lease-fails").await;
    let proxy = Testbed::shared().await.proxy().await;
    let lease = KubernetesLease::new(&connect(proxy.kubeconfig()).await);
    for (times, passes) in [(4, true), (10_000, false)] {
        proxy.clear();
        proxy.fault(
            Matcher::method("POST").path("/leases").times(times),
            Fault::Status { code: 500, retry_after: None },
        );
        let begun = Instant::now();
        let taken = lease.acquire(&request(&web).await).await;
        assert_eq!(taken.is_ok(), passes, "{taken:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(30) && proxy.requests().len() < 200,
            "{:?}",
            begun.elapsed()
        );
        if let Ok(hold) = taken {
            hold.release().await;
        }
    }
}

#[tokio::test]
async fn a_broken_lease_is_on_record_also_where_the_answer_is_lost() {
    let (_namespace, web, lease) = world("lease-record").await;
    let first = request(&web).await;
    let _hold = lease.acquire(&first).await.unwrap();
    let proxy = Testbed::shared().await.proxy().await;
    proxy.fault(Matcher::method("PUT").path("/leases").times(1), Fault::DropResponse);
    let mut second = request(&web).await;
    second.break_reason = Some("gone".into());
    let broken = KubernetesLease::new(&connect(proxy.kubeconfig()).await).acquire(&second).await.unwrap();
    assert_eq!(broken.broken(), Some(first.holder()));
    broken.release().await;
}
