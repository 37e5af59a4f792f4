//! Watches until what was changed serves: by revision, by traffic and by what is said of the model; never by the
//! condition Ready alone, which old pods keep true.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ApiResource;
use rollback_core::{
    Change, Error, ErrorKind, Fingerprint, Result, Rollbackable as _, StepContext, Verification,
    VerificationState,
};
use rollback_k8s::backend::{conflict, refuse_another};
use rollback_k8s::json;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::content::{Content, Ends};
use crate::history::{self, Record, of_revision};
use crate::mode::Mode;
use crate::service::InferenceService;
use crate::spec::{downloaded, same_models};
use crate::template;

/// How often the server is asked where no change wakes up.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same, while something is being waited out.
const LOOK_SOON: Duration = Duration::from_secs(1);

impl InferenceService {
    pub(crate) async fn look(&self) -> Result<Verification> {
        let object = self.read().await?;
        let live = Content::live(&object);
        let mut watch = Watching::new(self, None);
        let ends = Ends { from: live.clone(), to: live };
        watch.judge(&object, &ends).await
    }

    pub(crate) async fn watch(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        let ends = Ends::of(change)?;
        let mut own = self.cluster.changes(&Self::resource(), self.namespace());
        let mut children = match Mode::of(&self.read().await?)? {
            Mode::Knative => self.cluster.changes(&knative_revision(), self.namespace()),
            Mode::Standard => self.cluster.changes(&ApiResource::erase::<Deployment>(&()), self.namespace()),
        };
        let mut watching = Watching::new(self, Some(self.options.grace));
        let mut settled: Option<Instant> = None;
        let mut last = String::new();
        loop {
            let (mut seen, contested) = self.look_at(&mut watching, change, &ends).await?;
            match seen.state {
                VerificationState::Failed => return Ok(seen),
                VerificationState::Progressing => settled = None,
                VerificationState::Converged => {
                    let since = *settled.get_or_insert_with(Instant::now);
                    let soak = if contested { self.options.contested_soak } else { Duration::ZERO };
                    if since.elapsed() >= soak {
                        return Ok(seen);
                    }
                    if Instant::now() >= cx.deadline() {
                        seen.notes.push("the time was up before it had been watched to stay so".into());
                        return Ok(seen);
                    }
                    seen.message = "settled; watching that it stays so".into();
                }
            }
            if Instant::now() >= cx.deadline() {
                return Ok(seen);
            }
            if seen.message != last {
                last.clone_from(&seen.message);
                cx.progress(seen.message.as_str());
            }
            let again = if watching.waits() || settled.is_some() { LOOK_SOON } else { LOOK_AGAIN };
            tokio::select! {
                () = own.next() => {}
                () = children.next() => {}
                () = sleep(again) => {}
                () = sleep_until(cx.deadline()) => {}
                () = cx.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "stopped while waiting for the change to settle"));
                }
            }
        }
    }

    /// What is seen now, and whether somebody may take it back.
    async fn look_at(
        &self,
        watching: &mut Watching<'_>,
        change: &Change,
        ends: &Ends,
    ) -> Result<(Verification, bool)> {
        let object = match self.read().await {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Ok((Verification::failed("it was deleted while it was watched"), false));
            }
            read => read?,
        };
        if let Err(error) = refuse_another(change, &object) {
            return Ok((Verification::failed(error.to_string()), false));
        }
        let position = ends.position(&object);
        if position != rollback_core::Position::To {
            let what = match position {
                rollback_core::Position::Elsewhere(what) => what,
                _ => "it is what it was before".to_owned(),
            };
            return Ok((Verification::failed(conflict(&object, &what).to_string()), false));
        }
        let contested = self.options.gitops.is_contested(&object);
        Ok((watching.judge(&object, ends).await?, contested))
    }
}

fn knative_revision() -> ApiResource {
    ApiResource {
        group: "serving.knative.dev".into(),
        version: "v1".into(),
        api_version: "serving.knative.dev/v1".into(),
        kind: "Revision".into(),
        plural: "revisions".into(),
    }
}

/// A change as it is watched.
struct Watching<'a> {
    service: &'a InferenceService,
    /// How long a failure that may pass is waited out; not at all in a single look.
    grace: Option<Duration>,
    waited: BTreeMap<String, Instant>,
    /// Whether the predictor has no pods.
    is_idle: bool,
}

impl<'a> Watching<'a> {
    fn new(service: &'a InferenceService, grace: Option<Duration>) -> Self {
        Self { service, grace, waited: BTreeMap::new(), is_idle: false }
    }

    fn waits(&self) -> bool {
        !self.waited.is_empty()
    }

