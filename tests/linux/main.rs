//! A handover that Linux 7.3 really left, taken over: every preserved folio is inherited, what
//! `kho_test` put there is claimed and has Linux's own checksum, memfds have their contents, and the
//! rest is free memory.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

#[path = "../common/mod.rs"]
mod common;
mod passed;

use std::fs;

use common::{Kernel, PAGE, State, World, finish_freeing, free_folio, order};
use heirloom::folio::harness::Ram;
use heirloom::folio::{Folio, FrameType, PreservedFolio};
use heirloom::kho::{
    Block, Fault, Handle, Name, PAGE_SIZE, Parts, Pfn, PhysAddr, RootView, Run, Table, TableError,
};
use heirloom::restore::{Entry, Error, Inherited, SealPolicy, Unclaimed};
use heirloom_kho::linux::{Checksum, KhoTest, Known, Luo, Metadata};
use serde_json::Value;
use sha2::{Digest, Sha256};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/linux-7.3-kho-v4");
/// 64 MiB, of which the capture uses the first 24.
const FRAMES: u64 = 16384;
const SCRATCH: (u64, u64) = (12288, 4096);
const SCRATCH_LIST: PhysAddr = PhysAddr::new(32 << 20);

fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(format!("{DIR}/expected.json")).unwrap()).unwrap()
}

/// `"0x1000"`.
fn addr(value: &Value) -> PhysAddr {
    let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
    PhysAddr::new(u64::from_str_radix(digits, 16).unwrap())
}

/// `["0x1000", 0]`.
fn block(value: &Value) -> Block {
    let n = u8::try_from(value[1].as_u64().unwrap()).unwrap();
    Block::new(addr(&value[0]).pfn(), order(n)).unwrap()
}

fn blocks(value: &Value) -> Vec<Block> {
    let mut blocks: Vec<_> = value.as_array().unwrap().iter().map(block).collect();
    blocks.sort_unstable_by_key(|block| (block.order(), block.pfn()));
    blocks
}

/// Memory as Linux left it. Its scratch list is not in the capture: one is written beside it.
fn left() -> (World, Entry) {
    let scratch = Run::new(Pfn::new(SCRATCH.0), SCRATCH.1).unwrap();
    let world = World::from_zero(FRAMES, scratch);
    let file = fs::read(format!("{DIR}/image.elf")).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
    let (table, size, count) = (u64_at(32) as usize, u16_at(54), u16_at(56));
    for i in 0..count {
        let at = table + usize::from(i * size);
        // PT_LOAD: offset, physical address, bytes in the file.
        if file[at..at + 4] == 1_u32.to_le_bytes() {
            let (offset, bytes) = (u64_at(at + 8) as usize, u64_at(at + 32) as usize);
            world.write(PhysAddr::new(u64_at(at + 24)), &file[offset..offset + bytes]);
        }
    }
    let list = [scratch.addr().get(), scratch.bytes()].map(u64::to_le_bytes).concat();
    world.write(SCRATCH_LIST, &list);
    let root = addr(&expected()["fdt"]);
    (world, Entry { root, scratch: SCRATCH_LIST, scratch_bytes: 16 })
}

/// What the predecessor left, to be read.
fn pages<'k, 'r>(kernel: &'k Kernel<'r>) -> Inherited<'k, &'r Ram> {
    // SAFETY: nothing is written to what was inherited while the tests read it.
    unsafe { Inherited::new(kernel.memory()) }
}

/// The subtree of this name, as the layer of Linux's tables reads it.
fn known(kernel: &Kernel<'_>, entry: Entry, name: &str) -> Known {
    let pages = pages(kernel);
    let root = RootView::read(&pages, entry.root).unwrap();
    let subtree = root.find(&Name::new(name).unwrap()).unwrap();
    Known::read(&pages, &subtree).unwrap().unwrap()
}

/// A folio that Linux preserved, claimed.
fn claim<'k, 'r>(kernel: &'k Kernel<'r>, block: Block) -> PreservedFolio<'k, &'r Ram> {
    kernel.claim_folio(Handle::new(Parts::Folio(block)).unwrap()).unwrap()
}

