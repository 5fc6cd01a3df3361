//! Handovers tampered with, as programs: which table, which word of it, and what is put there.
//!
//! A program is made from bytes by [`arbitrary`], so that a fuzzer finds its way: what it changes is
//! a field, an address that leads to another table, a page that is there twice, not only noise.
//!
//! ```text
//! mod      programs, and how they are carried out
//! forge    handles that nobody was given
//! mend     checksums made right again, so that what is behind them is reached
//! ```

mod forge;
mod mend;

use arbitrary::Arbitrary;
pub use forge::Forged;
use heirloom::kho::PhysAddr;
use heirloom::restore::Entry;
pub use mend::mend;

use crate::world::{Left, PAGE, Place, TableAt, TestMachine};

/// Memory that can be tampered with.
pub trait Bytes {
    /// The word at `addr`; 0 where there is no memory.
    fn word(&self, addr: PhysAddr) -> u64;

    /// Writes `bytes` from `addr` on, as far as that is memory.
    fn write(&self, addr: PhysAddr, bytes: &[u8]);

    /// The address of frame `n`, counted from the first; round and round.
    fn frame(&self, n: u64) -> PhysAddr;
}

impl Bytes for TestMachine {
    fn word(&self, addr: PhysAddr) -> u64 {
        Self::word(self, addr)
    }

    fn write(&self, addr: PhysAddr, bytes: &[u8]) {
        Self::write(self, addr, bytes);
    }

    fn frame(&self, n: u64) -> PhysAddr {
        Self::frame(self, n)
    }
}

/// Everything that is done to a handover before it is taken over.
#[derive(Clone, Debug, Arbitrary)]
pub struct Attack {
    /// Which kind of handover, counted round and round.
    pub shape: u8,
    /// Whether it is sealed first.
    pub sealed: bool,
    /// What is demanded of the seal.
    pub policy: u8,
    /// Whether checksums are made right afterwards.
    pub mend: bool,
    /// What decides between things that are all allowed.
    pub whim: u64,
    /// Where the handover is said to begin, if not where it does.
    pub entry: Option<[Value; 3]>,
    /// Handles that nobody was given.
    pub forged: Vec<Forged>,
    /// What is done to the tables, in this order.
    pub steps: Vec<Step>,
}

/// One change of a table.
#[derive(Clone, Debug, Arbitrary)]
pub enum Step {
    /// Another value in a word.
    Set(u8, Word, Value),
    /// Another value in half a word, big-endian: a cell of a device tree.
    Cell(u8, u16, Value),
    /// Another byte.
    Byte(u8, u16, u8),
    /// A bit turned over.
    Flip(u8, u16, u8),
    /// The same value in several words.
    Fill(u8, u16, u8, Value),
    /// A table written over another.
    Over(u8, u8),
    /// A copy of a table in a frame, and a word that leads to it.
    Clone {
        /// The table that is copied.
        of: u8,
        /// The frame that the copy goes to.
        to: u16,
        /// The table with the word.
        table: u8,
        /// The word.
        word: Word,
    },
    /// These bytes.
    Raw(u8, u16, Vec<u8>),
}

/// A word of a table.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Word {
    /// The n-th that is not zero.
    Live(u8),
    /// The one after that.
    Next(u8),
    /// The n-th.
    At(u16),
}

/// What is put into a word.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub enum Value {
    /// The address of a table.
    Table(u8),
    /// An address in a table.
    Inside(u8, u16),
    /// The address of a frame.
    Frame(u16),
    /// An address about where memory ends, in frames.
    Edge(i8),
    /// What a word holds.
    Of(u8, Word),
    /// What is there with a little more or less.
    Near(i8),
    /// What is there with a bit turned over.
    Turn(u8),
    /// One bit.
    Bit(u8),
    /// A small number.
    Small(u16),
    /// Any number.
    Any(u64),
}

/// What a program is carried out on: the memory, all tables, and those that may be changed.
pub struct Subject<'a, B> {
    bytes: &'a B,
    tables: &'a [TableAt],
    focus: Vec<TableAt>,
    /// The frame after the last.
    end: PhysAddr,
}

impl<'a, B: Bytes> Subject<'a, B> {
    /// Of `tables`, those of a place in `places` may be changed; all, if there are no places.
    pub fn new(bytes: &'a B, tables: &'a [TableAt], places: &[Place], end: PhysAddr) -> Self {
        let focus = tables.iter().filter(|t| places.is_empty() || places.contains(&t.place));
        Self { bytes, tables, focus: focus.copied().collect(), end }
    }

