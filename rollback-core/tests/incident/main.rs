//! Reports of incidents, as people see them.
#![cfg(test)]

mod example;

use std::path::Path;
use std::time::Duration;

use pulldown_cmark::{Event, Options, Parser, Tag};
use rollback_core::incident::{Incident, chart, html, markdown};
use rollback_core::trigger::Point;

use example::{HOSTILE, at, bare, failed, full, poisoned, unfinished, wave};

/// Compares with a file of `tests/golden`; `UPDATE_GOLDEN=1` writes it.
fn golden(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incident/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == expected, "{name} differs; look at it and set UPDATE_GOLDEN=1\n{text}");
}

fn events(text: &str) -> Vec<Event<'_>> {
    Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_TASKLISTS | Options::ENABLE_STRIKETHROUGH)
        .collect()
}

fn headings(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("## ")).collect()
}

fn with_points(count: u32) -> Incident {
    let mut incident = full();
    incident.recovery = None;
    incident.trigger.as_mut().unwrap().points = wave(at("03:00:00"), count, |n| f64::from(n % 97));
    incident
}

#[test]
fn a_full_report_is_as_reviewed() {
    golden("full.md", &markdown(&full(), Some("full.svg")).unwrap());
    golden("full.html", &html(&full()).unwrap());
    golden("full.svg", &chart(&full()).unwrap());
}

#[test]
fn json_is_the_data() {
    let text = serde_json::to_string(&full()).unwrap();
    assert!(text.contains(r#""decidedAt":"2026-11-23T03:09:00Z""#));
    assert_eq!(serde_json::from_str::<Incident>(&text).unwrap(), full());
}

#[test]
fn hostile_text_stays_text_in_markdown() {
    let text = markdown(&poisoned(HOSTILE), Some("x) <script>.svg")).unwrap();
    let expected = markdown(&poisoned("word"), Some("full.svg")).unwrap();
    let structure = |text: &str| -> Vec<String> {
        let kinds = events(text).into_iter().filter_map(|event| match event {
            Event::Start(Tag::Image { dest_url, .. }) => {
                Some(format!("image {}", dest_url.contains("script>")))
            }
            Event::Start(tag @ (Tag::Heading { .. } | Tag::Item | Tag::TableRow | Tag::TableCell)) => {
                Some(format!("{tag:?}"))
            }
            Event::Start(Tag::CodeBlock(_) | Tag::Table(_)) => Some("block".into()),
            Event::Html(_) | Event::InlineHtml(_) => panic!("{event:?}"),
            Event::Start(
                Tag::Link { .. } | Tag::HtmlBlock | Tag::Strikethrough | Tag::Emphasis | Tag::BlockQuote(_),
            ) => {
                panic!("{event:?}")
            }
            _ => None,
        });
        kinds.collect()
    };
    assert_eq!(structure(&text), structure(&expected));

    let shown: String = events(&text)
        .into_iter()
        .filter_map(|event| match event {
            Event::Text(text) | Event::Code(text) => Some(text.into_string()),
            _ => None,
        })
        .collect();
    let line =
        HOSTILE.replace(['\u{202e}', '\0'], "\u{fffd}").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.matches(&line).count() > 20);
}

#[test]
fn hostile_text_stays_text_in_html_and_svg() {
    let text = html(&poisoned(HOSTILE)).unwrap();
    let tags = |text: &str| text.matches('<').count();
    assert_eq!(tags(&text), tags(&html(&poisoned("word")).unwrap()));
    for forbidden in ["<script", "\u{202e}", "\0", "<a ", "href=", "src=", "url("] {
        assert!(!text.contains(forbidden), "{forbidden}");
    }
    let svg = chart(&poisoned(HOSTILE)).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    assert!(document.descendants().all(|node| !node.has_tag_name("script")));
    assert!(
        document.descendants().any(|node| node.text().is_some_and(|text| text.contains("<script>alert(1)")))
    );
}

#[test]
fn very_long_text_is_cut() {
    let mut incident = full();
    incident.changes[0].error = Some("x".repeat(100_000));
    incident.notes = vec!["y".repeat(100_000)];
    for text in [markdown(&incident, None).unwrap(), html(&incident).unwrap()] {
        assert!(text.contains(&format!("{}…", "x".repeat(2_000))));
        assert!(text.contains(&format!("{}…", "y".repeat(2_000))));
        assert!(text.len() < 40_000, "{}", text.len());
    }
}

#[test]
fn a_report_by_hand_says_nothing_of_triggers() {
    let text = markdown(&bare(), None).unwrap();
    assert_eq!(headings(&text), ["## Key facts"]);
    assert!(text.contains("alice, by hand"));
    assert!(text.contains("Run **1m12s**"));
    assert!(!text.contains("recovered"));
    let page = html(&bare()).unwrap();
    assert_eq!(page.matches("<h2>").count(), 1);
    assert!(!page.contains("<svg"));
}

#[test]
fn an_automatic_report_says_what_is_missing() {
    let incident = Incident { automatic: true, ..bare() };
    for text in [markdown(&incident, None).unwrap(), html(&incident).unwrap()] {
        assert!(text.contains("What fired is not known."));
        assert!(text.contains("Whether the metric recovered has not been judged."));
        assert!(text.contains("Nothing was held back."));
    }
}

#[test]
fn an_unfinished_run_has_no_end() {
    let text = markdown(&unfinished(), None).unwrap();
    assert!(text.contains("The rollback has not ended, with 1 of 2 steps done."));
    assert!(text.contains("**Run ended:** not yet"));
    assert!(text.contains(
        "deployment/shop/web went from 5 to 4, model/shop-ranker@production was to go from v5 to v4."
    ));
    assert!(chart(&unfinished()).unwrap().contains("Run 03:09:02 not ended"));
}

#[test]
fn a_stuck_run_says_what_failed() {
    let text = markdown(&failed(), None).unwrap();
    assert!(text.contains("is stuck, with 1 of 2 steps done: a person must finish it."));
    assert!(text.contains("The metric did not recover"));
    assert!(text.contains("```text\nUnavailable: the tracking server does not answer\n"));
    assert!(chart(&failed()).unwrap().contains("Changed 01:10:00 (not shown)"));
}

#[test]
fn a_chart_takes_two_points() {
    for count in 0..2 {
        assert_eq!(chart(&with_points(count)), None);
        assert!(!markdown(&with_points(count), None).unwrap().contains("!["));
        assert!(!html(&with_points(count)).unwrap().contains("<svg"));
    }
    assert!(chart(&with_points(2)).is_some());
    let mut same = with_points(2);
    same.trigger.as_mut().unwrap().points[1].at = at("03:00:00");
    assert_eq!(chart(&same), None);
}

#[test]
fn many_points_are_thinned_without_their_extremes() {
    let mut incident = with_points(5_000);
    incident.trigger.as_mut().unwrap().points[3_333].value = 987.0;
    let svg = chart(&incident).unwrap();
    assert!(svg.contains("to 98.7k %"));
    let document = roxmltree::Document::parse(&svg).unwrap();
    let line = document.descendants().find(|node| node.attribute("class") == Some("line")).unwrap();
    let path = line.attribute("d").unwrap();
    let heights =
        path.split(['L', 'M']).filter_map(|pair| pair.split(' ').nth(1)?.trim_end_matches("h0").parse().ok());
    let heights: Vec<f64> = heights.collect();
    assert!((300..=400).contains(&heights.len()), "{}", heights.len());
    let highest = heights.iter().copied().fold(f64::MAX, f64::min);
    assert!(highest < 50.0, "{highest}");
    assert_eq!(path.matches('M').count(), 1);
}

#[test]
fn what_is_no_number_is_left_out() {
    let mut incident = full();
    let fired = incident.trigger.as_mut().unwrap();
    (fired.value, fired.limit) = (Some(f64::NAN), Some(f64::INFINITY));
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        fired.points.push(Point { at: at("03:08:01"), value });
    }
    let svg = chart(&incident).unwrap();
    let page = html(&incident).unwrap();
    for text in [&svg, &page, &markdown(&incident, None).unwrap()] {
        assert!(!text.contains("NaN") && !text.contains("inf ") && !text.contains("Limit"));
    }
    assert!(!svg.contains("class=\"limit\""));
}

