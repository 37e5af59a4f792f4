//! From components and targets to a plan.

use std::collections::BTreeMap;
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
    /// changes, they become the steps `ID.1`, `ID.2`, and so on, one after the other.
    ///
    /// # Errors
    /// What a component answers, or `InvalidPlan` as [`Plan::new`].
    pub async fn plan(self) -> Result<Plan> {
        let prepared = try_join_all(self.wanted.iter().map(async |wanted| {
            let changes = match &wanted.what {
                What::Rollback(component, target) => {
                    ledger::resolve(&**component, target, self.ledger.as_deref(), self.forced).await?
                }
                What::Restart(component, scope) => vec![component.prepare_restart(*scope).await?],
            };
            Ok::<_, Error>((wanted, changes))
        }))
        .await?;
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
                after.push((*id).clone());
            }
            for (id, change) in ids.iter().zip(changes) {
                let before = std::mem::replace(&mut after, vec![id.clone()]);
                steps.push(Step { id: id.clone(), change: change.clone(), after: before });
            }
        }
        Plan::new(steps, self.on_failure)
    }
}

fn step_ids(id: &str, changes: &[Change]) -> Vec<StepId> {
    match changes {
        [_] => vec![StepId::new(id)],
        many => (1..=many.len()).map(|n| StepId::new(format!("{id}.{n}"))).collect(),
    }
}
