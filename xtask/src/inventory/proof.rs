//! Where a proof stands: a comment above, or a section of the documentation.

use syn::{Attribute, Expr, Lit, Meta};

/// The text after `SAFETY:` of the comment that ends above one of `lines`, counted from one; the
/// first that has such a comment decides. Attributes may stand between.
pub(crate) fn comment(text: &[&str], lines: &[usize]) -> Option<String> {
    lines.iter().find_map(|&line| {
        let above = text.get(..line.checked_sub(1)?)?;
        let mut said = Vec::new();
        for row in above.iter().rev().map(|row| row.trim()) {
            if let Some(row) = row.strip_prefix("//").filter(|row| !row.starts_with(['/', '!'])) {
                let row = row.trim();
                said.push(row.strip_prefix("- ").unwrap_or(row));
            } else if !row.starts_with("#[") {
                break;
            }
        }
        said.reverse();
        let said = said.join(" ");
        said.split_once("SAFETY:").map(|(_, proof)| proof.trim().to_owned())
    })
}

/// The section `# Safety` of an item's documentation.
pub(crate) fn section(attributes: &[Attribute]) -> Option<String> {
    let mut rows = Vec::new();
    for attribute in attributes {
        if let Meta::NameValue(pair) = &attribute.meta
            && pair.path.is_ident("doc")
            && let Expr::Lit(value) = &pair.value
            && let Lit::Str(row) = &value.lit
        {
            rows.push(row.value());
        }
    }
    section_of(rows.iter().map(|row| row.trim()))
}

/// The same, of the documentation that ends above a line, counted from one: of what a macro makes.
pub(crate) fn section_above(text: &[&str], line: usize) -> Option<String> {
    let above = text.get(..line.checked_sub(1)?)?.iter().rev().map(|row| row.trim());
    let rows = above.take_while(|row| row.starts_with("///") || row.starts_with("#["));
    let mut rows: Vec<&str> = rows.filter_map(|row| row.strip_prefix("///")).collect();
    rows.reverse();
    section_of(rows.into_iter().map(str::trim))
}

fn section_of<'a>(rows: impl Iterator<Item = &'a str>) -> Option<String> {
    let rows = rows.skip_while(|row| *row != "# Safety").skip(1);
    let rows = rows.take_while(|row| !row.starts_with("# "));
    let said: Vec<&str> = rows.map(|row| row.strip_prefix("- ").unwrap_or(row)).collect();
    let said = said.join(" ").trim().to_owned();
    (!said.is_empty()).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_above_the_statement() {
        let text = [
            "// SAFETY: ours, and",
            "// nobody else's.",
            "#[inline]",
            "let x =",
            "    unsafe { y };",
            "",
            "// What it is.",
            "unsafe { z }",
        ];
        assert_eq!(comment(&text, &[5, 4]).as_deref(), Some("ours, and nobody else's."));
        assert_eq!(comment(&text, &[5]), None);
        assert_eq!(comment(&text, &[8]), None);
        assert_eq!(comment(&text, &[1]), None);
    }

    #[test]
    fn a_section_is_found_in_text() {
        let text = [
            "/// No.",
            "fn f() {}",
            "/// Does.",
            "/// # Safety",
            "/// Mind.",
            "#[inline]",
            "unsafe fn",
        ];
        assert_eq!(section_above(&text, 7).as_deref(), Some("Mind."));
        assert_eq!(section_above(&text, 2), None);
    }

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let item: syn::ItemFn = syn::parse_quote! {
            /// Does it.
            ///
            /// # Safety
            /// It is the caller's,
            /// and alone.
            ///
            /// # Panics
            /// Never.
            unsafe fn it() {}
        };
        assert_eq!(section(&item.attrs).as_deref(), Some("It is the caller's, and alone."));
        let item: syn::ItemFn = syn::parse_quote! {
            /// Does it.
            unsafe fn it() {}
        };
        assert_eq!(section(&item.attrs), None);
    }
}
