//! Names as they are typed: of components, and of the revisions to return to.

use percent_encoding::percent_decode_str;
use rollback_core::{ComponentId, Error, ErrorKind, Result, Target};
use rollback_k8s::WorkloadKind;

use crate::runbook::{Runbook, did_you_mean};

const KNOWN: &str = "deployment (deploy), statefulset (sts), daemonset (ds), inferenceservice (isvc), model and environment (env)";

/// The types as they are offered to somebody who types one.
pub(crate) const TYPES: [&str; 11] = [
    "deployment",
    "deploy",
    "statefulset",
    "sts",
    "daemonset",
    "ds",
    "inferenceservice",
    "isvc",
    "model",
    "environment",
    "env",
];

/// What a word for a type names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Workload(WorkloadKind),
    Service,
    Model,
    Environment,
}

/// The type that a word names.
pub(crate) fn type_named(word: &str) -> Option<Named> {
    match word.parse() {
        Ok(kind) => Some(Named::Workload(kind)),
        Err(_) if is_service(word) => Some(Named::Service),
        Err(_) if is_model(word) => Some(Named::Model),
        Err(_) if is_environment(word) => Some(Named::Environment),
        Err(_) => None,
    }
}

/// What sort of component it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Workload(WorkloadKind),
    Service,
    /// With what the runbook says of it.
    Environment(Pinned),
    /// With the pointer, where the name says it.
    Model(Option<String>),
}

/// Where an environment comes from, and what the runbook says of how it is returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) repository: Option<String>,
    pub(crate) tags: Option<String>,
    pub(crate) prune: bool,
}

/// A component as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) written: String,
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    /// The registry of a model, where the runbook says it.
    pub(crate) tracking_uri: Option<String>,
}

impl Component {
    /// Whether it may be the one of this id, as far as that is known without making it: to make an environment may take
    /// its repository.
    pub(crate) fn may_be(&self, id: &ComponentId) -> bool {
        match &self.kind {
            Kind::Workload(kind) => id.kind() == kind.as_str() && id.name() == self.name,
            Kind::Service => id.kind() == "inferenceservice" && id.name() == self.name,
            Kind::Environment(_) => id.kind() == "environment",
            Kind::Model(_) => id.kind() == "model",
        }
    }
}

/// Reads components; `deployment web api` means `deployment/web deployment/api`, as for kubectl.
///
/// A bare name is that of a component of the runbook.
pub(crate) fn parse_all(words: &[String], runbook: Option<&Runbook>) -> Result<Vec<Component>> {
    let parse = |word: &String| match runbook.and_then(|runbook| runbook.component(word)) {
        Some(component) => Ok(component.clone()),
        None => parse(word, runbook),
    };
    let is_of_runbook = |word: &String| {
        runbook.is_some_and(|book| book.component(word).is_some() || book.plan(word).is_some())
    };
    match words {
        [kind, names @ ..]
            if !words.iter().all(is_of_runbook)
                && !names.is_empty()
                && type_named(kind).is_some_and(|named| named != Named::Environment)
                && names.iter().all(|name| !name.contains('/')) =>
        {
            names.iter().map(|name| parse(&format!("{kind}/{name}"))).collect()
        }
        _ => words.iter().map(parse).collect(),
    }
}

/// Whether a word is a type, so that no component can have it for its name.
pub(crate) fn is_type(word: &str) -> bool {
    type_named(word).is_some()
}

fn is_environment(kind: &str) -> bool {
    matches!(kind.to_ascii_lowercase().as_str(), "environment" | "environments" | "env")
}

fn is_model(kind: &str) -> bool {
    matches!(kind.to_ascii_lowercase().as_str(), "model" | "models")
}

