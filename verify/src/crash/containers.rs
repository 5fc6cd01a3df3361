//! Containers whose kernel ends before any store of theirs, or at any moment.
//!
//! A map, a vector and a log live in one memory. A kernel opens them and does one thing after another, each of which follows from
//! its number; it notes the number before. The next kernel opens them and finds what was done before the last number, or that
//! too. Then it frees all three, and nothing of them is left. Half of the time readers are in, and what is removed waits for them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use heirloom::Handle;
use heirloom::slab::persist;
use heirloom_collections::{Error, Log, LogWriter, Map, MapWriter, Pool, Vec as Vector};
use heirloom_testkit::{Kernel, Rng, TestMachine};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::journal::Journal;
use super::trial::End;
use super::{Bench, Failure, State, step};

/// What the root of a kernel with containers is called.
const ROOT: &str = "containers";
/// How much was done before what is stepped through, and how much is.
const BEFORE: u64 = 230;
const STEPPED: u64 = 90;
/// How much is done in a row beside readers, and without.
const STRETCH: u64 = 45;
/// Which number, of the first stretch, clears the map.
const CLEARED: u64 = BEFORE + 20;
/// How much is done at most before a process is killed.
const KILLED: u64 = 4000;

/// How often, of what.
#[derive(Clone, Copy, Debug)]
pub struct Containers {
    /// One store in so many; 1: all. In a build that counts stores.
    pub stride: u64,
    /// How many processes are killed, in any other build.
    pub kills: u64,
    /// The seed of the first; the next one's is one more.
    pub seed: u64,
}

/// An element that no one store writes.
#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Quad {
    words: [u64; 4],
}
persist!(Quad { words });

/// One thing that is done.
enum Act {
    Insert(u64, Vec<u8>),
    Remove(u64),
    Clear,
    Push(Quad),
    Pop,
    Set(u64, Quad),
    Append(Vec<u8>),
    PopFront,
}

/// Returns what is done as number `n`.
fn act(n: u64) -> Act {
    // Now and then, so that there is something to clear: among what is stepped through once beside readers, and once without.
    if [CLEARED, CLEARED + STRETCH].contains(&(n % 500)) {
        return Act::Clear;
    }
    let mut rng = Rng::new(n + 1);
    let quad = Quad { words: [rng.below(1 << 40); 4] };
    match rng.below(16) {
        0..6 => Act::Insert(rng.below(150), vec![n.to_le_bytes()[0]; rng.below(40) as usize]),
        6..8 => Act::Remove(rng.below(150)),
        8..10 => Act::Push(quad),
        10 => Act::Pop,
        11 => Act::Set(rng.below(20), quad),
        12..14 => Act::Append(vec![n.to_le_bytes()[0]; rng.below(3000) as usize]),
        _ => Act::PopFront,
    }
}

/// What the containers hold.
#[derive(Clone, PartialEq, Debug, Default)]
struct Model {
    map: BTreeMap<u64, Vec<u8>>,
    vector: Vec<Quad>,
    log: VecDeque<Vec<u8>>,
}

impl Model {
    /// Returns what they hold once everything before number `n` was done.
    fn before(n: u64) -> Self {
        let mut model = Self::default();
        (0..n).for_each(|n| model.act(n));
        model
    }

    fn act(&mut self, n: u64) {
        match act(n) {
            Act::Insert(key, value) => drop(self.map.insert(key, value)),
            Act::Remove(key) => drop(self.map.remove(&key)),
            Act::Clear => self.map.clear(),
            Act::Push(quad) => self.vector.push(quad),
            Act::Pop => drop(self.vector.pop()),
            Act::Set(index, quad) => {
                if let Some(element) = self.vector.get_mut(index as usize) {
                    *element = quad;
                }
            }
            Act::Append(record) => self.log.push_back(record),
            Act::PopFront => drop(self.log.pop_front()),
        }
    }
}

/// The containers, as one kernel has them.
struct Three<'p, 'm> {
    map: Map<'p, &'m TestMachine>,
    vector: Vector<'p, Quad, &'m TestMachine>,
    log: Log<'p, &'m TestMachine>,
}

type Of<'m> = Pool<'m, &'m TestMachine>;

impl<'p, 'm> Three<'p, 'm> {
    fn create(pool: &'p Of<'m>, kernel: &Kernel<'m>) -> Self {
        let (map, log) = (Map::create(pool, 7), Log::create(pool));
        let vector = Vector::create(pool);
        let (map, vector, log) =
            (map.expect("memory"), vector.expect("memory"), log.expect("memory"));
        let handles = [map.handle(), vector.handle(), log.handle()].map(<[u8; 16]>::from);
        kernel.publish(ROOT, handles.as_flattened()).expect("memory");
        Self { map, vector, log }
    }