    /// Carries out one step.
    pub fn apply(&self, step: &Step) {
        match step {
            Step::Set(table, word, value) => {
                let Some(at) = self.word_in(&self.focus, *table, *word) else { return };
                self.put(at, self.value(*value, self.bytes.word(at)));
            }
            Step::Cell(table, at, value) => {
                let Some(table) = pick(&self.focus, *table) else { return };
                let at = table.addr.get() + u64::from(*at) * 4 % table.bytes.max(4) as u64;
                let at = PhysAddr::new(at & !3);
                let old = self.bytes.word(PhysAddr::new(at.get() & !7));
                let old = u32::from_be((old >> (at.get() % 8 * 8)) as u32);
                let value = self.value(*value, old.into()) as u32;
                self.bytes.write(at, &value.to_be_bytes());
            }
            Step::Byte(table, at, value) => {
                let Some(at) = self.byte_in(*table, *at) else { return };
                self.bytes.write(at, &[*value]);
            }
            Step::Flip(table, at, bit) => {
                let Some(at) = self.byte_in(*table, *at) else { return };
                let word = PhysAddr::new(at.get() & !7);
                let bit = at.get() % 8 * 8 + u64::from(bit % 8);
                self.put(word, self.bytes.word(word) ^ 1 << bit);
            }
            Step::Fill(table, from, words, value) => {
                let Some(table) = pick(&self.focus, *table) else { return };
                for i in 0..=u64::from(*words) {
                    let at = (u64::from(*from) + i) * 8;
                    if at + 8 > table.bytes as u64 {
                        return;
                    }
                    let at = PhysAddr::new(table.addr.get() + at);
                    self.put(at, self.value(*value, self.bytes.word(at)));
                }
            }
            Step::Over(of, to) => {
                let (Some(of), Some(to)) = (pick(self.tables, *of), pick(&self.focus, *to)) else {
                    return;
                };
                self.copy(of.addr, to.addr, of.bytes.min(to.bytes));
            }
            Step::Clone { of, to, table, word } => {
                let Some(of) = pick(self.tables, *of) else { return };
                let Some(at) = self.word_in(&self.focus, *table, *word) else { return };
                let to = self.bytes.frame((*to).into());
                self.copy(of.addr, to, of.bytes.min(PAGE as usize));
                self.put(at, to.get());
            }
            Step::Raw(table, at, bytes) => {
                let Some(table) = pick(&self.focus, *table) else { return };
                let at = usize::from(*at) % table.bytes.max(1);
                let room = bytes.len().min(table.bytes - at);
                self.bytes.write(PhysAddr::new(table.addr.get() + at as u64), &bytes[..room]);
            }
        }
    }

    /// The number that `value` stands for; `old` is what it replaces.
    pub fn value(&self, value: Value, old: u64) -> u64 {
        match value {
            Value::Table(n) => pick(self.tables, n).map_or(0, |table| table.addr.get()),
            Value::Inside(n, at) => {
                pick(self.tables, n).map_or(0, |table| table.addr.get() + u64::from(at))
            }
            Value::Frame(n) => self.bytes.frame(n.into()).get(),
            Value::Edge(n) => self.end.get().wrapping_add_signed(i64::from(n) * PAGE.cast_signed()),
            Value::Of(table, word) => {
                self.word_in(self.tables, table, word).map_or(0, |at| self.bytes.word(at))
            }
            Value::Near(n) => old.wrapping_add_signed(n.into()),
            Value::Turn(bit) => old ^ 1 << (bit % 64),
            Value::Bit(bit) => 1 << (bit % 64),
            Value::Small(n) => n.into(),
            Value::Any(n) => n,
        }
    }

    fn put(&self, at: PhysAddr, value: u64) {
        self.bytes.write(at, &value.to_le_bytes());
    }

    fn copy(&self, from: PhysAddr, to: PhysAddr, bytes: usize) {
        let words = (0..bytes as u64 / 8).map(|i| PhysAddr::new(from.get() + i * 8));
        let words: Vec<u8> = words.flat_map(|at| self.bytes.word(at).to_le_bytes()).collect();
        self.bytes.write(to, &words);
    }

    fn byte_in(&self, table: u8, at: u16) -> Option<PhysAddr> {
        let table = pick(&self.focus, table)?;
        Some(PhysAddr::new(table.addr.get() + u64::from(at) % table.bytes.max(1) as u64))
    }

    fn word_in(&self, tables: &[TableAt], table: u8, word: Word) -> Option<PhysAddr> {
        let table = pick(tables, table)?;
        let words = (table.bytes as u64 / 8).max(1);
        let at = |i: u64| PhysAddr::new(table.addr.get() + i % words * 8);
        let live = |n: u8| {
            let live: Vec<_> = (0..words).filter(|i| self.bytes.word(at(*i)) != 0).collect();
            live.get(usize::from(n) % live.len().max(1)).copied().unwrap_or(n.into())
        };
        Some(match word {
            Word::Live(n) => at(live(n)),
            Word::Next(n) => at(live(n) + 1),
            Word::At(n) => at(n.into()),
        })
    }
}

fn pick(tables: &[TableAt], n: u8) -> Option<TableAt> {
    tables.get(usize::from(n) % tables.len().max(1)).copied()
}

impl Attack {
    /// Carries the program out on a handover; where it is said to begin afterwards, if anywhere.
    pub fn carry_out(&self, machine: &TestMachine, left: &Left, places: &[Place]) -> Entry {
        let end = machine.all().end().addr();
        let subject = Subject::new(machine, &left.tables, places, end);
        self.steps.iter().for_each(|step| subject.apply(step));
        if self.mend {
            mend(machine, left);
        }
        let Some([root, scratch, bytes]) = self.entry else { return left.entry };
        let value = |value, old: PhysAddr| PhysAddr::new(subject.value(value, old.get()));
        Entry {
            root: value(root, left.entry.root),
            scratch: value(scratch, left.entry.scratch),
            scratch_bytes: subject.value(bytes, left.entry.scratch_bytes),
        }
    }
}
