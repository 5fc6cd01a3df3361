//! The ends: as planned, and by `kill -9`, each while a writer writes and an observer asks.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use heirloom_testkit::Rng;

use super::client::{Answer, Client, Lane, Op};
use super::items::Items;
use super::server::{PAUSE, Server};

/// How often in a row the build that crashes is started.
pub(super) const CRASHES: usize = 5;

/// Items that are written anew before a server ends.
const WRITES: usize = 20_000;

/// Items that are written at once.
const BATCH: usize = 1024;

/// What came of an end.
#[derive(Clone, Default, Debug)]
pub(super) struct Outcome {
    /// The longest time between two answers.
    pub(super) gap: Duration,
    /// Items that were acknowledged, and are not there as they were.
    pub(super) lost: usize,
    /// Whether the connections went on.
    pub(super) connected: bool,
}

impl Outcome {
    /// Adds another end's: the worst counts.
    pub(super) fn add(&mut self, other: &Self) {
        self.gap = self.gap.max(other.gap);
        self.lost += other.lost;
        self.connected &= other.connected;
    }
}

/// Restarts a server as planned.
pub(super) fn planned(server: &mut Server, items: &mut Items) -> Result<Outcome> {
    end(server, items, Server::restart)
}

/// Kills a server.
pub(super) fn killed(server: &mut Server, items: &mut Items) -> Result<Outcome> {
    end(server, items, Server::kill)
}

/// Kills the cache, and has a build come up in its place that crashes as it starts. How long there is no answer is not
/// counted: that is for as long as such a build is there.
pub(super) fn crashing(server: &mut Server, items: &mut Items) -> Result<Outcome> {
    let crash = |server: &mut Server| server.crash(CRASHES);
    Ok(Outcome { gap: Duration::ZERO, ..end(server, items, crash)? })
}

fn end(
    server: &mut Server,
    items: &mut Items,
    act: impl FnOnce(&mut Server) -> Result<()>,
) -> Result<Outcome> {
    let over = AtomicBool::new(false);
    let mut client = server.client()?;
    let lane = server.lane()?;
    let (at, dialect) = (server.at, server.kind.dialect());
    let (busy, is_busy) = mpsc::channel();
    let (gap, connected) = thread::scope(|scope| -> Result<_> {
        let over = &over;
        let items = &mut *items;
        let writes = scope.spawn(move || write(&mut client, items, over, &busy));
        let observes = scope.spawn(move || observe(lane, || Lane::new(at, dialect), over));
        // In the middle of writes.
        is_busy.recv().context("the writer ended early")?;
        let acted = act(server);
        over.store(true, Relaxed);
        let stayed = writes.join().map_err(|_| anyhow!("the writer panicked"))?;
        let (gap, kept) = observes.join().map_err(|_| anyhow!("the observer panicked"))?;
        acted?;
        Ok((gap, stayed && kept))
    })?;
    let lost = items.check(&mut server.client()?)?;
    Ok(Outcome { gap, lost, connected })
}

/// Writes items anew until it is over, or the server is gone. Says when it has written many. Returns whether the
/// connections went on.
fn write(
    client: &mut Client,
    items: &mut Items,
    over: &AtomicBool,
    busy: &mpsc::Sender<()>,
) -> bool {
    let mut random = Rng::new(7);
    let mut written = 0;
    while !over.load(Relaxed) {
        // What is asked for is noted first: the server may store it, and die.
        // Each once: of two on two connections the first may be stored last.
        let mut some: Vec<_> = (0..BATCH).map(|_| random.index(items.count())).collect();
        some.sort_unstable();
        some.dedup();
        let ops: Vec<_> = some.into_iter().map(|item| items.next(item)).collect();
        let ran = client.run(ops.into_iter(), |op, answer| {
            if let (Op::Set(item, version), Answer::Stored) = (op, answer) {
                items.stored(item, version);
                written += 1;
            }
        });
        if ran.is_err() {
            return false;
        }
        if written >= WRITES {
            // It may have been said before.
            let _ = busy.send(());
        }
    }
    true
}

/// Asks for an item all the time until it is over, and connects again where it has to. Returns the longest time between two
/// answers, and whether the connection went on.
fn observe(
    lane: Lane,
    connect: impl Fn() -> io::Result<Lane>,
    over: &AtomicBool,
) -> (Duration, bool) {
    let (mut lane, mut kept) = (Some(lane), true);
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    loop {
        let is_over = over.load(Relaxed);
        let answered = match &mut lane {
            Some(lane) => lane.is_answered(0),
            None => connect().map(|new| {
                lane = Some(new);
                false
            }),
        };
        match answered {
            Ok(true) => {
                let now = Instant::now();
                gap = gap.max(now - last);
                last = now;
                // Once more after it is over: the server answers by then.
                if is_over {
                    return (gap, kept);
                }
            }
            Ok(false) => thread::sleep(PAUSE),
            Err(_) => {
                (lane, kept) = (None, false);
                thread::sleep(PAUSE);
            }
        }
    }
}
