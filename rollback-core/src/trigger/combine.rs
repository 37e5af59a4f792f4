//! Triggers of triggers. What is unknown stays unknown unless the known ones decide.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::verdict::{Evaluation, Evidence, Verdict};
use super::window::{Phase, Seen, Window};
use super::{Memory, Point, Trigger};
use crate::{ComponentId, Error, ErrorKind, Result, Timestamp};

/// Fires where all of them do. All look at the same components.
#[derive(Clone, Debug)]
pub struct AllOf(pub Vec<Arc<dyn Trigger>>);

/// Fires where any of them does.
#[derive(Clone, Debug)]
pub struct AnyOf(pub Vec<Arc<dyn Trigger>>);

/// Fires where it is seen to be well, and holds where it fires. Where it holds without being seen to be well, nothing is
/// known.
#[derive(Clone, Debug)]
pub struct Not(pub Arc<dyn Trigger>);

fn components(triggers: &[Arc<dyn Trigger>]) -> Vec<ComponentId> {
    let all: BTreeSet<_> = triggers.iter().flat_map(|trigger| trigger.components()).collect();
    all.into_iter().collect()
}

/// As often as the one that is evaluated most often.
fn interval(triggers: &[Arc<dyn Trigger>]) -> Duration {
    triggers.iter().map(|trigger| trigger.interval()).min().unwrap_or_default()
}

/// As long as the one that has to look longest.
fn window(triggers: &[Arc<dyn Trigger>]) -> Duration {
    triggers.iter().map(|trigger| trigger.window()).max().unwrap_or_default()
}

/// That of the first that has one.
async fn chart(
    triggers: &[Arc<dyn Trigger>],
    component: &ComponentId,
    from: Timestamp,
    to: Timestamp,
) -> Vec<Point> {
    for trigger in triggers {
        let points = trigger.chart(component, from, to).await;
        if !points.is_empty() {
            return points;
        }
    }
    Vec::new()
}

/// What one trigger says of one component.
struct Said {
    verdict: Verdict,
    /// Why it holds without being seen to be well.
    unproven: Option<String>,
}

/// What is said of each component by the triggers that look at it.
async fn said(
    triggers: &[Arc<dyn Trigger>],
    at: Timestamp,
    memory: &mut Memory,
) -> Result<Vec<(ComponentId, Vec<Said>)>> {
    let mut seen = Vec::new();
    for (trigger, memory) in triggers.iter().zip(memory.parts(triggers.len())) {
        seen.push((trigger.components(), trigger.evaluate(at, memory).await?));
    }
    let of = |component: &ComponentId| {
        let looks = seen.iter().filter(|(components, _)| components.contains(component));
        let said = |(_, evaluation): &(Vec<ComponentId>, Evaluation)| Said {
            verdict: evaluation.of(component),
            unproven: evaluation.unproven.get(component).cloned(),
        };
        looks.map(said).collect()
    };
    Ok(components(triggers).into_iter().map(|component| (component.clone(), of(&component))).collect())
}

fn unknown(all: &[Said]) -> Option<Verdict> {
    all.iter().map(|said| &said.verdict).find(|verdict| matches!(verdict, Verdict::Unknown(_))).cloned()
}

fn fired(all: Vec<Said>) -> Vec<Evidence> {
    let evidence = |said: Said| match said.verdict {
        Verdict::Firing(evidence) => Some(evidence),
        Verdict::Hold | Verdict::Unknown(_) => None,
    };
    all.into_iter().filter_map(evidence).collect()
}

/// That of the first, with what the others say; since all of them, or since any of them.
fn merged(all: Vec<Evidence>, since: Option<Timestamp>) -> Verdict {
    let summary = all.iter().map(|one| one.summary.as_str()).collect::<Vec<_>>().join(", and ");
    let instances: BTreeSet<_> = all.iter().flat_map(|one| one.instances.clone()).collect();
    let counts = |count: fn(&Evidence) -> usize| all.iter().map(count).max().unwrap_or_default();
    let (asked, failing) = (counts(|one| one.asked), counts(|one| one.failing));
    let first = all.into_iter().next().unwrap_or_default();
    let instances = instances.into_iter().collect();
    Verdict::Firing(Evidence { summary, since, asked, failing, instances, ..first })
}

