//! The rooms of the sources: ARCHITECTURE.md states what each may name, and no files name each other in a circle.

use olmo_tests::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file of a crate.
struct Source {
    /// Below `src`.
    path: PathBuf,
    /// Code without comments and without tests; as many lines as the file up to its tests.
    code: String,
}

/// A path that begins at a crate, as `["format", "layout", "Role"]`, and its line.
struct Name {
    line: usize,
    segments: Vec<String>,
}

impl Source {
    /// The modules of the file: `format::layout` of `format/layout.rs`, `format` of `format/mod.rs`.
    fn modules(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let mut modules: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        if matches!(modules.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            modules.pop();
        }
        modules
    }

    /// The modules with a body in this file that surround a place in its code.
    fn inline_modules(&self, place: usize) -> Vec<String> {
        let mut open = Vec::new();
        for line in self.code[..place].split_inclusive('\n') {
            let words = line.trim_end().strip_suffix(" {").map(|head| head.rsplit(' ').take(2).collect::<Vec<_>>());
            for (index, c) in line.char_indices() {
                let is_module = |words: &&Vec<&str>| words.get(1) == Some(&"mod") && line[index..].trim_end() == "{";
                match c {
                    '{' => open.push(words.as_ref().filter(is_module).map(|words| words[0].to_string())),
                    '}' => drop(open.pop()),
                    _ => {}
                }
            }
        }
        open.into_iter().flatten().collect()
    }

    /// All paths that begin with one of `roots`, those of `use` with braces taken apart; and, with `crate` among them,
    /// those that begin with `super` or with a module that the file declares.
    fn names(&self, roots: &[&str]) -> Vec<Name> {
        let modules = self.modules();
        let is_crate = roots.contains(&"crate");
        let declared: BTreeSet<&str> = self
            .code
            .lines()
            .filter_map(|line| line.trim().strip_suffix(';')?.split_once("mod "))
            .filter(|(before, _)| before.is_empty() || before.trim_end().starts_with("pub"))
            .map(|(_, name)| name)
            .collect();
        let mut names = Vec::new();
        let bytes = self.code.as_bytes();
        let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
        let mut at = 0;
        while at < bytes.len() {
            if !is_word(bytes[at]) {
                at += 1;
                continue;
            }
            let end = (at..bytes.len()).find(|&i| !is_word(bytes[i])).unwrap_or(bytes.len());
            let word = &self.code[at..end];
            let is_first = !self.code[..at].ends_with("::");
            if is_first && self.code[end..].starts_with("::") {
                let start = match word {
                    "super" if is_crate => {
                        let mut around = [&modules[..], &self.inline_modules(at)].concat();
                        around.pop();
                        Some(around)
                    }
                    _ if roots.contains(&word) => Some(Vec::new()),
                    _ if is_crate && declared.contains(word) => Some([&modules[..], &[word.to_string()]].concat()),
                    _ => None,
                };
                if let Some(start) = start {
                    let line = self.code[..at].matches('\n').count() + 1;
                    paths(&self.code[end + 2..], start, &mut |segments| names.push(Name { line, segments }));
                }
            }
            at = end;
        }
        names
    }
}

/// The paths in `rest`, which follows `start` and `::`.
fn paths(rest: &str, mut start: Vec<String>, found: &mut impl FnMut(Vec<String>)) {
    if let Some(inside) = rest.strip_prefix('{') {
        let (mut depth, mut from) = (0, 0);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    paths(inside[from..at].trim(), start.clone(), found);
                    from = at + 1;
                }
                '}' if depth == 0 => return paths(inside[from..at].trim(), start, found),
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    match &rest[..end] {
        "" | "self" => {}
        "super" => {
            start.pop();
        }
        word => start.push(word.into()),
    }
    match rest[end..].strip_prefix("::") {
        Some(rest) if end > 0 => paths(rest, start, found),
        _ => found(start),
    }
}

