//! A client's connection: what it sent and was not answered yet, and what it was answered and has not read yet.

use std::io;
use std::net::TcpStream;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use crate::cache::{Cache, now};
use crate::command::Session;
use crate::reply::Replies;
use crate::request::{self, Parsed};

/// How much is read at once, at least.
const READ: usize = 64 << 10;

/// The room that a buffer keeps beyond what is in it, at most.
const KEPT: usize = 256 << 10;

/// How much a client may leave unread before nothing more that it asks is answered or read.
const UNREAD: usize = 64 << 20;

/// A client's connection.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    /// What came and is no whole request.
    pub(crate) input: Vec<u8>,
    /// What was answered and is not sent.
    pub(crate) output: Replies,
    /// Whether it ends once the output is sent.
    pub(crate) ends: bool,
    /// The least length of `input` with which a request may be whole. What is longer was left until answers are read.
    least: usize,
}

impl Connection {
    /// Begins with a client that has just come.
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Answers go as they are ready: several at once, if several were asked for at once.
        socket.set_nodelay(true)?;
        let (input, output) = Default::default();
        Ok(Self { socket, input, output, ends: false, least: 0 })
    }

    /// What is awaited of the socket.
    pub(crate) fn interest(&self) -> EventFlags {
        let mut interest = EventFlags::empty();
        let (left, unread) = (self.is_left(), self.output.bytes.len());
        interest.set(EventFlags::IN, !self.ends && !left && unread < UNREAD);
        interest.set(EventFlags::OUT, left || unread > 0);
        interest
    }

    /// Whether requests may be whole that are not answered, as too much is unread.
    fn is_left(&self) -> bool {
        !self.ends && !self.input.is_empty() && self.input.len() >= self.least
    }

    /// Does all that can be done without waiting. Returns whether the connection goes on.
    pub(crate) fn attend(&mut self, cache: &Cache<'_>) -> bool {
        let done = self.receive(cache).and_then(|()| self.send());
        done.is_ok() && (!self.ends || !self.output.bytes.is_empty())
    }

    /// Reads what came, and answers what is whole of it.
    fn receive(&mut self, cache: &Cache<'_>) -> Result<(), Errno> {
        if self.is_left() {
            self.answer(cache);
            return Ok(());
        }
        if !self.interest().contains(EventFlags::IN) {
            return Ok(());
        }
        // Twice as much as came so far, where more is lacking: a client has to send what it announces.
        self.input.reserve(READ.max(self.input.len()));
        match rustix::io::read(&self.socket, spare_capacity(&mut self.input)) {
            Ok(0) => self.ends = true,
            Ok(_) if self.input.len() >= self.least => self.answer(cache),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Answers the requests that are whole, until too much is unread: a few bytes can ask for gigabytes.
    pub(crate) fn answer(&mut self, cache: &Cache<'_>) {
        let Self { input, output: to, .. } = self;
        let (mut words, mut used) = (Vec::with_capacity(8), 0);
        let mut session = Session { cache, now: now(), to };
        self.least = 0;
        while !self.ends && used < input.len() && session.to.bytes.len() < UNREAD {
            match request::parse(&input[used..], &mut words) {
                Ok(Parsed::Whole(bytes)) => {
                    self.ends = !session.answer(&words);
                    used += bytes;
                }
                Ok(Parsed::Partial(least)) => {
                    self.least = least;
                    break;
                }
                Err(error) => {
                    session.to.error(&format!("ERR {error}"));
                    self.ends = true;
                }
            }
        }
        input.drain(..used);
        input.shrink_to(KEPT);
    }

    /// Sends what the socket takes.
    fn send(&mut self) -> Result<(), Errno> {
        let mut sent = 0;
        while sent < self.output.bytes.len() {
            match rustix::io::write(&self.socket, &self.output.bytes[sent..]) {
                Ok(bytes) => sent += bytes,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.output.bytes.drain(..sent);
        self.output.bytes.shrink_to(KEPT);
        Ok(())
    }
}
