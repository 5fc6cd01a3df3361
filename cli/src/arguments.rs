//! What is asked for on the command line.

mod place;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::{OsStringValueParser, PathBufValueParser, TypedValueParser};
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use heirloom_kho::{PageSize, PhysAddr};

use crate::live;
pub(crate) use place::{How, Place, Source};
use values::{address, listen, number, page_size, picture, raw, times};

/// Look at what a kernel handed over to the next, in an image of the machine's memory.
#[derive(Debug, Parser)]
#[command(
    name = "heirloom",
    version,
    propagate_version = true,
    after_help = "\
IMAGE is an ELF core with physical addresses (QEMU's dump-guest-memory, a vmcore, /proc/vmcore or \
/proc/kcore), a kdump file, a LiME image, the arena of a process that uses heirloom, or raw memory \
if --base says where its first byte lies, and --raw where more of it does. Only what is looked at is \
read of it, so its size does not matter. An address (ADDR) is 0x50f000, 50f000, 5304320 or 16M. What is packed as a whole (gzip, zstd, xz, a flattened \
kdump file) or comes out of a pipe (-) is unpacked first, to a file without a name in TMPDIR.

Examples:
  heirloom inspect vmcore                       what is preserved
  heirloom inspect vmcore --json | jq .subtrees
  heirloom inspect vmcore --map handover.svg    a picture for a bug report
  heirloom check memory.raw --base 0x40000000   everything that is wrong with it
  heirloom check low --base 0 --raw high@0x100000000
  ssh host cat /proc/vmcore | heirloom check -
  heirloom extract vmcore session-0 1 -o guest-memory
  heirloom list arena items                     what is in a container
  heirloom diff before.elf after.elf"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Inspect(Inspect),
    Check(Check),
    Extract(Extract),
    List(List),
    Diff(Diff),
    Hold(Hold),
    Status(Status),
    Clear(Clear),
    Completions(Completions),
    Man(Man),
    Schema(Schema),
}

/// Show what a handover preserves
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if there is a handover, with faults or without; 2 if not.

Examples:
  heirloom inspect vmcore
  heirloom inspect vmcore --root 0x50f000 --json
  heirloom inspect --live
  heirloom inspect --pid $(pgrep -x cache)
  heirloom inspect memory.raw --base 0x40000000 --map handover.svg")]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave out what needs all of a file's content read: its SHA-256
    #[arg(long)]
    pub(crate) quick: bool,
    /// Draw where preserved memory lies: as a page to look around in, if the name ends in .html, else as SVG
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(picture))]
    pub(crate) map: Option<PathBuf>,
    /// Colour the summary
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Find everything that is wrong with a handover
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if nothing is wrong; 1 if something is; 2 if there is no handover to check; 3 if
nothing is wrong in what was looked at, and something was not looked at, as it is of a kind that only
its owner knows: a subtree, a file, a state that files share (FLB). It is named, and --accept NAME
vouches for it. With --for, what the next kernel does not take is wrong, and what may be a module's is
not known.

Examples:
  heirloom check vmcore
  heirloom check vmcore --accept hugetlb-v1 --accept 'pci-*'
  heirloom check vmcore --root 0x50f000 --json
  heirloom check vmcore --for /boot/vmlinuz-7.4.1
  heirloom check vmcore --against vmcore-of-the-release-before
  heirloom check --quiet vmcore || mail -s 'the handover is broken' root < /dev/null
  heirloom check memory.raw --base 0x40000000 --scratch 0x48000000+32")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Vouch for what is not looked at: a subtree's name, a file's kind, or a state's name; `*` at
    /// the end stands for anything
    #[arg(long, value_name = "NAME")]
    pub(crate) accept: Vec<String>,
    /// Say whether the next kernel will take it: a release of Linux (7.3), its vmlinuz or vmlinux, its
    /// configuration, or a table of what it takes; given again, a module's file, or `heirloom`
    #[arg(long = "for", value_name = "KERNEL")]
    pub(crate) next: Vec<OsString>,
    /// Find what is laid out in another way than in this handover, and says that it is the same; or than in this
    /// table, if IMAGE is one too
    #[arg(long, value_name = "OLD")]
    pub(crate) against: Option<PathBuf>,
    /// Print JSON instead of lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing: the exit status says it
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Colour the lines
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Write the content of a preserved memfd, or of an object, to a file
///
/// What was never written of a memfd is a hole in the file too.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if the file is written, whole; 2 if not.

