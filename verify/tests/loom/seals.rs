//! The handover: a seal beside what changes it.

use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::kho::Block;
use heirloom::restore::{Entry, Error, SealPolicy};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

use super::single;

/// A kernel that published something, with a folio that is preserved and one that is not.
struct Sealing {
    machine: &'static TestMachine,
    kernel: Heirloom<&'static TestMachine>,
    folio: Block,
    sealed: Mutex<bool>,
    /// Whether the seal was made before the folio was preserved.
    late: Mutex<bool>,
}

impl Sealing {
    fn build() -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        kernel.publish("root", &[1; 24]).unwrap();
        let memory = kernel.memory();
        let other = memory.alloc(single()).unwrap();
        // SAFETY: allocated just now.
        unsafe { memory.preserve(other) }.unwrap();
        let folio = memory.alloc(single()).unwrap();
        Self { machine, kernel, folio, sealed: Mutex::default(), late: Mutex::default() }
    }

    fn seal(&self) {
        self.kernel.seal().unwrap();
        *self.sealed.lock().unwrap() = true;
    }

    fn preserve(&self) {
        *self.late.lock().unwrap() = *self.sealed.lock().unwrap();
        // SAFETY: this thread alone does anything to it.
        unsafe { self.kernel.memory().preserve(self.folio) }.unwrap();
    }

    /// Whether it is sealed, and how it is left.
    fn leave(self) -> (bool, &'static TestMachine, Entry) {
        let sealed = self.kernel.is_sealed();
        (sealed, self.machine, self.kernel.entry())
    }
}

fn published(kernel: &Heirloom<&'static TestMachine>) -> u8 {
    kernel.claim_root("root").unwrap().bytes()[0]
}

/// Fails if either works without the lock; if publishing does not break the seal; or if it unpreserves
/// what was published before once it gave the lock back.
#[test]
fn what_is_published_beside_a_seal_is_sealed_or_breaks_the_seal() {
    Model {
        name: "a publish beside a seal",
        preemptions: 2,
        build: Sealing::build,
        threads: &[|world| world.kernel.publish("root", &[2; 24]).unwrap(), Sealing::seal],
        after: |world| {
            let (sealed, machine, entry) = world.leave();
            match machine.try_revive(entry, SealPolicy::Required) {
                Ok(kernel) => assert!(sealed && published(&kernel) == 2),
                Err(error) => {
                    assert!(
                        !sealed && error == Error::NotSealed { opened: false },
                        "sealed: {sealed}, {error}"
                    );
                    assert_eq!(published(&machine.revive(entry)), 2);
                }
            }
        },
    }
    .check();
}

/// Fails if the seal does not cover the tree's nodes.
#[test]
fn what_is_preserved_beside_a_seal_is_sealed_or_makes_it_untrue() {
    Model {
        name: "a folio is preserved beside a seal",
        preemptions: 2,
        build: Sealing::build,
        threads: &[Sealing::preserve, Sealing::seal],
        after: |world| {
            let (folio, late) = (world.folio, *world.late.lock().unwrap());
            let (sealed, machine, entry) = world.leave();
            assert!(sealed);
            let kernel = match machine.try_revive(entry, SealPolicy::Required) {
                Ok(kernel) => {
                    assert!(!late, "the seal covers what came after it");
                    kernel
                }
                Err(error) => {
                    assert!(matches!(error, Error::Broken(_)), "{error}");
                    machine.try_revive(entry, SealPolicy::Ignored).unwrap()
                }
            };
            assert!(kernel.memory().predecessor().contains(folio));
            assert_eq!(published(&kernel), 1);
        },
    }
    .check();
}
