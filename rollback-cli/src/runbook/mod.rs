//! The runbook: components and plans by their names, policies, and who is told.

mod notify;
mod policies;
mod schema;
mod units;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rollback_core::{Error, ErrorKind, FailurePolicy, Fingerprint};
use rollback_k8s::WorkloadKind;
use rollback_mlflow::Stage;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exit::Failure;
use crate::naming::{self, Component, Kind, Pinned};
use crate::parts;
use crate::place::{without_secret, without_user};

use notify::{IncidentsEntry, NotifyEntry, SupervisorEntry};
use policies::PolicyEntry;
use schema::Places;

pub(crate) use policies::Named;
pub(crate) use schema::{nearest, schema};
pub(crate) use units::time;

/// The file that is read where none is named.
pub(crate) const DEFAULT: &str = "rollback.yaml";

/// Components and plans, checked.
#[derive(Debug)]
pub(crate) struct Runbook {
    path: PathBuf,
    components: Vec<Component>,
    plans: Vec<PlanEntry>,
    journal: Option<JournalEntry>,
    irreversible: Vec<Irreversible>,
    policies: Vec<PolicyEntry>,
    notify: Vec<NotifyEntry>,
    incidents: Option<IncidentsEntry>,
    supervisor: SupervisorEntry,
    name: Option<String>,
    text: String,
}

/// What a plan of the runbook does.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) on_failure: Option<FailurePolicy>,
    pub(crate) steps: Vec<PlannedStep>,
}

/// One step of it.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStep {
    pub(crate) id: String,
    pub(crate) component: Component,
    pub(crate) does: Does,
    pub(crate) after: Vec<String>,
}

