//! A server with the content of one component, and the component that a process sees of it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use rollback_core::{
    Change, ChangeKind, ComponentId, Disposition, Error, ErrorKind, Fingerprint, Position, Realm, Result,
    Revision, Rollbackable, RunId, Snapshot, StepContext, StepId, Target, Verification,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::world::{World, id, lock, realm};

pub(crate) const PARTS: usize = 2;

/// A state: one value for each part.
pub(crate) type Content = [u64; PARTS];

/// A write that changed something.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    /// None for one made by hand.
    pub(crate) by: Option<(RunId, StepId)>,
    pub(crate) part: usize,
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// What the writer moved between.
    pub(crate) sides: Option<[Content; 2]>,
    /// The content afterwards.
    pub(crate) content: Content,
    /// Whether the journal knew that it was possible.
    pub(crate) was_intended: bool,
    /// Whether its writer had looked before something else was written.
    pub(crate) is_late: bool,
    /// Whether its writer was dead, or waited no longer.
    pub(crate) is_orphan: bool,
}

impl Effect {
    fn by_hand(part: usize, after: u64) -> Self {
        Self {
            by: None,
            part,
            before: 0,
            after,
            sides: None,
            content: [0; PARTS],
            was_intended: true,
            is_late: false,
            is_orphan: false,
        }
    }
}

pub(crate) struct Server {
    /// Whether it refuses a write whose precondition does not hold; otherwise it takes every write.
    pub(crate) compares: bool,
    pub(crate) content: Content,
    /// Oldest first.
    revisions: Vec<Content>,
    /// Those that do not settle.
    broken: Vec<Content>,
    pub(crate) effects: Vec<Effect>,
    /// With the time at which each state came about.
    states: Vec<(Instant, Content)>,
}

impl Server {
    pub(crate) fn new(compares: bool, random: &mut Rng) -> Self {
        let mut server = Self {
            compares,
            content: [0; PARTS],
            revisions: Vec::new(),
            broken: Vec::new(),
            effects: Vec::new(),
            states: Vec::new(),
        };
        for version in 1..=4 {
            let content = [version, version * 10];
            server.revisions.push(content);
            if random.u8(0..5) == 0 {
                server.broken.push(content);
            }
            server.content = content;
        }
        server.states.push((Instant::now(), server.content));
        server
    }

    /// Puts a new revision in place, or changes a part, as people do.
    pub(crate) fn edit(&mut self, random: &mut Rng) {
        let fresh = 100 + self.effects.len() as u64;
        if random.bool() {
            let content = [fresh, fresh * 10];
            self.revisions.push(content);
            for (part, value) in content.into_iter().enumerate() {
                self.set(Effect::by_hand(part, value));
            }
        } else {
            self.set(Effect::by_hand(random.usize(0..PARTS), fresh));
        }
    }

    /// Takes a write, completing what is known of its effect, if it has one.
    fn set(&mut self, effect: Effect) {
        let before = std::mem::replace(&mut self.content[effect.part], effect.after);
        if before != effect.after {
            let content = self.content;
            self.states.push((Instant::now(), content));
            self.effects.push(Effect { before, content, ..effect });
        }
    }

    fn position(&self, seen: Content, change: &Change, run: Option<RunId>) -> Position {
        let [from, to] = sides(change);
        let parts =
            (0..PARTS).map(|part| (format!("part {part}"), seen[part] == from[part], seen[part] == to[part]));
        match (Position::of_parts(parts), run) {
            // Without compare-and-set only the server's trail tells whether somebody else wrote meanwhile.
            (Position::Elsewhere(what), _) => Position::Elsewhere(what),
            (_, Some(run)) if !self.compares && self.overlaps(change, run) => {
                Position::Elsewhere("written by somebody else as well".into())
            }
            (position, _) => position,
        }
    }

    /// Whether somebody else wrote since the change was planned or, where that is not known, between the state
    /// that it moves from and what the run has written since.
    fn overlaps(&self, change: &Change, run: RunId) -> bool {
        let own = |effect: &Effect| effect.by.as_ref().is_some_and(|(by, _)| *by == run);
        let since = if let Some(planned) = change.hint.as_ref().and_then(Value::as_u64) {
            usize::try_from(planned).unwrap()
        } else {
            let of_this = |e: &Effect| own(e) && e.sides == Some(sides(change));
            let Some(first) = self.effects.iter().position(of_this) else { return false };
            let [from, _] = sides(change);
            if self.states[first].1 != from {
                return true;
            }
            first
        };
        self.effects.iter().skip(since).any(|effect| !own(effect))
    }
}

