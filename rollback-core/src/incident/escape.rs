//! Keeps foreign text from becoming markup.

use std::fmt::Write as _;

use serde_json::Value;

const LONGEST: usize = 2_000;

/// Text that prints as it reads: of bounded length, without control characters or marks that reorder it.
pub(super) fn tame(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut chars = text.chars().map(|c| match c {
        '\r' => '\n',
        '\n' | '\t' => c,
        // Reordered text can show the opposite of what it says.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // XML has no place for these, even escaped.
        | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    });
    let mut tamed: String = chars.by_ref().take(LONGEST).collect();
    if chars.next().is_some() {
        tamed.push('…');
    }
    tamed
}

/// [`tame`] for every text in a value.
pub(super) fn tame_all(value: &mut Value) {
    match value {
        Value::String(text) => *text = tame(text),
        Value::Array(values) => values.iter_mut().for_each(tame_all),
        Value::Object(fields) => fields.values_mut().for_each(tame_all),
        _ => {}
    }
}

/// Text as inline Markdown that shows it as it is, on one line, in a paragraph, a list or a table.
pub(super) fn md(text: &str) -> String {
    let text = one_line(text);
    let mut escaped = String::with_capacity(text.len());
    // What would begin a list, a quotation or a rule, in a list item too.
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let mut rest = text.chars().skip(digits);
    let opener = match (rest.next(), rest.next()) {
        (Some('+' | '-' | '=' | '>' | ':'), _) if digits == 0 => Some(0),
        (Some('.' | ')'), None | Some(' ')) if digits > 0 => Some(digits),
        _ => None,
    };
    for (place, c) in text.chars().enumerate() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '#' => escaped.extend(['\\', c]),
            _ if opener == Some(place) => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Text as a code span, on one line. Not for tables: there is no way to write every text with a pipe as code in one.
pub(super) fn code(text: &str) -> String {
    let text = one_line(text);
    if text.is_empty() {
        return "–".into();
    }
    let ticks = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{ticks}{pad}{text}{pad}{ticks}")
}

/// Text as a fenced block, with its line ends.
pub(super) fn fence(text: &str, language: &str) -> String {
    let ticks = "`".repeat((longest_run(text) + 1).max(3));
    format!("{ticks}{language}\n{}\n{ticks}", text.trim_matches('\n'))
}

/// A relative path as the target of a link, whatever it contains.
pub(super) fn target(path: &str) -> String {
    path.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_./~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_and_control_characters_and_reordering_go() {
        let cut = tame(&"é".repeat(5_000));
        assert_eq!(cut.chars().count(), LONGEST + 1);
        assert!(cut.ends_with("é…"));
        assert_eq!(tame(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
        assert_eq!(tame("a\r\nb\rc\td\0\u{1b}[31m\u{202e}"), "a\nb\nc\td\u{fffd}\u{fffd}[31m\u{fffd}");
    }

    #[test]
    fn markdown_shows_text_as_it_is() {
        assert_eq!(md("<script>a & b</script>"), "&lt;script>a &amp; b&lt;/script>");
        assert_eq!(md("a|b\n\n# c"), "a\\|b \\# c");
        assert_eq!(md("![x](javascript:alert(1))"), "!\\[x\\](javascript:alert(1))");
        assert_eq!(md("*a* _b_ `c` ~~d~~ \\|"), "\\*a\\* \\_b\\_ \\`c\\` \\~\\~d\\~\\~ \\\\\\|");
        assert_eq!(md("# a"), "\\# a");
        assert_eq!(md("- a"), "\\- a");
        assert_eq!(md("12. a"), "12\\. a");
        assert_eq!(md("12.5 a"), "12.5 a");
        assert_eq!(md("---"), "\\---");
        assert_eq!(md("1"), "1");
        assert_eq!(md("  \n "), "");
    }

    #[test]
    fn code_is_delimited_by_more_backticks_than_it_contains() {
        assert_eq!(code("web"), "`web`");
        assert_eq!(code("a`b``c\nd"), "```a`b``c d```");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(code(""), "–");
        assert_eq!(fence("a\n````\nb\n", "diff"), "`````diff\na\n````\nb\n`````");
        assert_eq!(fence("", ""), "```\n\n```");
    }

    #[test]
    fn a_link_leads_to_a_file_and_nowhere_else() {
        assert_eq!(target("charts/a b_1.svg"), "charts/a%20b_1.svg");
        assert_eq!(target("javascript:x)"), "javascript%3Ax%29");
    }
}
