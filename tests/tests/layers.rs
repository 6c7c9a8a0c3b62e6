//! Tests of the library's layers: no file imports a file of a higher layer, and no files import each other in a cycle.
//!
//! CONTRIBUTING.md describes the layers. The tests read the imports and the paths of every source file.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of the crate root, from the lowest layer to the highest.
///
/// A file may import its own module, the modules of lower layers, and the modules to its left.
const LAYERS: &[&[&str]] = &[
    // Data, which does no I/O.
    &[
        "sync",
        "future",
        "partition",
        "pattern",
        "duration",
        "spelling",
        "text",
        "rules",
        "backoff",
        "error",
        "subject",
        "variable",
        "prefix",
        "key",
        "message",
        "codec",
        "schema",
        "event",
        "plan",
        "declaration",
        "settings",
        "delivery",
        "outcome",
    ],
    // What is seen of a broker and its handlers, which every layer above reports.
    &["observe"],
    // The transports.
    &["memory"],
    &["nats"],
    // The choice between the transports.
    &["transport"],
    // Streams and consumers, publishing, and dead letters.
    &["provision", "publish", "dead_letter", "rights", "doctor"],
    // Handlers and their parameters.
    &["extract", "handler", "layer"],
    // Running handlers, and the partitions that an instance runs.
    &["shares", "worker"],
    // The broker, and test support.
    &["asyncapi", "broker", "pcgroups", "testing"],
    // The command line.
    &["cli"],
];

/// The modules that must not import each other although one is listed before the other.
const STRANGERS: &[(&str, &str)] = &[("nats", "memory")];

/// A module by its path below the crate root: `["nats", "pull"]`.
type Module = Vec<String>;

/// The source files with the modules that each of them names.
struct Sources {
    imports: BTreeMap<Module, BTreeSet<Module>>,
    /// Names that a file takes from the crate root, which re-exports those of every layer.
    from_root: Vec<String>,
}

impl Sources {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jetstream-handlers/src");
        let mut files = BTreeMap::new();
        collect(&root, &root, &mut files);
        // Unit tests may import a higher layer for their setup.
        files.retain(|module, _| module.last().is_none_or(|last| last != "tests"));
        // The crate root imports every layer for its re-exports; the rules are for the files below it.
        files.remove(&Module::new());
        let modules: BTreeSet<_> = files.keys().cloned().collect();
        let (mut imports, mut from_root) = (BTreeMap::new(), Vec::new());
        for (module, file) in &files {
            let mut targets = BTreeSet::new();
            for path in paths(&std::fs::read_to_string(file).unwrap(), module) {
                match file_of(&path, &modules) {
                    Some(target) => drop(targets.insert(target)),
                    None => from_root.push(format!("{} names crate::{}", name(module), name(&path))),
                }
            }
            imports.insert(module.clone(), targets);
        }
        Self { imports, from_root }
    }

    fn arrows(&self) -> impl Iterator<Item = (&Module, &Module)> {
        self.imports.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)))
    }
}

/// Collects the source files below a directory, by module; `mod.rs` and `lib.rs` have the module of their directory.
fn collect(root: &Path, directory: &Path, files: &mut BTreeMap<Module, PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root).unwrap().with_extension("");
            let mut module: Module = relative.iter().map(|component| component.to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            files.insert(module, path);
        }
    }
}

/// Returns every path in a file that begins with `crate`, `super` or `self`, resolved from the crate root.
///
/// Paths in unit tests are left out.
fn paths(text: &str, module: &Module) -> Vec<Module> {
    let file = syn::parse_file(text).unwrap();
    let items = file.items.iter().filter(|item| !is_test(item));
    let tokens: proc_macro2::TokenStream = items.map(quote::ToTokens::to_token_stream).collect();
    let mut found = Vec::new();
    scan(tokens, module, &mut found);
    found
}

fn is_test(item: &syn::Item) -> bool {
    let syn::Item::Mod(item) = item else { return false };
    item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn scan(tokens: proc_macro2::TokenStream, module: &Module, found: &mut Vec<Module>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            proc_macro2::TokenTree::Group(group) => scan(group.stream(), module, found),
            proc_macro2::TokenTree::Ident(ident) => {
                let start = match ident.to_string().as_str() {
                    "crate" => Some(Module::new()),
                    "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
                    "self" => Some(module.clone()),
                    _ => None,
                };
                // `pub(crate)` and `self.field` are not paths.
                if let Some(start) = start
                    && is_path_separator(&tokens, index + 1)
                {
                    index = follow(&tokens, index + 3, start, found);
                    continue;
                }
            }
            _ => {}
        }
        index += 1;
    }
}

