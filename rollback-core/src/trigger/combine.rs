//! Triggers of triggers. What is unknown stays unknown unless the known ones decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;

use super::verdict::{Evaluation, Evidence, Verdict};
use super::{Memory, Trigger};
use crate::{ComponentId, Result, Timestamp};

/// Fires where all of them do.
#[derive(Clone, Debug)]
pub struct AllOf(pub Vec<Arc<dyn Trigger>>);

/// Fires where any of them does.
#[derive(Clone, Debug)]
pub struct AnyOf(pub Vec<Arc<dyn Trigger>>);

/// Fires where it holds, and holds where it fires.
#[derive(Clone, Debug)]
pub struct Not(pub Arc<dyn Trigger>);

fn components(triggers: &[Arc<dyn Trigger>]) -> Vec<ComponentId> {
    let all: BTreeSet<_> = triggers.iter().flat_map(|trigger| trigger.components()).collect();
    all.into_iter().collect()
}

/// The verdicts on each component, of the triggers that look at it.
async fn verdicts(
    triggers: &[Arc<dyn Trigger>],
    at: Timestamp,
    memory: &mut Memory,
) -> Result<Vec<(ComponentId, Vec<Verdict>)>> {
    let mut seen = Vec::new();
    for (trigger, memory) in triggers.iter().zip(memory.parts(triggers.len())) {
        seen.push((trigger.components(), trigger.evaluate(at, memory).await?));
    }
    let of = |component: &ComponentId| {
        let looks = seen.iter().filter(|(components, _)| components.contains(component));
        looks.map(|(_, evaluation)| evaluation.of(component)).collect()
    };
    Ok(components(triggers).into_iter().map(|component| (component.clone(), of(&component))).collect())
}

fn unknown(verdicts: &[Verdict]) -> Option<Verdict> {
    verdicts.iter().find(|verdict| matches!(verdict, Verdict::Unknown(_))).cloned()
}

fn fired(verdicts: Vec<Verdict>) -> Vec<Evidence> {
    let evidence = |verdict| match verdict {
        Verdict::Firing(evidence) => Some(evidence),
        Verdict::Hold | Verdict::Unknown(_) => None,
    };
    verdicts.into_iter().filter_map(evidence).collect()
}

/// That of the first, with what the others say; since all of them, or since any of them.
fn merged(all: Vec<Evidence>, since: Option<Timestamp>) -> Verdict {
    let summary = all.iter().map(|one| one.summary.as_str()).collect::<Vec<_>>().join(", and ");
    let instances: BTreeSet<_> = all.iter().flat_map(|one| one.instances.clone()).collect();
    let first = all.into_iter().next().unwrap_or_default();
    Verdict::Firing(Evidence { summary, since, instances: instances.into_iter().collect(), ..first })
}

#[async_trait]
impl Trigger for AllOf {
    fn components(&self) -> Vec<ComponentId> {
        components(&self.0)
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let mut evaluation = Evaluation::default();
        for (component, verdicts) in verdicts(&self.0, at, memory).await? {
            // One that holds decides, whatever the others may be.
            let verdict = if verdicts.contains(&Verdict::Hold) {
                Verdict::Hold
            } else if let Some(unknown) = unknown(&verdicts) {
                unknown
            } else {
                let all = fired(verdicts);
                let since = all.iter().filter_map(|one| one.since).max();
                merged(all, since)
            };
            evaluation.add(&component, verdict);
        }
        Ok(evaluation)
    }
}

#[async_trait]
impl Trigger for AnyOf {
    fn components(&self) -> Vec<ComponentId> {
        components(&self.0)
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let mut evaluation = Evaluation::default();
        for (component, verdicts) in verdicts(&self.0, at, memory).await? {
            let unknown = unknown(&verdicts);
            let all = fired(verdicts);
            let verdict = if all.is_empty() {
                unknown.unwrap_or(Verdict::Hold)
            } else {
                let since = all.iter().filter_map(|one| one.since).min();
                merged(all, since)
            };
            evaluation.add(&component, verdict);
        }
        Ok(evaluation)
    }
}

#[async_trait]
impl Trigger for Not {
    fn components(&self) -> Vec<ComponentId> {
        self.0.components()
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let mut evaluation = Evaluation::default();
        for (component, verdicts) in verdicts(std::slice::from_ref(&self.0), at, memory).await? {
            let verdict = match verdicts.into_iter().next() {
                Some(Verdict::Firing(_)) => Verdict::Hold,
                Some(Verdict::Unknown(why)) => Verdict::Unknown(why),
                Some(Verdict::Hold) | None => {
                    let summary = "what should be seen is not".to_owned();
                    Verdict::Firing(Evidence { summary, since: Some(at), ..Evidence::default() })
                }
            };
            evaluation.add(&component, verdict);
        }
        Ok(evaluation)
    }
}
