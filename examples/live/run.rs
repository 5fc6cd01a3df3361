//! The lives of the program, each under a kernel of its own.

use std::ffi::{CStr, CString, c_long, c_ulong};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use heirloom::liveupdate::{LiveUpdate, NextKernel, Session, SessionName, Token};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mount::MountFlags;

use crate::process;

type Failure = Box<dyn std::error::Error>;

/// The sessions, and the files in each: what a file is of.
const SESSIONS: [(SessionName, &[Content]); 2] = [
    (SessionName::literal("guest"), &[Content::Pages(64), Content::Holes(48), Content::Sealed(3)]),
    (SessionName::literal("notes"), &[Content::Pages(1)]),
];
/// What the second kernel would hand over.
const AGAIN: (SessionName, &[Content]) = (SessionName::literal("again"), &[Content::Pages(5)]);

/// What a file has in it, in so many pages.
#[derive(Clone, Copy)]
enum Content {
    Pages(u64),
    /// Every third page is there, and the file ends within a page.
    Holes(u64),
    /// Its size cannot be changed.
    Sealed(u64),
}

/// The command, the next kernel, and what that starts from.
const COMMAND: &str = "/heirloom";
const KERNEL: &str = "/next/kernel";
const INITRAMFS: &str = "/next/initramfs";
const NEXT: &CStr = c"console=ttyS0 panic=-1 kho=on liveupdate=on LIFE=second";
const AFTER_A_CRASH: &str = "console=ttyS0 panic=-1 kho=off nr_cpus=1 LIFE=after-a-crash";

pub(crate) fn main() -> ExitCode {
    process::first("liveupdate", "cargo xtask liveupdate --live", live)
}

fn mount() -> Result<(), Failure> {
    let flags = MountFlags::empty();
    rustix::mount::mount(c"dev", c"/dev", c"devtmpfs", flags, None)?;
    rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None)?;
    Ok(rustix::mount::mount(c"debug", c"/sys/kernel/debug", c"debugfs", flags, None)?)
}

fn live() -> Result<(), Failure> {
    mount()?;
    match std::env::var("LIFE").as_deref() {
        Ok("second") => second_life(),
        Ok("crash") => {
            first_life(true)?;
            println!("liveupdate: crashing");
            process::printed();
            // Where the first process ends, Linux panics.
            std::process::exit(1)
        }
        Ok("after-a-crash") => after_a_crash(),
        _ => first_life(false),
    }
}

/// Preserves the files and has them looked at. Jumps, and then returns only if that fails; or loads the kernel that is
/// started by a crash.
fn first_life(crash: bool) -> Result<(), Failure> {
    let device = LiveUpdate::open()?;
    let mut sessions = Vec::new();
    for (name, files) in &SESSIONS {
        sessions.push(preserved(&device, name, files)?);
    }
    let (kernel, initramfs) = (File::open(KERNEL)?, File::open(INITRAMFS)?);
    if crash {
        let said = look("before", &["inspect", "--live", "--json"])?;
        // It says where the root page is, which the next kernel is told of by nothing else.
        let root = said.split("\"fdt\": \"").nth(1).and_then(|rest| rest.split('"').next());
        let root = root.ok_or("no root page")?;
        load_for_a_crash(&kernel, &initramfs, &format!("{AFTER_A_CRASH} ROOT={root}"))?;
        // They end with the kernel.
        std::mem::forget(sessions);
        return Ok(());
    }
    let next = NextKernel::load(kernel.as_fd(), Some(initramfs.as_fd()), NEXT)?;
    look("before", &["inspect", "--live", "--json"])?;
    look("checked", &["check", "--live", "--accept", "liveupdate-test-flb-v*"])?;
    println!("liveupdate: jumping");
    process::printed();
    Err(next.jump(&sessions.iter().collect::<Vec<_>>()).into())
}

