//! Which state a target means, from the component's own history and from what is known of it.

use std::collections::BTreeSet;

use super::{Known, Ledger, Record};
use crate::{
    Change, Error, ErrorKind, Fingerprint, Mark, Result, Revision, Rollbackable, Snapshot, Target, Timestamp,
};

/// A state to return to, and what to say about how it was found.
struct Found {
    changes: Vec<Change>,
    notes: Vec<String>,
}

/// What a component would do to reach a target. Refuses what is marked bad unless forced.
pub(crate) async fn resolve(
    component: &dyn Rollbackable,
    target: &Target,
    ledger: Option<&dyn Ledger>,
    forced: bool,
) -> Result<Vec<Change>> {
    let record = match ledger {
        Some(ledger) => ledger.record(&component.realm().await?, component.id()).await?,
        None => Record::default(),
    };
    let choice = Choice { component, record: &record };
    let Found { mut changes, notes } = match target {
        Target::Previous => choice.previous().await,
        Target::LastGood => choice.last_good().await,
        Target::Revision(id) => choice.revision(id).await,
        Target::AsOf(at) => choice.as_of(*at).await,
        Target::Snapshot(_) | Target::Artifact(_) => choice.prepare(target, Vec::new()).await,
    }
    .map_err(|error| error.with_component(component.id()))?;
    if let Some(last) = changes.last().filter(|change| !change.is_noop() && !forced) {
        record.refuse_bad(last)?;
    }
    if let Some(first) = changes.first_mut() {
        first.warnings.splice(0..0, notes);
    }
    Ok(changes)
}

struct Choice<'a> {
    component: &'a dyn Rollbackable,
    record: &'a Record,
}

