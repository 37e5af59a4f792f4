//! The states that a cluster remembers of an `InferenceService`: Knative Revisions, or the `ReplicaSets` of its
//! Deployments.

use std::collections::BTreeMap;
use std::time::Duration;

use rollback_core::{Result, Timestamp};
use rollback_k8s::{Cluster, Workload, WorkloadKind, WorkloadOptions, json};
use serde_json::{Value, json};

use crate::mode::Mode;
use crate::spec::COMPONENTS;

/// The label by which KServe marks what belongs to an `InferenceService`.
const OWNER_LABEL: &str = "serving.kserve.io/inferenceservice";
const COMPONENT_LABEL: &str = "component";
const GENERATION_LABEL: &str = "serving.knative.dev/configurationGeneration";

/// Revisions of two components made within this time are of one change.
const ONE_CHANGE: Duration = Duration::from_secs(5);

/// One recorded revision of one component.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) number: i64,
    pub(crate) former: Vec<i64>,
    /// The Knative revision; empty in Standard mode.
    pub(crate) name: String,
    pub(crate) current: bool,
    pub(crate) created: Option<Timestamp>,
    /// Whether it can serve, where it says so.
    pub(crate) ready: Option<bool>,
    /// Its pods, where it says how many.
    pub(crate) pods: Option<i64>,
    pub(crate) template: Value,
}

/// What every component ran at one time.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The numbers of its components' revisions, in the order of the components.
    pub(crate) id: String,
    pub(crate) current: bool,
    pub(crate) records: BTreeMap<&'static str, Record>,
}

impl State {
    pub(crate) fn predictor(&self) -> Option<&Record> {
        self.records.get("predictor")
    }

    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.records.values().filter_map(|record| record.created).max()
    }

    /// Whether a component never became ready.
    pub(crate) fn is_broken(&self) -> bool {
        self.records.values().any(|record| record.ready == Some(false))
    }
}

/// The child of a component in Standard mode.
pub(crate) struct Child {
    pub(crate) workload: Workload,
    pub(crate) object: Value,
}

/// The Deployments of its components in Standard mode.
pub(crate) async fn children(
    cluster: &Cluster,
    namespace: &str,
    object: &Value,
) -> Result<BTreeMap<&'static str, Child>> {
    let name = json::name(object);
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let all = cluster.list(&path, &selector(name), "listing the Deployments of the InferenceService").await?;
    let mut found = BTreeMap::new();
    for component in COMPONENTS {
        let own = json::text(object, &format!("/spec/{component}/name")).filter(|own| !own.is_empty());
        let names = [
            own.map(|own| format!("{name}-{own}-{component}")),
            Some(format!("{name}-{component}")),
            Some(format!("{name}-{component}-default")),
        ];
        let is_meant = |deployment: &&Value, wanted: &str| {
            json::name(deployment) == wanted && json::controller_uid(deployment) == Some(json::uid(object))
        };
        let mut candidates = names.iter().flatten();
        if let Some(deployment) = candidates.find_map(|wanted| all.iter().find(|d| is_meant(d, wanted))) {
            let options = WorkloadOptions::default();
            let kind = WorkloadKind::Deployment;
            let workload = Workload::new(cluster, kind, namespace, json::name(deployment), options)?;
            found.insert(component, Child { workload, object: deployment.clone() });
        }
    }
    Ok(found)
}

fn selector(name: &str) -> String {
    let selector: String =
        form_urlencoded::byte_serialize(format!("{OWNER_LABEL}={name}").as_bytes()).collect();
    format!("labelSelector={selector}")
}

/// All recorded revisions, by component, newest first.
pub(crate) async fn records(
    cluster: &Cluster,
    namespace: &str,
    object: &Value,
    mode: Mode,
) -> Result<BTreeMap<&'static str, Vec<Record>>> {
    match mode {
        Mode::Knative => {
            let path = format!("/apis/serving.knative.dev/v1/namespaces/{namespace}/revisions");
            let what = "listing the Knative revisions of the InferenceService";
            let all = cluster.list(&path, &selector(json::name(object)), what).await?;
            Ok(of_revisions(object, &all))
        }
        Mode::Standard => {
            let mut records = BTreeMap::new();
            for (component, child) in children(cluster, namespace, object).await? {
                let templates = child.workload.templates().await?.into_iter();
                let record = |template: rollback_k8s::backend::RecordedTemplate| Record {
                    number: template.number,
                    former: template.former,
                    name: String::new(),
                    current: template.current,
                    created: template.created,
                    ready: None,
                    pods: template.available,
                    template: template.template,
                };
                records.insert(component, templates.map(record).collect());
            }
            Ok(records)
        }
    }
}

