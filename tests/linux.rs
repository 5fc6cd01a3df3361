//! A handover that Linux 7.3 really left, taken over: every preserved folio is inherited, what
//! `kho_test` put there is claimed and has Linux's own checksum, memfds have their contents, and the
//! rest is free memory.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::fs;

use common::{
    Kernel, Numbers, PAGE, State, World, fill, finish_freeing, free_folio, order, out_of_memory,
    unfill,
};
use heirloom::folio::harness::Ram;
use heirloom::folio::{Folio, FrameType, PreservedFolio, Request};
use heirloom::kho::{
    Block, Fault, Handle, Name, PAGE_SIZE, Parts, Pfn, PhysAddr, RootView, Run, Table, TableError,
};
use heirloom::restore::{Entry, Error, Inherited, SealPolicy, Unclaimed};
use heirloom_kho::linux::{
    Checksum, FileList, KhoTest, Known, Luo, Memfd, MemfdFolio, MemfdWriter, Metadata, Opaque,
    Part, Text, Unread,
};
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

/// The bytes of every memfd that is in a handover, as its sessions list them.
fn memfds(kernel: &Kernel<'_>, entry: Entry) -> Vec<(u64, Vec<u8>)> {
    let Known::Luo(luo) = known(kernel, entry, Luo::NAME) else { panic!() };
    let left = pages(kernel);
    let mut found = Vec::new();
    for session in luo.sessions(&left).unwrap() {
        for file in session.unwrap().files(&left).unwrap().map(Result::unwrap) {
            let Some(memfd) = file.memfd(&left).unwrap() else { continue };
            let mut bytes = Vec::new();
            memfd
                .for_each_part(&left, |part| {
                    match part {
                        Part::Data { bytes: length, addr, .. } => {
                            let run = Run::covering(addr, length).unwrap();
                            let start = kernel.memory().ptr(run).unwrap();
                            let length = usize::try_from(length).unwrap();
                            // SAFETY: nothing writes what was inherited.
                            bytes.extend(unsafe {
                                std::slice::from_raw_parts(start.as_ptr(), length)
                            });
                        }
                        Part::Hole { bytes: length, .. } => {
                            bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0);
                        }
                    }
                    Ok::<_, heirloom_kho::Error>(())
                })
                .unwrap();
            found.push((file.token, bytes));
        }
    }
    found
}

/// One subtree goes on, with its lists, memfds and folios; all else is free memory.
#[test]
fn one_subtree_of_linux_s_is_passed_on_and_the_rest_is_freed() {
    let expected = expected();
    let (world, entry) = left();
    let kernel = world.revive(entry);
    let (contents, before) = (memfds(&kernel, entry), State::of(&kernel));
    assert_eq!(contents.len(), 4);
    let mut asked = Vec::new();
    let accept = |unread: &Unread| {
        asked.push((unread.what, unread.name.as_str().to_owned()));
        true
    };
    // SAFETY: nothing is written meanwhile.
    let kept = unsafe { kernel.pass_on(Luo::NAME, accept) }.unwrap();
    let flb = |n: u32| (Opaque::Flb, format!("liveupdate-test-flb-v{n}"));
    assert_eq!(asked, [flb(0), flb(1), flb(2)]);
    // LUO's page, a block of sessions, two of files, one of FLBs; of each memfd its page, a chunk, a page of
    // entries and 16 folios.
    assert_eq!((kept.blocks, kept.frames), (5 + 4 * 19, 5 + 4 * 19));
    // SAFETY: as above.
    let again = unsafe { kernel.pass_on(Luo::NAME, |_| true) };
    assert!(matches!(again, Err(Error::NoSuchSubtree { .. })));
    let unclaimed = finish_freeing(&kernel);
    let total = left_to_claim(&expected).len() as u64;
    assert_eq!(unclaimed.len() as u64, total - kept.blocks);
    kernel.memory().audit().unwrap();
    let after = State::of(&kernel);
    assert!(after.free > before.free);
    assert_eq!(after.subtrees.len(), 2, "heirloom's own, and LUO: {:?}", after.subtrees);

    // The next kernel passes it on as this one did, sealed or not.
    let mut kernel = kernel;
    for _ in 0..3 {
        kernel.seal().unwrap();
        let own = kernel.entry();
        let next = world.jump(kernel);
        assert_eq!(names(&next).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["LUO"]);
        assert_eq!(memfds(&next, own), contents);
        // SAFETY: as above.
        let again = unsafe { next.pass_on(Luo::NAME, |_| true) };
        assert_eq!(again, Ok(kept));
        assert_eq!(finish_freeing(&next), []);
        assert_eq!(State::of(&next).free, after.free);
        kernel = next;
    }
}

