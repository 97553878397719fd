//! What the documents tell people to open or to apply is there.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// The documents, from the project's root.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                documents(&path, found);
            }
        } else if is_a(&path, "md") {
            found.push(path);
        }
    }
}

fn is_a(path: &Path, kind: &str) -> bool {
    path.extension().is_some_and(|extension| extension == kind)
}

/// The targets of links within the project, and what `kubectl apply -f` takes.
fn named(text: &str) -> (Vec<&str>, Vec<&str>) {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let links = links.filter(|l| !l.is_empty() && !l.contains("://") && !l.contains(char::is_whitespace));
    let files = text.split(" -f ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n']).next());
    (links.collect(), files.filter(|f| is_a(Path::new(f), "yaml")).collect())
}

#[test]
fn what_they_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut missing, mut seen) = (Vec::new(), Vec::new(), 0);
    documents(root, &mut found);
    for document in &found {
        let text = fs::read_to_string(document).unwrap();
        let (links, files) = named(&text);
        let links = links.into_iter().map(|link| document.parent().unwrap().join(link));
        let paths: Vec<PathBuf> = links.chain(files.into_iter().map(|file| root.join(file))).collect();
        seen += paths.len();
        let absent = paths.into_iter().filter(|path| !path.exists());
        missing.extend(absent.map(|path| format!("{} names {}", document.display(), path.display())));
    }
    assert!(seen > 20, "{seen} paths in {} documents", found.len());
    assert!(missing.is_empty(), "{missing:#?}");
}
