//! Server-side apply after taking over what earlier tools own.
//!
//! An object that `kubectl apply` made keeps, under plain server-side apply by another manager, every field that the new
//! configuration leaves out: its first manager still owns them. So their ownership moves first, as
//! `kubectl apply --server-side` moves that of client-side apply (`csaupgrade` of client-go), and what the configuration
//! leaves out is really gone afterwards.

use rollback_core::{ComponentId, Error, ErrorKind, Result, StepContext};
use serde_json::{Map, Value, json};

use crate::cluster::MANAGER;
use crate::{Cluster, json as read};

/// The managers that people and pipelines write as. Controllers keep what they own.
const EARLIER: [&str; 11] = [
    "kubectl-client-side-apply",
    "kubectl",
    "kubectl-create",
    "kubectl-replace",
    "kubectl-edit",
    "kubectl-patch",
    "kubectl-set",
    "kubectl-label",
    "kubectl-annotate",
    "kubectl-rollout",
    "before-first-apply",
];

/// How often an object that changes meanwhile is looked at again.
const ATTEMPTS: usize = 5;

impl Cluster {
    /// Makes the object at a path what the configuration says, and nothing of what earlier tools added, by server-side
    /// apply. Answers the object as it is then. What other managers own stays, and a difference with them is a conflict
    /// unless `force`d.
    ///
    /// Idempotent; two writes at most, each announced.
    ///
    /// # Errors
    /// `Conflict` with the fields and the managers that own them, and what the server answers.
    pub async fn apply(
        &self,
        cx: &StepContext,
        component: &ComponentId,
        (path, configuration): (&str, &Value),
        force: bool,
    ) -> Result<Value> {
        let what = format!(
            "applying {} {}",
            read::text(configuration, "/kind").unwrap_or_default(),
            read::name(configuration)
        );
        for _ in 0..ATTEMPTS {
            let live = match self.get(path, &what).await {
                Ok(live) => Some(live),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e.with_component(component)),
            };
            let fields = live.as_ref().and_then(taken_over);
            if let (Some(live), Some(fields)) = (&live, fields) {
                let version = read::text(live, "/metadata/resourceVersion");
                let operations = json!([
                    {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                    {"op": "replace", "path": "/metadata/managedFields", "value": fields},
                ]);
                cx.before_write(&format!("{what}: taking over its fields")).await?;
                match self.json_patch(path, &operations, &what).await {
                    Ok(_) => {}
                    Err(e) if crate::guard::is_rejected(&e) => {
                        cx.write_rejected();
                        continue;
                    }
                    Err(e) => return Err(e.with_component(component)),
                }
            }
            cx.before_write(&what).await?;
            let path = format!("{path}?fieldManager={MANAGER}&force={force}");
            let applied = self.server_side_apply(&path, configuration, &what).await;
            return applied.map_err(|e| e.with_component(component));
        }
        Err(Error::new(ErrorKind::Conflict, format!("{what}: it keeps changing meanwhile"))
            .with_component(component)
            .with_hint("see who writes to it")
            .temporary(None))
    }
}

/// The managed fields of an object with those of earlier tools as ours; none where there are none of theirs.
fn taken_over(object: &Value) -> Option<Value> {
    let entries = read::items(object, "/metadata/managedFields");
    let is_theirs = |entry: &&Value| {
        let manager = entry["manager"].as_str().unwrap_or_default();
        let is_status = entry["subresource"].as_str().is_some_and(|subresource| !subresource.is_empty());
        EARLIER.contains(&manager) && !is_status
    };
    let theirs: Vec<&Value> = entries.iter().filter(is_theirs).collect();
    let is_ours = |entry: &Value| entry["manager"] == MANAGER && entry["operation"] == "Apply";
    let first = entries.iter().find(|entry| is_ours(entry)).or(theirs.first().copied())?;
    if theirs.is_empty() {
        return None;
    }
    let mut ours = first.clone();
    ours["manager"] = json!(MANAGER);
    ours["operation"] = json!("Apply");
    let mut fields = ours["fieldsV1"].as_object().cloned().unwrap_or_default();
    for entry in &theirs {
        union(&mut fields, entry["fieldsV1"].as_object());
    }
    ours["fieldsV1"] = Value::Object(fields);
    let kept = entries.iter().filter(|entry| !is_theirs(entry) && !is_ours(entry)).cloned();
    Some(kept.chain([ours]).collect())
}

/// Sets of fields are tries of JSON objects.
fn union(all: &mut Map<String, Value>, more: Option<&Map<String, Value>>) {
    for (key, value) in more.into_iter().flatten() {
        match (all.get_mut(key), value) {
            (Some(Value::Object(own)), Value::Object(more)) => union(own, Some(more)),
            (Some(_), _) => {}
            (None, value) => drop(all.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsV1": fields})
    }

    #[test]
    fn the_fields_of_earlier_tools_become_ours_and_those_of_controllers_stay() {
        let controller = entry("kube-controller-manager", "Update", &json!({"f:status": {}}));
        let mut scaled = entry("kubectl", "Update", &json!({"f:spec": {"f:replicas": {}}}));
        scaled["subresource"] = json!("scale");
        let object = json!({"metadata": {"managedFields": [
            entry("kubectl-client-side-apply", "Update", &json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}})),
            entry("rollback", "Apply", &json!({"f:spec": {"f:b": {"f:d": {}}}})),
            controller, scaled,
        ]}});
        let fields = json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}});
        assert_eq!(
            taken_over(&object),
            Some(json!([controller, scaled, entry("rollback", "Apply", &fields)]))
        );
        let ours = json!({"metadata": {"managedFields": [entry("rollback", "Apply", &fields), controller]}});
        assert_eq!(taken_over(&ours), None);
    }
}