/// A Knative revision as a record; none where it does not say which it is.
pub(crate) fn of_revision(revision: &Value) -> Record {
    let name = json::name(revision);
    let by_name = || name.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    let number = json::label(revision, GENERATION_LABEL).and_then(|text| text.parse().ok()).or_else(by_name);
    let ready = json::condition(revision, "Ready").and_then(|condition| condition["status"].as_str());
    let metadata = &revision["metadata"];
    Record {
        number: number.unwrap_or_default(),
        former: Vec::new(),
        name: name.to_owned(),
        current: false,
        created: json::time(revision, "/metadata/creationTimestamp"),
        ready: match ready {
            Some("True") => Some(true),
            Some("False") => Some(false),
            _ => None,
        },
        pods: json::number(revision, "/status/actualReplicas"),
        template: json!({
            "metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]},
            "spec": revision["spec"],
        }),
    }
}

fn of_revisions(object: &Value, all: &[Value]) -> BTreeMap<&'static str, Vec<Record>> {
    let of = |component: &'static str| {
        let latest = json::text(object, &format!("/status/components/{component}/latestCreatedRevision"));
        let own = all.iter().filter(|revision| json::label(revision, COMPONENT_LABEL) == Some(component));
        let mut records: Vec<_> = own.map(of_revision).collect();
        for record in &mut records {
            record.current = latest == Some(&record.name);
        }
        records.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| a.name.cmp(&b.name)));
        (component, records)
    };
    COMPONENTS.into_iter().map(of).filter(|(_, records)| !records.is_empty()).collect()
}

/// The states that the records amount to, newest first. What belongs together is told by when it was made.
pub(crate) fn states(records: &BTreeMap<&'static str, Vec<Record>>) -> Vec<State> {
    let mut events = Vec::new();
    for (rank, component) in COMPONENTS.into_iter().enumerate() {
        // In the order of their numbers; one that was taken up again is as old as what came before it.
        let mut since = None;
        let mut own: Vec<_> = records.get(component).into_iter().flatten().collect();
        own.sort_by_key(|record| (record.current, record.number));
        for record in own {
            since = since.max(record.created);
            // One that was taken up again is made after all others of its time.
            events.push((since, (record.current && !record.former.is_empty(), rank), component, record));
        }
    }
    events.sort_by_key(|(since, rank, ..)| (*since, *rank));
    let mut states: Vec<State> = Vec::new();
    let mut last: Option<(Timestamp, Vec<&str>)> = None;
    for (since, _, component, record) in events {
        let is_one = match (&last, since) {
            (Some((begun, moved)), Some(since)) => {
                !moved.contains(&component) && since.since(*begun) <= ONE_CHANGE
            }
            _ => false,
        };
        let mut records = states.last().map(|state| state.records.clone()).unwrap_or_default();
        records.insert(component, record.clone());
        if is_one {
            states.pop();
        }
        match (&mut last, since) {
            (Some((_, moved)), _) if is_one => moved.push(component),
            (last, Some(since)) => *last = Some((since, vec![component])),
            (last, None) => *last = None,
        }
        states.push(State { id: id_of(&records), current: false, records });
    }
    // Of what was before the oldest predictor that is remembered, too little is known.
    states.retain(|state| state.predictor().is_some());
    states.reverse();
    if let Some(newest) = states.first_mut() {
        newest.current = newest.records.values().all(|record| record.current);
    }
    states
}

fn id_of(records: &BTreeMap<&'static str, Record>) -> String {
    let numbers =
        COMPONENTS.iter().filter_map(|name| records.get(name)).map(|record| record.number.to_string());
    numbers.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: i64, second: i64, current: bool) -> Record {
        Record {
            number,
            former: Vec::new(),
            name: String::new(),
            current,
            created: Timestamp::from_unix_millis(second * 1000).ok(),
            ready: None,
            pods: None,
            template: Value::Null,
        }
    }

    fn ids(records: &BTreeMap<&'static str, Vec<Record>>) -> Vec<String> {
        states(records).into_iter().map(|state| state.id).collect()
    }

    #[test]
    fn revisions_made_together_are_one_state_and_a_change_of_one_component_is_another() {
        let predictor = vec![record(3, 300, true), record(2, 200, false), record(1, 100, false)];
        assert_eq!(ids(&BTreeMap::from([("predictor", predictor.clone())])), ["3", "2", "1"]);
        let transformer = vec![record(2, 250, true), record(1, 101, false)];
        let all = BTreeMap::from([("predictor", predictor), ("transformer", transformer)]);
        assert_eq!(ids(&all), ["3.2", "2.2", "2.1", "1.1"]);
        assert!(states(&all)[0].current);
    }

    #[test]
    fn one_that_was_taken_up_again_is_in_place() {
        // The ReplicaSet of revision 1 got number 3.
        let records = vec![record(3, 100, true), record(2, 200, false)];
        let all = states(&BTreeMap::from([("predictor", records)]));
        assert_eq!((all[0].id.as_str(), all[0].current), ("3", true));
    }
}
