//! Tests as text files: each file is answered anew and compared; `BLESS=1` writes the answers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

/// Lines that are shown of a difference.
const SHOWN: usize = 12;

/// Answers every `.txt` file of a folder of `tests/`. The answer is the whole file as it should be, from its name and
/// from the file as it is; an error is never blessed.
pub(crate) fn answered_anew(folder: &str, answer: impl Fn(&str, &str) -> Result<String, String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    let bless = std::env::var_os("BLESS").is_some();
    let wrong: Vec<String> = files.iter().filter_map(|file| wrong(file, bless, &answer)).collect();
    assert!(wrong.is_empty(), "{}\nBLESS=1 writes the new texts", wrong.join("\n"));
}

fn wrong(file: &Path, bless: bool, answer: impl Fn(&str, &str) -> Result<String, String>) -> Option<String> {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let was = std::fs::read_to_string(file).unwrap();
    match answer(&name, &was) {
        Err(why) => Some(format!("{name}: {why}")),
        Ok(is) if is == was => None,
        Ok(is) if bless => {
            std::fs::write(file, is).unwrap();
            None
        }
        Ok(is) => Some(format!("{name}: {}", difference(&is, &was))),
    }
}

/// Where two texts part, and the title above.
fn difference(is: &str, was: &str) -> String {
    let same = is.lines().zip(was.lines()).take_while(|(a, b)| a == b).count();
    let title = is.lines().take(same).filter(|line| line.starts_with("case ")).last().unwrap_or_default();
    let from = |text: &str| text.lines().skip(same).take(SHOWN).collect::<Vec<_>>().join("\n");
    format!("line {}, {title}\nis:\n{}\nwas:\n{}", same + 1, from(is), from(was))
}
