//! Prints the manifests that are made from the code: `crdgen crd` and `crdgen install`.
//!
//! Writes to standard output alone.

use anyhow::{Result, bail};
use valkey_cluster_operator::{api, build::install};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["crd"] => print!("{}", serde_saphyr::to_string(&api::crd())?),
        ["install"] => print!("{}", serde_saphyr::to_string_multiple(&install::install()?)?),
        other => bail!("{} is not known: write `crdgen crd` or `crdgen install`", other.join(" ")),
    }
    Ok(())
}
