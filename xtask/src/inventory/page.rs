//! `docs/unsafe.md`, from what was found.

use std::fmt::Write;

use super::find::{Kind, Use};
use super::named::REASONS;
use super::{Library, Module};

const OPENING: &str = "\
<!-- Written by `cargo xtask inventory`. -->

# Unsafe code

Every `unsafe` in the libraries, tests apart, with its proof as it stands in the source. A use without a proof is an error of
the program that writes this page, and a page that is not current is an error of `cargo xtask verify`: no unsafe code
appears, moves to another function or changes its reason without a change here.

An `unsafe fn`'s and an `unsafe trait`'s entry is what they ask of callers and implementers; a block's and an `unsafe
impl`'s is why what is asked of them holds.
";

/// The page.
pub(crate) fn write(libraries: &[Library]) -> String {
    let mut page = OPENING.to_owned();
    summary(&mut page, libraries);
    kinds_of_proof(&mut page, libraries);
    named(&mut page);
    for library in libraries.iter().filter(|library| !library.modules.is_empty()) {
        table(&mut page, library);
    }
    for library in libraries {
        for module in &library.modules {
            proofs(&mut page, library, module);
        }
    }
    page
}

/// The line of figures.
pub(crate) fn totals(libraries: &[Library]) -> String {
    let uses = || libraries.iter().flat_map(|library| &library.modules).flat_map(|m| &m.uses);
    let modules: usize = libraries.iter().map(|library| library.modules.len()).sum();
    let safe: usize = libraries.iter().map(|library| library.safe).sum();
    let count = |kind| uses().filter(|found| found.kind == kind).count();
    format!(
        "{} blocks, {} functions, {} implementations, {} traits, each with its proof, in {modules} modules of {}",
        count(Kind::Block),
        count(Kind::Function),
        count(Kind::Implementation),
        count(Kind::Trait),
        modules + safe,
    )
}

/// The first line in which two pages differ, as each has it.
pub(crate) fn first_difference(kept: &str, new: &str) -> Option<String> {
    let (mut kept, mut new) = (kept.lines(), new.lines());
    for number in 1.. {
        let (kept, new) = (kept.next(), new.next());
        if kept.is_none() && new.is_none() {
            break;
        }
        if kept != new {
            let (kept, new) = (kept.unwrap_or("nothing"), new.unwrap_or("nothing"));
            return Some(format!("line {number}\n  is:     {kept}\n  should: {new}"));
        }
    }
    None
}

/// Blocks, functions, implementations, traits, and the lines of the blocks.
fn counts(uses: &[&Use]) -> String {
    let count = |kind| uses.iter().filter(|found| found.kind == kind).count();
    let blocks = uses.iter().filter(|found| found.kind == Kind::Block);
    format!(
        "{} | {} | {} | {} | {}",
        count(Kind::Block),
        blocks.map(|found| found.lines).sum::<usize>(),
        count(Kind::Function),
        count(Kind::Implementation),
        count(Kind::Trait),
    )
}

fn summary(page: &mut String, libraries: &[Library]) {
    page.push_str(
        "\n| library | blocks | their lines | fns | impls | traits | modules with | without |\n",
    );
    page.push_str("|---|--:|--:|--:|--:|--:|--:|--:|\n");
    for library in libraries {
        let uses: Vec<&Use> = library.modules.iter().flat_map(|module| &module.uses).collect();
        let (with, without) = (library.modules.len(), library.safe);
        let _ = writeln!(page, "| `{}` | {} | {with} | {without} |", library.name, counts(&uses));
    }
}

/// On what the proofs of blocks and implementations rest.
fn kinds_of_proof(page: &mut String, libraries: &[Library]) {
    let (mut handed_on, mut likewise, mut own) = (0, 0, 0);
    let uses = libraries.iter().flat_map(|library| &library.modules).flat_map(|m| &m.uses);
    for found in uses.filter(|f| matches!(f.kind, Kind::Block | Kind::Implementation)) {
        let proof = found.proof.as_deref().unwrap_or_default();
        if ["the caller", "this function's caller"].iter().any(|words| proof.starts_with(words)) {
            handed_on += 1;
        } else if ["as ", "the same"].iter().any(|words| proof.starts_with(words)) {
            likewise += 1;
        } else {
            own += 1;
        }
    }
    let _ = writeln!(
        page,
        "\nOf the proofs of blocks and implementations, {handed_on} begin with what the caller promised or owns, {likewise} with \
         another proof that holds here too, and {own} with a reason of their own."
    );
}

/// The safe functions that are given an address.
fn named(page: &mut String) {
    page.push_str(
        "\n## Safe functions that are given an address\n\nEvery safe function, public in a library, with a parameter that names \
         memory: an address, a pointer or a handle. Each may be given any value at all. What can be evaluated at compile time \
         follows none and is left out.\n",
    );
    for reason in REASONS {
        let _ = writeln!(page, "\n{}\n", reason.why);
        for function in reason.functions {
            let _ = writeln!(page, "- `{function}`");
        }
    }
}

fn table(page: &mut String, library: &Library) {
    let _ = writeln!(page, "\n## {}\n", library.name);
    page.push_str("| module | blocks | their lines | fns | impls | traits | what for |\n");
    page.push_str("|---|--:|--:|--:|--:|--:|---|\n");
    for module in &library.modules {
        let uses: Vec<&Use> = module.uses.iter().collect();
        let _ = writeln!(page, "| `{}` | {} | {} |", module.name, counts(&uses), module.note);
    }
}

fn proofs(page: &mut String, library: &Library, module: &Module) {
    let _ = writeln!(page, "\n### {}: {}\n", library.name, module.name);
    for found in &module.uses {
        let kind = match found.kind {
            Kind::Block => String::new(),
            kind => format!(" ({})", kind.name()),
        };
        let proof = without_links(found.proof.as_deref().unwrap_or_default());
        let _ = writeln!(page, "- `{}`{kind}: {proof}", found.place);
    }
}

/// Links lead into the API's documentation, which this page is no part of: their text stays.
fn without_links(mut text: &str) -> String {
    let mut plain = String::new();
    while let Some((before, rest)) = text.split_once('[')
        && let Some((name, mut after)) = rest.split_once(']')
    {
        if let Some(target) = after.strip_prefix('(') {
            after = target.split_once(')').map_or(after, |(_, after)| after);
        }
        plain.extend([before, name]);
        text = after;
    }
    plain + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_links_stays() {
        let text = "As for [`free`](Memory::free); [no] `x`.";
        assert_eq!(without_links(text), "As for `free`; no `x`.");
    }

    #[test]
    fn the_first_line_that_differs_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        let named = "line 2\n  is:     b\n  should: c";
        assert_eq!(first_difference("a\nb\n", "a\nc\n").as_deref(), Some(named));
        let named = "line 2\n  is:     nothing\n  should: c";
        assert_eq!(first_difference("a\n", "a\nc\n").as_deref(), Some(named));
    }
}
