//! Which state a target means, and the changes that lead to it.

use std::collections::BTreeMap;

use rollback_core::{Change, ChangeKind, Error, ErrorKind, Fingerprint, Passage, Result, Snapshot, Target};
use rollback_k8s::backend::refuse_dying;
use rollback_k8s::json;
use serde_json::Value;

use crate::content::{Content, Ends};
use crate::history::{Record, State};
use crate::mode::Mode;
use crate::service::{InferenceService, Restored, UNRECORDED, View, nothing_earlier, short};
use crate::spec::{Observed, models, plain, with_model, with_model_of};
use crate::template;

const STOP: &str = "serving.kserve.io/stop";

/// A state to return to, and what to say about the choice.
struct Choice {
    id: String,
    content: Content,
    notes: Vec<String>,
}

/// Where traffic goes while the spec is restored, by component.
type Pins = BTreeMap<String, String>;

impl InferenceService {
    fn choose(&self, target: &Target, view: &View) -> Result<Choice> {
        match target {
            Target::Previous => self.previous(view),
            Target::Revision(id) => self.revision(id, view),
            Target::Snapshot(snapshot) => {
                let content = Content::of(snapshot)?;
                let percents = if view.mode == Mode::Knative && !content.passing {
                    content.percents
                } else {
                    BTreeMap::new()
                };
                let content = Content {
                    specs: content.specs,
                    canary: content.canary,
                    runs: content.runs,
                    percents,
                    ..Content::default()
                };
                Ok(Choice { id: snapshot.id.clone(), content, notes: Vec::new() })
            }
            Target::Artifact(uri) => self.artifact(uri, view),
            Target::LastGood | Target::AsOf(_) => Err(Error::new(
                ErrorKind::Unsupported,
                "this target needs records of what was in place, and is resolved from those",
            )),
        }
    }

    fn revision(&self, id: &str, view: &View) -> Result<Choice> {
        if id == view.current_id() {
            // Held traffic belongs to no revision: to return to this one is to let it go.
            let percents = if view.live.passing { BTreeMap::new() } else { view.live.percents.clone() };
            let content = Content { percents, passing: false, ..view.live.clone() };
            return Ok(Choice { id: id.to_owned(), content, notes: Vec::new() });
        }
        let former = |state: &&State| {
            let number = id.parse().ok();
            state.records.len() == 1
                && state.predictor().is_some_and(|r| number.is_some_and(|n| r.former.contains(&n)))
        };
        let by_id = view.states.iter().find(|state| state.id == id);
        let state = by_id.or_else(|| view.states.iter().find(former)).ok_or_else(|| {
            let known: Vec<_> = view.states.iter().map(|state| state.id.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("unable to find revision {id} in the history")).with_hint(
                format!(
                    "the revisions kept are: {}",
                    if known.is_empty() { "none".into() } else { known.join(", ") }
                ),
            )
        })?;
        let note = (state.id != id).then(|| format!("revision {id} is number {} since a rollback", state.id));
        self.return_to(state, view, note.into_iter().collect())
    }

    /// Refuses what would come back only in part.
    fn return_to(&self, state: &State, view: &View, mut notes: Vec<String>) -> Result<Choice> {
        let Restored { mut content, beyond } = view.restore(state);
        if !beyond.is_empty() && !self.options.uri_only {
            let what = short(&beyond);
            if !self.options.force {
                let message = format!(
                    "revision {} also ran with another {what}, and the spec that it had is not recorded",
                    state.id
                );
                return Err(Error::new(ErrorKind::Refused, message).with_hint(
                    "move its model alone with --uri-only, or go on all the same with --force; apply the older manifest to return to all of it",
                ));
            }
            notes.push(format!("revision {} also ran with another {what}: that is not restored", state.id));
            // It is not what ran then, and must not be taken for it later.
            content.runs.clear();
        }
        Ok(Choice { id: state.id.clone(), content, notes })
    }

