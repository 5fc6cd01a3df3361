//! The targets: bytes from a fuzzer become a handover that was tampered with, and that is taken
//! over, or looked at, as far as it can be.
//!
//! Each target changes tables of its own kinds, so that a fuzzer's time goes into what the target is
//! for. A target ends, or panics with the promise that was broken.

mod boot;
mod containers;
mod copied;
#[cfg(feature = "image")]
mod dumps;
#[cfg(feature = "image")]
mod image;

use std::cell::RefCell;

use arbitrary::{Arbitrary, Unstructured};
pub use boot::boot;
pub use containers::containers;
use heirloom::kho::{Handle, PhysAddr};
use heirloom::restore::SealPolicy;
#[cfg(feature = "image")]
pub use image::{dumps, held_containers, image, kernels, loans};

use crate::contract::{Attempt, Verdict, read_dump, take_over};
use crate::mutate::{Attack, Step, Subject};
use crate::world::{Dump, Left, Place, Shape, TableAt, TestMachine};

/// Something that reads what a predecessor left, under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called: the fuzz target, its corpus.
    pub name: &'static str,
    /// Takes a fuzzer's bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "root", run: root },
    Target { name: "tree", run: tree },
    Target { name: "areas", run: areas },
    Target { name: "subtree", run: subtree },
    Target { name: "handles", run: handles },
    Target { name: "scratch", run: scratch },
    Target { name: "linux", run: linux },
    Target { name: "boot", run: boot },
    Target { name: "containers", run: containers },
    #[cfg(feature = "image")]
    Target { name: "image", run: image },
    #[cfg(feature = "image")]
    Target { name: "loans", run: loans },
    #[cfg(feature = "image")]
    Target { name: "held", run: held_containers },
    #[cfg(feature = "image")]
    Target { name: "dumps", run: dumps },
    #[cfg(feature = "image")]
    Target { name: "kernels", run: kernels },
    Target { name: "takeover", run: takeover },
];

/// The root page: device tree, names, subtrees.
pub fn root(data: &[u8]) {
    attack(data, &[Place::Root]);
}

/// The tree: nodes, leaves.
pub fn tree(data: &[u8]) {
    attack(data, &[Place::Node]);
}

/// Areas and lists of records.
pub fn areas(data: &[u8]) {
    attack(data, &[Place::Area, Place::Records]);
}

/// heirloom's own subtree: header, roll, slabs and their objects, seal.
pub fn subtree(data: &[u8]) {
    let places =
        [Place::Header, Place::Directory, Place::Slabs, Place::Slab, Place::States, Place::Seal];
    attack(data, &places);
}

/// Handles that nobody was given.
pub fn handles(data: &[u8]) {
    let Ok(mut attack) = Attack::arbitrary_take_rest(Unstructured::new(data)) else { return };
    attack.steps.clear();
    attack.entry = None;
    run(&attack, &[]);
}

/// The scratch list, and where it is said to be.
pub fn scratch(data: &[u8]) {
    attack(data, &[Place::Scratch]);
}

/// What Linux registered: live update, memfds, regions by name, its own test, who came before.
///
/// # Panics
/// If a promise is broken.
pub fn linux(data: &[u8]) {
    let Ok(attack) = LinuxAttack::arbitrary_take_rest(Unstructured::new(data)) else { return };
    thread_local! {
        static DUMP: (Dump, Vec<TableAt>, Vec<u64>) = {
            let dump = Dump::of_linux();
            let (tables, saved) = (dump.tables(), dump.save());
            (dump, tables, saved)
        };
    }
    DUMP.with(|(dump, tables, saved)| {
        let places: &[Place] = match attack.focus % 4 {
            0 => &[Place::Root],
            1 => &[Place::Node],
            _ => &[Place::Linux, Place::Area],
        };
        let end = dump.runs().last().map_or(PhysAddr::new(0), |run| run.end().addr());
        let subject = Subject::new(dump, tables, places, end);
        attack.steps.iter().for_each(|step| subject.apply(step));
        let found = read_dump(dump, Dump::entry());
        assert!(found == 0 || !attack.steps.is_empty(), "{found} findings in what Linux left");
        dump.load(saved);
    });
}

/// What is done to what Linux left.
#[derive(Clone, Debug, Arbitrary)]
struct LinuxAttack {
    focus: u8,
    steps: Vec<Step>,
}

/// Everything.
pub fn takeover(data: &[u8]) {
    attack(data, &[]);
}

fn attack(data: &[u8], places: &[Place]) {
    let Ok(attack) = Attack::arbitrary_take_rest(Unstructured::new(data)) else { return };
    run(&attack, places);
}

/// Carries out an attack on the tables of `places` and takes over what is left of the handover.
///
/// # Panics
/// If a promise is broken; see [`contract`](crate::contract).
pub fn run(attack: &Attack, places: &[Place]) -> Verdict {
    let shape = Shape::ALL[usize::from(attack.shape) % Shape::ALL.len()];
    with_handover(shape, attack.sealed, |machine, left| {
        machine.load(&left.saved);
        let entry = attack.carry_out(machine, left, places);
        let own = left.handles();
        let end = machine.all().end().addr();
        let subject = Subject::new(machine, &left.tables, places, end);
        let forged = attack.forged.iter().take(24).map(|forged| forged.handle(&own, &subject));
        let mut handles: Vec<Handle> = forged.collect();
        handles.extend_from_slice(&own);
        let policy = match attack.policy % 4 {
            0 => SealPolicy::Ignored,
            1 if attack.sealed => SealPolicy::Required,
            2 if attack.sealed => SealPolicy::SealedOnly,
            _ => SealPolicy::Checked,
        };
        let untouched =
            attack.steps.is_empty() && attack.entry.is_none() && attack.forged.is_empty();
        let kept = if untouched { left.kept.as_slice() } else { &[] };
        let attempt = Attempt { entry, policy, handles: &handles, kept, whim: attack.whim };
        let verdict = take_over(machine, &attempt);
        assert!(!untouched || matches!(verdict, Verdict::Lived { .. }), "{verdict:?}");
        verdict
    })
}

/// Runs `f` on a handover that is built once and used again and again.
fn with_handover<R>(shape: Shape, sealed: bool, f: impl FnOnce(&TestMachine, &Left) -> R) -> R {
    type Built = Vec<(Shape, bool, TestMachine, Left)>;
    thread_local! {
        static BUILT: RefCell<Built> = const { RefCell::new(Vec::new()) };
    }
    BUILT.with_borrow_mut(|built| {
        let at = built.iter().position(|(s, is, ..)| (*s, *is) == (shape, sealed));
        let at = at.unwrap_or_else(|| {
            let (machine, left) = shape.build(sealed);
            built.push((shape, sealed, machine, left));
            built.len() - 1
        });
        let (_, _, machine, left) = &built[at];
        f(machine, left)
    })
}
