//! Which state a target means.

use std::collections::BTreeMap;

use rollback_core::{Error, ErrorKind, Result, Target};
use rollback_k8s::json;
use serde_json::Value;

use crate::content::Content;
use crate::history::State;
use crate::mode::Mode;
use crate::service::{InferenceService, Restored, UNRECORDED, View, short};
use crate::spec::{Observed, STORAGE, downloaded, in_storage, models, plain, same_models, with_model};
use crate::template;

/// A state to return to, and what to say about the choice.
pub(crate) struct Choice {
    pub(crate) id: String,
    pub(crate) content: Content,
    pub(crate) notes: Vec<String>,
}

impl InferenceService {
    pub(crate) fn choose(&self, target: &Target, view: &View) -> Result<Choice> {
        match target {
            Target::Previous => self.previous(view),
            Target::Revision(id) => self.revision(id, view),
            Target::Snapshot(snapshot) => {
                // The share of a canary belongs to no revision.
                let Content { specs, canary, runs, scaling, .. } = Content::of(snapshot)?;
                let content = Content { specs, canary, runs, scaling, ..Content::default() };
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
            return Ok(present(view, Vec::new()));
        }
        let former = |state: &&State| {
            let number = id.parse().ok();
            let knows = |number| state.predictor().is_some_and(|record| record.former.contains(&number));
            state.records.len() == 1 && number.is_some_and(knows)
        };
        let by_id = view.states.iter().find(|state| state.id == id);
        let state = by_id.or_else(|| view.states.iter().find(former)).ok_or_else(|| {
            let known: Vec<_> = view.states.iter().map(|state| state.id.as_str()).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            Error::new(ErrorKind::NotFound, format!("unable to find revision {id} in the history"))
                .with_hint(format!("the revisions kept are: {known}"))
        })?;
        let note = (state.id != id).then(|| format!("revision {id} is number {} since a rollback", state.id));
        self.return_to(state, view, note.into_iter().collect())
    }

    /// Refuses what would come back only in part.
    fn return_to(&self, state: &State, view: &View, mut notes: Vec<String>) -> Result<Choice> {
        let Restored { mut content, beyond, aside } = view.restore(state);
        if !aside.is_empty() {
            let what = short(&aside);
            notes.push(format!(
                "the pods of revision {} had another {what}: labels and annotations of the object are not restored",
                state.id
            ));
        }
        if beyond.is_empty() {
            if view.current().is_none() && !view.is_recorded(state) {
                notes.push(
                    "KServe has not taken up the spec that is live: everything but the model stays as it is written there"
                        .into(),
                );
            }
            return Ok(Choice { id: state.id.clone(), content, notes });
        }
        let what = short(&beyond);
        let message = format!(
            "revision {} also ran with another {what}, and the spec that it had is not recorded",
            state.id
        );
        let refused = |hint: &str| Err(Error::new(ErrorKind::Refused, message.clone()).with_hint(hint));
        if content.specs == view.live.specs {
            return refused(
                "nothing else of it can be restored: name another revision with --to-revision, or apply the older manifest",
            );
        }
        if !self.options.force && !self.options.uri_only {
            return refused(
                "move its model alone with --uri-only, or go on all the same with --force; apply the older manifest to return to all of it",
            );
        }
        notes.push(format!("revision {} also ran with another {what}: that is not restored", state.id));
        // It is not what ran then, and must not be taken for it later.
        content.runs.clear();
        Ok(Choice { id: state.id.clone(), content, notes })
    }

    /// The state before the one in place; while a canary or a rollout is under way, the one that still serves.
    fn previous(&self, view: &View) -> Result<Choice> {
        let live = &view.live;
        if live.canary.is_some() {
            let notes =
                vec!["a canary is under way: it is removed, and the stable one stays as it is".to_owned()];
            let id = view.current().map_or(UNRECORDED, |state| state.id.as_str()).to_owned();
            let content = Content { canary: None, percents: BTreeMap::new(), ..live.clone() };
            return Ok(Choice { id, content, notes });
        }
        let status = |field: &str| json::text(&view.object, &format!("/status/components/predictor/{field}"));
        let named = |states: &[&State], name: Option<&str>| {
            let is_of =
                |state: &&&State| state.predictor().is_some_and(|record| Some(record.name.as_str()) == name);
            states.iter().find(is_of).copied().cloned()
        };
        let rolled_out = status("latestRolledoutRevision");
        let all: Vec<&State> = view.states.iter().collect();
        if live.passing
            && let Some(state) = view.held().cloned()
        {
            let notes = vec![format!("traffic is held on revision {}", state.id)];
            let waits = || {
                Err(Error::new(ErrorKind::Refused, "KServe has not taken up the restored spec yet")
                    .with_hint("traffic is held meanwhile: see its status, and whether its controller runs; or name another revision with --to-revision")
                    .temporary(None))
            };
            let names_it =
                state.predictor().zip(live.specs.get("predictor")).is_some_and(|(record, spec)| {
                    same_models(&template::observed(&record.template).models, &downloaded(spec))
                });
            // Held on what the spec says: it is restored already. Held on something else: that is what to restore.
            return match view.current() {
                None if names_it && !view.is_refused() => waits(),
                Some(_) if view.runs_as_current(&state) => Ok(present(view, notes)),
                Some(_) if view.is_same(&state) && view.is_taken_up() => Ok(present(view, notes)),
                Some(_) if view.is_same(&state) => waits(),
                _ => self.return_to(&state, view, notes),
            };
        }
        if live.percents.get("predictor").is_some_and(|percent| (1..100).contains(percent))
            && let Some(state) = named(&all, rolled_out).filter(|state| !view.is_same(state))
        {
            let notes = vec![format!("a canary is under way: revision {} is the stable one", state.id)];
            return self.return_to(&state, view, notes);
        }
        let current = view.current();
        let left = view.left();
        let (mut notes, mut candidates) = (Vec::new(), Vec::new());
        for state in view.states.iter().skip(usize::from(current.is_some())) {
            // What differs from the present in nothing that a spec tells is the same revision.
            if view.is_same(state) || view.runs_as_current(state) {
                let aside = view.restore(state).aside;
                if !aside.is_empty() {
                    let what = short(&aside);
                    notes.push(format!("revision {} differs in its {what} alone, and is skipped", state.id));
                }
            } else if left.contains(&state.id) {
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
        // Where another component moved last, the predictor's traffic tells nothing.
        let predictor = |state: &State| state.predictor().map(|record| record.number);
        let own = current.and_then(predictor);
        let moved = candidates.first().is_some_and(|first| predictor(first) != own);
        let serving = match view.mode {
            Mode::Knative if current.is_none() || status("latestCreatedRevision") != rolled_out => {
                named(&candidates, rolled_out)
            }
            Mode::Knative => None,
            Mode::Standard => {
                let pods =
                    |state: &State| state.predictor().and_then(|record| record.pods).unwrap_or_default();
                let others = candidates.iter().filter(|state| predictor(state) != own && pods(state) > 0);
                // Of equals the newest, which comes first.
                others.rev().max_by_key(|state| pods(state)).map(|state| (*state).clone())
            }
        };
        if let Some(state) = serving.as_ref().filter(|_| moved) {
            notes.push(format!("a rollout is under way: revision {} is what still serves", state.id));
        }
        let before = || named(&candidates, status("previousRolledoutRevision"));
        let by_traffic = serving.or_else(before).filter(|_| moved);
        match by_traffic.as_ref().or(candidates.first().copied()) {
            Some(state) => self.return_to(state, view, notes),
            None => Err(nothing_earlier(&notes)),
        }
    }

    /// The newest state that ran the model at this URI, else what is there now with that model.
    fn artifact(&self, uri: &str, view: &View) -> Result<Choice> {
        let scheme = uri.split(':').next().unwrap_or_default();
        if matches!(scheme, "models" | "runs" | "mlflow-artifacts" | "file") || !uri.contains(':') {
            let message =
                format!("KServe cannot download {uri}: it is only known to the registry that it is in");
            return Err(Error::new(ErrorKind::Refused, message).with_hint(
                "register the model with an artifact location such as s3://, and name a revision of the InferenceService",
            ));
        }
        let named = view.live.specs.get("predictor").map(models).unwrap_or_default();
        if named.len() > 1 {
            let message =
                format!("its predictor loads several models: which of them {uri} replaces cannot be told");
            return Err(Error::new(ErrorKind::Refused, message)
                .with_hint("name a revision of the InferenceService with --to-revision"));
        }
        // A storage names the path alone: its bucket is in a Secret.
        let path = in_storage(uri);
        let is_wanted = |found: &[String]| {
            same_models(found, &[uri.to_owned()])
                || path.as_ref().is_some_and(|path| same_models(found, std::slice::from_ref(path)))
        };
        let is_live = is_wanted(&named);
        if is_live && view.live.canary.is_none() && view.current().is_some() {
            return Ok(present(view, Vec::new()));
        }
        let is_it = |state: &&State| {
            state.predictor().is_some_and(|r| is_wanted(&template::observed(&r.template).models))
        };
        let ran = || view.states.iter().filter(is_it);
        if let Some(state) = ran().find(|state| !state.is_broken()).or_else(|| ran().next()) {
            let ran = state.predictor().map(|r| template::observed(&r.template).models).unwrap_or_default();
            let by_path = !same_models(&ran, &[uri.to_owned()]);
            let note = format!(
                "revision {} is told by its path alone: whether its storage has the bucket of {uri} is not checked",
                state.id
            );
            return self.return_to(state, view, by_path.then_some(note).into_iter().collect());
        }
        let mut specs = view.live.specs.clone();
        let mut notes =
            vec![format!("no revision that ran {uri} is known: everything but the model stays as it is")];
        let model = match path.filter(|_| named.iter().all(|model| model.starts_with(STORAGE))) {
            Some(path) => {
                notes.push(format!(
                    "its storage stays as it is: whether that has the bucket of {uri} is not checked"
                ));
                path
            }
            None => uri.to_owned(),
        };
        let observed = Observed { models: vec![plain(&model)], ..Observed::default() };
        let moved = specs.get("predictor").and_then(|spec| with_model(spec, &observed)).ok_or_else(|| {
            let message = "its predictor names its model in no place that a URI fits into";
            Error::new(ErrorKind::Refused, message)
        })?;
        specs.insert("predictor".to_owned(), moved);
        let content = Content { specs, ..Content::default() };
        Ok(Choice { id: uri.to_owned(), content, notes })
    }
}

/// What is in place. Held traffic belongs to no revision: to return to this one is to let it go.
fn present(view: &View, notes: Vec<String>) -> Choice {
    let live = view.live.clone();
    let percents = if live.passing { BTreeMap::new() } else { live.percents.clone() };
    Choice { id: view.current_id(), content: Content { percents, passing: false, ..live }, notes }
}

fn nothing_earlier(notes: &[String]) -> Error {
    let hint = "see the history; the cluster keeps a limited number of revisions, and a ledger (rollback record) more";
    let hint = if notes.is_empty() { hint.to_owned() } else { format!("{}; {hint}", notes.join("; ")) };
    Error::new(ErrorKind::NotFound, "no earlier revision to return to").with_hint(hint)
}

/// What is there now with the models of another state.
pub(crate) fn only_models(from: &Content, to: &Content) -> Result<BTreeMap<String, Value>> {
    let mut specs = from.specs.clone();
    for (name, spec) in &mut specs {
        let wanted = to.specs.get(name).filter(|wanted| !same_models(&models(wanted), &models(spec)));
        let Some(wanted) = wanted else { continue };
        *spec = crate::spec::with_model_of(spec, wanted).ok_or_else(|| {
            let message = format!("the {name} names its model in another place now than it did then");
            Error::new(ErrorKind::Refused, message)
                .with_hint("leave out --uri-only to restore its whole spec")
        })?;
    }
    Ok(specs)
}