    /// The state before the one in place; while a canary or a rollout is under way, the one that still serves.
    fn previous(&self, view: &View) -> Result<Choice> {
        let live = &view.live;
        if live.canary.is_some() {
            let id = view.current().map_or(UNRECORDED, |state| state.id.as_str()).to_owned();
            let content =
                Content { specs: live.specs.clone(), runs: live.runs.clone(), ..Content::default() };
            let notes =
                vec!["a canary is under way: it is removed, and the stable one stays as it is".to_owned()];
            return Ok(Choice { id, content, notes });
        }
        let status = |field: &str| json::text(&view.object, &format!("/status/components/predictor/{field}"));
        let current = view.current();
        let (mut notes, mut candidates) = (Vec::new(), Vec::new());
        for state in view.states.iter().skip(usize::from(current.is_some())) {
            let Restored { content, beyond } = view.restore(state);
            let same = content.specs == live.specs && beyond.is_empty();
            // The record in place runs the same where it differs in what no spec tells.
            let is_copy = current.is_some_and(|current| runs(current) == runs(state));
            if same || is_copy {
                if live.passing
                    && status("latestRolledoutRevision") == state.predictor().map(|r| r.name.as_str())
                {
                    // The spec is restored already, and traffic still held.
                    let content =
                        Content { specs: live.specs.clone(), runs: live.runs.clone(), ..Content::default() };
                    return Ok(Choice { id: view.current_id(), content, notes });
                }
                continue;
            }
            if view.is_left(state) {
                notes.push(format!(
                    "revision {} was left by going back to what is in place now, and is skipped",
                    state.id
                ));
            } else if state.is_broken() {
                notes.push(format!("revision {} never became ready, and is skipped", state.id));
            } else {
                candidates.push(state);
            }
        }
        let named = |name: Option<&str>| {
            let is_of =
                |state: &&&State| state.predictor().is_some_and(|record| Some(record.name.as_str()) == name);
            candidates.iter().find(is_of).copied()
        };
        let chosen = match view.mode {
            Mode::Knative => {
                let (latest, rolled_out) =
                    (status("latestCreatedRevision"), status("latestRolledoutRevision"));
                let serving = if latest == rolled_out { None } else { named(rolled_out) };
                if let Some(state) = serving {
                    notes.push(format!("a rollout is under way: revision {} is what still serves", state.id));
                }
                serving.or_else(|| named(status("previousRolledoutRevision")))
            }
            Mode::Standard => {
                let pods =
                    |state: &&State| state.predictor().and_then(|record| record.pods).unwrap_or_default();
                let serving = candidates.iter().copied().filter(|state| pods(state) > 0).max_by_key(pods);
                if let Some(state) = serving {
                    notes.push(format!("a rollout is under way: revision {} is what still serves", state.id));
                }
                serving
            }
        };
        match chosen.or_else(|| candidates.first().copied()) {
            Some(state) => self.return_to(state, view, notes),
            None => Err(nothing_earlier(&notes)),
        }
    }

    /// The newest state that ran the model at this URI, else what is there now with that model.
    fn artifact(&self, uri: &str, view: &View) -> Result<Choice> {
        let uri = plain(uri);
        let scheme = uri.split(':').next().unwrap_or_default();
        if matches!(scheme, "models" | "runs" | "mlflow-artifacts" | "file") || !uri.contains(':') {
            let message =
                format!("KServe cannot download {uri}: it is only known to the registry that it is in");
            return Err(Error::new(ErrorKind::Refused, message)
                .with_hint("register the model with an artifact location such as s3://, and name a revision of the InferenceService"));
        }
        let runs_it = |specs: &BTreeMap<String, Value>| {
            specs.get("predictor").is_some_and(|spec| models(spec) == [uri.clone()])
        };
        if runs_it(&view.live.specs) && view.live.canary.is_none() {
            return self.revision(&view.current_id(), view);
        }
        let is_it = |state: &&State| {
            let record = state.predictor();
            record.is_some_and(|record| template::observed(&record.template).models == [uri.clone()])
        };
        if let Some(state) = view.states.iter().find(is_it) {
            return self.return_to(state, view, Vec::new());
        }
        let mut specs = view.live.specs.clone();
        let observed = Observed { models: vec![uri.clone()], ..Observed::default() };
        let moved = specs.get("predictor").and_then(|spec| with_model(spec, &observed)).ok_or_else(|| {
            let message = "its predictor names its model in no place that a URI fits into";
            Error::new(ErrorKind::Refused, message)
        })?;
        specs.insert("predictor".to_owned(), moved);
        let note = format!("no revision that ran {uri} is known: everything but the model stays as it is");
        let content = Content { specs, ..Content::default() };
        Ok(Choice { id: uri, content, notes: vec![note] })
    }

