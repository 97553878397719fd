//! Data for stories: keys of a given size, by their names spread over all slots, written through the primaries as an application would.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::cluster::Cluster;
use super::stage::Stage;
use crate::resp::{Access, Connection, Credentials, Reply, key_slot};

/// Commands of one burst.
const BURST: usize = 200;
/// A burst of large values on a busy machine.
const ANSWER: Duration = Duration::from_secs(20);

/// Writes `count` keys of `size` bytes each, and says how long that took.
///
/// # Errors
/// If a primary cannot be reached or refuses.
pub(super) async fn fill(stage: &Stage, cluster: &Cluster, count: usize, size: usize) -> Result<()> {
    let began = Instant::now();
    let access = application(cluster).await?;
    let value = "v".repeat(size);
    let writers = owners(cluster).await?.into_iter().map(|(addr, slots)| {
        let (access, value) = (access.clone(), value.clone());
        async move { write(&access, addr, &slots, count, &value).await }
    });
    for written in futures::future::join_all(writers).await {
        written?;
    }
    let megabytes = count * size / 1_000_000;
    stage.say(format_args!(
        "{count} keys of {size} bytes ({megabytes} MB) in {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// As an application logs in: not at all.
pub(super) async fn application(cluster: &Cluster) -> Result<Access> {
    Ok(cluster.access().await?.with_login(Credentials::default()))
}

/// Each primary with its slots.
async fn owners(cluster: &Cluster) -> Result<Vec<(SocketAddr, Vec<u16>)>> {
    let truth = cluster.truth().await?;
    let leads = truth.answered().filter(|(_, _, me)| me.primary && !me.slots.is_empty());
    let owned = leads.map(|(addr, _, me)| (addr, me.slots.iter().flat_map(|(a, b)| *a..=*b).collect()));
    Ok(owned.collect())
}

async fn write(access: &Access, addr: SocketAddr, slots: &[u16], count: usize, value: &str) -> Result<()> {
    let mut connection = Connection::open(access, addr, ANSWER).await.map_err(anyhow::Error::msg)?;
    let slots: BTreeSet<u16> = slots.iter().copied().collect();
    let mine: Vec<String> = (0..count).map(key).filter(|k| slots.contains(&key_slot(k))).collect();
    for keys in mine.chunks(BURST) {
        let commands: Vec<[&str; 3]> = keys.iter().map(|k| ["SET", k.as_str(), value]).collect();
        let commands: Vec<&[&str]> = commands.iter().map(<[&str; 3]>::as_slice).collect();
        let answers = connection.pipeline(&commands, ANSWER).await.map_err(anyhow::Error::msg)?;
        if let Some(error) = answers.iter().find_map(Reply::error) {
            bail!("{addr} refuses a key: {error}");
        }
    }
    Ok(())
}

/// The nth key.
fn key(n: usize) -> String {
    format!("fill:{n}")
}

/// Keys in all primaries.
///
/// # Errors
/// If one cannot be asked.
pub(super) async fn keys(cluster: &Cluster) -> Result<i64> {
    let access = application(cluster).await?;
    let primaries: Vec<SocketAddr> =
        cluster.truth().await?.shards().iter().filter_map(|s| s.primary_addr).collect();
    ensure!(!primaries.is_empty(), "there is no primary");
    let mut sum = 0;
    for addr in primaries {
        let mut connection = Connection::open(&access, addr, ANSWER).await.map_err(anyhow::Error::msg)?;
        let answer = connection.call(&["DBSIZE"], ANSWER).await.map_err(anyhow::Error::msg)?;
        sum += answer.number().with_context(|| format!("{addr} answers DBSIZE with {answer:?}"))?;
    }
    Ok(sum)
}
