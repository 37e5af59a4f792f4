//! Hides what nobody should read over a shoulder or in a log: inline values of environment variables whose
//! names look secret, and passwords in addresses.

use serde_json::{Map, Value};

use crate::FieldChange;

/// What stands for a hidden value.
pub const MASK: &str = "***";

/// Parts of names that look secret. Hiding too much costs a look at the object; hiding too little costs
/// the secret.
const SECRET: [&str; 18] = [
    "PASS",
    "PWD",
    "SECRET",
    "TOKEN",
    "KEY",
    "CREDENTIAL",
    "AUTH",
    "PRIVATE",
    "DSN",
    "CONNECTION_STRING",
    "CONNECTIONSTRING",
    "CONN_STR",
    "SIGNATURE",
    "COOKIE",
    "JWT",
    "BEARER",
    "WEBHOOK",
    "SALT",
];

/// Whether a variable of this name is likely to hold a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    SECRET.iter().any(|part| name.contains(part))
}

/// A field change that may be shown.
pub fn field(change: &FieldChange) -> FieldChange {
    let hidden = is_secret_value(&change.path);
    let show = |value: &Value| if hidden { Value::from(MASK) } else { self::value(value) };
    FieldChange {
        path: change.path.clone(),
        from: change.from.as_ref().map(show),
        to: change.to.as_ref().map(show),
    }
}

/// Whether the path ends in the value of a secret variable, `…/env/NAME/value`, or in secret data, `/data/NAME`. A position in place of the
/// name does not tell, so it counts as secret.
fn is_secret_value(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let (last, name) = (parts.next(), parts.next().unwrap_or_default());
    let is_position = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let is_data = matches!(name, "data" | "stringData" | "binaryData");
    (last == Some("value") && (is_position || is_secret(name))) || (is_data && last.is_some_and(is_secret))
}

/// Any JSON: entries `{name, value}` whose name looks secret lose the value, at any depth, also in JSON
/// kept as text, as the last-applied annotation is.
pub fn value(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let hidden = members.get("name").and_then(Value::as_str).is_some_and(is_secret);
            let show = |(key, member): (&String, &Value)| match key.as_str() {
                "value" if hidden => (key.clone(), Value::from(MASK)),
                _ => (key.clone(), self::value(member)),
            };
            Value::Object(members.iter().map(show).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(self::value).collect(),
        Value::String(text) => Value::from(self::text(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Free text: JSON as [`value`], otherwise the words `NAME=value` and `scheme://user:password@host`.
pub fn text(text: &str) -> String {
    if text.trim_start().starts_with(['{', '['])
        && let Ok(parsed) = serde_json::from_str::<Value>(text)
    {
        return value(&parsed).to_string();
    }
    text.split_inclusive(char::is_whitespace).map(word).collect()
}

fn word(word: &str) -> String {
    let bare = word.trim_end();
    let space = word.get(bare.len()..).unwrap_or_default();
    if let Some((name, _)) = bare.split_once('=') {
        let plain = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !plain.is_empty() && plain.chars().all(is_name) && is_secret(plain) {
            return format!("{name}={MASK}{space}");
        }
    }
    address(word)
}

fn address(word: &str) -> String {
    let masked = (|| {
        let (scheme, rest) = word.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (user, host) = authority.rsplit_once('@')?;
        // A lone user name may be a token.
        let user = user.split_once(':').map(|(user, _)| format!("{user}:")).unwrap_or_default();
        Some(format!("{scheme}://{user}{MASK}@{host}{path}"))
    })();
    masked.unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(path: &str, from: Value, to: Value) -> FieldChange {
        field(&FieldChange { path: path.into(), from: Some(from), to: Some(to) })
    }

    #[test]
    fn the_value_of_a_secret_variable_is_hidden_wherever_it_stands() {
        let entry = json!({"name": "DB_PASSWORD", "value": "hunter2"});
        let container = json!({"name": "web", "image": "web:1", "env": [entry]});
        let template = json!({"spec": {"containers": [container]}});
        for (path, value) in [
            ("/env/DB_PASSWORD", entry.clone()),
            ("/env/3", entry.clone()),
            ("/env", json!([entry, {"name": "MODE", "value": "fast"}])),
            ("/containers/web", container.clone()),
            ("/spec/template", template.clone()),
            ("/metadata/annotations/last", json!(template.to_string())),
            ("/env/DB_PASSWORD/value", json!("hunter2")),
            ("/env/3/value", json!("hunter2")),
            ("/args", json!(["--db-password=hunter2"])),
            ("/metadata/annotations/cause", json!("kubectl set env deploy/web API_TOKEN=hunter2 --record")),
            ("/env/DB_URL/value", json!("postgres://web:hunter2@db:5432/shop?x=1")),
        ] {
            let shown = change(path, value.clone(), value);
            let text = serde_json::to_string(&shown).unwrap();
            assert!(!text.contains("hunter2"), "{path}: {text}");
            assert!(text.contains(MASK), "{path}: {text}");
        }
    }

    #[test]
    fn names_look_secret_in_any_case() {
        for name in ["password", "DbPasswd", "api-key", "SLACK_TOKEN", "DATABASE_DSN", "ConnectionString"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["MODE", "REPLICAS", "IMAGE", "LOG_LEVEL"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn everything_else_stays_readable() {
        for value in [
            json!("web:1.27"),
            json!("registry.example/web@sha256:0a"),
            json!("https://example.com/a@b"),
            json!({"name": "MODE", "value": "fast"}),
            json!({"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}),
            json!(["sh", "-c", "exec  web --mode=fast\n"]),
            json!([1, true, null]),
        ] {
            assert_eq!(super::value(&value), value);
        }
    }

    #[test]
    fn an_address_keeps_its_user_and_host() {
        assert_eq!(text("postgres://web:pw@db/shop"), "postgres://web:***@db/shop");
        assert_eq!(text("https://ghp_abc@github.com/x"), "https://***@github.com/x");
    }

    #[test]
    fn an_absent_value_stays_absent() {
        let gone = FieldChange { path: "/env/KEY/value".into(), from: None, to: Some(json!("x")) };
        assert_eq!(field(&gone).from, None);
        assert_eq!(field(&gone).to, Some(json!(MASK)));
    }
}