    pub(crate) async fn plan(&self, target: &Target) -> Result<Vec<Change>> {
        let view = self.view().await?;
        let Choice { id, content: mut to, mut notes } = self.choose(target, &view)?;
        let from = view.live.clone();
        if self.options.uri_only {
            to.specs = only_models(&from, &to)?;
            to.runs.clear();
            to.uri_only = true;
        }
        let realm = self.cluster.realm().await?;
        let change = |from: Snapshot, to: Snapshot, ends: &Ends| Change {
            component: self.id.clone(),
            realm: realm.clone(),
            kind: ChangeKind::Rollback,
            diff: ends.differences(),
            from,
            to,
            identity: Some(json::uid(&view.object).to_owned()),
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: Passage::default(),
            hint: None,
        };
        let held = if from.passing { ", traffic held" } else { "" };
        let from_id = format!("{}{held}", view.current_id());
        if from.fingerprint() == to.fingerprint() {
            let live = from.clone().snapshot(from_id);
            let mut nothing = change(live.clone(), live, &Ends { from: from.clone(), to: from });
            nothing.warnings = notes;
            return Ok(vec![nothing]);
        }
        refuse_dying(&view.object)?;
        if json::annotation(&view.object, STOP) == Some("true") {
            return Err(Error::new(ErrorKind::Refused, "it is stopped: nothing would roll out")
                .with_hint(format!("remove its annotation {STOP}")));
        }
        self.options.gitops.judge(&view.object, &mut notes)?;
        warn(&view, &mut notes);
        let moving: Vec<String> =
            Ends { from: from.clone(), to: to.clone() }.moving().into_iter().map(str::to_owned).collect();
        // Shares that the change does not speak of stay.
        let others = from.percents.iter().filter(|(name, _)| !moving.contains(name) && !from.passing);
        to.percents.extend(others.map(|(name, percent)| (name.clone(), *percent)));
        let pins = match view.mode {
            Mode::Knative if !moving.is_empty() => pins(&view, &moving, &to, &mut notes),
            Mode::Knative | Mode::Standard => None,
        };
        let steps = steps((from, from_id), (to, id), pins);
        let mut changes = Vec::new();
        for (ends, [before, after], secured) in steps {
            let passage = Passage { from_between: ends.from.passing, to_between: ends.to.passing, secured };
            let (before, after) = (ends.from.clone().snapshot(before), ends.to.clone().snapshot(after));
            changes.push(Change { passage, ..change(before, after, &ends) });
        }
        if let Some(first) = changes.first_mut() {
            first.warnings = notes;
        }
        Ok(changes)
    }
}

fn runs(state: &State) -> BTreeMap<&'static str, Fingerprint> {
    state.records.iter().map(|(name, record)| (*name, template::identity(&record.template))).collect()
}

/// What is there now with the models of another state.
fn only_models(from: &Content, to: &Content) -> Result<BTreeMap<String, Value>> {
    let mut specs = from.specs.clone();
    for (name, spec) in &mut specs {
        let Some(wanted) = to.specs.get(name).filter(|wanted| models(wanted) != models(spec)) else {
            continue;
        };
        *spec = with_model_of(spec, wanted).ok_or_else(|| {
            let message = format!("the {name} names its model in another place now than it did then");
            Error::new(ErrorKind::Refused, message)
                .with_hint("leave out --uri-only to restore its whole spec")
        })?;
    }
    Ok(specs)
}

/// One step of the way, the ids of its ends, and what stands when it fails.
type Way = (Ends, [String; 2], Option<String>);

/// The way from one state to the other: by itself, or with all traffic held on the revisions that ran the target.
fn steps((from, from_id): (Content, String), (to, to_id): (Content, String), pins: Option<Pins>) -> Vec<Way> {
    if from.specs == to.specs && from.canary == to.canary {
        // The spec is there already: traffic is let go.
        return vec![(Ends { from, to }, [from_id, to_id], None)];
    }
    let Some(pins) = pins else { return vec![(Ends { from, to }, [from_id, to_id], None)] };
    let names = pins.values().cloned().collect::<Vec<_>>().join(", ");
    let mut held = from.percents.clone();
    held.extend(pins.keys().map(|name| (name.clone(), 0)));
    let holding = |state: &Content| Content {
        percents: held.clone(),
        passing: true,
        pinned: pins.clone(),
        ..state.clone()
    };
    let (pinned, restored) = (holding(&from), holding(&to));
    let plain = from_id.trim_end_matches(", traffic held");
    let [pinned_id, restored_id] = [plain, &to_id].map(|id| format!("{id}, traffic held"));
    let mut way = Vec::new();
    let held_already = from.passing && from.percents == held;
    if !held_already {
        way.push((Ends { from, to: pinned.clone() }, [from_id, pinned_id.clone()], None));
    }
    let secured = format!("traffic is safe on {names}, the restored spec does not serve");
    let restore = Ends { from: pinned, to: restored.clone() };
    way.push((restore, [pinned_id, restored_id.clone()], Some(secured)));
    way.push((Ends { from: restored, to }, [restored_id, to_id], None));
    way
}