    /// A failure, once it has been seen for longer than it is waited out.
    fn wait_out(&mut self, why: String) -> Verification {
        let since = *self.waited.entry(why.clone()).or_insert_with(Instant::now);
        if self.grace.is_none_or(|grace| since.elapsed() >= grace) {
            return Verification::failed(why);
        }
        Verification::progressing(why)
    }

    async fn judge(&mut self, object: &Value, ends: &Ends) -> Result<Verification> {
        let mode = Mode::of(object)?;
        let mut told = Vec::new();
        let children = match mode {
            Mode::Knative => BTreeMap::new(),
            Mode::Standard => {
                history::children(&self.service.cluster, self.service.namespace(), object).await?
            }
        };
        for name in ends.to.specs.keys() {
            let seen = match mode {
                Mode::Knative => self.knative(object, ends, name).await?,
                Mode::Standard => self.standard(ends, name, children.get(name.as_str())).await?,
            };
            if !seen.is_converged() {
                return Ok(seen);
            }
            told.push(seen.message);
        }
        if mode == Mode::Standard && ends.to.canary.is_none() && ends.from.canary.is_some() {
            let gone = json::items(object, "/status/canaryStatuses").is_empty();
            if !gone {
                return Ok(Verification::progressing("waiting for the canary to go"));
            }
        }
        let mut notes = Vec::new();
        if let Some(seen) = self.model(object, ends, mode, &mut notes) {
            return Ok(seen);
        }
        self.waited.clear();
        Ok(Verification { notes, ..Verification::converged(told.join("; ")) })
    }

    /// Whether what runs is of the state to be reached, and not what was there before.
    fn has_moved(ends: &Ends, name: &str, template: &Value) -> bool {
        if ends.from.specs.get(name) == ends.to.specs.get(name) {
            return true;
        }
        let runs = template::identity(template);
        let wanted = ends.to.specs.get(name).map(downloaded).unwrap_or_default();
        let model = template::observed(template).models;
        let same_model = wanted.is_empty() || same_models(&wanted, &model);
        match (ends.from.runs.get(name), ends.to.runs.get(name)) {
            (_, Some(to)) if *to == runs => true,
            // KServe may make another template of the same spec than it did then.
            (Some(from), _) => *from != runs && same_model,
            (None, Some(_)) => false,
            (None, None) => same_model,
        }
    }

    async fn standard(
        &mut self,
        ends: &Ends,
        name: &str,
        child: Option<&history::Child>,
    ) -> Result<Verification> {
        let Some(child) = child else {
            return Ok(Verification::progressing(format!(
                "waiting for KServe to make a Deployment of the {name}"
            )));
        };
        if !Self::has_moved(ends, name, &child.object["spec"]["template"]) {
            let message = format!("waiting for KServe to take the {name} over into its Deployment");
            return Ok(Verification::progressing(message));
        }
        let seen = child.workload.status().await?;
        if name == "predictor" {
            self.is_idle = json::number(&child.object, "/spec/replicas") == Some(0);
        }
        Ok(match seen.state {
            VerificationState::Converged => {
                let model = template::observed(&child.object["spec"]["template"]).models.join(", ");
                Verification::converged(if model.is_empty() {
                    seen.message
                } else {
                    format!("{model}: {}", seen.message)
                })
            }
            VerificationState::Progressing => seen,
            // What failed may be what was there before, for as long as its pods are.
            VerificationState::Failed => self.wait_out(seen.message),
        })
    }

