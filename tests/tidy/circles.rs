//! Circles of files: within a room too, what a file needs stands in files that do not need it.
//!
//! The edges are read from paths: `crate::`, `self::` and `super::` (as often as it stands there), in groups as well, and
//! through what a parent passes on with `use child::Name`. Tests count as no edge. What is not seen: a parent that uses the
//! children which it declares (the two are one place), names that come by `*`, and code made by macros.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::{identifier, words};
use crate::{Finding, Source};

/// A module as the names from the crate's root: `["tls", "crl", "parse"]`.
type Module = Vec<String>;

/// Each circle that is not among `known`, and each known one that is none any more. A circle is the paths of its files, without
/// `src/` and `.rs`, in their order and with a space between.
pub(crate) fn circle_findings(files: &[Source], known: &[&str]) -> Vec<Finding> {
    let found = circles(files);
    let is_known = |circle: &str| known.contains(&circle);
    let at = |circle: &str, what: String| {
        let first = circle.split(' ').next().unwrap_or_default();
        Finding {
            path: format!("src/{first}.rs"),
            line: 1,
            what,
        }
    };
    let new = found.iter().filter(|circle| !is_known(circle));
    let new = new.map(|circle| {
        let what = "these files use each other in a circle; move what both need into a file of its own, below them, or turn a \
                    call round";
        at(circle, format!("{what}: {circle}"))
    });
    let gone = known.iter().filter(|circle| !found.contains(**circle));
    let gone = gone.map(|circle| {
        let what = "this circle is in CIRCLES and is none any more; take it out, or write what is left of it";
        at(circle, format!("{what}: {circle}"))
    });
    new.chain(gone).collect()
}

/// The circles of more than one file.
fn circles(files: &[Source]) -> BTreeSet<String> {
    let code: BTreeMap<Module, String> = files
        .iter()
        .filter(|file| !is_test_file(&file.path))
        .map(|file| (module(&file.path), without_tests(&file.code)))
        .collect();
    let mut passed_on = BTreeMap::new();
    for (module, code) in &code {
        passed_on.extend(names_passed_on(module, code));
    }
    let edges: BTreeMap<&Module, BTreeSet<&Module>> = code
        .iter()
        .map(|(module, text)| {
            let used = used_names(module, text);
            let used = used
                .into_iter()
                .filter_map(|name| owner(&code, resolved(&passed_on, name)));
            // What a module declares is one with it.
            let used = used.filter(|used| used[0] == module[0] && !used.starts_with(module));
            (module, used.collect())
        })
        .collect();
    // Two files are in one circle where each leads to the other.
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = edges
        .keys()
        .map(|module| (*module, reached(&edges, module)))
        .collect();
    let in_circle = |module: &&Module| reached[*module].contains(*module);
    let circle = |module: &Module| {
        let all = reached[module].iter();
        let all = all.filter(|other| reached[**other].contains(module));
        let all: Vec<String> = all.map(|module| module.join("/")).collect();
        all.join(" ")
    };
    let modules = edges.keys().copied().filter(in_circle);
    modules.map(circle).collect()
}

/// All that a module leads to; itself only where it comes back to it.
fn reached<'a>(
    edges: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    from: &Module,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut pending: Vec<&Module> = edges[from].iter().copied().collect();
    while let Some(module) = pending.pop() {
        if reached.insert(module) {
            pending.extend(&edges[module]);
        }
    }
    reached
}

pub(crate) fn is_test_file(path: &str) -> bool {
    path.ends_with("tests.rs") || path.contains("/tests/")
}

