//! The thread that owns the file.

use std::sync::mpsc::Receiver;

use tokio::sync::oneshot::Sender;

use super::claims::claim;
use super::fault::Broken;
use super::store::{Store, Write};
use crate::lease::file::FileLock;
use crate::{ComponentId, Entry, Realm, Record, Result, RunId, RunSummary};

/// What the thread is asked for. Nobody may be waiting for the answer any more.
#[derive(Debug)]
pub(super) enum Request {
    Write(Box<Write>, Sender<Result<()>>),
    Entries(RunId, Sender<Result<Vec<Entry>>>),
    Runs(Sender<Result<Vec<RunSummary>>>),
    Ledger(Realm, ComponentId, Sender<Result<Record>>),
    Lock(RunId, Sender<Result<FileLock>>),
}

/// What has been asked for until now.
#[derive(Debug, Default)]
struct Batch {
    writes: Vec<Write>,
    written: Vec<Sender<Result<()>>>,
    others: Vec<Request>,
}

impl Batch {
    fn add(&mut self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            match request {
                Request::Write(write, reply) => {
                    self.writes.push(*write);
                    self.written.push(reply);
                }
                other => self.others.push(other),
            }
        }
    }
}

/// Serves until nobody can ask any more and all that was asked for is done.
pub(super) fn serve(mut store: Store, requests: &Receiver<Request>) {
    while let Ok(first) = requests.recv() {
        let mut batch = Batch::default();
        batch.add([first]);
        batch.add(requests.try_iter());
        if !batch.writes.is_empty() {
            let locked = store.lock();
            // Those who came while others had the lock go along.
            batch.add(requests.try_iter());
            let done = locked.and_then(|()| store.commit(&batch.writes));
            for (reply, result) in batch.written.into_iter().zip(results(&mut store, &batch.writes, done)) {
                let _ = reply.send(result);
            }
        }
        for request in batch.others {
            serve_other(&store, request);
        }
    }
}

fn results(store: &mut Store, writes: &[Write], done: Result<Vec<Result<()>>, Broken>) -> Vec<Result<()>> {
    match done {
        Ok(results) => results,
        // The smaller ones may fit.
        Err(broken) if broken.is_full() && writes.len() > 1 => writes
            .chunks(1)
            .flat_map(|write| {
                let done = store.lock().and_then(|()| store.commit(write));
                results(store, write, done)
            })
            .collect(),
        Err(broken) => writes.iter().map(|_| Err(broken.at(store.path()))).collect(),
    }
}

fn serve_other(store: &Store, request: Request) {
    match request {
        Request::Entries(run, reply) => {
            let _ = reply.send(store.entries(run).map_err(|fault| fault.at(store.path())));
        }
        Request::Runs(reply) => {
            let _ = reply.send(store.runs().map_err(|fault| fault.at(store.path())));
        }
        Request::Ledger(realm, component, reply) => {
            let record = store.ledger(&realm, &component);
            let _ = reply.send(record.map_err(|fault| fault.at(store.path())));
        }
        Request::Lock(run, reply) => {
            let _ = reply.send(claim(store.path(), run).map_err(|fault| fault.at(store.path())));
        }
        Request::Write(..) => {}
    }
}