/// What a step does with its component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Return,
    /// It goes to what the step of this name leads to.
    Follow(String),
    Restart,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    components: Vec<Entry>,
    #[serde(default)]
    plans: Vec<PlanEntry>,
    #[serde(default)]
    irreversible: Vec<Irreversible>,
    #[serde(default)]
    policies: Vec<PolicyEntry>,
    #[serde(default)]
    notify: Vec<NotifyEntry>,
    #[serde(default)]
    incidents: Option<IncidentsEntry>,
    #[serde(default)]
    supervisor: SupervisorEntry,
    #[serde(default)]
    journal: Option<JournalEntry>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    deployment: Option<Object>,
    stateful_set: Option<Object>,
    daemon_set: Option<Object>,
    inference_service: Option<Object>,
    mlflow: Option<Mlflow>,
    environment: Option<Environment>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Environment {
    /// A folder, from that of the runbook, or a URL.
    repository: Option<String>,
    path: String,
    tags: Option<String>,
    #[serde(default)]
    prune: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Irreversible {
    component: String,
    #[serde(default)]
    between: Vec<String>,
    reason: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Object {
    namespace: Option<String>,
    name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mlflow {
    tracking_uri: Option<String>,
    model: String,
    stage: Option<String>,
    alias: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlanEntry {
    name: String,
    on_failure: Option<OnFailure>,
    steps: Vec<StepEntry>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
enum OnFailure {
    Halt,
    Compensate,
    Continue,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepEntry {
    component: Option<String>,
    restart: Option<String>,
    #[serde(default)]
    after: Vec<String>,
    follows: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JournalEntry {
    sqlite: Option<PathBuf>,
    kubernetes: Option<InCluster>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InCluster {
    namespace: Option<String>,
}

impl StepEntry {
    /// The name of the step, by which others come after it.
    fn id(&self) -> Option<&str> {
        self.component.as_deref().or(self.restart.as_deref())
    }
}

impl Runbook {
    /// Reads a file.
    ///
    /// # Errors
    /// Set-up, with everything that is wrong.
    pub(crate) fn read(path: &Path) -> std::result::Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| {
            let message = format!("cannot read the runbook {shown}");
            Failure::setup(Error::new(ErrorKind::InvalidConfig, message).with_source(e))
        })?;
        Self::parse(&text, path).map_err(|mut faults| {
            faults.insert(0, format!("the runbook {shown} cannot be used"));
            Failure::setup(Error::new(ErrorKind::InvalidConfig, faults.join("; "))).in_lines(faults)
        })
    }

    fn parse(text: &str, path: &Path) -> std::result::Result<Self, Vec<String>> {
        // What is no YAML says where, by line and column.
        let document: serde_json::Value = serde_yaml_ng::from_str(text).map_err(|e| vec![e.to_string()])?;
        if document.is_null() {
            return Err(vec!["it is empty: it begins with apiVersion: rollback.dev/v1alpha1".into()]);
        }
        let shape = schema::faults(&document);
        let (places, twice) = (Places::of(text), schema::twice(text));
        if shape.is_empty() && twice.is_none() {
            let file: File = serde_yaml_ng::from_str(text).map_err(|e| vec![e.to_string()])?;
            return Self::of(file, text, path)
                .map_err(|faults| faults.iter().map(|fault| places.told(fault)).collect());
        }
        let mut faults: Vec<_> = twice.into_iter().collect();
        faults.extend(shape.iter().map(|(pointer, fault)| places.with(pointer, fault)));
        // What else is wrong shows without the fields that cannot be read, where the rest makes sense by itself.
        let rest = serde_yaml_ng::to_string(&schema::without(document, &shape)).unwrap_or_default();
        if let Ok(file) = serde_yaml_ng::from_str::<File>(&rest)
            && let Err(more) = Self::of(file, text, path)
        {
            // Of what lacks a field all the rest may be wrong for that.
            let touched: Vec<_> = shape.iter().map(|(pointer, _)| schema::item(pointer)).collect();
            let own = more.iter().filter(|fault| !touched.iter().any(|item| fault.starts_with(item)));
            faults.extend(own.map(|fault| places.told(fault)));
        }
        Err(faults)
    }

    fn of(file: File, text: &str, path: &Path) -> std::result::Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        if (file.api_version.as_str(), file.kind.as_str()) != ("rollback.dev/v1alpha1", "Runbook") {
            faults.push(format!(
                "it is a {} of {}, and not a Runbook of rollback.dev/v1alpha1",
                file.kind, file.api_version
            ));
        }
        if file.metadata.as_ref().is_some_and(|metadata| {
            metadata.name.is_empty() || metadata.name.contains(|c: char| c.is_whitespace() || c.is_control())
        }) {
            faults.push("metadata.name: it is one word".into());
        }
        let (mut names, mut broken) = (BTreeSet::new(), BTreeSet::new());
        let mut components = Vec::new();
        for (index, entry) in file.components.into_iter().enumerate() {
            let place = format!("components[{index}] ({})", entry.name);
            if !names.insert(entry.name.clone()) {
                faults.push(format!("{place}: the name is given twice"));
            }
            if entry.name.is_empty() || entry.name.contains(['/', '=', ',']) || naming::is_type(&entry.name) {
                faults.push(format!("{place}: a name has no '/', '=' or ',', and is no word for a type"));
            }
            let repository = entry.environment.as_ref().and_then(|entry| entry.repository.as_ref());
            if repository.is_some_and(|url| parts::is_url(url) && without_secret(url) != *url) {
                faults.push(format!("{place}: the address of its repository holds a secret: git has it from its credential helpers"));
            }
            let uri = entry.mlflow.as_ref().and_then(|model| model.tracking_uri.as_ref());
            if uri.is_some_and(|uri| without_user(uri) != *uri) {
                faults.push(format!("{place}: its trackingUri holds a user or a password: give them by MLFLOW_TRACKING_USERNAME and _PASSWORD"));
            }
            let name = entry.name.clone();
            match entry.component(path.parent().unwrap_or(Path::new(""))) {
                Ok(component) => components.push(component),
                Err(fault) => {
                    faults.push(format!("{place}: {fault}"));
                    broken.insert(name);
                }
            }
        }
        for (index, plan) in file.plans.iter().enumerate() {
            let place = format!("plans[{index}] ({})", plan.name);
            if !names.insert(plan.name.clone()) {
                faults.push(format!("{place}: the name is given twice"));
            }
            plan.check(&place, &components, &mut faults);
        }
        for (index, entry) in file.irreversible.iter().enumerate() {
            let place = format!("irreversible[{index}]");
            if !components.iter().any(|component| component.written == entry.component) {
                faults.push(no_component(&place, &entry.component, &components));
            }
            if !matches!(entry.between.len(), 0 | 2) {
                faults.push(format!("{place}: it lies between two revisions, an older and a newer one"));
            }
        }
        if file
            .journal
            .as_ref()
            .is_some_and(|journal| journal.sqlite.is_some() == journal.kubernetes.is_some())
        {
            faults.push("journal: it is either sqlite or kubernetes".into());
        }
        let plans: Vec<&str> = file.plans.iter().map(|plan| plan.name.as_str()).collect();
        let mut known = BTreeSet::new();
        for (index, policy) in file.policies.iter().enumerate() {
            let place = format!("policies[{index}] ({})", policy.name);
            if !known.insert(policy.name.as_str()) {
                faults.push(format!("{place}: the name is given twice"));
            }
            policy.check(&place, &components, &plans, &mut faults);
        }
        for (index, entry) in file.notify.iter().enumerate() {
            entry.check(&format!("notify[{index}]"), &mut faults);
        }
        // A component that is there and wrong is not missing as well.
        faults.retain(|fault| !broken.iter().any(|name| fault.contains(&format!(": {name} is no "))));
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            path: path.to_owned(),
            components,
            plans: file.plans,
            journal: file.journal,
            irreversible: file.irreversible,
            policies: file.policies,
            notify: file.notify,
            incidents: file.incidents,
            supervisor: file.supervisor,
            name: file.metadata.map(|metadata| metadata.name),
            text: text.to_owned(),
        })
    }

    /// Its own name; without one, another for each file.
    pub(crate) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
            let print = Fingerprint::of(&path.to_string_lossy().into());
            print.as_str().trim_start_matches("sha256:").chars().take(12).collect()
        })
    }

    /// What was read.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// All its components.
    pub(crate) fn all(&self) -> &[Component] {
        &self.components
    }

    /// Whether anything is watched.
    pub(crate) fn has_policies(&self) -> bool {
        !self.policies.is_empty()
    }

    /// What cannot be taken back of a component, for what acts by itself.
    pub(crate) fn never_crossed(&self, name: &str) -> Vec<rollback_core::supervisor::Irreversible> {
        let entries = self.irreversible.iter().filter(|entry| entry.component == name);
        let of = |entry: &Irreversible| rollback_core::supervisor::Irreversible {
            between: match entry.between.as_slice() {
                [older, newer] => Some((older.clone(), newer.clone())),
                _ => None,
            },
            reason: entry.reason.clone(),
        };
        entries.map(of).collect()
    }

    /// The component of this name.
    pub(crate) fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.written == name)
    }

    /// The names of its plans.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &str> {
        self.plans.iter().map(|plan| plan.name.as_str())
    }

    /// The plan of this name.
    pub(crate) fn plan(&self, name: &str) -> Option<Planned> {
        let plan = self.plans.iter().find(|plan| plan.name == name)?;
        let step = |step: &StepEntry| {
            let id = step.id()?;
            let does = match (&step.restart, &step.follows) {
                (Some(_), _) => Does::Restart,
                (None, Some(followed)) => Does::Follow(followed.clone()),
                (None, None) => Does::Return,
            };
            Some(PlannedStep {
                id: id.to_owned(),
                component: self.component(id)?.clone(),
                does,
                after: step.after.clone(),
            })
        };
        Some(Planned {
            on_failure: plan.on_failure.map(|policy| match policy {
                OnFailure::Halt => FailurePolicy::Halt,
                OnFailure::Compensate => FailurePolicy::Compensate,
                OnFailure::Continue => FailurePolicy::Continue,
            }),
            steps: plan.steps.iter().filter_map(step).collect(),
        })
    }

    /// What a component follows, in whichever plan.
    pub(crate) fn followed_by(&self, name: &str) -> Option<&Component> {
        let mut steps = self.plans.iter().flat_map(|plan| &plan.steps);
        let step = steps.find(|step| step.component.as_deref() == Some(name) && step.follows.is_some())?;
        self.component(step.follows.as_deref()?)
    }

    /// The registry of its models, where all have the same.
    pub(crate) fn tracking_uri(&self) -> Option<&str> {
        let uris: BTreeSet<_> = self.components.iter().filter_map(|c| c.tracking_uri.as_deref()).collect();
        uris.first().copied().filter(|_| uris.len() == 1)
    }

    /// Its names, for whoever mistyped one.
    pub(crate) fn names(&self) -> Vec<&str> {
        let components = self.components.iter().map(|component| component.written.as_str());
        components.chain(self.plans()).collect()
    }

    /// Where it says that runs are kept, as `--journal` takes it.
    pub(crate) fn journal(&self) -> Option<PathBuf> {
        let JournalEntry { sqlite, kubernetes } = self.journal.as_ref()?;
        match (sqlite, kubernetes) {
            (Some(path), _) => Some(self.path.parent().unwrap_or(Path::new("")).join(path)),
            (None, Some(InCluster { namespace: Some(namespace) })) => {
                Some(format!("kubernetes:{namespace}").into())
            }
            (None, Some(InCluster { namespace: None })) => Some("kubernetes".into()),
            (None, None) => None,
        }
    }
}

