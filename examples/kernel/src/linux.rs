//! Linux before and behind this kernel: what it left goes on to the next one, and what is left for it.
//!
//! ```text
//!  Linux ── LUO, kho_test ──> this kernel compares, and passes on ──> ... ──> Linux
//!                             adds a session of its own, counts kernels
//! ```

use heirloom::folio::Request;
use heirloom::kho::linux::{
    FileList, KhoTest, Known, Luo, Memfd, MemfdFolio, MemfdWriter, Opaque, Part, Text,
};
use heirloom::restore::Inherited;
use heirloom::{DirectMap, Error, Heirloom, Order, PAGE_SIZE};

use crate::machine::Port;
use crate::pattern::{FILE, FILES, fill_file, is_file, is_hole, is_hollow, length};
use crate::takeover::Found;
use crate::work::bytes;

// ANCHOR: pass_on
/// Compares what Linux left, this kernel's predecessor or one before it, and passes it on. Counts this kernel.
///
/// # Safety
/// One CPU, and no interrupt that comes back.
pub unsafe fn pass_on(kernel: &Heirloom<Port>, found: &mut Found) -> Result<(), Error> {
    // SAFETY: the caller's promise: nothing writes what is preserved meanwhile.
    let pages = unsafe { Inherited::new(kernel.memory()) };
    for name in [Luo::NAME, KhoTest::NAME] {
        let Some(subtree) = kernel.subtree(name)? else { continue };
        match Known::read(&pages, &subtree)? {
            Some(Known::Luo(luo)) => compare(&pages, &luo, found)?,
            Some(Known::KhoTest(test)) => test.verify(&pages)?,
            _ => {}
        }
        // What files share is a number of Linux's own test, and leads nowhere.
        // SAFETY: as above.
        unsafe { kernel.pass_on(name, |unread| unread.what == Opaque::Flb) }?;
    }
    // SAFETY: as above.
    unsafe { kernel.count_kexec(crate::layout::BUILD) }?;
    Ok(())
}
// ANCHOR_END: pass_on

/// Compares the memfds of all sessions: what a file is made of is its token.
fn compare(pages: &Inherited<'_, Port>, luo: &Luo, found: &mut Found) -> Result<(), Error> {
    for session in luo.sessions(pages)? {
        for file in session?.files(pages)? {
            let file = file?;
            let Some(memfd) = file.memfd(pages)? else { continue };
            let mut sound = memfd.size == length(file.token, FILE) as u64;
            memfd.for_each_part(pages, |part| {
                sound &= match part {
                    // SAFETY: preserved, and nothing writes it.
                    Part::Data { offset, bytes: length, addr } => unsafe {
                        is_file(file.token, offset, bytes(Port.ptr(addr), length as usize))
                    },
                    Part::Hole { offset, bytes, .. } => is_hollow(file.token, offset, bytes),
                };
                Ok::<_, Error>(())
            })?;
            found.file(file.token, sound, memfd.size);
        }
    }
    Ok(())
}

// ANCHOR: leave
/// Leaves Linux a session of files, beside those that it left itself, if it did.
///
/// # Safety
/// One CPU, and no interrupt that comes back.
pub unsafe fn leave(kernel: &Heirloom<Port>, first: u64) -> Result<(), Error> {
    let ids = first..first + FILES;
    let size = |id| length(id, FILE) as u64;
    let needed = ids.clone().map(|id| MemfdWriter::pages_for(size(id).div_ceil(PAGE_SIZE as u64)));
    let lists = FileList::pages_for(FILES) + Luo::pages_for_session() + 1;
    let mut blank = kernel.blank_pages(needed.sum::<u64>() + lists)?;
    let mut files = FileList::new();
    for id in ids {
        let mut memfd = MemfdWriter::new(&mut blank, size(id))?;
        // Folios of one page, and holes; or of four pages.
        let order = Order::new(id as u8 % 2 * 2).unwrap_or_default();
        for at in (0..size(id)).step_by(order.bytes() as usize) {
            let index = at / PAGE_SIZE as u64;
            if order == Order::ZERO && is_hole(id, index) {
                continue;
            }
            let mut folio = kernel.memory().alloc_folio(Request::new(order).zeroed())?;
            let length = order.bytes().min(size(id) - at) as usize;
            fill_file(id, at, &mut folio.bytes_mut()[..length]);
            let block = folio.preserve().map_err(|refused| refused.error)?.into_raw();
            memfd.push(&mut blank, MemfdFolio::with_contents(block, index))?;
        }
        let kind = Text::new(Memfd::COMPATIBLE).expect("short");
        files.push(&mut blank, kind, memfd.finish().get(), id)?;
    }
    // SAFETY: the caller's promise: nothing writes what is preserved meanwhile.
    let pages = unsafe { Inherited::new(kernel.memory()) };
    let there = kernel.subtree(Luo::NAME)?;
    let mut luo = match there {
        Some(there) => Luo::read(&pages, there.addr, there.size.unwrap_or(0))?,
        None => Luo::create(blank.next().expect("one more than files need"), 1),
    };
    luo.add_session(&pages, &mut blank, Text::new("kernel").expect("short"), &files)?;
    if there.is_none() {
        kernel.add_subtree(Luo::NAME, luo.at, luo.bytes())?;
    }
    Ok(())
}
// ANCHOR_END: leave
