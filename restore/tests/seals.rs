//! The header page as a predecessor leaves it: sealed, opened by a successor, turned to its other half,
//! of another version.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use common::memory;
use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::tree::{Frames, FramesOf};
use heirloom_kho::{
    Fault, HeaderPage, Image, PAGE_SIZE, PhysAddr, Run, SealState, Table, TableError,
};
use heirloom_restore::{Entry, Error, Heirloom, SealPolicy, Surveyed, survey};

const FRAMES: u64 = 512;

/// What a kernel left on a machine.
struct Left {
    ram: Ram,
    entry: Entry,
    header: PhysAddr,
    blob: PhysAddr,
}

impl Left {
    fn new(sealed: bool) -> Self {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let kernel = Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &[], "first").unwrap();
        kernel.publish("greeting", b"hello").unwrap();
        if sealed {
            kernel.seal().unwrap();
        }
        let at = |wanted| {
            let mut at = None;
            let found = |name: &str, addr, _| at = at.or((name == wanted).then_some(addr));
            kernel.for_each_subtree(found).unwrap();
            at.unwrap()
        };
        let (entry, header, blob) = (kernel.entry(), at("heirloom"), at("greeting"));
        drop(kernel);
        Self { ram, entry, header, blob }
    }

    /// The header's page.
    fn words(&self) -> &[AtomicU64] {
        Image::words(self, self.header, PAGE_SIZE).unwrap()
    }

    fn put(&self, offset: usize, bytes: [u8; 8]) {
        self.words()[offset / 8].store(u64::from_ne_bytes(bytes), Relaxed);
    }

    /// As a successor that found it whole leaves it.
    fn open(self) -> Self {
        drop(self.revive(SealPolicy::SealedOnly).unwrap());
        assert_eq!(self.words()[224 / 8].load(Relaxed).to_ne_bytes(), *b"opened--");
        self
    }

    /// With one bit of the published bytes' folio turned over.
    fn broken(self) -> Self {
        let words = Image::words(&self, self.blob, 8).unwrap();
        words[0].fetch_xor(1, Relaxed);
        self
    }

    fn revive(&self, policy: SealPolicy) -> Result<Heirloom<&Ram>, Error> {
        Heirloom::<&Ram>::revive_memory(memory(&self.ram, FRAMES), self.entry, "next", policy)
    }

    fn survey(&self) -> (Surveyed, Vec<Error>) {
        let all = Ram::frames(FRAMES)[0].0;
        let mut words = vec![0; FramesOf::words(all).unwrap()];
        let mut stretches = [FramesOf::new(all, &mut words).unwrap()];
        let mut findings = Vec::new();
        let surveyed = survey(self, self.entry, &mut Frames::new(&mut stretches), |finding| {
            findings.push(finding);
            Ok::<_, Error>(())
        });
        (surveyed.unwrap(), findings)
    }

    /// What `revive` and a survey both say of the header.
    fn fault(&self) -> (usize, Fault) {
        let refused = self.revive(SealPolicy::Checked).err().expect("a header at fault");
        assert_eq!(self.survey().1, [refused]);
        match refused {
            Error::Table(TableError { table: Table::Header, at, offset, fault }) => {
                assert_eq!(at, self.header);
                (offset, fault)
            }
            other => panic!("{other}"),
        }
    }
}

impl Image for Left {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        Run::covering(addr, bytes as u64).filter(|run| self.is_memory(*run))?;
        let start = self.ram.ptr(addr).cast::<AtomicU64>();
        // SAFETY: in the machine's memory, aligned; no kernel runs meanwhile.
        let words = unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes.div_ceil(8)) };
        addr.get().is_multiple_of(8).then_some(words)
    }

    fn is_memory(&self, run: Run) -> bool {
        Ram::frames(FRAMES)[0].0.covers(run)
    }
}

/// What a policy makes of a handover.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    Taken,
    NotSealed,
    NotSealedAnyMore,
    Broken,
}

fn verdict(left: &Left, policy: SealPolicy) -> Verdict {
    match left.revive(policy) {
        Ok(kernel) => {
            assert_eq!(kernel.claim_root("greeting").unwrap().bytes().len(), 5);
            Verdict::Taken
        }
        Err(Error::NotSealed { opened: false }) => Verdict::NotSealed,
        Err(Error::NotSealed { opened: true }) => Verdict::NotSealedAnyMore,
        Err(Error::Broken(_)) => Verdict::Broken,
        Err(other) => panic!("{other}"),
    }
}

