//! A test of the library's public surface, which is kept as a file, so that a review shows each change of it.
//!
//! After an intended change, `UPDATE_PUBLIC_API=1 cargo test -p jetstream-handlers-tests --test public_api` writes the
//! file again.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use quote::ToTokens as _;
use syn::{Attribute, ImplItem, Item, TraitItem, UseTree, Visibility};

const LISTING: &str = "jetstream-handlers/public-api.rs";

const HEADER: &str =
    "// The public surface of the crate, written by `tests/tests/public_api.rs`. It is not compiled.\n";

/// Every public item of the library, by name, and every `impl` block, by the name of its type; each with the module of
/// the crate root that contains it.
#[derive(Default)]
struct Definitions {
    items: BTreeMap<String, Vec<(String, Item)>>,
    impls: BTreeMap<String, Vec<(String, syn::ItemImpl)>>,
}

impl Definitions {
    fn read(directory: &Path) -> Self {
        let mut definitions = Self::default();
        let mut files = Vec::new();
        collect(directory, &mut files);
        files.sort();
        for file in files {
            let root = file.strip_prefix(directory).unwrap().components().next().unwrap();
            let root = Path::new(root.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned();
            definitions.add(&root, syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap().items);
        }
        definitions
    }

    fn add(&mut self, root: &str, items: Vec<Item>) {
        for item in items {
            match &item {
                Item::Impl(block) => {
                    if let Some(name) = type_name(&block.self_ty) {
                        self.impls.entry(name).or_default().push((root.to_owned(), block.clone()));
                    }
                }
                Item::Mod(module) if !is_test(&module.attrs) => {
                    if let Some((_, items)) = &module.content {
                        self.add(root, items.clone());
                    }
                }
                _ => {}
            }
            if let Some((name, Visibility::Public(_))) = name_of(&item) {
                self.items.entry(name).or_default().push((root.to_owned(), item));
            }
        }
    }

    /// Lists the item of this name with its public methods and the traits that it implements.
    fn list(&self, root: &str, name: &str, exported: &str, listing: &mut String) {
        let all = self.items.get(name).map_or(&[][..], Vec::as_slice);
        let found: Vec<_> = all.iter().filter(|(module, _)| module == root).collect();
        let [(_, item)] = found[..] else { panic!("`{name}` must have one public definition in `{root}`") };
        // If several modules have a type of this name, only the impl blocks of the item's own module are listed.
        let is_of_item =
            |module: &str, block: &syn::ItemImpl| module == root || (block.trait_.is_some() && all.len() == 1);
        let blocks = self.impls.get(name).into_iter().flatten().filter(|(module, block)| is_of_item(module, block));
        let mut impls: Vec<_> = blocks.filter_map(|(_, block)| public_part(block.clone())).collect();
        impls.sort_by_key(|block| block.to_token_stream().to_string());
        let items = [surface(item.clone())].into_iter().chain(impls.into_iter().map(Item::Impl)).collect();
        writeln!(listing, "\n// {exported}").unwrap();
        listing.push_str(&print(items));
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn type_name(ty: &syn::Type) -> Option<String> {
    match ty {
        syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
        _ => None,
    }
}

fn name_of(item: &Item) -> Option<(String, &Visibility)> {
    let (name, visibility) = match item {
        Item::Const(item) => (&item.ident, &item.vis),
        Item::Enum(item) => (&item.ident, &item.vis),
        Item::Fn(item) => (&item.sig.ident, &item.vis),
        Item::Struct(item) => (&item.ident, &item.vis),
        Item::Trait(item) => (&item.ident, &item.vis),
        Item::Type(item) => (&item.ident, &item.vis),
        _ => return None,
    };
    Some((name.to_string(), visibility))
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("doc") && attribute.to_token_stream().to_string().contains("hidden"))
}

/// Removes all attributes that do not affect a caller.
fn strip(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| {
        ["must_use", "non_exhaustive", "derive"].iter().any(|kept| attribute.path().is_ident(kept))
    });
}

/// Returns an item without its documentation, its private fields and its function bodies.
fn surface(mut item: Item) -> Item {
    let empty = || syn::parse_quote!({});
    match &mut item {
        Item::Const(item) => {
            strip(&mut item.attrs);
            *item.expr = syn::parse_quote!(_);
        }
        Item::Enum(item) => {
            strip(&mut item.attrs);
            for variant in &mut item.variants {
                strip(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| strip(&mut field.attrs));
            }
        }
        Item::Fn(item) => {
            strip(&mut item.attrs);
            *item.block = empty();
        }
        Item::Struct(item) => {
            strip(&mut item.attrs);
            let is_public = |field: &syn::Field| matches!(field.vis, Visibility::Public(_));
            item.fields = match std::mem::replace(&mut item.fields, syn::Fields::Unit) {
                syn::Fields::Named(mut fields) => {
                    fields.named = fields.named.into_iter().filter(is_public).collect();
                    syn::Fields::Named(fields)
                }
                syn::Fields::Unnamed(mut fields) => {
                    fields.unnamed = fields.unnamed.into_iter().filter(is_public).collect();
                    syn::Fields::Unnamed(fields)
                }
                syn::Fields::Unit => syn::Fields::Unit,
            };
            item.fields.iter_mut().for_each(|field| strip(&mut field.attrs));
        }
        Item::Trait(item) => {
            strip(&mut item.attrs);
            for member in &mut item.items {
                if let TraitItem::Fn(function) = member {
                    strip(&mut function.attrs);
                    function.default = function.default.is_some().then(empty);
                    function.semi_token = function.default.is_none().then(Default::default);
                }
            }
        }
        Item::Type(item) => strip(&mut item.attrs),
        _ => {}
    }
    item
}

/// Returns the public methods of an `impl` block, or the header of one of a trait; `None` if nothing is left.
fn public_part(mut block: syn::ItemImpl) -> Option<syn::ItemImpl> {
    if is_hidden(&block.attrs) || is_test(&block.attrs) {
        return None;
    }
    block.attrs.clear();
    let is_of_trait = block.trait_.is_some();
    block.items.retain_mut(|item| match item {
        ImplItem::Fn(function) if !is_of_trait && !is_hidden(&function.attrs) => {
            strip(&mut function.attrs);
            function.block = syn::parse_quote!({});
            matches!(function.vis, Visibility::Public(_))
        }
        ImplItem::Type(ty) => {
            strip(&mut ty.attrs);
            is_of_trait
        }
        _ => false,
    });
    (is_of_trait || !block.items.is_empty()).then_some(block)
}

fn print(items: Vec<Item>) -> String {
    let mut file = syn::parse_file("").unwrap();
    file.items = items;
    prettyplease::unparse(&file)
}

/// Lists what a module of the crate exports.
fn list_module(items: &[Item], root: &str, path: &str, definitions: &Definitions, listing: &mut String) {
    for item in items {
        match item {
            Item::Use(item) if matches!(item.vis, Visibility::Public(_)) && !is_hidden(&item.attrs) => {
                list_use(&item.tree, &mut Vec::new(), root, path, definitions, listing);
            }
            Item::Mod(item) if matches!(item.vis, Visibility::Public(_)) && !is_hidden(&item.attrs) => {
                let path = format!("{path}::{}", item.ident);
                match &item.content {
                    Some((_, items)) => list_module(items, root, &path, definitions, listing),
                    None => {
                        let root = item.ident.to_string();
                        list_module(&module_file(&root), &root, &path, definitions, listing);
                    }
                }
            }
            _ => {
                if let Some((name, Visibility::Public(_))) = name_of(item) {
                    definitions.list(root, &name, &format!("{path}::{name}"), listing);
                }
            }
        }
    }
}

fn list_use(
    tree: &UseTree,
    from: &mut Vec<String>,
    root: &str,
    path: &str,
    definitions: &Definitions,
    listing: &mut String,
) {
    match tree {
        UseTree::Path(tree) => {
            from.push(tree.ident.to_string());
            list_use(&tree.tree, from, root, path, definitions, listing);
            from.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                list_use(tree, from, root, path, definitions, listing);
            }
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            let is_ours =
                from.first().is_some_and(|first| first != "async_nats" && !first.starts_with("jetstream_handlers"));
            // An item that the crate root exports is listed only there.
            if is_ours && from[0] != "crate" {
                // `pub use` in a module names its children; at the crate root it names a module.
                let root = if root == "lib" { &from[0] } else { root };
                definitions.list(root, &name, &format!("{path}::{name}"), listing);
            } else {
                from.push(name.clone());
                writeln!(listing, "\n// {path}::{name}\npub use {};", from.join("::")).unwrap();
                from.pop();
            }
        }
        UseTree::Rename(_) | UseTree::Glob(_) => {
            panic!("name each item that the crate exports: {}", tree.to_token_stream())
        }
    }
}

