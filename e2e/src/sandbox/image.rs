//! Decides how a container image is written: a docker-archive whose bytes depend on its contents alone.
//!
//! May read the files that go into it and write the archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// A file tree, an account of how to run it, and its names.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// The names under which a worker knows it.
    pub names: Vec<String>,
    /// The program that always runs.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program if there is no entry point.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// User and group; empty is root.
    pub user: String,
    /// Where the program starts.
    pub directory: String,
    /// The files, by absolute path without the leading slash.
    pub tree: BTreeMap<String, Item>,
}

/// One entry of a file tree.
#[derive(Debug, Clone)]
pub enum Item {
    /// A directory with its mode and owner.
    Directory(u32, u64),
    /// A file of the host with its mode.
    File(PathBuf, u32),
    /// A file with its contents and mode.
    Text(Vec<u8>, u32),
    /// A symbolic link and where it points.
    Link(String),
}

/// A written image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its names.
    pub names: Vec<String>,
    /// The archive.
    pub path: PathBuf,
    /// The SHA-256 of its configuration, which holds that of its layer: what runtimes call the image's id.
    pub digest: String,
}

impl Image {
    /// Writes the archive into `dir`.
    ///
    /// # Errors
    /// If a file of the tree cannot be read, or the archive not be written.
    pub fn write(&self, dir: &Path) -> Result<Archive> {
        let layer = dir.join("layer.tar");
        let mut hashing = Hashing { out: BufWriter::new(File::create(&layer)?), hash: Sha256::new() };
        self.write_layer(&mut hashing)?;
        hashing.flush()?;
        let layer_digest = format!("{:x}", hashing.hash.finalize());
        let config = serde_json::to_vec(&self.config(&layer_digest))?;
        let digest = format!("{:x}", Sha256::digest(&config));
        let path = dir.join("image.tar");
        let mut archive = Builder::new(BufWriter::new(File::create(&path)?));
        let manifest = json!([{
            "Config": format!("{digest}.json"),
            "RepoTags": self.names,
            "Layers": [format!("{layer_digest}/layer.tar")],
        }]);
        append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
        append(&mut archive, &format!("{digest}.json"), &config, 0o644)?;
        let size = fs::metadata(&layer)?.len();
        let mut head = header(EntryType::Regular, 0o644, 0, size);
        archive.append_data(
            &mut head,
            format!("{layer_digest}/layer.tar"),
            BufReader::new(File::open(&layer)?),
        )?;
        archive.into_inner()?.flush()?;
        fs::remove_file(&layer)?;
        Ok(Archive { names: self.names.clone(), path, digest })
    }

    fn config(&self, layer: &str) -> serde_json::Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "Env": self.environment,
                "User": self.user,
                "WorkingDir": self.directory,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "sandbox" }],
        })
    }

    fn write_layer(&self, out: impl Write) -> Result<()> {
        let mut layer = Builder::new(out);
        for (path, item) in self.with_parents() {
            match item {
                Item::Directory(mode, owner) => {
                    let mut head = header(EntryType::Directory, mode, owner, 0);
                    layer.append_data(&mut head, format!("{path}/"), io::empty())?;
                }
                Item::Text(content, mode) => append(&mut layer, &path, &content, mode)?,
                Item::Link(target) => {
                    let mut head = header(EntryType::Symlink, 0o777, 0, 0);
                    layer.append_link(&mut head, &path, target)?;
                }
                Item::File(source, mode) => {
                    let file =
                        File::open(&source).with_context(|| format!("cannot read {}", source.display()))?;
                    let mut head = header(EntryType::Regular, mode, 0, file.metadata()?.len());
                    layer.append_data(&mut head, &path, BufReader::new(file))?;
                }
            }
        }
        layer.into_inner()?.flush()?;
        Ok(())
    }

    /// The tree and every directory above its entries that it does not name itself.
    fn with_parents(&self) -> BTreeMap<String, Item> {
        let mut all = self.tree.clone();
        for path in self.tree.keys() {
            for (at, _) in path.match_indices('/') {
                if let Some(parent) = path.get(..at) {
                    all.entry(parent.to_owned()).or_insert(Item::Directory(0o755, 0));
                }
            }
        }
        all
    }
}

/// The machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(kind: EntryType, mode: u32, owner: u64, size: u64) -> Header {
    let mut head = Header::new_gnu();
    head.set_entry_type(kind);
    head.set_mode(mode);
    head.set_uid(owner);
    head.set_gid(owner);
    head.set_size(size);
    head.set_mtime(0);
    head
}

fn append(archive: &mut Builder<impl Write>, path: &str, content: &[u8], mode: u32) -> Result<()> {
    let mut head = header(EntryType::Regular, mode, 0, u64::try_from(content.len())?);
    Ok(archive.append_data(&mut head, path, content)?)
}

/// Passes everything on and hashes it.
struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut image = Image { names: vec!["localhost/x:1".into()], ..Image::default() };
        image.tree.insert("bin/x".into(), Item::Text(b"#!/bin/sh\n".to_vec(), 0o755));
        image.tree.insert("bin/y".into(), Item::Link("x".into()));
        image.tree.insert("data".into(), Item::Directory(0o755, 999));
        image
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("image-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        let (one, two) = (scratch("one"), scratch("two"));
        let first = image().write(&one).unwrap();
        let second = image().write(&two).unwrap();
        assert_eq!(first.digest, second.digest);
        assert_eq!(fs::read(&first.path).unwrap(), fs::read(&second.path).unwrap());
        let mut other = image();
        other.tree.insert("data".into(), Item::Directory(0o755, 1000));
        assert_ne!(other.write(&two).unwrap().digest, first.digest);
        fs::remove_dir_all(one).unwrap();
        fs::remove_dir_all(two).unwrap();
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let paths: Vec<String> = image().with_parents().into_keys().collect();
        assert_eq!(paths, ["bin", "bin/x", "bin/y", "data"]);
    }

    #[test]
    fn the_archive_says_what_is_where() {
        let dir = scratch("manifest");
        let written = image().write(&dir).unwrap();
        let mut archive = tar::Archive::new(File::open(&written.path).unwrap());
        let names: Vec<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names[0], "manifest.json");
        assert_eq!(names[1], format!("{}.json", written.digest));
        assert!(names[2].ends_with("/layer.tar"));
        fs::remove_dir_all(dir).unwrap();
    }
}
