//! Sessions: objects whose layout is another one in each build, so that each jump between builds is an upgrade.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// That of build one.
pub mod one {
    use super::*;

    pub const CACHE: &str = "session-one";

    /// A session, and the buffer that it keeps.
    #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Session {
        pub id: u64,
        pub buffer: [u8; 16],
        pub bytes: u64,
    }
    heirloom::persist!(Session { id, buffer, bytes });
}

/// That of build two: in another order, with the number of upgrades.
pub mod two {
    use super::*;

    pub const CACHE: &str = "session-two";

    /// A session, and the buffer that it keeps.
    #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Session {
        pub bytes: u64,
        pub upgrades: u64,
        pub id: u64,
        pub buffer: [u8; 16],
    }
    heirloom::persist!(Session { bytes, upgrades, id, buffer });
}

impl From<two::Session> for one::Session {
    fn from(other: two::Session) -> Self {
        Self { id: other.id, buffer: other.buffer, bytes: other.bytes }
    }
}

impl From<one::Session> for two::Session {
    fn from(other: one::Session) -> Self {
        Self { id: other.id, buffer: other.buffer, bytes: other.bytes, upgrades: 1 }
    }
}

#[cfg(not(feature = "two"))]
mod this {
    pub use super::one::{CACHE, Session};
    pub use super::two as other;
    pub const BUILD: &str = "one";

    pub fn session(id: u64, buffer: [u8; 16], bytes: u64) -> Session {
        Session { id, buffer, bytes }
    }
}
#[cfg(feature = "two")]
mod this {
    pub use super::one as other;
    pub use super::two::{CACHE, Session};
    pub const BUILD: &str = "two";

    pub fn session(id: u64, buffer: [u8; 16], bytes: u64) -> Session {
        Session { id, buffer, bytes, upgrades: 0 }
    }
}
pub use this::*;
