//! What Linux registers in a KHO v4 handover, parsed and checked.
//!
//! ```text
//!  root page ──> "LUO"            sessions ──> files ──> memfd ──> folios of a file
//!                  │              blocks       blocks      └─ area of entries
//!                  └─> FLBs       states that files share; their values are opaque
//!            ──> "memblock"       reserved regions by name
//!            ──> "kexec-metadata" the release before, how many kexecs
//!            ──> "kho_test"       folios of the kernel's own test, with a checksum
//!            ──> "heirloom"       folios that Linux lends to heirloom's module, and the handover within
//! ```
//!
//! Everything is read through [`Pages`](crate::Pages), so it is the same for a
//! predecessor's memory on this machine (`heirloom_restore::Inherited`) and for an image
//! of another's ([`Left`](crate::Left)). Nothing is believed that was not checked, and
//! every walk is bounded. What the bytes mean is that of Linux 7.3 (`include/linux/kho/abi/*.h`,
//! `lib/test_kho.c`); values are in native byte order.
//!
//! [`check`] finds everything that is wrong with these, beside what
//! `heirloom_restore::survey` finds about the handover around them.
//!
//! # Examples
//! An image of memory, here one of pages that a live update would leave: a session with one memfd of
//! two pages, of which the second was never written.
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::atomic::AtomicU64;
//! use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr, Run};
//! use heirloom_kho::linux::{Luo, Part};
//! use heirloom_kho::{AreaInfo, Pages};
//!
//! /// Preserved pages by number.
//! struct Memory(BTreeMap<u64, Vec<AtomicU64>>);
//! impl Pages for Memory {
//!     fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
//!         let page = self.0.get(&addr.pfn().get())?;
//!         page.get(addr.offset_in_page() / 8..)?.get(..bytes.div_ceil(8))
//!     }
//!     fn holds(&self, block: Block) -> bool {
//!         block.order() == Order::ZERO && self.0.contains_key(&block.pfn().get())
//!     }
//! }
//! let at = |page: u64| page * PAGE_SIZE as u64;
//! let text = |text: &[u8], words: usize| {
//!     let mut bytes = text.to_vec();
//!     bytes.resize(words * 8, 0);
//!     bytes.chunks(8).map(|b| u64::from_ne_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
//! };
//! let area = AreaInfo::new(PhysAddr::new(at(5)), 1, Order::ZERO, false).unwrap().descriptor();
//! let area = zerocopy::IntoBytes::as_bytes(&area);
//! let mut memory = BTreeMap::new();
//! for (page, words) in [
//!     (1, [text(b"luo-v5", 1), vec![0, at(2), 0]].concat()),
//!     (2, [vec![0, 1], text(b"guest", 8), vec![at(3), 1]].concat()),
//!     (3, [vec![0, 1], text(b"memfd-v2", 6), vec![at(4), 7]].concat()),
//!     (4, [vec![0, 2 * PAGE_SIZE as u64, 0, 1], text(area, 2)].concat()),
//!     (5, vec![0, at(6)]),
//!     (6, vec![8 | 3 << 52, 0]),
//!     (8, vec![42]),
//! ] {
//!     let mut words: Vec<_> = words.into_iter().map(AtomicU64::new).collect();
//!     words.resize_with(PAGE_SIZE / 8, AtomicU64::default);
//!     memory.insert(page, words);
//! }
//! let memory = Memory(memory);
//!
//! let luo = Luo::read(&memory, PhysAddr::new(at(1)), 32)?;
//! let session = luo.session(&memory, "guest")?.unwrap();
//! let file = session.file(&memory, 7)?.unwrap();
//! let memfd = file.memfd(&memory)?.unwrap();
//! let mut parts = Vec::new();
//! memfd.for_each_part(&memory, |part| {
//!     parts.push(part);
//!     Ok::<_, heirloom_kho::Error>(())
//! })?;
//! let page = PAGE_SIZE as u64;
//! assert_eq!(parts, [
//!     Part::Data { offset: 0, bytes: page, addr: PhysAddr::new(at(8)) },
//!     Part::Hole { offset: page, bytes: page, block: None },
//! ]);
//! # Ok::<(), heirloom_kho::Error>(())
//! ```
//!
//! # Writing
//! What a kernel leaves for Linux is written as Linux writes it, into [`BlankPage`]s: a session with a
//! memfd of one page, and how many kernels there were.
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::atomic::AtomicU64;
//! use heirloom_kho::linux::{BlankPage, FileList, Luo, Memfd, MemfdFolio, MemfdWriter, Metadata, Text};
//! use heirloom_kho::{Block, Order, PAGE_SIZE, Pages, PhysAddr};
//!
//! /// Preserved pages by number; a kernel has `heirloom_restore::Inherited`.
//! struct Memory(BTreeMap<u64, Vec<AtomicU64>>);
//! # impl Pages for Memory {
//! #     fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
//! #         let page = self.0.get(&addr.pfn().get())?;
//! #         page.get(addr.offset_in_page() / 8..)?.get(..bytes.div_ceil(8))
//! #     }
//! #     fn holds(&self, block: Block) -> bool {
//! #         block.order() == Order::ZERO && self.0.contains_key(&block.pfn().get())
//! #     }
//! # }
//! let page = |n| (n, (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect());
//! let memory = Memory((1..10).map(page).collect());
//! let mut blank = (1..9).map(|n| {
//!     let addr = PhysAddr::new(n * PAGE_SIZE as u64);
//!     BlankPage::new(addr, &memory.0[&n]).unwrap()
//! });
//! let folio = Block::new(PhysAddr::new(9 * PAGE_SIZE as u64).pfn(), Order::ZERO).unwrap();
//!
//! let mut memfd = MemfdWriter::new(&mut blank, 2 * PAGE_SIZE as u64)?;
//! memfd.push(&mut blank, MemfdFolio::with_contents(folio, 1))?;
//! let mut files = FileList::new();
//! let kind = Text::new(Memfd::COMPATIBLE).unwrap();
//! files.push(&mut blank, kind, memfd.finish().get(), 7)?;
//! let mut luo = Luo::create(blank.next().unwrap(), 1);
//! luo.add_session(&memory, &mut blank, Text::new("guest").unwrap(), &files)?;
//! Metadata::create(blank.next().unwrap(), Text::new("mykernel 1.0").unwrap(), 3);
//!
//! let session = luo.session(&memory, "guest")?.unwrap();
//! let memfd = session.file(&memory, 7)?.unwrap().memfd(&memory)?.unwrap();
//! assert_eq!((memfd.size, memfd.folios), (2 * PAGE_SIZE as u64, 1));
//! # Ok::<(), heirloom_kho::Error>(())
//! ```
mod blank;
mod bytes;
mod check;
mod flb;
mod found;
mod kexec_metadata;
mod kho_test;
mod loans;
mod luo;
mod luo_writer;
mod memblock;
mod memfd;
mod memfd_writer;
mod properties;
mod stop;
mod text;

pub use blank::BlankPage;
pub use check::{Known, check};
pub use flb::{Flb, Flbs};
pub use found::{Found, Opaque, Unread};
pub use kexec_metadata::Metadata;
pub use kho_test::{Checksum, KhoTest};
pub use loans::{LoanPart, Loans};
pub use luo::{File, Files, Luo, Session, Sessions};
pub use luo_writer::FileList;
pub use memblock::{Memblock, Region};
pub use memfd::{Memfd, MemfdFolio, Part};
pub use memfd_writer::MemfdWriter;
pub use text::Text;
