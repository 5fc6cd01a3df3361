//! What a block of a predecessor is said to be, and what a claim of it must name.

use heirloom_folio::harness::Ram;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{DirectMap, Disposition, Error, FrameType, Request};
use heirloom_kho::{Block, Order};

use super::common::owned::Owned as _;
use super::common::{block, claim_as, free, label, order, preserve_as, unpreserve_as};
use super::{inherited, preserved, ranges, successor};

#[test]
fn a_label_is_what_a_claim_must_name() {
    let memory = Ram::memory(&ranges()).unwrap();
    let b = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(b).unwrap();
    let memory = successor(memory, &ranges());
    let other = block(100, 2);
    assert_eq!(label(&memory, other, FrameType::Slab), Err(Error::NotPreserved { block: other }));
    label(&memory, b, FrameType::Slab).unwrap();
    let wrong =
        Error::WrongType { pfn: b.pfn(), expected: FrameType::Table, found: FrameType::Slab };
    assert_eq!(label(&memory, b, FrameType::Table), Err(wrong));
    let no_folio =
        Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: FrameType::Slab };
    assert_eq!(memory.claim_owned(b).err(), Some(no_folio));
    let wrong = Error::WrongType { pfn: b.pfn(), expected: FrameType::Run, found: FrameType::Slab };
    assert_eq!(memory.claim(b.run()), Err(wrong));
    // Until it is claimed it is no caller's to preserve, let go or free.
    assert_eq!(memory.keep(b), Err(no_folio));
    assert_eq!(memory.let_go(b), Err(no_folio));
    let preserved = preserve_as(&memory, b, FrameType::Slab);
    assert_eq!(preserved, Err(Error::AlreadyPreserved { block: b }));
    let let_go = unpreserve_as(&memory, b, FrameType::Slab);
    assert_eq!(let_go, Err(Error::NotPreserved { block: b }));
    assert_eq!(free(&memory, b, FrameType::Slab), Err(Error::Preserved { block: b }));
    assert_eq!(memory.predecessor().label_of(b), Some(FrameType::Slab));
    // Nothing that looks for slabs finds it, before it is claimed and made one.
    let there = memory.machine().ptr(b.addr());
    let slab = BlockMatcher::new(FrameType::Slab, order(2));
    assert_eq!(memory.lookup(there, &slab), None);
    claim_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.lookup(there, &slab), None);
    // SAFETY: claimed just now.
    unsafe { memory.predecessor().unclaim_labelled(b, FrameType::Table, FrameType::Slab) }.unwrap();
    assert_eq!(memory.claim_owned(b).err(), Some(no_folio));
    assert_eq!(memory.predecessor().label_of(b), Some(FrameType::Slab));
    claim_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.predecessor().label_of(b), None);
    let again = preserve_as(&memory, b, FrameType::Table);
    assert_eq!(again, Err(Error::AlreadyPreserved { block: b }), "a claim leaves it preserved");
    // SAFETY: claimed just now; nothing looks for slabs here.
    unsafe { memory.make_slab(b) }.unwrap();
    assert_eq!(memory.lookup(there, &slab).map(|found| found.head), Some(there));
    unpreserve_as(&memory, b, FrameType::Slab).unwrap();
    assert_eq!(memory.lookup(there, &slab).map(|found| found.head), Some(there));
    // SAFETY: refused, as it is one.
    let again = unsafe { memory.make_slab(b) };
    assert_eq!(
        again,
        Err(Error::WrongType { pfn: b.pfn(), expected: FrameType::Table, found: FrameType::Slab })
    );
    assert_eq!(free(&memory, b, FrameType::Slab), Ok(()));
    // SAFETY: refused, as it is free.
    let gone = unsafe { memory.make_slab(b) };
    assert_eq!(gone, Err(Error::DoubleFree { block: b }));
}

