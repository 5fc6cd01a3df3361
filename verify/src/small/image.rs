//! Memory and a value, copied and put back byte by byte.

use core::fmt;
use core::mem::{MaybeUninit, needs_drop};
use core::ptr::NonNull;

use heirloom::folio::DirectMap;
use heirloom::kho::Run;
use heirloom_testkit::TestMachine;

/// Bytes as they are, pointers and padding among them.
pub(super) type Bytes = Box<[MaybeUninit<u8>]>;

/// A stretch of a machine's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image {
    start: NonNull<MaybeUninit<u8>>,
    bytes: usize,
}

impl Image {
    /// All of a run, which the machine must cover.
    pub(super) fn new(machine: &TestMachine, run: Run) -> Self {
        Self { start: machine.ptr(run.addr()).cast(), bytes: run.bytes() as usize }
    }

    /// A copy.
    ///
    /// # Safety
    /// The machine is there still, and nothing refers to its memory meanwhile but by raw pointers.
    pub(super) unsafe fn save(&self) -> Bytes {
        let mut copy = Box::new_uninit_slice(self.bytes);
        let to: *mut MaybeUninit<u8> = copy.as_mut_ptr().cast();
        // SAFETY: the machine covers the bytes (`new`, and the caller's promise), and any bytes are
        // `MaybeUninit`s.
        unsafe {
            to.copy_from_nonoverlapping(self.start.as_ptr(), self.bytes);
            copy.assume_init()
        }
    }

    /// Puts a copy of this image back.
    ///
    /// # Safety
    /// As for [`Image::save`].
    pub(super) unsafe fn restore(&self, saved: &Bytes) {
        assert_eq!(saved.len(), self.bytes);
        // SAFETY: as many bytes as the machine covers.
        unsafe { self.start.copy_from_nonoverlapping(NonNull::from(&**saved).cast(), self.bytes) };
    }

    /// The words of `bytes` bytes from `skip` bytes on.
    ///
    /// # Safety
    /// As for [`Image::save`]; they are within the image, aligned to 8, and have been written.
    pub(super) unsafe fn words(&self, skip: usize, bytes: usize) -> &[u64] {
        assert!(skip.is_multiple_of(8) && skip + bytes <= self.bytes);
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts(self.start.add(skip).cast().as_ptr(), bytes / 8) }
    }
}

/// A place for a value that is copied out of it and put back.
pub(super) struct Place<T>(Box<MaybeUninit<T>>);

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").finish_non_exhaustive()
    }
}

impl<T> Place<T> {
    /// A place with this value in it.
    pub(super) fn new(value: T) -> Self {
        const { assert!(!needs_drop::<T>(), "a value that is copied must not have a destructor") };
        Self(Box::new(MaybeUninit::new(value)))
    }

    /// The value.
    pub(super) const fn get(&self) -> &T {
        // SAFETY: written in `new`; `save` and `restore` put back what was a value here.
        unsafe { self.0.assume_init_ref() }
    }

    /// Takes the value for another: what `f` makes of it.
    ///
    /// # Panics
    /// If `f` does; the place must not be used then.
    pub(super) fn replace(&mut self, f: impl FnOnce(T) -> T) {
        // SAFETY: as for `get`. It is not used before the next line puts another there.
        let value = unsafe { self.0.assume_init_read() };
        self.0.write(f(value));
    }

    /// A copy of its bytes.
    pub(super) fn save(&self) -> Bytes {
        let mut copy = Box::new_uninit_slice(size_of::<T>());
        let from: *const MaybeUninit<u8> = self.0.as_ptr().cast();
        let to: *mut MaybeUninit<u8> = copy.as_mut_ptr().cast();
        // SAFETY: so many bytes are there, and any are `MaybeUninit`s.
        unsafe {
            to.copy_from_nonoverlapping(from, size_of::<T>());
            copy.assume_init()
        }
    }

    /// Puts a copy back.
    ///
    /// # Safety
    /// It was saved from this place, and everything that the value refers to is as it was then.
    pub(super) unsafe fn restore(&mut self, saved: &Bytes) {
        assert_eq!(saved.len(), size_of::<T>());
        let to: *mut MaybeUninit<u8> = self.0.as_mut_ptr().cast();
        // SAFETY: so many bytes, which were a value here.
        unsafe { to.copy_from_nonoverlapping(saved.as_ptr(), size_of::<T>()) };
    }
}