/// The code of a file before its tests, with nothing left of its comments but the ends of their lines.
fn code(text: &str) -> String {
    let lines = text.lines().collect::<Vec<_>>();
    let is_tests = |at: usize| {
        lines[at].starts_with("#[cfg(test)]")
            && lines[at..].iter().find(|line| !line.starts_with("#[")).is_some_and(|line| line.contains("mod "))
    };
    let end = (0..lines.len()).find(|&at| is_tests(at)).unwrap_or(lines.len());
    let uncommented = lines[..end].iter().map(|line| line.split("//").next().unwrap_or_default());
    uncommented.flat_map(|line| [line, "\n"]).collect()
}

/// All sources of a crate, without those of tests.
fn sources(source: &Path) -> Vec<Source> {
    let (mut sources, mut folders) = (Vec::new(), vec![source.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if path.is_dir() {
                folders.push(path);
            } else if is_source && !path.ends_with("tests.rs") && !path.ends_with("barrier_model.rs") {
                let code = code(&fs::read_to_string(&path).expect("a source"));
                sources.push(Source { path: path.strip_prefix(source).expect("inside").into(), code });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// What the table of a crate in ARCHITECTURE.md allows: for each room the rooms that it may name.
fn allowed(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, table) = text.split_once(&format!("## {heading}\n")).expect("the heading");
    let table = table.split("\n## ").next().expect("a part");
    let words = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches('/').to_string()).collect()
    };
    let rows = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.trim_end_matches(" |").split(" | ").collect();
        Some((words(&format!("`{}", cells[0])), words(cells.last()?).into_iter().collect::<BTreeSet<_>>()))
    });
    rows.flat_map(|(rooms, may)| rooms.into_iter().map(move |room| (room, may.clone()))).collect()
}

/// The room of a file: its first folder below `src`, that of a program below `bin`, or its own name.
fn room(path: &Path) -> String {
    let mut parts = path.iter().map(|part| part.to_string_lossy().into_owned());
    let first = parts.next().expect("a name");
    match first.as_str() {
        "bin" => format!("bin/{}", parts.next().expect("a program")),
        _ => first.trim_end_matches(".rs").to_string(),
    }
}

/// What `sources` name and may not, each with its file and line.
fn upward_names(sources: &[Source], within: &str, roots: &[&str], table: &str) -> Vec<String> {
    let allowed = allowed(table);
    let mut wrong = Vec::new();
    for source in sources {
        let room = room(&source.path);
        let file = format!("{within}/{}", source.path.display());
        let Some(may) = allowed.get(&room) else {
            wrong.push(format!("{file}: the room {room} is not in ARCHITECTURE.md"));
            continue;
        };
        for Name { line, segments } in source.names(roots) {
            // Names outside the rooms count, too: the root exports rooms above again, as `crate::Model`.
            let named = segments.iter().find(|segment| *segment != "internals").map_or("*", String::as_str);
            let is_own = roots.contains(&"crate") && named == room;
            if !is_own && !may.contains(named) {
                wrong.push(format!("{file}:{line}: {room} may not name {named}"));
            }
        }
    }
    wrong
}

fn runtime() -> Vec<Source> {
    sources(&repository().join("runtime/src"))
}

fn converter() -> Vec<Source> {
    sources(&repository().join("converter/src"))
}