/// Has the second kernel's own handover looked at, with all of the first one's files taken out of what that left.
fn second_life() -> Result<(), Failure> {
    let device = LiveUpdate::open()?;
    let mut found = 0;
    for (name, files) in &SESSIONS {
        let session = device.retrieve(name)?.ok_or("a session is missing")?;
        for (file, token) in files.iter().zip(0..) {
            let mut memory = File::from(session.fd(Token(token))?);
            let (mut there, mut expected) = (Vec::new(), Vec::new());
            memory.read_to_end(&mut there)?;
            File::from(file.create()?).read_to_end(&mut expected)?;
            if there != expected {
                return Err(format!("file {token} of {name} is not as it was").into());
            }
            found += 1;
        }
        session.finish().map_err(|(_, error)| error)?;
    }
    let (name, files) = AGAIN;
    let session = preserved(&device, &name, files)?;
    look("again", &["inspect", "--live", "--json"])?;
    look("checked-again", &["check", "--live", "--accept", "liveupdate-test-flb-v*"])?;
    drop(session);
    println!("liveupdate: looked at two kernels, {found} files as they were");
    Ok(())
}

/// Has the memory of the kernel that crashed looked at.
fn after_a_crash() -> Result<(), Failure> {
    let root = std::env::var("ROOT")?;
    let vmcore = "/proc/vmcore";
    look("crashed", &["inspect", vmcore, "--root", &root, "--json"])?;
    look("scanned", &["inspect", vmcore, "--json", "--quick"])?;
    println!("liveupdate: looked at a kernel that crashed");
    Ok(())
}

/// Makes a session with these files in it.
fn preserved(
    device: &LiveUpdate,
    name: &SessionName,
    files: &[Content],
) -> Result<Session, Failure> {
    let session = device.create(name)?;
    for (file, token) in files.iter().zip(0..) {
        session.preserve_fd(Token(token), file.create()?.as_fd())?;
    }
    Ok(session)
}

impl Content {
    /// Makes such a file.
    fn create(self) -> Result<OwnedFd, Failure> {
        const PAGE: u64 = 4096;
        let flags = MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("looked-at", flags)?);
        let (Self::Pages(pages) | Self::Holes(pages) | Self::Sealed(pages)) = self;
        let bytes = match self {
            Self::Holes(pages) => pages * PAGE - 100,
            _ => pages * PAGE,
        };
        file.set_len(bytes)?;
        let is_hole = |page: u64| matches!(self, Self::Holes(_)) && !page.is_multiple_of(3);
        for page in (0..pages).filter(|page| !is_hole(*page)) {
            let room = (bytes - page * PAGE).min(PAGE) as usize;
            let content: Vec<u8> =
                (0..room).map(|i| (i as u64 * 31 + page * 7 + pages) as u8).collect();
            file.write_all_at(&content, page * PAGE)?;
        }
        if matches!(self, Self::Sealed(_)) {
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        }
        Ok(file.into())
    }
}

/// Runs the command and prints what it says, each line behind a name. Returns it.
fn look(name: &str, arguments: &[&str]) -> Result<String, Failure> {
    if !Path::new(COMMAND).exists() {
        return Err(format!("there is no {COMMAND}").into());
    }
    let ran = Command::new(COMMAND).args(arguments).output()?;
    for line in String::from_utf8_lossy(&ran.stderr).lines() {
        println!("liveupdate: {name} says: {line}");
    }
    let said = String::from_utf8(ran.stdout)?;
    for line in said.lines() {
        println!("look {name}: {line}");
    }
    println!("liveupdate: {name} ended with {}", ran.status.code().unwrap_or(-1));
    Ok(said)
}

/// Loads the kernel that is started by a crash.
fn load_for_a_crash(kernel: &File, initramfs: &File, line: &str) -> Result<(), Failure> {
    /// `kexec_file_load(2)`, and its flag for such a kernel.
    #[cfg(target_arch = "x86_64")]
    const KEXEC_FILE_LOAD: c_long = 320;
    #[cfg(target_arch = "aarch64")]
    const KEXEC_FILE_LOAD: c_long = 294;
    const ON_CRASH: c_ulong = 2;
    let line = CString::new(line)?;
    let line = line.as_bytes_with_nul();
    let [kernel, initramfs] = [kernel, initramfs].map(|file| c_long::from(file.as_raw_fd()));
    // SAFETY: the call reads the two descriptors and `line`, whose length it is given with the NUL at its end; it writes
    // no memory of this process.
    let result = unsafe {
        libc::syscall(
            KEXEC_FILE_LOAD,
            kernel,
            initramfs,
            line.len() as c_ulong,
            line.as_ptr(),
            ON_CRASH,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
