//! Lives of 500 shards: an upgrade, 100 shards more, a zone without power. And what a larger budget of disruptions is worth.
//!
//! `SHARDS=<n>` says how many (default 60 here, since tests are compiled without optimisation; the `ci` suite takes 500).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod large;

use large::world::Large;
use valkey_cluster_operator::model::Revision;

fn shards() -> u16 {
    std::env::var("SHARDS")
        .map_or(60, |v| v.parse().unwrap_or_else(|_| panic!("SHARDS is a number, not {v:?}")))
}

/// Most of what was seen of the nodes was inferred: it is the brief look that these lives rest on.
fn was_brief(w: &Large) {
    let (inferred, all) = w.inferred;
    println!("{inferred} of {all} reports had a list that was inferred");
    assert!(2 * inferred > all);
}

/// Every copy of a shard in a zone of its own.
fn cluster(replicas: u16) -> Large {
    Large::new(large::settled(shards(), replicas))
}

#[test]
fn an_upgrade_stays_within_its_budget() {
    let mut w = cluster(1);
    w.s.desired.max_disrupted_shards = shards() / 4;
    w.s.revision = Revision::new("next");
    w.until_quiet(40 * u32::from(shards()));
    println!("{} shards upgraded in {} passes, {} at one moment", shards(), w.passes, w.most_disrupted);
    assert!(w.most_disrupted <= usize::from(shards() / 4), "{} shards at one moment", w.most_disrupted);
    was_brief(&w);
}

#[test]
fn a_fifth_more_shards_take_their_share_of_the_slots() {
    let mut w = cluster(1);
    w.s.desired.shards = shards() + shards() / 5;
    w.until_quiet(4000);
    println!("{} shards became {} in {} passes", shards(), w.s.desired.shards, w.passes);
    was_brief(&w);
}

#[test]
fn a_zone_without_power_is_made_up_for_elsewhere() {
    let mut w = cluster(2);
    w.loses("z1");
    w.until_quiet(4000);
    println!("{} shards made up for a zone in {} passes", shards(), w.passes);
}
