//! The software bill of materials, in `CycloneDX`: what the lock file names, with its checksums. Pure.

use serde_json::{Value, json};

/// The bill of materials of a `Cargo.lock`.
pub fn cyclonedx(lock: &str) -> Value {
    let components: Vec<Value> = lock.split("[[package]]").skip(1).filter_map(component).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{ "license": { "id": env!("CARGO_PKG_LICENSE") } }],
        } },
        "components": components,
    })
}

/// One crate of a registry; our own packages have no checksum.
fn component(package: &str) -> Option<Value> {
    let field = |key: &str| {
        let mut lines = package.lines();
        lines.find_map(|l| l.strip_prefix(key)?.strip_prefix(" = ")).map(|v| v.trim_matches('"'))
    };
    let (name, version, checksum) = (field("name")?, field("version")?, field("checksum")?);
    let purl = format!("pkg:cargo/{name}@{version}");
    Some(json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": purl,
        "bom-ref": purl,
        "hashes": [{ "alg": "SHA-256", "content": checksum }],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_lock_file_is_listed_with_its_checksum() {
        let lock = include_str!("../../Cargo.lock");
        let bill = cyclonedx(lock);
        let listed = bill["components"].as_array().unwrap();
        assert_eq!(listed.len(), lock.matches("checksum = ").count());
        let kube = listed.iter().find(|c| c["name"] == "kube").unwrap();
        assert_eq!(kube["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert!(listed.iter().all(|c| c["name"] != "valkey-cluster-operator"));
    }
}