fn no_component(place: &str, name: &str, components: &[Component]) -> String {
    let known: Vec<_> = components.iter().map(|component| component.written.as_str()).collect();
    format!("{place}: {name} is no component of the runbook{}", did_you_mean(name, &known))
}

/// What somebody may have meant who wrote a name that is not known.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    nearest(name, known).map(|near| format!(", did you mean {near}?")).unwrap_or_default()
}

impl Entry {
    fn component(self, folder: &Path) -> std::result::Result<Component, String> {
        let object = |kind: Kind, object: Object| Component {
            written: self.name.clone(),
            kind,
            namespace: object.namespace,
            name: object.name,
            tracking_uri: None,
        };
        let mut found = Vec::new();
        for (kind, entry) in [
            (WorkloadKind::Deployment, self.deployment),
            (WorkloadKind::StatefulSet, self.stateful_set),
            (WorkloadKind::DaemonSet, self.daemon_set),
        ] {
            found.extend(entry.map(|entry| object(Kind::Workload(kind), entry)));
        }
        found.extend(self.inference_service.map(|entry| object(Kind::Service, entry)));
        if let Some(model) = self.mlflow {
            let pointer = match (model.stage, model.alias) {
                (Some(_), Some(_)) => return Err("stage and alias name two pointers: give one".into()),
                (stage, None) => {
                    let stage = stage.as_deref().map_or(Ok(Stage::Production), str::parse::<Stage>);
                    let told = |error: Error| format!("{error}: {}", error.hint().unwrap_or_default());
                    Some(stage.map_err(told)?.to_string())
                }
                (None, Some(alias)) => Some(format!("alias:{alias}")),
            };
            found.push(Component {
                written: self.name.clone(),
                kind: Kind::Model(pointer),
                namespace: None,
                name: model.model,
                tracking_uri: model.tracking_uri,
            });
        }
        found.extend(self.environment.map(|environment| Component {
            written: self.name.clone(),
            kind: Kind::Environment(Pinned {
                repository: environment.repository.map(|repository| {
                    if parts::is_url(&repository) {
                        return repository;
                    }
                    folder.join(repository).to_string_lossy().into_owned()
                }),
                tags: environment.tags,
                prune: environment.prune,
            }),
            namespace: None,
            name: environment.path.trim_end_matches('/').to_owned(),
            tracking_uri: None,
        }));
        let kinds = "deployment, statefulSet, daemonSet, inferenceService, mlflow or environment";
        match <[Component; 1]>::try_from(found) {
            Ok([component]) => Ok(component),
            Err(none) if none.is_empty() => Err(format!("it says not what it is: {kinds}")),
            Err(_) => Err(format!("it says more than once what it is: one of {kinds}")),
        }
    }
}

