//! How a notification looks in Slack.

use rollback_core::{Happening, Notification};
use serde_json::{Map, Value, json};

/// How long texts may be, of which Slack refuses longer ones with the whole message. Of those in a context nothing is
/// documented.
const SECTION: usize = 3000;
const FIELD: usize = 2000;
const CONTEXT: usize = 2000;

/// Whether a channel should see it, and not only those who follow its thread.
pub(super) fn is_loud(event: Happening) -> bool {
    matches!(event, Happening::Stuck | Happening::Failed | Happening::NotRecovered)
}

/// The message, without where it goes.
pub(super) fn payload(message: &Notification) -> Map<String, Value> {
    let word = word(message.event);
    let mut blocks = vec![section(&format!("*{word}:* "), &message.summary, "")];
    let fields = fields(message);
    if !fields.is_empty() {
        blocks.push(json!({"type": "section", "fields": fields}));
    }
    let details = list(&message.details);
    // Slack refuses the whole message when a text of it is empty.
    if details.chars().any(|c| !c.is_whitespace() && !c.is_control()) {
        blocks.push(section("", &details, ""));
    }
    if !message.next.is_empty() {
        // Nothing ends the code but its end.
        let commands = message.next.join("\n").replace("```", "'''");
        blocks.push(section("*Next:*\n```", &commands, "```"));
    }
    blocks.push(context(message));
    let mut payload = Map::new();
    // What notifications and screen readers show.
    payload.insert("text".into(), framed(&format!("{word}: "), &message.summary, "", SECTION).into());
    payload.insert("blocks".into(), blocks.into());
    payload.insert("unfurl_links".into(), false.into());
    payload.insert("unfurl_media".into(), false.into());
    payload
}

fn word(event: Happening) -> &'static str {
    match event {
        Happening::Firing => "Firing",
        Happening::Resolved => "Resolved",
        Happening::HeldBack => "Held back",
        Happening::Proposed => "Proposed",
        Happening::Started => "Started",
        Happening::Converged => "Converged",
        Happening::Failed => "Failed",
        Happening::Stuck => "Stuck",
        Happening::Recovered => "Recovered",
        Happening::NotRecovered => "Not recovered",
        Happening::RecoveryUnknown => "Recovery unknown",
        Happening::Blind => "Blind",
        Happening::Trouble => "Trouble",
        Happening::Test => "Test",
    }
}

/// At most five; Slack takes ten.
fn fields(message: &Notification) -> Vec<Value> {
    let mut components: Vec<_> = message.components.iter().collect();
    for one in &message.moves {
        if !components.contains(&&one.component) {
            components.push(&one.component);
        }
    }
    let is_one = components.len() == 1;
    let moves = message.moves.iter().map(|one| {
        if is_one {
            format!("{} → {}", one.from, one.to)
        } else {
            format!("{}: {} → {}", one.component, one.from, one.to)
        }
    });
    let moves: Vec<_> = moves.collect();
    let components: Vec<_> = components.iter().map(ToString::to_string).collect();
    let all = [
        (if is_one { "Component" } else { "Components" }, Some(components.join("\n"))),
        ("From → to", Some(moves.join("\n"))),
        ("Policy", message.policy.clone()),
        ("Run", message.run.map(|run| run.to_string())),
        ("By", message.actor.clone()),
    ];
    let field = |(name, text): (&str, Option<String>)| {
        let text = text.filter(|text| !text.trim().is_empty())?;
        Some(mrkdwn(&framed(&format!("*{name}*\n"), &text, "", FIELD)))
    };
    all.into_iter().filter_map(field).collect()
}

fn list(details: &[String]) -> String {
    match details {
        [only] => only.clone(),
        all => all.iter().map(|one| format!("• {one}")).collect::<Vec<_>>().join("\n"),
    }
}

fn context(message: &Notification) -> Value {
    let mut elements = vec![mrkdwn(&framed("", &message.at.to_string(), "", CONTEXT))];
    elements.extend(message.report.as_ref().map(|path| mrkdwn(&framed("Report: ", path, "", CONTEXT))));
    json!({"type": "context", "elements": elements})
}

fn section(before: &str, text: &str, after: &str) -> Value {
    json!({"type": "section", "text": mrkdwn(&framed(before, text, after, SECTION))})
}

