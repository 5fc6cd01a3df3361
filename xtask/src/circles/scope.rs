//! Which file a path leads to.
//!
//! Names are looked up as the compiler does it, as far as modules go: what a module defines, what it
//! imports by name or by `*`, and its children.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemUse, UseTree, Visibility};

use super::graph::Edges;
use crate::source::{Source, of_tests};

/// A module by its path; the library's root has none.
type Module = Vec<String>;

/// What a name stands for in a module.
#[derive(Clone, PartialEq, Debug)]
enum Named {
    /// Something that this file defines.
    Item(String),
    Module(Module),
    /// An import: the module that has it, and the path that it writes.
    Import(Module, Vec<String>),
}

/// The names of a module.
#[derive(Default)]
struct Names {
    named: BTreeMap<String, Named>,
    /// Paths of modules, all of whose names are imported.
    globs: Vec<Vec<String>>,
}

/// A path that a file writes.
struct Written {
    file: String,
    module: Module,
    path: Vec<String>,
    /// It hands on what is its child's.
    hands_on: bool,
}

/// The modules of a library.
#[derive(Default)]
pub(super) struct Library {
    modules: BTreeMap<Module, Names>,
    written: Vec<Written>,
}

impl Library {
    /// Reads the names and the paths of all files.
    pub(super) fn of(sources: &[Source]) -> Self {
        let mut library = Self::default();
        for source in sources {
            let module: Module = match source.name.as_str() {
                "lib" => Module::new(),
                name => name.split('/').map(str::to_owned).collect(),
            };
            library.read(&source.name, &module, &source.syntax.items);
        }
        library
    }

    /// The edges between the files.
    pub(super) fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for written in &self.written {
            let Some((file, name)) = self.resolve(&written.module, &written.path, 0) else {
                continue;
            };
            if file != written.file && !written.hands_on {
                let names = edges.entry(written.file.clone()).or_default().entry(file).or_default();
                names.insert(name);
            }
        }
        edges
    }

    fn read(&mut self, file: &str, module: &Module, items: &[Item]) {
        for item in items.iter().filter(|item| !of_tests(attributes(item))) {
            self.define(file, module, item);
            match item {
                Item::Mod(inner) => {
                    let child = [module.as_slice(), &[inner.ident.to_string()]].concat();
                    if let Some((_, items)) = &inner.content {
                        self.read(file, &child, items);
                    }
                }
                Item::Use(import) => self.import(file, module, import),
                item => {
                    let mut finder = Finder { paths: BTreeSet::new() };
                    finder.visit_item(item);
                    self.note(file, module, finder.paths);
                }
            }
        }
    }

    fn note(&mut self, file: &str, module: &Module, paths: BTreeSet<Vec<String>>) {
        let written = paths.into_iter().map(|path| Written {
            file: file.to_owned(),
            module: module.clone(),
            path,
            hands_on: false,
        });
        self.written.extend(written);
    }

    fn define(&mut self, file: &str, module: &Module, item: &Item) {
        let names = self.modules.entry(module.clone()).or_default();
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Macro(item) => {
                let Some(ident) = &item.ident else { return };
                ident
            }
            Item::Mod(item) => {
                let name = item.ident.to_string();
                let child = [module.as_slice(), std::slice::from_ref(&name)].concat();
                names.named.insert(name, Named::Module(child));
                return;
            }
            _ => return,
        };
        names.named.entry(name.to_string()).or_insert_with(|| Named::Item(file.to_owned()));
    }

    fn import(&mut self, file: &str, module: &Module, import: &ItemUse) {
        let mut found = Vec::new();
        flatten(&import.tree, &mut Vec::new(), &mut found);
        let public = !matches!(import.vis, Visibility::Inherited);
        for (path, name) in found {
            let names = self.modules.entry(module.clone()).or_default();
            match name {
                // A module beside it has the same name.
                Some(name) if path.len() > 1 => {
                    let import = Named::Import(module.clone(), path.clone());
                    names.named.entry(name).or_insert(import);
                }
                Some(_) => continue,
                None => names.globs.push(path.clone()),
            }
            let full = absolute(module, &path);
            let of_a_child = full.len() > module.len() + 1 && full.starts_with(module);
            let hands_on = public && of_a_child;
            let (file, module) = (file.to_owned(), module.clone());
            self.written.push(Written { file, module, path, hands_on });
        }
    }

    /// The file in which a path ends, and the name there; `None` for a module, and for another library's.
    fn resolve(&self, module: &Module, path: &[String], depth: usize) -> Option<(String, String)> {
        let full = absolute(module, path);
        let (mut at, mut rest) = (Module::new(), full.as_slice());
        // Imports that lead to each other end here.
        if depth > 16 {
            return None;
        }
        while let Some((name, more)) = rest.split_first() {
            match self.lookup(&at, name, depth)? {
                Named::Item(file) => return Some((file, name.clone())),
                Named::Module(child) => (at, rest) = (child, more),
                Named::Import(module, path) => {
                    let path = [path.as_slice(), more].concat();
                    return self.resolve(&module, &path, depth + 1);
                }
            }
        }
        None
    }

    fn lookup(&self, module: &Module, name: &str, depth: usize) -> Option<Named> {
        let names = self.modules.get(module)?;
        if let Some(named) = names.named.get(name) {
            return Some(named.clone());
        }
        if depth > 16 {
            return None;
        }
        names.globs.iter().find_map(|glob| {
            let path = [glob.as_slice(), &[name.to_owned()]].concat();
            let (file, _) = self.resolve(module, &path, depth + 1)?;
            Some(Named::Item(file))
        })
    }
}

