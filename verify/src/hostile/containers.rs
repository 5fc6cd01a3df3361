//! Containers whose predecessor forged their words, beside others', which stay as they are.

use std::fs::File;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use heirloom::Handle;
use heirloom::kho::{Parts, PhysAddr};
use heirloom::slab::{Slabs, persist};
use heirloom_collections::{Error, Log, Map, Pool, Vec as Vector};
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Machine};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::copied::{self, Copied};

const SEED: u64 = 7;

/// How much a predecessor left.
pub(super) struct Size {
    pub(super) frames: u64,
    /// Entries, elements and records of each container.
    pub(super) entries: u64,
    pub(super) elements: u64,
    pub(super) records: u64,
    /// Values of the map are shorter than this.
    pub(super) value: u64,
}

/// How many sizes there are.
const HOW_MANY: usize = 2;

/// What a look at all of it costs little; and what has of each part more than one: buckets of several lines, segments of buckets
/// and of the log, chunks.
static SIZES: [Size; HOW_MANY] = [
    Size { frames: 384, entries: 84, elements: 600, records: 12, value: 90 },
    Size { frames: 768, entries: 1800, elements: 2500, records: 12, value: 9 },
];

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Pair {
    first: u64,
    second: u64,
}
persist!(Pair { first, second });

/// What the predecessor left: its memory, two containers of each kind, and where the objects of the first of each are.
struct Left {
    size: &'static Size,
    memory: File,
    tree: PhysAddr,
    directory: PhysAddr,
    forged: [Handle; 3],
    others: [Handle; 3],
    objects: Vec<(PhysAddr, usize)>,
    /// What the words of all containers are that are not zero: the links among them.
    words: Vec<u64>,
}

/// One word that is forged.
#[derive(Debug, Arbitrary)]
struct Forgery {
    object: u16,
    word: u16,
    value: Value,
}

#[derive(Debug, Arbitrary)]
enum Value {
    Zero,
    Flip(u8),
    Add(i8),
    /// One that is somewhere else.
    Other(u16),
    /// One that is somewhere else, with the tag that was there.
    Tagged(u16),
    Any(u64),
}

/// What is done with the containers once they are opened.
#[derive(Debug, Arbitrary)]
enum Act {
    Insert(u8),
    Remove(u8),
    Scan(u8),
    Push,
    Pop,
    Set(u16),
    Shrink,
    Append(u16),
    PopFront,
}

#[derive(Debug, Arbitrary)]
struct Attack {
    forgeries: Vec<Forgery>,
    acts: Vec<Act>,
    /// Which size, counted round and round.
    size: u8,
}