/// What Linux preserved, but for its root page, which is the handover's own.
fn left_to_claim(expected: &Value) -> Vec<Block> {
    let root = addr(&expected["fdt"]).pfn();
    let mut all = blocks(&expected["preserved"]);
    all.retain(|block| block.pfn() != root);
    all
}

fn inherited(kernel: &Kernel<'_>) -> Vec<Block> {
    let mut found = Vec::new();
    kernel.memory().predecessor().for_each(|block| found.push(block));
    found.sort_unstable_by_key(|block| (block.order(), block.pfn()));
    found
}

/// The subtrees that were left, in their order.
fn names(kernel: &Kernel<'_>) -> Vec<(String, PhysAddr)> {
    let mut names = Vec::new();
    kernel.for_each_inherited_subtree(|name, addr, _| names.push((name.to_owned(), addr))).unwrap();
    names
}

/// The segments of a kernel that was loaded by kexec lie in scratch, and the list is one of them.
#[test]
fn a_scratch_list_in_scratch_is_no_fault() {
    let expected = expected();
    let (first, frames) = SCRATCH;
    let list = [first * PAGE, frames * PAGE].map(u64::to_le_bytes).concat();
    // Where heirloom's metadata would go, in the middle, at the very end.
    for page in [first, first + 7, first + frames / 2, first + frames - 1] {
        let (world, entry) = left();
        let scratch = PhysAddr::new(page * PAGE);
        world.write(scratch, &list);
        let kernel = world.revive(Entry { scratch, ..entry });
        assert_eq!(inherited(&kernel), left_to_claim(&expected));
        kernel.memory().audit().unwrap();
        finish_freeing(&kernel);
        kernel.memory().audit().unwrap();
        // And on to a successor, with a list of its own.
        drop(world.jump(kernel));
    }
    // Partly in scratch: neither kept with it nor apart from it.
    let (world, entry) = left();
    let scratch = PhysAddr::new(first * PAGE - 16);
    world.write(scratch, &[list, vec![0; 16]].concat());
    let error =
        world.try_revive(Entry { scratch, scratch_bytes: 32, ..entry }, SealPolicy::Checked);
    let run = Run::covering(scratch, 32).unwrap();
    let with = Run::new(Pfn::new(first), frames).unwrap();
    let fault = Fault::Overlap { run, with };
    let at = run.addr();
    let refused = TableError { table: Table::Scratch, at, offset: 0, fault };
    assert_eq!(error.err(), Some(Error::Table(refused)));
}

