//! The shape of a runbook: for editors, and for telling everything that is wrong with one at once.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use marked_yaml::{LoadError, LoaderOptions, Node, parse_yaml_with_options};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::File;

/// What is not to be written.
const SECRET: &str = "; a secret is given by env, the name of a variable, or by file, and never written here";

/// What values with a unit look like.
const FORM: &str = "a duration is 30s, 5m or 1d12h, a share 5% or 0.05, a time 2026-11-23T03:00:00Z";

/// The JSON Schema of a runbook.
pub(crate) fn schema() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    let mut schema = without_null(schema.to_value());
    if let Some(members) = schema.as_object_mut() {
        members.insert("title".into(), "Runbook of rollback.dev/v1alpha1".into());
    }
    schema
}

/// What may be left out is not written as null, so that what is wrong with it is told of itself.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let null = serde_json::json!({"type": "null"});
            let mut kept: Map<String, Value> =
                members.into_iter().map(|(key, member)| (key, without_null(member))).collect();
            if let Some(Value::Array(choices)) = kept.get("anyOf")
                && choices.contains(&null)
            {
                let mut others = choices.iter().filter(|choice| **choice != null).cloned();
                if let (Some(Value::Object(one)), None) = (others.next(), others.next()) {
                    kept.remove("anyOf");
                    kept.extend(one);
                }
            }
            if let Some(Value::Array(types)) = kept.get_mut("type") {
                types.retain(|one| one != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    kept.insert("type".into(), one);
                }
            }
            kept.retain(|key, member| !(key == "default" && member.is_null()));
            Value::Object(kept)
        }
        Value::Array(items) => items.into_iter().map(without_null).collect(),
        scalar => scalar,
    }
}

/// Everything in a document that is not of the shape of a runbook: where, as a JSON pointer, and what.
pub(super) fn faults(document: &Value) -> Vec<(String, String)> {
    let schema = schema();
    let Ok(validator) = Validator::new(&schema) else { return Vec::new() };
    let mut all = Vec::new();
    for error in validator.iter_errors(document) {
        // Nothing stands for what is left out; where it may not be, the reader says so.
        if error.instance().is_null() {
            continue;
        }
        let pointer = error.instance_path().to_string();
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let known = known_beside(&validator, &schema, document, &pointer);
                for name in unexpected {
                    let hint = nearest(name, &known).map(|near| format!(", did you mean {near}?"));
                    let hint = hint.unwrap_or_else(|| format!("; it has: {}", known.join(", ")));
                    all.push((format!("{pointer}/{}", token(name)), format!("unknown field {name}{hint}")));
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                all.push((pointer, format!("the field {name} is missing")));
            }
            ValidationErrorKind::Pattern { .. } => {
                all.push((pointer, format!("it is not of the right form: {FORM}")));
            }
            // A plain number or word may stand for text, where any text will do.
            ValidationErrorKind::Type { kind: TypeKind::Single(one) }
                if one.to_string() == "string"
                    && (error.instance().is_number() || error.instance().is_boolean()) =>
            {
                let mut written = document.clone();
                if let Some(value) = written.pointer_mut(&pointer) {
                    *value = Value::from(value.to_string());
                }
                if validator.iter_errors(&written).any(|error| error.instance_path().to_string() == pointer) {
                    all.push((pointer, format!("it is not of the right form: {FORM}")));
                }
            }
            // What stands there may be a secret that belongs elsewhere.
            ValidationErrorKind::Type { kind } => {
                let wanted = match kind {
                    TypeKind::Single(one) => one.to_string(),
                    TypeKind::Multiple(several) => {
                        several.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" or ")
                    }
                };
                let is_secret = wanted == "object" && error.schema_path().to_string().contains("Secret");
                let hint = if is_secret { SECRET } else { "" };
                all.push((pointer, format!("it is of the wrong type: {wanted} is wanted{hint}")));
            }
            ValidationErrorKind::Enum { options } => {
                let words = options.as_array().into_iter().flatten().filter_map(Value::as_str);
                let words: Vec<String> = words.map(str::to_owned).collect();
                let near = error.instance().as_str().and_then(|written| nearest(written, &words));
                let hint = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                all.push((pointer, format!("it is one of {}{hint}", words.join(", "))));
            }
            _ => all.push((pointer, format!("it is not what is wanted here ({})", error.kind().keyword()))),
        }
    }
    all
}

/// A field that is given twice, of which readers of YAML take the one or the other.
pub(super) fn twice(text: &str) -> Option<String> {
    let options = LoaderOptions::default().error_on_duplicate_keys(true);
    let Err(LoadError::DuplicateKey(found)) = parse_yaml_with_options(0, text, options) else { return None };
    let (first, second) = (found.prev_key.span().start()?, found.key.span().start()?);
    let (line, column, name) = (second.line(), second.column(), found.key.as_str());
    Some(format!(
        "line {line}, column {column}: the field {name} is given twice, first on line {}",
        first.line()
    ))
}

/// A document without the fields that are faulty. What is an item of a list stays, so that the others keep their places.
pub(super) fn without(mut document: Value, faults: &[(String, String)]) -> Value {
    for (pointer, _) in faults {
        let Some((parent, field)) = pointer.rsplit_once('/') else { continue };
        if let Some(Value::Object(members)) = document.pointer_mut(parent) {
            members.remove(&field.replace("~1", "/").replace("~0", "~"));
        }
    }
    document
}

