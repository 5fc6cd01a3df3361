//! A handover that Linux 7.3 really left, taken over: every preserved folio is inherited, what
//! `kho_test` put there is claimed and has Linux's own checksum, and the rest is free memory.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::fs;

use heirloom::folio::{Block, Kind, Pfn, PhysAddr, Run};
use heirloom::restore::{AreaDescriptor, Entry, Error, Handle, Parts, SealPolicy, Unclaimed};
use serde_json::Value;
use zerocopy::FromBytes;

use common::{Kernel, State, World, finish_freeing, order};

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

/// The value of the first property of this name in a device tree.
fn property<'a>(tree: &'a [u8], name: &str) -> &'a [u8] {
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, strings) = (word(8), word(12));
    loop {
        let token = word(at);
        at += 4;
        match token {
            1 => at += (tree[at..].iter().position(|byte| *byte == 0).unwrap() + 4) & !3,
            3 => {
                let (bytes, called) = (word(at), &tree[strings + word(at + 4)..]);
                at += 8;
                if called.strip_prefix(name.as_bytes()).is_some_and(|rest| rest[0] == 0) {
                    return &tree[at..at + bytes];
                }
                at += (bytes + 3) & !3;
            }
            2 | 4 => {}
            other => panic!("no {name}: token {other}"),
        }
    }
}

fn u32_of(value: &[u8]) -> u32 {
    u32::from_ne_bytes(value.try_into().unwrap())
}

fn inherited(kernel: &Kernel<'_>) -> Vec<Block> {
    let mut found = Vec::new();
    kernel.memory().for_each_inherited(|block| found.push(block));
    found.sort_unstable_by_key(|block| (block.order(), block.pfn()));
    found
}

#[test]
fn a_handover_of_linux_is_taken_over() {
    let expected = expected();
    let (world, entry) = left();
    let kernel = world.revive(entry);
    assert_eq!((kernel.predecessor(), kernel.generation()), (None, 1));

    // Every folio and every node, and nothing else.
    let folios = blocks(&expected["preserved"]);
    assert_eq!(inherited(&kernel), folios);
    let mut nodes = 0;
    kernel.memory().for_each_inherited_node(|_| nodes += 1);
    assert_eq!(nodes, expected["nodes"].as_u64().unwrap());
    let mut names = Vec::new();
    kernel.for_each_inherited_subtree(|name, _, _| names.push(name.to_owned())).unwrap();
    for name in ["LUO", "kho_test", "kexec-metadata"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }

    // What the kernel says of itself.
    let metadata = kernel.claim_root("kexec-metadata").unwrap();
    assert_eq!(u32_of(&metadata.bytes()[..4]), 1);
    assert!(metadata.bytes()[4..].starts_with(b"7.3.4\0"));

    // kho_test: its device tree, its list, its folios.
    let test = kernel.claim_root("kho_test").unwrap();
    let facts = &expected["subtrees"]["kho_test"];
    assert_eq!(property(test.bytes(), "compatible"), b"kho-test-v1\0");
    assert_eq!(u32_of(property(test.bytes(), "magic")), 0x4b48_4f21);
    let count = u32_of(property(test.bytes(), "nr_folios"));
    assert_eq!(u64::from(count), facts["nr_folios"].as_u64().unwrap());
    let descriptor = property(test.bytes(), "folios_info");
    let info = AreaDescriptor::read_from_bytes(descriptor).unwrap().info(entry.root).unwrap();
    let handle = Handle::new(Parts::Area(info)).unwrap();
    let area = kernel.claim_area(handle).unwrap();
    let mut pages = Vec::new();
    area.for_each(|block| pages.push(block)).unwrap();
    let list = pages[0];
    assert_eq!((pages.len(), list.addr()), (1, addr(&facts["vmalloc"]["pages"][0])));
    assert!(kernel.memory().is_preserved(list));
    area.unpreserve(|_| ()).unwrap();
    // SAFETY: the area's only block, which is ours since the area was let go.
    let list = unsafe { heirloom::folio::Folio::from_raw(kernel.memory(), list) };
    let words = list.bytes().chunks_exact(8).take(count as usize);
    let (mut sum, mut claimed) = (0_u64, Vec::new());
    for word in words.map(|word| u64::from_ne_bytes(word.try_into().unwrap())) {
        let start = PhysAddr::new(word & !0xfff).pfn();
        let block = Block::new(start, order((word & 0xfff) as u8)).unwrap();
        let folio = kernel.claim_folio(Handle::new(Parts::Folio(block)).unwrap()).unwrap();
        let halves = folio.bytes().chunks_exact(2);
        sum += halves.map(|half| u64::from(u16::from_le_bytes([half[0], half[1]]))).sum::<u64>();
        claimed.push(block);
        // Freed here, by an ordinary drop.
    }
    claimed.sort_unstable_by_key(|block| (block.order(), block.pfn()));
    assert_eq!(claimed, blocks(&facts["folios"]));
    // A ones' complement sum of 16-bit words.
    let linux = u64::from(u32_of(property(test.bytes(), "csum")));
    assert_eq!(sum % 0xffff, linux % 0xffff);
    assert_eq!(sum % 0xffff, facts["csum_mod_ffff"].as_u64().unwrap());

    // The rest is nobody's: listed, and free memory again. The root page was the handover's own.
    drop((metadata, test, list));
    let taken = claimed.len() + 2 + 2;
    let unclaimed = finish_freeing(&kernel);
    assert!(unclaimed.iter().all(|what| matches!(what, Unclaimed::Folio(_))), "{unclaimed:?}");
    assert_eq!(unclaimed.len(), folios.len() - taken - 1);
    let state = State::of(&kernel);
    assert_eq!((state.inherited.len(), state.audit.reserved), (0, SCRATCH.1));
    let tables = state.audit.allocated[Kind::Table as usize];
    assert_eq!(state.free + tables + SCRATCH.1, FRAMES);
}

#[test]
fn what_linux_left_goes_on_to_the_next_kernel_as_it_was() {
    let expected = expected();
    let folios = blocks(&expected["preserved"]);
    let (world, entry) = left();
    let kernel = world.revive(entry);
    let root = Block::new(entry.root.pfn(), order(0)).unwrap();
    let kept = kernel.finish(|_| heirloom::folio::Fate::Keep).unwrap();
    assert_eq!(kept.folios as usize, folios.len() - 1);
    // Ours is a handover too: the next kernel inherits the same folios.
    let next = world.jump(kernel);
    assert_eq!(next.predecessor().unwrap().as_str(), "test");
    let all = inherited(&next);
    for folio in folios.iter().filter(|folio| **folio != root) {
        assert!(all.contains(folio), "{folio}");
        assert_eq!(next.memory().label_of(*folio), None);
    }
}

#[test]
fn a_seal_is_not_expected_of_linux() {
    let (world, entry) = left();
    let refused = world.try_revive(entry, SealPolicy::Required).err();
    assert_eq!(refused, Some(Error::NotSealed.into()));
    drop(world.try_revive(entry, SealPolicy::Ignored).unwrap());
}
