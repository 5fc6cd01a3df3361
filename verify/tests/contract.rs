//! What nobody tampered with is taken over whole, whatever kind of handover it is.

use heirloom::folio::Request;
use heirloom::kho::{Order, PhysAddr};
use heirloom::restore::SealPolicy;
use heirloom_testkit::is_stamped;
use heirloom_verify::contract::{Attempt, Verdict, take_over};
use heirloom_verify::world::{Place, Recipe, Shape, TestMachine, TestObject, end};

#[test]
fn every_kind_of_handover_is_taken_over_whole() {
    for shape in Shape::ALL {
        for sealed in [false, true] {
            let (machine, left) = shape.build(sealed);
            for whim in 0..8 {
                let policy = if sealed { SealPolicy::Required } else { SealPolicy::Checked };
                let handles = left.handles();
                let attempt = Attempt {
                    entry: left.entry,
                    policy,
                    handles: &handles,
                    kept: &left.kept,
                    whim,
                };
                match take_over(&machine, &attempt) {
                    Verdict::Lived { claims } => assert!(claims >= handles.len() as u64),
                    Verdict::Refused(error) => panic!("{shape:?}, sealed: {sealed}: {error}"),
                }
                machine.load(&left.saved);
            }
        }
    }
}

/// What its owners do not ask for, as they know where it is.
#[test]
fn every_kind_of_handover_is_resumed() {
    let mut all = 0;
    for shape in Shape::ALL {
        let (machine, left) = shape.build(false);
        let mut resumed = 0;
        for whim in (0..64).filter(|whim| whim & 16 == 16) {
            let (entry, policy) = (left.entry, SealPolicy::Checked);
            let attempt = Attempt { entry, policy, handles: &[], kept: &[], whim };
            match take_over(&machine, &attempt) {
                Verdict::Lived { claims } => resumed += claims,
                Verdict::Refused(error) => panic!("{shape:?}: {error}"),
            }
            machine.load(&left.saved);
        }
        let slabs = matches!(shape, Shape::Buffers | Shape::Caches | Shape::Generations);
        assert!(resumed > 0 || !slabs, "{shape:?}");
        all += resumed;
    }
    assert!(all > 1000, "{all} objects were resumed");
}

/// The words of a slab's header that are its kernel's own, which no checksum covers, say that the
/// slab is the successor's already: what it will write there can be computed.
#[test]
fn a_slab_is_not_the_successors_because_it_says_so() {
    for shape in [Shape::Buffers, Shape::Caches, Shape::Whole, Shape::Generations] {
        let (machine, left) = shape.build(false);
        let kernel = machine.revive(left.entry);
        let owner = kernel.slabs().cache_directory().pfn().get() << 12;
        end(kernel);
        machine.load(&left.saved);
        let of = |place| left.tables.iter().filter(move |table| table.place == place);
        assert!(of(Place::Slab).count() > 0, "{shape:?}");
        for whim in 0..16 {
            let (number, preserved) = (whim % 4, whim % 3);
            for slab in of(Place::Slab) {
                let own = |offset| PhysAddr::new(slab.addr.get() + offset);
                machine.put(own(88), owner | number);
                machine.put(own(112), left.entry.root.get());
                machine.put(own(120), preserved << 32);
            }
            for states in of(Place::States).filter(|_| whim & 4 == 0) {
                let unclaimed = |byte: &u8| if byte & 7 == 2 { byte & !7 | 3 } else { *byte };
                let bytes: Vec<_> =
                    machine.read(states.addr, states.bytes).iter().map(unclaimed).collect();
                machine.write(states.addr, &bytes);
            }
            let handles = left.handles();
            let (entry, policy) = (left.entry, SealPolicy::Checked);
            let attempt = Attempt { entry, policy, handles: &handles, kept: &left.kept, whim };
            match take_over(&machine, &attempt) {
                Verdict::Lived { claims } => assert!(claims >= handles.len() as u64),
                Verdict::Refused(error) => panic!("{shape:?}, {whim}: {error}"),
            }
            machine.load(&left.saved);
        }
    }
}

#[test]
fn every_kind_of_table_is_in_some_handover() {
    let (_, whole) = Shape::Whole.build(true);
    let (_, areas) = Shape::Areas.build(false);
    let count = |tables: &[heirloom_verify::world::TableAt], place| {
        tables.iter().filter(|table| table.place == place).count()
    };
    for place in [
        Place::Root,
        Place::Scratch,
        Place::Node,
        Place::Header,
        Place::Directory,
        Place::Slabs,
        Place::Slab,
        Place::States,
        Place::Seal,
        Place::Area,
        Place::Records,
    ] {
        assert!(count(&whole.tables, place) > 0, "{place:?}");
    }
    // One of them has more blocks than a chunk page names.
    assert_eq!(count(&areas.tables, Place::Area), 4);
}

/// A leaf that leads to nothing goes when the next kernel begins. What that kernel looked up before, in the
/// same leaf, must not lead it there: what it preserves then would be in no tree.
#[test]
fn what_is_preserved_where_a_leaf_was_empty_is_found() {
    let machine = TestMachine::new(256);
    let kernel = machine.boot();
    // Around its bytes a block of any smaller order is looked for first.
    kernel.publish("root", &vec![7; 20_000]).unwrap();
    let folio = kernel.memory().alloc_folio(Request::new(Order::new(2).unwrap())).unwrap();
    let kept = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
    drop(kept.unpreserve().unwrap_or_else(|refused| panic!("{}", refused.error)));
    let next = machine.jump(kernel);
    let kept = TestObject::keep(&next, Recipe::Folio(2), 7).unwrap();
    let last = machine.jump(next);
    let found = last.claim_folio(kept.handle()).expect("preserved");
    assert!(is_stamped(found.bytes(), 7));
}
