//! Field changes as lines for people.

use console::Style;
use rollback_core::FieldChange;
use serde_json::Value;
use similar::TextDiff;

use super::{mask, plain};

/// Up to here a value stays on the line of its path.
const SHORT: usize = 120;

/// The change of one field, masked: `~ path: from → to`, `+ path: to` or `- path: from`; long values as a
/// unified diff or indented below.
pub(crate) fn lines(change: &FieldChange, colored: bool) -> Vec<String> {
    let shown = mask::field(change);
    let path = plain(&shown.path);
    let (added, removed, changed) = (Style::new().green(), Style::new().red(), Style::new().yellow());
    match (&shown.from, &shown.to) {
        (Some(from), Some(to)) if from == to => {
            vec![paint(format!("~ {path}: {} (a hidden value changes)", mask::MASK), &changed, colored)]
        }
        (Some(from), Some(to)) => {
            if let (Some(from), Some(to)) = (short(from), short(to)) {
                return vec![paint(format!("~ {path}: {from} → {to}"), &changed, colored)];
            }
            let (from, to) = (block(from), block(to));
            let diff = TextDiff::from_lines(&from, &to).unified_diff().context_radius(2).to_string();
            let mut lines = vec![paint(format!("~ {path}:"), &changed, colored)];
            lines.extend(diff.lines().map(|line| {
                let text = format!("    {}", plain(line));
                match line.chars().next() {
                    Some('+') => paint(text, &added, colored),
                    Some('-') => paint(text, &removed, colored),
                    _ => text,
                }
            }));
            lines
        }
        (None, Some(to)) => one_sided('+', &path, to, &added, colored),
        (Some(from), None) => one_sided('-', &path, from, &removed, colored),
        (None, None) => Vec::new(),
    }
}

fn one_sided(sign: char, path: &str, value: &Value, color: &Style, colored: bool) -> Vec<String> {
    if let Some(value) = short(value) {
        return vec![paint(format!("{sign} {path}: {value}"), color, colored)];
    }
    let mut lines = vec![paint(format!("{sign} {path}:"), color, colored)];
    let block = block(value);
    lines.extend(block.lines().map(|line| paint(format!("    {sign}{}", plain(line)), color, colored)));
    lines
}

fn short(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (text.chars().count() <= SHORT && !text.chars().any(char::is_control)).then_some(text)
}

fn block(value: &Value) -> String {
    let yaml = |value: &Value| serde_yaml_ng::to_string(value).unwrap_or_else(|_| value.to_string());
    let mut text = match value {
        // JSON kept as text is one long line, which no one can compare.
        Value::String(text) => match serde_json::from_str(text) {
            Ok(inner @ (Value::Object(_) | Value::Array(_))) => yaml(&inner),
            _ => text.clone(),
        },
        other => yaml(other),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn paint(text: String, color: &Style, colored: bool) -> String {
    if colored { color.clone().force_styling(true).apply_to(text).to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(from: Value, to: Value) -> Vec<String> {
        let given = |value: Value| (!value.is_null()).then_some(value);
        lines(&FieldChange { path: "/spec/x".into(), from: given(from), to: given(to) }, false)
    }

    #[test]
    fn short_values_take_one_line() {
        assert_eq!(change(json!("web:5"), json!("web:4")), ["~ /spec/x: web:5 → web:4"]);
        assert_eq!(change(json!(["a"]), json!(["b"])), [r#"~ /spec/x: ["a"] → ["b"]"#]);
        assert_eq!(change(Value::Null, json!(3)), ["+ /spec/x: 3"]);
        assert_eq!(change(json!({"a": 1}), Value::Null), [r#"- /spec/x: {"a":1}"#]);
    }

    #[test]
    fn long_texts_are_compared_line_by_line() {
        let lines = change(json!("a\nb\nc\n"), json!("a\nB\nc\n"));
        assert_eq!(lines[0], "~ /spec/x:");
        assert!(lines.contains(&"    -b".to_owned()) && lines.contains(&"    +B".to_owned()), "{lines:?}");
    }

    #[test]
    fn json_kept_as_text_is_compared_member_by_member() {
        let manifest = |image: &str| json!(json!({"x": "y".repeat(SHORT), "image": image}).to_string());
        let lines = change(manifest("web:5"), manifest("web:4"));
        assert!(lines.contains(&"    -image: web:5".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_change_of_a_hidden_value_is_seen_without_the_value() {
        let secret = |value: &str| json!({"name": "TOKEN", "value": value});
        let lines = change(secret("hunter2"), secret("hunter3"));
        assert_eq!(lines, ["~ /spec/x: *** (a hidden value changes)"]);
    }

    #[test]
    fn what_a_value_holds_cannot_steer_the_terminal() {
        let lines = change(json!("\u{1b}[2J\nx"), json!("y"));
        assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
    }

    #[test]
    fn color_is_added_only_where_it_is_asked_for() {
        let field = FieldChange { path: "/x".into(), from: None, to: Some(json!(1)) };
        assert!(lines(&field, true)[0].contains("\u{1b}[32m"));
        assert!(!lines(&field, false)[0].contains('\u{1b}'));
    }
}
