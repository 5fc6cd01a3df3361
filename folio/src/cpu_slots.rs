//! Every CPU's slot, and what CPUs without one share, in the space that the caller provides.

use core::ptr::NonNull;

use crate::error::Error;
use crate::machine::CpuId;
use crate::percpu::CpuSlot;
use crate::predecessor::Tallies;
use crate::readers;

/// The slots of the CPUs that the space has room for.
///
/// ```text
/// | CpuSlot | CpuSlot | ... | Shared |
/// ```
pub(crate) struct CpuSlots {
    slots: NonNull<CpuSlot>,
    /// How many slots there are: CPUs from here on have none.
    count: usize,
    shared: NonNull<Shared>,
}

/// What CPUs share, on a cache line of its own, as a CPU's slot is.
#[repr(align(128))]
struct Shared {
    readers: readers::Word,
    tallies: Tallies,
}

impl CpuSlots {
    /// Returns how many bytes the slots of `cpus` CPUs take, with room to align them; saturating.
    pub(crate) const fn bytes(cpus: usize) -> usize {
        Self::aligned_bytes(cpus).saturating_add(align_of::<CpuSlot>())
    }

    /// Returns how many bytes they take once the space is aligned.
    const fn aligned_bytes(cpus: usize) -> usize {
        const { assert!(align_of::<CpuSlot>() >= align_of::<Shared>()) };
        cpus.saturating_mul(size_of::<CpuSlot>()).saturating_add(size_of::<Shared>())
    }

    /// Lays slots for up to `cpus` CPUs out in `space`: for as many as fit.
    ///
    /// # Errors
    /// [`Error::BadSpace`]: not even one fits.
    ///
    /// # Safety
    /// `space` is valid for reads and writes as long as the value lives, through this pointer,
    /// and nothing else uses it.
    pub(crate) unsafe fn install(cpus: usize, space: NonNull<[u8]>) -> Result<Self, Error> {
        let (count, aligned) = Self::fitting(cpus, space)?;
        let slots = aligned.cast::<CpuSlot>();
        for cpu in 0..count {
            // SAFETY: `count` slots fit the aligned space, which is ours to write.
            unsafe { CpuSlot::install(slots.add(cpu)) };
        }
        // SAFETY: behind the slots, within the space.
        let shared = unsafe { slots.add(count) }.cast::<Shared>();
        // SAFETY: ours to write; aligned as the slots are, or less.
        unsafe { shared.write(Shared { readers: readers::Word::new(), tallies: Tallies::new() }) };
        Ok(Self { slots, count, shared })
    }

    /// Returns how many of `cpus` CPUs `space` has room for, and its aligned start.
    fn fitting(cpus: usize, space: NonNull<[u8]>) -> Result<(usize, NonNull<u8>), Error> {
        let one = Self::aligned_bytes(cpus.min(1));
        let aligned = align_space(space, one, align_of::<CpuSlot>())?;
        let skipped = aligned.addr().get() - space.cast::<u8>().addr().get();
        let more = (space.len() - skipped - one) / size_of::<CpuSlot>();
        Ok((cpus.min(more.saturating_add(1)), aligned))
    }

    /// Returns how many CPUs have a slot.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Returns the slot of `cpu`.
    ///
    /// # Safety
    /// `cpu` has a slot: it is one of [`CpuSlots::cpus`], or [`CpuSlots::with_slot`] let it pass.
    #[inline]
    pub(crate) unsafe fn slot(&self, cpu: CpuId) -> &CpuSlot {
        debug_assert!(cpu.index() < self.count);
        // SAFETY: `install` wrote `count` slots here; shared references are all that is ever made
        // of them.
        unsafe { self.slots.add(cpu.index()).as_ref() }
    }

    /// Returns the CPU that a call was pinned to, if it has a slot.
    #[inline]
    pub(crate) fn with_slot(&self, cpu: Option<CpuId>) -> Option<CpuId> {
        cpu.filter(|cpu| cpu.index() < self.count)
    }

    /// Iterates over the CPUs that have a slot.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        CpuId::all(self.count)
    }

    /// Iterates over the CPUs that have a slot, and their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CpuId, &CpuSlot)> {
        // SAFETY: below the count.
        self.cpus().map(|cpu| (cpu, unsafe { self.slot(cpu) }))
    }

    /// Asks every CPU to give back what it keeps, which it does in its next call.
    pub(crate) fn request_drain(&self) {
        self.iter().for_each(|(_, slot)| slot.request_drain());
    }

    /// Returns the readers' word for those without a slot.
    #[inline]
    pub(crate) fn shared_readers(&self) -> &readers::Word {
        // SAFETY: `install` wrote it; shared references are all that is ever made of it.
        &unsafe { self.shared.as_ref() }.readers
    }

    /// Returns the tallies of calls without a slot, and of what was put back.
    pub(crate) fn shared_tallies(&self) -> &Tallies {
        // SAFETY: as in `shared_readers`.
        &unsafe { self.shared.as_ref() }.tallies
    }
}

/// Returns the first address in `space` aligned to `align`, if `needed` bytes follow it.
///
/// # Errors
/// [`Error::BadSpace`].
pub(crate) fn align_space(
    space: NonNull<[u8]>,
    needed: usize,
    align: usize,
) -> Result<NonNull<u8>, Error> {
    let start = space.cast::<u8>();
    let skip = start.align_offset(align);
    match skip.checked_add(needed) {
        // SAFETY: `skip` bytes are within `space`, which is one allocation.
        Some(end) if end <= space.len() => Ok(unsafe { start.add(skip) }),
        _ => Err(Error::BadSpace { needed, given: space.len(), align }),
    }
}