/// `isvc`, and whatever kubectl takes for it, with or without version and group.
fn is_service(kind: &str) -> bool {
    let lower = kind.to_ascii_lowercase();
    let (name, group) = lower.split_once('.').unwrap_or((&lower, ""));
    matches!(name, "inferenceservice" | "inferenceservices" | "isvc")
        && matches!(group, "" | "serving.kserve.io" | "v1beta1.serving.kserve.io")
}

fn parse(written: &str, runbook: Option<&Runbook>) -> Result<Component> {
    let mut parts = written.split('/');
    let kind = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    if rest.is_empty() {
        let Some(runbook) = runbook else {
            let message = format!("{written:?} names no type, and there is no runbook that knows it");
            return Err(Error::new(ErrorKind::InvalidConfig, message).with_hint(format!(
                "write TYPE/NAME, such as deployment/{written}, or name a runbook with -f"
            )));
        };
        if runbook.plan(written).is_some() {
            let message = format!("{written} is a plan of the runbook, and a plan stands alone");
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .with_hint("plans are for the commands plan and undo; give one at a time"));
        }
        let message = format!("{written:?} names no type, and is no component of the runbook");
        let known = runbook.names();
        return Err(Error::new(ErrorKind::InvalidConfig, message + &did_you_mean(written, &known))
            .with_hint(format!("it knows: {}; else write TYPE/NAME", known.join(", "))));
    }
    let kind = match type_named(kind) {
        Some(Named::Model) => return model(written, &rest),
        Some(Named::Environment) => return environment(written, &rest.join("/")),
        Some(Named::Workload(kind)) => Kind::Workload(kind),
        Some(Named::Service) => Kind::Service,
        None => {
            let near = did_you_mean(kind, &TYPES);
            return Err(invalid(format!(
                "{written}: {kind:?} is no type known{near}; the types are {KNOWN}"
            )));
        }
    };
    let (namespace, name) = match rest.as_slice() {
        [name] => (None, *name),
        [namespace, name] => (Some((*namespace).to_owned()), *name),
        _ => return Err(invalid(format!("{written}: write TYPE/NAME or TYPE/NAMESPACE/NAME"))),
    };
    if name.is_empty() || namespace.as_deref() == Some("") {
        return Err(invalid(format!("{written}: write TYPE/NAME or TYPE/NAMESPACE/NAME")));
    }
    Ok(Component { written: written.to_owned(), kind, namespace, name: name.to_owned(), tracking_uri: None })
}

/// Reads `environment/PATH`, whose path is from the root of the repository.
fn environment(written: &str, path: &str) -> Result<Component> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Err(invalid(format!("{written}: write environment/PATH, from the root of the repository")));
    }
    Ok(Component {
        written: written.to_owned(),
        kind: Kind::Environment(Pinned::default()),
        namespace: None,
        name: path.to_owned(),
        tracking_uri: None,
    })
}

/// Reads `model/NAME`, or `model/NAME@POINTER` as JSON prints it.
fn model(written: &str, rest: &[&str]) -> Result<Component> {
    let [name] = rest else {
        return Err(invalid(format!("{written}: write model/NAME, or model/NAME@POINTER")));
    };
    let (name, pointer) = match name.rsplit_once('@') {
        // As JSON prints it, and so with what a component's name may not hold encoded.
        Some((name, pointer)) => {
            let name = percent_decode_str(name).decode_utf8();
            let name = name.map_err(|_| invalid(format!("{written}: the name is not encoded as UTF-8")))?;
            (name.into_owned(), Some(pointer.to_owned()))
        }
        None => ((*name).to_owned(), None),
    };
    if name.is_empty() || pointer.as_deref() == Some("") {
        return Err(invalid(format!("{written}: write model/NAME, or model/NAME@POINTER")));
    }
    let kind = Kind::Model(pointer);
    Ok(Component { written: written.to_owned(), kind, namespace: None, name, tracking_uri: None })
}

