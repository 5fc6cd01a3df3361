//! A service that keeps a structure of its own in preserved memory, and goes on with it as it is in each
//! life: mapped elsewhere, linked by physical addresses, with no claim but that of its root.
#![cfg(all(feature = "std", target_os = "linux"))]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

use core::ptr::NonNull;

use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::threads::YieldingSpinlock;
use heirloom::folio::{DirectMap, Disposition, NodeId};
use heirloom::kho::{Handle, PAGE_SIZE, PhysAddr, Run};
use heirloom::restore::{Entry, Error, Finished, SealPolicy};
use heirloom::slab::{Error as SlabError, ObjectState, Owner, TypedCache, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A node of a binary tree: its children's addresses, or 0.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Node {
    key: u64,
    children: [u64; 2],
    /// The handle of a buffer with the key's digits.
    text: [u8; 16],
}
persist!(Node { key, children, text });

type Kernel<'a> = Heirloom<&'a Arena>;
type Nodes<'k, 'a> = TypedCache<'k, Node, &'a Arena>;

/// The tree, as one life of the service sees it.
struct Tree<'k, 'a> {
    kernel: &'k Kernel<'a>,
    nodes: Nodes<'k, 'a>,
    root: u64,
}

impl Tree<'_, '_> {
    fn node(&self, at: u64) -> &Node {
        let node = self.kernel.memory().machine().ptr(PhysAddr::new(at)).cast::<Node>();
        // SAFETY: the tree's, which has no other user; a node is written before it is linked.
        unsafe { node.as_ref() }
    }

    /// Sets which node is below another, by one store; or which is the root.
    fn link(&mut self, above: Option<(u64, usize)>, to: u64) {
        let Some((above, side)) = above else {
            self.root = to;
            return;
        };
        let node = self.kernel.memory().machine().ptr(PhysAddr::new(above)).cast::<Node>();
        // SAFETY: as for `node`, and no reference to it is in use.
        unsafe { (&raw mut (*node.as_ptr()).children[side]).write(to) };
    }

    /// Where a key's node is, or would be.
    fn find(&self, key: u64) -> (Option<(u64, usize)>, u64) {
        let (mut above, mut at) = (None, self.root);
        while at != 0 && self.node(at).key != key {
            let side = usize::from(key > self.node(at).key);
            above = Some((at, side));
            at = self.node(at).children[side];
        }
        (above, at)
    }

    fn insert(&mut self, key: u64) {
        let (above, at) = self.find(key);
        if at != 0 {
            return;
        }
        let digits = key.to_string();
        let text = self.kernel.alloc(digits.len()).unwrap();
        let from = NonNull::from(digits.as_bytes()).cast();
        // SAFETY: allocated just now, of that many bytes.
        unsafe { text.copy_from_nonoverlapping(from, digits.len()) };
        // SAFETY: in use, and nothing frees it.
        let handle = unsafe { self.kernel.preserve(text) }.unwrap();
        let node = Node { key, children: [0; 2], text: handle.into() };
        let node = self.nodes.insert(node).unwrap().leak().get();
        self.link(above, node);
    }

    /// Removes a key that has a child at most.
    fn remove(&mut self, key: u64) {
        let (above, at) = self.find(key);
        let [left, right] = if at == 0 { return } else { self.node(at).children };
        if left != 0 && right != 0 {
            return;
        }
        let text = self.kernel.find(Handle::from(self.node(at).text)).unwrap();
        self.link(above, left | right);
        // SAFETY: no other node leads to either by now.
        unsafe {
            self.kernel.unpreserve(text).unwrap();
            self.kernel.free(text).unwrap();
            drop(self.nodes.from_raw(PhysAddr::new(at)));
        }
    }

    /// The keys, each with its text, in order.
    fn keys(&self, at: u64, to: &mut Vec<u64>) {
        if at == 0 {
            return;
        }
        let Node { key, children: [left, right], text } = *self.node(at);
        self.keys(left, to);
        let digits = key.to_string();
        let text = self.kernel.find(Handle::from(text)).unwrap();
        // SAFETY: the tree's, of that many bytes at least.
        let text = unsafe { core::slice::from_raw_parts(text.as_ptr(), digits.len()) };
        assert_eq!(text, digits.as_bytes());
        to.push(key);
        self.keys(right, to);
    }
}

fn map(arena: &Arena) -> Vec<(Run, NodeId)> {
    arena.ranges().iter().map(|range| (range.run(), range.node())).collect()
}

fn first_arena(name: &str) -> Arena {
    let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 32 << 20, node: NodeId(0) };
    Arena::create(name, &[range]).unwrap()
}