/// A path from the library's root on. One that does not say how it goes there begins in its module.
fn absolute(module: &Module, path: &[String]) -> Vec<String> {
    let mut at = match path.first().map(String::as_str) {
        Some("crate") => return path.iter().skip(1).cloned().collect(),
        _ => module.clone(),
    };
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        match first.as_str() {
            "self" => {}
            "super" => {
                at.pop();
            }
            _ => break,
        }
        rest = more;
    }
    at.extend(rest.iter().cloned());
    at
}

/// All that a tree of imports names: path, and name here; no name for `*`.
fn flatten(
    tree: &UseTree,
    before: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, Option<String>)>,
) {
    let with = |before: &[String], name: &str| [before, &[name.to_owned()]].concat();
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            found.push((before.clone(), before.last().cloned()));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            found.push((with(before, &name), Some(name)));
        }
        UseTree::Rename(rename) => {
            let path = with(before, &rename.ident.to_string());
            found.push((path, Some(rename.rename.to_string())));
        }
        UseTree::Glob(_) => found.push((before.clone(), None)),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, found);
            }
        }
    }
}

fn attributes(item: &Item) -> &[syn::Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The paths of more than one name in an item, and single names, which may be a module's.
struct Finder {
    paths: BTreeSet<Vec<String>>,
}

impl Finder {
    /// Paths in the tokens of a macro.
    fn search(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Ident(ident) => {
                    self.paths.insert(std::mem::replace(&mut path, vec![ident.to_string()]));
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                token => {
                    if !path.is_empty() {
                        self.paths.insert(std::mem::take(&mut path));
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = token {
                        self.search(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.insert(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        self.search(of.tokens.clone());
        visit::visit_macro(self, of);
    }

    // Imports within functions are seen as paths from the root alone.
    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        let mut found = Vec::new();
        flatten(&import.tree, &mut Vec::new(), &mut found);
        self.paths.extend(found.into_iter().map(|(path, _)| path));
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if !of_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(files: &[(&str, &str)]) -> Library {
        let source = |(name, text): &(&str, &str)| Source {
            name: (*name).to_owned(),
            path: format!("{name}.rs").into(),
            text: (*text).to_owned(),
            syntax: syn::parse_file(text).expect("a file"),
        };
        Library::of(&files.iter().map(source).collect::<Vec<_>>())
    }

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let edges = library(files).edges();
        let all = edges.iter().flat_map(|(from, to)| {
            to.iter().flat_map(move |(to, names)| {
                names.iter().map(move |name| format!("{from} {to} {name}"))
            })
        });
        all.collect()
    }

    #[test]
    fn a_path_leads_to_the_file_that_defines() {
        let files = [
            ("lib", "mod a; mod b; pub use b::Thing;"),
            ("a", "use crate::Thing; fn f(t: Thing) { super::b::call(t) }"),
            ("b", "pub struct Thing; pub fn call(t: Thing) {}"),
        ];
        assert_eq!(edges(&files), ["a b Thing", "a b call"]);
    }

    #[test]
    fn modules_children_and_globs_are_followed() {
        let files = [
            ("lib", "mod a; mod b; mod c;"),
            ("a", "use crate::b; use b::*; fn f() { b::inner::g(); h() }"),
            ("b", "mod inner; pub fn h() {} pub(crate) use inner::g; use inner::own;"),
            ("b/inner", "pub fn g() { super::h() } pub fn own() {}"),
            ("c", "use crate::b::g as other; fn f() { other() }"),
        ];
        let all = ["a b h", "a b/inner g", "b b/inner own", "b/inner b h", "c b/inner g"];
        assert_eq!(edges(&files), all);
    }

    #[test]
    fn tests_and_other_libraries_are_left_out() {
        let files = [
            ("lib", "mod a; mod b;"),
            ("a", "use core::fmt; #[cfg(test)] mod tests { use crate::b::B; }"),
            ("b", "pub struct B; impl B { fn a() -> u8 { vec![crate::a::X].len() } }"),
        ];
        assert_eq!(edges(&files), Vec::<String>::new());
    }

    #[test]
    fn a_macros_paths_count() {
        let files = [
            ("lib", "mod a; mod b;"),
            ("a", "fn f() { assert!(crate::b::is(1), \"{}\", crate::b::X) }"),
            ("b", "pub fn is(n: u8) -> bool { true } pub const X: u8 = 1;"),
        ];
        assert_eq!(edges(&files), ["a b X", "a b is"]);
    }
}
