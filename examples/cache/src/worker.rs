//! The threads: each attends to its share of the connections, until all are asked to stop.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::cache::Cache;
use crate::connection::Connection;

/// What an event is about: these two, or the connection whose number it has, from 2 on.
const STOP: u64 = 0;
const LISTEN: u64 = 1;

/// How many events a thread takes at once.
const EVENTS: usize = 256;

/// As many clients at most, of all threads: a jump takes about 8,000 descriptors along.
const MOST_CLIENTS: usize = 4000;

/// Descriptors that are not clients', beside one of each thread.
const SPARE: u64 = 32;

/// Returns how many clients there may be where a process has so many descriptors. Each takes one, and one more in a jump; where
/// all were taken, a client that waits could not even be turned away.
pub(crate) fn most_clients(descriptors: u64, threads: usize) -> usize {
    let clients = descriptors.saturating_sub(SPARE + threads as u64) / 2;
    usize::try_from(clients).unwrap_or(MOST_CLIENTS).min(MOST_CLIENTS)
}

/// A thread's share of the connections.
pub(crate) struct Worker<'c, 'h> {
    cache: Cache<'h>,
    listener: &'c TcpListener,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    /// The number of the connection that was taken last. None has the number of one before it.
    last: u64,
}

impl<'c, 'h> Worker<'c, 'h> {
    /// Prepares a thread that attends to these connections and takes new ones from `listener`, until `stop` can be
    /// read.
    pub(crate) fn new(
        cache: Cache<'h>,
        listener: &'c TcpListener,
        stop: BorrowedFd<'_>,
        connections: Vec<Connection>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, stop, EventData::new_u64(STOP), EventFlags::IN)?;
        // One thread is woken by each client that comes.
        let one = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, listener, EventData::new_u64(LISTEN), one)?;
        let mut worker = Self { cache, listener, epoll, connections: HashMap::new(), last: LISTEN };
        for mut connection in connections {
            // What a predecessor read may be whole by this build's rules.
            connection.answer(&worker.cache);
            worker.add(connection);
        }
        Ok(worker)
    }

    /// Attends to the connections. Returns them when it is asked to stop.
    pub(crate) fn run(mut self) -> Vec<Connection> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // No other error is possible with these arguments.
                Err(error) => panic!("epoll_wait: {error}"),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    STOP => return self.connections.into_values().collect(),
                    LISTEN => self.accept(),
                    number => self.attend(number),
                }
            }
        }
    }

    fn accept(&mut self) {
        // Another thread may have been faster, or the client is gone.
        let Ok((socket, _)) = self.listener.accept() else { return };
        let before = self.cache.clients.fetch_add(1, Relaxed);
        match Connection::new(socket) {
            Ok(connection) if before < self.cache.most_clients => self.add(connection),
            _ => _ = self.cache.clients.fetch_sub(1, Relaxed),
        }
    }

    /// Takes a connection on.
    fn add(&mut self, connection: Connection) {
        self.last += 1;
        let (data, interest) = (EventData::new_u64(self.last), connection.interest());
        if epoll::add(&self.epoll, &connection.socket, data, interest).is_ok() {
            self.connections.insert(self.last, connection);
        } else {
            self.cache.clients.fetch_sub(1, Relaxed);
        }
    }

    fn attend(&mut self, number: u64) {
        // An event that came together with the one that ended the connection.
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let before = connection.interest();
        let mut goes_on = connection.attend(&self.cache);
        let interest = connection.interest();
        if goes_on && interest != before {
            let data = EventData::new_u64(number);
            goes_on = epoll::modify(&self.epoll, &connection.socket, data, interest).is_ok();
        }
        if !goes_on {
            // Its end takes it out of the epoll, too.
            self.connections.remove(&number);
            self.cache.clients.fetch_sub(1, Relaxed);
        }
    }
}