fn boot(arena: &Arena) -> Kernel<'_> {
    let map = map(arena);
    let scratch = Run::new(map[0].0.start(), arena.scratch_bytes() / PAGE_SIZE as u64).unwrap();
    // SAFETY: the arena is the test's alone.
    unsafe { Heirloom::boot(arena, &map, &[scratch], "service 1") }.unwrap()
}

/// The kernel after the one that left this entry, which is gone.
fn revive(arena: &Arena, entry: Entry) -> Kernel<'_> {
    // SAFETY: every caller has dropped the kernel before it, which was the arena's one user.
    unsafe { Heirloom::revive(arena, &map(arena), entry, "service 2", SealPolicy::Checked) }
        .unwrap()
}

#[test]
fn a_tree_is_gone_on_with_in_every_life() {
    const LIVES: u64 = 12;
    let mut arena = first_arena("a tree");
    let mut expected = std::collections::BTreeSet::new();
    let mut entry = None;
    for life in 0..LIVES {
        let kernel = match entry {
            None => boot(&arena),
            Some(entry) => revive(&arena, entry),
        };
        kernel.slabs().resume_buffers().unwrap();
        let nodes = kernel.resume_or_create::<Node>("nodes", true).unwrap();
        let root = match kernel.claim_root("root") {
            Ok(root) => u64::from_le_bytes(root.bytes().try_into().unwrap()),
            Err(Error::NoSuchSubtree { .. }) => 0,
            Err(error) => panic!("{error}"),
        };
        let mut tree = Tree { kernel: &kernel, nodes, root };
        let mut found = Vec::new();
        // Every other life does not look at what it has first.
        if life % 2 == 0 {
            tree.keys(root, &mut found);
            assert_eq!(found, expected.iter().copied().collect::<Vec<_>>());
        }
        let mut dice = (life + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..3000 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let key = dice >> 20 & 0xfff;
            if dice % 3 > 0 {
                tree.insert(key);
                expected.insert(key);
            } else {
                let there = tree.find(key).1;
                let leaf = there != 0 && tree.node(there).children.contains(&0);
                tree.remove(key);
                if leaf {
                    expected.remove(&key);
                }
            }
        }
        // Nothing is told, as all of it is in use.
        if kernel.generation() > 0 {
            let told = kernel.finish(|unclaimed| panic!("{unclaimed:?}"));
            assert_eq!(told, Ok(Finished::default()));
        }
        kernel.publish("root", &tree.root.to_le_bytes()).unwrap();
        entry = Some(kernel.entry());
        drop(kernel);
        // The next life has its memory at another address.
        arena = Arena::open(arena.share().unwrap()).unwrap();
    }
    assert!(expected.len() > 1000, "{}", expected.len());
    // And one frees all of it.
    let kernel = revive(&arena, entry.unwrap());
    kernel.slabs().resume_buffers().unwrap();
    let nodes = kernel.resume::<Node>("nodes", true).unwrap();
    for (at, _) in nodes.cache().preserved().collect::<Vec<_>>() {
        // SAFETY: this kernel's, and each is had once.
        let node = unsafe { nodes.from_raw(at) };
        let text = kernel.find(Handle::from(node.text)).unwrap();
        // SAFETY: nothing else leads to it.
        unsafe {
            kernel.unpreserve(text).unwrap();
            kernel.free(text).unwrap();
        }
        assert!(expected.remove(&node.key));
    }
    assert!(expected.is_empty());
    kernel.finish(|_| Disposition::Free).unwrap();
    let slabs = kernel.slabs();
    slabs.shrink();
    assert!(slabs.caches().all(|cache| cache.stats().live == 0));
    kernel.memory().audit().unwrap();
}

#[test]
fn where_nothing_can_be_waited_for_a_first_use_is_an_error_at_once() {
    let arena = first_arena("no waiting");
    let kernel = boot(&arena);
    let node = Node { key: 1, children: [0; 2], text: [0; 16] };
    let object = kernel.slabs().typed::<Node>("nodes", true).unwrap().insert(node).unwrap();
    let (at, tag) = object.handle_parts();
    object.leak();
    let entry = kernel.entry();
    drop(kernel);
    let kernel = revive(&arena, entry);
    let nodes = kernel.resume::<Node>("nodes", true).unwrap();
    let (cache, object) = (nodes.cache(), kernel.memory().machine().ptr(at));
    let short = lock_api::Mutex::<YieldingSpinlock, ()>::new(());
    {
        let _held = short.lock();
        assert_eq!(cache.at(at, tag), Err(SlabError::WouldWait));
        assert_eq!(kernel.slabs().size_of(object), None);
        assert_eq!(cache.sweep(1), Err(SlabError::WouldWait));
        // SAFETY: in use, and the test's.
        assert_eq!(unsafe { cache.free(object) }, Err(SlabError::WouldWait));
    }
    assert_eq!(cache.at(at, tag), Ok(object));
    // SAFETY: in use, the test's, and not used again.
    unsafe { cache.free(object) }.unwrap();
}