Examples:
  heirloom extract vmcore session-0 1 -o guest-memory
  heirloom extract vmcore vm-17 0x100 -o vm-17.ram
  heirloom extract vmcore vm-17 0x100 -o - | sha256sum
  heirloom extract arena --object sessions -o session
  heirloom extract arena --object 0x1520e8 -o -
  heirloom extract arena --object 'items[3]' --entry user:17 -o value")]
#[allow(clippy::doc_markdown, reason = "what is printed for a person")]
pub(crate) struct Extract {
    /// The image: an ELF core, a kdump file, a LiME image, an arena, or raw memory; - is standard input
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) how: How,
    /// The session's name
    #[arg(required_unless_present = "object")]
    pub(crate) session: Option<String>,
    /// The file's token
    #[arg(value_parser = number, required_unless_present = "object")]
    pub(crate) token: Option<u64>,
    /// What heirloom left: a published root (NAME), one of the handles in it (NAME[2]), the object around an address
    /// (0x1520e8), or what a handle names (32 hexadecimal digits)
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["session", "token"])]
    pub(crate) object: Option<String>,
    /// Of a container that is named so, the entry: a map's key, as text or in hexadecimal behind 0x; the number of a log's record,
    /// or of a vector's element
    #[arg(long, value_name = "KEY", requires = "object")]
    pub(crate) entry: Option<String>,
    /// The size of a vector's elements, where an older build made it: it does not say that itself
    #[arg(long, value_name = "BYTES", requires = "object", value_parser = number)]
    pub(crate) element: Option<u64>,
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// List what is in a container, or the objects of a cache
///
/// A line each: where it is, how long it is, and the key or the number of an entry.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if all is listed; 2 if not.

Examples:
  heirloom list arena items
  heirloom list arena 'items[3]' --json
  heirloom list arena points
  heirloom list arena --cache names")]
#[allow(clippy::doc_markdown, reason = "what is printed for a person")]
pub(crate) struct List {
    /// The image: an ELF core, a kdump file, a LiME image, an arena, or raw memory; - is standard input
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) how: How,
    /// A published root (NAME), one of the handles in it (NAME[2]), an address (0x1520e8), or a handle (32 hexadecimal
    /// digits)
    #[arg(required_unless_present = "cache")]
    pub(crate) what: Option<String>,
    /// List the objects of the cache of this name
    #[arg(long, value_name = "NAME", conflicts_with = "what")]
    pub(crate) cache: Option<String>,
    /// The size of a vector's elements, where an older build made it: it does not say that itself
    #[arg(long, value_name = "BYTES", value_parser = number)]
    pub(crate) element: Option<u64>,
    /// Print JSON: a value for each line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what two handovers preserve differently
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if nothing differs, 1 if something does, 2 if one is no handover.

Examples:
  heirloom diff before.elf after.elf
  heirloom diff before.elf after.elf --contents
  heirloom diff vmcore vmcore --root-a 0x50f000 --root-b 0x7d2000 --json")]
pub(crate) struct Diff {
    /// The first image
    pub(crate) a: PathBuf,
    /// The second image
    pub(crate) b: PathBuf,
    /// The address of the first's root page [default: found by scanning]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) root_a: Option<PhysAddr>,
    /// The address of the second's root page [default: found by scanning]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) root_b: Option<PhysAddr>,
    /// The address of the first byte of the first, if it is raw memory
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) base_a: Option<PhysAddr>,
    /// The address of the first byte of the second, if it is raw memory
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) base_b: Option<PhysAddr>,
    /// More raw memory of the first: another file, and the address of its first byte
    #[arg(long, value_name = "FILE@ADDR", allow_hyphen_values = true, value_parser = OsStringValueParser::new().try_map(|text| raw(&text)))]
    pub(crate) raw_a: Vec<(PathBuf, u64)>,
    /// More raw memory of the second
    #[arg(long, value_name = "FILE@ADDR", allow_hyphen_values = true, value_parser = OsStringValueParser::new().try_map(|text| raw(&text)))]
    pub(crate) raw_b: Vec<(PathBuf, u64)>,
    /// Take memory that a dump declares and does not contain for zeroes (makedumpfile -d 1)
    #[arg(long)]
    pub(crate) zero_excluded: bool,
    /// The size of the machines' pages: 4k, 16k, 64k [default: as the images say, or as can be read]
    #[arg(long, value_name = "BYTES", value_parser = page_size)]
    pub(crate) page_size: Option<PageSize>,
    /// Compare the files' contents too, by SHA-256
    #[arg(long)]
    pub(crate) contents: bool,
    /// Print JSON instead of lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Colour the lines
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

