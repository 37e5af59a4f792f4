//! The revisions that a cluster keeps of a workload, counted exactly as kubectl counts them
//! (`polymorphichelpers/history.go`, `rollback.go`, `deployment/util/deployment.go`).

use std::collections::BTreeMap;

use rollback_core::{Fingerprint, Timestamp};
use serde_json::Value;

use super::WorkloadKind;
use super::template::{self, exact, identity, restorable};
use crate::json;

const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// One recorded revision.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) number: i64,
    /// The numbers that it had before a rollback gave it a new one.
    pub(crate) former: Vec<i64>,
    pub(crate) name: String,
    pub(crate) template: Value,
    pub(crate) identity: Fingerprint,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) created: Option<Timestamp>,
    /// The version of the object that records it.
    version: Option<u64>,
    /// The value by which its pods name it.
    pub(crate) hash: Option<String>,
    /// Pods that it should have and that are available, where the record itself says so.
    pub(crate) replicas: Option<(i64, i64)>,
}

/// The recorded revisions, the highest number first.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) records: Vec<Record>,
    /// The index of the record of the live template, once its controller has made one.
    pub(crate) current: Option<usize>,
}

impl History {
    /// From the live object and the `ReplicaSets` or `ControllerRevisions` that its selector finds.
    pub(crate) fn new(kind: WorkloadKind, object: &Value, found: &[Value]) -> Self {
        let owned = found.iter().filter(|item| json::controller_uid(item) == Some(json::uid(object)));
        let mut records: Vec<Record> = owned.filter_map(|item| record(kind, item)).collect();
        let live = exact(&restorable(object["spec"]["template"].clone()));
        let equal = |record: &&Record| exact(&record.template) == live;
        // Of several equal ReplicaSets the controller goes on with the oldest; equal
        // ControllerRevisions are told apart by their number.
        let current = match kind {
            WorkloadKind::Deployment => records
                .iter()
                .filter(equal)
                .min_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)))
                .map(|record| record.name.clone()),
            WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
                records.iter().filter(equal).max_by_key(|r| r.number).map(|record| record.name.clone())
            }
        };
        // A controller whose cache is behind gives one number twice. kubectl then takes what the server lists
        // later of ReplicaSets, and earlier of ControllerRevisions, for the older.
        records.sort_by(|a, b| {
            let by_name = a.name.cmp(&b.name);
            let by_name = if kind == WorkloadKind::Deployment { by_name } else { by_name.reverse() };
            b.number.cmp(&a.number).then(by_name)
        });
        let current = current.and_then(|name| records.iter().position(|record| record.name == name));
        Self { records, current }
    }

    pub(crate) fn current(&self) -> Option<&Record> {
        self.records.get(self.current?)
    }

    /// The revision with this number, or the one that had it before it was renumbered.
    pub(crate) fn by_number(&self, number: i64) -> Option<&Record> {
        self.records
            .iter()
            .find(|record| record.number == number)
            .or_else(|| self.records.iter().find(|record| record.former.contains(&number)))
    }

    /// What kubectl's undo without a number returns to: the second highest number.
    pub(crate) fn second_highest(&self) -> Option<&Record> {
        self.records.get(1)
    }

    /// Since when a record is in place: when it was made, unless it was renumbered since.
    pub(crate) fn since(&self, record: &Record) -> Option<Timestamp> {
        let was_renumbered = !record.former.is_empty()
            || self
                .records
                .iter()
                .any(|other| other.number < record.number && other.created > record.created);
        record.created.filter(|_| !was_renumbered)
    }

    /// When a record last ran, so far as the records tell.
    pub(crate) fn last_ran(&self, record: &Record) -> LastRan {
        let newer = || self.records.iter().filter(|other| other.number > record.number);
        LastRan {
            // One made before this one is newer by a rollback, which is not when it was made.
            until: newer().filter_map(|newer| newer.created).filter(|at| Some(*at) > record.created).min(),
            version: match record.replicas {
                // A ReplicaSet is written last when its pods go.
                Some(_) => record.version,
                // A ControllerRevision is written when it is made: the next one tells.
                None => newer().filter_map(|record| record.version).min(),
            },
        }
    }
}

fn record(kind: WorkloadKind, item: &Value) -> Option<Record> {
    let annotations = json::annotations(item);
    let (number, former, template) = match kind {
        WorkloadKind::Deployment => {
            let number = annotations.get(REVISION).map_or(Ok(0), |text| text.parse()).ok()?;
            let former = annotations.get(REVISION_HISTORY).map(String::as_str).unwrap_or_default();
            let former = former.split(',').filter_map(|text| text.trim().parse().ok()).collect();
            (number, former, restorable(item["spec"]["template"].clone()))
        }
        WorkloadKind::StatefulSet | WorkloadKind::DaemonSet => {
            let mut template = item.pointer("/data/spec/template")?.clone();
            template.as_object_mut()?.remove("$patch");
            (json::number(item, "/revision")?, Vec::new(), template)
        }
    };
    let count = |pointer| json::number(item, pointer).unwrap_or_default();
    Some(Record {
        number,
        former,
        name: json::name(item).to_owned(),
        identity: identity(&template),
        template,
        created: json::time(item, "/metadata/creationTimestamp"),
        version: version(item),
        hash: match kind {
            // A StatefulSet's pods carry the name of the ControllerRevision.
            WorkloadKind::StatefulSet => Some(json::name(item).to_owned()),
            _ => json::label(item, kind.hash_label()).map(str::to_owned),
        },
        replicas: (kind == WorkloadKind::Deployment)
            .then(|| (count("/spec/replicas"), count("/status/availableReplicas"))),
        annotations,
    })
}

