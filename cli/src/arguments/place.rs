//! Where a handover is looked for: an image, and what is known of it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use heirloom_kho::{PageSize, PhysAddr};

use super::values::{address, list, page_size, raw};
use crate::image::{Image, Reading};
use crate::live;
use crate::survey::Scratch;

/// Where a handover is looked for: in an image, or in what runs now.
#[derive(Clone, Debug, Args)]
#[allow(clippy::doc_markdown, reason = "what is printed for a person")]
pub(crate) struct Source {
    /// The image: an ELF core, a kdump file, a LiME image, an arena, or raw memory; - is standard input
    #[arg(required_unless_present_any = ["live", "pid"])]
    image: Option<PathBuf>,
    /// Look at what this machine's kernel would hand over now; IMAGE is its memory [default: /proc/kcore]
    #[arg(long, conflicts_with_all = ["pid", "root"])]
    live: bool,
    /// Where debugfs is mounted [default: /sys/kernel/debug]
    #[arg(long, value_name = "DIR", requires = "live")]
    debugfs: Option<PathBuf>,
    /// Look at the arena that this process has
    #[arg(long, value_name = "PID", conflicts_with = "image")]
    pid: Option<u32>,
    #[command(flatten)]
    how: How,
}

impl Source {
    /// The image, and where the handover is in it.
    ///
    /// # Errors
    /// What runs now cannot be looked at, with what is missing.
    pub(crate) fn place(&self) -> Result<Place> {
        let image = match (&self.image, self.pid) {
            (Some(image), _) => image.clone(),
            (None, Some(pid)) => live::arena(pid)?,
            (None, None) => live::memory()?,
        };
        let mut place = self.how.place(image);
        if self.live {
            let debugfs = self.debugfs.as_deref().unwrap_or(Path::new(live::DEBUGFS));
            place.root = Some(live::root(&place.open()?, debugfs)?);
            place.scratch = place.scratch.or_else(|| live::scratch(debugfs).map(Scratch::Areas));
        }
        Ok(place)
    }

    /// Whether it is what this machine's kernel would hand over now.
    pub(crate) const fn is_live(&self) -> bool {
        self.live
    }
}

/// Where the handover is in an image, and how that is read.
#[derive(Clone, Debug, Args)]
#[allow(clippy::doc_markdown, reason = "what is printed for a person")]
pub(crate) struct How {
    /// The address of the root page [default: found by scanning]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    root: Option<PhysAddr>,
    /// The address of the first byte of raw memory
    #[arg(long, value_name = "ADDR", value_parser = address)]
    base: Option<PhysAddr>,
    /// More raw memory: another file, and the address of its first byte
    #[arg(long, value_name = "FILE@ADDR", allow_hyphen_values = true, value_parser = OsStringValueParser::new().try_map(|text| raw(&text)))]
    raw: Vec<(PathBuf, u64)>,
    /// The scratch list, where it is known: its address and its bytes
    #[arg(long, value_name = "ADDR+BYTES", value_parser = list)]
    scratch: Option<(PhysAddr, u64)>,
    /// Take memory that a dump declares and does not contain for zeroes (makedumpfile -d 1)
    #[arg(long)]
    zero_excluded: bool,
    /// The size of the machine's pages: 4k, 16k, 64k [default: as the image says, or as can be read]
    #[arg(long, value_name = "BYTES", value_parser = page_size)]
    page_size: Option<PageSize>,
}

impl How {
    /// Returns where in `image` the handover is, looked for in the way that these options say.
    pub(crate) fn place(&self, image: PathBuf) -> Place {
        let Self { root, base, raw, scratch, zero_excluded, page_size } = self.clone();
        let scratch = scratch.map(|(list, bytes)| Scratch::List(list, bytes));
        Place { image, root, base, raw, scratch, zero_excluded, page_size }
    }
}

/// An image, and where the handover is in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) image: PathBuf,
    /// The root page, where it is known.
    pub(crate) root: Option<PhysAddr>,
    /// Where raw memory starts.
    pub(crate) base: Option<PhysAddr>,
    /// More of it.
    pub(crate) raw: Vec<(PathBuf, u64)>,
    /// What is known of scratch beside what the handover says.
    pub(crate) scratch: Option<Scratch>,
    /// What a core declares and has not is zeroes.
    pub(crate) zero_excluded: bool,
    pub(crate) page_size: Option<PageSize>,
}

impl Place {
    /// Opens the image.
    pub(crate) fn open(&self) -> Result<Image> {
        let &Self { zero_excluded, page_size, .. } = self;
        let (base, more) = (self.base.map(PhysAddr::get), self.raw.clone());
        Image::open(&self.image, &Reading { base, more, zero_excluded, page_size })
    }
}
