//! What the predecessor left: claimed, compared, and what has another layout turned into this build's.

use core::ptr::NonNull;

use heirloom::slab::OldObject;
use heirloom::{Error, Handle, Heirloom, PhysAddr};
use zerocopy::FromBytes;

use crate::layout::{self, Session, other};
use crate::ledger::{Kind, Ledger};
use crate::machine::Port;
use crate::pattern::{is, length};
use crate::work::{LONGEST, SHORT, block, bytes, handle, object, object_parts};

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    pub things: u64,
    pub bytes: u64,
    pub upgraded: u64,
    pub lost: u64,
    /// What no slot named: a crash came between preserving and naming, or between emptying a slot and freeing.
    pub unclaimed: u64,
}

impl Found {
    fn compared(&mut self, id: u64, found: Result<&[u8], Error>, expected: usize) {
        match found {
            Ok(bytes) if bytes.len() == expected && is(id, bytes) => {
                self.things += 1;
                self.bytes += bytes.len() as u64;
            }
            Ok(_) => self.lose(format_args!("the bytes of {id} are others")),
            Err(error) => self.lose(format_args!("{id}: {error}")),
        }
    }

    /// A file of so many bytes, as it should be or not.
    pub fn file(&mut self, id: u64, sound: bool, bytes: u64) {
        if sound {
            self.things += 1;
            self.bytes += bytes;
        } else {
            self.lose(format_args!("file {id}, {bytes} bytes, is another"));
        }
    }

    fn lose(&mut self, why: core::fmt::Arguments<'_>) {
        self.lost += 1;
        crate::serial::say(format_args!("lost: {why}"));
    }

    /// A buffer: claimed, compared.
    fn buffer(&mut self, kernel: &Heirloom<Port>, id: u64, at: Handle, length: usize) {
        let buffer = kernel.restore(at);
        // SAFETY: claimed just now, and as long as what is made of its number.
        let found = buffer.map(|buffer| unsafe { &*bytes(buffer, length) });
        self.compared(id, found, length);
    }
}

/// Claims everything that the ledger names.
pub fn claim(kernel: &'static Heirloom<Port>, ledger: &Ledger) -> Result<Found, Error> {
    let mut found = Found::default();
    let sessions = kernel.adopt_or_create::<Session>(layout::CACHE, true)?;
    // First those of this layout: an object that was upgraded is no predecessor's.
    for (lane, slot) in ledger.slots() {
        let Some((id, words)) = slot.get() else { continue };
        match Kind::of(lane) {
            Kind::Work => {
                let (addr, tag) = object_parts(words[0]);
                // One that has another layout yet is claimed below.
                let Ok(session) = sessions.claim(addr, tag) else { continue };
                let Session { buffer, bytes, .. } = *session;
                if session.id == id && bytes == length(id, LONGEST) as u64 {
                    found.buffer(kernel, id, Handle::from(buffer), bytes as usize);
                } else {
                    found.lose(format_args!("session {id} is another"));
                }
                session.leak();
            }
            Kind::Timer => {
                found.buffer(kernel, id, handle(words), length(id, SHORT));
            }
            Kind::Nmi => match kernel.memory().claim_owned(block(id, words[0])) {
                Ok(folio) => {
                    let expected = block(id, 0).run().bytes();
                    found.compared(id, Ok(folio.bytes()), expected as usize);
                    folio.into_raw();
                }
                Err(error) => found.lose(format_args!("folio {id}: {error}")),
            },
        }
    }
    crate::Phase::Upgrade.begin();
    // ANCHOR: upgrade
    if let Some(record) = kernel.slabs().inherited(other::CACHE) {
        kernel.slabs().upgrade(&record, |old| {
            let slot = named(ledger, &old);
            let Ok(session) = other::Session::read_from_bytes(old.bytes) else { return Ok(()) };
            // What no slot names is what a crash left: it goes, and its buffer with what is unclaimed.
            let Some(slot) = slot else {
                found.unclaimed += 1;
                return Ok(());
            };
            let Session { id, buffer, bytes, .. } = Session::from(session);
            let new = sessions.insert(Session::from(session))?;
            let (addr, tag) = new.handle_parts();
            new.leak();
            slot.turn_to(object(addr, tag));
            found.upgraded += 1;
            found.buffer(kernel, id, Handle::from(buffer), bytes as usize);
            Ok(())
        })?;
    }
    // ANCHOR_END: upgrade
    // Every slot's session is of this layout now, and in use.
    for (lane, slot) in ledger.slots() {
        if let (Kind::Work, Some((id, [word, _]))) = (Kind::of(lane), slot.get()) {
            let (addr, tag) = object_parts(word);
            let there = sessions.cache().at(addr, tag).map(NonNull::cast::<Session>);
            // SAFETY: an object of this layout, in use; its slot is its owner, and nothing changes it now.
            if !there.is_ok_and(|session| unsafe { session.as_ref() }.id == id) {
                found.lose(format_args!("session {id} is not there"));
            }
        }
    }
    Ok(found)
}

/// The slot that names an object of the other layout.
fn named<'l>(ledger: &'l Ledger, old: &OldObject<'_>) -> Option<&'l crate::ledger::Slot> {
    let word = object(old.addr, old.reuse_tag);
    let is_it = |(lane, slot): &(usize, &crate::ledger::Slot)| {
        Kind::of(*lane) == Kind::Work && slot.get().is_some_and(|(_, [first, _])| first == word)
    };
    ledger.slots().find(is_it).map(|(_, slot)| slot)
}

/// What is published: where the ledger and the images are.
#[derive(FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
#[repr(C)]
pub struct Root {
    pub ledger: [u8; 16],
    pub images: [u8; 16],
    pub images_bytes: u64,
}

/// Claims the ledger and the images: what the root names.
pub fn roots(kernel: &'static Heirloom<Port>) -> Result<(&'static Ledger, PhysAddr, u64), Error> {
    let root = kernel.claim_root("kernel")?;
    let Ok(Root { ledger, images, images_bytes }) = Root::read_from_bytes(root.bytes()) else {
        crate::serial::fail(format_args!("the root has another layout"))
    };
    let images = kernel.claim_run(Handle::from(images))?.into_raw();
    let ledger = kernel.claim_run(Handle::from(ledger))?.into_raw();
    let at = kernel.memory().ptr(ledger)?.cast::<Ledger>();
    // SAFETY: a predecessor made it, of words that are atomic; it is claimed, and never freed.
    Ok((unsafe { at.as_ref() }, images.addr(), images_bytes))
}
