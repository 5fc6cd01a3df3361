//! One life: what kernels before left is compared, written anew, and left to the kernel behind.

use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use heirloom::liveupdate::{LiveUpdate, NextKernel, Session, SessionName, Token};
use rustix::fs::MemfdFlags;
use rustix::mount::MountFlags;

use crate::pattern::{FILE, FILES, fill_file, first_file, is_file, is_hole, length};
use crate::process;

type Failure = Box<dyn std::error::Error>;

/// Sessions: Linux's own, and the other kernels'.
const OURS: SessionName = SessionName::literal("linux");
const THEIRS: SessionName = SessionName::literal("kernel");

/// Images of all kernels; of Linux there is one beside them. What the archive was that these lie in.
const IMAGES: [&str; 3] = ["/one", "/two", "/linux"];
const ARCHIVE: &str = "/sys/firmware/initrd";

const PAGE: usize = 4096;

pub(crate) fn main() -> ExitCode {
    process::first("between", "cargo xtask kernel --linux", live)
}

/// Which kernel this is, of which chain.
struct Place {
    plan: String,
    step: usize,
    cpus: String,
    seed: u64,
    look: String,
}

impl Place {
    fn find() -> Result<Self, Failure> {
        let word = |name| env::var(name).map_err(|error| format!("{name}: {error}"));
        let (step, seed) = (word("step")?.parse()?, word("seed")?.parse()?);
        Ok(Self { plan: word("plan")?, step, cpus: word("cpus")?, seed, look: word("look")? })
    }

    /// What the kernel at a step is.
    fn is_linux(&self, step: usize) -> bool {
        self.plan.as_bytes().get(step) == Some(&b'l')
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    files: u64,
    bytes: u64,
    lost: u64,
}

fn live() -> Result<(), Failure> {
    rustix::mount::mount(c"dev", c"/dev", c"devtmpfs", MountFlags::empty(), None)?;
    fs::create_dir_all("/sys")?;
    rustix::mount::mount(c"sys", c"/sys", c"sysfs", MountFlags::empty(), None)?;
    let place = Place::find()?;
    let device = LiveUpdate::open()?;
    let mut found = Found::default();
    let step = place.step;
    let mut kept = Vec::new();
    if let Some(before) = (0..step).rev().find(|step| place.is_linux(*step)) {
        kept = compare(&device, &OURS, first_file(place.seed, before as u64), &mut found)?;
    }
    if step > 0 {
        compare(&device, &THEIRS, first_file(place.seed, step as u64 - 1), &mut found)?;
    }
    let Found { files, bytes, lost } = found;
    println!("between: step {step}: {files} files, {bytes} bytes, {lost} lost");
    if place.plan.len() == step + 1 {
        return Ok(());
    }
    let session = device.create(&OURS)?;
    let kept = write(kept, first_file(place.seed, step as u64), &session)?;
    jump(&place, &session)?;
    drop(kept);
    Ok(())
}

/// Compares the files of a session with what they are made of, and finishes it.
fn compare(
    device: &LiveUpdate,
    name: &SessionName,
    first: u64,
    found: &mut Found,
) -> Result<Vec<File>, Failure> {
    let session = device.retrieve(name)?.ok_or(format!("no session {name}"))?;
    let mut files = Vec::new();
    for id in first..first + FILES {
        let file = File::from(session.fd(Token(id))?);
        let mut bytes = vec![0; length(id, FILE)];
        let whole = file.metadata()?.len() == bytes.len() as u64;
        file.read_exact_at(&mut bytes, 0)?;
        if whole && is_file(id, 0, &bytes) {
            found.files += 1;
            found.bytes += bytes.len() as u64;
        } else {
            println!("between: lost: file {id} of session {name}");
            found.lost += 1;
        }
        files.push(file);
    }
    session.finish().map_err(|(_, error)| error)?;
    Ok(files)
}

/// Preserves a session's files, made of other numbers than those that were there before: the memory that kernels before
/// kept is written, and goes on.
fn write(mut kept: Vec<File>, first: u64, session: &Session) -> Result<Vec<File>, Failure> {
    for (n, id) in (first..first + FILES).enumerate() {
        let fresh = kept.len() == n;
        if fresh {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            kept.push(File::from(rustix::fs::memfd_create("kept", flags)?));
        }
        let file = &kept[n];
        let size = length(id, FILE);
        file.set_len(size as u64)?;
        let mut bytes = vec![0; size];
        fill_file(id, 0, &mut bytes);
        for (page, bytes) in bytes.chunks(PAGE).enumerate() {
            // A hole where there was something is zeroes that are written.
            if !(fresh && is_hole(id, page as u64)) {
                file.write_all_at(bytes, (page * PAGE) as u64)?;
            }
        }
        session.preserve_fd(Token(id), file.as_fd())?;
    }
    Ok(kept)
}

/// Enters the next kernel; returns only if that fails.
fn jump(place: &Place, session: &Session) -> Result<(), Failure> {
    let next = place.step + 1;
    let Place { plan, cpus, seed, look, .. } = place;
    let image = File::open(IMAGES[if place.is_linux(next) { 2 } else { next % 2 }])?;
    // What the next kernel hands on: all images, and behind them what Linux begins with.
    let mut all = File::from(memory("all")?);
    for part in IMAGES.into_iter().chain([ARCHIVE]) {
        all.write_all(&fs::read(part)?)?;
    }
    let line = format!("plan={plan} step={next} cpus={cpus} seed={seed} look={look}");
    let line = CString::new(line)?;
    let next = NextKernel::load(image.as_fd(), Some(all.as_fd()), &line)?;
    drop(all);
    println!("between: jumping");
    process::printed();
    Err(next.jump(&[session]).into())
}

fn memory(name: &str) -> Result<OwnedFd, Failure> {
    Ok(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?)
}