impl PlanEntry {
    /// The steps that wait for each other in a circle.
    fn circle(&self) -> Vec<&str> {
        let mut waiting: Vec<&StepEntry> = self.steps.iter().collect();
        loop {
            let ids: BTreeSet<&str> = waiting.iter().filter_map(|step| step.id()).collect();
            let before = waiting.len();
            waiting.retain(|step| {
                step.after.iter().chain(&step.follows).any(|other| ids.contains(other.as_str()))
            });
            if waiting.len() == before {
                return waiting.into_iter().filter_map(StepEntry::id).collect();
            }
        }
    }

    fn check(&self, place: &str, components: &[Component], faults: &mut Vec<String>) {
        let ids: Vec<&str> = self.steps.iter().filter_map(StepEntry::id).collect();
        if self.steps.is_empty() {
            faults.push(format!("{place}: it has no steps"));
        }
        let circle = self.circle();
        if !circle.is_empty() {
            faults.push(format!(
                "{place}: these steps come after each other in a circle: {}",
                circle.join(", ")
            ));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let place = format!("{place}.steps[{index}]");
            let Some(id) = step.id().filter(|_| step.component.is_none() || step.restart.is_none()) else {
                faults.push(format!("{place}: it names either a component or a restart"));
                continue;
            };
            let known = components.iter().find(|component| component.written == id);
            match known {
                None => faults.push(no_component(&place, id, components)),
                Some(known) if step.restart.is_some() && !matches!(known.kind, Kind::Workload(_)) => {
                    faults.push(format!("{place}: {id} cannot be restarted, only a workload can"));
                }
                Some(_) => {}
            }
            if ids.iter().filter(|other| **other == id).count() > 1 {
                faults.push(format!("{place}: {id} is in the plan twice"));
            }
            let follows = step.follows.as_ref();
            if follows.is_some()
                && (step.restart.is_some() || known.is_some_and(|known| known.kind != Kind::Service))
            {
                faults.push(format!("{place}: only an inferenceService follows a model"));
            }
            let is_model = |name: &&String| {
                let followed = components.iter().find(|component| component.written == **name);
                followed.is_some_and(|followed| matches!(followed.kind, Kind::Model(_)))
            };
            if let Some(other) = follows.filter(|name| !is_model(name)) {
                faults.push(format!("{place}: {other} is no model to be followed"));
            }
            for other in step.after.iter().chain(&step.follows) {
                if !ids.contains(&other.as_str()) {
                    let near = did_you_mean(other, &ids);
                    faults.push(format!("{place}: {other} is no step of this plan{near}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str = "
apiVersion: rollback.dev/v1alpha1
kind: Runbook
metadata: { name: inflow-staging }
components:
  - name: registry
    mlflow: { trackingUri: 'http://mlflow:5000', model: inflow-baseline, stage: Production }
  - name: serving
    inferenceService: { namespace: inflow-staging, name: inflow-baseline }
  - name: loader
    deployment: { namespace: inflow-staging, name: loader }
plans:
  - name: model
    onFailure: Compensate
    steps:
      - { component: registry }
      - { component: serving, after: [registry], follows: registry }
      - { restart: loader, after: [registry] }
policies: []
journal: { sqlite: runs.db }
";

    fn parse(text: &str) -> std::result::Result<Runbook, Vec<String>> {
        Runbook::parse(text, Path::new("/etc/rollback/rollback.yaml"))
    }

    #[test]
    fn a_plan_says_what_follows_and_what_restarts() {
        let runbook = parse(MODEL).unwrap();
        let plan = runbook.plan("model").unwrap();
        let steps: Vec<_> =
            plan.steps.iter().map(|s| (s.id.as_str(), s.does.clone(), s.after.clone())).collect();
        assert_eq!(
            steps,
            [
                ("registry", Does::Return, Vec::new()),
                ("serving", Does::Follow("registry".into()), vec!["registry".into()]),
                ("loader", Does::Restart, vec!["registry".into()]),
            ]
        );
        assert_eq!(plan.on_failure, Some(FailurePolicy::Compensate));
        assert_eq!(runbook.followed_by("serving").unwrap().written, "registry");
        assert_eq!(runbook.journal(), Some("/etc/rollback/runs.db".into()));
    }

    #[test]
    fn steps_in_a_circle_and_what_cannot_follow_are_faults() {
        let text = MODEL.replace("- { component: registry }", "- { component: registry, after: [serving] }");
        let faults = parse(&text).unwrap_err().join("\n");
        assert!(faults.contains("in a circle: registry, serving, loader"), "{faults}");
        let text = MODEL.replace("follows: registry", "follows: loader");
        assert!(parse(&text).unwrap_err().join("\n").contains("loader is no model"));
    }

    #[test]
    fn every_section_of_a_whole_runbook_is_understood() {
        let runbook = parse(include_str!("../../tests/runbooks/inflow-staging.yaml")).unwrap();
        assert_eq!((runbook.name().as_str(), runbook.all().len()), ("inflow-staging", 4));
        assert_eq!((runbook.policies.len(), runbook.notify.len()), (4, 2));
        assert!(runbook.has_policies() && runbook.incidents().unwrap().due.is_some());
        assert_eq!(runbook.never_crossed("staging")[0].reason, "drops a column");
    }

    #[test]
    fn numbers_stand_for_text_and_nothing_for_what_is_left_out() {
        let text = include_str!("../../tests/runbooks/inflow-staging.yaml");
        let text = text
            .replace("between: [v1.4.0, v1.5.0]", "between: [4, 5]")
            .replace("    target: lastGood                      # or previous", "    target:");
        let runbook = parse(&text).unwrap();
        assert_eq!(runbook.never_crossed("staging")[0].between, Some(("4".into(), "5".into())));
    }

    #[test]
    fn the_runbook_of_the_manifests_is_understood() {
        let runbook = parse(include_str!("../../../deploy/example/rollback.yaml")).unwrap();
        assert!(runbook.has_policies() && runbook.journal().is_some());
    }

    #[test]
    fn the_runbook_of_the_readme_is_understood() {
        let readme = include_str!("../../../README.md");
        let blocks = readme.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
        let text: String = blocks.collect();
        let runbook = parse(&text).unwrap_or_else(|faults| panic!("{}", faults.join("\n")));
        assert_eq!((runbook.all().len(), runbook.policies.len(), runbook.notify.len()), (3, 3, 2));
    }

    #[test]
    fn what_is_of_no_right_form_is_told_all_at_once_with_line_and_column() {
        let text = include_str!("../../tests/runbooks/inflow-staging.yaml");
        let text = text
            .replace("namespace: inflow-staging, name: inference-service", "namespac: a, name: b")
            .replace("above: 5%, for: 5m, every: 15s", "above: 5%, for: soon, evry: 15s")
            .replace("aboveBaseline: 2", "aboveBaseline: twice")
            .replace("metadata: { name: inflow-staging }", "metadata: [name]");
        let faults = parse(&text).unwrap_err();
        let all = faults.join("\n");
        for part in [
            "line 6, column 19: unknown field namespac, did you mean namespace?",
            "unknown field evry, did you mean every?",
            "line 25, column 99: it is not of the right form: a duration is",
            "line 31, column 51: it is of the wrong type: number is wanted",
            "line 3, column 1: it is of the wrong type: object is wanted",
        ] {
            assert!(all.contains(part), "{part}:\n{all}");
        }
        assert_eq!(faults.len(), 5, "{all}");
        assert!(faults.iter().all(|fault| fault.starts_with("line ")), "{all}");
    }

    #[test]
    fn an_empty_file_and_a_field_given_twice_are_told() {
        assert!(parse("# nothing yet\n").unwrap_err()[0].contains("it is empty"));
        let twice = parse(&MODEL.replace("policies: []", "plans: []")).unwrap_err();
        assert_eq!(twice, ["line 19, column 1: the field plans is given twice, first on line 12"]);
        let both = parse(&MODEL.replace("policies: []", "plans: []\npolices: []")).unwrap_err();
        assert!(both.len() == 2 && both[1].contains("did you mean policies?"), "{both:?}");
        let inner = parse(&MODEL.replace("model: inflow-baseline,", "model: a, model: b,")).unwrap_err();
        assert!(
            inner[0].starts_with("line 7, column ") && inner[0].contains("model is given twice"),
            "{inner:?}"
        );
    }

    #[test]
    fn what_makes_no_sense_is_told_beside_what_is_of_no_right_form() {
        let text = include_str!("../../tests/runbooks/inflow-staging.yaml");
        let text = text
            .replace("prune: true", "prun: true")
            .replace("every: 10s", "every: 10")
            .replace("cooldown: 30m", "cooldown: 1q")
            .replace("mlflow: { trackingUri", "mlflw: { trackingUri")
            .replace("above: 5%, for: 5m, every: 15s", "above: 5%, for: soon, every: 15s")
            .replace("{ restart: inference-service,", "{ restart: inference-servic,");
        let faults = parse(&text).unwrap_err();
        let all = faults.join("\n");
        for part in [
            "unknown field prun, did you mean prune?",
            "unknown field mlflw, did you mean mlflow?",
            "a duration is",
            "line 19, column 9: plans[0] (model).steps[2]: inference-servic is no component of the runbook, did you mean inference-service?",
        ] {
            assert!(all.contains(part), "{part}:\n{all}");
        }
        assert_eq!(faults.len(), 6, "what cannot be read makes no faults of its own: {all}");
    }

    #[test]
    fn a_secret_that_is_written_here_is_refused_and_not_repeated() {
        let text = include_str!("../../tests/runbooks/inflow-staging.yaml");
        let text = text.replace("token: { env: SLACK_BOT_TOKEN }", "token: xoxb-hunter2");
        let faults = parse(&text).unwrap_err().join("\n");
        assert!(faults.contains("a secret is given by env") && !faults.contains("hunter2"), "{faults}");
    }

    #[test]
    fn policies_that_mean_nothing_are_told_with_their_place() {
        let text = include_str!("../../tests/runbooks/inflow-staging.yaml");
        let text = text
            .replace("component: inference-service          # or plan: model", "component: nobody")
            .replace("consecutiveFailures: 3", "for: 3s")
            .replace("actions: [alert, rollback]", "actions: [rollback, propose]");
        let faults = parse(&text).unwrap_err().join("\n");
        for part in [
            "policies[0] (error-rate): nobody is no component of the runbook",
            "policies[0] (error-rate): it either rolls back or proposes to",
            "policies[2] (health).when: a probe fails consecutiveFailures times",
        ] {
            assert!(faults.contains(part), "{part}:\n{faults}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_all_at_once_and_with_its_place() {
        let text = MODEL
            .replace("{ restart: loader, after: [registry] }", "{ restart: serving, after: [nobody] }")
            .replace("name: loader\n    deployment", "name: serving\n    deployment")
            .replace("stage: Production", "stage: Production, alias: champion");
        let faults = parse(&text).unwrap_err().join("\n");
        for part in [
            "components[0] (registry): stage and alias",
            "components[2] (serving): the name is given twice",
            "plans[0] (model).steps[2]: serving cannot be restarted",
            "plans[0] (model).steps[2]: nobody is no step",
        ] {
            assert!(faults.contains(part), "{part}:\n{faults}");
        }
        assert!(!faults.contains("registry is no"), "it is there, and wrong:\n{faults}");
        let unknown = parse(&MODEL.replace("stage: Production", "stagee: Production")).unwrap_err();
        assert!(unknown[0].contains("stagee") && unknown[0].contains("line 7"), "{unknown:?}");
    }
}
