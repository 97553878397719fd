//! The sandbox command line.
use e2e::{cache::Cache, debs::valkey_roots, progress::Progress};

fn main() -> anyhow::Result<()> {
    for root in valkey_roots(&Cache::open()?, &Progress::new())? {
        println!("{} {} {}", root.line, root.version, root.root.display());
        print!(
            "{}",
            e2e::command::run(
                root.command("valkey-cli")?.arg("--version"),
                std::time::Duration::from_secs(5)
            )?
        );
    }
    Ok(())
}
