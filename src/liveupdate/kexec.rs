//! The jump itself: the next kernel loaded beside this one, then entered.
//!
//! Both calls need `CAP_SYS_BOOT`. `kexec_file_load(2)` reads a kernel image and an initial
//! memory file system into memory that the live update leaves alone; `reboot(2)` with
//! `LINUX_REBOOT_CMD_KEXEC` completes the sessions and enters the kernel. Nothing is asked of other
//! processes in between: the caller has stopped what must be stopped and synced what must be
//! on a disk, or leaves the jump to the service manager (`systemctl kexec`), which does so.

use core::ffi::{CStr, c_long, c_ulong};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::system::RebootCommand;

use super::{LiveUpdateError, Session};

/// `kexec_file_load(2)`. Not taken from `libc`, which lacks it for some systems.
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;

/// The flag for a kernel without an initial memory file system.
const NO_INITRAMFS: c_ulong = 4;

/// A kernel that is loaded and ready to be entered.
///
/// It belongs to the machine, not to the process: dropping the value leaves it loaded, and a kernel
/// loaded later replaces it.
#[derive(Debug)]
pub struct NextKernel(());

impl NextKernel {
    /// Loads a kernel image (on x86 a `bzImage`), the initial memory file system it is to start
    /// from, and its command line, which has to enable the live update again:
    /// `kho=on liveupdate=on`.
    ///
    /// # Errors
    /// [`LiveUpdateError::Os`]: Linux refused. `EPERM`: no right to, or a locked-down kernel;
    /// `ENOEXEC`: no kernel image; `ENOSYS`: no `CONFIG_KEXEC_FILE`.
    pub fn load(
        kernel: BorrowedFd<'_>,
        initrd: Option<BorrowedFd<'_>>,
        command_line: &CStr,
    ) -> Result<Self, LiveUpdateError> {
        let line = command_line.to_bytes_with_nul();
        let initrd_fd = initrd.map_or(-1, |fd| fd.as_raw_fd());
        let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };
        // SAFETY: the call reads the two descriptors and `line`, whose length it is given with the
        // NUL at its end; it writes no memory of this process.
        let result = unsafe {
            libc::syscall(
                KEXEC_FILE_LOAD,
                c_long::from(kernel.as_raw_fd()),
                c_long::from(initrd_fd),
                line.len() as c_ulong,
                line.as_ptr(),
                flags,
            )
        };
        if result == 0 {
            return Ok(Self(()));
        }
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
        Err(LiveUpdateError::Os { call: "kexec_file_load", errno })
    }

    /// Enters the kernel with everything that `sessions` hold. Returns only if Linux refused: the
    /// sessions are as they were, then.
    ///
    /// Other sessions that are open go over as well; those named here are named so that none of
    /// them was closed by oversight.
    pub fn jump(self, sessions: &[&Session]) -> LiveUpdateError {
        // It does not return where it succeeds.
        let refused = rustix::system::reboot(RebootCommand::Kexec).err();
        // Borrowed until here: that is all they are for.
        let _ = sessions;
        let errno = refused.map_or(0, rustix::io::Errno::raw_os_error);
        LiveUpdateError::Os { call: "reboot(KEXEC)", errno }
    }
}
