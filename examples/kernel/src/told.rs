//! What the kernel was told, by a boot loader or by a predecessor.

use heirloom::{PhysAddr, Run};
use heirloom_x86::map::Map;
use heirloom_x86::{Error, Fault, MemoryType, Region, Structure};

use crate::arch::told::Own;
pub use crate::arch::told::read;
use crate::machine::MAPPED;

/// Everything, copied: where it was read from is nothing's from then on.
pub struct Told {
    regions: [Region; 128],
    count: usize,
    /// The command line, and its length.
    pub line: [u8; 128],
    pub length: usize,
    /// The images of both builds, one behind the other.
    pub images: Option<(PhysAddr, u64)>,
    /// What a predecessor handed over.
    pub entry: Option<heirloom::Entry>,
    pub own: Own,
}

impl Told {
    /// Nothing yet.
    pub fn new(own: Own) -> Self {
        Self {
            regions: [Region::new(0, 0, MemoryType::RESERVED); 128],
            count: 0,
            line: [0; 128],
            length: 0,
            images: None,
            entry: None,
            own,
        }
    }

    /// Adds a region.
    pub fn push(&mut self, region: Region) -> Result<(), Error> {
        let at = PhysAddr::new(0);
        let full = Fault::TooMany { limit: self.regions.len() };
        let full = Error { structure: Structure::Map, at, offset: 0, fault: full };
        *self.regions.get_mut(self.count).ok_or(full)? = region;
        self.count += 1;
        Ok(())
    }

    /// All regions, for the successor.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.count]
    }

    // ANCHOR: map
    /// The memory that heirloom gets: what is RAM, is mapped, and not the low MiB.
    pub fn map(&self) -> Result<Map<32>, Error> {
        let mut map = Map::new();
        self.regions().iter().try_for_each(|region| map.add_memory(*region))?;
        self.regions().iter().try_for_each(|region| map.remove_other(*region))?;
        map.remove_low()?;
        map.remove_other(Region::new(MAPPED << 30, u64::MAX, MemoryType::RESERVED))?;
        Ok(map)
    }
    // ANCHOR_END: map

    /// The value of a word of the command line, as in `plan=jce`.
    pub fn word(&self, name: &str) -> Option<&str> {
        let line = str::from_utf8(&self.line[..self.length]).ok()?;
        line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// A number of the command line.
    pub fn number(&self, name: &str, otherwise: usize) -> usize {
        self.word(name).and_then(|word| word.parse().ok()).unwrap_or(otherwise)
    }
}

/// The frames that the kernel's image takes: code, data, stacks, page tables.
pub fn image() -> Run {
    unsafe extern "C" {
        static head: u8;
        static image_end: u8;
    }
    let (start, end) = (&raw const head as u64, &raw const image_end as u64);
    Run::covering(PhysAddr::new(start), end - start).expect("the image is below 16 GiB")
}
