//! Images of every kind with anything at all written into them: the command says something of each,
//! and looks at no more than there is.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Core, FIXTURE, Temporary, arena, heirloom};
use heirloom_cli::{Looked, look};
use heirloom_kho::PageSize;
use heirloom_testkit::Rng;

/// What became of the images.
#[derive(Debug, Default)]
struct Tally {
    refused: u32,
    broken: u32,
    sound: u32,
    /// Looks at the image that took most of them.
    most: u64,
}

/// Looks at an image in which something is changed, `rounds` times over. `places`: where, and how many
/// bytes there are to hit. `words`: what stands for an address.
fn attack(
    seed: u64,
    rounds: u32,
    good: &[u8],
    (base, pages): (Option<u64>, Option<PageSize>),
    places: &[(usize, usize)],
    words: &[u64],
) -> Tally {
    println!("seed {seed:#x}");
    let file = Temporary::new(&[]);
    let path = Path::new(file.as_str());
    let open = fs::OpenOptions::new().write(true).open(path).unwrap();
    open.set_len(good.len() as u64).unwrap();
    for (page, at) in good.chunks(4096).zip((0..).step_by(4096)) {
        if page.iter().any(|byte| *byte != 0) {
            open.write_all_at(page, at).unwrap();
        }
    }
    let (mut numbers, mut tally) = (Rng::new(seed), Tally::default());
    for round in 0..rounds {
        let mut hits = Vec::new();
        for _ in 0..=numbers.index(4) {
            let (start, bytes) = places[numbers.index(places.len())];
            let at = start + numbers.index(bytes);
            let (at, new) = match numbers.index(5) {
                0 => (at, vec![numbers.next() as u8]),
                1 => (at, vec![good[at] ^ 1 << numbers.index(8)]),
                2 => (at / 8 * 8, words[numbers.index(words.len())].to_le_bytes().to_vec()),
                3 => (at / 8 * 8, (u64::MAX << numbers.index(64)).to_le_bytes().to_vec()),
                _ => (at / 4 * 4, vec![0; 4]),
            };
            if at + new.len() <= good.len() {
                open.write_all_at(&new, at as u64).unwrap();
                hits.push((at, new.len()));
            }
        }
        // Of each other one it is said how large its pages are.
        match look(path, base, pages.filter(|_| round % 2 == 0)) {
            Err(error) => {
                assert!(!format!("{error:#}").is_empty());
                tally.refused += 1;
            }
            Ok(looked) => {
                let Looked { findings, verdict, json, frames, looks, .. } = &looked;
                // Tables are looked at a few times each, and no more often for what they say.
                let bound = 32 * frames + 1024;
                assert!(*looks <= bound, "round {round}: {looks} looks at {frames} frames");
                tally.most = tally.most.max(*looks);
                serde_json::from_str::<serde_json::Value>(json).unwrap();
                if findings.is_empty() {
                    assert!(verdict.contains("in order"), "round {round}: {verdict}");
                    tally.sound += 1;
                } else {
                    assert!(!verdict.contains("in order"), "round {round}: {verdict}");
                    tally.broken += 1;
                }
            }
        }
        for (at, bytes) in hits {
            open.write_all_at(&good[at..at + bytes], at as u64).unwrap();
        }
    }
    println!("{tally:?}");
    tally
}

#[test]
fn a_core_of_linux() {
    let core = Core::fixture();
    let table = |addr: u64| (core.offset(addr), 4096);
    let tables = [0x50_f000, 0x50_e000, 0x70_a000, 0x70_b000, 0x71_4000, 0x7b_5000, 0x58_c000];
    let mut places: Vec<_> = tables.into_iter().map(table).collect();
    // Its headers, as often as its tables.
    places.extend([(0, 64), (64, 56 * 14), (0, 64), (64, 56 * 14), (64, 56 * 14)]);
    let mut words = vec![0, 1, u64::MAX, 1 << 40, 1 << 63, 4096, 8];
    words.extend(tables);
    words.extend(tables.map(|addr| core.word(addr)));
    let tally = attack(0x656c_6621, 1600, &core.0, (None, None), &places, &words);
    assert!(tally.refused > 100 && tally.broken > 300 && tally.sound > 50, "{tally:?}");
}

