//! From the words of Slack to our errors, in one place.

use std::time::Duration;

use rollback_core::{Error, ErrorKind};

use crate::connection;

/// Under which an error has Slack's own word.
const WORD: &str = "answer";

/// What Slack says where a reply is impossible, and a message by itself is not.
const NO_REPLY: [&str; 6] = [
    "cannot_reply_to_message",
    "invalid_thread_ts",
    "message_not_found",
    "restricted_action_non_threadable_channel",
    "restricted_action_thread_locked",
    "thread_not_found",
];

/// Whether only the thread was refused.
pub(super) fn is_of_thread(error: &Error) -> bool {
    error.context().any(|(key, value)| key == WORD && NO_REPLY.contains(&value))
}

/// An answer of an incoming webhook that is no success: a status, and a word as text.
pub(super) fn from_webhook(status: u16, retry_after: Option<Duration>, body: &str) -> Error {
    let word = Some(body.trim()).filter(|text| is_word(text));
    match (status, word) {
        // What the status says is more than the word does.
        (429, _) => limited(retry_after),
        (300..=399 | 500..=599, _) | (_, None) => from_status(status, retry_after, word),
        (_, Some(word)) => {
            let error = from_word(word, None, "the channel of the webhook", retry_after);
            // It has no bot that could be invited.
            if word == "channel_not_found" {
                error.with_hint("make a new incoming webhook for a channel that exists, and give its URL")
            } else {
                error
            }
        }
    }
}

/// An answer of the API with a status that is no success.
pub(super) fn from_status(status: u16, retry_after: Option<Duration>, word: Option<&str>) -> Error {
    let message = format!("Slack answered {status}");
    match word {
        Some(word) => {
            connection::refused(status, retry_after, format!("{message}: {word}")).with_context(WORD, word)
        }
        None => connection::refused(status, retry_after, message),
    }
}

/// Too many messages.
pub(super) fn limited(retry_after: Option<Duration>) -> Error {
    Error::new(ErrorKind::RateLimited, "Slack takes no more messages for now").temporary(retry_after)
}

/// What is not one of Slack's words should not get into an error: it may be a page, or repeat the request.
pub(super) fn is_word(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=80).contains(&text.len()) && text.chars().all(is_part)
}

/// The error for one of Slack's words. `place` is the channel, as in "the channel #incidents".
pub(super) fn from_word(
    word: &str,
    needed: Option<&str>,
    place: &str,
    retry_after: Option<Duration>,
) -> Error {
    let error = |kind, message: String| Error::new(kind, message).with_context(WORD, word);
    match word {
        "channel_not_found" => error(ErrorKind::NotFound, format!("Slack does not find {place}")).with_hint(
            "check its name or ID; where it is private, invite the bot: /invite @BOT in the channel",
        ),
        "not_in_channel" => error(ErrorKind::PermissionDenied, format!("the bot is not in {place}"))
            .with_hint("invite it: /invite @BOT in the channel"),
        "is_archived" | "channel_is_archived" => error(ErrorKind::Refused, format!("{place} is archived"))
            .with_hint("take it out of the archive, or choose another"),
        "account_inactive"
        | "invalid_auth"
        | "not_allowed_token_type"
        | "not_authed"
        | "token_expired"
        | "token_revoked" => error(
            ErrorKind::Unauthenticated,
            format!("Slack does not take the bot token: {word}"),
        )
        .with_hint(
            "take the Bot User OAuth Token (xoxb-…) of the app, and install the app again if it is revoked",
        ),
        "missing_scope" => {
            let needed = needed.unwrap_or("chat:write");
            error(ErrorKind::PermissionDenied, format!("the bot token has not the scope {needed}"))
                .with_hint(format!("give the app the bot token scope {needed}, and install it again"))
        }
        "invalid_token" | "no_active_hooks" | "no_service" | "no_service_id" | "no_team"
        | "team_disabled" => {
            error(ErrorKind::NotFound, format!("the incoming webhook does not exist any more: {word}"))
                .with_hint("make a new one in the settings of the app, and give its URL")
        }
        "access_denied"
        | "action_prohibited"
        | "ekm_access_denied"
        | "no_permission"
        | "posting_to_general_channel_denied"
        | "team_access_not_granted" => {
            forbidden(error(ErrorKind::PermissionDenied, format!("nothing may be posted in {place}: {word}")))
        }
        _ if word.starts_with("restricted_action") => {
            forbidden(error(ErrorKind::PermissionDenied, format!("nothing may be posted in {place}: {word}")))
        }
        "invalid_arguments"
        | "invalid_blocks"
        | "invalid_blocks_format"
        | "invalid_payload"
        | "msg_blocks_too_long"
        | "msg_too_long"
        | "no_text"
        | "too_many_attachments" => {
            error(ErrorKind::Unexpected, format!("Slack does not take the message: {word}"))
                .with_hint("this is a mistake in the program: report it, with the message")
        }
        "message_limit_exceeded" | "rate_limited" | "ratelimited" => {
            limited(retry_after).with_context(WORD, word)
        }
        "fatal_error"
        | "internal_error"
        | "request_timeout"
        | "rollup_error"
        | "service_unavailable"
        | "team_added_to_org" => {
            error(ErrorKind::Unavailable, format!("Slack could not do it: {word}")).temporary(retry_after)
        }
        _ => error(ErrorKind::Refused, format!("Slack refuses: {word}")),
    }
}

