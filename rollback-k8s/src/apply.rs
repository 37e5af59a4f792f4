//! Server-side apply after taking over what earlier tools own.
//!
//! An object that `kubectl apply` made keeps, under plain server-side apply by another manager, every field that the new
//! configuration leaves out: its first manager still owns them. So their ownership moves first, as
//! `kubectl apply --server-side` moves that of client-side apply (`csaupgrade` of client-go), and what the configuration
//! leaves out is really gone afterwards.

use rollback_core::{ComponentId, Error, ErrorKind, Result, StepContext};
use serde_json::{Map, Value, json};

use crate::cluster::MANAGER;
use crate::fields::{self, Fields};
use crate::{Cluster, json as read};

/// The managers that people and pipelines write as. Controllers keep what they own.
const EARLIER: [&str; 12] = [
    "kubectl-client-side-apply",
    "kubectl-last-applied",
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

/// A field that somebody else owns and that a configuration would set to another value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldConflict {
    /// Who owns it.
    pub manager: String,
    /// Its path, as the server writes it: `.spec.replicas`, `.spec.ports[name="http"].port`.
    pub field: String,
}

/// The fields for which the server refused to apply a configuration, but for those of earlier tools, which are taken
/// over.
pub fn field_conflicts(error: &Error) -> Vec<FieldConflict> {
    let all = all_conflicts(error).into_iter();
    all.filter(|conflict| !EARLIER.contains(&conflict.manager.as_str())).collect()
}

fn all_conflicts(error: &Error) -> Vec<FieldConflict> {
    let values = |wanted: &'static str| {
        error.context().filter(move |(key, _)| *key == wanted).map(|(_, value)| value.to_owned())
    };
    let both = values("manager").zip(values("field"));
    both.map(|(manager, field)| FieldConflict { manager, field }).collect()
}

impl Cluster {
    /// Makes the object at a path what the configuration says, and nothing of what earlier tools added, by server-side
    /// apply. Answers the object as it is then. What other managers own stays, and a difference with them is a conflict
    /// unless `force`d.
    ///
    /// `configure` gives the configuration for the object as it is now, none where it does not exist, or an error where it
    /// is not what was expected: what is written is written only over what `configure` has seen.
    ///
    /// Idempotent. One write, two where earlier tools own fields, and one more where an older server keeps lists in
    /// another order; each is announced.
    ///
    /// # Errors
    /// `Conflict` with the fields and the managers that own them, and what the server answers.
    pub async fn apply(
        &self,
        cx: &StepContext,
        component: &ComponentId,
        (path, what): (&str, &str),
        force: bool,
        configure: impl Fn(Option<&Value>) -> Result<Value>,
    ) -> Result<Value> {
        for _ in 0..ATTEMPTS {
            let live = match self.get(path, what).await {
                Ok(live) => Some(live),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e.with_component(component)),
            };
            let mut configuration = configure(live.as_ref()).map_err(|e| e.with_component(component))?;
            let mut version = live.as_ref().and_then(|live| read::text(live, "/metadata/resourceVersion"));
            let taken;
            let fields = live.as_ref().and_then(taken_over);
            if let (Some(live), Some(fields)) = (&live, fields) {
                let operations = json!([
                    {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
                    {"op": "replace", "path": "/metadata/managedFields", "value": fields},
                ]);
                cx.before_write(&format!("{what}: taking over its fields")).await?;
                match self.json_patch(path, &operations, what).await {
                    Ok(object) => {
                        taken = object;
                        version = read::text(&taken, "/metadata/resourceVersion");
                    }
                    Err(e) if crate::guard::is_rejected(&e) => {
                        cx.write_rejected();
                        continue;
                    }
                    Err(e) => return Err(e.with_component(component)),
                }
            }
            if let Some(version) = version {
                configuration["metadata"]["resourceVersion"] = json!(version);
            }
            cx.before_write(what).await?;
            let applied = match self.apply_plainly((path, &configuration), force, "").await {
                Err(e) if e.kind() == ErrorKind::Conflict => {
                    cx.write_rejected();
                    if field_conflicts(&e).is_empty() {
                        // It was written meanwhile, if only its status.
                        continue;
                    }
                    return Err(e.with_component(component));
                }
                applied => applied.map_err(|e| e.with_component(component))?,
            };
            let ordered = self.put_in_order(cx, (path, &configuration), applied).await;
            if let Some(done) = ordered.map_err(|e| e.with_component(component))? {
                return Ok(done);
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("{what}: it keeps changing meanwhile"))
            .with_component(component)
            .with_hint("see who writes to it")
            .temporary(None))
    }

