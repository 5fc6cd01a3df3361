//! The servers: how each is started, ended, and asked about.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::client::{Client, Dialect, Lane};
use super::place::{Place, free_address, resident};
use crate::linux::apt;

/// How long a server may take to answer again.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between two attempts to reach a server from outside: nothing tells a client of a port that is opened. So much too long is a gap
/// measured at most.
pub(super) const PAUSE: Duration = Duration::from_micros(200);

/// What memcached needs between two of its lives, at most.
const SECOND: Duration = Duration::from_secs(1);

/// A server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// `examples/cache` under `heirloom hold`.
    Heirloom,
    /// `redis-server` that writes snapshots, as Debian configures it.
    Rdb,
    /// `redis-server` that writes a log, and has it on the disk each second.
    Aof,
    /// `memcached` whose memory is a file on tmpfs.
    Memcached,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Heirloom, Self::Rdb, Self::Aof, Self::Memcached];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Heirloom => "heirloom's cache",
            Self::Rdb => "redis, snapshots",
            Self::Aof => "redis, log",
            Self::Memcached => "memcached -e",
        }
    }

    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::Heirloom => "heirloom",
            Self::Rdb => "rdb",
            Self::Aof => "aof",
            Self::Memcached => "memcached",
        }
    }

    /// Installs it, if it is missing.
    pub(super) fn install(self) -> Result<()> {
        match self {
            Self::Heirloom => Ok(()),
            Self::Rdb | Self::Aof => apt::install(&["redis-server"]),
            Self::Memcached => apt::install(&["memcached"]),
        }
    }

    pub(super) const fn dialect(self) -> Dialect {
        match self {
            Self::Heirloom | Self::Rdb | Self::Aof => Dialect::Resp,
            Self::Memcached => Dialect::Memcached,
        }
    }

    /// The signal that has it restart as planned, with what it has.
    const fn planned(self) -> &'static str {
        match self {
            Self::Heirloom => "USR2",
            Self::Rdb | Self::Aof => "TERM",
            Self::Memcached => "USR1",
        }
    }
}

/// A server that runs, and is started again when it ends.
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) at: SocketAddr,
    child: Child,
    /// What the supervisor says.
    errors: Option<BufReader<ChildStderr>>,
    files: PathBuf,
    memory: PathBuf,
    programs: PathBuf,
    /// Bytes that it may use.
    most: u64,
}

impl Server {
    /// Starts a server with room for items of so many bytes.
    pub(super) fn start(kind: Kind, place: &Place, bytes: u64) -> Result<Self> {
        let files = place.files.path().join(kind.short());
        let memory = place.memory.path().join(kind.short());
        fs::create_dir_all(&files)?;
        let programs = place.programs.clone();
        let most = (bytes * 2).next_multiple_of(1 << 20) + (256 << 20);
        let at = free_address()?;
        if kind == Kind::Heirloom {
            symlink(programs.join("cache"), files.join("cache")).context("a link")?;
        }
        let child = command(kind, at, &files, &memory, &programs, most)?.spawn();
        let mut child = child.with_context(|| kind.name())?;
        let errors = child.stderr.take().map(BufReader::new);
        let mut server = Self { kind, at, child, errors, files, memory, programs, most };
        server.is_there()?;
        Ok(server)
    }

