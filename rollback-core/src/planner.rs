//! From components and targets to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::try_join_all;

use crate::{
    Change, ComponentId, Error, ErrorKind, FailurePolicy, Ledger, Plan, RestartScope, Restartable, Result,
    Rollbackable, Step, StepId, Target, ledger,
};

/// The components that a plan speaks of, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Components(BTreeMap<ComponentId, Arc<dyn Rollbackable>>);

impl Components {
    /// No components.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, in place of one with the same id.
    #[must_use]
    pub fn with(mut self, component: Arc<dyn Rollbackable>) -> Self {
        self.0.insert(component.id().clone(), component);
        self
    }

    /// The component of this id.
    ///
    /// # Errors
    /// `InvalidConfig` when there is none.
    pub fn get(&self, id: &ComponentId) -> Result<&Arc<dyn Rollbackable>> {
        self.0.get(id).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("the plan speaks of {id}, which was not given"))
                .with_component(id)
        })
    }
}

impl FromIterator<Arc<dyn Rollbackable>> for Components {
    fn from_iter<I: IntoIterator<Item = Arc<dyn Rollbackable>>>(components: I) -> Self {
        components.into_iter().fold(Self::new(), Self::with)
    }
}

/// Collects what is wanted, then asks the components what that takes.
///
/// ```
/// use std::sync::Arc;
/// use rollback_core::{Planner, Rollbackable, Target};
///
/// # async fn example(registry: Arc<dyn Rollbackable>, serving: Arc<dyn Rollbackable>)
/// # -> rollback_core::Result<()> {
/// let plan = Planner::new()
///     .rollback("registry", registry, Target::Previous, &[])
///     .rollback("serving", serving, Target::Previous, &["registry"])
///     .plan()
///     .await?;
/// println!("{}", plan.digest());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Planner {
    wanted: Vec<Wanted>,
    on_failure: FailurePolicy,
    ledger: Option<Arc<dyn Ledger>>,
    forced: bool,
}

#[derive(Debug)]
struct Wanted {
    id: String,
    what: What,
    after: Vec<String>,
}

#[derive(Debug)]
enum What {
    Rollback(Arc<dyn Rollbackable>, Target),
    /// To the artifact of what the step of this name returns to.
    Follow(Arc<dyn Rollbackable>, String),
    Restart(Arc<dyn Restartable>, RestartScope),
}

impl Planner {
    /// Nothing wanted yet; a failure halts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what to do once a step has failed.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.on_failure = policy;
        self
    }

    /// Uses what is known of the components: resolves `LastGood` and `AsOf`, finds revisions that a system has
    /// forgotten, skips what a rollback has just left, and refuses what is marked bad. Without a ledger the
    /// components' own histories are all there is.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Whether to return also to what is marked bad, where it is named.
    #[must_use]
    pub fn forced(mut self, forced: bool) -> Self {
        self.forced = forced;
        self
    }

    /// Adds the return of a component to a target, after the named ones.
    #[must_use]
    pub fn rollback(
        self,
        id: impl Into<String>,
        component: Arc<dyn Rollbackable>,
        target: Target,
        after: &[&str],
    ) -> Self {
        self.want(id.into(), What::Rollback(component, target), after)
    }

    /// Adds the return of a component to what another step leads to, after that step and the named ones: it is to
    /// run the [`artifact`](Rollbackable::artifact) of the revision that the `followed` step returns to.
    #[must_use]
    pub fn follow(
        self,
        id: impl Into<String>,
        component: Arc<dyn Rollbackable>,
        followed: &str,
        after: &[&str],
    ) -> Self {
        let after: Vec<&str> = std::iter::once(followed).chain(after.iter().copied()).collect();
        self.want(id.into(), What::Follow(component, followed.to_owned()), &after)
    }

    /// Adds a restart, after the named ones.
    #[must_use]
    pub fn restart(
        self,
        id: impl Into<String>,
        component: Arc<dyn Restartable>,
        scope: RestartScope,
        after: &[&str],
    ) -> Self {
        self.want(id.into(), What::Restart(component, scope), after)
    }

    fn want(mut self, id: String, what: What, after: &[&str]) -> Self {
        self.wanted.push(Wanted { id, what, after: after.iter().map(|&s| s.to_owned()).collect() });
        self
    }

    /// Asks every component, side by side, and orders the answers. Where a component needs several
    /// changes, they become the steps `ID.1`, `ID.2`, and so on, one after the other. A component that follows
    /// another is asked once that one has answered.
    ///
    /// # Errors
    /// What a component answers, or `InvalidPlan` as [`Plan::new`].
    pub async fn plan(self) -> Result<Plan> {
        let mut known: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
        let mut names = BTreeSet::new();
        if let Some(twice) = self.wanted.iter().find(|wanted| !names.insert(wanted.id.as_str())) {
            return Err(Error::new(ErrorKind::InvalidPlan, format!("two steps are named {}", twice.id)));
        }
        while known.len() < self.wanted.len() {
            let is_due = |wanted: &&Wanted| {
                let follows = match &wanted.what {
                    What::Follow(_, followed) => Some(followed),
                    What::Rollback(..) | What::Restart(..) => None,
                };
                !known.contains_key(wanted.id.as_str())
                    && follows.is_none_or(|followed| known.contains_key(followed.as_str()))
            };
            let due: Vec<&Wanted> = self.wanted.iter().filter(is_due).collect();
            if due.is_empty() {
                return Err(self.cannot_follow(&known));
            }
            let answers =
                try_join_all(due.iter().map(async |wanted| self.prepare(wanted, &known).await)).await?;
            known.extend(due.iter().map(|wanted| wanted.id.as_str()).zip(answers));
        }
        let prepared: Vec<(&Wanted, Vec<Change>)> = self
            .wanted
            .iter()
            .filter_map(|wanted| Some((wanted, known.remove(wanted.id.as_str())?)))
            .collect();
        let step_ids: Vec<Vec<StepId>> =
            prepared.iter().map(|(wanted, changes)| step_ids(&wanted.id, changes)).collect();
        let last: BTreeMap<&str, &StepId> = prepared
            .iter()
            .zip(&step_ids)
            .filter_map(|((wanted, _), ids)| Some((wanted.id.as_str(), ids.last()?)))
            .collect();
        let mut steps = Vec::new();
        for ((wanted, changes), ids) in prepared.iter().zip(&step_ids) {
            let mut after: Vec<StepId> = Vec::new();
            for name in &wanted.after {
                let id = last.get(name.as_str()).ok_or_else(|| {
                    let message = format!("{} comes after {name}, which is not in the plan", wanted.id);
                    Error::new(ErrorKind::InvalidPlan, message)
                })?;
                if !after.contains(id) {
                    after.push((*id).clone());
                }
            }
            for (id, change) in ids.iter().zip(changes) {
                let before = std::mem::replace(&mut after, vec![id.clone()]);
                steps.push(Step { id: id.clone(), change: change.clone(), after: before });
            }
        }
        Plan::new(steps, self.on_failure)
    }
}