#[test]
fn runtime_names_only_rooms_below() {
    let (programs, rooms): (Vec<_>, Vec<_>) = runtime().into_iter().partition(|source| source.path.starts_with("bin"));
    assert!(rooms.len() > 50 && programs.len() > 20, "{} and {}", rooms.len(), programs.len());
    let mut wrong = upward_names(&rooms, "runtime/src", &["crate"], "runtime/src");
    wrong.extend(upward_names(&programs, "runtime/src", &["olmo_infer"], "The programs"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn converter_names_only_rooms_below() {
    let sources = converter();
    assert!(sources.len() > 40, "{}", sources.len());
    let mut wrong = upward_names(&sources, "converter/src", &["crate"], "converter/src");
    wrong.extend(upward_names(&sources, "converter/src", &["olmo_infer"], "The converter and the runtime"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn upward_names_are_found_in_every_spelling() {
    let wrong = |path: &str, code: &str, roots: &[&str], table: &str| {
        let source = Source { path: path.into(), code: code.into() };
        upward_names(&[source], "src", roots, table).concat()
    };
    for (path, code, named) in [
        ("os/disk.rs", "use crate::format::layout;", "format"),
        ("os/disk.rs", "use crate::{error, kernels::grid};", "kernels"),
        ("os/disk.rs", "fn f() { super::super::text::chat() }", "text"),
        ("network/forward.rs", "\nuse crate::Model;", "Model"),
        ("format/sizes.rs", "use crate::{error::Error, Sampling};", "Sampling"),
        ("format/sizes.rs", "use crate::internals::Session;", "Session"),
        ("format/sizes.rs", "use crate::*;", "*"),
    ] {
        let (room, line) = (path.split('/').next().expect("a room"), 1 + code.matches('\n').count());
        let expected = format!("src/{path}:{line}: {room} may not name {named}");
        assert_eq!(wrong(path, code, &["crate"], "runtime/src"), expected);
    }
    for (code, named) in [
        ("use olmo_infer::internals::kernels::isa;", "kernels"),
        ("use olmo_infer::internals::{error, model};", "model"),
        ("use olmo_infer::Model;", "Model"),
        ("use olmo_infer::internals::*;", "*"),
    ] {
        let expected = format!("src/model/shapes.rs:1: model may not name {named}");
        assert_eq!(wrong("model/shapes.rs", code, &["olmo_infer"], "The converter and the runtime"), expected);
    }
    for code in ["use crate::error::Error;", "use crate::format::layout;", "use super::sizes;"] {
        assert_eq!(wrong("format/kinds.rs", code, &["crate"], "runtime/src"), "");
    }
    let code = "use olmo_infer::Error; use olmo_infer::internals::{format::layout, os};";
    assert_eq!(wrong("model/shapes.rs", code, &["olmo_infer"], "The converter and the runtime"), "");
}

/// Files that name each other, each circle once.
fn circles(sources: &[Source]) -> Vec<String> {
    let files: BTreeMap<Vec<String>, usize> =
        sources.iter().enumerate().map(|(index, source)| (source.modules(), index)).collect();
    let named = |source: &Source| -> BTreeSet<usize> {
        let names = source.names(&["crate"]).into_iter();
        names
            .filter_map(|name| (1..=name.segments.len()).rev().find_map(|n| files.get(&name.segments[..n]).copied()))
            .collect()
    };
    let mut edges: Vec<BTreeSet<usize>> = sources.iter().map(named).collect();
    edges.iter_mut().enumerate().for_each(|(index, edges)| {
        edges.remove(&index);
    });
    // A file that names no file that is left, or is named by none, is in no circle.
    let mut left: BTreeSet<usize> = (0..sources.len()).collect();
    loop {
        let ends = |&index: &usize| {
            edges[index].is_disjoint(&left) || !left.iter().any(|&other| edges[other].contains(&index))
        };
        let gone: Vec<usize> = left.iter().copied().filter(ends).collect();
        if gone.is_empty() {
            break;
        }
        left.retain(|index| !gone.contains(index));
    }
    let name = |index: usize| sources[index].path.display().to_string();
    left.iter()
        .map(|&index| {
            let names: Vec<String> = edges[index].intersection(&left).map(|&other| name(other)).collect();
            format!("{} names {}", name(index), names.join(", "))
        })
        .collect()
}

#[test]
fn files_name_each_other_in_no_circle() {
    for sources in [runtime(), converter()] {
        let (programs, rooms): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| source.path.starts_with("bin"));
        let circles = [circles(&rooms), circles(&programs)].concat();
        assert!(circles.is_empty(), "{}", circles.join("\n"));
    }
}