    /// Waits until it answers.
    pub(super) fn is_there(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended: {status}", self.kind.name());
            }
            let answered = self.lane().and_then(|mut lane| lane.is_answered(0));
            if answered.unwrap_or(false) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{} does not answer", self.kind.name());
            thread::sleep(PAUSE);
        }
    }

    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::new(self.at, self.kind.dialect())?)
    }

    pub(super) fn lane(&self) -> std::io::Result<Lane> {
        Lane::new(self.at, self.kind.dialect())
    }

    /// Returns the number of the process that serves.
    pub(super) fn pid(&self) -> Result<u32> {
        match self.kind {
            Kind::Heirloom => self.told("process_id"),
            _ => Ok(self.child.id()),
        }
    }

    /// Returns the bytes that its memory has, and the cache of its supervisor's is none of them.
    pub(super) fn resident(&self) -> Result<u64> {
        resident(self.pid()?)
    }

    /// Returns a number of `INFO`.
    fn told(&self, field: &str) -> Result<u32> {
        let text = self.lane()?.text("INFO")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|number| number.parse().ok()).with_context(|| format!("{field} in {text}"))
    }

    /// Restarts it as planned. Returns when it answers again.
    pub(super) fn restart(&mut self) -> Result<()> {
        if self.kind != Kind::Heirloom {
            signal(self.child.id(), self.kind.planned())?;
            return self.again();
        }
        // The supervisor hands the signal on. The process stays the same.
        let before = self.told("generation")?;
        signal(self.child.id(), self.kind.planned())?;
        let until = Instant::now() + PATIENCE;
        while self.told("generation")? == before {
            ensure!(Instant::now() < until, "it does not become its successor");
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Kills it, and has it started again. Returns when it answers again.
    pub(super) fn kill(&mut self) -> Result<()> {
        let pid = self.pid()?;
        signal(pid, "KILL")?;
        match self.kind {
            Kind::Heirloom => self.is_there(),
            _ => self.again(),
        }
    }

    /// Kills the cache, and has what is started in its place crash so many times, before it is itself again.
    pub(super) fn crash(&mut self, times: usize) -> Result<()> {
        let pid = self.pid()?;
        replace(&self.programs.join("cache_crashing"), &self.files)?;
        signal(pid, "KILL")?;
        let errors = self.errors.as_mut().context("what the supervisor says")?;
        let (mut line, mut crashes) = (String::new(), 0);
        // The first that ends is the cache.
        while crashes <= times {
            line.clear();
            ensure!(errors.read_line(&mut line)? > 0, "the supervisor has ended");
            crashes +=
                usize::from(line.starts_with("heirloom hold: ") && line.contains(" ended: "));
        }
        replace(&self.programs.join("cache"), &self.files)?;
        self.is_there()
    }

    /// Starts a rival again, as soon as it has ended.
    fn again(&mut self) -> Result<()> {
        self.child.wait()?;
        if self.kind == Kind::Memcached {
            // It takes up no memory that was left in the same second.
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let since = Duration::from_nanos(since.subsec_nanos().into());
            thread::sleep(SECOND.saturating_sub(since));
        }
        let Self { kind, at, files, memory, programs, most, .. } = self;
        self.child = command(*kind, *at, files, memory, programs, *most)?.spawn()?;
        self.is_there()
    }

    /// Ends it, and all that it wrote.
    pub(super) fn end(mut self) -> Result<()> {
        match self.kind {
            Kind::Heirloom => signal(self.child.id(), "TERM")?,
            _ => self.child.kill()?,
        }
        self.child.wait()?;
        fs::remove_dir_all(&self.files)?;
        let _ = fs::remove_file(&self.memory);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error: the supervisor ends with what it holds.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

/// Has the path of the cache lead to another program, at once.
fn replace(program: &std::path::Path, files: &std::path::Path) -> Result<()> {
    let new = files.join("new");
    symlink(program, &new)?;
    Ok(fs::rename(new, files.join("cache"))?)
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    ensure!(status.success(), "kill -s {name} {pid}: {status}");
    Ok(())
}

/// How a server is started: with one thread, and room for all.
fn command(
    kind: Kind,
    at: SocketAddr,
    files: &std::path::Path,
    memory: &std::path::Path,
    programs: &std::path::Path,
    most: u64,
) -> Result<Command> {
    let log = File::options().create(true).append(true).open(files.join("log"))?;
    let port = at.port().to_string();
    let mut command;
    match kind {
        Kind::Heirloom => {
            command = Command::new(programs.join("heirloom"));
            command.args(["hold", "--pause", "1", "--failures", "10"]);
            command.args(["--listen", &format!("listen={at}"), "--"]).arg(files.join("cache"));
            command.args(["--threads", "1", "--memory", &(most >> 20).to_string()]);
            // Where the build that crashes does so: all is open by then, and much is written.
            command.env("CRASH_AT", "5").stderr(Stdio::piped());
        }
        Kind::Rdb | Kind::Aof => {
            command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--port", &port, "--dir"]).arg(files);
            match kind {
                Kind::Aof => command.args(["--appendonly", "yes", "--save", ""]),
                _ => command.args(["--save", "3600 1 300 100 60 10000"]),
            };
            command.stderr(log.try_clone()?);
        }
        Kind::Memcached => {
            command = Command::new("memcached");
            command.args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-t", "1", "-u", "root"]);
            command.args(["-m", &(most >> 20).to_string(), "-e"]).arg(memory);
            command.stderr(log.try_clone()?);
        }
    }
    command.stdin(Stdio::null()).stdout(log).env_remove("NOTIFY_SOCKET");
    Ok(command)
}
