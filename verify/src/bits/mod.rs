//! Every single bit of a handover: what a seal covers, and who must name a bit that fell over.
//!
//! ```text
//!  table            covered by the seal                     not covered
//!  root page        all of it                               -
//!  scratch list     all of it                               -
//!  tracker node     all of it                               -
//!  roll page        all of it                               -
//!  subtree page     what never changes, which seal holds,   the other seal, the rest of the page
//!                   and where that one's table is
//!  seal's table     links, counts and entries               the rest of its blocks
//!  published bytes  all of them                             the rest of their folio
//!  slab             the part of its header that never       the rest of the header, its objects'
//!                   changes                                 states, the objects
//!  area, records    -                                       all of it: their owners'
//! ```

mod parts;
mod turn;

pub use parts::{Part, Seen, parts_of};
pub use turn::{Blamed, blame, refuse};

/// Which bits of a table to turn over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All of them.
    All,
    /// All of words in which something stands and of those beside them, and of every other word
    /// one, another in each.
    Some,
}

impl Which {
    /// The bits of `words`, in order.
    pub fn of(self, words: &[u64]) -> impl Iterator<Item = usize> + '_ {
        let stands = |i: usize| words.get(i).is_some_and(|word| *word != 0);
        (0..words.len() * 64).filter(move |bit| {
            let i = bit / 64;
            let whole = self == Self::All || stands(i) || stands(i + 1) || i > 0 && stands(i - 1);
            whole || bit % 64 == i * 7 % 64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_all_where_something_stands() {
        let words = [0, 0, 0, 5, 0, 0];
        let some: Vec<_> = Which::Some.of(&words).collect();
        assert_eq!(some.len(), 3 + 3 * 64);
        assert!((2 * 64..5 * 64).all(|bit| some.contains(&bit)));
        assert!(Which::All.of(&words).eq(0..6 * 64));
    }
}
