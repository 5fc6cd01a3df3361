//! What the kernel was told: by PVH's loader, or by a predecessor through the boot parameters.

use heirloom::PhysAddr;
pub use heirloom_x86::Error;
use heirloom_x86::Identity;
use heirloom_x86::boot_params::BootParams;
use heirloom_x86::start_info::StartInfo;

use crate::machine::MAPPED;
use crate::told::Told;

/// What successors are told beside what is told on any architecture.
pub struct Own {
    pub rsdp: Option<PhysAddr>,
}

/// Reads it: PVH's (`kind` 0) or Linux's boot parameters.
pub fn read(kind: u64, at: u64) -> Result<Told, Error> {
    let mut told = Told::new(Own { rsdp: None });
    // SAFETY: the page tables show it all; this is the only CPU, and what it reads was written before it ran.
    let memory = unsafe { Identity::new(PhysAddr::new(MAPPED << 30)) };
    let at = PhysAddr::new(at);
    let line = if kind == 0 {
        let info = StartInfo::open(&memory, at)?;
        info.for_each_region(|region| told.push(region))??;
        told.images = info.modules().next().transpose()?;
        told.own.rsdp = info.rsdp();
        info.command_line(&mut told.line)?
    } else {
        let params = BootParams::open(&memory, at)?;
        params.for_each_region(|region| told.push(region))??;
        told.images = params.initrd();
        told.own.rsdp = params.rsdp();
        told.entry = params.entry()?;
        params.command_line(&mut told.line)?
    };
    told.length = line.len();
    Ok(told)
}
