use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const FILE: u64 = 40 * PAGE;

fn spec(start: u64, pages: u64) -> RangeSpec {
    RangeSpec { start: PhysAddr::new(start), bytes: pages * PAGE, node: NodeId(3) }
}

/// Three ranges of 8, 16 and 15 pages, which fill a file of 40.
fn three() -> Vec<ArenaRange> {
    let specs = [spec(4 << 30, 8), spec(8 << 30, 16), spec((4 << 30) + 64 * PAGE, 15)];
    let (ranges, file) = lay_out(&specs).unwrap();
    assert_eq!(file, FILE);
    ranges
}

fn page(map: &[u8]) -> Vec<u8> {
    let mut page = vec![0xa5; BYTES];
    page[..map.len()].copy_from_slice(map);
    page
}

/// The map with a right checksum, whatever else it says.
fn signed(map: &mut [u8]) {
    let (header, entries) = Header::mut_from_prefix(map).unwrap();
    let count = header.count.get() as usize;
    if let Ok((entries, _)) = <[Entry]>::ref_from_prefix_with_elems(entries, count) {
        header.checksum = checksum(*header, entries).into();
    }
}

#[test]
fn what_is_written_is_read() {
    let ranges = three();
    let map = encode(&ranges, FILE);
    assert_eq!(map.len(), 40 + 3 * 32);
    assert_eq!(&map[..8], b"hl-arena");
    assert_eq!(&map[40..48], &(4_u64 << 30).to_le_bytes());
    assert_eq!(decode(&page(&map), FILE), Ok((PageSize::BUILD, ranges)));
}

/// Ranges of larger pages lie on those, in memory and in the file.
#[test]
fn a_map_of_larger_pages_is_read_in_those() {
    let large = PageSize::MAX.bytes() as u64;
    let map = |offset: u64| {
        let range = ArenaRange { offset, ..three()[0] };
        let run = Run::covering(PhysAddr::new(4 << 30), 2 * large).unwrap();
        let mut map = page(&encode(&[ArenaRange { run, ..range }], 4 * large));
        map[12..16].copy_from_slice(&PageSize::MAX.shift().to_le_bytes());
        signed(&mut map);
        map
    };
    let (size, ranges) = decode(&map(large), 4 * large).unwrap();
    assert_eq!((size, ranges[0].run.bytes()), (PageSize::MAX, 2 * large));
    if PAGE < large {
        let fault = decode(&map(large + PAGE), 4 * large).unwrap_err();
        let misaligned = MapFault::Range {
            index: 0,
            start: PhysAddr::new(4 << 30),
            bytes: 2 * large,
            fault: RangeFault::Misaligned,
        };
        assert_eq!(fault, ArenaError::BadMap(misaligned));
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let map = encode(&three(), FILE);
    for bit in 0..map.len() * 8 {
        let mut bytes = page(&map);
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes, FILE).is_err(), "bit {bit}");
    }
}

#[test]
fn each_fault_has_its_error() {
    let map = encode(&three(), FILE);
    let with = |at: usize, bytes: &[u8]| {
        let mut map = page(&map);
        map[at..at + bytes.len()].copy_from_slice(bytes);
        signed(&mut map);
        decode(&map, FILE).unwrap_err()
    };
    let range = |at: usize, value: u64| match with(at, &value.to_le_bytes()) {
        ArenaError::BadMap(MapFault::Range { index, fault, .. }) => (index, fault),
        other => panic!("{other}"),
    };
    let limit = MAX_RANGES;
    assert_eq!(with(0, b"KHO ROOT"), ArenaError::BadMap(MapFault::Magic { found: *b"KHO ROOT" }));
    assert_eq!(with(8, &[2]), ArenaError::BadMap(MapFault::Version { expected: 1, found: 2 }));
    assert_eq!(
        with(12, &[20]),
        ArenaError::BadMap(MapFault::PageShift { expected: PAGE_SHIFT, found: 20 })
    );
    assert_eq!(with(16, &[0]), ArenaError::BadMap(MapFault::Count { found: 0, limit }));
    assert_eq!(with(16, &[65]), ArenaError::BadMap(MapFault::Count { found: 65, limit }));
    assert_eq!(with(20, &[1]), ArenaError::BadMap(MapFault::Reserved { found: 1 }));
    assert_eq!(
        with(24, &[1]),
        ArenaError::BadMap(MapFault::FileSize { expected: FILE | 1, found: FILE })
    );
    assert_eq!(range(40, (4 << 30) + 8), (0, RangeFault::Misaligned));
    assert_eq!(range(40, 0_u64.wrapping_sub(PAGE)), (0, RangeFault::PastTheEnd));
    assert_eq!(range(48, 0), (0, RangeFault::Empty));
    assert_eq!(range(48, 1 << 63), (0, RangeFault::OutsideFile { offset: PAGE }));
    assert_eq!(range(56, 0), (0, RangeFault::OutsideFile { offset: 0 }));
    assert_eq!(range(56, 33 * PAGE), (0, RangeFault::OutsideFile { offset: 33 * PAGE }));
    assert_eq!(range(72, (4 << 30) + PAGE), (1, RangeFault::Overlaps { with: 0 }));
    assert_eq!(range(88, 8 * PAGE), (1, RangeFault::SharesFile { with: 0 }));
    assert_eq!(range(64 + 32, 1 << 16), (1, RangeFault::Reserved));

    let mut unsigned = page(&map);
    unsigned[40 + 24] ^= 1;
    assert!(matches!(decode(&unsigned, FILE), Err(ArenaError::BadMap(MapFault::Checksum { .. }))));
    let short = &map[..39];
    let error = ArenaError::BadMap(MapFault::TooShort { found: 39, needed: BYTES as u64 });
    assert_eq!(decode(short, FILE), Err(error));
}