    /// One more write where the server does not keep the order of a configuration; none when it failed on a change in
    /// between.
    async fn put_in_order(
        &self,
        cx: &StepContext,
        (path, configuration): (&str, &Value),
        applied: Value,
    ) -> Result<Option<Value>> {
        let mut ordered = applied.clone();
        fields::put_in_order(&mut ordered, configuration);
        // Elsewhere than in the spec no order means anything.
        if ordered["spec"] == applied["spec"] {
            return Ok(Some(applied));
        }
        // Status updates do not move the generation.
        let operations = json!([
            {"op": "test", "path": "/metadata/generation", "value": read::generation(&applied)},
            {"op": "replace", "path": "/spec", "value": ordered["spec"]},
        ]);
        let what = format!("{}: putting its lists in order", what(configuration));
        cx.before_write(&what).await?;
        match self.json_patch(path, &operations, &what).await {
            // Somebody was quicker.
            Err(e) if crate::guard::is_rejected(&e) => {
                cx.write_rejected();
                Ok(None)
            }
            done => done.map(Some),
        }
    }

    /// What [`apply`](Self::apply) would make of an object that is `live`, by the server's own word; nothing is written.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), whatever the server refuses.
    pub async fn dry_apply(
        &self,
        (path, configuration): (&str, &Value),
        live: Option<&Value>,
        force: bool,
    ) -> Result<Value> {
        let in_order = |mut result: Value| {
            if let (Some(spec), Some(wanted)) = (result.get_mut("spec"), configuration.get("spec")) {
                fields::put_in_order(spec, wanted);
            }
            result
        };
        let mut rejected = None;
        for _ in 0..ATTEMPTS {
            let mut applied = self.apply_plainly((path, configuration), force, "&dryRun=All").await;
            if applied.as_ref().is_err_and(|e| !all_conflicts(e).is_empty() && field_conflicts(e).is_empty())
            {
                // What earlier tools own is taken over.
                applied = self.apply_plainly((path, configuration), true, "&dryRun=All").await;
            }
            let is_mixed = live.is_some_and(|live| !earlier_fields(live).is_empty());
            let applied = match applied {
                // What is left of them beside ours may be what is wrong.
                Err(e) if e.kind() == ErrorKind::Refused && is_mixed => {
                    match self.dry_replace((path, configuration)).await {
                        // Its controller wrote to it meanwhile.
                        Err(e) if e.kind() == ErrorKind::Conflict => {
                            rejected = Some(e);
                            continue;
                        }
                        done => return done.map(in_order),
                    }
                }
                applied => applied?,
            };
            // Plain server-side apply leaves what they own; the server checks the object without that, too.
            let Some(theirs) = live.map(earlier_fields).filter(|fields| !fields.is_empty()) else {
                return Ok(in_order(applied));
            };
            let others = read::items(&applied, "/metadata/managedFields").iter();
            let others = others.filter(|entry| !is_earlier(entry));
            let kept: Vec<&Fields> = others.filter_map(|entry| entry["fieldsV1"].as_object()).collect();
            let mut result = applied.clone();
            fields::remove(&mut result, &theirs, &kept);
            if result == applied {
                return Ok(in_order(result));
            }
            let path = format!("{path}?dryRun=All&fieldManager={MANAGER}");
            match self.put(&path, &result, &what(configuration)).await {
                // Its controller wrote to it meanwhile.
                Err(e) if e.kind() == ErrorKind::Conflict => rejected = Some(e),
                done => return done.map(in_order),
            }
        }
        Err(rejected
            .unwrap_or_else(|| Error::new(ErrorKind::Unexpected, "it was never tried"))
            .temporary(None))
    }

