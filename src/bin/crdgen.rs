//! Prints the generated manifests: `crdgen` the CustomResourceDefinition, `crdgen install` everything.
//!
//! Writes to standard output alone.

use anyhow::Result;

fn main() -> Result<()> {
    print!("{}", serde_saphyr::to_string(&valkey_cluster_operator::api::crd())?);
    Ok(())
}
