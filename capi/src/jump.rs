//! The jump into a successor by `exec`, and what the successor finds.

use core::ffi::{c_char, c_int};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use ::heirloom::arena::Arena;
use ::heirloom::jump::{Inherited, Jump};

use crate::argument::some;
use crate::failure::{Failure, failed};
use crate::handover::heirloom_entry;
use crate::object::{heirloom, heirloom_arena};

/// Replaces this process by its successor, as `execvp` does: `file` is looked for in `PATH` if it has no slash, and `argv`
/// ends with null. The environment is passed on, with one variable more, by which heirloom_inherited() finds the
/// memory. Returns only if that failed: then nothing changed, and `h` goes on.
///
/// @return an error: HEIRLOOM_ERROR_SYSTEM, with the program and the reason in the text.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `file` and the texts of `argv` end with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_jump_exec(
    h: *mut heirloom,
    file: *const c_char,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { command(h, file, argv) } {
        Ok((jump, command)) => failed(Failure::system("exec", &jump.exec(command))),
        Err(failure) => failed(failure),
    }
}

/// Prepares the jump.
///
/// # Safety
/// As for heirloom_jump_exec().
unsafe fn command(
    h: *mut heirloom,
    file: *const c_char,
    argv: *const *const c_char,
) -> Result<(Jump, Command), Failure> {
    // SAFETY: the caller's promise.
    let this = unsafe { some("heirloom", h)?.as_ref() };
    let file = some("file", file.cast_mut())?;
    let mut next = some("argv", argv.cast_mut())?.as_ptr();
    // SAFETY: the caller's promise.
    let word = |text: *const c_char| unsafe { OsStr::from_bytes(CStr::from_ptr(text).to_bytes()) };
    let mut command = Command::new(word(file.as_ptr()));
    let mut first = true;
    loop {
        // SAFETY: the caller's promise: a null ends them.
        let text = unsafe { next.read() };
        if text.is_null() {
            break;
        }
        if first {
            command.arg0(word(text))
        } else {
            command.arg(word(text))
        };
        first = false;
        // SAFETY: what was read was not the last.
        next = unsafe { next.add(1) };
    }
    // SAFETY: the arena is closed after the object (contract of `heirloom_boot_arena`).
    let arena = unsafe { this.arena.as_ref() };
    Ok((Jump::new(&arena.arena, this.kernel.entry())?, command))
}

/// Returns the arena that the predecessor jumped with, to be closed by heirloom_arena_close(), and its entry. Once in
/// the life of the process, at the start of `main`, before anything else is opened.
///
/// @param found whether there is a predecessor; may be null.
/// @param entry for heirloom_revive_arena(); may be null: the entry is in the arena too.
/// @return null if there is no predecessor, and if what it passed on is not sound (HEIRLOOM_ERROR_JUMP_..., _ARENA_...):
/// `found` tells which.
///
/// # Safety
/// Nothing else in the process owns the descriptor that the predecessor passed on. `found` and `entry` are null, or
/// have room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_inherited(
    found: *mut bool,
    entry: *mut heirloom_entry,
) -> *mut heirloom_arena {
    // SAFETY: the caller's promise.
    let inherited = unsafe { Inherited::from_env() };
    if !found.is_null() {
        // SAFETY: the caller's promise.
        unsafe { found.write(!matches!(inherited, Ok(None))) };
    }
    let arena = match inherited {
        Ok(None) => return core::ptr::null_mut(),
        Ok(Some(inherited)) => {
            if !entry.is_null() {
                // SAFETY: the caller's promise.
                unsafe { entry.write(inherited.entry.into()) };
            }
            Arena::open(inherited.fd).map_err(Failure::from)
        }
        Err(error) => Err(error.into()),
    };
    heirloom_arena::made(arena)
}