    /// What the object would become without what earlier tools applied and the configuration leaves out, put together here
    /// and checked by the server.
    async fn dry_replace(&self, (path, configuration): (&str, &Value)) -> Result<Value> {
        let what = what(configuration);
        let live = self.get(path, &what).await?;
        let mut result = live.clone();
        let mut gone = earlier_fields(&live);
        let mut others = Vec::new();
        for entry in read::items(&live, "/metadata/managedFields").iter().filter(|entry| !is_earlier(entry)) {
            let Some(owned) = entry["fieldsV1"].as_object() else { continue };
            if is_ours(entry) {
                fields::union(&mut gone, owned);
            } else {
                others.push(owned);
            }
        }
        fields::remove_stale(&mut result, &gone, Some(configuration), &others);
        fields::overlay(&mut result, configuration);
        self.put(&format!("{path}?dryRun=All&fieldManager={MANAGER}"), &result, &what).await
    }

    /// Server-side apply as ours, of an object that nobody else writes.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn apply_own(&self, path: &str, configuration: &Value) -> Result<Value> {
        self.apply_plainly((path, configuration), true, "").await
    }

    async fn apply_plainly(
        &self,
        (path, configuration): (&str, &Value),
        force: bool,
        more: &str,
    ) -> Result<Value> {
        let path = format!("{path}?fieldManager={MANAGER}&force={force}{more}");
        self.server_side_apply(&path, configuration, &what(configuration)).await
    }
}

fn what(configuration: &Value) -> String {
    format!(
        "applying {} {}",
        read::text(configuration, "/kind").unwrap_or_default(),
        read::name(configuration)
    )
}

/// What of an object is there because earlier tools or we applied it: what a configuration that brings it back holds.
pub fn applied_part(object: &Value) -> Value {
    let mut owned = earlier_fields(object);
    for entry in read::items(object, "/metadata/managedFields").iter().filter(|entry| is_ours(entry)) {
        fields::union(&mut owned, entry["fieldsV1"].as_object().unwrap_or(&Map::new()));
    }
    let mut part = if owned.is_empty() { json!({}) } else { fields::extract(object, &owned) };
    for key in ["apiVersion", "kind"] {
        part[key] = object[key].clone();
    }
    for key in ["name", "namespace"] {
        if let Some(value) = object["metadata"].get(key) {
            part["metadata"][key] = value.clone();
        }
    }
    part
}

/// Who owns the field at a path of names, other than earlier tools and us.
pub fn foreign_owner<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    let entries = read::items(object, "/metadata/managedFields").iter();
    let mut entries = entries.filter(|entry| !is_earlier(entry) && !is_ours(entry));
    let owns = |entry: &&Value| {
        let names = path.iter().map(|name| format!("f:{name}"));
        names.into_iter().try_fold(&entry["fieldsV1"], |fields, name| fields.get(&name)).is_some()
    };
    entries.find(owns)?["manager"].as_str()
}

fn earlier_fields(object: &Value) -> Fields {
    let mut all = Fields::new();
    for entry in read::items(object, "/metadata/managedFields").iter().filter(|entry| is_earlier(entry)) {
        fields::union(&mut all, entry["fieldsV1"].as_object().unwrap_or(&Map::new()));
    }
    all
}

/// Whether an entry is of a tool that people use, and not of a subresource such as `status` or `scale`.
fn is_earlier(entry: &Value) -> bool {
    let manager = entry["manager"].as_str().unwrap_or_default();
    let is_status = entry["subresource"].as_str().is_some_and(|subresource| !subresource.is_empty());
    EARLIER.contains(&manager) && !is_status
}

fn is_ours(entry: &Value) -> bool {
    entry["manager"] == MANAGER && entry["operation"] == "Apply"
}

/// The managed fields of an object with those of earlier tools as ours; none where there are none of theirs.
fn taken_over(object: &Value) -> Option<Value> {
    let entries = read::items(object, "/metadata/managedFields");
    let theirs: Vec<&Value> = entries.iter().filter(|entry| is_earlier(entry)).collect();
    let first = entries.iter().find(|entry| is_ours(entry)).or(theirs.first().copied())?;
    if theirs.is_empty() {
        return None;
    }
    let mut ours = first.clone();
    ours["manager"] = json!(MANAGER);
    ours["operation"] = json!("Apply");
    let mut all = ours["fieldsV1"].as_object().cloned().unwrap_or_default();
    for entry in &theirs {
        fields::union(&mut all, entry["fieldsV1"].as_object().unwrap_or(&Map::new()));
    }
    ours["fieldsV1"] = Value::Object(all);
    let kept = entries.iter().filter(|entry| !is_earlier(entry) && !is_ours(entry)).cloned();
    Some(kept.chain([ours]).collect())
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