    fn open(pool: &'p Of<'m>, kernel: &Kernel<'m>) -> Self {
        let root = kernel.claim_root(ROOT).expect("it was published");
        let (handles, _) = root.bytes().as_chunks::<16>();
        let [map, vector, log] = *handles else { panic!("three handles") };
        Self {
            map: Map::open(pool, Handle::from(map)).expect("the map is opened"),
            vector: Vector::open(pool, Handle::from(vector)).expect("the vector is opened"),
            log: Log::open(pool, Handle::from(log)).expect("the log is opened"),
        }
    }

    fn act(&mut self, n: u64) {
        done(act(n), &mut self.map, &mut self.vector, &mut self.log);
    }

    /// Does numbers `range` beside readers that are in all the time.
    fn act_beside(&mut self, range: std::ops::Range<u64>, before: impl Fn(u64)) {
        let (mut map, reader) = self.map.split().expect("memory");
        let (mut log, records) = self.log.split().expect("memory");
        let (_visit, _records) = (reader.enter(), records.enter());
        for n in range {
            before(n);
            done(act(n), &mut map, &mut self.vector, &mut log);
        }
    }

    fn model(&self) -> Model {
        let mut model = Model::default();
        let each = self.map.for_each(|entry| {
            let key = u64::from_le_bytes(entry.key().try_into().expect("eight bytes"));
            assert!(model.map.insert(key, entry.value().to_vec()).is_none(), "once each");
        });
        each.expect("the map is sound");
        assert_eq!(self.map.len(), model.map.len() as u64);
        self.vector.for_each(|quad| model.vector.push(*quad)).expect("the vector is sound");
        for record in self.log.records() {
            model.log.push_back(record.expect("the log is sound").1.to_vec());
        }
        model
    }
}

/// A map, or its writer.
trait Entries {
    fn put(&mut self, key: u64, value: &[u8]) -> Result<bool, Error>;
    fn take(&mut self, key: u64) -> Result<bool, Error>;
    fn take_all(&mut self) -> Result<(), Error>;
}

/// A log, or its writer.
trait Records {
    fn add(&mut self, record: &[u8]) -> Result<u64, Error>;
    fn take(&mut self) -> Result<bool, Error>;
}

macro_rules! written {
    ($($map:ident, $log:ident: $($life:lifetime)*;)*) => { $(
        impl<'m, $($life),*> Entries for $map<$($life,)* &'m TestMachine> {
            fn put(&mut self, key: u64, value: &[u8]) -> Result<bool, Error> {
                self.insert(&key.to_le_bytes(), value)
            }

            fn take(&mut self, key: u64) -> Result<bool, Error> {
                self.remove(&key.to_le_bytes())
            }

            fn take_all(&mut self) -> Result<(), Error> {
                self.clear()
            }
        }

        impl<'m, $($life),*> Records for $log<$($life,)* &'m TestMachine> {
            fn add(&mut self, record: &[u8]) -> Result<u64, Error> {
                self.append(record)
            }

            fn take(&mut self) -> Result<bool, Error> {
                self.pop_front()
            }
        }
    )* };
}
written! {
    Map, Log: 'p;
    MapWriter, LogWriter: 'w 'p;
}

fn done(
    act: Act,
    map: &mut impl Entries,
    vector: &mut Vector<'_, Quad, &TestMachine>,
    log: &mut impl Records,
) {
    let done = match act {
        Act::Insert(key, value) => map.put(key, &value).map(drop),
        Act::Remove(key) => map.take(key).map(drop),
        Act::Clear => map.take_all(),
        Act::Push(quad) => vector.push(quad),
        Act::Pop => vector.pop().map(drop),
        Act::Set(index, quad) => vector.set(index, quad).map(drop),
        Act::Append(record) => log.add(&record).map(drop),
        Act::PopFront => log.take().map(drop),
    };
    done.expect("there is memory for all of it");
}

/// Ends kernels with containers, and looks at what the next one finds.
///
/// # Errors
/// Where one ended, and how its successor did.
///
/// # Panics
/// In a process of its own, which ends by it.
pub fn containers(options: &Containers) -> Result<(), Failure> {
    let bench = Bench::new(None)?;
    let began = Instant::now();
    bench.machine.load(&bench.used);
    well(&bench, |machine, journal| {
        let kernel = machine.boot();
        {
            let pool = Pool::open(kernel.slabs()).expect("memory");
            let mut three = Three::create(&pool, &kernel);
            (0..BEFORE).for_each(|n| three.act(n));
        }
        machine.arena().leave(kernel.entry()).expect("the first page can be written");
        journal.note(BEFORE);
    })?;
    let state = bench.save();
    if step::COUNTING {
        stepped(&bench, &state, options, began)
    } else {
        killed(&bench, &state, options, began)
    }
}