#[test]
fn a_handover_of_linux_is_taken_over() {
    let expected = expected();
    let (world, entry) = left();
    let kernel = world.revive(entry);
    assert_eq!((kernel.predecessor(), kernel.generation()), (None, 1));

    // Every folio and every node, and nothing else.
    let folios = left_to_claim(&expected);
    assert_eq!(inherited(&kernel), folios);
    let mut nodes = 0;
    kernel.memory().preserved().for_each_node(|_| nodes += 1);
    assert!(nodes >= expected["nodes"].as_u64().unwrap(), "{nodes} nodes");
    let mut names = Vec::new();
    kernel.for_each_inherited_subtree(|name, _, _| names.push(name.to_owned())).unwrap();
    for name in ["LUO", "kho_test", "kexec-metadata"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }

    // What the kernel says of itself.
    let Known::Metadata(says) = known(&kernel, entry, Metadata::NAME) else { panic!() };
    assert_eq!((says.previous_release.as_str(), says.kexec_count), ("7.3.4", 1));
    let metadata = kernel.claim_root(Metadata::NAME).unwrap();

    // kho_test: its list, its folios.
    let Known::KhoTest(test) = known(&kernel, entry, KhoTest::NAME) else { panic!() };
    let facts = &expected["subtrees"]["kho_test"];
    assert_eq!(u64::from(test.folios), facts["nr_folios"].as_u64().unwrap());
    let mut listed = Vec::new();
    test.for_each_folio(&pages(&kernel), |block| {
        listed.push(block);
        Ok::<_, heirloom_kho::Error>(())
    })
    .unwrap();
    let blob = kernel.claim_root(KhoTest::NAME).unwrap();
    let handle = Handle::new(Parts::Area(test.area)).unwrap();
    let area = kernel.claim_area(handle).unwrap();
    let mut lists = Vec::new();
    area.unpreserve(|block| lists.push(block)).unwrap();
    assert_eq!((lists.len(), lists[0].addr()), (1, addr(&facts["vmalloc"]["pages"][0])));
    // SAFETY: the area's only block, which is ours since the area was let go.
    let list = unsafe { Folio::from_raw(kernel.memory(), lists[0]) };
    let (mut sum, mut claimed) = (Checksum::default(), Vec::new());
    for block in listed {
        let folio = claim(&kernel, block);
        sum.add(folio.bytes());
        claimed.push(block);
        free_folio(folio);
    }
    assert_eq!(sum, Checksum::of(test.csum));
    assert_eq!(u64::from(sum.get()), facts["csum_mod_ffff"].as_u64().unwrap());
    claimed.sort_unstable_by_key(|block| (block.order(), block.pfn()));
    assert_eq!(claimed, blocks(&facts["folios"]));

    // The rest has no owner: listed, names first, and free memory again.
    drop((metadata, blob, list));
    kernel.unpublish(Metadata::NAME).unwrap();
    kernel.unpublish(KhoTest::NAME).unwrap();
    let taken = claimed.len() + 2 + 2;
    let unclaimed = finish_freeing(&kernel);
    let (names, rest): (Vec<_>, Vec<_>) =
        unclaimed.into_iter().partition(|what| matches!(what, Unclaimed::Subtree { .. }));
    assert!(rest.iter().all(|what| matches!(what, Unclaimed::Folio(_))), "{rest:?}");
    // What a name leads to goes with it.
    assert_eq!(names.len() + rest.len(), folios.len() - taken);
    let state = State::of(&kernel);
    assert_eq!((state.inherited.len(), state.audit.reserved), (0, SCRATCH.1));
    assert_eq!(state.subtrees.len(), 1, "heirloom's own: {:?}", state.subtrees);
    let tables = state.audit.allocated[FrameType::Table as usize];
    assert_eq!(state.free + tables + SCRATCH.1, FRAMES);
}

#[test]
fn the_memfds_of_a_live_update_are_claimed_with_their_contents() {
    let expected = expected();
    let (world, entry) = left();
    let kernel = world.revive(entry);
    let Known::Luo(luo) = known(&kernel, entry, Luo::NAME) else { panic!() };
    let left = pages(&kernel);
    let facts = &expected["subtrees"]["LUO"]["sessions"];
    let mut contents = Vec::new();
    for (i, session) in luo.sessions(&left).unwrap().enumerate() {
        let session = session.unwrap();
        assert_eq!(session.name.as_str(), facts[i]["name"]);
        for (j, file) in session.files(&left).unwrap().enumerate() {
            let file = file.unwrap();
            let facts = &facts[i]["files"][j];
            assert_eq!(file.token, facts["token"].as_u64().unwrap());
            let memfd = file.memfd(&left).unwrap().unwrap();
            // A hole, and what was never written, is zeroes.
            let mut bytes = vec![0; usize::try_from(memfd.size).unwrap()];
            memfd
                .for_each_folio(&left, |found| {
                    let folio = claim(&kernel, found.block);
                    let start = usize::try_from(found.index).unwrap() * PAGE_SIZE;
                    let end = bytes.len().min(start + folio.bytes().len());
                    if found.is_up_to_date() {
                        bytes[start..end].copy_from_slice(&folio.bytes()[..end - start]);
                    }
                    // Kept: what `left` reads is not to be written by a next owner.
                    contents.push(folio);
                    Ok::<_, heirloom_kho::Error>(())
                })
                .unwrap();
            let digest: Vec<_> = Sha256::digest(&bytes).to_vec();
            let digits = facts["sha256"].as_str().unwrap();
            let byte = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
            assert_eq!(digest, (0..64).step_by(2).map(byte).collect::<Vec<_>>());
        }
    }
    assert_eq!(contents.len(), 64);
    // Claimed once.
    let again = contents[0].extent();
    let refused = kernel.claim_folio(Handle::new(Parts::Folio(again)).unwrap());
    assert_eq!(refused.err(), Some(heirloom::folio::Error::NotPreserved { block: again }.into()));
}

