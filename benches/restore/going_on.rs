//! How soon a successor can use what it goes on with: many objects in many caches.

use std::hint::black_box;

use criterion::Criterion;
use heirloom::kho::Handle;
use heirloom::restore::Entry;
use heirloom::slab::CacheSpec;
use heirloom_benches::kernels::{Kernel, Machine, Map, boot, machine, revive};
use heirloom_benches::{per_operation, row, time};

const CACHES: usize = 60;
const OBJECTS: usize = 1_500_000;

/// Each cache has its size: from 16 bytes to 488.
fn spec(name: &str, cache: usize) -> CacheSpec {
    CacheSpec::new(name, 16 + 8 * cache).preserving(true)
}

fn names() -> Vec<String> {
    (0..CACHES).map(|cache| format!("cache {cache}")).collect()
}

/// What a kernel left in its caches: its entry, and a handle of each object.
fn left(ram: &Machine, map: &Map, names: &[String]) -> (Entry, Vec<Handle>) {
    let kernel = boot(ram, map);
    let specs = names.iter().enumerate().map(|(cache, name)| spec(name, cache));
    let caches: Vec<_> = specs.map(|spec| kernel.slabs().cache(spec).expect("new")).collect();
    let object = |i: usize| {
        let object = caches[i % CACHES].alloc().expect("memory is free");
        kernel.handle_of(object).expect("a live object")
    };
    let handles = (0..OBJECTS).map(object).collect();
    (kernel.entry(), handles)
}

fn adopt(kernel: &Kernel<'_>, names: &[String]) {
    for (cache, name) in names.iter().enumerate() {
        kernel.slabs().adopt(spec(name, cache)).expect("sound");
    }
}

/// Claims these, and uses the last.
fn claim(kernel: &Kernel<'_>, handles: &[Handle]) {
    let claimed = handles.iter().map(|handle| kernel.restore(*handle).expect("once"));
    let last = claimed.last().expect("one at least");
    // SAFETY: an object that was claimed just now, and that nothing else uses.
    black_box(unsafe { last.read() });
}

fn resume(kernel: &Kernel<'_>, names: &[String]) {
    for (cache, name) in names.iter().enumerate() {
        kernel.slabs().resume(spec(name, cache)).expect("sound");
    }
}

/// Finds these, and uses the last.
fn find(kernel: &Kernel<'_>, handles: &[Handle]) {
    let found = handles.iter().map(|handle| kernel.find(*handle).expect("in use"));
    let last = found.last().expect("one at least");
    // SAFETY: an object that survived, and that nothing else uses.
    black_box(unsafe { last.read() });
}

/// How a kernel takes its caches over, and what is done then.
type Work = (fn(&Kernel<'_>, &[String]), fn(&Kernel<'_>, &[Handle]));

pub(crate) fn from_revive(c: &mut Criterion) {
    let (map, ram) = machine(16);
    let names = names();
    let mut rows = row(c, "1500000 objects in 60 caches, from revive to first use");
    let works: [(&str, Work); 4] = [
        ("resume all, use one", (resume, |kernel, handles| find(kernel, &handles[..1]))),
        ("resume all, look for each", (resume, find)),
        ("adopt all, claim one", (adopt, |kernel, handles| claim(kernel, &handles[..1]))),
        ("adopt all, claim each", (adopt, claim)),
    ];
    for (name, (take_over, work)) in works {
        rows.bench_function(name, |b| {
            b.iter_custom(|n| {
                per_operation(n, || {
                    let (entry, handles) = left(&ram, &map, &names);
                    let (took, _kernel) = time(|| {
                        let kernel = revive(&ram, &map, entry);
                        take_over(&kernel, &names);
                        work(&kernel, &handles);
                        kernel
                    });
                    (took, 1)
                })
            });
        });
    }
    rows.finish();
}
