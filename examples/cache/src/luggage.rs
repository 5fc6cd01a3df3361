//! What goes along into a successor beside the memory: the listening socket, the connections, and what is half read
//! or not yet sent of each.
//!
//! ```text
//! descriptors   listen, connection, connection, ..., halves
//!                                                       │
//! halves        version 1 | ends, RESP 3 | input's length, bytes | output's length, bytes | ends, RESP 3 | ...
//! ```
//!
//! The halves are in a memfd of their own rather than in the arena: they are to be had when the arena is full, and a
//! process that is killed on the way leaves nothing behind.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use heirloom::jump::Jump;
use heirloom::service::Service;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::connection::Connection;

/// The names of the descriptors. Service managers have the socket under the first, too.
pub(crate) const LISTEN: &str = "listen";
const CONNECTION: &str = "connection";
const HALVES: &str = "halves";

/// The version of what is written here. Another build drops the connections of a version that it does not know.
const VERSION: u8 = 1;

/// Takes the socket and the connections along.
pub(crate) fn pack(
    jump: Jump,
    listener: &TcpListener,
    connections: &[Connection],
) -> io::Result<Jump> {
    let mut jump = jump.with_fd(LISTEN, listener.as_fd())?;
    let halves = File::from(memfd_create(HALVES, MemfdFlags::CLOEXEC)?);
    let mut to = BufWriter::new(&halves);
    to.write_all(&[VERSION])?;
    for connection in connections {
        jump = jump.with_fd(CONNECTION, connection.socket.as_fd())?;
        to.write_all(&[u8::from(connection.ends), u8::from(connection.output.resp3)])?;
        for half in [&connection.input, &connection.output.bytes] {
            to.write_all(&(half.len() as u64).to_le_bytes())?;
            to.write_all(half)?;
        }
    }
    to.flush()?;
    drop(to);
    jump.with_fd(HALVES, halves.as_fd())
}

/// Takes the connections that a predecessor passed on. Those of which it does not say what is half read are closed.
pub(crate) fn unpack(service: &mut Service) -> Vec<Connection> {
    let sockets: Vec<_> = std::iter::from_fn(|| service.take(CONNECTION)).collect();
    let Some(halves) = service.take(HALVES) else { return Vec::new() };
    let mut from = BufReader::new(File::from(halves));
    if from.rewind().is_err() || !matches!(bytes(&mut from), Ok([VERSION])) {
        return Vec::new();
    }
    let one = |socket| {
        let mut connection = Connection::new(TcpStream::from(socket)).ok()?;
        [connection.ends, connection.output.resp3] =
            bytes(&mut from).ok()?.map(|flag: u8| flag != 0);
        for half in [&mut connection.input, &mut connection.output.bytes] {
            let length = u64::from_le_bytes(bytes(&mut from).ok()?);
            from.by_ref()
                .take(length)
                .read_to_end(half)
                .ok()
                .filter(|read| *read as u64 == length)?;
        }
        Some(connection)
    };
    sockets.into_iter().map_while(one).collect()
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