impl Diff {
    /// Both sides.
    pub(crate) fn places(&self) -> [Place; 2] {
        let place = |image: &PathBuf, root, base, raw: &Vec<_>| {
            let zero_excluded = self.zero_excluded;
            let (page_size, image, raw) = (self.page_size, image.clone(), raw.clone());
            Place { image, root, base, raw, scratch: None, zero_excluded, page_size }
        };
        [
            place(&self.a, self.root_a, self.base_a, &self.raw_a),
            place(&self.b, self.root_b, self.base_b, &self.raw_b),
        ]
    }
}

/// Keep a service's memory and sockets while it is started anew
///
/// The service gives its arena and its sockets to be kept, and is started with them again whenever it
/// fails. Where systemd is, it does the same (`FileDescriptorStoreMax=` in the unit). SIGHUP, SIGINT, SIGTERM,
/// SIGUSR1 and SIGUSR2 are handed on.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: the service's, once it has ended with success or was told to end; 2 if it is not started
again.

Examples:
  heirloom hold -- ./cache
  heirloom hold --listen resp=127.0.0.1:6379 --failures 3 -- ./cache --memory 1g")]
pub(crate) struct Hold {
    /// Open a TCP socket for the service, which gets it under this name; may be given several times
    #[arg(long, value_name = "NAME=ADDR:PORT", value_parser = listen)]
    pub(crate) listen: Vec<(String, String)>,
    /// Drop what is kept, and start the service with nothing, once it has failed so often in a row before it
    /// had begun. An exit with 75 (not now), or a program that is not there, is no such failure
    #[arg(long, value_name = "TIMES", default_value = "5", value_parser = times)]
    pub(crate) failures: usize,
    /// Take a service that lived so many seconds, or said that it is ready, for one that had begun
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) within: u64,
    /// Wait so long before it is started anew, twice as long each time, 5 seconds at most
    #[arg(long, value_name = "MILLISECONDS", default_value = "100")]
    pub(crate) pause: u64,
    /// Keep at most so many descriptors
    #[arg(long, value_name = "DESCRIPTORS", default_value = "512")]
    pub(crate) most: usize,
    /// The service and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Show the arena of a service: its owner, its size, what survives in it
///
/// The service goes on meanwhile. Of an arena that is used, a finding may be what was just being changed: ask again. Where no owner
/// can be seen (null in JSON) the arena is at rest, or a process of another pid namespace has it.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if it is an arena, used or at rest; 2 if not.

Examples:
  heirloom status $(pgrep -x cache)
  heirloom status /proc/812/fd/4 --json | jq .owner.pid")]
pub(crate) struct Status {
    /// The process that has the arena, or holds it for a service; or the arena's file
    #[arg(value_name = "PID|PATH")]
    pub(crate) target: Target,
    /// Print JSON instead of lines
    #[arg(long)]
    pub(crate) json: bool,
    /// Colour the lines
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// Clear an arena at rest: its next owner begins with nothing
///
/// All memory that is behind it goes back to the system. An arena that a process uses is left as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if it is clear; 2 if not: a process has it, which is named, or it is no arena.

Examples:
  heirloom clear /proc/$(pgrep -x heirloom)/fd/17")]
pub(crate) struct Clear {
    /// The process that holds the arena for a service; or the arena's file
    #[arg(value_name = "PID|PATH")]
    pub(crate) target: Target,
}

/// An arena: by the process that has it, or by its file.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Process(u32),
    File(PathBuf),
}

impl Target {
    /// The file of the arena.
    ///
    /// # Errors
    /// The process has none, or several.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        match self {
            Self::Process(pid) => live::arena(*pid),
            Self::File(path) => Ok(path.clone()),
        }
    }
}

impl From<OsString> for Target {
    fn from(text: OsString) -> Self {
        let process = text.to_str().and_then(|text| text.parse().ok());
        process.map_or_else(|| Self::File(text.into()), Self::Process)
    }
}

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  heirloom completions bash > ~/.local/share/bash-completion/completions/heirloom
  heirloom completions zsh > ~/.zfunc/_heirloom")]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page, or write the pages of all commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  heirloom man | man -l -
  heirloom man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Where to write the pages of all commands, instead of printing the first
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Print the JSON Schema of what --json prints
#[derive(Debug, Args)]
#[command(after_help = "\
A field that comes changes nothing of the version that is printed with the rest; one that goes, or means something else, does.

Examples:
  heirloom schema check
  heirloom schema list > line.json")]
pub(crate) struct Schema {
    /// Of which command; of list, of each line
    pub(crate) of: Printed,
}

/// What prints JSON.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Printed {
    Inspect,
    Check,
    List,
    Diff,
    Status,
}