pub(crate) fn sides(change: &Change) -> [Content; 2] {
    [&change.from, &change.to].map(|snapshot| serde_json::from_value(snapshot.content.clone()).unwrap())
}

/// What one process sees.
#[derive(Clone)]
pub(crate) struct Simulated {
    pub(crate) world: Arc<World>,
    id: ComponentId,
    server: Arc<Mutex<Server>>,
    /// Where the run that uses it is recorded.
    journal: usize,
    /// How many effects this process must have seen: those that it was answered.
    seen: Arc<Mutex<usize>>,
}

impl Simulated {
    pub(crate) fn new(world: &Arc<World>, place: usize, journal: usize) -> Self {
        let server = world.servers[place].clone();
        Self { world: world.clone(), id: id(place), server, journal, seen: Arc::default() }
    }

    /// The state, or one of the last minute that this process may still see, and after how many effects that is.
    fn look(&self, stale: bool) -> (usize, Content) {
        let server = lock(&self.server);
        let since = *lock(&self.seen);
        let young = |(until, _): &&(Instant, Content)| until.elapsed() < Duration::from_secs(60);
        // The state before the oldest effect that may be missed.
        let known: Vec<_> = server.states.iter().skip(since).collect();
        let missed = known.iter().skip(1).take_while(|state| young(state)).count();
        if stale && missed > 0 && self.world.goes_wrong(100, "read stale") {
            let back = self.world.draw(|random| random.usize(1..=missed));
            return (server.states.len() - 1 - back, known[known.len() - 1 - back].1);
        }
        (server.effects.len(), server.content)
    }

    async fn read(&self, stale: bool) -> Result<(usize, Content)> {
        self.world.travel().await;
        let content = self.look(stale);
        self.world.travel().await;
        if self.world.goes_wrong(20, "read failed") {
            return Err(Error::new(ErrorKind::Unavailable, "no answer").temporary(None));
        }
        Ok(content)
    }

    /// The position as `locate` must tell it: never one of before it was asked.
    async fn find(&self, change: &Change, run: Option<RunId>) -> Result<Position> {
        let (_, seen) = self.read(false).await?;
        Ok(lock(&self.server).position(seen, change, run))
    }