fn is_path_separator(tokens: &[proc_macro2::TokenTree], index: usize) -> bool {
    let is_colon = |index: usize| matches!(tokens.get(index), Some(proc_macro2::TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(index) && is_colon(index + 1)
}

/// Follows a path after its first `::`, through the braces of a `use`; returns the index after it.
fn follow(tokens: &[proc_macro2::TokenTree], mut index: usize, mut path: Module, found: &mut Vec<Module>) -> usize {
    loop {
        match tokens.get(index) {
            Some(proc_macro2::TokenTree::Ident(ident)) if ident == "super" => {
                path.pop();
            }
            Some(proc_macro2::TokenTree::Ident(ident)) if ident == "self" => {}
            Some(proc_macro2::TokenTree::Ident(ident)) => path.push(ident.to_string()),
            Some(proc_macro2::TokenTree::Group(group)) => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                let comma = |token: &proc_macro2::TokenTree| matches!(token, proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ',');
                for branch in inner.split(comma).filter(|branch| !branch.is_empty()) {
                    follow(branch, 0, path.clone(), found);
                }
                return index + 1;
            }
            _ => {
                found.push(path);
                return index + 1;
            }
        }
        if !is_path_separator(tokens, index + 1) {
            found.push(path);
            return index + 1;
        }
        index += 3;
    }
}

/// Returns the module of the file in which a path is defined: the longest prefix of the path that is a file.
fn file_of(path: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|module| modules.contains(module))
}

fn name(module: &Module) -> String {
    module.join("::")
}

#[test]
fn every_module_of_the_crate_root_has_a_layer() {
    let listed: BTreeSet<_> = LAYERS.concat().into_iter().collect();
    let sources = Sources::read();
    let existing: BTreeSet<_> = sources.imports.keys().map(|module| module[0].as_str()).collect();
    assert_eq!(listed, existing);
}

#[test]
fn no_file_imports_a_higher_layer() {
    let order = LAYERS.concat();
    let rank = |module: &Module| order.iter().position(|name| *name == module[0]).unwrap();
    let sources = Sources::read();
    let upward: Vec<_> = sources
        .arrows()
        .filter(|(from, to)| rank(from) < rank(to))
        .map(|(from, to)| format!("{} imports {}", name(from), name(to)))
        .collect();
    assert!(upward.is_empty(), "imports of a higher layer:\n{}", upward.join("\n"));
}

#[test]
fn no_file_imports_from_the_crate_root() {
    let from_root = Sources::read().from_root;
    assert!(from_root.is_empty(), "names that hide their layer:\n{}", from_root.join("\n"));
}

#[test]
fn the_transports_do_not_import_each_other() {
    let sources = Sources::read();
    for (from, to) in sources.arrows() {
        for (one, other) in STRANGERS {
            let pair = [from[0].as_str(), to[0].as_str()];
            assert!(pair != [*one, *other] && pair != [*other, *one], "{} imports {}", name(from), name(to));
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = Sources::read();
    // A parent and its child may import each other, because the child is a part of the parent.
    let related = |one: &Module, other: &Module| one.starts_with(other) || other.starts_with(one);
    let mut arrows: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (from, to) in sources.arrows().filter(|(from, to)| !related(from, to)) {
        arrows.entry(from).or_default().insert(to);
    }
    // A file that imports no remaining file, or that no remaining file imports, cannot be part of a cycle.
    loop {
        let before = arrows.len();
        let open: BTreeSet<_> = arrows.keys().copied().collect();
        for targets in arrows.values_mut() {
            targets.retain(|target| open.contains(target));
        }
        let imported: BTreeSet<_> = arrows.values().flatten().copied().collect();
        arrows.retain(|from, targets| !targets.is_empty() && imported.contains(from));
        if arrows.len() == before {
            break;
        }
    }
    let left: Vec<_> = arrows
        .iter()
        .map(|(from, targets)| {
            format!("{} imports {}", name(from), targets.iter().map(|to| name(to)).collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert!(
        left.is_empty(),
        "files that import each other in a circle, or that connect such circles:\n{}",
        left.join("\n")
    );
}

#[test]
fn nothing_in_the_worker_names_the_client_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jetstream-handlers/src");
    let mut files = BTreeMap::new();
    collect(&root, &root, &mut files);
    for (module, path) in files.iter().filter(|(module, _)| module.first().is_some_and(|first| first == "worker")) {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains("async_nats"), "{} names async_nats", name(module));
    }
}
