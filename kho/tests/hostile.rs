//! Linux's handover with anything at all written into it: everything that reads it ends, and a check
//! has a finding wherever a reader has an error.
#![cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]

mod common;

use common::{Dump, findings};
use heirloom_kho::linux::{Known, Luo};
use heirloom_kho::{Error, Left, PhysAddr, RootView};
use heirloom_restore::Entry;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

const ROOT: PhysAddr = PhysAddr::new(0x50_f000);
const ENTRY: Entry = Entry { root: ROOT, scratch: PhysAddr::new(0), scratch_bytes: 0 };

/// The pages that Linux's tables take: blobs, sessions, files, FLBs, memfds, chunks, lists.
fn tables(dump: &Dump) -> Vec<u64> {
    let mut pages = vec![0x58_c000, 0x56_a000, 0x51_6000, 0x70_a000];
    let left = Left::new(dump, PhysAddr::new(0x50_e000));
    let luo = Luo::read(&left, PhysAddr::new(0x70_a000), Luo::SIZE).unwrap();
    pages.extend([luo.sessions.get(), luo.flbs.get()]);
    for session in luo.sessions(&left).unwrap().map(Result::unwrap) {
        pages.push(session.files.get());
        for file in session.files(&left).unwrap().map(Result::unwrap) {
            let chunk = dump.get(file.data + 32);
            pages.extend([file.data, chunk, dump.get(chunk + 8)]);
        }
    }
    pages
}

/// Reads everything there is to read; the first error.
fn read(dump: &Dump) -> Result<(), Error> {
    let bare = Left::bare(dump);
    let root = RootView::read(&bare, ROOT)?;
    let left = Left::new(dump, root.map());
    for subtree in root.subtrees() {
        match Known::read(&left, &subtree?)? {
            Some(Known::Luo(luo)) => read_luo(&left, &luo)?,
            Some(Known::KhoTest(test)) => test.verify(&left)?,
            Some(Known::Memblock(memblock)) => {
                memblock.for_each_region(&left, |_| Ok::<_, Error>(()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_luo(left: &Left<'_, Dump>, luo: &Luo) -> Result<(), Error> {
    for flb in luo.flbs(left)? {
        flb?;
    }
    for session in luo.sessions(left)? {
        for file in session?.files(left)? {
            let Some(memfd) = file?.memfd(left)? else { continue };
            let mut next = 0;
            memfd.for_each_part(left, |part| {
                // The parts are the file, from its start to its end.
                let (heirloom_kho::linux::Part::Data { offset, bytes, .. }
                | heirloom_kho::linux::Part::Hole { offset, bytes, .. }) = part;
                assert!(offset == next && bytes > 0);
                next = offset + bytes;
                Ok::<_, Error>(())
            })?;
            assert_eq!(next, memfd.size);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config {
        cases: 512,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6c75_6f2d_7635),
        ..Config::default()
    })]

    #[test]
    fn whatever_is_written_is_read_or_found(
        hits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_u64..40, any::<prop::sample::Index>(), 0..6_u8),
            1..6,
        ),
    ) {
        let dump = Dump::of_linux();
        let pages = tables(&dump);
        for (page, word, other, what) in hits {
            let at = page.get(&pages) + word * 8;
            let now = dump.get(at);
            dump.put(at, match what {
                0 => *other.get(&pages),
                1 => now ^ 1 << other.index(64),
                2 => now.wrapping_add(1),
                3 => 0,
                4 => u64::MAX << other.index(64),
                _ => other.index(4096) as u64,
            });
        }
        let read = read(&dump);
        let found = findings(&dump, ENTRY).1;
        if let Err(error) = read {
            prop_assert!(!found.is_empty(), "nothing found, but {error}");
        }
    }
}