impl Record {
    pub(crate) fn cause(&self) -> Option<&str> {
        self.annotations.get(CHANGE_CAUSE).map(String::as_str).filter(|cause| !cause.is_empty())
    }

    pub(crate) fn summary(&self) -> String {
        template::images(&self.template)
    }
}

/// When a revision last ran: not later than this time, and than this version of any object. Versions of
/// different kinds are comparable where they share a store, as built-in kinds do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastRan {
    until: Option<Timestamp>,
    version: Option<u64>,
}

impl LastRan {
    /// Whether an object was written since. Its `managedFields` alone do not tell: their time stays when
    /// the same manager sets the same fields to other values.
    pub(crate) fn is_before(self, object: &Value) -> bool {
        let written = json::items(object, "/metadata/managedFields").iter();
        let written = written.filter_map(|fields| json::time(fields, "/time")).max();
        let written = written.or_else(|| json::time(object, "/metadata/creationTimestamp"));
        written.zip(self.until).is_some_and(|(written, until)| written > until)
            || version(object).zip(self.version).is_some_and(|(written, version)| written > version)
    }
}

fn version(object: &Value) -> Option<u64> {
    json::text(object, "/metadata/resourceVersion")?.parse().ok()
}

/// A label selector as the query parameter of a list, encoded.
pub(crate) fn selector_query(object: &Value) -> String {
    let selector = &object["spec"]["selector"];
    let mut terms: Vec<String> = json::strings(selector, "/matchLabels")
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    for expression in json::items(selector, "/matchExpressions") {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<_> = json::items(expression, "/values").iter().filter_map(Value::as_str).collect();
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    format!("labelSelector={}", crate::encode(&terms.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn replica_set(name: &str, revision: &str, image: &str, created: &str) -> Value {
        json!({
            "metadata": {
                "name": name, "creationTimestamp": created,
                "annotations": {REVISION: revision},
                "labels": {"pod-template-hash": name},
                "ownerReferences": [{"controller": true, "uid": "u"}],
            },
            "spec": {"template": {
                "metadata": {"labels": {"app": "web", "pod-template-hash": name}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            }},
        })
    }

    fn deployment(image: &str) -> Value {
        json!({
            "metadata": {"name": "web", "uid": "u"},
            "spec": {"template": {
                "metadata": {"labels": {"app": "web"}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "web", "image": image}]},
            }},
        })
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let found = [
            replica_set("a", "9", "web:9", "2026-01-01T00:00:00Z"),
            replica_set("b", "10", "web:10", "2026-01-02T00:00:00Z"),
        ];
        let history = History::new(WorkloadKind::Deployment, &deployment("web:10"), &found);
        assert_eq!(history.current().unwrap().number, 10);
        assert_eq!(history.second_highest().unwrap().number, 9);
    }

    #[test]
    fn a_renumbered_revision_is_found_by_its_former_number() {
        let mut renumbered = replica_set("a", "4", "web:1", "2026-01-01T00:00:00Z");
        renumbered["metadata"]["annotations"][REVISION_HISTORY] = json!("1,3");
        let found = [renumbered, replica_set("b", "2", "web:2", "2026-01-02T00:00:00Z")];
        let history = History::new(WorkloadKind::Deployment, &deployment("web:1"), &found);
        assert_eq!(history.by_number(1).unwrap().number, 4);
        assert_eq!(history.by_number(2).unwrap().number, 2);
        assert!(history.by_number(5).is_none());
    }

    #[test]
    fn of_equal_replica_sets_the_oldest_is_current_and_strangers_do_not_count() {
        let mut stranger = replica_set("0", "7", "web:7", "2025-01-01T00:00:00Z");
        stranger["metadata"]["ownerReferences"][0]["uid"] = json!("other");
        let found = [
            stranger,
            replica_set("b", "2", "web:1", "2026-01-02T00:00:00Z"),
            replica_set("a", "1", "web:1", "2026-01-01T00:00:00Z"),
        ];
        let history = History::new(WorkloadKind::Deployment, &deployment("web:1"), &found);
        assert_eq!(history.records.len(), 2);
        assert_eq!(history.current().unwrap().name, "a");
    }

    #[test]
    fn a_missing_number_is_zero_and_an_unreadable_one_is_ignored() {
        let mut missing = replica_set("a", "x", "web:1", "2026-01-01T00:00:00Z");
        missing["metadata"]["annotations"] = json!({});
        let found = [missing, replica_set("b", "many", "web:2", "2026-01-02T00:00:00Z")];
        let history = History::new(WorkloadKind::Deployment, &deployment("web:1"), &found);
        assert_eq!(history.records.iter().map(|r| r.number).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_selector_becomes_a_query() {
        let object = json!({"spec": {"selector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "canary", "operator": "DoesNotExist"},
            ],
        }}});
        assert_eq!(selector_query(&object), "labelSelector=app%3Dweb%2Ctier+in+%28a%2Cb%29%2C%21canary");
    }
}