/// The section, or the item of one, that a JSON pointer leads into, in words.
pub(super) fn item(pointer: &str) -> String {
    let mut parts = pointer.split('/').skip(1);
    let section = parts.next().unwrap_or_default();
    match parts.next().filter(|part| part.parse::<usize>().is_ok()) {
        Some(index) => format!("{section}[{index}]"),
        None => section.to_owned(),
    }
}

/// The fields that an object may have: those that are not unknown when they are added.
fn known_beside(validator: &Validator, schema: &Value, document: &Value, pointer: &str) -> Vec<String> {
    let is_known = |name: &String| {
        let mut tried = document.clone();
        let Some(Value::Object(members)) = tried.pointer_mut(pointer) else { return false };
        members.clear();
        members.insert(name.clone(), Value::Null);
        !validator.iter_errors(&tried).any(|error| {
            error.instance_path().to_string() == pointer
                && matches!(error.kind(), ValidationErrorKind::AdditionalProperties { .. })
        })
    };
    names(schema).into_iter().filter(is_known).collect()
}

/// All names of fields in a schema.
fn names(schema: &Value) -> Vec<String> {
    fn collect(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::Object(properties)) = members.get("properties") {
                    into.extend(properties.keys().cloned());
                }
                members.values().for_each(|member| collect(member, into));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            _ => {}
        }
    }
    let mut all = BTreeSet::new();
    collect(schema, &mut all);
    all.into_iter().collect()
}

/// Which of the known names is so near to another one that it may be meant.
pub(crate) fn nearest<'a, T: AsRef<str>>(name: &str, known: &'a [T]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let distance = |other: &&str| strsim::damerau_levenshtein(&lower, &other.to_lowercase());
    // Of a short name almost any other is near.
    let most = (2 + name.len() / 5).min(name.len() / 3);
    let known = known.iter().map(AsRef::as_ref);
    known.min_by_key(distance).filter(|near| distance(near) <= most)
}

/// A name as a part of a JSON pointer.
fn token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Where in a text the parts of its document are.
pub(super) struct Places(BTreeMap<String, (usize, usize)>);

impl Places {
    pub(super) fn of(text: &str) -> Self {
        let mut all = BTreeMap::new();
        if let Ok(node) = marked_yaml::parse_yaml(0, text) {
            walk(&node, "", &mut all);
        }
        Self(all)
    }

    /// A fault with its place in words, such as `plans[0] (model).steps[2]`, and where that is.
    pub(super) fn told(&self, fault: &str) -> String {
        let place = fault.split_once(": ").map_or("", |(place, _)| place);
        self.with(&pointer(place), fault)
    }

    /// A fault of the part at a JSON pointer, and where that is; of what is not there, where it would be.
    pub(super) fn with(&self, pointer: &str, fault: &str) -> String {
        let mut pointer = pointer;
        loop {
            if let Some((line, column)) = self.0.get(pointer) {
                return format!("line {line}, column {column}: {fault}");
            }
            match pointer.rfind('/') {
                Some(end) => pointer = pointer.get(..end).unwrap_or_default(),
                None => return fault.to_owned(),
            }
        }
    }
}

fn walk(node: &Node, pointer: &str, all: &mut BTreeMap<String, (usize, usize)>) {
    let mut at = |pointer: &str, span: &marked_yaml::Span| {
        if let Some(start) = span.start() {
            all.entry(pointer.to_owned()).or_insert((start.line(), start.column()));
        }
    };
    match node {
        Node::Scalar(scalar) => at(pointer, scalar.span()),
        Node::Mapping(mapping) => {
            at(pointer, mapping.span());
            for (key, member) in mapping.iter() {
                let own = format!("{pointer}/{}", token(key));
                if let Some(start) = key.span().start() {
                    all.insert(own.clone(), (start.line(), start.column()));
                }
                walk(member, &own, all);
            }
        }
        Node::Sequence(sequence) => {
            at(pointer, sequence.span());
            for (index, item) in sequence.iter().enumerate() {
                walk(item, &format!("{pointer}/{index}"), all);
            }
        }
    }
}

/// From a place in words to a JSON pointer.
fn pointer(place: &str) -> String {
    let mut pointer = String::new();
    let mut inside = false;
    for c in place.chars() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ if inside => {}
            '.' | '[' => pointer.push('/'),
            ']' | ' ' => {}
            c => pointer.push(c),
        }
    }
    format!("/{pointer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_words_becomes_a_pointer() {
        assert_eq!(pointer("plans[0] (model).steps[2]"), "/plans/0/steps/2");
        assert_eq!(pointer("policies[1] (a.b).when.allOf[0]"), "/policies/1/when/allOf/0");
    }

    #[test]
    fn the_schema_knows_every_section_and_takes_nothing_else() {
        let schema = schema();
        assert_eq!(schema["additionalProperties"], false);
        for section in ["components", "plans", "irreversible", "policies", "notify", "incidents", "journal"] {
            assert!(schema["properties"][section].is_object(), "{section}");
        }
        assert!(!schema.to_string().contains(r#""null""#));
    }
}
