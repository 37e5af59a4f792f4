//! The command killed at random moments of a run, and resumed: nothing is lost, and nothing is done twice.

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use rollback_tests::{FaultProxy, Namespace, Testbed, objects};
use serde_json::json;

use crate::journal::Journal;
use crate::{deploy, finish, image};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A number from the environment: `ROLLBACK_TEST_KILLS=100` for the longer run, `ROLLBACK_TEST_SEED` to see
/// a failure again.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test]
async fn a_run_killed_at_any_moment_is_finished_by_resuming_it() {
    let kills = number("ROLLBACK_TEST_KILLS").unwrap_or(10);
    let seed = number("ROLLBACK_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ROLLBACK_TEST_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let testbed = Testbed::shared().await;
    let namespace = testbed.namespace("kills").await;
    futures::future::join_all(NAMES.map(|name| deploy(&namespace, name, &["app:1"]))).await;
    // Every round leaves a revision behind, and none may push out the one to return to.
    let history = json!({"spec": {"revisionHistoryLimit": kills + 2}});
    futures::future::join_all(NAMES.map(|name| namespace.patch("Deployment", name, &history))).await;
    let mut cut = 0;
    for kill in 0..kills {
        let proxy = testbed.proxy().await;
        let before = futures::future::join_all(NAMES.map(|name| outdated(&namespace, name, kill))).await;
        println!("kill {kill}");
        cut += usize::from(killed_and_resumed(&namespace, &proxy, &mut random).await);
        for (name, before) in NAMES.into_iter().zip(before) {
            assert_eq!(image(&namespace, name).await, "app:1", "{name}, kill {kill}, seed {seed}");
            let after = generation(&namespace, name).await;
            assert_eq!(after, before + 1, "{name} was patched once; kill {kill}, seed {seed}");
            let patches = patches(&namespace, &proxy, name);
            assert!(patches <= 1, "{name}: {patches} patches; kill {kill}, seed {seed}");
        }
    }
    println!("{cut} of {kills} runs were cut short");
}

/// Brings a Deployment to a new revision, and says its generation.
async fn outdated(namespace: &Namespace, name: &str, number: u64) -> i64 {
    namespace.patch("Deployment", name, &objects::image_patch(&format!("app:{}", number + 2))).await;
    namespace.rolled_out("Deployment", name).await;
    generation(namespace, name).await
}

async fn generation(namespace: &Namespace, name: &str) -> i64 {
    namespace.get("Deployment", name).await["metadata"]["generation"].as_i64().unwrap()
}

/// How many patches of a Deployment the server answered well. One whose answer nobody waited for any more
/// is not among them: the generation tells of it.
fn patches(namespace: &Namespace, proxy: &FaultProxy, name: &str) -> usize {
    let path = namespace.path("Deployment", name);
    let requests = proxy.requests();
    let is_patch = |request: &&rollback_tests::Recorded| {
        let done = request.status.is_some_and(|status| (200..300).contains(&status));
        done && request.method == "PATCH" && request.path == path
    };
    requests.iter().filter(is_patch).count()
}

/// Calls the command until its run is completed, killing it now and then; whether a run was cut short.
async fn killed_and_resumed(namespace: &Namespace, proxy: &FaultProxy, random: &mut Rng) -> bool {
    let journal = Journal::new();
    let names = NAMES.map(|name| format!("deployment/{}/{name}", namespace.name()));
    let mut undo = vec!["undo", "--yes"];
    undo.extend(names.iter().map(String::as_str));
    let mut was_cut = false;
    for call in 0.. {
        let runs = journal.runs().await;
        let args = match runs.as_slice() {
            // Killed before it began.
            [] => undo.as_slice(),
            [run] if run["outcome"] == "Completed" => return was_cut,
            [run] => {
                assert_eq!(run["outcome"], "Unfinished");
                was_cut = true;
                &["resume"]
            }
            several => panic!("{several:?}"),
        };
        // The first call is always killed, a later one half of the time, so that it ends some day.
        let is_killed = call == 0 || (call < 4 && random.bool());
        ended(&journal, proxy.kubeconfig(), args, is_killed.then(|| random.u64(0..800))).await;
    }
    unreachable!("it ends by returning")
}

/// Calls the command, and kills it after some time unless it has ended by then.
async fn ended(journal: &Journal, kubeconfig: &Path, args: &[&str], killed_after: Option<u64>) {
    let mut child = journal.command(kubeconfig, args).spawn().unwrap();
    let Some(time) = killed_after else {
        let output = finish(child).await;
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        return;
    };
    if tokio::time::timeout(Duration::from_millis(time), child.wait()).await.is_err() {
        child.kill().await.unwrap();
    }
}
