//! Which rollbacks moved a pointer, as tags tell: MLflow itself keeps no history of its pointers.
//!
//! The model has a tag `rollback.stage.Production` or `rollback.alias.NAME` with the last moves as JSON, the newest
//! first; each version that a rollback went to or from has the move in a tag of the same key.

use rollback_core::StepContext;
use serde::{Deserialize, Serialize};

use crate::model::{Kind, View};

/// Servers before 3 take no longer value.
const MOST_BYTES: usize = 5_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) from: Vec<String>,
    pub(crate) to: Vec<String>,
    pub(crate) at: String,
    pub(crate) run: String,
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

impl Move {
    pub(crate) fn new(cx: &StepContext, from: Vec<String>, to: Vec<String>) -> Self {
        Self {
            from,
            to,
            at: cx.now().to_string(),
            run: cx.run().to_string(),
            by: cx.actor().to_owned(),
            why: cx.reason().map(|why| why.chars().take(500).collect()),
        }
    }
}

pub(crate) fn key(kind: &Kind) -> String {
    match kind {
        Kind::Alias(alias) => format!("rollback.alias.{alias}"),
        Kind::Stage(stage) => format!("rollback.stage.{stage}"),
    }
}

/// The moves that the model's tag tells, the newest first. What does not parse was not written by this library.
pub(crate) fn read(view: &View, kind: &Kind) -> Vec<Move> {
    view.tag(&key(kind)).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Whether a move is told in the tag of a version, or is the last that the model's tells.
pub(crate) fn is_told(view: &View, kind: &Kind, version: Option<&str>, new: &Move) -> bool {
    let told = match version {
        None => read(view, kind).into_iter().next(),
        Some(version) => view.version(version).and_then(|version| {
            let tag = version.tags.iter().find(|tag| tag.key == key(kind))?;
            serde_json::from_str::<Move>(&tag.value).ok()
        }),
    };
    told.is_some_and(|told| told.run == new.run && told.from == new.from && told.to == new.to)
}

/// The value that tells a move in the tag of a version, or of the model.
pub(crate) fn text(view: &View, kind: &Kind, version: Option<&str>, new: &Move) -> String {
    match version {
        None => with(read(view, kind), new.clone()),
        Some(_) => serde_json::to_string(new).unwrap_or_default(),
    }
}

/// The tag with one more move, as many of those before as fit.
fn with(mut moves: Vec<Move>, new: Move) -> String {
    moves.insert(0, new);
    loop {
        let text = serde_json::to_string(&moves).unwrap_or_default();
        if text.len() <= MOST_BYTES || moves.len() <= 1 {
            return text;
        }
        moves.pop();
    }
}

/// The move that left a version, unless a later one went to it. A run that took its own move back left nothing.
pub(crate) fn left<'a>(moves: &'a [Move], version: &str) -> Option<&'a Move> {
    let is = |all: &[String]| all.iter().any(|known| known == version);
    let mut standing: Vec<&Move> = Vec::new();
    for of in moves.iter().rev() {
        let back = standing.last().is_some_and(|on| on.run == of.run && on.from == of.to && on.to == of.from);
        if back {
            standing.pop();
        } else {
            standing.push(of);
        }
    }
    let last = standing.into_iter().rev().find(|of| is(&of.from) != is(&of.to))?;
    is(&last.from).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(from: &str, to: &str) -> Move {
        Move {
            from: vec![from.into()],
            to: vec![to.into()],
            at: "t".into(),
            run: "r".into(),
            by: "b".into(),
            why: None,
        }
    }

    #[test]
    fn what_was_left_is_left_until_a_move_goes_to_it() {
        let moves = [of("5", "4")];
        assert!(left(&moves, "5").is_some() && left(&moves, "4").is_none() && left(&moves, "3").is_none());
        let again = Move { run: "another".into(), ..of("4", "5") };
        assert!(left(&[again.clone(), of("5", "4")], "5").is_none());
        assert!(left(&[again, of("5", "4")], "4").is_some());
        let compensated = [of("4", "5"), of("5", "4")];
        assert!(left(&compensated, "5").is_none() && left(&compensated, "4").is_none());
    }

    #[test]
    fn a_tag_stays_as_small_as_servers_take_it() {
        let mut tag = String::new();
        for n in 0..100 {
            let moves: Vec<Move> = serde_json::from_str(&tag).unwrap_or_default();
            tag = with(moves, of(&n.to_string(), "x"));
        }
        let moves: Vec<Move> = serde_json::from_str(&tag).unwrap();
        assert!(tag.len() <= MOST_BYTES && moves.len() > 20 && moves[0].from == ["99"]);
    }
}
