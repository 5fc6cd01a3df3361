//! What is written is read back, at any instant and from any bytes.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::addr::PAGE_SHIFT;
use crate::excerpt::Excerpt;
use crate::fault::TableError;
use crate::store::cut;
use crate::testing::{proptest_config, words64};

const AT: PhysAddr = PhysAddr::new(0x4000_0000);
const SEAL: SealInfo = SealInfo { first: AT, entries: 3, hash: 0x1234_5678_9abc_def0 };

fn header() -> Header {
    let directory = Some(PhysAddr::new(PAGE_SIZE as u64 * 77));
    let (producer, seal) = (Producer::new("kernel 7"), SealState::Unsealed);
    let before = Some(PhysAddr::new(PAGE_SIZE as u64 * 99));
    Header { generation: 200, cache_directory: directory, before, producer, seal, longer: false }
}

/// What its successor says.
fn renewed() -> Header {
    let producer = Producer::new("kernel 8");
    Header { generation: 201, cache_directory: None, before: None, producer, ..header() }
}

fn renew(page: &mut HeaderPage<'_>) {
    page.renew(&renewed()).unwrap();
}

fn page() -> Vec<AtomicU64> {
    words64(&[0x5a; PAGE_SIZE])
}

fn bytes(words: &[AtomicU64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect()
}

fn fault(read: Result<Header, Error>) -> (usize, Fault) {
    match read {
        Err(Error::Table(TableError { table: Table::Header, at: AT, offset, fault })) => {
            (offset, fault)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_bytes_are_where_the_table_says() {
    let words = page();
    let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
    let first = bytes(&words);
    assert_eq!(first[120..216], [0; 96]);
    assert_eq!(first[216..224], *b"half-one");
    assert_eq!(first[224..280], [0; 56]);
    page.seal(Some(SEAL));
    let sealed = bytes(&words);
    assert_eq!(&sealed[..16], b"heirloom-v2\0\0\0\0\0");
    assert_eq!(sealed[16..20], PAGE_SHIFT.to_le_bytes());
    assert_eq!(sealed[20..24], 280_u32.to_le_bytes());
    assert_eq!(sealed[24..32], 200_u64.to_le_bytes());
    assert_eq!(sealed[32..40], (PAGE_SIZE as u64 * 77).to_le_bytes());
    assert_eq!(sealed[40..48], (PAGE_SIZE as u64 * 99).to_le_bytes());
    assert_eq!(&sealed[48..57], b"kernel 7\0");
    assert_eq!(sealed[112..120], xxh3_64(&sealed[..112]).to_le_bytes());
    assert_eq!(sealed[224..232], *b"sealed-1");
    assert_eq!(sealed[232..240], AT.get().to_le_bytes());
    assert_eq!(sealed[240..248], 3_u64.to_le_bytes());
    assert_eq!(sealed[248..256], SEAL.hash.to_le_bytes());
    assert_eq!(sealed[280..], [0x5a; PAGE_SIZE - 280]);
    let read = page.read().unwrap();
    assert_eq!(read, Header { seal: SealState::Sealed(SEAL), ..header() });
    assert_eq!((read.seal.info(), read.producer.as_str()), (Some(SEAL), "kernel 7"));
    page.seal(Some(SEAL));
    page.open();
    renew(&mut page);
    let opened = bytes(&words);
    assert_eq!(opened[..120], sealed[..120]);
    assert_eq!(opened[120..128], 201_u64.to_le_bytes());
    assert_eq!(opened[128..144], [0; 16]);
    assert_eq!(&opened[144..153], b"kernel 8\0");
    let covered = [&opened[..24], &opened[120..208]].concat();
    assert_eq!(opened[208..216], xxh3_64(&covered).to_le_bytes());
    assert_eq!(opened[216..224], *b"half-two");
    assert_eq!(opened[224..232], *b"opened--");
    assert_eq!(opened[256..280], sealed[232..256]);
    assert_eq!(page.read(), Ok(Header { seal: SealState::Opened, ..renewed() }));
    assert_eq!(SealState::Opened.info(), None);
}

#[test]
fn each_fault_names_its_byte() {
    let words = page();
    HeaderPage::create(&words, AT, &header()).unwrap();
    let good = bytes(&words);
    let with = |offset: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[offset..offset + bytes.len()].copy_from_slice(bytes);
        fault(Header::read(&words64(&bad), AT))
    };
    assert_eq!(with(10, b"1"), (0, Fault::Version { found: 1, known: 2 }));
    assert_eq!(with(10, b"27"), (0, Fault::Version { found: 27, known: 2 }));
    for (offset, text, name) in [
        (0, &b"x"[..], &b"xeirloom-v2"[..]),
        (11, b";a-v1", b"heirloom-v2;a-v1"),
        (10, b"01", b"heirloom-v01"),
        (10, b"\0", b"heirloom-v"),
    ] {
        let found = Excerpt::of(name.iter().copied());
        let unknown = Fault::Unknown { found, expected: "heirloom-v2" };
        assert_eq!(with(offset, text), (0, unknown));
    }
    assert!(matches!(with(16, &[13]), (16, Fault::Length { found: 13, .. })));
    assert_eq!(with(20, &[7, 1]), (20, Fault::Length { expected: 280, found: 263 }));
    assert!(matches!(with(33, &[1]), (112, Fault::Checksum { .. })));
    for neither in [0, u64::from_le_bytes(*b"half-two") ^ 1] {
        let turn = with(216, &neither.to_le_bytes());
        assert_eq!(turn, (216, Fault::Magic { found: neither }));
    }
    // There is nothing in the other half.
    assert!(matches!(with(216, b"half-two"), (208, Fault::Checksum { .. })));
    assert_eq!(with(224, &[3]), (224, Fault::Magic { found: 3 }));
    let short = Header::read(&words[..32], AT);
    assert!(matches!(short, Err(Error::Table(TableError { offset: 20, .. }))));
    let mut page = HeaderPage::reopen(&words, AT).unwrap();
    let odd = PhysAddr::new(8);
    let renewed = page.renew(&Header { cache_directory: Some(odd), ..header() }).map(|()| header());
    assert_eq!(fault(renewed), (128, Fault::Misaligned { addr: odd }));
    let odd = PhysAddr::new(PAGE_SIZE as u64 + 4);
    let renewed = page.renew(&Header { before: Some(odd), ..header() }).map(|()| header());
    assert_eq!(fault(renewed), (136, Fault::Misaligned { addr: odd }));
    assert_eq!(bytes(&words), good);
}

#[test]
fn what_does_not_hold_may_be_any_bytes() {
    for turns in [1, 2] {
        let words = page();
        let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
        (0..turns).for_each(|_| renew(&mut page));
        (0..turns).for_each(|_| page.seal(Some(SEAL)));
        let said = page.read();
        let (half, seal) = if turns == 1 { (24..120, 256..280) } else { (120..216, 232..256) };
        for byte in [0, 0x5a, 0xff] {
            let mut other = bytes(&words);
            other[half.clone()].fill(byte);
            other[seal.clone()].fill(byte);
            let other = words64(&other);
            assert_eq!(Header::read(&other, AT), said);
            let mut page = HeaderPage::reopen(&other, AT).unwrap();
            renew(&mut page);
            let seal = SealState::Sealed(SEAL);
            assert_eq!(page.read(), Ok(Header { seal, ..renewed() }));
        }
    }
}

#[test]
fn every_flipped_bit_of_what_holds_is_found() {
    for turns in [0, 1] {
        let words = page();
        let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
        (0..turns).for_each(|_| renew(&mut page));
        let (good, said) = (bytes(&words[..SIZE / 8]), page.read());
        let half = if turns == 0 { 24..120 } else { 120..216 };
        for bit in 0..SIZE * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = Header::read(&words64(&bad), AT);
            // Of a word that says that there is no seal each bit.
            let holds =
                bit < 24 * 8 || half.contains(&(bit / 8)) || (216..232).contains(&(bit / 8));
            if holds {
                assert!(read.is_err(), "{turns} turns: bit {bit}: {read:?}");
            } else {
                assert_eq!(read, said, "{turns} turns: bit {bit}");
            }
        }
    }
}

#[test]
fn no_flipped_bit_makes_a_word_another() {
    let words = [&HALVES[..], &SEALS, &[OPENED, 0]].concat();
    for (i, one) in words.iter().enumerate() {
        for other in &words[i + 1..] {
            assert!((one ^ other).count_ones() > 1, "{one:#x}, {other:#x}");
        }
    }
}

#[test]
fn a_longer_page_is_read_and_not_written() {
    let words = page();
    HeaderPage::create(&words, AT, &header()).unwrap();
    let mut long = bytes(&words);
    long[20..24].copy_from_slice(&288_u32.to_le_bytes());
    let sum = xxh3_64(&long[..112]);
    long[112..120].copy_from_slice(&sum.to_le_bytes());
    let long = words64(&long);
    assert_eq!(Header::read(&long, AT), Ok(Header { longer: true, ..header() }));
    let refused = HeaderPage::reopen(&long, AT).map(|_| header());
    assert_eq!(fault(refused), (20, Fault::Length { expected: 280, found: 288 }));
}

#[test]
fn a_producer_is_cut_between_characters() {
    let long: std::string::String = core::iter::repeat_n('\u{e4}', 40).collect();
    assert_eq!(Producer::new(&long).as_str().chars().count(), 32);
    let odd = std::format!("x{long}");
    assert_eq!(Producer::new(&odd).as_str().len(), 63);
    assert_eq!(Producer([0xff; 64]).as_str(), "");
}

#[test]
fn at_any_instant_one_half_or_the_other_holds() {
    // From the first half to the second, and back; nothing is known of the one that is written.
    for turns in [0, 1] {
        for stores in 0.. {
            let words = page();
            let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
            (0..turns).for_each(|_| renew(&mut page));
            let before = page.read().unwrap();
            let half = if turns == 0 { 120..216 } else { 24..120 };
            words[half.start / 8..half.end / 8].iter().for_each(|word| word.store(!0, Relaxed));
            // As a successor goes on with the page.
            let mut page = HeaderPage::reopen(&words, AT).unwrap();
            let next = Header { generation: 7, cache_directory: Some(AT), ..before };
            let change = || page.renew(&next);
            let (done, complete) = cut::after(stores, change);
            assert_eq!(done, Ok(()));
            let found = page.read().unwrap();
            assert_eq!(found, if complete { next } else { before }, "after {stores} stores");
            if complete {
                assert_eq!(stores, size_of::<Half>() / 8 + 1, "one store turns");
                break;
            }
        }
    }
}

#[test]
fn at_any_instant_one_seal_or_the_other_holds() {
    let next = SealInfo { first: PhysAddr::new(8), entries: 9, hash: 10 };
    let states = |info| [SealState::Unsealed, SealState::Sealed(info), SealState::Opened];
    let turn = |page: &mut HeaderPage<'_>, seal| match seal {
        SealState::Unsealed => page.seal(None),
        SealState::Sealed(info) => page.seal(Some(info)),
        SealState::Opened => page.open(),
    };
    for before in states(SEAL) {
        for after in states(next) {
            for stores in 0.. {
                let words = page();
                let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
                turn(&mut page, before);
                let ((), complete) = cut::after(stores, || turn(&mut page, after));
                let found = page.read().unwrap().seal;
                assert_eq!(found, if complete { after } else { before });
                if complete {
                    break;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest_config(512))]

    #[test]
    fn mutated_pages_are_read_or_refused(
        hits in prop::collection::vec((0_usize..SIZE, any::<u8>()), 0..4),
        random in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let words = page();
        HeaderPage::create(&words, AT, &header()).unwrap();
        let mut bytes = bytes(&words);
        for (at, byte) in hits {
            bytes[at] = byte;
        }
        if let Ok(read) = Header::read(&words64(&bytes), AT) {
            prop_assert_eq!(Header { seal: SealState::Unsealed, ..read }, header());
        }
        prop_assert!(Header::read(&words64(&random), AT).is_err());
    }
}
