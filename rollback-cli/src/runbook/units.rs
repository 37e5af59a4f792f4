//! Values as people write them: `5m`, `5%`, and where a secret is.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use rollback_core::{Error, ErrorKind, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// A duration such as `30s`, `5m`, `48h` or `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 30s, 5m, 48h or 1d")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Time, E> {
                time(text).map(Time).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration such as 30s, 5m, 48h or 1d.",
            "pattern": "^([0-9]+(\\.[0-9]+)? *(ms|millis|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d),? *)+$",
        })
    }
}

/// Reads a duration as people write it: `30s`, `5m`, `1h30m`, `1d12h`.
pub(crate) fn time(text: &str) -> Option<Duration> {
    // A day is 24 hours here: nobody means the day on which clocks change.
    let days = text.split_once('d').and_then(|(days, rest)| Some((days.parse::<u32>().ok()?, rest)));
    let (days, rest) = days.unwrap_or((0, text));
    let days = Duration::from_secs(u64::from(days) * 86_400);
    match rest.trim_start() {
        "" if !days.is_zero() => Some(days),
        rest => SpanParser::new().parse_unsigned_duration(rest).ok().map(|time| days.saturating_add(time)),
    }
}

/// A number, or a share such as `5%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 0.05, or a share such as 5%")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Number, E> {
                if value.is_finite() {
                    Ok(Number(value))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(value), &self))
                }
            }

            #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
            fn visit_u64<E: de::Error>(self, value: u64) -> std::result::Result<Number, E> {
                Ok(Number(value as f64))
            }

            #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
            fn visit_i64<E: de::Error>(self, value: i64) -> std::result::Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Number, E> {
                let percent = text.strip_suffix('%').map(str::trim);
                let parsed = percent.unwrap_or(text).parse::<f64>().ok().filter(|value| value.is_finite());
                let parsed = parsed.map(|value| if percent.is_some() { value / 100.0 } else { value });
                parsed.map(Number).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["number", "string"],
            "description": "A number such as 0.05, or a share such as 5%.",
            "pattern": "^-?[0-9]*(\\.[0-9]+)? *%?$",
        })
    }
}

/// Where a secret is. It never is in the runbook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the place of a secret, env or file, and never the secret itself")]
pub(crate) struct Secret {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl Secret {
    /// What is wrong with it.
    pub(super) fn fault(&self) -> Option<&'static str> {
        (self.env.is_some() == self.file.is_some())
            .then_some("a secret is given by env, the name of a variable, or by file, a path")
    }

    /// The secret itself, from a file relative to the folder of the runbook.
    ///
    /// # Errors
    /// `InvalidConfig` where it is not there.
    pub(crate) fn read(&self, folder: &Path) -> Result<String> {
        let (found, place) = match (&self.env, &self.file) {
            (Some(name), _) => {
                (std::env::var(name).map_err(|e| e.to_string()), format!("the variable {name}"))
            }
            (None, Some(path)) => {
                let path = folder.join(path);
                (
                    std::fs::read_to_string(&path).map_err(|e| e.to_string()),
                    format!("the file {}", path.display()),
                )
            }
            (None, None) => (Err("it names neither".into()), "env or file".into()),
        };
        let found = found.map(|text| text.trim_end_matches(['\n', '\r']).to_owned());
        match found {
            Ok(secret) if !secret.is_empty() => Ok(secret),
            Ok(_) => Err(missing(&place, "it is empty")),
            Err(why) => Err(missing(&place, &why)),
        }
    }
}

fn missing(place: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("a secret of the runbook cannot be had from {place}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_people_write_them() {
        let seconds = |text: &str| serde_yaml_ng::from_str::<Time>(text).map(|time| time.0.as_secs()).ok();
        assert_eq!(
            ["30s", "5m", "48h", "1d", "1h30m"].map(seconds),
            [30, 300, 172_800, 86_400, 5400].map(Some)
        );
        assert_eq!(["5", "soon", "-5m", "''", "[]"].map(seconds), [None; 5]);
        let number = |text: &str| serde_yaml_ng::from_str::<Number>(text).map(|number| number.0).ok();
        assert_eq!(["5%", "0.05", "2", "'2'", "12.5 %"].map(number), [0.05, 0.05, 2.0, 2.0, 0.125].map(Some));
        assert_eq!(["much", "5%%", ".nan", ".inf", "{}"].map(number), [None; 5]);
    }

    #[test]
    fn a_secret_is_read_from_a_file_beside_the_runbook_or_a_variable_and_never_guessed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "xoxb-1\n").unwrap();
        let secret = |text: &str| serde_yaml_ng::from_str::<Secret>(text).unwrap();
        assert_eq!(secret("{file: token}").read(folder.path()).unwrap(), "xoxb-1");
        for bad in ["{file: none}", "{env: NO_SUCH_VARIABLE_OF_OURS}", "{}"] {
            assert_eq!(
                secret(bad).read(folder.path()).unwrap_err().kind(),
                ErrorKind::InvalidConfig,
                "{bad}"
            );
        }
        assert!(secret("{}").fault().is_some() && secret("{env: A, file: b}").fault().is_some());
        assert!(serde_yaml_ng::from_str::<Secret>("xoxb-1").is_err());
    }
}
