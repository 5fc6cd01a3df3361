//! What a check of what Linux registered comes upon.

use super::text::Text;
use crate::addr::PhysAddr;
use crate::error::Error;
use crate::root::Subtree;

/// What a check comes upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Something that is wrong.
    Wrong(Error),
    /// Something that this crate does not know, so that nothing can be said of it.
    Unread(Unread),
}

impl From<Error> for Found {
    fn from(error: Error) -> Self {
        Self::Wrong(error)
    }
}

/// Something whose content a check did not look at, as only its maker knows what it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Unread {
    /// What.
    pub what: Opaque,
    /// The name of the subtree or of the state, or the file's kind.
    pub name: Text<48>,
    /// Where the subtree starts, or the entry of the file or the state.
    pub at: PhysAddr,
}

impl Unread {
    /// Returns what a check says of a subtree that it does not know.
    pub fn of_subtree(subtree: &Subtree) -> Self {
        let name = Text::cut(subtree.name.as_str().as_bytes());
        Self { what: Opaque::Subtree, name, at: subtree.addr }
    }
}

/// What can have a name that this crate does not know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Opaque {
    /// A subtree of the root page: that its bytes are preserved is known, if they are.
    Subtree,
    /// A file of a session. Its entry was looked at.
    File,
    /// A state that files share. Its entry was looked at.
    Flb,
}