#[async_trait]
impl Trigger for AllOf {
    fn components(&self) -> Vec<ComponentId> {
        components(&self.0)
    }

    fn interval(&self) -> Duration {
        interval(&self.0)
    }

    fn window(&self) -> Duration {
        window(&self.0)
    }

    async fn chart(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        chart(&self.0, component, from, to).await
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let all: BTreeSet<_> = self.components().into_iter().collect();
        if self.0.iter().any(|trigger| trigger.components().into_iter().collect::<BTreeSet<_>>() != all) {
            // One that does not look at a component would be left out there.
            let message = "triggers that are to fire all together look at different components";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        let mut evaluation = Evaluation::default();
        for (component, all) in said(&self.0, at, memory).await? {
            let holds = |said: &&Said| said.verdict == Verdict::Hold;
            // One that holds decides, whatever the others may be.
            if all.iter().filter(holds).any(|said| said.unproven.is_none()) {
                evaluation.add(&component, Verdict::Hold);
            } else if let Some(why) = all.iter().find_map(|said| said.unproven.clone()) {
                evaluation.add_unproven(&component, why);
            } else if let Some(unknown) = unknown(&all) {
                evaluation.add(&component, unknown);
            } else {
                let all = fired(all);
                let since = all.iter().filter_map(|one| one.since).max();
                evaluation.add(&component, merged(all, since));
            }
        }
        Ok(evaluation)
    }
}

#[async_trait]
impl Trigger for AnyOf {
    fn components(&self) -> Vec<ComponentId> {
        components(&self.0)
    }

    fn interval(&self) -> Duration {
        interval(&self.0)
    }

    fn window(&self) -> Duration {
        window(&self.0)
    }

    async fn chart(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        chart(&self.0, component, from, to).await
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let mut evaluation = Evaluation::default();
        for (component, all) in said(&self.0, at, memory).await? {
            let (unknown, unproven) = (unknown(&all), all.iter().find_map(|said| said.unproven.clone()));
            let all = fired(all);
            if !all.is_empty() {
                let since = all.iter().filter_map(|one| one.since).min();
                evaluation.add(&component, merged(all, since));
            } else if let Some(unknown) = unknown {
                evaluation.add(&component, unknown);
            } else if let Some(why) = unproven {
                evaluation.add_unproven(&component, why);
            } else {
                evaluation.add(&component, Verdict::Hold);
            }
        }
        Ok(evaluation)
    }
}

#[async_trait]
impl Trigger for Not {
    fn components(&self) -> Vec<ComponentId> {
        self.0.components()
    }

    fn interval(&self) -> Duration {
        self.0.interval()
    }

    fn window(&self) -> Duration {
        self.0.window()
    }

    async fn chart(&self, component: &ComponentId, from: Timestamp, to: Timestamp) -> Vec<Point> {
        self.0.chart(component, from, to).await
    }

    async fn evaluate(&self, at: Timestamp, memory: &mut Memory) -> Result<Evaluation> {
        let mut evaluation = Evaluation::default();
        for (component, all) in said(std::slice::from_ref(&self.0), at, memory).await? {
            let (seen, why) = match all.into_iter().next() {
                Some(Said { verdict: Verdict::Firing(_), .. }) => (Seen::Good, None),
                Some(Said { verdict: Verdict::Unknown(why), .. } | Said { unproven: Some(why), .. }) => {
                    (Seen::Unknown, Some(why))
                }
                Some(Said { verdict: Verdict::Hold, unproven: None }) | None => (Seen::Breach, None),
            };
            let progress = memory.progress(&component.to_string());
            let verdict = match (Window::InARow(1).observe(self.interval(), progress, at, seen), why) {
                (_, Some(why)) => Verdict::Unknown(why),
                (Phase::Firing(since), None) => {
                    let summary = "what should be seen is not".to_owned();
                    Verdict::Firing(Evidence { summary, since: Some(since), ..Evidence::default() })
                }
                _ => Verdict::Hold,
            };
            evaluation.add(&component, verdict);
        }
        Ok(evaluation)
    }
}
