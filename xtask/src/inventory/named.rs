//! The safe functions that are given an address, a pointer or a handle, each with the reason why it
//! may believe it.
//!
//! Found in the text of the public items, `docs/api`: every function that is not `unsafe`, cannot be
//! evaluated at compile time (what can follows no address) and has such a parameter.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::CRATES;

/// What a parameter's type has in it if it names memory.
const NAMES: &[&str] = &[
    "non_null::NonNull<",
    "PhysAddr",
    "heirloom_kho::Handle",
    "heirloom_kho::handle::Handle",
    "heirloom_restore::Entry",
    "heirloom_restore::entry::Entry",
    "*const ",
    "*mut ",
];

/// A reason, and for which functions it is one.
pub(crate) struct Reason {
    pub(crate) why: &'static str,
    pub(crate) functions: &'static [&'static str],
}

/// Every such function, by its reason.
pub(crate) const REASONS: &[Reason] = &[
    Reason {
        why: "The function follows it in a reader's section alone. The frame's byte says first whether there is a slab or a buffer, and a slab \
              that a section may look at is given back only after the section has ended. What is read then are the header and \
              state bytes, atomically: never an object's own bytes. Where no slab is found and caches are resumed, a slab around it that the predecessor left to one of them \
              is made this kernel's first: found by its block in the tree and the label that the cache directory gave it, never by the address, in turn, and checked.",
        functions: &[
            "heirloom_slab::Cache<'_, M>::at",
            "heirloom_slab::Cache<'_, M>::in_use_at",
            "heirloom_slab::Cache<'_, M>::look_at<R>",
            "heirloom_slab::Slabs<M>::at",
            "heirloom_slab::Slabs<M>::owner_at",
            "heirloom_slab::Slabs<M>::owner_of",
            "heirloom_slab::Slabs<M>::reuse_tag_of",
            "heirloom_slab::Slabs<M>::size_of",
            "heirloom_restore::Heirloom<M>::find",
            "heirloom_restore::Heirloom<M>::handle_of",
        ],
    },
    Reason {
        why: "The function follows it in a reader's section, to a state byte or a frame's byte, in which one compare-exchange from \"left by the \
              predecessor\" decides which caller gets it. The caller that wins alone is the owner; every other caller, with a stale, forged or foreign \
              name too, is told so and has touched nothing else.",
        functions: &[
            "heirloom_slab::Slabs<M>::claim",
            "heirloom_slab::Cache<'_, M>::claim",
            "heirloom_slab::Cache<'_, M>::discard",
            "heirloom_slab::TypedCache<'s, T, M>::claim",
            "heirloom_collections::Log<'p, M>::open",
            "heirloom_collections::Map<'p, M, H>::open",
            "heirloom_collections::Vec<'p, T, M>::open",
            "heirloom_restore::Heirloom<M>::restore",
            "heirloom_restore::Heirloom<M>::claim_area",
            "heirloom_restore::Heirloom<M>::claim_folio",
            "heirloom_restore::Heirloom<M>::claim_folios<'m>",
            "heirloom_restore::Heirloom<M>::claim_records<T: heirloom_kho::blocks::Record>",
            "heirloom_restore::Heirloom<M>::claim_run",
        ],
    },
    Reason {
        why: "The function does not follow it: it compares the address with the ranges and turns it into the number of a frame, whose byte it looks at.",
        functions: &[
            "heirloom_folio::DirectMap::phys",
            "heirloom_folio::DirectMap::ptr",
            "heirloom_restore::Heirloom<M>::add_subtree",
        ],
    },
    Reason {
        why: "Followed by loads of atomic words in frames of the memory that is passed by value, which has no other user yet: \
              `Memory::new` and `add_range`, which are unsafe, were promised that nothing else uses it. Each step is checked before it is \
              taken.",
        functions: &[
            "heirloom_folio::Memory<M>::take_over",
            "heirloom_restore::Heirloom<M>::revive_memory",
        ],
    },
    Reason {
        why: "Followed only where the image that the caller passes has words (`Pages`, `Tables`, `Image`): such a value is made \
              from slices, or under the contract of `Inherited::new`. An address that it does not have is an error.",
        functions: &[
            "heirloom_kho::tree::Tables::words",
            "heirloom_kho::tree::check<T, L>",
            "heirloom_kho::tree::check_counting<T, L>",
            "heirloom_kho::tree::survey<T, L, E>",
            "heirloom_restore::survey<I, L, E>",
            "heirloom_kho::Pages::words",
            "heirloom_kho::Image::words",
            "heirloom_kho::Chain<'p, P, T>::new",
            "heirloom_kho::Chain<'p, P, T>::walk<E: core::convert::From<heirloom_kho::Error>>",
            "heirloom_kho::Chain<'p, P, T>::for_each<E: core::convert::From<heirloom_kho::Error>>",
            "heirloom_kho::DeviceTree<'a>::read",
            "heirloom_kho::RootView<'a>::read",
            "heirloom_kho::linux::KhoTest::read",
            "heirloom_kho::linux::Loans::is_list",
            "heirloom_kho::linux::Loans::read",
            "heirloom_kho::linux::Luo::read",
            "heirloom_kho::linux::Memblock::read",
            "heirloom_kho::linux::Metadata::read",
        ],
    },
    Reason {
        why: "Not followed: the number is stored in words that the caller gave or owns, or named in errors about them. What follows \
              it later is a reader of the rows above.",
        functions: &[
            "heirloom_kho::tree::Ledger::leaf",
            "heirloom_kho::AreaDescriptor::info",
            "heirloom_kho::DeviceTree<'a>::marked",
            "heirloom_kho::DeviceTree<'a>::open",
            "heirloom_kho::Handle::refused",
            "heirloom_kho::Header::read",
            "heirloom_kho::Header::sized",
            "heirloom_kho::HeaderPage<'a>::create",
            "heirloom_kho::HeaderPage<'a>::open_at",
            "heirloom_kho::HeaderPage<'a>::reopen",
            "heirloom_kho::RootPage<'a>::add",
            "heirloom_kho::RootPage<'a>::create",
            "heirloom_kho::RootPage<'a>::reopen",
            "heirloom_kho::RootPage<'a>::replace",
            "heirloom_kho::RootPage<'a>::set_map",
            "heirloom_kho::RootView<'a>::again",
            "heirloom_kho::RootView<'a>::sized",
            "heirloom_kho::RootView<'a>::ended",
            "heirloom_kho::RootView<'a>::new",
            "heirloom_kho::ScratchList<'a>::new",
            "heirloom_kho::ScratchList<'a>::sized",
            "heirloom_restore::Sealer<'m, M>::cover",
            "heirloom::arena::Arena::leave",
            "heirloom::jump::Jump::new",
            "heirloom::liveupdate::Session::preserve",
        ],
    },
    Reason {
        why: "The function passes it on to a `Source`, which copies what can be read there and says so if nothing can. `Identity`, which reads this machine's \
              memory, was made by an `unsafe` call whose caller promised that all of it may be read; its bounds are compared first.",
        functions: &[
            "heirloom_x86::Source::read",
            "heirloom_x86::boot_params::BootParams<'s, S>::open",
            "heirloom_x86::start_info::StartInfo<'s, S>::open",
        ],
    },
    Reason {
        why: "The function writes the number down, or compares it, and follows nothing.",
        functions: &[
            "heirloom_x86::boot_params::KhoNode::new",
            "heirloom_x86::boot_params::ZeroPage::set_command_line",
            "heirloom_x86::boot_params::ZeroPage::set_initrd",
            "heirloom_x86::boot_params::ZeroPage::set_rsdp",
            "heirloom_x86::boot_params::ZeroPage::set_setup_data",
            "heirloom_x86::map::Map<N>::place",
        ],
    },
];

