//! Repeats without end: no leak, no drift.

use heirloom::folio::FrameType;
use heirloom::kho::{Handle, Parts};
use heirloom::restore::{Entry, Error, Records};
use heirloom::slab::{CacheSpec, TypedCache, persist};
use heirloom_testkit::Rng;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::common::{
    Kernel, PAGE, State, World, finish_freeing, free_area, free_folio, free_frames, free_run,
    keep_area, keep_buffer, keep_folio, keep_run, stamp_at, stamped, stamped_at, unpublish_all,
};

const GENERATIONS: u64 = 200;
const FILES: usize = 60;
pub(super) const PLAIN: CacheSpec = CacheSpec::new("plain", 88);

/// A file of this kernel's; typed, in a preserving cache, so that the successor finds all.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct File {
    pub(super) handle: [u8; 16],
    bytes: u64,
    pub(super) seed: u64,
}
persist!(File { handle, bytes, seed });

/// A file as the list of records has it.
type Listed = [u64; 2];

pub(super) fn make(kernel: &Kernel<'_>, rng: &mut Rng, seed: u64) -> File {
    let mut pick = |limit: u64| rng.below(limit);
    let kind = pick(8);
    let bytes = match kind {
        0 => PAGE << pick(5),
        1 => PAGE * (1 + pick(40)),
        2 | 3 => 1 + pick(4000),
        4 | 5 => PAGE + pick(20 * PAGE),
        6 => PAGE * (1 + pick(6)),
        _ => 88,
    };
    let size = usize::try_from(bytes).unwrap();
    let handle = match kind {
        0 => keep_folio(kernel, (bytes / PAGE).trailing_zeros() as u8, seed),
        1 => keep_run(kernel, bytes / PAGE, seed),
        2 | 4 => keep_buffer(kernel, size, false, seed),
        3 | 5 => keep_buffer(kernel, size, true, seed),
        6 => keep_area(kernel, bytes / PAGE, 0, seed),
        _ => {
            let ptr = kernel.slabs().cache(PLAIN).unwrap().alloc().unwrap();
            // SAFETY: in use, and nothing frees it meanwhile.
            let handle = unsafe { kernel.preserve(ptr) }.unwrap();
            let Ok(Parts::Object { addr, .. }) = handle.parts() else { panic!("{handle:?}") };
            stamp_at(kernel, addr, size, seed);
            Ok(handle)
        }
    };
    File { handle: handle.unwrap().into(), bytes, seed }
}

fn take(kernel: &Kernel<'_>, file: &File, keep: bool) {
    try_take(kernel, file, keep).unwrap();
}

/// Claims a file, checks every byte, and keeps or frees it.
pub(super) fn try_take(kernel: &Kernel<'_>, file: &File, keep: bool) -> Result<(), Error> {
    let (handle, seed) = (Handle::from(file.handle), file.seed);
    match handle.parts().unwrap() {
        Parts::Folio(_) => {
            let folio = kernel.claim_folio(handle)?;
            assert!(stamped(folio.bytes(), seed));
            if !keep {
                free_folio(folio);
            }
        }
        Parts::Run(_) => {
            let run = kernel.claim_run(handle)?;
            assert!(stamped(run.bytes(), seed));
            if !keep {
                free_run(run);
            }
        }
        Parts::Buffer { addr, .. } | Parts::Object { addr, .. } => {
            let ptr = kernel.restore(handle)?;
            assert!(stamped_at(kernel, addr, file.bytes as usize, seed));
            if keep {
                // It survives as before.
                assert_eq!(kernel.handle_of(ptr), Ok(handle));
            } else {
                // SAFETY: claimed just now.
                unsafe { kernel.free(ptr) }.unwrap();
            }
        }
        Parts::Area(_) => {
            let area = kernel.claim_area(handle)?;
            if keep {
                area.into_raw();
            } else {
                free_area(kernel, area, seed);
            }
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

fn files<'k, 'w>(
    kernel: &'k Kernel<'w>,
) -> TypedCache<'k, File, &'w heirloom::folio::harness::Ram> {
    kernel.adopt_or_create::<File>("file", true).unwrap()
}

/// Leaves a list of the seeds of all files, under a name.
fn list(kernel: &Kernel<'_>, seeds: &[u64]) {
    let mut records = Records::<_, Listed>::new(kernel.memory()).unwrap();
    for seed in seeds {
        records.push(&[*seed, !seed]).unwrap();
    }
    let handle = Handle::new(Parts::Records { first: records.first(), entry: 16 }).unwrap();
    kernel.publish("files", &<[u8; 16]>::from(handle)).unwrap();
}

/// Takes everything over: the files for which `keep` says so stay; their seeds.
fn take_all(kernel: &Kernel<'_>, mut keep: impl FnMut(u64) -> bool) -> Vec<u64> {
    let root = kernel.claim_root("files").unwrap();
    let handle = Handle::from(<[u8; 16]>::try_from(root.bytes()).unwrap());
    let records = kernel.claim_records::<Listed>(handle).unwrap();
    let mut expected = Vec::new();
    records
        .for_each(|[seed, not]| {
            assert_eq!(seed, !not);
            expected.push(seed);
        })
        .unwrap();
    records.free().unwrap();
    kernel.slabs().adopt(PLAIN).unwrap();
    let (mut found, mut kept) = (Vec::new(), Vec::new());
    for file in files(kernel).claim_all() {
        found.push(file.seed);
        let stays = keep(file.seed);
        take(kernel, &file, stays);
        if stays {
            kept.push(file.seed);
            file.leak();
        }
    }
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    kept
}

/// Revives a kernel that frees everything: the frames that are then free, the tracker's nodes
/// and the caches' control blocks among them.
fn frames_without_anything(world: &World, entry: Entry) -> u64 {
    let saved = world.save();
    let kernel = world.revive(entry);
    take_all(&kernel, |_| false);
    assert_eq!(finish_freeing(&kernel), []);
    unpublish_all(&kernel);
    let state = State::of(&kernel);
    let mut own = state.audit.allocated;
    own[FrameType::Table as usize] = 0;
    assert_eq!((own, state.audit.reserved), ([0; 6], world.scratch().frames()));
    assert_eq!(state.inherited, []);
    let tables = state.audit.allocated[FrameType::Table as usize];
    drop(kernel);
    world.load(&saved);
    state.free + tables
}

#[test]
fn repeats_without_end() {
    let world = World::new(4096);
    let mut rng = Rng::new(0x6865_6972);
    let mut next = 0;
    let mut kernel = world.boot();
    let all = free_frames(&kernel)
        + State::of(&kernel).audit.allocated[FrameType::Table as usize]
        + kernel.memory().preserved().counts().nodes();
    let mut seeds = Vec::new();
    for generation in 0..GENERATIONS {
        assert_eq!(kernel.generation(), generation);
        if generation > 0 {
            let mut half = rng.next();
            seeds = take_all(&kernel, |_| {
                half = half.rotate_left(1);
                half & 1 == 0
            });
            assert_eq!(finish_freeing(&kernel), []);
        }
        let files = files(&kernel);
        while seeds.len() < FILES {
            let file = make(&kernel, &mut rng, next);
            files.insert(file).unwrap().leak();
            seeds.push(next);
            next += 100;
        }
        list(&kernel, &seeds);
        if generation % 3 == 2 {
            kernel.seal().unwrap();
        }
        let entry = kernel.entry();
        drop(kernel);
        assert_eq!(frames_without_anything(&world, entry), all, "after generation {generation}");
        kernel = world.revive(entry);
    }
}