#[test]
fn charts_of_every_scale_are_well_formed() {
    for factor in [0.0, 1e-12, 1.0, 1e9, 1e99, -1.0] {
        for gap in [1, 15, 3_600, 86_400 * 3] {
            let mut incident = failed();
            let fired = incident.trigger.as_mut().unwrap();
            fired.limit = None;
            fired.points = (0..50)
                .map(|n| Point {
                    at: at("03:00:00").saturating_add(Duration::from_secs(gap) * n),
                    value: factor * f64::from(n % 7),
                })
                .collect();
            let svg = chart(&incident).unwrap();
            let document = roxmltree::Document::parse(&svg).unwrap();
            let labels = document.descendants().filter(|node| node.has_tag_name("text")).count();
            assert!((8..40).contains(&labels), "{labels} at {factor} and {gap}: {svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}

#[test]
fn a_missing_while_is_a_gap_in_the_line() {
    let svg = chart(&failed()).unwrap();
    let line = svg.lines().find(|line| line.starts_with("<path class=\"line\" d=\"M60")).unwrap();
    assert_eq!(line.matches('M').count(), 2);
}

#[test]
fn the_page_needs_nothing_else() {
    let page = html(&full()).unwrap();
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'"));
    for outside in ["src=", "href=", "url(", "@import", "<script", "<link", "https://"] {
        assert!(!page.contains(outside), "{outside}");
    }
}