/// The functions found that no reason names, and those named that are not found, as faults.
pub(crate) fn faults(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, _) in CRATES {
        let page = name.strip_prefix("heirloom-").unwrap_or(name);
        let path = root.join("docs/api").join(page).with_extension("txt");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        found.extend(text.lines().filter_map(function).map(str::to_owned));
    }
    Ok(compare(&found, REASONS))
}

fn compare(found: &[String], reasons: &[Reason]) -> Vec<String> {
    let named = || reasons.iter().flat_map(|reason| reason.functions);
    let unknown = found.iter().filter(|&function| !named().any(|known| known == function));
    let mut faults: Vec<String> = unknown
        .map(|function| format!("{function}: safe, and given an address: no reason says why"))
        .collect();
    let gone = named().filter(|&&known| !found.iter().any(|function| function == known));
    faults
        .extend(gone.map(|known| format!("{known}: a reason, and no safe function of that name")));
    faults
}

/// The function that a line of `docs/api` is, if it is safe and has a parameter that names memory.
fn function(line: &str) -> Option<&str> {
    let signature = line.strip_prefix("pub fn ")?;
    let opening = opening(signature)?;
    let name = &signature[..opening];
    // What a closure is given comes from the function.
    let parameters = top_level(&signature[opening..]);
    NAMES.iter().any(|named| parameters.contains(named)).then_some(name)
}

/// Where the parameters begin: at the first parenthesis outside of angle brackets.
fn opening(signature: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in signature.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if !signature[..at].ends_with('-') => depth -= 1,
            b'(' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// A list in parentheses to its end, without what is in those of `Fn…(…)`.
fn top_level(list: &str) -> String {
    let mut text = String::new();
    let mut depth = 0;
    let mut closure = None;
    for byte in list.chars() {
        match byte {
            '(' => {
                depth += 1;
                let of_closure = ["Fn", "FnMut", "FnOnce"].iter().any(|name| text.ends_with(name));
                if of_closure && closure.is_none() {
                    closure = Some(depth);
                }
            }
            ')' => {
                if closure == Some(depth) {
                    closure = None;
                }
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            other if closure.is_none() => text.push(other),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_memory_is_found() {
        let named = |line| function(line);
        assert_eq!(
            named("pub fn a::X<M>::claim(&self, a::PhysAddr) -> u8"),
            Some("a::X<M>::claim")
        );
        assert_eq!(named("pub fn a::f<T: a::B>(&[heirloom_kho::Handle])"), Some("a::f<T: a::B>"));
        assert_eq!(named("pub unsafe fn a::free(a::PhysAddr)"), None);
        assert_eq!(named("pub const fn a::pfn(a::PhysAddr) -> a::Pfn"), None);
        assert_eq!(named("pub fn a::alloc(&self) -> core::ptr::non_null::NonNull<u8>"), None);
        assert_eq!(named("pub fn a::each(&self, impl core::FnMut(&str, a::PhysAddr)) -> u8"), None);
        assert_eq!(
            named("pub fn a::each(impl core::Fn(u8) -> bool, a::PhysAddr)"),
            Some("a::each")
        );
        assert_eq!(named("pub struct a::PhysAddr(_)"), None);
    }

    #[test]
    fn a_function_without_a_reason_and_a_reason_without_a_function_are_faults() {
        const ONE: &[Reason] = &[Reason { why: "", functions: &["a::f"] }];
        assert!(compare(&["a::f".into()], ONE).is_empty());
        assert_eq!(compare(&["a::f".into(), "a::g".into()], ONE).len(), 1);
        assert_eq!(compare(&[], ONE).len(), 1);
    }
}