fn source() -> PathBuf {
    workspace().join("jetstream-handlers/src")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the items of a module that has a file of its own.
fn module_file(name: &str) -> Vec<Item> {
    let file = [source().join(format!("{name}.rs")), source().join(name).join("mod.rs")];
    let file = file.iter().find(|file| file.is_file()).unwrap();
    syn::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap().items
}

#[test]
fn the_public_surface_is_the_listed_one() {
    let definitions = Definitions::read(&source());
    let mut listing = HEADER.to_owned();
    list_module(&module_file("lib"), "lib", "jetstream_handlers", &definitions, &mut listing);
    let file = workspace().join(LISTING);
    if std::env::var_os("UPDATE_PUBLIC_API").is_some() {
        std::fs::write(&file, &listing).unwrap();
    }
    let listed = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = listed.lines().zip(listing.lines()).find(|(listed, found)| listed != found);
    assert!(
        listed == listing,
        "the public surface is not the one of {LISTING}; the first line that differs: {differs:?}; after an intended change run with UPDATE_PUBLIC_API=1"
    );
}

/// A handle that an application shares between threads, or a future that it spawns, must not lose `Send` by accident.
#[test]
fn handles_and_futures_can_move_between_threads() {
    use jetstream_handlers::testing::TestBroker;
    use jetstream_handlers::{
        Broker, Builder, Context, DeadLetter, DeadLetters, Error, HandlerError, Headers, Health, Info, IngestError,
        Message, Problem, PublishAll, PublishMessage, Publisher, Running, Shutdown, State, Subject, Subscribe,
        Subscription,
    };

    fn is_send<T: Send>() {}
    fn is_send_and_sync<T: Send + Sync>() {}
    fn is_send_future<T>(_: impl FnOnce(&'static Broker) -> T)
    where
        T: Future + Send,
    {
    }

    is_send_and_sync::<(Broker, Running, Subscription, Publisher, DeadLetters, DeadLetter, Health)>();
    is_send_and_sync::<(Context, Headers, Info, Message, Shutdown, State<String>, Subject)>();
    is_send_and_sync::<(Error, IngestError, Problem, HandlerError)>();
    is_send::<(Builder, Subscribe<'_>, PublishMessage, PublishAll<'_>, TestBroker)>();
    is_send_future(|_| Broker::builder().connect());
    is_send_future(|broker| broker.start_all());
    is_send_future(|broker| broker.run_groups(["group"]));
    is_send_future(|broker| broker.publish("subject", &1));
    is_send_future(|broker| broker.publisher().publish_atomic([broker.publish_message("subject", &1)]));
    is_send_future(|broker| broker.publisher().ingest([broker.publish_message("subject", &1)]));
    is_send_future(|broker| broker.subscribe("subject", "queue", |_: u64| async {}).into_future());
    is_send_future(|broker| async { broker.dead_letters().replay_all().await });
    is_send_future(|broker| broker.disconnect());
}
