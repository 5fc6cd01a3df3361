//! What the threads of a cache do to one another's items.
#![cfg(target_os = "linux")]

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use heirloom::arena::RangeSpec;
use heirloom::service::Service;
use heirloom::{NodeId, PhysAddr, SealPolicy};
use heirloom_cache::store::{NEVER, Store};
use heirloom_collections::Pool;

/// A time that all of the test is before: the year 2033.
const LATER: u64 = 2_000_000_000_000;

#[test]
fn an_item_expires_however_often_it_is_read_meanwhile() {
    let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    // SAFETY: the only test of the program: it has opened nothing, and nothing else writes the memory.
    let service = unsafe { Service::begin("cache", &[memory]) }.unwrap();
    let heirloom = service.start("store", SealPolicy::Checked).unwrap();
    let pool = Pool::open(heirloom.slabs()).unwrap();
    let store = Store::open(&heirloom, &pool).unwrap();
    assert!(store.set((b"item", b"value"), None, NEVER, 1).unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [store.clone(), store.clone()];
        for reader in readers {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    reader.get(b"item", 1, |value| assert_eq!(value, Some(&b"value"[..]))).unwrap();
                    // Each 64th item that is set has what is read marked anew.
                    reader.set((b"other", b"value"), None, NEVER, 1).unwrap();
                }
            });
        }
        for time in LATER..LATER + 4_000_000 {
            assert!(store.expire(b"item", time, 1).unwrap());
            if store.expiry(b"item", 1).unwrap() != Some(time) {
                done.store(true, Relaxed);
                panic!("a reader has marked it as it was before");
            }
        }
        done.store(true, Relaxed);
    });
    assert_eq!(store.expiry(b"item", LATER + 4_000_000).unwrap(), None);
}
