//! What a survey finds, as it comes and as it is listed: what is wrong, and what was not looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Entries;

use heirloom_kho::linux::{Opaque, Text};
use heirloom_kho::{PageSize, PhysAddr};
use heirloom_restore::Error;

use crate::{code, said};

/// Something that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// What is at fault; `None` if the reason says it.
    pub(crate) at: Option<PhysAddr>,
    /// What it is, in words that stay.
    pub(crate) code: String,
    pub(crate) reason: String,
    /// What to do about it, if that is known.
    pub(crate) advice: Option<&'static str>,
}

impl Finding {
    /// What `error` says, of a machine with pages of this size.
    pub(super) fn of(error: Error, page: PageSize) -> Self {
        let code = code::of(&error);
        let advice = said::advice(&error);
        Self { at: error.at(), code, reason: said::survey(error, page).to_string(), advice }
    }
}

/// What was not looked at, as this program does not know what it is: all that have one name
/// together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unread {
    pub(crate) what: Opaque,
    /// The name of the subtree or the state, or the kind of the files.
    pub(crate) name: String,
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) at: PhysAddr,
}

/// What was not looked at, as it comes.
#[derive(Debug, Default)]
pub(super) struct Unreads {
    by_name: BTreeMap<(Opaque, Text<48>), (u64, PhysAddr)>,
    /// Those for which there was no room.
    more: BTreeMap<Opaque, (u64, PhysAddr)>,
}

impl Unreads {
    pub(super) fn push(&mut self, unread: heirloom_kho::linux::Unread) {
        let heirloom_kho::linux::Unread { what, name, at } = unread;
        let full = self.by_name.len() >= LISTED;
        let place = match self.by_name.entry((what, name)) {
            Entries::Vacant(_) if full => self.more.entry(what).or_insert((0, at)),
            entry => entry.or_insert((0, at)),
        };
        place.0 += 1;
    }

    pub(super) fn into_list(self) -> Vec<Unread> {
        let named = self.by_name.into_iter().map(|((what, name), (count, at))| Unread {
            what,
            name: name.to_string(),
            count,
            at,
        });
        let more = self.more.into_iter().map(|(what, (count, at))| Unread {
            what,
            name: "(more names than are listed)".to_owned(),
            count,
            at,
        });
        named.chain(more).collect()
    }
}

/// Findings that are listed one by one. Each bit of a node can be a fault: a page of them would take
/// a thousand pages to list.
pub(super) const LISTED: usize = 10_000;

/// Findings as they come.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    more: u64,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        if self.list.len() < LISTED {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Those that are listed, and how many are not.
    pub(super) fn into_list(mut self) -> Vec<Finding> {
        if self.more > 0 {
            let reason = format!("and {} more", self.more);
            self.list.push(Finding { at: None, code: code::MORE.to_owned(), reason, advice: None });
        }
        self.list
    }
}