/// What is refused changes nothing, at whichever block it is found.
#[test]
fn a_subtree_that_is_not_passed_on_is_there_as_it_was() {
    let (world, entry) = left();
    let kernel = world.revive(entry);
    let (before, state) = (inherited(&kernel), State::of(&kernel));
    let mut asked = 0;
    let refuse_third = |_: &Unread| {
        asked += 1;
        asked < 3
    };
    // SAFETY: nothing is written meanwhile.
    let refused = unsafe { kernel.pass_on(Luo::NAME, refuse_third) };
    let Err(Error::Table(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.fault, Fault::Unknown { .. }), "{error}");
    assert_eq!((inherited(&kernel), State::of(&kernel).free), (before, state.free));
    assert_eq!(names(&kernel).len(), 3);
    // Each of its blocks in turn is another owner's.
    let luo_s: Vec<_> = {
        let all = inherited(&kernel);
        // SAFETY: as above.
        unsafe { kernel.pass_on(Luo::NAME, |_| true) }.unwrap();
        let rest = inherited(&kernel);
        all.into_iter().filter(|block| !rest.contains(block)).collect()
    };
    assert_eq!(luo_s.len(), 81);
    drop(kernel);
    for block in luo_s {
        let kernel = world.revive(entry);
        let folio = claim(&kernel, block);
        let (before, free) = (inherited(&kernel), State::of(&kernel).free);
        // SAFETY: as above.
        let refused = unsafe { kernel.pass_on(Luo::NAME, |_| true) };
        assert!(
            matches!(refused, Err(Error::Table(_) | Error::NotInherited { .. })),
            "{block}: {refused:?}"
        );
        assert_eq!((inherited(&kernel), State::of(&kernel).free), (before, free), "{block}");
        kernel.memory().audit().unwrap();
        drop(folio);
    }
}

/// What is claimed is written down: without a page for that, or for the second one, all of it is undone.
#[test]
fn without_memory_to_pass_it_on_a_subtree_is_there_as_it_was() {
    let world = World::new(4096);
    let kernel = world.boot();
    // More folios than a page of keys has.
    let folios = 3 * PAGE_SIZE as u64 / 8 / 2;
    let mut pages = kernel.blank_pages(MemfdWriter::pages_for(folios) + 3).unwrap();
    let mut memfd = MemfdWriter::new(&mut pages, folios * PAGE).unwrap();
    for index in 0..folios {
        let folio = kernel.memory().alloc_folio(Request::new(order(0))).unwrap();
        let block = folio.preserve().unwrap().into_raw();
        memfd.push(&mut pages, MemfdFolio::with_contents(block, index)).unwrap();
    }
    let mut files = FileList::new();
    let kind = Text::new(Memfd::COMPATIBLE).unwrap();
    files.push(&mut pages, kind, memfd.finish().get(), 1).unwrap();
    let mut luo = Luo::create(pages.next().unwrap(), 1);
    let name = Text::new("session").unwrap();
    luo.add_session(&self::pages(&kernel), &mut pages, name, &files).unwrap();
    assert!(pages.is_empty());
    drop(pages);
    kernel.add_subtree(Luo::NAME, luo.at, luo.bytes()).unwrap();
    let kernel = world.jump(kernel);
    finish_keeping(&kernel);
    let before = inherited(&kernel);
    for but in 0..2 {
        let taken = fill(&kernel, but);
        let free = State::of(&kernel).free;
        // SAFETY: nothing is written meanwhile.
        let refused = unsafe { kernel.pass_on(Luo::NAME, |_| false) };
        assert!(refused.as_ref().is_err_and(out_of_memory), "{but}: {refused:?}");
        assert_eq!((inherited(&kernel), State::of(&kernel).free), (before.clone(), free));
        let refused = kernel.blank_pages(but as u64 + 1);
        assert!(refused.as_ref().is_err_and(out_of_memory), "{but}: {refused:?}");
        drop(refused);
        assert_eq!(State::of(&kernel).free, free);
        unfill(&kernel, taken);
    }
    // SAFETY: as above.
    let kept = unsafe { kernel.pass_on(Luo::NAME, |_| false) }.unwrap();
    assert_eq!(kept.blocks, folios + MemfdWriter::pages_for(folios) + 3);
    kernel.memory().audit().unwrap();
}

