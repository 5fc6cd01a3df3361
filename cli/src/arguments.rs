//! What is asked for on the command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ColorChoice, Parser, Subcommand};
use heirloom_folio::PhysAddr;

use crate::image::Image;

/// Look at what a kernel handed over to the next, in an image of the machine's memory.
#[derive(Debug, Parser)]
#[command(
    name = "heirloom",
    version,
    propagate_version = true,
    after_help = "\
IMAGE is an ELF core with physical addresses (QEMU's dump-guest-memory, a vmcore), or raw memory \
if --base says where its first byte lies. It is mapped, not read; it must not change meanwhile.

Examples:
  heirloom inspect vmcore                       what is preserved
  heirloom inspect vmcore --json | jq .subtrees
  heirloom inspect vmcore --map handover.svg    a picture for a bug report
  heirloom check memory.raw --base 0x40000000   everything that is wrong with it
  heirloom extract vmcore session-0 1 -o guest-memory
  heirloom diff before.elf after.elf"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Inspect(Inspect),
}

/// Show what a handover preserves
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 if there is a handover, with faults or without; 2 if not.

Examples:
  heirloom inspect vmcore
  heirloom inspect vmcore --root 0x50f000 --json
  heirloom inspect memory.raw --base 0x40000000 --map handover.svg")]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Print JSON instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Colour the summary
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

/// An image, and where the handover is in it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The image: an ELF core, or raw memory
    pub(crate) image: PathBuf,
    /// The address of the root page [default: found by scanning]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) root: Option<PhysAddr>,
    /// The address of the first byte of raw memory
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) base: Option<PhysAddr>,
    /// The scratch list, where it is known: its address and its bytes
    #[arg(long, value_name = "ADDR:BYTES", value_parser = list)]
    pub(crate) scratch: Option<(PhysAddr, u64)>,
}

impl Place {
    /// Opens the image.
    pub(crate) fn open(&self) -> Result<Image> {
        Image::open(&self.image, self.base.map(PhysAddr::get))
    }
}

/// `4096`, `0x1000`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text}: {error}"))
}

fn address(text: &str) -> Result<PhysAddr, String> {
    number(text).map(PhysAddr::new)
}

/// `0x1000:32`.
fn list(text: &str) -> Result<(PhysAddr, u64), String> {
    let (addr, bytes) = text.split_once(':').ok_or("an address, a colon, and a length")?;
    Ok((address(addr)?, number(bytes)?))
}
