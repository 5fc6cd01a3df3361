//! What the tests of heirloom stand on, whatever they attack.
//!
//! ```text
//! machine   TestMachine: memory that outlives the kernels on it, its map, its CPUs
//! cpus      threads as CPUs, or a few of which the program says which one runs
//! object    TestObject: create, preserve, restore, check, drop; known by a handle alone
//! stamp     contents that only their seed gives
//! rng       numbers that look random and are the same in every run
//! checker   what runs the threads, where a model checker does
//! service   a service manager, and a service as a process
//! ```
//!
//! A program makes objects on a [`Kernel`], stamps and preserves them, and lets a successor on the
//! same [`TestMachine`] restore and check them:
//!
//! ```
//! use heirloom_testkit::{Recipe, TestMachine, TestObject};
//!
//! let machine = TestMachine::new(256);
//! let kernel = machine.boot();
//! let object = TestObject::keep(&kernel, Recipe::Run(3), 7)?;
//! let successor = machine.jump(kernel);
//! object.take(&successor)?;
//! object.drop(&successor)?;
//! # Ok::<(), heirloom::restore::Error>(())
//! ```

#[cfg(heirloom_model)]
pub mod checker;
mod cpus;
mod machine;
mod object;
mod rng;
#[cfg(target_os = "linux")]
pub mod service;
mod stamp;

#[cfg(heirloom_model)]
pub use cpus::Turn;
#[cfg(heirloom_model)]
pub use machine::in_pool;
pub use machine::{Kernel, PAGE, TestMachine, end};
pub use object::{ObjectKind, Recipe, Record, TestObject, is_full};
pub use rng::{Rng, mix};
pub use stamp::{is_stamped, stamp, word};

/// Defines an enum without fields, and `ALL`: its variants in order.
#[macro_export]
macro_rules! listed {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $variant),*
        }

        impl $name {
            /// All of them, in order.
            $vis const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];
        }
    };
}
