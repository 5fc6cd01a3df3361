//! The modules of a library, found as the compiler finds them: by `mod`, from `lib.rs` on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::punctuated::Punctuated;
use syn::{Attribute, Item, Meta, Token};

/// One file.
pub(crate) struct Source {
    /// As in `tracker/node`; the crate's root is `lib`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
}

/// The files of the library whose source is in `directory`, those of tests apart.
pub(crate) fn modules(directory: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    read(directory.join("lib.rs"), "lib".into(), directory, "", &mut found)?;
    Ok(found)
}

/// Reads a file and the files of its modules, which lie in `below` and whose names begin with
/// `prefix`.
fn read(
    path: PathBuf,
    name: String,
    below: &Path,
    prefix: &str,
    found: &mut Vec<Source>,
) -> Result<()> {
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let syntax = syn::parse_file(&text).with_context(|| path.display().to_string())?;
    let mut children = Vec::new();
    for item in &syntax.items {
        if let Item::Mod(module) = item
            && module.content.is_none()
            && !of_tests(&module.attrs)
        {
            children.push(module.ident.to_string());
        }
    }
    found.push(Source { name, path, text, syntax });
    for child in children {
        let name = format!("{prefix}{child}");
        let directory = below.join(&child);
        let beside = below.join(format!("{child}.rs"));
        let path = if beside.exists() { beside } else { directory.join("mod.rs") };
        read(path, name.clone(), &directory, &format!("{name}/"), found)?;
    }
    Ok(())
}

/// Whether an item is compiled for tests or a model checker alone.
pub(crate) fn of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition))
    })
}

/// Whether a condition can hold only where tests are built.
fn needs_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return ["test", "loom", "shuttle"].iter().any(|tests| condition.path().is_ident(tests));
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    let parts = parts.unwrap_or_default();
    if list.path.is_ident("all") {
        parts.iter().any(needs_test)
    } else {
        list.path.is_ident("any") && parts.iter().all(needs_test)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(attribute: Attribute) -> bool {
        of_tests(&[attribute])
    }

    /// A feature that tests share with users is shipped.
    #[test]
    fn what_only_tests_are_built_with_is_left_out() {
        assert!(skipped(syn::parse_quote!(#[cfg(test)])));
        assert!(skipped(syn::parse_quote!(#[cfg(all(test, not(loom)))])));
        assert!(skipped(syn::parse_quote!(#[cfg(any(test, loom))])));
        assert!(!skipped(syn::parse_quote!(#[cfg(not(loom))])));
        assert!(!skipped(syn::parse_quote!(#[cfg(any(test, feature = "std"))])));
        assert!(!skipped(syn::parse_quote!(#[cfg(feature = "std")])));
    }
}
