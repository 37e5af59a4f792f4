//! What is printed: results on stdout, everything else on stderr.

pub(crate) mod diff;
pub(crate) mod json;
pub(crate) use rollback_core::mask;
pub(crate) mod progress;
pub(crate) mod table;

use std::io::{self, ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rollback_core::ErrorReport;
use serde_json::{Value, json};

use crate::args::Format;
use crate::exit::Failure;

/// Prints a result as asked for.
pub(crate) fn result(format: Format, value: &Value, table: impl FnOnce() -> String) {
    let text = match format {
        Format::Table => table(),
        Format::Json => format!("{value:#}\n"),
        Format::Yaml => serde_yaml_ng::to_string(value).unwrap_or_else(|_| format!("{value:#}\n")),
    };
    print(&text);
}

/// Whether a result could not be printed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints text on stdout. A reader that has seen enough is no error.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            LOST.store(true, Ordering::Relaxed);
            say(&format!("error: cannot print the result: {e}"));
        }
        _ => {}
    }
}

/// Whether a result could not be printed, and nobody has it.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Says something on stderr.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says what are lines already, if any.
pub(crate) fn say_lines(text: &str) {
    if !text.is_empty() {
        say(text.trim_end());
    }
}

/// Tells why a command did not do what it was asked.
pub(crate) fn failure(failure: &Failure, format: Format) {
    let report = failure.error.report();
    if format == Format::Json {
        say(&json!({"error": json::error(&report)}).to_string());
    } else if failure.lines.is_empty() {
        say(&error(&report));
    } else {
        let lines: Vec<_> = failure.lines.iter().map(|line| told(line)).collect();
        say(&format!("error: {}", lines.join("\n  ")));
    }
}

/// An error for people.
pub(crate) fn error(report: &ErrorReport) -> String {
    let message = told(&report.message);
    let component = report.component.as_ref().map(ToString::to_string);
    let text = match component.filter(|component| !message.contains(component.as_str())) {
        Some(component) => format!("error: {component}: {message}"),
        None => format!("error: {message}"),
    };
    match &report.hint {
        Some(hint) => format!("{text}\nhint: {}", plain(hint)),
        None => text,
    }
}

/// What a server or a component says, as it may be shown: it may quote what it was given.
pub(crate) fn told(text: &str) -> String {
    plain(&mask::text(text))
}

/// Text from elsewhere without what steers a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        match c {
            '\n' | '\t' => plain.push(' '),
            // Also what turns the direction of text around.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                plain.extend(c.escape_default());
            }
            c if c.is_control() => plain.extend(c.escape_default()),
            c => plain.push(c),
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use rollback_core::{Error, ErrorKind};

    use super::*;
    use crate::testing;

    #[test]
    fn an_error_names_its_component_once_and_its_whole_chain() {
        let cause = Error::new(ErrorKind::Unavailable, "connection refused");
        let failed = Error::new(ErrorKind::Unavailable, "the API server does not answer")
            .with_source(cause)
            .with_component(&testing::component())
            .with_hint("check the network");
        assert_eq!(
            error(&failed.report()),
            "error: deployment/shop/web: the API server does not answer: connection refused\n\
             hint: check the network"
        );
        let named = Error::new(ErrorKind::NotFound, "reading deployment/shop/web: not found")
            .with_component(&testing::component());
        assert_eq!(error(&named.report()), "error: reading deployment/shop/web: not found");
    }

    #[test]
    fn text_from_elsewhere_stays_on_its_line() {
        assert_eq!(plain("a\nb\u{1b}[2Jc\r"), "a b\\u{1b}[2Jc\\r");
    }
}