/// Ends a kernel before each of its stores.
fn stepped(
    bench: &Bench,
    state: &State,
    options: &Containers,
    began: Instant,
) -> Result<(), Failure> {
    let run = |stop| {
        let child = bench.child(|machine, journal| {
            journal.note(BEFORE);
            live(machine, journal, BEFORE + STEPPED, Some(stop));
            journal.note(step::counted() << 32 | (BEFORE + STEPPED));
        })?;
        Ok::<_, Failure>(child.wait()?)
    };
    bench.load(state);
    if run(u64::MAX)? != End::WELL {
        return Err("a kernel with containers, not stopped".into());
    }
    let stores = bench.journal.noted() >> 32;
    let mut stops = 0;
    for stop in (0..=stores).step_by(usize::try_from(options.stride.max(1))?) {
        bench.load(state);
        let end = run(stop)?;
        let expected = if stop < stores { End::KILLED } else { End::WELL };
        let number = bench.journal.noted() & u64::from(u32::MAX);
        if end != expected {
            return Err(format!("before store {stop} of {stores}: {end:?}").into());
        }
        well(bench, |machine, _| look(machine, number)).map_err(|error| {
            format!("before store {stop} of {stores}, in number {number}: {error}")
        })?;
        stops += 1;
    }
    let seconds = began.elapsed().as_secs();
    println!("containers: {stores} stores, {stops} stops, 0 lost, 0 leaked ({seconds} s)");
    Ok(())
}

/// Kills kernels at any moment.
fn killed(
    bench: &Bench,
    state: &State,
    options: &Containers,
    began: Instant,
) -> Result<(), Failure> {
    let mut done = 0;
    for seed in options.seed..options.seed + options.kills {
        let mut rng = Rng::new(seed);
        bench.load(state);
        bench.journal.note(BEFORE);
        let until = BEFORE + rng.below(KILLED);
        let turns = rng.below(1 << 11);
        let child = bench.child(|machine, journal| live(machine, journal, u64::MAX, None))?;
        let end = child.kill_behind(turns, || bench.journal.noted() >= until)?;
        let number = bench.journal.noted();
        if end != End::KILLED {
            return Err(format!("seed {seed}, in number {number}: {end:?}").into());
        }
        well(bench, |machine, _| look(machine, number))
            .map_err(|error| format!("seed {seed}, in number {number}: {error}"))?;
        done += number - BEFORE;
    }
    let (kills, seconds) = (options.kills, began.elapsed().as_secs());
    println!("containers: {kills} kills in {done} operations, 0 lost, 0 leaked ({seconds} s)");
    Ok(())
}

/// Runs a kernel's process, which ends well.
fn well(bench: &Bench, run: impl FnOnce(&TestMachine, &Journal)) -> Result<(), Failure> {
    match bench.child(run)?.wait()? {
        End::WELL => Ok(()),
        end => Err(format!("the kernel ended with {end:?}").into()),
    }
}

fn revive(machine: &TestMachine) -> Kernel<'_> {
    let entry = machine.arena().entry().expect("the first page is sound").expect("an entry");
    machine.revive(entry)
}

/// A kernel opens the containers and does one thing after another.
fn live(machine: &TestMachine, journal: &Journal, until: u64, stop: Option<u64>) {
    let kernel = revive(machine);
    if let Some(stop) = stop {
        step::count(machine, stop);
    }
    let pool = Pool::open(kernel.slabs()).expect("memory");
    let mut three = Three::open(&pool, &kernel);
    for from in (BEFORE..until).step_by(STRETCH as usize) {
        let stretch = from..until.min(from + STRETCH);
        if ((from - BEFORE) / STRETCH).is_multiple_of(2) {
            for n in stretch {
                journal.note(n);
                three.act(n);
            }
        } else {
            three.act_beside(stretch, |n| journal.note(n));
        }
    }
}

/// A kernel finds what was done before a number, or that too; it frees all of it, and nothing is left.
fn look(machine: &TestMachine, number: u64) {
    let kernel = revive(machine);
    {
        let pool = Pool::open(kernel.slabs()).expect("memory");
        let three = Three::open(&pool, &kernel);
        let (mut model, found) = (Model::before(number), three.model());
        if found != model {
            model.act(number);
            assert_eq!(found, model, "number {number} is done, or it is not");
        }
        let Three { map, vector, log } = three;
        map.destroy().expect("the map is freed");
        vector.destroy().expect("the vector is freed");
        log.destroy().expect("the log is freed");
    }
    for cache in kernel.slabs().caches() {
        assert_eq!(cache.preserved().count(), 0, "{}", cache.name());
    }
    kernel.finish(|unclaimed| panic!("{unclaimed:?}")).expect("all is claimed");
    kernel.memory().audit().expect("memory is sound");
}