fn forbidden(error: Error) -> Error {
    error.with_hint("an administrator of the workspace can allow it; or choose another channel")
}

#[cfg(test)]
mod tests {
    use rollback_core::Disposition;

    use super::*;

    #[test]
    fn every_word_becomes_an_error_that_somebody_can_act_on() {
        for (word, kind, part) in [
            ("channel_not_found", ErrorKind::NotFound, "invite"),
            ("not_in_channel", ErrorKind::PermissionDenied, "invite"),
            ("is_archived", ErrorKind::Refused, "archive"),
            ("invalid_auth", ErrorKind::Unauthenticated, "xoxb"),
            ("token_revoked", ErrorKind::Unauthenticated, "install"),
            ("account_inactive", ErrorKind::Unauthenticated, "xoxb"),
            ("not_authed", ErrorKind::Unauthenticated, "xoxb"),
            ("missing_scope", ErrorKind::PermissionDenied, "chat:write"),
            ("restricted_action_read_only_channel", ErrorKind::PermissionDenied, "administrator"),
            ("msg_too_long", ErrorKind::Unexpected, "report"),
            ("invalid_blocks", ErrorKind::Unexpected, "report"),
            ("no_service", ErrorKind::NotFound, "new one"),
        ] {
            let error = from_word(word, None, "the channel #incidents", None);
            assert_eq!((error.kind(), error.disposition()), (kind, Disposition::Permanent), "{word}");
            assert!(error.hint().unwrap().contains(part), "{error:?}");
        }
        let scope = from_word("missing_scope", Some("chat:write.public"), "x", None);
        assert_eq!(scope.to_string(), "the bot token has not the scope chat:write.public");
        assert_eq!(from_word("what_is_this", None, "x", None).to_string(), "Slack refuses: what_is_this");
    }

    #[test]
    fn what_passes_is_tried_again() {
        let pause = Some(Duration::from_secs(30));
        for (word, kind) in [
            ("ratelimited", ErrorKind::RateLimited),
            ("internal_error", ErrorKind::Unavailable),
            ("fatal_error", ErrorKind::Unavailable),
            ("service_unavailable", ErrorKind::Unavailable),
        ] {
            let error = from_word(word, None, "x", pause);
            assert_eq!((error.kind(), error.disposition()), (kind, Disposition::Temporary(pause)), "{word}");
        }
    }

    #[test]
    fn a_webhook_answers_in_words_or_with_a_page() {
        for (status, body, kind, text) in [
            (
                400,
                "invalid_payload",
                ErrorKind::Unexpected,
                "Slack does not take the message: invalid_payload",
            ),
            (403, "action_prohibited\n", ErrorKind::PermissionDenied, "action_prohibited"),
            (403, "invalid_token", ErrorKind::NotFound, "does not exist any more"),
            (404, "channel_not_found", ErrorKind::NotFound, "Slack does not find the channel of the webhook"),
            (
                404,
                "no_service",
                ErrorKind::NotFound,
                "the incoming webhook does not exist any more: no_service",
            ),
            (410, "channel_is_archived", ErrorKind::Refused, "the channel of the webhook is archived"),
            (404, "<html>/services/T/B/hunter2", ErrorKind::NotFound, "Slack answered 404"),
            (302, "", ErrorKind::InvalidConfig, "leads elsewhere"),
        ] {
            let error = from_webhook(status, None, body);
            assert_eq!(
                (error.kind(), error.disposition()),
                (kind, Disposition::Permanent),
                "{status} {body}"
            );
            assert!(error.to_string().contains(text), "{error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let pause = Some(Duration::from_secs(1));
        for (status, kind) in [(429, ErrorKind::RateLimited), (500, ErrorKind::Unavailable)] {
            let error = from_webhook(status, pause, "rollup_error");
            assert_eq!((error.kind(), error.disposition()), (kind, Disposition::Temporary(pause)));
        }
    }

    #[test]
    fn a_thread_that_is_gone_is_told_apart() {
        assert!(is_of_thread(&from_word("thread_not_found", None, "x", None)));
        assert!(is_of_thread(&from_word("restricted_action_thread_locked", None, "x", None)));
        assert!(!is_of_thread(&from_word("channel_not_found", None, "x", None)));
    }
}