#[test]
fn what_linux_left_goes_on_to_the_next_kernel_as_it_was() {
    let expected = expected();
    let folios = left_to_claim(&expected);
    let (world, entry) = left();
    // Kernels that end in the middle change nothing: each begins with Linux's entry.
    for n in 0..3 {
        let kernel = world.revive(entry);
        let names = names(&kernel);
        assert_eq!(names.len(), expected["subtrees"].as_object().unwrap().len(), "{names:?}");
        for folio in folios.iter().skip(n * 7).step_by(3) {
            if let Ok(folio) = kernel.claim_folio(Handle::new(Parts::Folio(*folio)).unwrap()) {
                assert!(kernel.memory().preserved().contains(folio.extent()));
            }
        }
        drop(kernel);
    }
    let kernel = world.revive(entry);
    let before = names(&kernel);
    // What Linux left stays. The pages that those kernels made for entries of their own go: a root, a
    // scratch list, a header and a cache directory each.
    let mut strays = 0;
    let told = kernel.finish(|unclaimed| match unclaimed {
        Unclaimed::Folio(block) if !folios.contains(&block) => {
            strays += 1;
            heirloom::folio::Disposition::Free
        }
        _ => heirloom::folio::Disposition::Keep,
    });
    let told = told.unwrap();
    assert_eq!(strays, 3 * 4);
    assert_eq!((told.subtrees + told.folios) as usize, folios.len() + strays);
    // Ours is a handover too: the next kernel inherits the same folios, and the names.
    let own = kernel.entry();
    assert_ne!(own.root, entry.root);
    let next = world.jump(kernel);
    assert_eq!((next.predecessor().unwrap().as_str(), next.entry()), ("test", own));
    let all = inherited(&next);
    for folio in &folios {
        assert!(all.contains(folio), "{folio}");
        assert_eq!(next.memory().predecessor().label_of(*folio), None);
    }
    assert_eq!(names(&next), before);
    // Linux's own entry has ended.
    drop(next);
    assert!(world.try_revive(entry, SealPolicy::Checked).is_err());
}

#[test]
fn a_seal_is_not_expected_of_linux() {
    let (world, entry) = left();
    let refused = world.try_revive(entry, SealPolicy::Required).err();
    assert_eq!(refused, Some(Error::NotSealed { opened: false }));
    drop(world.try_revive(entry, SealPolicy::Ignored).unwrap());
}

#[test]
fn a_closure_that_lets_go_of_everything_loses_nothing() {
    let world = World::new(1024);
    let kernel = world.boot();
    let at = kernel.blank_pages(1).unwrap().next().unwrap().addr();
    kernel.add_subtree("theirs", at, 5).unwrap();
    let next = world.jump(kernel);
    let free = State::of(&next).free;
    // SAFETY: nothing is written meanwhile.
    let refused = unsafe {
        next.pass_on("theirs", |_| {
            assert_eq!(finish_freeing(&next).len(), 1);
            true
        })
    };
    assert!(matches!(refused, Err(Error::NoSuchSubtree { .. })), "{refused:?}");
    next.memory().audit().unwrap();
    // Its block is there for another claim, in this kernel or the next.
    let block = Block::new(at.pfn(), order(0)).unwrap();
    assert_eq!(inherited(&next), [block]);
    let third = world.jump(next);
    assert_eq!(finish_freeing(&third), [Unclaimed::Folio(block)]);
    assert_eq!(State::of(&third).free, free + 1);
}