    /// Sends a write. Once sent it is on its way, whatever becomes of its sender.
    async fn send(&self, cx: &StepContext, change: &Change, part: usize, seen: usize) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let (this, sides) = (self.clone(), sides(change));
        let by = (cx.run(), cx.step().clone());
        let lost = self.world.goes_wrong(20, "request lost");
        tokio::spawn(async move {
            this.world.travel().await;
            if lost {
                return sleep(Duration::from_secs(60)).await;
            }
            let done = this.serve(by, part, sides, seen, reply.is_closed());
            this.world.travel().await;
            if !this.world.goes_wrong(30, "response lost") {
                let _ = reply.send(done);
            }
        });
        // A request that takes longer is on its way all the same.
        match timeout(Duration::from_secs(30), answer).await {
            Ok(Ok(done)) => done,
            _ => Err(Error::new(ErrorKind::Timeout, "no answer").indeterminate()),
        }
    }

    fn serve(
        &self,
        by: (RunId, StepId),
        part: usize,
        sides: [Content; 2],
        seen: usize,
        is_orphan: bool,
    ) -> Result<()> {
        let mut server = lock(&self.server);
        let is_late = server.effects.len() != seen;
        if server.compares && is_late {
            return Err(Error::new(ErrorKind::Conflict, "written since it was read"));
        }
        if self.world.goes_wrong(20, "write denied") {
            return Err(Error::new(ErrorKind::PermissionDenied, "not allowed"));
        }
        self.world.tell(|| format!("{} part {part} = {} by {by:?}", self.id, sides[1][part]));
        let was_intended = self.world.journals[self.journal].knows_of(&by, server.compares);
        server.set(Effect {
            by: Some(by),
            sides: Some(sides),
            was_intended,
            is_late,
            is_orphan,
            ..Effect::by_hand(part, sides[1][part])
        });
        *lock(&self.seen) = server.effects.len();
        Ok(())
    }

    /// What it sees, after how many effects that is, and the position then.
    async fn survey(&self, change: &Change, run: RunId) -> Result<(usize, Content, Position)> {
        let (seen, content) = self.read(false).await?;
        let position = lock(&self.server).position(content, change, Some(run));
        Ok((seen, content, position))
    }

    fn elsewhere(&self, what: &str) -> Error {
        Error::new(ErrorKind::Conflict, format!("changed since it was planned: {what}"))
            .with_component(&self.id)
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

fn snapshot(content: Content) -> Snapshot {
    let id = content[0].to_string();
    let content = json!(content);
    Snapshot { fingerprint: Fingerprint::of(&content), summary: id.clone(), id, content }
}

#[async_trait]
impl Rollbackable for Simulated {
    fn id(&self) -> &ComponentId {
        &self.id
    }

    async fn realm(&self) -> Result<Realm> {
        Ok(realm())
    }

    async fn history(&self) -> Result<Vec<Revision>> {
        let (_, live) = self.read(true).await?;
        let server = lock(&self.server);
        let revision = |content: &Content| Revision {
            id: content[0].to_string(),
            fingerprint: snapshot(*content).fingerprint,
            current: *content == live,
            created: None,
            since: None,
            cause: None,
            mark: None,
            summary: String::new(),
        };
        Ok(server.revisions.iter().rev().map(revision).collect())
    }

    async fn prepare(&self, target: &Target) -> Result<Vec<Change>> {
        let (seen, live) = self.read(true).await?;
        let server = lock(&self.server);
        let none = |what| Err(Error::new(ErrorKind::NotFound, what));
        let to = match target {
            Target::Revision(id) => {
                server.revisions.iter().find(|content| content[0].to_string() == *id).copied()
            }
            Target::Snapshot(known) => serde_json::from_value(known.content.clone()).ok(),
            _ => {
                let place = server.revisions.iter().position(|content| *content == live);
                place.and_then(|place| server.revisions.get(place.checked_sub(1)?).copied())
            }
        };
        let Some(to) = to else { return none("no such revision") };
        let (from, to) = (snapshot(live), snapshot(to));
        Ok(vec![Change {
            component: self.id.clone(),
            realm: realm(),
            kind: ChangeKind::Rollback,
            from,
            to,
            identity: None,
            diff: Vec::new(),
            warnings: Vec::new(),
            touches: Vec::new(),
            irreversible: None,
            passage: rollback_core::Passage::default(),
            hint: Some(json!(seen)),
        }])
    }

    async fn locate(&self, change: &Change) -> Result<Position> {
        let writer = lock(&self.server).effects.iter().rev().find_map(|effect| {
            let [from, to] = effect.sides?;
            let of = sides(change);
            ([from, to] == of || [to, from] == of).then(|| effect.by.clone()).flatten()
        });
        self.find(change, writer.map(|(run, _)| run)).await
    }

    async fn apply(&self, cx: &StepContext, change: &Change) -> Result<()> {
        let [_, to] = sides(change);
        for _ in 0..20 {
            let (seen, content, position) = self.survey(change, cx.run()).await?;
            match position {
                Position::To => return Ok(()),
                Position::Elsewhere(what) => {
                    if what.contains("somebody else") {
                        self.world.count("overlap without compare-and-set");
                    }
                    return Err(self.elsewhere(&what));
                }
                Position::From | Position::Between => {}
            }
            let Some(part) = (0..PARTS).find(|part| content[*part] != to[*part]) else { return Ok(()) };
            cx.before_write(&format!("part {part}")).await?;
            if self.world.goes_wrong(20, "process paused") {
                sleep(self.world.draw(|random| Duration::from_secs(random.u64(5..60)))).await;
            }
            match self.send(cx, change, part, seen).await {
                Err(error) if error.kind() == ErrorKind::Conflict => cx.write_rejected(),
                Err(error) => {
                    if error.disposition() == Disposition::Permanent {
                        cx.write_rejected();
                    }
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "written by others all the time").temporary(None))
    }

    async fn verify(&self, cx: &StepContext, change: &Change) -> Result<Verification> {
        loop {
            let (_, content, position) = self.survey(change, cx.run()).await?;
            let settles = !lock(&self.server).broken.contains(&content);
            match position {
                Position::To if settles => return Ok(Verification::converged("serving")),
                Position::To => return Ok(Verification::failed("it crashes")),
                Position::Elsewhere(what) => return Ok(Verification::failed(what)),
                // A read may be old.
                _ if Instant::now() < cx.deadline() => sleep(Duration::from_secs(5)).await,
                _ => return Ok(Verification::progressing("not there")),
            }
        }
    }

    async fn status(&self) -> Result<Verification> {
        Ok(Verification::converged("serving"))
    }
}