/// Whether the namespace of a name and the one asked for by `-n` fit together.
pub(crate) fn check_namespace(written: &str, own: Option<&str>, asked: Option<&str>) -> Result<()> {
    match (own, asked) {
        (Some(own), Some(asked)) if own != asked => {
            Err(invalid(format!("{written} is in namespace {own}, and -n says {asked}")))
        }
        _ => Ok(()),
    }
}

/// One `--to-revision`.
#[derive(Debug)]
pub(crate) struct Wanted {
    written: String,
    /// The component that it is for; none where there is only one.
    name: Option<String>,
    revision: String,
}

/// Reads the values of `--to-revision`: `R`, or `NAME=R`.
pub(crate) fn parse_revisions(values: &[String]) -> Result<Vec<Wanted>> {
    let read = |value: &String| {
        let (name, revision) = match value.rsplit_once('=') {
            Some((name, revision)) => (Some(name.to_owned()), revision),
            None => (None, value.as_str()),
        };
        Ok(Wanted { written: value.clone(), name, revision: revision.to_owned() })
    };
    values.iter().map(read).collect()
}

/// What a revision means that was typed for this component.
fn target(written: &str, revision: &str, id: &ComponentId) -> Result<Target> {
    if id.kind() == "environment" && !revision.is_empty() {
        // A tag, a branch, or a commit, which may look like a number.
        return Ok(if revision == "0" { Target::Previous } else { Target::Revision(revision.to_owned()) });
    }
    let is_model = id.kind() == "model";
    let is_service = id.kind() == "inferenceservice";
    let version = revision.strip_prefix('v').filter(|_| is_model).unwrap_or(revision);
    match version.parse::<i64>() {
        Ok(0) => Ok(Target::Previous),
        Ok(number) if number > 0 => Ok(Target::Revision(number.to_string())),
        _ if is_service && numbers(revision).is_some() => {
            Ok(Target::Revision(numbers(revision).unwrap_or_default()))
        }
        _ if is_model && (revision == "none" || is_several(revision)) => {
            Ok(Target::Revision(revision.to_owned()))
        }
        // As history names one whose number another has by now.
        _ if is_fingerprint(revision) => Ok(Target::Revision(revision.to_owned())),
        _ => {
            let none = match id.kind() {
                "model" => "; `none` empties a stage",
                "inferenceservice" => "; with a transformer it is one of each, such as 5.2",
                _ => "",
            };
            Err(invalid(format!(
                "--to-revision {written}: a revision is a number from 1, and 0 the previous one{none}"
            )))
        }
    }
}

/// Whether it names the versions that were in one stage together, such as `5+4`.
fn is_several(text: &str) -> bool {
    text.contains('+') && text.split('+').all(|version| version.parse::<u32>().is_ok())
}

/// Whether it names a revision of each component of an InferenceService, such as `5.2`.
fn numbers(text: &str) -> Option<String> {
    let number = |part: &str| {
        let is_plain = part.chars().all(|c| c.is_ascii_digit());
        part.parse::<u32>().ok().filter(|number| is_plain && *number > 0).map(|number| number.to_string())
    };
    let all: Option<Vec<String>> = text.split('.').map(number).collect();
    all.map(|all| all.join("."))
}

fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix("sha256:");
    digits.is_some_and(|digits| digits.len() >= 12 && digits.chars().all(|c| c.is_ascii_hexdigit()))
}