/// Each kernel counts itself, in the place of its predecessor's count, and leaves no page behind.
#[test]
fn kernels_are_counted_on_from_linux_s_count() {
    let (world, entry) = left();
    let mut kernel = world.revive(entry);
    for n in 2..6 {
        // SAFETY: nothing is written meanwhile.
        assert_eq!(unsafe { kernel.count_kexec("kernel 1.0") }, Ok(n));
        // SAFETY: as above.
        let again = unsafe { kernel.count_kexec("kernel 1.0") };
        assert!(matches!(again, Err(Error::NameTaken { .. })), "{again:?}");
        // SAFETY: as above.
        let long = unsafe { kernel.count_kexec(&"k".repeat(65)) };
        assert!(matches!(long, Err(Error::Table(_))), "{long:?}");
        let told = finish_freeing(&kernel);
        assert_eq!(told.is_empty(), n > 2, "{told:?}");
        let subtree = kernel.subtree(Metadata::NAME).unwrap().unwrap();
        assert_eq!(subtree.size, Some(Metadata::SIZE));
        let Known::Metadata(says) = Known::read(&pages(&kernel), &subtree).unwrap().unwrap() else {
            panic!()
        };
        assert_eq!((says.previous_release.as_str(), says.kexec_count), ("kernel 1.0", n));
        kernel.memory().audit().unwrap();
        assert_eq!(kernel.subtree("none"), Ok(None));
        kernel = world.jump(kernel);
    }
    let taken = fill(&kernel, 0);
    // SAFETY: as above.
    let refused = unsafe { kernel.count_kexec("kernel 1.0") };
    assert!(refused.as_ref().is_err_and(out_of_memory), "{refused:?}");
    unfill(&kernel, taken);
    assert_eq!(names(&kernel).len(), 1, "the predecessor's is there yet");
}

/// Whatever stands in Linux's tables, a subtree is passed on whole, or not at all.
#[test]
fn tables_of_any_bits_are_passed_on_or_left_as_they_are() {
    let expected = expected();
    let (world, entry) = left();
    let saved = world.save();
    let tables: Vec<_> = {
        let kernel = world.revive(entry);
        let left = pages(&kernel);
        let Known::Luo(luo) = known(&kernel, entry, Luo::NAME) else { panic!() };
        let mut tables = vec![luo.at, luo.sessions, luo.flbs];
        for session in luo.sessions(&left).unwrap().map(Result::unwrap) {
            tables.push(session.files);
            for file in session.files(&left).unwrap().map(Result::unwrap) {
                let memfd = file.memfd(&left).unwrap().unwrap();
                tables.push(memfd.at);
                tables.push(memfd.area.unwrap().first());
            }
        }
        tables
    };
    let (mut numbers, mut refused) = (Numbers(0x6b65_726e), 0);
    for round in 0..120 {
        world.load(&saved);
        let table = tables[numbers.below(tables.len() as u64) as usize];
        // The part that is in use, mostly.
        let byte = numbers.below(if round % 4 == 0 { PAGE } else { 64 });
        world.flip(PhysAddr::new(table.get() + byte), numbers.below(8) as usize);
        let kernel = world.revive(entry);
        let (before, free) = (inherited(&kernel), State::of(&kernel).free);
        assert_eq!(before, left_to_claim(&expected));
        // SAFETY: nothing is written meanwhile.
        let kept = unsafe { kernel.pass_on(Luo::NAME, |unread| unread.what == Opaque::Flb) };
        let left = inherited(&kernel);
        if let Ok(kept) = kept {
            assert_eq!(left.len() as u64, before.len() as u64 - kept.blocks);
        } else {
            refused += 1;
            assert_eq!((left, State::of(&kernel).free), (before, free));
        }
        kernel.memory().audit().unwrap();
    }
    assert!((12..108).contains(&refused), "{refused} of 120 refused");
}

fn finish_keeping(kernel: &Kernel<'_>) {
    kernel.finish(|_| heirloom::folio::Disposition::Keep).unwrap();
}

