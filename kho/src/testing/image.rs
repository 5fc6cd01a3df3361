//! A captured handover: an ELF core, read by hand.

use std::vec::Vec;

use super::{Left, words64};
use crate::addr::{Block, Order, PhysAddr};

/// Physical memory as an ELF core has it.
pub(crate) struct Image {
    file: Vec<u8>,
}

/// A handover that Linux wrote.
pub(crate) fn fixture() -> Image {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4/image.elf");
    Image { file: std::fs::read(path).unwrap() }
}

impl Image {
    fn u64(&self, at: usize) -> usize {
        u64::from_le_bytes(self.file[at..at + 8].try_into().unwrap()).try_into().unwrap()
    }

    fn u16(&self, at: usize) -> usize {
        u16::from_le_bytes(self.file[at..at + 2].try_into().unwrap()).into()
    }

    /// The loaded stretches: physical address, offset in the file, bytes.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (u64, usize, usize)> {
        let (table, size, count) = (self.u64(32), self.u16(54), self.u16(56));
        (0..count)
            .map(move |i| table + i * size)
            .filter(|at| self.file[*at..at + 4] == 1_u32.to_le_bytes())
            .map(|at| (self.u64(at + 24) as u64, self.u64(at + 8), self.u64(at + 32)))
    }

    /// The image as a successor finds it, with what its tracker says as the capture's notes have
    /// it.
    pub(crate) fn left(&self) -> Left {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/linux-7.3-kho-v4/expected.json"
        );
        let notes = std::fs::read_to_string(path).unwrap();
        let list = notes.split("\"preserved\":").nth(1).unwrap();
        let list = list.split('}').next().unwrap();
        let mut left = Left::default();
        for (phys, offset, bytes) in self.segments() {
            left.add(PhysAddr::new(phys), words64(&self.file[offset..offset + bytes]));
        }
        for pair in list.split("\"0x").skip(1) {
            let (addr, rest) = pair.split_once('"').unwrap();
            let order = rest.trim_matches(|c: char| !c.is_ascii_digit());
            let Ok(order) = order.parse::<u8>() else { break };
            let addr = PhysAddr::new(u64::from_str_radix(addr, 16).unwrap());
            left.hold(Block::new(addr.pfn(), Order::new(order).unwrap()).unwrap());
        }
        assert_eq!(left.held.len(), 93);
        left
    }

    /// `length` bytes from physical `at`, which one stretch must hold.
    pub(crate) fn read(&self, at: PhysAddr, length: usize) -> Vec<u8> {
        for (phys, offset, bytes) in self.segments() {
            if let Some(skip) = at.get().checked_sub(phys)
                && (skip as usize) < bytes
            {
                let start = offset + skip as usize;
                return self.file[start..start + length.min(bytes - skip as usize)].to_vec();
            }
        }
        panic!("{at} is not in the image")
    }
}