type Three<'p> =
    (Option<Map<'p, Copied>>, Option<Vector<'p, Pair, Copied>>, Option<Log<'p, Copied>>);

/// Containers whose words a predecessor forged: they are refused, or used as far as they can be, and change no others.
///
/// # Panics
/// If they changed others.
pub fn containers(data: &[u8]) {
    static LEFT: [OnceLock<Left>; HOW_MANY] = [const { OnceLock::new() }; HOW_MANY];
    let Ok(attack) = Attack::arbitrary(&mut Unstructured::new(data)) else { return };
    let which = usize::from(attack.size) % HOW_MANY;
    let left = LEFT[which].get_or_init(|| Left::new(&SIZES[which]));
    let slabs = left.revive(&attack.forgeries);
    let pool = Pool::open(&slabs).expect("there is memory");
    let mut three = open(&pool, left.forged);
    let others = open(&pool, left.others);
    for act in attack.acts.iter().take(64) {
        // (Refused, or not.)
        let _ = act.carry_out(&mut three);
    }
    let _ = three.0.map(Map::destroy);
    let _ = three.1.map(Vector::destroy);
    let _ = three.2.map(Log::destroy);
    // What was changed on the way is so still.
    check(&others, &SIZES[0]);
}

/// Makes a container of each kind.
pub(super) fn create<M: Machine>(pool: &Pool<'_, M>, size: &Size) -> [Handle; 3] {
    let mut map = Map::<M>::create(pool, SEED).expect("memory");
    let mut vector = Vector::create(pool).expect("memory");
    let mut log = Log::create(pool).expect("memory");
    for n in 0..size.entries {
        map.insert(&n.to_le_bytes(), &value(n, size)).expect("memory");
    }
    (0..size.elements).for_each(|n| vector.push(Pair { first: n, second: !n }).expect("memory"));
    (0..size.records).for_each(|n| assert_eq!(log.append(&record(n)).expect("memory"), n));
    [map.handle(), vector.handle(), log.handle()]
}

fn value(n: u64, size: &Size) -> Vec<u8> {
    vec![n.to_le_bytes()[0]; (n % size.value) as usize]
}

fn record(n: u64) -> Vec<u8> {
    vec![n.to_le_bytes()[0]; 3000]
}

fn open<'p>(pool: &'p Pool<'p, Copied>, handles: [Handle; 3]) -> Three<'p> {
    let [map, vector, log] = handles;
    (Map::open(pool, map).ok(), Vector::open(pool, vector).ok(), Log::open(pool, log).ok())
}

/// Looks at containers that nothing has forged.
fn check(three: &Three<'_>, size: &Size) {
    let (Some(map), Some(vector), Some(log)) = three else {
        panic!("what was not forged is opened")
    };
    assert_eq!((map.len(), vector.len()), (size.entries, size.elements));
    for n in 0..size.entries {
        let entry = map.get(&n.to_le_bytes()).expect("sound").expect("there");
        assert_eq!(entry.value(), value(n, size));
    }
    let mut n = 0;
    let each = vector.for_each(|pair| {
        assert_eq!(*pair, Pair { first: n, second: !n });
        n += 1;
    });
    each.expect("sound");
    let mut n = 0;
    for found in log.records() {
        let (number, bytes) = found.expect("sound");
        assert!(number == n && bytes == record(n));
        n += 1;
    }
    assert_eq!(n, size.records);
}

impl Act {
    fn carry_out(&self, three: &mut Three<'_>) -> Result<(), Error> {
        if let Some(map) = &mut three.0 {
            match *self {
                Self::Insert(n) => drop(map.insert(&u64::from(n).to_le_bytes(), &[n; 40])?),
                Self::Remove(n) => drop(map.remove(&u64::from(n).to_le_bytes())?),
                Self::Scan(at) => drop(map.scan(u64::from(at), |entry| {
                    let _ = (entry.key().iter().max(), entry.value().iter().max());
                })?),
                _ => (),
            }
        }
        if let Some(vector) = &mut three.1 {
            match *self {
                Self::Push => vector.push(Pair { first: 0, second: 0 })?,
                Self::Pop => drop(vector.pop()?),
                Self::Set(at) => drop(vector.set(u64::from(at), Pair { first: 1, second: 1 })?),
                Self::Shrink => vector.shrink()?,
                _ => (),
            }
        }
        if let Some(log) = &mut three.2 {
            match *self {
                Self::Append(bytes) => drop(log.append(&vec![7; usize::from(bytes % 9000)])?),
                Self::PopFront => drop(log.pop_front()?),
                _ => (),
            }
        }
        Ok(())
    }
}

/// Where the head is that a handle names.
pub(super) fn head(handle: Handle) -> PhysAddr {
    match handle.parts() {
        Ok(Parts::Object { addr, .. }) => addr,
        other => panic!("{other:?}"),
    }
}

impl Left {
    fn new(size: &'static Size) -> Self {
        let ranges = Ram::frames(size.frames);
        let slabs = Slabs::new(Ram::memory(&ranges).expect("memory")).expect("memory");
        let (forged, others) = {
            let pool = Pool::open(&slabs).expect("memory");
            (create(&pool, size), create(&pool, &SIZES[0]))
        };
        let owners = forged.map(|handle| head(handle).get() / 16);
        let (mut objects, mut words) = (Vec::new(), Vec::new());
        for cache in slabs.caches() {
            for (addr, _) in cache.preserved() {
                let word = |word: usize| {
                    let ptr = slabs.memory().machine().ptr(addr).cast::<u64>();
                    // SAFETY: an object of the cache, in use, and nothing has it.
                    u64::from_le(unsafe { ptr.add(word).read() })
                };
                let count = cache.object_size() / 8;
                if owners.contains(&(addr.get() / 16)) || owners.contains(&(word(0) >> 16)) {
                    objects.push((addr, count));
                }
                words.extend((0..count).map(word).filter(|word| *word != 0));
            }
        }
        words.sort_unstable();
        words.dedup();
        let run = ranges[0].0;
        let ptr = slabs.memory().machine().ptr(run.addr());
        // SAFETY: all of the machine's memory, and nothing else runs.
        let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), run.bytes() as usize) };
        let memory = copied::file(bytes);
        let tree = slabs.memory().preserved().tree_root().expect("containers are preserved");
        let directory = slabs.cache_directory();
        Self { size, memory, tree, directory, forged, others, objects, words }
    }

    /// Returns the kernel that goes on with it, once words were forged.
    fn revive(&self, forgeries: &[Forgery]) -> Slabs<Copied> {
        let ranges = Ram::frames(self.size.frames);
        let ram = Copied::of(&self.memory, ranges[0].0);
        for forgery in forgeries.iter().take(32) {
            let (addr, count) = self.objects[usize::from(forgery.object) % self.objects.len()];
            let other = |at: u16| self.words[usize::from(at) % self.words.len()];
            // SAFETY: a word of an object, which no kernel has yet.
            let word =
                unsafe { ram.ptr(addr).cast::<u64>().add(usize::from(forgery.word) % count) };
            // SAFETY: as above.
            let there = u64::from_le(unsafe { word.read() });
            let value = match forgery.value {
                Value::Zero => 0,
                Value::Flip(bit) => there ^ 1 << (bit % 64),
                Value::Add(number) => there.wrapping_add_signed(number.into()),
                Value::Other(at) => other(at),
                Value::Tagged(at) => other(at) << 9 >> 9 | there >> 55 << 55,
                Value::Any(value) => value,
            };
            // SAFETY: as above.
            unsafe { word.write(value.to_le()) };
        }
        let memory = ram.attach().expect("the same range");
        let (memory, _) = memory.take_over(self.tree).expect("the tree is sound");
        Slabs::revive(memory, self.directory).expect("the directory is sound")
    }
}