/// `["tls", "crl"]` for `src/tls/crl/mod.rs` and `src/tls/crl.rs`.
fn module(path: &str) -> Module {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

/// The code up to the module of tests, which stands last.
fn without_tests(code: &str) -> String {
    let end = code.find("#[cfg(test)]\nmod tests {");
    code[..end.unwrap_or(code.len())].to_owned()
}

/// The full names that a module uses by a path.
fn used_names(module: &Module, code: &str) -> Vec<Module> {
    let mut names = Vec::new();
    for (root, up) in [("crate", None), ("self", Some(0)), ("super", Some(1))] {
        for (at, rest) in words(code, root) {
            let Some(mut rest) = rest.strip_prefix("::") else {
                continue;
            };
            if code[..at].ends_with("::") {
                continue;
            }
            let mut start: Module = match up {
                None => Vec::new(),
                Some(up) => module[..module.len().saturating_sub(up)].to_vec(),
            };
            while let Some(after) = rest.strip_prefix("super::") {
                start.pop();
                rest = after;
            }
            names.extend(tree(&start, rest).into_iter().map(|(name, _)| name));
        }
    }
    names
}

/// What a module passes on of its children, from its own names to theirs.
fn names_passed_on(module: &Module, code: &str) -> Vec<(Module, Module)> {
    let mut names = Vec::new();
    for (_, rest) in words(code, "use") {
        let rest = rest.trim_start();
        let rest = rest.strip_prefix("self::").unwrap_or(rest);
        if matches!(&*identifier(rest), "crate" | "super") {
            continue;
        }
        for (name, called) in tree(module, rest) {
            let mut own = module.clone();
            own.push(called);
            if own != name {
                names.push((own, name));
            }
        }
    }
    names
}

/// The names of a path with groups, `a::{b, c::d as e}`, below `start`, and what each is called.
fn tree(start: &Module, text: &str) -> Vec<(Module, String)> {
    let mut found = Vec::new();
    let mut open: Vec<Module> = Vec::new();
    let mut current = start.clone();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('{') {
            open.push(current.clone());
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix(',').filter(|_| !open.is_empty()) {
            current.clone_from(&open[open.len() - 1]);
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix('}').filter(|_| !open.is_empty()) {
            open.pop();
            rest = after;
            if open.is_empty() {
                return found;
            }
            continue;
        }
        let name = identifier(rest);
        rest = &rest[name.len()..];
        if name.is_empty() {
            match rest.strip_prefix('*') {
                Some(after) if !open.is_empty() => rest = after,
                _ => return found,
            }
            continue;
        }
        current.push(name.clone());
        if let Some(after) = rest.strip_prefix("::") {
            rest = after;
            continue;
        }
        let called = rest.trim_start().strip_prefix("as ");
        let called = called.map(|called| identifier(called.trim_start()));
        if let Some(called) = &called {
            let after = rest.trim_start()["as ".len()..].trim_start();
            rest = &after[called.len()..];
        }
        found.push((current.clone(), called.unwrap_or(name)));
        if open.is_empty() {
            return found;
        }
    }
}

/// A name as its owner calls it.
fn resolved(passed_on: &BTreeMap<Module, Module>, mut name: Module) -> Module {
    // More often than any name is passed on.
    for _ in 0..8 {
        let step = (1..=name.len())
            .rev()
            .find_map(|length| Some((length, passed_on.get(&name[..length])?)));
        let Some((length, other)) = step else {
            break;
        };
        name = other.iter().chain(&name[length..]).cloned().collect();
    }
    name
}

/// The module in which a name stands.
fn owner<T>(modules: &BTreeMap<Module, T>, name: Module) -> Option<&Module> {
    (1..=name.len())
        .rev()
        .find_map(|length| modules.get_key_value(&name[..length]))
        .map(|(module, _)| module)
}

#[test]
fn circles_are_found_in_all_kinds_of_paths() {
    let file = |path: &str, text: &str| Source::new(path, text.to_owned());
    let files = |other: &str| {
        [
            file("src/a/mod.rs", "mod one;\nmod two;\npub use two::Two;\n"),
            file(
                "src/a/one.rs",
                "use super::Two;\n// use super::deep::Three;\n#[cfg(test)]\nmod tests {\n    use super::super::deep;\n}\n",
            ),
            file("src/a/two.rs", other),
            file(
                "src/a/deep/mod.rs",
                "mod three;\npub use three::{Three as Four, X};\n",
            ),
            file("src/a/deep/three.rs", "use super::super::one::One;\n"),
            file("src/b.rs", "use crate::a::Two;\n"),
        ]
    };
    let found = |other: &str| {
        let found = circles(&files(other)).into_iter();
        found.collect::<Vec<String>>()
    };
    assert!(found("use crate::b;\nfn f(x: super::Z) {}\n").is_empty());
    assert_eq!(found("use super::one::One;"), ["a/one a/two"]);
    assert_eq!(found("use crate::a::{b, one::{One}};"), ["a/one a/two"]);
    assert_eq!(found("fn f() { crate::a::one::g() }"), ["a/one a/two"]);
    assert_eq!(
        found("use super::deep::{X as Y, Four};"),
        ["a/deep/three a/one a/two"]
    );
    let none: Vec<Source> = files("").into();
    assert!(circle_findings(&none, &[]).is_empty());
    assert_eq!(circle_findings(&none, &["a/one a/two"]).len(), 1);
    let one = files("use super::one::One;");
    assert_eq!(circle_findings(&one, &[]).len(), 1);
    assert!(circle_findings(&one, &["a/one a/two"]).is_empty());
}
