//! The client: several requests on their way on each of several connections, in RESP or as memcached has it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::items;

/// Connections, and requests that are on their way on each.
const LANES: usize = 4;
const DEPTH: usize = 64;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Resp,
    Memcached,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// Store this version of an item.
    Set(usize, u16),
    Get(usize),
}

/// An answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer<'a> {
    Stored,
    Value(&'a [u8]),
    Missing,
    /// Not now, or never: what the server says.
    Error(&'a [u8]),
}

/// A client of a server.
pub(super) struct Client {
    lanes: Vec<Lane>,
}

/// A connection.
pub(super) struct Lane {
    dialect: Dialect,
    socket: BufReader<TcpStream>,
    out: Vec<u8>,
    line: Vec<u8>,
    value: Vec<u8>,
    /// What was asked and is not answered yet.
    pending: VecDeque<Op>,
}

impl Client {
    pub(super) fn new(at: SocketAddr, dialect: Dialect) -> io::Result<Self> {
        let lanes = (0..LANES).map(|_| Lane::new(at, dialect)).collect::<io::Result<_>>()?;
        Ok(Self { lanes })
    }

    /// Makes all requests, and hands each answer on.
    ///
    /// # Errors
    /// The server is gone. What it had answered by then was handed on.
    pub(super) fn run(
        &mut self,
        mut ops: impl Iterator<Item = Op>,
        mut each: impl FnMut(Op, Answer<'_>),
    ) -> io::Result<()> {
        let mut failed = None;
        while failed.is_none() {
            let mut asked = 0;
            for lane in &mut self.lanes {
                let some = ops.by_ref().take(DEPTH);
                let turn = lane.collect(&mut each).and_then(|()| lane.ask(some));
                match turn {
                    Ok(count) => asked += count,
                    Err(error) => failed = Some(error),
                }
            }
            if asked == 0 {
                break;
            }
        }
        for lane in &mut self.lanes {
            if let Err(error) = lane.collect(&mut each) {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Lane {
    pub(super) fn new(at: SocketAddr, dialect: Dialect) -> io::Result<Self> {
        let socket = TcpStream::connect(at)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let socket = BufReader::with_capacity(64 << 10, socket);
        let (out, line, value, pending) = <(Vec<_>, Vec<_>, Vec<_>, VecDeque<_>)>::default();
        Ok(Self { dialect, socket, out, line, value, pending })
    }

    /// Sends requests. Returns how many.
    fn ask(&mut self, ops: impl Iterator<Item = Op>) -> io::Result<usize> {
        self.out.clear();
        let before = self.pending.len();
        for op in ops {
            self.pending.push_back(op);
            match op {
                Op::Set(item, version) => {
                    items::write(item, version, &mut self.value);
                    let (key, length) = (items::key(item), self.value.len());
                    match self.dialect {
                        Dialect::Resp => {
                            self.out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
                            self.out.extend_from_slice(&key);
                            write!(self.out, "\r\n${length}\r\n")?;
                        }
                        Dialect::Memcached => {
                            self.out.extend_from_slice(b"set ");
                            self.out.extend_from_slice(&key);
                            write!(self.out, " 0 0 {length}\r\n")?;
                        }
                    }
                    self.out.extend_from_slice(&self.value);
                }
                Op::Get(item) => {
                    self.out.extend_from_slice(match self.dialect {
                        Dialect::Resp => b"*2\r\n$3\r\nGET\r\n$16\r\n",
                        Dialect::Memcached => b"get ",
                    });
                    self.out.extend_from_slice(&items::key(item));
                }
            }
            self.out.extend_from_slice(b"\r\n");
        }
        self.socket.get_mut().write_all(&self.out)?;
        Ok(self.pending.len() - before)
    }

    /// Takes all answers that are still to come.
    fn collect(&mut self, mut each: impl FnMut(Op, Answer<'_>)) -> io::Result<()> {
        while let Some(op) = self.pending.pop_front() {
            each(op, self.answer()?);
        }
        Ok(())
    }

    /// Asks for one item, and returns whether there was an answer, be it that there is no such item.
    pub(super) fn is_answered(&mut self, item: usize) -> io::Result<bool> {
        self.ask(std::iter::once(Op::Get(item)))?;
        self.pending.clear();
        Ok(!matches!(self.answer()?, Answer::Error(_)))
    }

    /// Asks with a line, which is answered by bytes of text.
    pub(super) fn text(&mut self, line: &str) -> io::Result<String> {
        self.socket.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        match self.answer()? {
            Answer::Value(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    fn answer(&mut self) -> io::Result<Answer<'_>> {
        self.read_line()?;
        let length = match (self.dialect, self.line.as_slice()) {
            (Dialect::Resp, b"+OK") | (Dialect::Memcached, b"STORED") => return Ok(Answer::Stored),
            (Dialect::Resp, b"$-1" | b"_") | (Dialect::Memcached, b"END") => {
                return Ok(Answer::Missing);
            }
            (Dialect::Resp, [b'$', length @ ..]) => length,
            (Dialect::Memcached, [b'V', b'A', b'L', ..]) => {
                self.line.rsplit(|byte| *byte == b' ').next().unwrap_or_default()
            }
            _ => return Ok(Answer::Error(&self.line)),
        };
        let length = length.iter().try_fold(0, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0'))
        });
        let length = length.ok_or(ErrorKind::InvalidData)?;
        self.value.resize(length + 2, 0);
        self.socket.read_exact(&mut self.value)?;
        self.value.truncate(length);
        if self.dialect == Dialect::Memcached {
            self.read_line()?;
        }
        Ok(Answer::Value(&self.value))
    }

    /// Reads a line into `line`, without its end.
    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        self.socket.read_until(b'\n', &mut self.line)?;
        if !self.line.ends_with(b"\r\n") {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.line.truncate(self.line.len() - 2);
        Ok(())
    }
}
