//! The unsafe uses in a file: blocks, functions, implementations, traits.
//!
//! What a macro is given, or is made of, is no syntax tree; there the tokens are searched.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Safety, Signature, Stmt, TraitItem, Type};

use super::proof;
use crate::source::of_tests;

/// What is unsafe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A block: its writer proves.
    Block,
    /// A function: its callers prove.
    Function,
    /// An implementation of an unsafe trait: its writer proves.
    Implementation,
    /// A trait: its implementers prove.
    Trait,
}

impl Kind {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Block => "unsafe block",
            Self::Function => "unsafe fn",
            Self::Implementation => "unsafe impl",
            Self::Trait => "unsafe trait",
        }
    }
}

/// One use.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) kind: Kind,
    /// The function, implementation or trait.
    pub(crate) place: String,
    /// Where it begins.
    pub(crate) line: usize,
    /// How many lines a block has; one for anything else.
    pub(crate) lines: usize,
    pub(crate) proof: Option<String>,
}

/// All uses in a file, from the top down.
pub(crate) fn uses(syntax: &syn::File, text: &str) -> Vec<Use> {
    let text = text.lines().collect();
    let mut finder =
        Finder { text, place: Vec::new(), of_trait: false, above: Vec::new(), found: Vec::new() };
    finder.visit_file(syntax);
    finder.found.sort_by_key(|found| found.line);
    finder.found
}

struct Finder<'a> {
    text: Vec<&'a str>,
    /// Names of what encloses: implementation, function.
    place: Vec<String>,
    /// Inside the implementation of a trait.
    of_trait: bool,
    /// First lines of what encloses, from the statement or item inwards: a proof may stand above
    /// any of them.
    above: Vec<usize>,
    found: Vec<Use>,
}

