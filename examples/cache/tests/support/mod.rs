//! A client, and processes of the cache that a service manager starts.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use heirloom_testkit::service::Manager;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const CACHE: &str = env!("CARGO_BIN_EXE_cache");
pub(crate) const NEXT: &str = env!("CARGO_BIN_EXE_cache_next");
pub(crate) const CRASHING: &str = env!("CARGO_BIN_EXE_cache_crashing");

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
    Map(Vec<Reply>),
}

/// A client with one connection.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    from: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(at: &str) -> Self {
        let socket = TcpStream::connect(at).unwrap();
        socket.set_nodelay(true).unwrap();
        let from = BufReader::new(socket.try_clone().unwrap());
        Self { socket, from }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Reply {
        self.send(&request(words));
        self.reply()
    }

    /// Asks with words that are text, one space between two.
    pub(crate) fn say(&mut self, words: &str) -> Reply {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        self.ask(&words)
    }

    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().unwrap()
    }

    /// Reads an answer. An error: the connection has ended.
    pub(crate) fn try_reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "_" => Reply::Null,
            "$" if rest == "-1" => Reply::Null,
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()?).unwrap() + 2];
                self.from.read_exact(&mut bytes)?;
                assert_eq!(bytes.split_off(bytes.len() - 2), b"\r\n");
                Reply::Bulk(bytes)
            }
            "*" => {
                Reply::Array((0..number()?).map(|_| self.try_reply()).collect::<Result<_, _>>()?)
            }
            "%" => {
                Reply::Map((0..2 * number()?).map(|_| self.try_reply()).collect::<Result<_, _>>()?)
            }
            _ => panic!("{line:?}"),
        })
    }

    pub(crate) fn read_exact(&mut self, bytes: &mut [u8]) {
        self.from.read_exact(bytes).unwrap();
    }

    /// Returns a field of `INFO`.
    pub(crate) fn info(&mut self, field: &str) -> String {
        let Reply::Bulk(text) = self.say("INFO") else { panic!("INFO") };
        let text = String::from_utf8(text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("{field} in {text}")).to_owned()
    }
}

pub(crate) fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

pub(crate) fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

pub(crate) fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.as_bytes().to_vec())
}

/// A program that can be replaced by another, while it has the same path.
pub(crate) struct Program(pub PathBuf);

impl Program {
    pub(crate) fn new(test: &str, build: &str) -> Self {
        let name = format!("heirloom-cache-{test}-{}", std::process::id());
        let program = Self(std::env::temp_dir().join(name));
        program.becomes(build);
        program
    }

    pub(crate) fn becomes(&self, build: &str) {
        let new = self.0.with_extension("new");
        let _ = std::fs::remove_file(&new);
        std::os::unix::fs::symlink(build, &new).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Starts the cache with all that the manager keeps.
pub(crate) fn start(manager: &Manager, program: &Path, options: &[&str]) -> Life {
    start_at(manager, program, options, u32::MAX)
}

/// Starts the cache; if it is the build that crashes, or becomes it, that crashes at this step.
pub(crate) fn start_at(manager: &Manager, program: &Path, options: &[&str], step: u32) -> Life {
    let mut command = manager.command(program);
    command.args(options).env("CRASH_AT", step.to_string());
    Life::of(command)
}

/// A process that is the cache.
pub(crate) struct Life {
    child: Child,
    errors: BufReader<ChildStderr>,
    said: VecDeque<String>,
}

/// What a cache says when it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Begun {
    pub(crate) build: String,
    pub(crate) at: String,
    pub(crate) items: u64,
    pub(crate) connections: u64,
    pub(crate) generation: u64,
    pub(crate) how: String,
}

impl Life {
    /// Starts one that no service manager has.
    pub(crate) fn alone(program: &Path, options: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(options).env_remove("NOTIFY_SOCKET");
        Self::of(command)
    }

    pub(crate) fn of(mut command: Command) -> Self {
        command.env_remove("HEIRLOOM_HANDOVER").env_remove("HEIRLOOM_FDS");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        Self { child, errors, said: VecDeque::new() }
    }

    /// Returns the next line that it says: none, once it has ended.
    pub(crate) fn says(&mut self) -> Option<String> {
        let mut line = String::new();
        self.errors.read_line(&mut line).unwrap();
        self.said.push_back(line.clone());
        line.strip_suffix('\n').map(str::to_owned)
    }

    /// Waits until it, or what it becomes, has begun.
    pub(crate) fn begins(&mut self) -> Begun {
        let said = self.says().unwrap_or_else(|| panic!("it has ended: {:?}", self.said));
        let read = || {
            let (build, rest) = said.split_once(": ")?;
            let (at, rest) = rest.split_once(": ")?;
            let (rest, how) = rest.split_once(": ")?;
            let mut parts = rest.split(", ");
            let items = parts.next()?.strip_suffix(" items")?.parse().ok()?;
            let connections = parts.next()?.strip_suffix(" connections")?.parse().ok()?;
            let generation = parts.next()?.strip_prefix("generation ")?.parse().ok()?;
            let [build, at, how] = [build, at, how].map(str::to_owned);
            Some(Begun { build, at, items, connections, generation, how })
        };
        read().unwrap_or_else(|| panic!("it said {said:?}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it at once, as it is.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself. Returns how, and what it said last.
    pub(crate) fn ends(mut self) -> (std::process::ExitStatus, String) {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
