//! What the kernel was told: by a boot loader or by a predecessor, through a device tree.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use heirloom::kho::DeviceTree;
use heirloom::{Entry, PhysAddr};
use heirloom_x86::{MemoryType, Region};

use super::tree::{self, Node};
use super::{boot, cpu, gic, serial};
use crate::told::Told;

/// What successors are told beside what is told on any architecture: all of the tree.
pub struct Own {
    pub tree: DeviceTree<'static>,
}

/// Why the tree cannot be gone by.
#[derive(Debug)]
pub enum Error {
    Tree(heirloom::kho::Error),
    Map(heirloom_x86::Error),
    /// Something is not there that has to be, or is of a kind that the kernel does not know.
    Lacks(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Lacks(what) => write!(f, "the device tree lacks {what}"),
        }
    }
}

impl From<heirloom::kho::Error> for Error {
    fn from(error: heirloom::kho::Error) -> Self {
        Self::Tree(error)
    }
}

impl From<heirloom_x86::Error> for Error {
    fn from(error: heirloom_x86::Error) -> Self {
        Self::Map(error)
    }
}

/// Reads it.
pub fn read(_kind: u64, at: u64) -> Result<Told, Error> {
    // SAFETY: the page table shows it; whatever started this kernel wrote it, and it is the only CPU.
    let tree = unsafe { tree::keep(at) }?;
    let mut told = Told::new(Own { tree });
    let tree = told.own.tree.clone();
    for (addr, bytes) in tree::reserved(&tree) {
        told.push(Region::new(addr, bytes, MemoryType::RESERVED))?;
    }
    tree::for_each(&tree, |node| note(&mut told, &node))?;
    if gic::ALL.load(Relaxed) == 0 {
        return Err(Error::Lacks("a GICv2"));
    }
    cpu::let_come();
    Ok(told)
}

/// Takes from a node what it says.
fn note(told: &mut Told, node: &Node<'_, '_>) -> Result<(), Error> {
    let ranges = || (0..).map_while(|number| node.pair("reg", number));
    if node.is_root() {
        let cells = [node.number("#address-cells"), node.number("#size-cells")];
        (cells == [Some(2); 2]).then_some(()).ok_or(Error::Lacks("addresses of two words"))?;
    } else if node.is_at_root("memory") {
        for (addr, bytes) in ranges() {
            told.push(Region::new(addr, bytes, MemoryType::RAM))?;
        }
    } else if node.is_in("reserved-memory") {
        for (addr, bytes) in ranges() {
            told.push(Region::new(addr, bytes, MemoryType::RESERVED))?;
            if node.property("no-map").is_some() {
                // SAFETY: it is in no map from now on, and nothing was put there: neither this image nor the tree, which
                // was copied.
                (addr.div_ceil(1 << 30)..(addr + bytes) >> 30)
                    .for_each(|at| unsafe { boot::hide(at) });
            }
        }
    } else if node.is_in("cpus") && node.has("device_type", "cpu") {
        cpu::note(node.number("reg").ok_or(Error::Lacks("a CPU's number"))?);
    } else if node.is_at_root("chosen") {
        chosen(told, node)?;
    } else if ["arm,cortex-a15-gic", "arm,gic-400"].iter().any(|kind| node.has("compatible", kind))
    {
        let (all, _) =
            node.pair("reg", 0).ok_or(Error::Lacks("the interrupt controller's place"))?;
        let (mine, _) =
            node.pair("reg", 1).ok_or(Error::Lacks("the interrupt controller's place"))?;
        gic::ALL.store(all, Relaxed);
        gic::MINE.store(mine, Relaxed);
    } else if node.has("compatible", "arm,armv8-timer") {
        // The virtual one is the third, and of those that each CPU has.
        let number = node.words("interrupts").nth(7).ok_or(Error::Lacks("the virtual timer"))?;
        gic::TIMER.store(16 + number % 16, Relaxed);
    } else if node.has("compatible", "arm,pl011") {
        serial::LINE.store(node.pair("reg", 0).ok_or(Error::Lacks("the line's place"))?.0, Relaxed);
    } else if node.is_at_root("psci") && !node.has("method", "hvc") {
        return Err(Error::Lacks("firmware that HVC calls"));
    }
    Ok(())
}

/// What is there for this kernel: its command line, the images, what is handed over.
fn chosen(told: &mut Told, node: &Node<'_, '_>) -> Result<(), Error> {
    let line = node.bytes("bootargs").take_while(|byte| *byte != 0);
    for byte in line {
        *told.line.get_mut(told.length).ok_or(Error::Lacks("a command line of 128 bytes"))? = byte;
        told.length += 1;
    }
    if let (Some(start), Some(end)) =
        (node.number("linux,initrd-start"), node.number("linux,initrd-end"))
    {
        told.images = Some((PhysAddr::new(start), end.saturating_sub(start)));
    }
    let handed = (node.pair("linux,kho-fdt", 0), node.pair("linux,kho-scratch", 0));
    if let (Some((root, _)), Some((scratch, scratch_bytes))) = handed {
        let (root, scratch) = (PhysAddr::new(root), PhysAddr::new(scratch));
        told.entry = Some(Entry { root, scratch, scratch_bytes });
    }
    Ok(())
}
