//! What went wrong last: remembered whole, told by number and by text.

use core::ffi::{c_char, c_int, c_void};
use core::fmt::{self, Write};
use core::ptr::NonNull;

use crate::error::heirloom_error;

/// Why a call failed.
#[derive(Clone, Copy)]
pub(crate) enum Failure {
    /// An argument is not as it must be: which, and why.
    Argument { name: &'static str, error: heirloom_error },
    /// The caller's room is too small.
    TooSmall { needed: usize, given: usize },
    /// heirloom refused.
    Heirloom(::heirloom::Error),
    /// The arena did.
    #[cfg(feature = "std")]
    Arena(::heirloom::arena::ArenaError),
    /// What the predecessor passed on is not sound.
    #[cfg(feature = "std")]
    Jump(::heirloom::jump::JumpError),
    /// The operating system refused a call: what it said.
    #[cfg(feature = "std")]
    System(system::Refusal),
}

impl Failure {
    fn number(&self) -> c_int {
        let code = match self {
            Self::Argument { error, .. } => return *error as c_int,
            Self::TooSmall { .. } => return heirloom_error::TooSmall as c_int,
            Self::Heirloom(error) => error.code(),
            #[cfg(feature = "std")]
            Self::Arena(error) => error.code(),
            #[cfg(feature = "std")]
            Self::Jump(error) => error.code(),
            #[cfg(feature = "std")]
            Self::System(_) => return heirloom_error::System as c_int,
        };
        c_int::from(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument { name, error } => {
                let text = crate::error::heirloom_strerror(*error as c_int);
                // SAFETY: a text of the program's, which ends with a zero byte.
                let text = unsafe { core::ffi::CStr::from_ptr(text) };
                write!(f, "{name}: {}", text.to_str().unwrap_or_default())
            }
            Self::TooSmall { needed, given } => {
                write!(f, "{needed} bytes are needed, there is room for {given}")
            }
            Self::Heirloom(error) => error.fmt(f),
            #[cfg(feature = "std")]
            Self::Arena(error) => error.fmt(f),
            #[cfg(feature = "std")]
            Self::Jump(error) => error.fmt(f),
            #[cfg(feature = "std")]
            Self::System(refusal) => refusal.fmt(f),
        }
    }
}

impl From<::heirloom::Error> for Failure {
    fn from(error: ::heirloom::Error) -> Self {
        Self::Heirloom(error)
    }
}

impl From<::heirloom::slab::Error> for Failure {
    fn from(error: ::heirloom::slab::Error) -> Self {
        Self::Heirloom(error.into())
    }
}

impl From<::heirloom::folio::Error> for Failure {
    fn from(error: ::heirloom::folio::Error) -> Self {
        Self::Heirloom(error.into())
    }
}

impl From<::heirloom::kho::Error> for Failure {
    fn from(error: ::heirloom::kho::Error) -> Self {
        Self::Heirloom(error.into())
    }
}

#[cfg(feature = "std")]
impl From<::heirloom::arena::ArenaError> for Failure {
    fn from(error: ::heirloom::arena::ArenaError) -> Self {
        Self::Arena(error)
    }
}

#[cfg(feature = "std")]
impl From<::heirloom::jump::JumpError> for Failure {
    fn from(error: ::heirloom::jump::JumpError) -> Self {
        Self::Jump(error)
    }
}

/// What an operating system says, which has no end: as much of it as there is room for.
#[cfg(feature = "std")]
mod system {
    use core::fmt::{self, Write};

    use super::Failure;

    const BYTES: usize = 160;

    #[derive(Clone, Copy)]
    pub(crate) struct Refusal {
        text: [u8; BYTES],
        length: usize,
    }

    impl Write for Refusal {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = self.text.get_mut(self.length..).unwrap_or(&mut []);
            let most = text.len().min(room.len());
            let part = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            for (byte, of) in room.iter_mut().zip(text.bytes().take(part)) {
                *byte = of;
            }
            self.length += part;
            Ok(())
        }
    }

    impl fmt::Display for Refusal {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let text = self.text.get(..self.length).unwrap_or(&[]);
            f.write_str(str::from_utf8(text).unwrap_or_default())
        }
    }

    impl Failure {
        /// Says that the system refused a call.
        pub(crate) fn system(call: &str, error: &std::io::Error) -> Self {
            let mut refusal = Refusal { text: [0; BYTES], length: 0 };
            // It cuts what has no room, and fails never.
            let _ = write!(refusal, "{call}: {error}");
            Self::System(refusal)
        }
    }
}