/// Verbatim, so that Slack makes no links of what only looks like an address, a channel or a person.
fn mrkdwn(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

/// A text from outside between two of our own, of at most this length together.
fn framed(before: &str, text: &str, after: &str, most: usize) -> String {
    let room = most.saturating_sub(length(before)).saturating_sub(length(after));
    format!("{before}{}{after}", escaped(text, room))
}

/// As Slack counts, or more.
fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// A text as Slack shows it letter by letter: without escaping, `<!channel>` would call everybody. Cut where it is
/// longer than `most` once it is escaped.
fn escaped(text: &str, most: usize) -> String {
    let mut escaped = String::new();
    let (mut used, mut cut) = (0, 0);
    for c in text.chars() {
        // Colours of a terminal and the like, of which Slack shows boxes.
        if c.is_control() && c != '\n' && c != '\t' {
            continue;
        }
        let mut buffer = [0; 4];
        let piece: &str = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            other => other.encode_utf8(&mut buffer),
        };
        used += length(piece);
        if used > most {
            escaped.truncate(cut);
            escaped.push('…');
            break;
        }
        escaped.push_str(piece);
        if used < most {
            cut = escaped.len();
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(value: &Value) -> Notification {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn full() -> Value {
        json!({
            "id": "1",
            "at": "2026-11-23T03:00:00Z",
            "event": "stuck",
            "thread": "run",
            "summary": "web needs a human",
            "details": ["<!channel> see <https://evil.example|here> & @here", "the pods of 2 never got ready"],
            "policy": "web-errors",
            "components": [{"kind": "deployment", "scope": "shop", "name": "web"}],
            "moves": [{
                "component": {"kind": "deployment", "scope": "shop", "name": "web"},
                "from": "3",
                "to": "2",
            }],
            "run": "0193572c-5a00-7000-8000-000000000001",
            "actor": "policy web-errors",
            "next": ["rollback status", "rollback resume 0193572c > log"],
            "report": "/var/lib/rollback/incidents/1.md",
        })
    }

    fn text(text: &str) -> Value {
        json!({"type": "mrkdwn", "text": text, "verbatim": true})
    }

    #[test]
    fn a_message_says_everything_and_lets_nothing_out_of_its_place() {
        assert_eq!(
            Value::Object(payload(&notification(&full()))),
            json!({
                "text": "Stuck: web needs a human",
                "unfurl_links": false,
                "unfurl_media": false,
                "blocks": [
                    {"type": "section", "text": text("*Stuck:* web needs a human")},
                    {"type": "section", "fields": [
                        text("*Component*\ndeployment/shop/web"),
                        text("*From → to*\n3 → 2"),
                        text("*Policy*\nweb-errors"),
                        text("*Run*\n0193572c-5a00-7000-8000-000000000001"),
                        text("*By*\npolicy web-errors"),
                    ]},
                    {"type": "section", "text": text(
                        "• &lt;!channel&gt; see &lt;https://evil.example|here&gt; &amp; @here\n\
                         • the pods of 2 never got ready"
                    )},
                    {"type": "section", "text": text(
                        "*Next:*\n```rollback status\nrollback resume 0193572c &gt; log```"
                    )},
                    {"type": "context", "elements": [
                        text("2026-11-23T03:00:00Z"),
                        text("Report: /var/lib/rollback/incidents/1.md"),
                    ]},
                ],
            })
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare = json!({
            "id": "1",
            "at": "2026-11-23T03:00:00Z",
            "event": "test",
            "thread": "x",
            "summary": "does this arrive?",
            "details": [""],
            "actor": " ",
        });
        assert_eq!(
            Value::Object(payload(&notification(&bare)))["blocks"],
            json!([
                {"type": "section", "text": text("*Test:* does this arrive?")},
                {"type": "context", "elements": [text("2026-11-23T03:00:00Z")]},
            ])
        );
    }

    #[test]
    fn of_several_components_each_move_says_which() {
        let mut value = full();
        let model = json!({"kind": "model", "name": "churn"});
        value["moves"].as_array_mut().unwrap().push(json!({"component": model, "from": "v5", "to": "v4"}));
        let payload = Value::Object(payload(&notification(&value)));
        let fields = &payload["blocks"][1]["fields"];
        assert_eq!(fields[0], text("*Components*\ndeployment/shop/web\nmodel/churn"));
        assert_eq!(fields[1], text("*From → to*\ndeployment/shop/web: 3 → 2\nmodel/churn: v5 → v4"));
    }

    /// The length of every text, with the limit of its place.
    fn lengths(payload: &Value) -> Vec<(usize, usize)> {
        let of = |value: &Value| length(value["text"].as_str().unwrap());
        let mut all = vec![(of(payload), SECTION)];
        for block in payload["blocks"].as_array().unwrap() {
            all.extend(block.get("text").map(|text| (of(text), SECTION)));
            for (list, most) in [("fields", FIELD), ("elements", CONTEXT)] {
                let texts = block.get(list).and_then(Value::as_array);
                all.extend(texts.into_iter().flatten().map(|text| (of(text), most)));
            }
        }
        all
    }

    #[test]
    fn no_text_is_longer_than_slack_takes() {
        for filler in ["x", "&", "é", "🚨", "&x🚨", "```"] {
            let long = filler.repeat(4000);
            let mut value = full();
            for name in ["summary", "policy", "actor", "report"] {
                value[name] = long.clone().into();
            }
            value["moves"][0]["from"] = long.clone().into();
            value["components"][0]["name"] = long.clone().into();
            value["moves"][0]["component"]["name"] = long.clone().into();
            value["details"] = json!([long, long]);
            value["next"] = json!([long]);
            let payload = Value::Object(payload(&notification(&value)));
            let lengths = lengths(&payload);
            assert!(lengths.iter().all(|(length, most)| length <= most), "{filler}: {lengths:?}");
            assert!(
                lengths.iter().filter(|(length, most)| length + 5 > *most).count() >= 8,
                "{filler}: {lengths:?}"
            );
            let code = payload["blocks"][3]["text"]["text"].as_str().unwrap();
            assert!(code.ends_with("…```") && code.matches("```").count() == 2, "{filler}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters_and_never_within_an_entity() {
        assert_eq!(escaped("abc", 3), "abc");
        assert_eq!(escaped("abcd", 3), "ab…");
        assert_eq!(escaped("&&", 10), "&amp;&amp;");
        assert_eq!(escaped("&&", 9), "&amp;…");
        assert_eq!(escaped("&&", 5), "…");
        assert_eq!(escaped("🚨🚨", 4), "🚨🚨");
        assert_eq!(escaped("🚨🚨", 3), "🚨…");
        assert_eq!(escaped("🚨🚨", 2), "…");
        assert_eq!(escaped("\u{1b}[31mred\u{1b}[0m\tx\n", 99), "[31mred[0m\tx\n");
    }

    #[test]
    fn the_channel_sees_what_needs_somebody() {
        let loud = [Happening::Stuck, Happening::Failed, Happening::NotRecovered];
        assert!(loud.into_iter().all(is_loud));
        assert!(![Happening::Started, Happening::Converged, Happening::Recovered].into_iter().any(is_loud));
    }
}
