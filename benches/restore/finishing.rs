//! Telling what was not claimed, and letting it go or leaving it.

use std::time::Duration;

use criterion::Criterion;
use heirloom::folio::Disposition;
use heirloom::kho::{Block, Handle, Parts};
use heirloom::restore::Entry;
use heirloom_benches::kernels::{Kernel, Lie, Machine, Map, boot, machine, preserve, revive};
use heirloom_benches::{per_operation, row, time};

const COUNT: u64 = 1 << 20;

/// What a kernel left: its entry, and the folios.
fn left(ram: &Machine, map: &Map) -> (Entry, Vec<Block>) {
    let kernel = boot(ram, map);
    let folios = preserve(&kernel, map, Lie::Scattered, COUNT);
    (kernel.entry(), folios)
}

/// Claims every folio: it stays preserved.
fn claim(kernel: &Kernel<'_>, folios: &[Block]) {
    for block in folios {
        let handle = Handle::new(Parts::Folio(*block)).expect("a folio");
        kernel.claim_folio(handle).expect("once");
    }
}

/// The time of a successor's `finish` after `before`: it is to tell of so many folios.
fn finish(
    (map, ram): &(Map, Machine),
    entry: Entry,
    before: impl FnOnce(&Kernel<'_>),
    disposition: Disposition,
    told: usize,
) -> (Duration, Entry) {
    let kernel = revive(ram, map, entry);
    before(&kernel);
    let (took, finished) = time(|| kernel.finish(|_| disposition).expect("sound"));
    assert_eq!(finished.folios, told as u64, "each of them once");
    (took, kernel.entry())
}

pub(crate) fn finishing(c: &mut Criterion) {
    let mut rows = row(c, "finish, 1048576 scattered over 1 TiB");
    let machine = machine(1024);
    let (map, ram) = &machine;
    let mut kept = None;
    rows.bench_function("unclaimed, kept", |b| {
        let (entry, folios) = kept.get_or_insert_with(|| left(ram, map));
        b.iter_custom(|n| {
            per_operation(n, || {
                let (took, next) =
                    finish(&machine, *entry, |_| (), Disposition::Keep, folios.len());
                *entry = next;
                (took, 1)
            })
        });
    });
    rows.bench_function("unclaimed, freed", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (entry, folios) = left(ram, map);
                let (took, _) = finish(&machine, entry, |_| (), Disposition::Free, folios.len());
                (took, 1)
            })
        });
    });
    rows.bench_function("all claimed", |b| {
        b.iter_custom(|n| {
            per_operation(n, || {
                let (entry, folios) = left(ram, map);
                let claimed = |kernel: &Kernel<'_>| claim(kernel, &folios);
                (finish(&machine, entry, claimed, Disposition::Free, 0).0, 1)
            })
        });
    });
}
