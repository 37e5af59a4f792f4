//! The changes that lead to a state.

use std::collections::BTreeMap;

use crate::choose::{Choice, only_models};
use crate::content::{Content, Ends};
use crate::history::Record;
use crate::mode::Mode;
use crate::service::{InferenceService, View};
use crate::spec::{models, same_models};
use crate::template;
use rollback_core::{Change, ChangeKind, Error, ErrorKind, Passage, Result, Snapshot, Target};
use rollback_k8s::backend::refuse_dying;
use rollback_k8s::json;

const STOP: &str = "serving.kserve.io/stop";

/// Where traffic goes while the spec is restored, by component.
type Pins = BTreeMap<String, String>;

impl InferenceService {
    pub(crate) async fn plan(&self, target: &Target) -> Result<Vec<Change>> {
        let view = self.view().await?;
        let just_wrote = view.just_wrote(self.cluster.clock().now());
        let too_early = just_wrote.filter(|_| view.current().is_some() && !self.options.force);
        let Choice { id, content: mut to, mut notes } = match (self.choose(target, &view), too_early) {
            // A revision is about to appear.
            (Err(e), Some(manager)) if e.kind() == ErrorKind::NotFound => return Err(not_taken_up(manager)),
            (choice, _) => choice?,
        };
        let mut from = view.live.clone();
        if just_wrote.is_some() {
            // What runs may be of what was there before.
            from.runs.clear();
        }
        if self.options.uri_only {
            let wanted = std::mem::take(&mut to.specs);
            to.specs = only_models(&from, &Content { specs: wanted.clone(), ..Content::default() })?;
            if to.specs == from.specs && wanted != from.specs {
                let message = format!("revision {id} runs the same model: its URI is what runs already");
                return Err(Error::new(ErrorKind::Refused, message)
                    .with_hint("leave out --uri-only to restore its whole spec"));
            }
            to.runs.clear();
            (from.uri_only, to.uri_only) = (true, true);
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
        if let Some(manager) = too_early {
            return Err(not_taken_up(manager));
        }
        self.options.gitops.judge(&view.object, &mut notes)?;
        warn(&view, &to, &mut notes);
        let moving: Vec<String> =
            Ends { from: from.clone(), to: to.clone() }.moving().into_iter().map(str::to_owned).collect();
        // Shares that the change does not speak of stay.
        let others = from.percents.iter().filter(|(name, _)| !moving.contains(name) && !from.passing);
        to.percents.extend(others.map(|(name, percent)| (name.clone(), *percent)));
        if view.mode == Mode::Knative {
            for name in &moving {
                tell_scale(&view, name, &mut notes);
            }
        }
        let pins = match view.mode {
            Mode::Knative if !moving.is_empty() => pins(&view, &moving, &to, &mut notes),
            Mode::Knative | Mode::Standard => None,
        };
        let steps = steps(&view, (from, from_id), (to, id), pins)?;
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

fn not_taken_up(manager: &str) -> Error {
    let message = format!("{manager} has just written its spec, and KServe may not have taken it up");
    Error::new(ErrorKind::Refused, message)
        .with_hint("try again in some seconds, when it is certain what runs, or go on with --force")
        .temporary(None)
}

/// One step of the way, the ids of its ends, and what stands when it fails.
type Way = (Ends, [String; 2], Option<String>);

/// The way from one state to the other: by itself, or with all traffic held on the revisions that ran the target.
fn steps(
    view: &View,
    (from, from_id): (Content, String),
    (to, to_id): (Content, String),
    pins: Option<Pins>,
) -> Result<Vec<Way>> {
    let plain = from_id.trim_end_matches(", traffic held").to_owned();
    if from.specs == to.specs && from.canary == to.canary {
        // The spec is there already, and traffic is let go: Knative sends it to the latest revision that is ready.
        if !view.is_ready() {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("revision {plain} is not ready to be given traffic"),
            )
            .with_hint("see why with: rollback status; or return to another revision"));
        }
        return Ok(vec![(Ends { from, to }, [from_id, to_id], None)]);
    }
    let Some(pins) = pins else {
        if view.mode == Mode::Standard || from.percents.is_empty() {
            return Ok(vec![(Ends { from, to }, [from_id, to_id], None)]);
        }
        // Without its share, what is live would get all traffic until the restored revision is ready.
        let between = Content { percents: from.percents.clone(), passing: true, ..to.clone() };
        let between_id = format!("{to_id}, with a share of traffic");
        return Ok(vec![
            (Ends { from, to: between.clone() }, [from_id, between_id.clone()], None),
            (Ends { from: between, to }, [between_id, to_id], None),
        ]);
    };
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
    let [pinned_id, restored_id] = [&plain, &to_id].map(|id| format!("{id}, traffic held"));
    let mut way = Vec::new();
    if !from.passing || from.percents != held {
        way.push((Ends { from, to: pinned.clone() }, [from_id, pinned_id.clone()], None));
    } else if !pins.iter().all(|(name, revision)| has_all_traffic(view, name, revision)) {
        // With a newer revision KServe would not move it any more.
        let message = format!("all traffic is to be held on {names}, and KServe has not moved it there yet");
        return Err(Error::new(ErrorKind::Refused, message)
            .with_hint("wait until it has, and see whether its controller runs")
            .temporary(None));
    }
    let secured = format!("traffic is safe on {names}, the restored spec does not serve");
    let restore = Ends { from: pinned, to: restored.clone() };
    way.push((restore, [pinned_id, restored_id.clone()], Some(secured)));
    let secured = format!("traffic is safe on {names}, and the restored spec is ready beside it");
    way.push((Ends { from: restored, to }, [restored_id, to_id], Some(secured)));
    Ok(way)
}

fn has_all_traffic(view: &View, name: &str, revision: &str) -> bool {
    let traffic = json::items(&view.object, &format!("/status/components/{name}/traffic")).iter();
    let own = traffic
        .filter(|entry| entry["revisionName"] == revision)
        .filter_map(|entry| entry["percent"].as_i64());
    own.sum::<i64>() == 100
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
    let runs_it = match to.runs.get(name) {
        Some(runs) => *runs == template::identity(&record.template),
        // What ran then is not known: its model has to do.
        None => !wanted.is_empty() && same_models(&template::observed(&record.template).models, &wanted),
    };
    if !runs_it {
        return Err(format!("KServe would hold it on revision {serving}, which runs something else"));
    }
    Ok(record)
}

fn tell_pods(view: &View, name: &str, record: &Record, notes: &mut Vec<String>) {
    let newest = view.states.first().and_then(|state| state.records.get(name));
    let count = |record: Option<&Record>| record.and_then(|record| record.pods);
    let least = crate::verify::min_scale(&record.template);
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

/// The restored revision is a new one: it begins with the least number of pods, whatever the others were scaled to.
fn tell_scale(view: &View, name: &str, notes: &mut Vec<String>) {
    let least = json::number(&view.object, &format!("/spec/{name}/minReplicas")).unwrap_or(1).max(1);
    let pods = view.states.iter().filter_map(|state| state.records.get(name)?.pods).max();
    if let Some(pods) = pods.filter(|pods| *pods > least) {
        notes.push(format!(
            "the restored {name} begins with {least} pods where {pods} serve now, and is scaled up once traffic is there: if that is too few, raise minReplicas once it is restored"
        ));
    }
}

fn own_name(spec: &serde_json::Value) -> Option<&str> {
    json::text(spec, "/name").filter(|name| !name.is_empty())
}

fn warn(view: &View, to: &Content, notes: &mut Vec<String>) {
    let object = &view.object;
    if json::label(object, "app.kubernetes.io/managed-by") == Some("Helm") {
        notes.push("it is part of a Helm release, which does not learn of this: its next upgrade starts from what it holds".into());
    }
    if json::annotation(object, "kubectl.kubernetes.io/last-applied-configuration").is_some() {
        notes.push(
            "it was applied from a manifest (last-applied annotation): the next `kubectl apply` of the newer one brings it back".into(),
        );
    }
    if view.mode == Mode::Standard
        && view.live.specs.get("predictor").and_then(own_name) != to.specs.get("predictor").and_then(own_name)
    {
        notes.push(
            "the predictor has another name: KServe removes its Deployment at once, and nothing serves until the pods of the other one are ready"
                .into(),
        );
    }
    if view.mode == Mode::Standard && !view.live.percents.is_empty() {
        notes.push("canaryTrafficPercent has no effect in Standard mode".into());
    }
}
