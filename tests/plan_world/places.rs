//! The lines about where members are wanted, and who is to lead.

use valkey_cluster_operator::model::{Request, Snapshot, SpreadMode, Zone};

use super::apply::{pair, place};
use super::pod_name;

type Done = Result<(), String>;

pub(super) fn request(s: &mut Snapshot, wanted: &str, words: &[&str]) -> Done {
    let mut request = Request { wanted: wanted.to_owned(), from: None, done: false };
    for word in words {
        match pair(word) {
            ("from", at) => request.from = Some(place(at).map(|(shard, index)| pod_name(shard, index))?),
            ("done", _) => request.done = true,
            _ => return Err(format!("unknown word {word:?}")),
        }
    }
    s.request = Some(request);
    Ok(())
}

pub(super) fn spread(s: &mut Snapshot, word: &str) -> Done {
    let (key, value) = pair(word);
    let scheduling = &mut s.desired.template.scheduling;
    if key == "pinned" {
        scheduling.pinned = value.split(',').map(Zone::new).collect();
        return Ok(());
    }
    let (place, what) = key.split_once('.').ok_or("node.shard=Required")?;
    let spread = match place {
        "node" => &mut scheduling.node,
        "zone" => &mut scheduling.zone,
        _ => return Err(format!("unknown place {place:?}")),
    };
    let mode = match value {
        "Disabled" => SpreadMode::Disabled,
        "Preferred" => SpreadMode::Preferred,
        "Required" => SpreadMode::Required,
        _ => return Err(format!("unknown mode {value:?}")),
    };
    match what {
        "shard" => spread.shard = mode,
        "primaries" => spread.primaries = mode,
        "pods" => spread.pods = mode,
        _ => return Err(format!("unknown rule {what:?}")),
    }
    Ok(())
}
