//! Two lives of one program, each under a kernel of its own.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::folio::NodeId;
use heirloom::kho::Run;
use heirloom::liveupdate::{LiveUpdate, NextKernel, Retrieved, SessionName, Token};
use heirloom::restore::SealPolicy;
use rustix::mount::MountFlags;

use crate::keeper::{Keeper, Totals};
use crate::report::Report;
use crate::steps::Steps;
use crate::{files, memory, process};

pub(crate) type Failure = Box<dyn std::error::Error>;

/// What both lives know: under which names the memory goes over.
const NAME: SessionName = SessionName::literal("heirloom");
const MEMORY: Token = Token(1);

/// The files to be kept, and the most bytes of them.
const FILES: &str = "/files";
const LIMIT: u64 = 64 << 20;

/// The kernel to jump into, and what it starts from: the same files and the same program.
const KERNEL: &str = "/next/kernel";
const INITRAMFS: &str = "/next/initramfs";

/// The next kernel's command line. It passes what it does not know to its first process, as a
/// variable of the environment.
const COMMAND_LINE: &std::ffi::CStr = c"console=ttyS0 panic=-1 kho=on liveupdate=on LIFE=2";

const FIRST: &str = concat!("heirloom liveupdate ", env!("CARGO_PKG_VERSION"), ", first life");
const SECOND: &str = concat!("heirloom liveupdate ", env!("CARGO_PKG_VERSION"), ", second life");

pub(crate) fn main() -> ExitCode {
    process::first("liveupdate", "cargo xtask liveupdate", live)
}

fn live() -> Result<(), Failure> {
    rustix::mount::mount(c"dev", c"/dev", c"devtmpfs", MountFlags::empty(), None)?;
    let device = LiveUpdate::open()?;
    match device.retrieve(&NAME)? {
        Some(session) => second_life(&device, session),
        None if std::env::var_os("LIFE").is_some() => {
            Err("the kernel before this one handed nothing over".into())
        }
        None => first_life(&device),
    }
}

/// Stores the files and jumps; returns only if that fails.
fn first_life(device: &LiveUpdate) -> Result<(), Failure> {
    let found = files::find(Path::new(FILES), LIMIT)?;
    let bytes: u64 = found.iter().map(|file| file.bytes).sum();
    let ranges = memory::ranges(bytes + bytes / 2 + (16 << 20));
    let arena = Arena::create_for_live_update("liveupdate", &ranges)?;
    let map = map(&arena);
    let scratch = memory::scratch(&map, &arena)?;
    // SAFETY: the arena was made just now, and nobody else has it.
    let heirloom = unsafe { Heirloom::boot(&arena, &map, &[scratch], FIRST) }?;

    // Preserved while it is empty: all that is stored from here on goes over.
    let session = device.create(&NAME)?;
    session.preserve(MEMORY, &arena, heirloom.entry())?;
    println!("liveupdate: session {NAME}, token {MEMORY}: an arena of {} bytes", size(&map));

    let steps = Steps::default();
    let mut keeper = Keeper::new(&arena, heirloom, &steps)?;
    for file in &found {
        keeper.store_file(file)?;
    }
    let mut report = Report::default();
    keeper.commit(&mut report)?;
    keeper.hand_over(&Totals::default())?;
    keeper.count(&mut report)?;
    println!("liveupdate: kept {} files, {} bytes", report.files, report.bytes);

    let (kernel, initramfs) = (File::open(KERNEL)?, File::open(INITRAMFS)?);
    let next = NextKernel::load(kernel.as_fd(), Some(initramfs.as_fd()), COMMAND_LINE)?;
    println!("liveupdate: jumping");
    process::printed();
    Err(next.jump(&[&session]).into())
}

/// Takes the files over and compares them; gives back all memory.
fn second_life(device: &LiveUpdate, session: Retrieved) -> Result<(), Failure> {
    let (arena, entry) = session.arena(MEMORY)?;
    let map = map(&arena);
    println!("liveupdate: session {NAME}, token {MEMORY}: root page at {}", entry.root);
    // SAFETY: whoever had the memory ended with the kernel before this one.
    let heirloom = unsafe { Heirloom::revive(&arena, &map, entry, SECOND, SealPolicy::Required) }?;
    let from = heirloom.predecessor().map(|producer| producer.as_str().to_owned());
    println!("liveupdate: revived from \"{}\"", from.unwrap_or_default());

    let (steps, mut totals, mut report) = (Steps::default(), Totals::default(), Report::default());
    let mut keeper = Keeper::take_over(&arena, heirloom, &steps, &mut totals, &mut report)?;
    keeper.check(&mut report, |_| {})?;
    compare(&keeper, &mut report)?;
    keeper.count(&mut report)?;
    let (files, bytes) = (report.files, report.bytes);
    println!("liveupdate: compared {} files, generation {}", keeper.len(), keeper.generation());

    keeper.renew_half(&mut report)?;
    session.finish().map_err(|(_, error)| error)?;
    // Finished, the memory is this kernel's: the next update begins as the first did.
    device.create(&NAME)?.preserve(MEMORY, &arena, keeper.hand_over(&totals)?)?;
    let leaked = report.leaked + report.unclaimed + keeper.give_everything_back()?;
    if leaked != 0 {
        return Err(format!("{leaked} frames are in use for nothing").into());
    }
    println!("liveupdate: {files} files, {bytes} bytes, {} lost", report.lost);
    Ok(())
}

/// Compares what was kept with the files, byte by byte; a file that was not kept is lost.
fn compare(keeper: &Keeper<'_>, report: &mut Report) -> Result<(), Failure> {
    let found = files::find(Path::new(FILES), LIMIT)?;
    let mut same = 0;
    keeper.for_each(|path, bytes, _| {
        let path = String::from_utf8_lossy(path);
        match std::fs::read(&*path) {
            Ok(file) if file == bytes => same += 1,
            Ok(_) => println!("liveupdate: lost: {path} differs"),
            Err(error) => println!("liveupdate: lost: {path}: {error}"),
        }
    })?;
    report.lost += (found.len() as u64).abs_diff(same);
    Ok(())
}

fn map(arena: &Arena) -> Vec<(Run, NodeId)> {
    arena.ranges().iter().map(|range| (range.run(), range.node())).collect()
}

fn size(map: &[(Run, NodeId)]) -> u64 {
    map.iter().map(|(run, _)| run.bytes()).sum()
}