#[test]
fn raw_memory_of_linux() {
    const BASE: u64 = 0x50_0000;
    let raw = Core::fixture().raw(BASE, 0x140_0000);
    let tables = [0x50_f000, 0x50_e000, 0x70_a000, 0x70_b000, 0x71_4000, 0x7b_5000, 0x58_c000];
    let places = tables.map(|addr| ((addr - BASE) as usize, 400));
    let mut words = vec![0, 1, u64::MAX, 1 << 40, 1 << 63, 4096, 8];
    words.extend(tables);
    let tally = attack(0x7261_7721, 1600, &raw, (Some(BASE), PageSize::new(4096)), &places, &words);
    assert!(tally.broken > 300 && tally.sound > 50, "{tally:?}");
}

#[test]
fn an_arena() {
    let (arena, root) = arena();
    // Its first page, its last tables, and whatever else stands in it.
    let written =
        |page: &usize| arena[page * 4096..(page + 1) * 4096].iter().any(|byte| *byte != 0);
    let pages: Vec<_> = (0..arena.len() / 4096).filter(written).collect();
    let mut places: Vec<_> = pages.iter().map(|page| (page * 4096, 256)).collect();
    places.extend([(0, 64); 20]);
    let mut words = vec![0, 1, u64::MAX, 1 << 40, 1 << 63, 4096, 8, root];
    words.extend(pages.iter().map(|page| (8 << 30) + *page as u64 * 4096 - 4096));
    let tally = attack(0x6172_656e_6121, 1600, &arena, (None, None), &places, &words);
    assert!(tally.broken > 300 && tally.sound > 50, "{tally:?}");
}

/// What kernels with larger pages left, as raw memory: the page size is to be found in half of the rounds.
#[test]
fn memory_of_larger_pages() {
    const BASE: u64 = 4 << 30;
    for (name, bytes) in [("16k", 16 << 10), ("64k", 64 << 10)] {
        let Some(pages) = PageSize::new(bytes) else { continue };
        let path = format!("{}/../tests/fixtures/pages/{name}.elf", env!("CARGO_MANIFEST_DIR"));
        let raw = Core(fs::read(path).unwrap()).raw(BASE, 256 * bytes as usize);
        let is_written = |at: &usize| raw[*at..at + 256].iter().any(|byte| *byte != 0);
        let written: Vec<_> = (0..raw.len()).step_by(256).filter(is_written).collect();
        let places: Vec<_> = written.iter().map(|at| (*at, 256)).collect();
        let mut words = vec![0, 1, u64::MAX, 1 << 40, 1 << 63, 4096, 8, bytes];
        words.extend(written.iter().map(|at| BASE + *at as u64 / bytes * bytes));
        words.extend(written.iter().map(|at| BASE + *at as u64 / 4096 * 4096));
        let seed = 0x7061_6765_7300 + bytes;
        let tally = attack(seed, 400, &raw, (Some(BASE), Some(pages)), &places, &words);
        assert!(tally.broken > 80 && tally.sound > 20, "{tally:?}");
    }
}

/// The list of the kernel's own test names one folio again and again: its bytes are not read for
/// each.
#[test]
fn a_folio_that_a_list_names_again_and_again() {
    const TEST: u64 = 0x58_c000;
    let mut core = Core::fixture();
    let json = heirloom(&["inspect", FIXTURE, "--json"]).json();
    let test = &json["subtrees"]["kho_test"];
    let number = |text: &serde_json::Value| {
        u64::from_str_radix(text.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    };
    let folios = test["folios"].as_array().unwrap();
    let largest = folios.iter().max_by_key(|folio| folio[1].as_u64()).unwrap();
    let list = number(&test["vmalloc"]["pages"][0]);
    for i in 0..512 {
        let entry = number(&largest[0]) | largest[1].as_u64().unwrap();
        core.put(list + i * 8, &entry.to_le_bytes());
    }
    let at = core.offset(TEST);
    let count = core.0[at..at + 240].chunks(4).position(|word| word == [7, 0, 0, 0]).unwrap();
    core.put(TEST + 4 * count as u64, &512_u32.to_le_bytes());
    let file = core.file();
    let looked = look(Path::new(file.as_str()), None, None).unwrap();
    let pages = 512_u64 << largest[1].as_u64().unwrap();
    assert!(looked.looks < pages, "{} looks, {pages} pages", looked.looks);
    let summary = &looked.summary;
    assert!(summary.contains("512 folios, ") && summary.contains("not compared"), "{summary}");
    assert!(looked.findings.iter().any(|found| found.contains("has another use")));
}