/// What each component, given by its name as written and its id, returns to.
pub(crate) fn targets(
    components: &[(&str, &ComponentId)],
    wanted: Vec<Wanted>,
    otherwise: &Target,
) -> Result<Vec<Target>> {
    let mut targets: Vec<Option<Target>> = vec![None; components.len()];
    for Wanted { written, name, revision } in wanted {
        let place = match (&name, components) {
            (Some(name), _) => {
                // The same in other words is the same.
                let read = parse(name, None)
                    .ok()
                    .filter(|read| matches!(read.kind, Kind::Workload(_) | Kind::Service));
                let is_same = |id: &ComponentId| {
                    read.as_ref().is_some_and(|read| {
                        read.may_be(id) && read.namespace.as_deref().is_none_or(|own| id.scope() == Some(own))
                    })
                };
                let is_named = |(text, id): &(&str, &ComponentId)| *text == name || id.to_string() == *name;
                let mut others = (0..).zip(components).filter(|(_, (_, id))| is_same(id));
                match (components.iter().position(is_named), others.next(), others.next()) {
                    (Some(place), ..) | (None, Some((place, _)), None) => place,
                    (None, Some(_), Some(_)) => {
                        return Err(invalid(format!(
                            "--to-revision {written}: {name} may be any of several components given"
                        )));
                    }
                    (None, None, _) => {
                        let known: Vec<_> = components.iter().map(|(text, _)| *text).collect();
                        let near = did_you_mean(name, &known);
                        return Err(invalid(format!(
                            "--to-revision {written}: {name} is none of the components given{near}"
                        )));
                    }
                }
            }
            (None, [_]) => 0,
            (None, _) => {
                let example = components.first().map_or("NAME", |(text, _)| *text);
                return Err(invalid(format!(
                    "--to-revision {written}: there are several components, write {example}={written}"
                )));
            }
        };
        let Some((_, id)) = components.get(place) else { continue };
        let target = target(&written, &revision, id)?;
        match targets.get_mut(place) {
            Some(slot @ None) => *slot = Some(target),
            _ => return Err(invalid(format!("--to-revision {written}: given twice for this component"))),
        }
    }
    Ok(targets.into_iter().map(|target| target.unwrap_or_else(|| otherwise.clone())).collect())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn id(text: &str) -> ComponentId {
        let parts: Vec<_> = text.split('/').collect();
        ComponentId::new(parts[0], Some(parts[1]), parts[2]).unwrap()
    }

    fn revisions(components: &[(&str, &ComponentId)], line: &str) -> Result<Vec<Target>> {
        targets(components, parse_revisions(&words(line))?, &Target::Previous)
    }

    #[test]
    fn long_short_and_plural_types_name_the_same() {
        for kind in ["deployment", "deployments", "deploy", "deployments.apps", "Deployment"] {
            let name = parse(&format!("{kind}/web"), None).unwrap();
            assert_eq!(
                (name.kind, name.namespace),
                (Kind::Workload(WorkloadKind::Deployment), None),
                "{kind}"
            );
        }
        let kind = |text| parse(text, None).unwrap().kind;
        assert_eq!(kind("sts/db"), Kind::Workload(WorkloadKind::StatefulSet));
        assert_eq!(kind("ds/agent"), Kind::Workload(WorkloadKind::DaemonSet));
        assert_eq!(kind("model/baseline"), Kind::Model(None));
        assert_eq!(kind("models/baseline@production"), Kind::Model(Some("production".into())));
        let spaced = parse("Model/my%20model@champion", None).unwrap();
        assert_eq!((spaced.name.as_str(), spaced.kind), ("my model", Kind::Model(Some("champion".into()))));
        assert_eq!(parse("model/50%20", None).unwrap().name, "50%20", "as it was typed");
        assert_eq!(parse_all(&words("models a b"), None).unwrap()[1].kind, Kind::Model(None));
        for bad in ["model/", "model/%ff@x", "model/@x", "model/a@", "model/a/b"] {
            assert_eq!(parse(bad, None).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn a_name_may_hold_its_namespace() {
        let name = parse("deploy/shop/web", None).unwrap();
        assert_eq!((name.namespace.as_deref(), name.name.as_str()), (Some("shop"), "web"));
    }

    #[test]
    fn a_type_may_stand_apart_from_its_names() {
        let names = parse_all(&words("deployment web api"), None).unwrap();
        assert_eq!(names.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["web", "api"]);
        assert_eq!(
            parse_all(&words("sts db"), None).unwrap()[0].kind,
            Kind::Workload(WorkloadKind::StatefulSet)
        );
        assert_eq!(parse_all(&words("sts/db sts/log"), None).unwrap().len(), 2);
    }

    #[test]
    fn the_name_of_an_environment_is_its_path() {
        for text in ["env/a/b/c", "environment/a/b/c/", "Environments/a/b/c"] {
            let name = parse(text, None).unwrap();
            assert_eq!((name.name.as_str(), &name.namespace), ("a/b/c", &None), "{text}");
        }
        let id = ComponentId::new("environment", None, "a").unwrap();
        let target = |revision| target(revision, revision, &id).unwrap();
        assert_eq!(target("0"), Target::Previous);
        assert_eq!(target("1234567"), Target::Revision("1234567".into()), "the beginning of a commit");
        assert_eq!(parse("env/", None).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(parse("web", None).unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn an_unknown_type_lists_those_known_and_a_bad_form_says_the_form() {
        let error = parse("pod/web", None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("statefulset (sts)"), "{error}");
        for text in ["deploy/", "deploy//web", "deploy/a/b/c", "deploy/a/"] {
            assert_eq!(parse(text, None).unwrap_err().kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }

    #[test]
    fn two_different_namespaces_contradict_each_other() {
        for (own, asked, fits) in [
            (None, None, true),
            (None, Some("shop"), true),
            (Some("shop"), None, true),
            (Some("shop"), Some("shop"), true),
            (Some("shop"), Some("other"), false),
        ] {
            assert_eq!(check_namespace("deploy/web", own, asked).is_ok(), fits, "{own:?} {asked:?}");
        }
    }

    #[test]
    fn a_revision_is_a_number_and_zero_is_the_previous_one() {
        let web = id("deployment/shop/web");
        let one = [("deploy/web", &web)];
        assert_eq!(revisions(&one, "").unwrap(), [Target::Previous]);
        assert_eq!(revisions(&one, "0").unwrap(), [Target::Previous]);
        assert_eq!(revisions(&one, "07").unwrap(), [Target::Revision("7".into())]);
        let print = "sha256:0123456789ab";
        assert_eq!(revisions(&one, print).unwrap(), [Target::Revision(print.into())]);
        for bad in ["sha256:", "sha256:0123456789ax", "-1", "x", "1.5", "", "99999999999999999999", "3 4"] {
            let given = if bad.is_empty() { vec![String::new()] } else { words(bad) };
            let error = parse_revisions(&given)
                .and_then(|wanted| targets(&one, wanted, &Target::Previous))
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
            assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn a_version_of_a_model_may_be_none() {
        let model = ComponentId::new("model", None, "baseline@production").unwrap();
        let one = [("model/baseline", &model)];
        assert_eq!(revisions(&one, "none").unwrap(), [Target::Revision("none".into())]);
        assert_eq!(revisions(&one, "5+4").unwrap(), [Target::Revision("5+4".into())]);
        assert!(revisions(&one, "5+").is_err());
        assert_eq!(revisions(&one, "v4").unwrap(), [Target::Revision("4".into())]);
        assert!(revisions(&one, "x").unwrap_err().to_string().contains("`none`"));
    }

    #[test]
    fn with_several_components_a_revision_names_its_own() {
        let (web, db) = (id("deployment/shop/web"), id("statefulset/shop/db"));
        let two = [("deploy/web", &web), ("sts/db", &db)];
        let expect = [Target::Revision("3".into()), Target::Revision("2".into())];
        assert_eq!(revisions(&two, "statefulset/shop/db=2 deploy/web=3").unwrap(), expect);
        assert_eq!(revisions(&two, "sts/db=2").unwrap()[0], Target::Previous);
        for bad in ["3", "ds/x=3", "sts/db=1 statefulset/shop/db=2"] {
            assert_eq!(revisions(&two, bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }
}