/// What is left, by name, and what each policy makes of it.
type Kind = (&'static str, fn() -> Left, [Verdict; 4]);

#[test]
fn each_policy_takes_what_it_says() {
    use SealPolicy::{Checked, Ignored, Required, SealedOnly};
    use Verdict::{Broken, NotSealed, NotSealedAnyMore, Taken};
    let kinds: [Kind; 5] = [
        ("not sealed", || Left::new(false), [Taken, NotSealed, NotSealed, Taken]),
        ("sealed", || Left::new(true), [Taken, Taken, Taken, Taken]),
        ("broken", || Left::new(true).broken(), [Broken, Broken, Broken, Taken]),
        ("opened", || Left::new(true).open(), [Taken, Taken, NotSealedAnyMore, Taken]),
        // Its tables are compared with nothing: they have changed since.
        ("changed", || Left::new(true).open().broken(), [Taken, Taken, NotSealedAnyMore, Taken]),
    ];
    for (kind, make, due) in kinds {
        for (policy, due) in [Checked, Required, SealedOnly, Ignored].into_iter().zip(due) {
            assert_eq!(verdict(&make(), policy), due, "{kind}, {policy:?}");
        }
    }
}

#[test]
fn the_refusal_says_what_became_of_the_seal() {
    let refused = |left: Left| left.revive(SealPolicy::SealedOnly).err().unwrap().to_string();
    assert_eq!(refused(Left::new(false)), "the handover is not sealed");
    assert_eq!(
        refused(Left::new(true).open()),
        "the handover is not sealed any more: a successor found it whole and opened it"
    );
}

#[test]
fn a_survey_tells_sealed_from_opened() {
    let sealed = Left::new(true);
    let (surveyed, findings) = sealed.survey();
    let seal = surveyed.header.unwrap().seal;
    assert!(findings.is_empty() && surveyed.sealed > 0 && seal.info().is_some());
    let (surveyed, findings) = sealed.open().survey();
    assert_eq!((findings.len(), surveyed.sealed), (0, 0));
    assert_eq!(surveyed.header.unwrap().seal, SealState::Opened);
}

#[test]
fn another_version_is_refused_with_the_one_that_is_read() {
    let left = Left::new(true);
    left.put(8, *b"-v1\0\0\0\0\0");
    let name: Vec<u8> =
        left.words()[..2].iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
    assert_eq!(name, b"heirloom-v1\0\0\0\0\0");
    assert_eq!(left.fault(), (0, Fault::Version { found: 1, known: 2 }));
    let text = left.revive(SealPolicy::Ignored).err().unwrap().to_string();
    assert!(text.contains("version 1 is not known, version 2 is"), "{text}");
}

#[test]
fn a_turn_to_neither_half_is_refused_by_its_word() {
    for word in [[0; 8], *b"half-tw\0", *b"half-six", [0xff; 8]] {
        let left = Left::new(false);
        left.put(216, word);
        let found = u64::from_le_bytes(word);
        assert_eq!(left.fault(), (216, Fault::Magic { found }));
    }
}

/// Kernels that go on with the page of another, whatever is in the half that does not hold.
#[test]
fn a_page_goes_on_half_by_half() {
    let left = Left::new(true);
    for generation in 1..8 {
        let next = Heirloom::<&Ram>::revive_memory(
            memory(&left.ram, FRAMES),
            left.entry,
            &format!("kernel {generation}"),
            SealPolicy::Required,
        );
        let next = next.unwrap();
        assert_eq!((next.generation(), next.entry()), (generation, left.entry));
        let before = format!("kernel {}", generation - 1);
        let before = if generation == 1 { "first" } else { &before };
        assert_eq!(next.predecessor().unwrap().as_str(), before);
        let (half, other) =
            if generation % 2 == 1 { (b"half-two", 24) } else { (b"half-one", 120) };
        let turn = left.words()[216 / 8].load(Relaxed);
        assert_eq!(turn, u64::from_ne_bytes(*half));
        // What the other half says does not count.
        for word in &left.words()[other / 8..(other + 96) / 8] {
            word.store(generation.wrapping_mul(0x9e37_79b9_7f4a_7c15), Relaxed);
        }
        let (surveyed, findings) = left.survey();
        assert_eq!(findings, []);
        assert_eq!(surveyed.header.unwrap().seal, SealState::Opened);
    }
}

#[test]
fn a_longer_page_is_taken_and_told() {
    let left = Left::new(false);
    let word = |offset: usize| left.words()[offset / 8].load(Relaxed).to_ne_bytes();
    let mut page_shift_and_size = word(16);
    page_shift_and_size[4..].copy_from_slice(&512_u32.to_le_bytes());
    left.put(16, page_shift_and_size);
    let covered: Vec<u8> = (0..112).step_by(8).flat_map(word).collect();
    left.put(112, xxhash_rust::xxh3::xxh3_64(&covered).to_le_bytes());
    let (surveyed, findings) = left.survey();
    assert_eq!(findings, []);
    assert!(surveyed.header.unwrap().longer);
    let refused = HeaderPage::reopen(left.words(), left.header).err();
    let fault = Fault::Length { expected: 280, found: 512 };
    let at = left.header;
    assert_eq!(
        refused,
        Some(heirloom_kho::Error::Table(TableError {
            table: Table::Header,
            at,
            offset: 20,
            fault
        }))
    );
    left.revive(SealPolicy::Checked).unwrap();
}