#[test]
fn a_label_is_that_of_a_slab_or_a_table() {
    let memory = Ram::memory(&ranges()).unwrap();
    let [b, other] = [0; 2].map(|_| memory.alloc(Request::new(order(2))).unwrap());
    memory.keep(&[b, other]).unwrap();
    let memory = successor(memory, &ranges());
    for kind in [FrameType::Folio, FrameType::Run, FrameType::Buffer, FrameType::Tail] {
        assert_eq!(label(&memory, b, kind), Err(Error::BadRequest { frames: 4 }), "{kind:?}");
        assert_eq!(memory.predecessor().label_of(b), None);
    }
    let part = Block::containing(b.pfn(), order(1));
    assert_eq!(label(&memory, part, FrameType::Slab), Err(Error::NotPreserved { block: part }));
    memory.claim(b).unwrap();
    assert_eq!(label(&memory, b, FrameType::Slab), Err(Error::NotPreserved { block: b }));
    // What is asked about may get a label, and is its layer's from then on.
    let asked = memory.predecessor().finish(|asked| {
        assert_eq!(asked, other);
        label(&memory, asked, FrameType::Slab).unwrap();
        Disposition::Free
    });
    assert_eq!((asked, memory.predecessor().label_of(other)), ((0, 0), Some(FrameType::Slab)));
    assert_eq!(memory.predecessor().finish(|_| unreachable!("it has a label")), (0, 0));
    claim_as(&memory, other, FrameType::Slab).unwrap();
    unpreserve_as(&memory, other, FrameType::Table).unwrap();
    free(&memory, other, FrameType::Table).unwrap();
    memory.let_go(b).unwrap();
    assert_eq!(label(&memory, b, FrameType::Slab), Err(Error::NotPreserved { block: b }));
    free(&memory, b, FrameType::Folio).unwrap();
    assert_eq!(memory.stats().used(), memory.preserved().counts().nodes());
}

#[test]
fn a_label_is_of_an_order_that_such_things_have() {
    let ranges = Ram::frames((1 << 17) + 200);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks: Vec<_> = (0..=16).map(|o| block(1 << o, o)).collect();
    for b in &blocks {
        memory.alloc_at(*b).unwrap();
    }
    memory.keep(&blocks[..]).unwrap();
    let memory = successor(memory, &ranges);
    for b in &blocks {
        let o = b.order().get();
        let too_large = Error::BadRequest { frames: b.order().frames() };
        for (kind, most) in [(FrameType::Slab, 9), (FrameType::Table, 14)] {
            let done = label(&memory, *b, kind);
            if o > most {
                assert_eq!(
                    (done, memory.predecessor().label_of(*b)),
                    (Err(too_large), None),
                    "{b}, {kind:?}"
                );
                continue;
            }
            assert_eq!(
                (done, memory.predecessor().label_of(*b)),
                (Ok(()), Some(kind)),
                "{b}, {kind:?}"
            );
            // A slab is still to be claimed; a table is taken, and known by its label.
            assert_eq!(memory.predecessor().contains(*b), kind == FrameType::Slab);
            // A label of another order does not speak of this block.
            let half = Order::new(o.wrapping_sub(1)).map(|half| Block::containing(b.pfn(), half));
            assert!(half.is_none_or(|half| memory.predecessor().label_of(half).is_none()));
            let wrong = Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: kind };
            assert_eq!(memory.claim(*b), Err(wrong));
            if kind == FrameType::Table {
                let gone = Error::NotPreserved { block: *b };
                assert_eq!(claim_as(&memory, *b, kind), Err(gone));
                assert!(matches!(
                    unpreserve_as(&memory, *b, kind),
                    Err(Error::NotPreserved { .. })
                ));
                continue;
            }
            claim_as(&memory, *b, kind).unwrap();
            // Without it, for the label after this one.
            // SAFETY: claimed just now, and not written.
            unsafe { memory.unclaim_as(*b, FrameType::Table) }.unwrap();
            assert_eq!(memory.predecessor().label_of(*b), None);
        }
    }
    // What has a label is not asked about: the two largest alone have none.
    assert_eq!(inherited(&memory), blocks[15..]);
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (2, 0));
    memory.audit().unwrap();
}

#[test]
fn a_labelled_block_stays_what_it_is() {
    for disposition in [Disposition::Keep, Disposition::Free] {
        let memory = Ram::memory(&ranges()).unwrap();
        let b = memory.alloc(Request::new(order(2))).unwrap();
        memory.keep(b).unwrap();
        let memory = successor(memory, &ranges());
        label(&memory, b, FrameType::Slab).unwrap();
        let state = memory.state(b.pfn());
        let done = memory.predecessor().finish(|_| disposition);
        // Whatever is decided: it has its label, and can be claimed, here and in the next kernel.
        assert_eq!((done, memory.state(b.pfn())), ((0, 0), state));
        assert_eq!(
            (memory.predecessor().label_of(b), preserved(&memory)),
            (Some(FrameType::Slab), vec![b])
        );
        let no_folio =
            Error::WrongType { pfn: b.pfn(), expected: FrameType::Folio, found: FrameType::Slab };
        assert_eq!(memory.let_go(b), Err(no_folio));
        assert_eq!(memory.claim(b), Err(no_folio));
        let next = successor(memory, &ranges());
        assert_eq!((next.predecessor().label_of(b), inherited(&next)), (None, vec![b]));
    }
}