#[cfg(test)]
mod tests {
    use heirloom_collections::internal::kind;

    use super::*;

    #[test]
    fn containers_are_looked_at_whole_and_a_forged_word_refuses_one() {
        let left = Left::new(&SIZES[0]);
        let slabs = left.revive(&[]);
        let pool = Pool::open(&slabs).expect("memory");
        check(&open(&pool, left.forged), left.size);
        check(&open(&pool, left.others), &SIZES[0]);
        let heads = left.forged.map(head);
        let object = left.objects.iter().position(|(addr, _)| *addr == heads[0]).expect("there");
        // Its kind and version.
        let forgery = Forgery { object: object as u16, word: 0, value: Value::Flip(60) };
        let slabs = left.revive(&[forgery]);
        let pool = Pool::open(&slabs).expect("memory");
        assert!(open(&pool, left.forged).0.is_none());
    }

    #[test]
    fn the_larger_containers_have_of_each_part_more_than_one() {
        let left = Left::new(&SIZES[1]);
        let slabs = left.revive(&[]);
        let pool = Pool::open(&slabs).expect("memory");
        check(&open(&pool, left.forged), left.size);
        check(&open(&pool, left.others), &SIZES[0]);
        let machine = slabs.memory().machine();
        let of = |kind: u16| {
            let is = |(addr, _): &&(PhysAddr, usize)| {
                // SAFETY: an object that survived, and nothing has it.
                let word = u64::from_le(unsafe { machine.ptr(*addr).cast::<u64>().read() });
                word as u16 == kind && !left.forged.iter().any(|handle| head(*handle) == *addr)
            };
            left.objects.iter().filter(is).count()
        };
        // Lines beyond the first of a bucket; segments; chunks of the vector and of the log.
        assert!(of(kind::LINE) > 0 && of(kind::SEGMENT) > 1 && of(kind::CHUNK) > 4);
    }
}