impl Planner {
    async fn prepare(&self, wanted: &Wanted, known: &BTreeMap<&str, Vec<Change>>) -> Result<Vec<Change>> {
        let resolve = async |component: &Arc<dyn Rollbackable>, target: &Target| {
            ledger::resolve(&**component, target, self.ledger.as_deref(), self.forced).await
        };
        match &wanted.what {
            What::Rollback(component, target) => resolve(component, target).await,
            What::Restart(component, scope) => Ok(vec![component.prepare_restart(scope.clone()).await?]),
            What::Follow(component, followed) => {
                let to = known.get(followed.as_str()).and_then(|changes| changes.last());
                let to = to.map(|change| change.to.id.as_str()).unwrap_or_default();
                let artifact = match self.wanted.iter().find(|other| other.id == *followed).map(|w| &w.what) {
                    Some(What::Rollback(leader, _) | What::Follow(leader, _)) => leader.artifact(to).await?,
                    Some(What::Restart(..)) | None => None,
                };
                let Some(artifact) = artifact else {
                    let message = format!(
                        "{} follows {followed}, whose revision {to} stands for no artifact",
                        wanted.id
                    );
                    return Err(Error::new(ErrorKind::Refused, message)
                        .with_component(component.id())
                        .with_hint("name a revision of each component"));
                };
                resolve(component, &Target::Artifact(artifact)).await
            }
        }
    }

    /// Why nothing more can be prepared.
    fn cannot_follow(&self, known: &BTreeMap<&str, Vec<Change>>) -> Error {
        let waiting: Vec<_> = self
            .wanted
            .iter()
            .filter_map(|wanted| match &wanted.what {
                What::Follow(_, followed) if !known.contains_key(wanted.id.as_str()) => {
                    Some((wanted.id.as_str(), followed.as_str()))
                }
                _ => None,
            })
            .collect();
        let is_wanted = |id: &str| self.wanted.iter().any(|other| other.id == id);
        let unknown = waiting.iter().find(|(_, followed)| !is_wanted(followed));
        let message = unknown.map_or_else(
            || {
                let ids: Vec<_> = waiting.iter().map(|(id, _)| *id).collect();
                format!("these steps follow each other in a circle: {}", ids.join(", "))
            },
            |(id, followed)| format!("{id} follows {followed}, which is not in the plan"),
        );
        Error::new(ErrorKind::InvalidPlan, message)
    }
}

fn step_ids(id: &str, changes: &[Change]) -> Vec<StepId> {
    match changes {
        [_] => vec![StepId::new(id)],
        many => (1..=many.len()).map(|n| StepId::new(format!("{id}.{n}"))).collect(),
    }
}
