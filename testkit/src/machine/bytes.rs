//! What is in the memory of a machine: looked at, changed, copied.

#[cfg(target_os = "linux")]
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::Relaxed;

use heirloom::folio::DirectMap;
use heirloom::kho::{PhysAddr, Run};

#[cfg(target_os = "linux")]
use super::Backing;
use super::TestMachine;

/// What is in memory, while no kernel runs, or only reads.
impl TestMachine {
    fn bytes(&self) -> *mut [u8] {
        let start = self.ptr(self.span.addr());
        std::ptr::slice_from_raw_parts_mut(start.as_ptr(), self.span.bytes() as usize)
    }

    /// Returns how often an address was asked for: once at least for every page of a table that is read,
    /// and every block that is written. A measure of the work that does not depend on the speed of the
    /// machine that this one is in.
    pub fn looks(&self) -> u64 {
        self.looks.as_ref().map_or(0, |looks| looks.load(Relaxed))
    }

    pub(super) fn look(&self, count: u64) {
        if let Some(looks) = &self.looks {
            looks.fetch_add(count, Relaxed);
        }
    }

    /// Returns the address of frame `n` of the memory, round and round.
    pub fn frame(&self, n: u64) -> PhysAddr {
        self.span.start().add(n % self.span.frames()).addr()
    }

    /// Returns a copy of all memory; of the file, if processes share it.
    ///
    /// # Panics
    /// If the file cannot be read.
    pub fn save(&self) -> Vec<u8> {
        #[cfg(target_os = "linux")]
        if let Backing::Shared(_, file) = &self.memory {
            let bytes = file.metadata().expect("a file").len();
            let mut image = vec![0; bytes as usize];
            file.read_exact_at(&mut image, 0).expect("all of a file");
            return image;
        }
        // SAFETY: the span, which the machine covers; callers run no kernel meanwhile.
        unsafe { &*self.bytes() }.to_vec()
    }

    /// Puts a copy back.
    ///
    /// # Panics
    /// If it is a copy of another machine's memory, or the file cannot be written.
    pub fn load(&self, saved: &[u8]) {
        #[cfg(target_os = "linux")]
        if let Backing::Shared(_, file) = &self.memory {
            return file.write_all_at(saved, 0).expect("a file in memory");
        }
        // SAFETY: as for `save`.
        unsafe { &mut *self.bytes() }.copy_from_slice(saved);
    }

    /// Writes `bytes` from `addr` on, as far as that is memory.
    pub fn write(&self, addr: PhysAddr, bytes: &[u8]) {
        let start = self.span.addr().get();
        // SAFETY: as for `save`.
        let all = unsafe { &mut *self.bytes() };
        let Some(at) = addr.get().checked_sub(start).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        for (to, from) in all.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    /// Returns `bytes` bytes from `addr` on.
    ///
    /// # Panics
    /// If they are not in memory.
    pub fn read(&self, addr: PhysAddr, bytes: usize) -> &[u8] {
        let at = (addr.get() - self.span.addr().get()) as usize;
        // SAFETY: as for `save`; callers keep the slice no longer than until the next write.
        unsafe { &(&*self.bytes())[at..at + bytes] }
    }

    /// Returns the word at `addr`; 0 where there is no memory.
    pub fn word(&self, addr: PhysAddr) -> u64 {
        if !Run::covering(addr, 8).is_some_and(|run| self.span.covers(run)) {
            return 0;
        }
        let bytes = self.read(addr, 8).first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(bytes)
    }

    /// Writes the word at `addr`.
    pub fn put(&self, addr: PhysAddr, value: u64) {
        self.write(addr, &value.to_le_bytes());
    }

    /// Returns the words of `bytes` bytes at `addr`.
    pub fn words(&self, addr: PhysAddr, bytes: usize) -> Vec<u64> {
        (0..bytes.div_ceil(8) as u64)
            .map(|i| self.word(PhysAddr::new(addr.get() + i * 8)))
            .collect()
    }

    /// Turns one bit over.
    pub fn flip(&self, addr: PhysAddr, bit: usize) {
        let addr = PhysAddr::new(addr.get() + bit as u64 / 8);
        let byte = self.read(addr, 1)[0];
        self.write(addr, &[byte ^ 1 << (bit % 8)]);
    }
}
