//! A component that takes several changes: its states on the way are no revisions, and it is not left there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollback_core::{
    Change, ChangeKind, ComponentId, Components, Engine, Error, ErrorKind, FailurePolicy, Fingerprint,
    Journal, Ledger, MemoryJournal, Outcome, Passage, Plan, Planner, Position, Realm, Result, Revision,
    Rollbackable, RunOptions, RunReport, RunState, Snapshot, StepContext, StepOutcome, Target, Verification,
};
use serde_json::json;

use crate::world::component;

/// The states: the bad one, two on the way, the good one.
const STATES: [&str; 4] = ["bad", "held", "restored", "good"];

/// Moves through the states one change at a time.
#[derive(Clone, Debug)]
struct Chain {
    id: ComponentId,
    at: Arc<Mutex<usize>>,
    /// The states that do not settle.
    stuck: Arc<Mutex<BTreeSet<usize>>>,
    verified: Arc<Mutex<Vec<usize>>>,
}

impl Chain {
    fn new() -> Self {
        let id = ComponentId::new("chain", None, "chain").unwrap();
        Self { id, at: Arc::default(), stuck: Arc::default(), verified: Arc::default() }
    }

    fn at(&self) -> &'static str {
        STATES[*self.at.lock().unwrap()]
    }

    fn set(&self, at: usize) {
        *self.at.lock().unwrap() = at;
    }

    fn never_settles(&self, at: usize) {
        self.stuck.lock().unwrap().insert(at);
    }
}

fn snapshot(at: usize) -> Snapshot {
    let content = json!(at);
    Snapshot {
        id: STATES[at].into(),
        fingerprint: Fingerprint::of(&content),
        summary: String::new(),
        content,
    }
}

fn place(snapshot: &Snapshot) -> usize {
    usize::try_from(snapshot.content.as_u64().unwrap()).unwrap()
}

#[async_trait]
impl Rollbackable for Chain {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        Ok(Realm::new("memory"))
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        Ok(Vec::new())
    }

    async fn prepare(&self, _: &Target) -> Result<Vec<Change>> {
        let change = |from: usize| Change {
            component: self.id.clone(),
            realm: Realm::new("memory"),
            kind: ChangeKind::Rollback,
            from: snapshot(from),
            to: snapshot(from + 1),
            identity: None,
            diff: Vec::new(),
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: Passage {
                from_between: from > 0,
                to_between: from < 2,
                secured: (from == 1).then(|| "traffic is safe".into()),
            },
            hint: None,
        };
        Ok((0..3).map(change).collect())
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        let at = *self.at.lock().unwrap();
        Ok(if at == place(&change.to) {
            Position::To
        } else if at == place(&change.from) {
            Position::From
        } else {
            Position::Elsewhere(STATES[at].into())
        })
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        match self.locate(change).await? {
            Position::To => Ok(()),
            Position::Elsewhere(what) => Err(Error::new(ErrorKind::Conflict, what)),
            Position::From | Position::Between => {
                cx.before_write("moving on").await?;
                self.set(place(&change.to));
                Ok(())
            }
        }
    }

    async fn verify(&self, _: &StepContext, change: &Change) -> Result<Verification> {
        let at = place(&change.to);
        self.verified.lock().unwrap().push(at);
        let is_stuck = self.stuck.lock().unwrap().contains(&at);
        Ok(if is_stuck {
            Verification::failed("it does not serve")
        } else {
            Verification::converged("there")
        })
    }

    async fn status(&self) -> Result<Verification> {
        Ok(Verification::converged("there"))
    }
}

async fn plan(chain: &Chain, policy: FailurePolicy) -> Plan {
    let planner = Planner::new().on_failure(policy);
    planner.rollback("c", Arc::new(chain.clone()), Target::Previous, &[]).plan().await.unwrap()
}

async fn run(journal: &Arc<MemoryJournal>, plan: &Plan, chain: &Chain, options: RunOptions) -> RunReport {
    let engine = Engine::new(journal.clone()).with_ledger(journal.clone());
    engine.execute(plan, &Components::new().with(Arc::new(chain.clone())), options).await.unwrap()
}

fn outcomes(report: &RunReport) -> Vec<StepOutcome> {
    report.steps.iter().map(|step| step.outcome).collect()
}

