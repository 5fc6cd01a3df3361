//! The threads: each attends to its share of the connections, until all are asked to stop.

use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use crate::cache::Cache;
use crate::connection::Connection;

/// What an event is about: these two, or the connection whose number comes after them.
const STOP: u64 = 0;
const LISTEN: u64 = 1;
const FIRST: u64 = 2;

/// How many events a thread takes at once.
const EVENTS: usize = 256;

/// A thread's share of the connections.
pub(crate) struct Worker<'c, 'h> {
    cache: &'c Cache<'h>,
    listener: &'c TcpListener,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    /// Places in `connections` that are free.
    free: Vec<usize>,
}

impl<'c, 'h> Worker<'c, 'h> {
    /// Prepares a thread that attends to these connections and takes new ones from `listener`, until `stop` can be
    /// read.
    pub(crate) fn new(
        cache: &'c Cache<'h>,
        listener: &'c TcpListener,
        stop: BorrowedFd<'_>,
        connections: Vec<Connection>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, stop, EventData::new_u64(STOP), EventFlags::IN)?;
        // One thread is woken by each client that comes.
        let one = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, listener, EventData::new_u64(LISTEN), one)?;
        let mut worker = Self { cache, listener, epoll, connections: Vec::new(), free: Vec::new() };
        for connection in connections {
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
                    STOP => return self.connections.into_iter().flatten().collect(),
                    LISTEN => self.accept(),
                    number => self.attend((number - FIRST) as usize),
                }
            }
        }
    }

    fn accept(&mut self) {
        // Another thread may have been faster, or the client is gone.
        let Ok((socket, _)) = self.listener.accept() else { return };
        if self.cache.clients.fetch_add(1, Relaxed) >= self.cache.most_clients {
            let _ = (&socket).write(b"-ERR max number of clients reached\r\n");
            return self.leave();
        }
        match Connection::new(socket) {
            Ok(connection) => self.add(connection),
            Err(_) => self.leave(),
        }
    }

    /// Takes a connection on.
    fn add(&mut self, mut connection: Connection) {
        // What a predecessor read may be whole by this build's rules, and what it answered can be sent.
        connection.answer(self.cache);
        let at = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let data = EventData::new_u64(at as u64 + FIRST);
        let interest = connection.interest();
        if epoll::add(&self.epoll, &connection.socket, data, interest).is_ok() {
            self.connections[at] = Some(connection);
        } else {
            self.free.push(at);
            self.leave();
        }
    }

    fn attend(&mut self, at: usize) {
        // An event that came together with the one that ended the connection.
        let Some(Some(connection)) = self.connections.get_mut(at) else { return };
        let before = connection.interest();
        let mut goes_on = connection.attend(self.cache);
        let interest = connection.interest();
        if goes_on && interest != before {
            let data = EventData::new_u64(at as u64 + FIRST);
            goes_on = epoll::modify(&self.epoll, connection.socket.as_fd(), data, interest).is_ok();
        }
        if !goes_on {
            // Its end takes it out of the epoll, too.
            self.connections[at] = None;
            self.free.push(at);
            self.leave();
        }
    }

    /// Counts a connection that ended.
    fn leave(&self) {
        self.cache.clients.fetch_sub(1, Relaxed);
    }
}
