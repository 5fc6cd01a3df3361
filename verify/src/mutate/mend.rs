//! Checksums made right again after tables were tampered with, so that what is behind them is
//! reached: a predecessor that means harm does the same.

use heirloom::kho::{Header, PhysAddr, Run};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::world::{Left, Place, TestMachine};

/// Bytes of a seal's table before its entries, and of an entry.
const SEAL: (u64, u64) = (16, 24);
/// Bytes of a cache directory page before its records, and of a record.
const ROLL: (u64, u64) = (16, 128);
/// Where the two seals stand in the header.
const SEALS: [(u64, u64); 2] =
    [(u64::from_le_bytes(*b"sealed-1"), 232), (u64::from_le_bytes(*b"sealed-2"), 256)];
/// Where the two halves of the header start, and the bytes of a half before its checksum.
const HALVES: ([u64; 2], usize) = ([24, 120], 88);

/// Makes the checksums of the header, of the cache directory's records, of slabs and of the seal right.
pub fn mend(machine: &TestMachine, left: &Left) {
    let at = |addr: PhysAddr, offset: u64| PhysAddr::new(addr.get() + offset);
    let of = |place| left.tables.iter().filter(move |t| t.place == place).map(|t| t.addr);
    for header in of(Place::Header) {
        for half in HALVES.0.map(|half| at(header, half)) {
            let covered = [machine.read(header, 24), machine.read(half, HALVES.1)].concat();
            machine.put(at(half, HALVES.1 as u64), xxh3_64(&covered));
        }
    }
    for slab in of(Place::Slab) {
        machine.put(at(slab, 8), 0);
        machine.put(at(slab, 8), xxh3_64(machine.read(slab, 88)));
    }
    for page in of(Place::Directory) {
        let count = machine.word(at(page, 8)).min(31);
        let records = (0..count).map(|i| at(page, ROLL.0 + i * ROLL.1));
        // One that is struck out stays so.
        for record in records.filter(|record| machine.word(*record) != 0) {
            machine.put(record, 0);
            machine.put(record, xxh3_64(machine.read(record, ROLL.1 as usize)).max(1));
        }
    }
    let (mut table, mut entries) = (Xxh3::new(), 0);
    for block in of(Place::Seal) {
        let count = machine.word(at(block, 8)).min(170);
        entries += count;
        for entry in (0..count).map(|i| at(block, SEAL.0 + i * SEAL.1)) {
            let covered = PhysAddr::new(machine.word(entry));
            let bytes = machine.word(at(entry, 8)) & 0xffff_ffff;
            let run = Run::covering(covered, bytes).filter(|run| machine.all().covers(*run));
            if run.is_some() {
                machine.put(at(entry, 16), xxh3_64(machine.read(covered, bytes as usize)));
            }
            table.update(machine.read(entry, SEAL.1 as usize));
        }
    }
    for header in of(Place::Header) {
        for (holds, seal) in SEALS {
            if machine.word(at(header, Header::FIXED as u64)) == holds {
                machine.put(at(header, seal + 8), entries);
                machine.put(at(header, seal + 16), table.digest());
            }
        }
    }
}
