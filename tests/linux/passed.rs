//! Subtrees of Linux's that are passed on to the next kernel, whole, or stay as they are.

use heirloom::folio::Request;
use heirloom::kho::{Block, Fault, PAGE_SIZE, PhysAddr, Run, TableError};
use heirloom::restore::{Entry, Error, Unclaimed};
use heirloom_kho::linux::{
    FileList, Known, Luo, Memfd, MemfdFolio, MemfdWriter, Metadata, Opaque, Part, Text, Unread,
};
use heirloom_testkit::Rng;

use super::common::{
    Kernel, PAGE, State, World, fill, finish_freeing, order, out_of_memory, unfill,
};
use super::{claim, expected, inherited, known, left, left_to_claim, names, pages};

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
    let (mut numbers, mut refused) = (Rng::new(0x6b65_726e), 0);
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