impl Finder<'_> {
    /// Notes a use that a comment proves.
    fn commented(&mut self, kind: Kind, span: Span) {
        let (first, last) = (span.start().line, span.end().line);
        let mut lines = vec![first];
        lines.extend(self.above.iter().rev());
        let proof = proof::comment(&self.text, &lines);
        let lines = if kind == Kind::Block { last - first + 1 } else { 1 };
        self.found.push(Use { kind, place: self.place.join("::"), line: first, lines, proof });
    }

    /// Notes a use that its documentation proves, or a comment.
    fn documented(&mut self, kind: Kind, span: Span, attributes: &[Attribute]) {
        self.commented(kind, span);
        if let Some(found) = self.found.last_mut() {
            let trait_says = || self.of_trait.then(|| "what the trait asks of the caller.".into());
            let said = proof::section(attributes).or(found.proof.take());
            found.proof = said.or_else(trait_says);
        }
    }

    /// The same in a macro, where documentation is text.
    fn described(&mut self, kind: Kind, span: Span) {
        self.commented(kind, span);
        if let Some(found) = self.found.last_mut() {
            let line = span.start().line;
            found.proof = proof::section_above(&self.text, line).or(found.proof.take());
        }
    }

    fn function(&mut self, signature: &Signature, attributes: &[Attribute]) {
        if let Safety::Unsafe(token) = signature.safety {
            self.documented(Kind::Function, token.span, attributes);
        }
    }

    /// Visits what lies inside something named.
    fn inside(&mut self, name: String, visit: impl FnOnce(&mut Self)) {
        self.place.push(name);
        visit(self);
        self.place.pop();
    }

    /// Visits what begins on the line of `span`; `fresh`: a proof further out is not its own.
    fn below(&mut self, span: Span, fresh: bool, visit: impl FnOnce(&mut Self)) {
        let outer = if fresh { std::mem::take(&mut self.above) } else { self.above.clone() };
        self.above.push(span.start().line);
        visit(self);
        self.above = outer;
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(word) if word == "unsafe" => {
                    let next = tokens.get(at + 1);
                    let after = matches!(tokens.get(at + 2), Some(TokenTree::Ident(_)));
                    match next {
                        Some(TokenTree::Group(block)) if block.delimiter() == Delimiter::Brace => {
                            let span = word.span().join(block.span()).unwrap_or(word.span());
                            self.commented(Kind::Block, span);
                        }
                        // A type of functions has no name.
                        Some(TokenTree::Ident(next)) if next == "fn" && after => {
                            self.described(Kind::Function, word.span());
                        }
                        Some(TokenTree::Ident(next)) if next == "impl" => {
                            self.commented(Kind::Implementation, word.span());
                        }
                        Some(TokenTree::Ident(next)) if next == "trait" => {
                            self.described(Kind::Trait, word.span());
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Fn(item) => (&item.attrs, Some(item.sig.ident.to_string())),
            Item::Impl(item) => (&item.attrs, Some(implementation(item))),
            Item::Trait(item) => (&item.attrs, Some(item.ident.to_string())),
            Item::Mod(item) => (&item.attrs, None),
            Item::Const(item) => (&item.attrs, Some(item.ident.to_string())),
            Item::Static(item) => (&item.attrs, Some(item.ident.to_string())),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref().map(|name| format!("{name}!"))),
            _ => return visit::visit_item(self, item),
        };
        if of_tests(attributes) {
            return;
        }
        let visit = |this: &mut Self| {
            this.below(item.span(), true, |this| {
                match item {
                    Item::Fn(item) => this.function(&item.sig, &item.attrs),
                    Item::Impl(item) => {
                        if let Some(token) = item.unsafety {
                            this.commented(Kind::Implementation, token.span);
                        }
                    }
                    Item::Trait(item) => {
                        if let Some(token) = item.unsafety {
                            this.documented(Kind::Trait, token.span, &item.attrs);
                        }
                    }
                    _ => {}
                }
                let of_trait = matches!(item, Item::Impl(item) if item.trait_.is_some());
                let outer = std::mem::replace(&mut this.of_trait, of_trait);
                visit::visit_item(this, item);
                this.of_trait = outer;
            });
        };
        match name {
            Some(name) => self.inside(name, visit),
            None => visit(self),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let ImplItem::Fn(function) = item else {
            return self.below(item.span(), true, |this| visit::visit_impl_item(this, item));
        };
        if of_tests(&function.attrs) {
            return;
        }
        self.inside(function.sig.ident.to_string(), |this| {
            this.below(item.span(), true, |this| {
                this.function(&function.sig, &function.attrs);
                visit::visit_impl_item(this, item);
            });
        });
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let TraitItem::Fn(function) = item else {
            return visit::visit_trait_item(self, item);
        };
        self.inside(function.sig.ident.to_string(), |this| {
            this.below(item.span(), true, |this| {
                this.function(&function.sig, &function.attrs);
                visit::visit_trait_item(this, item);
            });
        });
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        self.below(statement.span(), true, |this| visit::visit_stmt(this, statement));
    }

    fn visit_expr(&mut self, expression: &'ast syn::Expr) {
        self.below(expression.span(), false, |this| visit::visit_expr(this, expression));
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.below(arm.span(), false, |this| visit::visit_arm(this, arm));
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        self.below(field.span(), false, |this| visit::visit_field_value(this, field));
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        let span = block.unsafe_token.span;
        self.commented(Kind::Block, span.join(block.block.span()).unwrap_or(span));
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_macro(&mut self, given: &'ast syn::Macro) {
        self.tokens(given.tokens.clone());
    }
}

/// `Send for Ram`, or `Ram`.
fn implementation(item: &syn::ItemImpl) -> String {
    let of = match &*item.self_ty {
        Type::Path(of) => of.path.segments.last().map(|part| part.ident.to_string()),
        Type::Reference(of) => match &*of.elem {
            Type::Path(of) => of.path.segments.last().map(|part| format!("&{}", part.ident)),
            _ => None,
        },
        _ => None,
    };
    let of = of.unwrap_or_else(|| "_".into());
    let implements = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
    implements.map_or(of.clone(), |path| format!("{} for {of}", path.ident))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Kind, String, Option<String>)> {
        let syntax = syn::parse_file(text).expect("the test's text is Rust");
        let uses = uses(&syntax, text).into_iter();
        uses.map(|found| (found.kind, found.place, found.proof)).collect()
    }

    fn one(kind: Kind, place: &str, proof: &str) -> (Kind, String, Option<String>) {
        (kind, place.into(), Some(proof.into()))
    }

    #[test]
    fn each_kind_is_found_with_its_proof() {
        let text = "
/// # Safety
/// Be brave.
unsafe trait Brave {}
// SAFETY: it is.
unsafe impl Brave for X {}
impl X {
    /// # Safety
    /// The caller's.
    unsafe fn go(self) {
        // SAFETY: the caller's promise.
        let y = f(|| match z {
            // SAFETY: a zero.
            0 => unsafe { zero() },
            _ => unsafe { other() },
        });
    }
}
";
        let expected = [
            one(Kind::Trait, "Brave", "Be brave."),
            one(Kind::Implementation, "Brave for X", "it is."),
            one(Kind::Function, "X::go", "The caller's."),
            one(Kind::Block, "X::go", "a zero."),
            one(Kind::Block, "X::go", "the caller's promise."),
        ];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn a_proof_is_not_borrowed_from_the_statement_before() {
        let text = "
fn f() {
    // SAFETY: the first.
    unsafe { a() };
    unsafe { b() };
}
";
        let expected = [one(Kind::Block, "f", "the first."), (Kind::Block, "f".into(), None)];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn tokens_of_macros_are_searched_and_tests_are_not() {
        let text = "
macro_rules! m {
    () => {
        // SAFETY: in a macro.
        unsafe impl T for X {}
        type F = unsafe fn();
    };
}
fn f() {
    // SAFETY: in an assertion.
    assert_eq!(unsafe { a() }, 1);
}
#[cfg(test)]
mod tests {
    fn g() { unsafe { a() } }
}
";
        let expected = [
            one(Kind::Implementation, "m!", "in a macro."),
            one(Kind::Block, "f", "in an assertion."),
        ];
        assert_eq!(found(text), expected);
    }
}