#[test]
fn what_cannot_be_is_not_laid_out() {
    let fault = |specs: &[RangeSpec]| match lay_out(specs) {
        Err(ArenaError::BadMap(MapFault::Range { index, fault, .. })) => (index, fault),
        other => panic!("{other:?}"),
    };
    assert!(matches!(lay_out(&[]), Err(ArenaError::BadMap(MapFault::Count { found: 0, .. }))));
    let many: Vec<_> = (0..65).map(|i| spec(i * PAGE, 1)).collect();
    assert!(matches!(lay_out(&many), Err(ArenaError::BadMap(MapFault::Count { found: 65, .. }))));
    assert!(lay_out(&many[..64]).is_ok());
    assert_eq!(fault(&[spec(0, 1), spec(PAGE, 0)]), (1, RangeFault::Empty));
    assert_eq!(fault(&[spec(1, 1)]), (0, RangeFault::Misaligned));
    assert_eq!(fault(&[spec(0, 4), spec(3 * PAGE, 1)]), (1, RangeFault::Overlaps { with: 0 }));
    let endless = RangeSpec { bytes: (1 << 63) + PAGE, ..spec(0, 0) };
    assert!(matches!(fault(&[endless]), (0, RangeFault::OutsideFile { .. })));
    assert!(matches!(lay_out(&[spec(0, 1), spec(1 << 50, 1)]), Err(ArenaError::Span { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(0x0068_6569_726c_6f6f),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A writer that can sign a map can describe only ranges that fit the file and are apart.
    #[test]
    fn a_forged_map_is_an_error_or_sound(
        writes in prop::collection::vec((8_usize..136, any::<u8>()), 0..6),
        pages in prop::collection::vec((0_usize..9, 0_u64..48), 0..4),
        sign in prop::bool::weighted(0.9),
    ) {
        let mut map = page(&encode(&three(), FILE));
        for (field, value) in pages {
            // A field of a range: start, bytes or offset.
            let at = 40 + field / 3 * 32 + field % 3 * 8;
            map[at..at + 8].copy_from_slice(&(value * PAGE).to_le_bytes());
        }
        for (at, value) in writes {
            map[at] = value;
        }
        if sign {
            signed(&mut map);
        }
        if let Ok((_, ranges)) = decode(&map, FILE) {
            for (i, a) in ranges.iter().enumerate() {
                prop_assert!(a.offset >= PAGE && a.offset + a.run.bytes() <= FILE);
                for b in &ranges[..i] {
                    prop_assert!(!a.run.overlaps(b.run));
                    let (a, b) = ((a.offset, a.run.bytes()), (b.offset, b.run.bytes()));
                    prop_assert!(a.0 + a.1 <= b.0 || b.0 + b.1 <= a.0);
                }
            }
        }
    }

    #[test]
    fn any_bytes_at_all_are_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..BYTES),
        file in any::<u64>(),
    ) {
        prop_assert!(decode(&bytes, file).is_err());
    }
}