    async fn revision(&self, name: &str) -> Result<Option<Record>> {
        let namespace = self.service.namespace();
        let path = format!("/apis/serving.knative.dev/v1/namespaces/{namespace}/revisions/{name}");
        match self.service.cluster.get(&path, &format!("reading Knative revision {name}")).await {
            Ok(revision) => Ok(Some(of_revision(&revision))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn knative(&mut self, object: &Value, ends: &Ends, name: &str) -> Result<Verification> {
        let status = |field: &str| json::text(object, &format!("/status/components/{name}/{field}"));
        let Some(latest) = status("latestCreatedRevision") else {
            return Ok(Verification::progressing(format!(
                "waiting for KServe to make a revision of the {name}"
            )));
        };
        let Some(newest) = self.revision(latest).await? else {
            return Ok(Verification::progressing(format!("waiting for Knative revision {latest}")));
        };
        if !Self::has_moved(ends, name, &newest.template) {
            let message = format!("waiting for KServe to make a revision of the restored {name}");
            return Ok(Verification::progressing(message));
        }
        if name == "predictor" {
            self.is_idle = newest.pods == Some(0);
        }
        let held = ends.to.pinned.get(name);
        let moves = ends.from.specs.get(name) != ends.to.specs.get(name);
        if held.is_none() || moves {
            if newest.ready == Some(false) {
                return Ok(self.wait_out(format!("Knative revision {latest} does not become ready")));
            }
            if newest.ready != Some(true) || status("latestReadyRevision") != Some(latest) {
                return Ok(Verification::progressing(format!(
                    "waiting for Knative revision {latest} to become ready"
                )));
            }
        }
        let traffic = json::items(object, &format!("/status/components/{name}/traffic"));
        let shares: Vec<(String, i64)> = traffic
            .iter()
            .filter_map(|entry| {
                Some((entry["revisionName"].as_str()?.to_owned(), entry["percent"].as_i64()?))
            })
            .filter(|(_, percent)| *percent > 0)
            .collect();
        let told = shares
            .iter()
            .map(|(name, percent)| format!("{percent} % on {name}"))
            .collect::<Vec<_>>()
            .join(", ");
        let told = if told.is_empty() { "none".to_owned() } else { told };
        let all: i64 = shares.iter().map(|(_, percent)| percent).sum();
        let is_there = if let Some(held) = held {
            self.runs_alike(held, ends.from.runs.get(name), &shares).await?
        } else {
            let wanted = ends.to.percents.get(name).copied().unwrap_or(100);
            let own: i64 = shares.iter().filter(|(name, _)| name == latest).map(|(_, percent)| percent).sum();
            own == wanted || own == 100
        };
        let is_there = is_there && all == 100;
        if !is_there {
            return Ok(Verification::progressing(format!(
                "waiting for traffic of the {name} to move: {told}"
            )));
        }
        if let Some(held) = held
            && let Some(record) = self.revision(held).await?
            && shares.iter().any(|(name, _)| name == held)
            && record.pods == Some(0)
            && min_scale(&record.template) != "0"
        {
            return Ok(Verification::progressing(format!("waiting for pods of Knative revision {held}")));
        }
        let model = template::observed(&newest.template).models.join(", ");
        Ok(Verification::converged(match held {
            Some(_) => format!("traffic of the {name} is held: {told}"),
            None if model.is_empty() => told,
            None => format!("{model}: {told}"),
        }))
    }

    /// Whether all that get traffic run what the held revision runs, and none what is being `left`.
    async fn runs_alike(
        &self,
        held: &str,
        left: Option<&Fingerprint>,
        shares: &[(String, i64)],
    ) -> Result<bool> {
        let others: Vec<_> = shares.iter().filter(|(name, _)| name != held).collect();
        if others.is_empty() {
            return Ok(true);
        }
        let Some(wanted) = self.revision(held).await? else { return Ok(false) };
        let (wanted, models) =
            (template::identity(&wanted.template), template::observed(&wanted.template).models);
        for (name, _) in others {
            let Some(record) = self.revision(name).await? else { return Ok(false) };
            let found = template::identity(&record.template);
            let same_model =
                !models.is_empty() && same_models(&models, &template::observed(&record.template).models);
            if found != wanted && !(same_model && left != Some(&found)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What keeps the model from being served; none when nothing does, or nothing is said of it.
    fn model(
        &mut self,
        object: &Value,
        ends: &Ends,
        mode: Mode,
        notes: &mut Vec<String>,
    ) -> Option<Verification> {
        let status = object.pointer("/status/modelStatus")?;
        let state = json::text(status, "/transitionStatus")?;
        let active = json::text(status, "/states/activeModelState").unwrap_or_default();
        if state == "UpToDate" && matches!(active, "" | "Loaded" | "Standby") {
            return None;
        }
        // Without pods nothing loads the model, and KServe waits for the first request.
        let target = json::text(status, "/states/targetModelState").unwrap_or_default();
        if self.is_idle && state == "InProgress" && matches!(target, "" | "Pending") {
            return None;
        }
        // While traffic is held, what is said may be of the revision that is being left.
        if ends.to.passing && ends.from.specs == ends.to.specs {
            return None;
        }
        let failure = &status["lastFailureInfo"];
        let text = |key: &str| failure[key].as_str().filter(|text| !text.is_empty());
        let why = [text("reason"), text("message")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        // In Standard mode KServe asks any pod, also one of before that is on its way out; the Deployment tells more.
        if mode == Mode::Standard && state != "InvalidSpec" {
            let told = format!("KServe says of the model: {state}{why}");
            if self.wait_out(told.clone()).state == VerificationState::Failed {
                notes.push(told);
                return None;
            }
            return Some(Verification::progressing(told));
        }
        Some(match state {
            "BlockedByFailedLoad" | "InvalidSpec" => {
                self.wait_out(format!("the model cannot be served, {state}{why}"))
            }
            _ => Verification::progressing(format!("waiting for the model to load: {state}")),
        })
    }
}

/// The least number of pods that a Knative revision asks for.
pub(crate) fn min_scale(template: &Value) -> &str {
    json::annotation(template, "autoscaling.knative.dev/min-scale")
        .or_else(|| json::annotation(template, "autoscaling.knative.dev/minScale"))
        .unwrap_or("0")
}