#[test]
fn a_subtree_that_is_not_known_is_passed_on_as_its_bytes_if_its_caller_says_so() {
    let world = World::new(1024);
    let kernel = world.boot();
    let mut pages = kernel.blank_pages(3).unwrap();
    let at = [pages.next().unwrap().addr(), pages.next().unwrap().addr()];
    drop(pages);
    kernel.add_subtree("theirs", at[0], 5).unwrap();
    let next = world.jump(kernel);
    // SAFETY: nothing is written meanwhile.
    let refused = unsafe { next.pass_on("theirs", |_| false) };
    assert!(matches!(refused, Err(Error::Table(TableError { fault: Fault::Unknown { .. }, .. }))));
    // SAFETY: as above.
    let kept = unsafe { next.pass_on("theirs", |unread| unread.what == Opaque::Subtree) }.unwrap();
    assert_eq!((kept.blocks, kept.frames), (1, 1));
    let page = Block::new(at[1].pfn(), order(0)).unwrap();
    assert_eq!(finish_freeing(&next), [Unclaimed::Folio(page)]);
}

/// The subtrees that were left, in their order.
fn names(kernel: &Kernel<'_>) -> Vec<(String, PhysAddr)> {
    let mut names = Vec::new();
    kernel.for_each_inherited_subtree(|name, addr, _| names.push((name.to_owned(), addr))).unwrap();
    names
}

#[test]
fn a_seal_is_not_expected_of_linux() {
    let (world, entry) = left();
    let refused = world.try_revive(entry, SealPolicy::Required).err();
    assert_eq!(refused, Some(Error::NotSealed { opened: false }));
    drop(world.try_revive(entry, SealPolicy::Ignored).unwrap());
}

#[test]
fn a_subtree_of_no_bytes_is_not_passed_on() {
    const BYTES: u32 = 0xffb;
    let world = World::new(1024);
    let kernel = world.boot();
    let at = kernel.blank_pages(1).unwrap().next().unwrap().addr();
    kernel.add_subtree("theirs", at, BYTES.into()).unwrap();
    let entry = kernel.entry();
    drop(kernel);
    // As if its writer had said 0.
    let words = world.words(entry.root, PAGE_SIZE);
    let is_size = |word: &u64| [BYTES, BYTES.to_be()].contains(&(*word as u32));
    let sizes: Vec<_> = words.iter().enumerate().filter(|(_, word)| is_size(word)).collect();
    assert_eq!(sizes.len(), 1);
    world.write(PhysAddr::new(entry.root.get() + 8 * sizes[0].0 as u64), &[0; 4]);
    let next = world.revive(entry);
    // SAFETY: nothing is written meanwhile.
    let refused = unsafe { next.pass_on("theirs", |_| true) };
    assert_eq!(refused, Err(Error::NotInherited { at }));
    assert_eq!(names(&next), [("theirs".to_owned(), at)]);
    finish_freeing(&next);
    assert_eq!(names(&world.jump(next)), []);
}

/// So many blocks that what was claimed is written down in more than one page.
#[test]
fn a_subtree_of_many_blocks_is_passed_on_or_stays_whole() {
    let world = World::new(4096);
    let kernel = world.boot();
    let mut pages: Vec<_> =
        kernel.blank_pages(2000).unwrap().map(|page| page.addr().get()).collect();
    pages.sort_unstable();
    let mut longest = &pages[..0];
    for chunk in pages.chunk_by(|one, next| next - one == PAGE_SIZE as u64) {
        if chunk.len() > longest.len() {
            longest = chunk;
        }
    }
    let blocks = longest.len() as u64;
    assert!(blocks > 900, "{blocks}");
    let at = PhysAddr::new(longest[0]);
    kernel.add_subtree("theirs", at, blocks * PAGE_SIZE as u64).unwrap();
    let next = world.jump(kernel);
    let (before, free) = (inherited(&next), State::of(&next).free);
    // SAFETY: nothing is written meanwhile.
    let refused = unsafe { next.pass_on("theirs", |_| false) };
    assert!(matches!(refused, Err(Error::Table(_))), "{refused:?}");
    assert_eq!((inherited(&next), State::of(&next).free), (before, free));
    let held = fill(&next, 1);
    // SAFETY: as above.
    let refused = unsafe { next.pass_on("theirs", |_| true) };
    assert!(refused.as_ref().is_err_and(out_of_memory), "{refused:?}");
    unfill(&next, held);
    // SAFETY: as above.
    let kept = unsafe { next.pass_on("theirs", |_| true) }.unwrap();
    assert_eq!((kept.blocks, kept.frames), (blocks, blocks));
    assert_eq!(State::of(&next).free, free);
    finish_freeing(&next);
    next.memory().audit().unwrap();
    let third = world.jump(next);
    assert_eq!(inherited(&third).len() as u64, blocks);
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
