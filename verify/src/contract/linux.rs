//! What Linux registered, read from a dump that was tampered with: everything wrong is found and
//! named, no frame has two owners, and the work is bounded by the frames there are.

use std::convert::Infallible;

use heirloom::kho::tree::{Frames, FramesOf};
use heirloom::kho::{AreaInfo, AreaPart, Left, Pages, RootView};
use heirloom::restore::{Entry, survey};
use heirloom_kho::Error;
use heirloom_kho::linux::{Found, Known, Luo, Part, check};

use super::most_looks;
use crate::world::Dump;

/// Surveys a dump and reads everything that the Linux tables lead to; how much is wrong with it.
///
/// # Panics
/// If a promise is broken.
pub fn read_dump(dump: &Dump, entry: Entry) -> usize {
    let before = dump.looks();
    let runs: Vec<_> = dump.runs().collect();
    let mut words: Vec<Vec<u64>> =
        runs.iter().map(|run| vec![0; FramesOf::words(*run).expect("frames")]).collect();
    let stretches = runs.iter().zip(&mut words).map(|(run, words)| FramesOf::new(*run, words));
    let mut stretches: Vec<_> = stretches.map(|stretch| stretch.expect("room")).collect();
    let mut frames = Frames::new(&mut stretches);
    let mut found = 0;
    let mut finding = |error: heirloom::restore::Error| {
        // There can be as many as the tables have bits: the first ones will do.
        if found < 256 {
            assert!(!error.to_string().is_empty());
            assert!(error.at().is_some(), "no place: {error}");
        }
        found += 1;
        Ok::<_, Infallible>(())
    };
    let surveyed = survey(dump, entry, &mut frames, &mut finding);
    let surveyed = surveyed.unwrap_or_else(|never| match never {});
    if let Some(map) = surveyed.map {
        let left = Left::new(dump, map);
        let root = RootView::read(&left, entry.root).expect("the survey read it");
        let checked = check(&left, &root, &mut frames, |new| match new {
            Found::Wrong(error) => finding(error.into()),
            Found::Unread(_) => Ok(()),
        });
        checked.unwrap_or_else(|never| match never {});
        let looks = dump.looks() - before;
        // A frame of it holds 512 entries of an area or a file, each of which is looked up.
        assert!(looks <= 768 * dump.frames(), "{looks} looks for a survey");
        for subtree in root.subtrees().flatten() {
            if let Ok(Some(known)) = Known::read(&left, &subtree) {
                let before = dump.looks();
                read(dump, &left, &known, found == 0);
                let looks = dump.looks() - before;
                assert!(looks <= most_looks(dump.frames()), "{looks} looks of an owner");
            }
        }
    }
    found
}

/// Reads what a subtree leads to, as an owner does that has not checked it before. `sound`: nothing
/// was found wrong.
fn read(dump: &Dump, left: &Left<'_, Dump>, known: &Known, sound: bool) {
    match known {
        Known::Luo(luo) => read_luo(dump, left, luo, sound),
        Known::Memblock(memblock) => {
            let mut regions = 0_u64;
            let walked = memblock.for_each_region(left, |region| {
                assert!(region.name.as_str().len() <= 64);
                regions += 1;
                Ok::<_, Error>(())
            });
            said(walked);
            assert!(regions <= dump.frames() * 512);
        }
        Known::Metadata(metadata) => {
            assert!(metadata.previous_release.as_bytes().len() <= 64);
        }
        Known::KhoTest(test) => {
            said(test.for_each_folio(left, |block| {
                assert!(left.holds(block), "{block} is not preserved");
                Ok::<_, Error>(())
            }));
            said(test.verify(left));
            read_area(left, test.area);
        }
        _ => {}
    }
}

fn said<T>(result: Result<T, Error>) -> Option<T> {
    result.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn read_luo(dump: &Dump, left: &Left<'_, Dump>, luo: &Luo, sound: bool) {
    let most = dump.frames() * 64;
    let mut files = 0;
    for session in said(luo.sessions(left)).into_iter().flatten().take(most as usize).flatten() {
        said(luo.session(left, session.name.as_str()));
        // Sessions may lead to the same files, which a check refuses; an owner reads its own.
        if files > 1000 {
            break;
        }
        for file in said(session.files(left)).into_iter().flatten().take(100).flatten() {
            files += 1;
            said(session.file(left, file.token));
            let Some(Some(memfd)) = said(file.memfd(left)) else { continue };
            let (mut at, mut parts) = (0, 0_u64);
            let walked = memfd.for_each_part(left, |part| {
                let (offset, bytes) = match part {
                    Part::Data { offset, bytes, addr } => {
                        // A tree that is not sound may hold blocks that leave memory.
                        let there = left.words(addr, bytes as usize).is_some();
                        assert!(there || !sound, "{part:?}");
                        (offset, bytes)
                    }
                    Part::Hole { offset, bytes, .. } => (offset, bytes),
                };
                assert_eq!(offset, at, "the parts of a file follow each other");
                at = offset + bytes;
                parts += 1;
                Ok::<_, Error>(())
            });
            assert!(parts <= 2 * memfd.folios.saturating_add(1), "{parts} parts");
            if said(walked).is_some() {
                assert_eq!(at, memfd.size);
            }
            if let Some(area) = memfd.area {
                read_area(left, area);
            }
        }
    }
    for flb in said(luo.flbs(left)).into_iter().flatten().take(most as usize) {
        said(flb);
    }
}

fn read_area(left: &Left<'_, Dump>, area: AreaInfo) {
    let mut blocks = 0;
    let walked = area.walk(left, |part| {
        if let AreaPart::Block(block) = part {
            assert!(left.holds(block), "{block} is not preserved");
            blocks += 1;
        }
        Ok::<_, heirloom::restore::Error>(())
    });
    assert!(walked.is_err() || blocks == area.blocks());
}