/// The last failure: of each thread.
#[cfg(feature = "std")]
mod last {
    use std::cell::Cell;

    use super::Failure;

    std::thread_local! {
        // No value with a destructor, so it is there as long as the thread, and in a signal handler.
        static LAST: Cell<Option<Failure>> = const { Cell::new(None) };
    }

    pub(super) fn set(failure: Failure) {
        let _ = LAST.try_with(|last| last.set(Some(failure)));
    }

    pub(super) fn get() -> Option<Failure> {
        LAST.try_with(Cell::get).ok().flatten()
    }
}

/// The last failure: of any CPU. Nothing waits for the lock, so that an interrupt handler that comes in
/// the middle finds it taken, and its failure is not remembered.
#[cfg(not(feature = "std"))]
mod last {
    use super::Failure;

    static LAST: spin::Mutex<Option<Failure>> = spin::Mutex::new(None);

    pub(super) fn set(failure: Failure) {
        if let Some(mut last) = LAST.try_lock() {
            *last = Some(failure);
        }
    }

    pub(super) fn get() -> Option<Failure> {
        LAST.try_lock().and_then(|last| *last)
    }
}

/// Remembers a failure. Returns what a call that returns `int` returns for it.
#[cold]
#[inline(never)]
pub(crate) fn failed(failure: Failure) -> c_int {
    let number = failure.number();
    last::set(failure);
    if cfg!(feature = "std") { number } else { -crate::error::heirloom_errno(number) }
}

/// Returns what a call returns that returns `int`.
pub(crate) fn status(result: Result<(), Failure>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(failure) => failed(failure),
    }
}

/// Returns what a call returns that returns memory.
#[inline]
pub(crate) fn pointer(result: Result<NonNull<u8>, impl Into<Failure>>) -> *mut c_void {
    match result {
        Ok(pointer) => pointer.as_ptr().cast(),
        Err(error) => {
            failed(error.into());
            core::ptr::null_mut()
        }
    }
}

/// Returns the number (`enum heirloom_error`) of what went wrong last: on this thread, or, in a kernel, on
/// any CPU. A call that succeeds does not change it. 0 if nothing went wrong yet.
///
/// Context: any.
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_last_error() -> c_int {
    last::get().map_or(0, |failure| failure.number())
}

/// Writes what went wrong last, in detail, as a text that ends with a zero byte: which object, where, what was
/// expected and what was found. See heirloom_last_error().
///
/// @return the bytes of the whole text without the zero byte, as `snprintf` does: if it is not less than
/// `bytes`, the text was cut short. 0 if nothing went wrong yet.
///
/// Context: any. Allocates nothing.
///
/// # Safety
/// `text` has room for `bytes` bytes; it may be null if `bytes` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_error_text(text: *mut c_char, bytes: usize) -> usize {
    // SAFETY: the caller's promise.
    let mut room = unsafe { Room::new(text, bytes) };
    if let Some(failure) = last::get() {
        // It counts what has no room, and fails never.
        let _ = write!(room, "{failure}");
    }
    room.end()
}

/// A C text that is being written.
pub(crate) struct Room {
    at: *mut u8,
    bytes: usize,
    needed: usize,
}

impl Room {
    /// # Safety
    /// `text` has room for `bytes` bytes as long as the value lives, or one of them is null or 0.
    pub(crate) unsafe fn new(text: *mut c_char, bytes: usize) -> Self {
        let bytes = if text.is_null() { 0 } else { bytes };
        Self { at: text.cast(), bytes, needed: 0 }
    }

    /// Ends the text. Returns how many bytes the whole of it has.
    pub(crate) fn end(self) -> usize {
        if let Some(most) = self.bytes.checked_sub(1) {
            // SAFETY: within the room (`new`).
            unsafe { self.at.add(self.needed.min(most)).write(0) };
        }
        self.needed
    }
}

impl Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.saturating_sub(1).saturating_sub(self.needed);
        let part = text.len().min(room);
        if part > 0 {
            // SAFETY: `part` bytes behind `needed` are within the room (`new`), and the text is another's.
            unsafe { self.at.add(self.needed).copy_from_nonoverlapping(text.as_ptr(), part) };
        }
        self.needed = self.needed.saturating_add(text.len());
        Ok(())
    }
}