/// A byte that says nothing is no reason to wait: it is said to be wrong, in a slab that was swept.
#[test]
fn where_nothing_can_be_waited_for_a_broken_byte_is_told_as_one() {
    let arena = first_arena("no waiting for what is broken");
    let kernel = boot(&arena);
    let node = Node { key: 1, children: [0; 2], text: [0; 16] };
    let object = kernel.slabs().typed::<Node>("nodes", true).unwrap().insert(node).unwrap();
    let (at, _) = object.handle_parts();
    object.leak();
    let entry = kernel.entry();
    drop(kernel);
    let kernel = revive(&arena, entry);
    let nodes = kernel.resume::<Node>("nodes", true).unwrap();
    nodes.cache().sweep(u64::MAX).unwrap();
    let ptr = kernel.memory().machine().ptr(at);
    let Ok(Owner::Object { state: ObjectState::Live, addr, .. }) = kernel.slabs().owner_of(ptr)
    else {
        panic!("the object of the predecessor is in use")
    };
    assert_eq!(addr, at);
    // Slabs of small objects have 64 KiB.
    let slab = PhysAddr::new(at.get() & !0xffff);
    let there = kernel.slabs().owner_at(slab);
    assert!(matches!(there, Some(Owner::Slab { addr, .. }) if addr == slab), "{there:?}");
    // The one byte behind the header that says that an object is in use.
    let header = kernel.memory().machine().ptr(slab);
    // SAFETY: the slab's state bytes lie behind its header; nothing else runs.
    let states = unsafe { core::slice::from_raw_parts_mut(header.as_ptr().add(128), 1000) };
    let index = states.iter().position(|byte| byte & 7 == 1).unwrap();
    let sound = core::mem::replace(&mut states[index], 0xf7);
    let short = lock_api::Mutex::<YieldingSpinlock, ()>::new(());
    let told = {
        let _held = short.lock();
        assert_eq!(kernel.slabs().size_of(ptr), None);
        assert_eq!(kernel.slabs().owner_at(at), None);
        kernel.slabs().owner_of(ptr)
    };
    let Err(SlabError::Slab(error)) = told else { panic!("{told:?}") };
    assert_eq!(error.slab, slab);
    assert_eq!(error.to_string(), format!("slab {slab}: object {index} has state 0xf7"));
    states[index] = sound;
    assert!(kernel.slabs().owner_of(ptr).is_ok());
}

/// What a handle says is never another object's: not from where its slab cannot be swept either.
#[test]
fn where_nothing_can_be_waited_for_names_and_handles_are_right_or_refused() {
    let arena = first_arena("no waiting for names");
    let kernel = boot(&arena);
    let nodes = kernel.slabs().typed::<Node>("nodes", true).unwrap();
    let node = Node { key: 1, children: [0; 2], text: [0; 16] };
    drop(nodes.insert(node).unwrap());
    let object = nodes.insert(node).unwrap();
    let (at, tag) = object.handle_parts();
    let handle = kernel.handle_of(kernel.memory().machine().ptr(at)).unwrap();
    object.leak();
    let entry = kernel.entry();
    drop(kernel);
    let kernel = revive(&arena, entry);
    let nodes = kernel.resume::<Node>("nodes", true).unwrap();
    // SAFETY: the test's, in use since the predecessor allocated it; its one owner.
    let object = unsafe { nodes.from_raw(at) };
    let ptr = kernel.memory().machine().ptr(at);
    let short = lock_api::Mutex::<YieldingSpinlock, ()>::new(());
    {
        let _held = short.lock();
        assert_eq!(object.handle_parts(), (at, tag));
        assert_eq!(kernel.handle_of(ptr), Err(Error::Slab(SlabError::WouldWait)));
        assert_eq!(kernel.find(handle), Err(Error::Slab(SlabError::WouldWait)));
    }
    assert_eq!(kernel.handle_of(ptr), Ok(handle));
    assert_eq!(kernel.find(handle), Ok(ptr));
    assert_eq!(object.handle_parts(), (at, tag));
    drop(object);
    assert_eq!(kernel.slabs().refused_frees(), 0);
    assert!(kernel.find(handle).is_err());
}