impl Choice<'_> {
    async fn prepare(&self, target: &Target, notes: Vec<String>) -> Result<Found> {
        Ok(Found { changes: self.component.prepare(target).await?, notes })
    }

    async fn prepare_known(&self, known: &Snapshot, notes: Vec<String>) -> Result<Found> {
        self.prepare(&Target::Snapshot(Box::new(known.clone())), notes).await
    }

    /// Why a revision is none to go back to by itself.
    fn unwanted(&self, fingerprint: &Fingerprint, id: &str) -> Option<String> {
        if self.record.is_bad(fingerprint) {
            return Some(format!("revision {id} is marked bad, and is skipped"));
        }
        let left = self.record.left(fingerprint, id)?;
        // Called good afterwards, it is one again.
        let marking = self.record.known(fingerprint)?.marking.as_ref();
        let is_left = marking.is_none_or(|marking| marking.mark != Mark::Good || marking.at < left.at);
        is_left.then(|| {
            format!("revision {id} was left by a rollback at {} by {}, and is skipped", left.at, left.by)
        })
    }

    /// By the rule of the component's own system; where that leads to what is known to be bad or was just
    /// left, the next older; where the system has forgotten, what was in place before as far as is known.
    async fn previous(&self) -> Result<Found> {
        let (mut notes, judges) = (Vec::new(), self.component.keeps_history());
        if !judges && let Some(found) = self.remembered(judges, &mut notes).await? {
            return Ok(found);
        }
        let error = match self.prepare(&Target::Previous, Vec::new()).await {
            Ok(first) => match self.beyond(first).await? {
                Ok(mut found) => {
                    found.notes.splice(0..0, notes);
                    return Ok(found);
                }
                Err(mut skipped) => {
                    notes.append(&mut skipped);
                    Error::new(ErrorKind::NotFound, "no earlier revision to return to")
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => error,
            Err(error) => return Err(error),
        };
        if judges && let Some(found) = self.remembered(judges, &mut notes).await? {
            return Ok(found);
        }
        if notes.is_empty() {
            return Err(error);
        }
        Err(error.with_hint(format!("{}; name one with --to-revision", notes.join("; "))))
    }

    /// The system's choice, or where that is known to be bad or was just left the next older one; else why there
    /// is none.
    async fn beyond(&self, first: Found) -> Result<Result<Found, Vec<String>>> {
        let Some(to) = first.changes.last().map(|change| &change.to) else { return Ok(Ok(first)) };
        let Some(note) = self.unwanted(&to.fingerprint, &to.id) else { return Ok(Ok(first)) };
        let mut notes = vec![note];
        let history = self.component.history().await?;
        let current = history.iter().find(|revision| revision.current).map(|current| &current.fingerprint);
        let older = history.iter().skip_while(|r| r.id != to.id || r.fingerprint != to.fingerprint).skip(1);
        for revision in older {
            if Some(&revision.fingerprint) == current || revision.mark == Some(Mark::Left) {
                continue;
            }
            match self.unwanted(&revision.fingerprint, &revision.id) {
                Some(note) => notes.push(note),
                None => return self.prepare(&Target::Revision(revision.id.clone()), notes).await.map(Ok),
            }
        }
        Ok(Err(notes))
    }

    /// What was in place before the current one, as the record knows; where the system has `judged` what it still
    /// knows, only what it has forgotten. Takes the notes along where it finds one, and adds to them what is gone.
    async fn remembered(&self, judged: bool, notes: &mut Vec<String>) -> Result<Option<Found>> {
        let history = self.component.history().await?;
        let Some(current) = history.iter().find(|revision| revision.current) else { return Ok(None) };
        let in_place = self.record.in_place();
        let place = in_place.iter().rposition(|(_, fingerprint)| *fingerprint == current.fingerprint);
        if place.is_none() && !judged {
            // What came in place since the last record is not known, so neither is what came before.
            return Ok(None);
        }
        let before = in_place.get(..place.unwrap_or(in_place.len())).unwrap_or_default();
        for (since, fingerprint) in before.iter().rev() {
            let still = history.iter().find(|revision| revision.fingerprint == *fingerprint);
            let is_known = still.is_some();
            let Some(known) = self.record.known(fingerprint).filter(|_| !(judged && is_known)) else {
                continue;
            };
            let (Some(snapshot), None) = (&known.snapshot, self.unwanted(fingerprint, &known.id)) else {
                continue;
            };
            // Left by somebody whose record is another one.
            let is_left = still.is_some_and(|revision| revision.mark == Some(Mark::Left));
            let is_good = known.marking.as_ref().is_some_and(|marking| marking.mark == Mark::Good);
            if *fingerprint == current.fingerprint || (is_left && !is_good) {
                continue;
            }
            let note = format!("revision {} was in place from {since} on, as recorded", known.id);
            match self.prepare_known(snapshot, Vec::new()).await {
                Ok(mut found) => {
                    notes.push(note);
                    found.notes.append(notes);
                    return Ok(Some(found));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    notes.push(format!("{note}, and is skipped: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The one of this id, or of this fingerprint or its beginning.
    async fn revision(&self, id: &str) -> Result<Found> {
        let target = Target::Revision(id.to_owned());
        let is_meant =
            |fingerprint: &Fingerprint| id.len() >= SHORT_FINGERPRINT && fingerprint.as_str().starts_with(id);
        if id.starts_with("sha256:") {
            let history = self.component.history().await?;
            if let Some(revision) = history.iter().find(|revision| is_meant(&revision.fingerprint)) {
                return self.prepare(&Target::Revision(revision.id.clone()), Vec::new()).await;
            }
        }
        let error = match self.prepare(&target, Vec::new()).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidConfig) => error,
            found => return found,
        };
        let known = self.record.revisions().filter(|(print, known)| known.id == id || is_meant(print));
        let known = known.filter_map(|(_, known)| Some((known.noted, known.snapshot.as_ref()?)));
        match known.max_by_key(|(noted, _)| *noted) {
            Some((_, snapshot)) => self.prepare_known(snapshot, Vec::new()).await,
            None => Err(error),
        }
    }

    async fn last_good(&self) -> Result<Found> {
        let history = self.component.history().await?;
        let current = history.iter().find(|revision| revision.current).map(|current| &current.fingerprint);
        let good = |fingerprint: &Fingerprint, id: &str| {
            let marking = self.record.known(fingerprint)?.marking.as_ref()?;
            let is_good = marking.mark == Mark::Good && Some(fingerprint) != current;
            (is_good && self.unwanted(fingerprint, id).is_none())
                .then(|| format!("revision {id} was marked good at {} by {}", marking.at, marking.by))
        };
        for revision in &history {
            // Left from elsewhere: this record does not know whether before or after it was called good.
            let left_elsewhere = revision.mark == Some(Mark::Left)
                && self.record.left(&revision.fingerprint, &revision.id).is_none();
            if let Some(note) = good(&revision.fingerprint, &revision.id).filter(|_| !left_elsewhere) {
                return self.prepare(&Target::Revision(revision.id.clone()), vec![note]).await;
            }
        }
        let is_kept = |print: &Fingerprint| history.iter().any(|revision| revision.fingerprint == *print);
        let forgotten = self.record.revisions().filter(|(print, _)| !is_kept(print));
        let forgotten = forgotten.filter_map(|(print, known)| {
            Some((known.noted, known.snapshot.as_ref()?, good(print, &known.id)?))
        });
        if let Some((_, snapshot, note)) = forgotten.max_by_key(|(noted, ..)| *noted) {
            return self.prepare_known(snapshot, vec![note]).await;
        }
        let mut found = self.previous().await?;
        found.notes.insert(0, "no other revision is recorded good: this is the previous one".into());
        Ok(found)
    }

    async fn as_of(&self, at: Timestamp) -> Result<Found> {
        let history = self.component.history().await?;
        let mut seen: Vec<(Timestamp, &Fingerprint)> =
            self.record.in_place().iter().map(|(since, fingerprint)| (*since, fingerprint)).collect();
        for revision in &history {
            let times = [revision.created, revision.since.filter(|_| revision.current)];
            seen.extend(times.into_iter().flatten().map(|time| (time, &revision.fingerprint)));
        }
        seen.sort_by_key(|(time, _)| *time);
        let Some((since, fingerprint)) = seen.iter().rev().find(|(time, _)| *time <= at) else {
            let earliest = seen.first().map_or_else(
                || "nothing is known of any time".to_owned(),
                |(time, _)| format!("the earliest known is {time}"),
            );
            return Err(Error::new(ErrorKind::NotFound, format!("nothing is known of {at}: {earliest}"))
                .with_hint("name a revision with --to-revision"));
        };
        let mut notes = Vec::new();
        let current = history.iter().find(|revision| revision.current);
        if let Some(current) = current
            && current.fingerprint != **fingerprint
            && seen.last().is_some_and(|(last, _)| last == since)
        {
            notes.push(format!(
                "since when revision {} is in place is not known: it may have been so at {at} already",
                current.id
            ));
        }
        // One made earlier that ranks above it was in place once more, later.
        let chosen = history.iter().position(|revision| revision.fingerprint == **fingerprint);
        let above = history.get(..chosen.unwrap_or_default()).unwrap_or_default();
        for revision in above.iter().filter(|revision| revision.created.is_some_and(|made| made < *since)) {
            notes.push(format!(
                "revision {} was in place once more at some time after {since}: when is not known",
                revision.id
            ));
        }
        let place = |id: &str| format!("revision {id} was in place from {since} on, as far as is known");
        if let Some(revision) = history.iter().find(|revision| revision.fingerprint == **fingerprint) {
            notes.insert(0, place(&revision.id));
            return self.prepare(&Target::Revision(revision.id.clone()), notes).await;
        }
        if let Some(Known { id, snapshot: Some(snapshot), .. }) = self.record.known(fingerprint) {
            notes.insert(0, place(id));
            return self.prepare_known(snapshot, notes).await;
        }
        let message = format!("what was in place at {at} is not kept any more");
        Err(Error::new(ErrorKind::NotFound, message).with_hint("name a revision with --to-revision"))
    }
}

/// `sha256:` and twelve digits: enough to tell revisions of one component apart.
const SHORT_FINGERPRINT: usize = 19;

/// A component's history together with what is known of it: marks also where the system has renumbered a
/// revision, and after its own revisions those that it has forgotten, newest first. Of these, one whose id
/// another revision has by now goes by the beginning of its fingerprint.
pub fn join(history: Vec<Revision>, record: &Record) -> Vec<Revision> {
    let mark = |fingerprint: &Fingerprint, id: &str, own: Option<Mark>| {
        let left = record.left(fingerprint, id);
        match record.known(fingerprint).and_then(|known| known.marking.as_ref()) {
            Some(marking) if marking.mark == Mark::Bad => Some(Mark::Bad),
            Some(marking) if left.is_none_or(|left| left.at < marking.at) => Some(marking.mark),
            _ => own.or_else(|| left.map(|_| Mark::Left)),
        }
    };
    let ids: BTreeSet<String> = history.iter().map(|revision| revision.id.clone()).collect();
    let prints: BTreeSet<Fingerprint> = history.iter().map(|revision| revision.fingerprint.clone()).collect();
    let mut forgotten: Vec<_> = record
        .revisions()
        .filter(|(print, known)| {
            !prints.contains(*print) && (known.snapshot.is_some() || known.marking.is_some())
        })
        .collect();
    forgotten.sort_by_key(|(_, known)| std::cmp::Reverse(known.noted));
    let own = history.into_iter().map(|mut revision| {
        revision.mark = mark(&revision.fingerprint, &revision.id, revision.mark);
        let last = record.in_place().last().filter(|(_, print)| *print == revision.fingerprint);
        revision.since =
            revision.since.or_else(|| last.filter(|_| revision.current).map(|(since, _)| *since));
        revision
    });
    let own: Vec<_> = own.collect();
    let forgotten = forgotten.into_iter().map(|(print, known)| Revision {
        id: if ids.contains(&known.id) { short(print) } else { known.id.clone() },
        fingerprint: print.clone(),
        current: false,
        created: None,
        since: None,
        cause: None,
        mark: mark(print, &known.id, None),
        summary: match &known.snapshot {
            Some(snapshot) => format!("{} (from the record)", snapshot.summary),
            None => "(not kept any more)".to_owned(),
        },
    });
    own.into_iter().chain(forgotten).collect()
}

fn short(fingerprint: &Fingerprint) -> String {
    fingerprint.as_str().chars().take(SHORT_FINGERPRINT).collect()
}

/// The whole state of a revision that a component keeps, for the ledger. Read-only.
///
/// # Errors
/// As [`Rollbackable::prepare`].
pub async fn snapshot_of(component: &dyn Rollbackable, id: &str) -> Result<Snapshot> {
    let changes = component.prepare(&Target::Revision(id.to_owned())).await?;
    changes.into_iter().next_back().map(|change| change.to).ok_or_else(|| {
        Error::new(ErrorKind::Unexpected, "nothing was prepared").with_component(component.id())
    })
}