#[tokio::test(start_paused = true)]
async fn the_ledger_knows_the_two_ends_and_nothing_between() {
    let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
    let plan = plan(&chain, FailurePolicy::Halt).await;
    let report = run(&journal, &plan, &chain, RunOptions::by("ann")).await;
    assert_eq!((report.outcome, chain.at()), (Outcome::Completed, "good"));
    let record = journal.record(&Realm::new("memory"), chain.id()).await.unwrap();
    let known: Vec<_> =
        record.revisions().map(|(_, known)| (known.id.as_str(), known.left.is_some())).collect();
    assert_eq!(known.len(), 2, "{known:?}");
    assert!(known.contains(&("bad", true)) && known.contains(&("good", false)), "{known:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_secured_stays_whatever_the_policy_while_it_is_there() {
    for policy in [FailurePolicy::Halt, FailurePolicy::Compensate, FailurePolicy::Continue] {
        let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
        chain.never_settles(2);
        let plan = plan(&chain, policy).await;
        let report = run(&journal, &plan, &chain, RunOptions::by("ann")).await;
        assert_eq!((report.outcome, chain.at()), (Outcome::Stuck, "restored"), "{policy:?}");
        let error = report.steps[1].error.as_ref().unwrap();
        assert!(error.message.starts_with("traffic is safe: it does not serve"), "{error:?}");
        assert_eq!(report.steps[2].outcome, StepOutcome::Skipped);
        let record = journal.record(&Realm::new("memory"), chain.id()).await.unwrap();
        assert_eq!(record.revisions().count(), 0, "it is at no revision");
    }
    // Somebody took the safety away: nothing is claimed, and the policy decides.
    let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
    let mut steps = plan(&chain, FailurePolicy::Halt).await.steps().to_vec();
    chain.set(3);
    steps.truncate(2);
    steps.remove(0);
    steps[0].after.clear();
    let plan = Plan::new(steps, FailurePolicy::Halt).unwrap();
    let report = run(&journal, &plan, &chain, RunOptions::by("ann")).await;
    assert_eq!(report.outcome, Outcome::Halted, "{report:#?}");
    assert!(!report.steps[0].error.as_ref().unwrap().message.contains("traffic is safe"), "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn once_the_last_change_is_made_the_policy_decides() {
    for (policy, outcome, at) in [
        (FailurePolicy::Halt, Outcome::Halted, "good"),
        (FailurePolicy::Compensate, Outcome::Compensated, "bad"),
    ] {
        let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
        chain.never_settles(3);
        let plan = plan(&chain, policy).await;
        let report = run(&journal, &plan, &chain, RunOptions::by("ann")).await;
        assert_eq!((report.outcome, chain.at()), (outcome, at), "{report:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_on_from_is_verified_also_without_verification() {
    let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
    let plan = plan(&chain, FailurePolicy::Halt).await;
    let mut options = RunOptions::by("ann");
    options.settings.verify = false;
    let report = run(&journal, &plan, &chain, options).await;
    assert_eq!(*chain.verified.lock().unwrap(), [1, 2]);
    assert_eq!(outcomes(&report), [StepOutcome::Verified, StepOutcome::Verified, StepOutcome::Applied]);
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_was_begun_is_finished_although_another_component_fails() {
    let (chain, journal, other) = (Chain::new(), Arc::new(MemoryJournal::new()), component("other"));
    let plan = Planner::new()
        .rollback("c", Arc::new(chain.clone()), Target::Previous, &[])
        .rollback("other", Arc::new(other.clone()), Target::Revision("v1".into()), &[])
        .plan()
        .await
        .unwrap();
    other.deploy("v4", &json!({"image": 9, "limit": 9}));
    let components = Components::new().with(Arc::new(chain.clone())).with(Arc::new(other));
    let report = Engine::new(journal).execute(&plan, &components, RunOptions::by("ann")).await.unwrap();
    assert_eq!((report.outcome, chain.at()), (Outcome::Halted, "good"), "{report:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_executed_again_goes_on_and_its_way_back_leads_to_where_it_began() {
    for at in 0..4 {
        let (chain, journal) = (Chain::new(), Arc::new(MemoryJournal::new()));
        let plan = plan(&chain, FailurePolicy::Halt).await;
        chain.set(at);
        let mut options = RunOptions::by("ann");
        options.settings.apply_timeout = Duration::from_secs(30);
        let report = run(&journal, &plan, &chain, options).await;
        assert_eq!((report.outcome, chain.at()), (Outcome::Completed, "good"), "from {at}: {report:#?}");
        let state = RunState::replay(&journal.entries(report.run).await.unwrap()).unwrap();
        let back = state.reversal().unwrap();
        let report = run(&journal, &back, &chain, RunOptions::by("ann")).await;
        assert_eq!((report.outcome, chain.at()), (Outcome::Completed, "bad"), "back, from {at}: {report:#?}");
    }
}
