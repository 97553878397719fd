//! Decides where built things are kept: one directory for each kind and content hash, made whole or not at all.
//!
//! May touch the cache directory only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// Of each kind this many entries are kept, the ones used last.
const KEPT: usize = 4;

/// The directory of built things.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The person's cache: `$SANDBOX_CACHE`, or `valkey-sandbox` in `$XDG_CACHE_HOME` or `~/.cache`.
    ///
    /// # Errors
    /// If none of the three variables is set or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("SANDBOX_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("valkey-sandbox")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/valkey-sandbox")))
            .context("no place for the cache: set SANDBOX_CACHE to a directory")?;
        Self::at(&dir)
    }

    /// A cache in a given directory, which is made if needed.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn at(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make the cache {}", dir.display()))?;
        Ok(Self { dir: fs::canonicalize(dir)? })
    }

    /// Where the cache is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that holds the entry `key` of `kind`; `make` fills it if it is not there yet.
    ///
    /// `make` works in a directory that gets its name only when it is complete, so that a crash leaves nothing
    /// half done. A file lock lets only one process at a time make entries of one kind.
    ///
    /// # Errors
    /// If `make` fails, or the file system does.
    pub fn entry(&self, kind: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let parent = self.dir.join(kind);
        fs::create_dir_all(&parent)?;
        let lock = File::create(self.dir.join(format!("{kind}.lock")))?;
        lock.lock().with_context(|| format!("cannot lock the cache of {kind}"))?;
        let entry = parent.join(key);
        if !entry.is_dir() {
            let half = parent.join(".half");
            clear(&half)?;
            fs::create_dir(&half)?;
            make(&half)?;
            fs::rename(&half, &entry)?;
        }
        File::open(&entry)?.set_modified(SystemTime::now())?;
        prune(&parent)?;
        Ok(entry)
    }

    /// Throws away every entry of `kind`, so that it is made anew the next time.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn forget(&self, kind: &str) -> Result<()> {
        clear(&self.dir.join(kind))
    }
}

/// A short name for contents: the first 16 hexadecimal digits of the SHA-256 over all parts, each with its length.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let mut text = format!("{:x}", hash.finalize());
    text.truncate(16);
    text
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn prune(parent: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        entries.push((entry.metadata()?.modified()?, entry.path()));
    }
    entries.sort();
    for (_, old) in entries.iter().rev().skip(KEPT) {
        clear(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let dir = std::env::temp_dir().join(format!("cache-test-{name}-{}", std::process::id()));
        clear(&dir).unwrap();
        Cache::at(&dir).unwrap()
    }

    #[test]
    fn an_entry_is_made_once_and_never_half() {
        let cache = scratch("once");
        let failed = cache.entry("thing", "k", |dir| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("crash")
        });
        assert!(failed.is_err());
        let made = cache.entry("thing", "k", |dir| Ok(fs::write(dir.join("whole"), "1")?)).unwrap();
        assert!(made.join("whole").is_file() && !made.join("half").exists());
        let again = cache.entry("thing", "k", |_| anyhow::bail!("must not be made twice")).unwrap();
        assert_eq!(made, again);
        clear(cache.dir()).unwrap();
    }

    #[test]
    fn only_the_entries_used_last_are_kept() {
        let cache = scratch("prune");
        for number in 0..KEPT + 2 {
            cache.entry("thing", &number.to_string(), |_| Ok(())).unwrap();
        }
        let left: Vec<bool> =
            (0..KEPT + 2).map(|n| cache.dir().join(format!("thing/{n}")).exists()).collect();
        assert_eq!(left, [false, false, true, true, true, true]);
        clear(cache.dir()).unwrap();
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
        assert_eq!(key(&[b"a"]).len(), 16);
    }
}