/// The revisions on which traffic can be held while the spec is restored; none where that is not possible for all
/// components that move, and then why.
fn pins(view: &View, moving: &[String], to: &Content, notes: &mut Vec<String>) -> Option<Pins> {
    let mut pins = Pins::new();
    for name in moving {
        match pin(view, name, to) {
            Ok(record) => {
                tell_pods(view, name, record, notes);
                pins.insert(name.clone(), record.name.clone());
            }
            Err(why) => {
                notes.push(format!(
                    "traffic stays where it is until the restored {name} is ready, because it cannot be held elsewhere: {why}"
                ));
                return None;
            }
        }
    }
    Some(pins)
}

/// The revision that gets all traffic of a component once its percentage is 0, where it runs the target.
fn pin<'a>(view: &'a View, name: &str, to: &Content) -> Result<&'a Record, String> {
    let status = |field: &str| {
        let text = json::text(&view.object, &format!("/status/components/{name}/{field}"));
        text.filter(|text| !text.is_empty())
    };
    let rolled_out = status("latestRolledoutRevision").ok_or("no revision was rolled out yet")?;
    let is_latest = status("latestCreatedRevision") == Some(rolled_out);
    let serving = if is_latest {
        let previous = status("previousRolledoutRevision").filter(|previous| *previous != rolled_out);
        previous.ok_or("KServe remembers no revision that was rolled out before")?
    } else {
        rolled_out
    };
    let record = view.record(name, serving).ok_or_else(|| format!("revision {serving} is gone"))?;
    if record.ready != Some(true) {
        return Err(format!("revision {serving} is not ready"));
    }
    let wanted = to.specs.get(name).map(models).unwrap_or_default();
    let runs_it = to.runs.get(name) == Some(&template::identity(&record.template))
        || (!wanted.is_empty() && template::observed(&record.template).models == wanted);
    if !runs_it {
        return Err(format!("KServe would hold it on revision {serving}, which runs something else"));
    }
    Ok(record)
}

fn tell_pods(view: &View, name: &str, record: &Record, notes: &mut Vec<String>) {
    let newest = view.states.first().and_then(|state| state.records.get(name));
    let count = |record: Option<&Record>| record.and_then(|record| record.pods);
    let least = json::annotation(&record.template, "autoscaling.knative.dev/min-scale")
        .or_else(|| json::annotation(&record.template, "autoscaling.knative.dev/minScale"))
        .unwrap_or("0");
    let pods = count(Some(record)).map_or_else(|| "an unknown number of".to_owned(), |pods| pods.to_string());
    let ready = if record.ready == Some(true) { "ready" } else { "not ready" };
    let mut note = format!(
        "traffic is held on {}, which is {ready} and has {pods} pods now, at least {least}",
        record.name
    );
    match (count(Some(record)), count(newest)) {
        (Some(0), _) => note.push_str(": its first requests wait until one has loaded the model"),
        (Some(held), Some(now)) if held < now => {
            note = format!("{note}: fewer than the {now} of the newest revision, until it is scaled up");
        }
        _ => {}
    }
    notes.push(note);
}

fn warn(view: &View, notes: &mut Vec<String>) {
    let object = &view.object;
    if json::label(object, "app.kubernetes.io/managed-by") == Some("Helm") {
        notes.push("it is part of a Helm release, which does not learn of this: its next upgrade starts from what it holds".into());
    }
    if json::annotation(object, "kubectl.kubernetes.io/last-applied-configuration").is_some() {
        notes.push(
            "it was applied from a manifest (last-applied annotation): the next `kubectl apply` of the newer one brings it back".into(),
        );
    }
    if view.mode == Mode::Standard && !view.live.percents.is_empty() {
        notes.push("canaryTrafficPercent has no effect in Standard mode".into());
    }
}
