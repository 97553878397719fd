//! Prints what is made from the code: `crdgen crd`, `crdgen install` (for all namespaces, or with `--namespaces a,b` for these
//! alone) and `crdgen sbom` (the bill of materials).
//!
//! Writes to standard output alone.

use anyhow::{Result, bail};
use valkey_cluster_operator::{
    api,
    build::{install, sbom},
    flags,
};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["crd"] => print!("{}", serde_saphyr::to_string(&api::crd())?),
        ["install"] => print!("{}", serde_saphyr::to_string_multiple(&install::install(&[])?)?),
        ["install", "--namespaces", list] => {
            let namespaces = flags::names(list).map_err(anyhow::Error::msg)?;
            print!("{}", serde_saphyr::to_string_multiple(&install::install(&namespaces)?)?);
        }
        ["sbom"] => {
            print!("{}", serde_json::to_string_pretty(&sbom::cyclonedx(include_str!("../../Cargo.lock")))?);
        }
        other => bail!(
            "{:?} is not known: write `crdgen crd`, `crdgen install`, `crdgen install --namespaces a,b` or `crdgen sbom`",
            other.join(" ")
        ),
    }
    Ok(())
}
