//! Decides what a ledger may be asked to do, and refuses what makes no sense. Pure.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::topology::AddressMap;
use crate::resp::{Access, SLOTS, tag_for};

/// Lanes of the client library beside the plain ones of a story: enough to show what an application sees, too few to take the
/// machine from those that are judged. None where a write counts only when replicas have it, too: the library confirms nothing.
pub fn client_lanes(copies: u16) -> u16 {
    if copies == 0 { 2 } else { 0 }
}

/// How a ledger writes. [`Options::new`] fills in the defaults.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of nodes to begin with; names are resolved, all addresses of a name are used.
    pub seeds: Vec<String>,
    /// How nodes are reached, and who logs in.
    pub access: Access,
    /// Translates announced endpoints; none by default.
    pub address_map: Option<AddressMap>,
    /// Plain lanes, spread evenly over all slots: 12 make four for each shard of three.
    pub lanes: u16,
    /// Lanes of the client library, spread likewise, reported and not judged, but for what is lost.
    pub client_lanes: u16,
    /// Writes per second of each lane. The default of 250 is one every 4 ms: the resolution of a gap.
    pub rate: f64,
    /// Replicas that must have a write before it counts as acknowledged (`WAIT`); 0 takes the primary's word. With 1 an
    /// acknowledged write is on two nodes, and only the loss of both can take it away.
    pub copies: u16,
    /// The time-out of a plain lane's connect and command.
    pub timeout: Duration,
    /// Gaps shorter than this are not listed.
    pub floor: Duration,
    /// How long the read-back at the end tries.
    pub read_back_within: Duration,
    /// Leaves the counters in the cluster.
    pub keep_keys: bool,
}

/// What a run may show and still be called good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The longest gap allowed on a plain lane.
    pub max_gap: Option<Duration>,
    /// Acknowledged writes that may be lost.
    pub max_lost: Option<u64>,
    /// Errors of plain lanes, redirects not counted.
    pub max_errors: Option<u64>,
}

impl Options {
    /// The defaults, on these seeds.
    pub fn new(seeds: Vec<String>) -> Self {
        Self {
            seeds,
            access: Access::default(),
            address_map: None,
            lanes: 12,
            client_lanes: 0,
            rate: 250.0,
            copies: 0,
            timeout: Duration::from_millis(250),
            floor: Duration::from_millis(10),
            read_back_within: Duration::from_secs(10),
            keep_keys: false,
        }
    }

    /// # Errors
    /// A sentence that says what to write instead.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.seeds.is_empty(), "no seeds: name at least one node as host:port");
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            ensure!(port.is_some(), "the seed {seed:?} has no port: write it as host:port, e.g. {seed}:6379");
        }
        ensure!(self.lanes > 0, "no plain lanes: without them nothing is judged; take at least one");
        for lanes in [self.lanes, self.client_lanes] {
            ensure!(lanes <= SLOTS, "{lanes} lanes are more than there are slots ({SLOTS})");
        }
        ensure!(
            self.rate.is_finite() && (0.1..=1000.0).contains(&self.rate),
            "a rate of {} writes per second and lane: take 0.1 to 1000, and more lanes for more load",
            self.rate
        );
        ensure!(!self.timeout.is_zero(), "a time-out of zero: no write could ever be acknowledged");
        Ok(())
    }

    /// Between two writes of one lane.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }
}

/// What kind of lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LaneKind {
    /// With the ledger's own routing; judged.
    Plain,
    /// Through a client library; reported beside it.
    Client,
}

/// Where a lane writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub kind: LaneKind,
    pub index: u16,
    pub slot: u16,
    pub key: String,
}

impl Lane {
    /// `count` lanes in the middle of as many equal parts of the slots, with keys that belong to `run` alone.
    pub(crate) fn spread(kind: LaneKind, count: u16, run: &str) -> Vec<Self> {
        let name = match kind {
            LaneKind::Plain => "plain",
            LaneKind::Client => "client",
        };
        (0..count)
            .map(|index| {
                let slot = middle(index, count);
                let key = format!("valkey-ledger:{run}:{name}:{index}:{{{}}}", tag_for(slot));
                Self { kind, index, slot, key }
            })
            .collect()
    }
}

fn middle(index: u16, count: u16) -> u16 {
    let middle = (u32::from(index) * 2 + 1) * u32::from(SLOTS) / (u32::from(count) * 2);
    u16::try_from(middle).unwrap_or(SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::key_slot;

    #[test]
    fn lanes_are_spread_evenly_and_their_keys_hash_to_their_slots() {
        let lanes = Lane::spread(LaneKind::Plain, 12, "r");
        for third in 0..3_u16 {
            let range = third * 5461..(third + 1) * 5461;
            assert_eq!(lanes.iter().filter(|lane| range.contains(&lane.slot)).count(), 4);
        }
        assert!(lanes.iter().all(|lane| key_slot(&lane.key) == lane.slot));
        assert_eq!((middle(0, 1), middle(SLOTS - 1, SLOTS)), (SLOTS / 2, SLOTS - 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::new(vec!["h:1".into()]);
            change(&mut options);
            options.check().map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert!(with(|o| o.seeds.clear()).unwrap_err().contains("host:port"));
        assert!(with(|o| o.seeds = vec!["h".into()]).unwrap_err().contains("h:6379"));
        assert!(with(|o| o.lanes = 0).is_err());
        assert!(with(|o| o.rate = f64::NAN).is_err());
        assert!(with(|o| o.timeout = Duration::ZERO).is_err());
    }
}
