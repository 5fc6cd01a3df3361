//! What a state forbids: the actions that are refused for what an object is, and why.

use core::fmt;

use crate::state::ObjectState;

/// What a caller asked of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Action {
    /// To free it, or to let it move: it has to be in use, and not preserved singly.
    Free,
    /// To preserve it: it has to be in use, and not to survive yet.
    Preserve,
    /// To let it go: it has to be preserved singly, or claimed.
    Unpreserve,
    /// To claim it, or to discard it unclaimed: the predecessor has to have left it.
    Claim,
    /// To name it by a handle, or to find it by one: it has to be in use.
    Name,
}

/// Returns the number of an [`Error::WrongState`](super::Error::WrongState): 212 to 218, as people tell
/// these mistakes apart.
pub(super) const fn code(action: Action, found: ObjectState) -> u16 {
    match (action, found) {
        (Action::Claim, _) => 217,
        (_, ObjectState::Unclaimed) => 216,
        (Action::Free, ObjectState::Free) => 212,
        (Action::Free, ObjectState::Preserved) => 213,
        (Action::Preserve, ObjectState::Preserved | ObjectState::Held) => 214,
        (Action::Unpreserve, ObjectState::Live) => 215,
        _ => 218,
    }
}

/// Why an object that is `found` cannot be acted on, as people say it.
pub(super) struct Reason {
    pub(super) action: Action,
    pub(super) found: ObjectState,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "freed",
            Self::Preserve => "preserved",
            Self::Unpreserve => "unpreserved",
            Self::Claim => "claimed",
            Self::Name => "named by a handle",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.action, self.found) {
            (Action::Free, ObjectState::Free) => "it is free already",
            (Action::Free, ObjectState::Preserved) => "it is preserved; unpreserve it first",
            (Action::Preserve, ObjectState::Preserved) => "it is preserved already",
            (Action::Preserve, ObjectState::Live) => "its cache preserves all its objects",
            (Action::Unpreserve, ObjectState::Live) => "it is not preserved by itself",
            (Action::Claim, ObjectState::Live | ObjectState::Preserved | ObjectState::Held) => {
                "it has an owner"
            }
            (_, ObjectState::Free) => "it is free",
            (_, ObjectState::Live) => "it is in use",
            (_, ObjectState::Preserved) => "it is preserved",
            (_, ObjectState::Unclaimed) => "the predecessor left it, and it is not claimed",
            (_, ObjectState::Quarantined) => {
                "it was overwritten while it was free, and is out of use"
            }
            (_, ObjectState::Held) => "it is claimed, and survives",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use heirloom_kho::{Order, PhysAddr};

    use crate::error::Error;
    use crate::name::Name;

    use super::*;

    #[test]
    fn a_refusal_says_what_was_asked_and_what_stands_in_the_way() {
        let rows = [
            (Action::Free, ObjectState::Free, "freed: it is free already"),
            (Action::Free, ObjectState::Preserved, "freed: it is preserved; unpreserve it first"),
            (
                Action::Free,
                ObjectState::Unclaimed,
                "freed: the predecessor left it, and it is not claimed",
            ),
            (Action::Preserve, ObjectState::Preserved, "preserved: it is preserved already"),
            (Action::Preserve, ObjectState::Free, "preserved: it is free"),
            (Action::Unpreserve, ObjectState::Live, "unpreserved: it is not preserved by itself"),
            (Action::Claim, ObjectState::Held, "claimed: it has an owner"),
            (Action::Claim, ObjectState::Free, "claimed: it is free"),
            (Action::Name, ObjectState::Free, "named by a handle: it is free"),
        ];
        let (cache, addr) = (Name::new("inode").unwrap(), PhysAddr::new(0x4_0001_0080));
        for (action, found, said) in rows {
            let error = Error::WrongState { cache, addr, action, found };
            let said = std::format!("object 0x400010080 of inode cannot be {said}");
            assert_eq!(error.to_string(), said);
            assert!(!error.is_out_of_memory());
        }
    }

    #[test]
    fn a_want_of_memory_is_told_from_all_else() {
        let frames = heirloom_folio::Error::NoRun { frames: 3 };
        let block = heirloom_folio::Error::OutOfMemory { order: Order::ZERO, node: None };
        for error in [frames, block] {
            assert!(Error::Folio(error).is_out_of_memory());
        }
        assert!(!Error::Folio(heirloom_folio::Error::BadRequest { frames: 0 }).is_out_of_memory());
        assert!(!Error::TooManyCaches { limit: 7 }.is_out_of_memory());
    }
}
