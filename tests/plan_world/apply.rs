//! The lines that say what differs. Unknown words are errors: a case must not test less than it says.

use valkey_cluster_operator::build::tls as files;
use valkey_cluster_operator::model::{
    Job, JobState, Link, Moment, NodeId, NodeReport, Object, Peer, Phase, PodName, PodUid, Revision, Role,
    Seen, Shard, Silence, Slots, Snapshot, Trouble, WorkerName, Zone,
};

use super::accounts::{node_users, passwords, user};
use super::certificates::{speaks, tls, trust};
use super::memory::{past, suspected};
use super::places::{request, spread};
use super::{NOW, State, acquaint, ip, listed, member, node_id, one_more, pod_name, worker};

type Done = Result<(), String>;

/// `key=value`, or a word alone.
pub(super) fn pair(word: &str) -> (&str, &str) {
    word.split_once('=').unwrap_or((word, ""))
}

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("cannot be read: {text:?}"))
}

pub(super) fn place(word: &str) -> Result<(Shard, u16), String> {
    let (s, i) = word.split_once('-').ok_or_else(|| format!("<shard>-<index>, not {word:?}"))?;
    Ok((Shard(parse(s)?), parse(i)?))
}

pub(super) fn line(s: &mut Snapshot, line: &str) -> Done {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["spread", rest @ ..] => rest.iter().try_for_each(|w| spread(s, w)),
        ["all", "pods", rest @ ..] => {
            let names: Vec<PodName> = s.pods.keys().cloned().collect();
            names.iter().try_for_each(|name| rest.iter().try_for_each(|w| pod(s, name, w)))
        }
        // request <pod or shard> from=<s>-<i> done
        ["request", wanted, rest @ ..] => request(s, wanted, rest),
        ["past", rest @ ..] => past(s, rest),
        ["suspected", at] => {
            suspected(s, place(at)?);
            Ok(())
        }
        ["vouched", id] => {
            s.vouched.insert(NodeId::new(*id));
            Ok(())
        }
        ["spec", rest @ ..] => rest.iter().try_for_each(|w| spec(s, w)),
        ["status", rest @ ..] => rest.iter().try_for_each(|w| status(s, w)),
        ["worker", name, rest @ ..] => rest.iter().try_for_each(|w| machine(s, name, w)),
        ["taken", name] => {
            s.taken.insert(PodName::new(*name));
            Ok(())
        }
        ["drifted", "Secret"] => {
            s.drifted.insert(Object::Secret);
            Ok(())
        }
        ["drifted", "ConfigMap"] => {
            s.drifted.insert(Object::ConfigMap);
            Ok(())
        }
        ["tls", rest @ ..] => rest.iter().try_for_each(|w| tls(s, w)),
        ["credentials", "unknown"] => {
            s.credentials_known = false;
            Ok(())
        }
        ["foreign", rest @ ..] => {
            s.foreign = Some(rest.join(" "));
            Ok(())
        }
        ["user", name, rest @ ..] => {
            user(s, name, rest);
            Ok(())
        }
        ["passwords", rest @ ..] => {
            for word in rest {
                passwords(s, word);
            }
            Ok(())
        }
        ["all", "nodes", rest @ ..] => {
            let uids: Vec<PodUid> = s.nodes.keys().cloned().collect();
            uids.iter().try_for_each(|uid| rest.iter().try_for_each(|w| node(s, uid, w)))
        }
        ["pod", at, rest @ ..] => pod_line(s, place(at)?, rest),
        ["member", at] => {
            one_more(s, place(at)?);
            Ok(())
        }
        ["node", at, rest @ ..] => {
            let (shard, index) = place(at)?;
            let uid = PodUid::new(format!("u{shard}-{index}"));
            rest.iter().try_for_each(|w| node(s, &uid, w))
        }
        ["peer", a, b, rest @ ..] => peer(s, place(a)?, place(b)?, rest),
        ["ghost", id, rest @ ..] => ghost(s, id, rest),
        ["dead", at, how] => dead(s, place(at)?, how),
        ["unpodded", at] => unpodded(s, place(at)?),
        ["known"] => {
            acquaint(s);
            Ok(())
        }
        ["gone", at] => {
            let (shard, index) = place(at)?;
            let id = node_id(shard, index);
            s.nodes.values_mut().for_each(|seen| {
                if let Seen::Now(n) = seen {
                    n.peers.lines_mut().remove(&id);
                }
            });
            Ok(())
        }
        _ => Err("unknown line".to_owned()),
    }
}

fn spec(s: &mut Snapshot, word: &str) -> Done {
    let (key, value) = pair(word);
    match key {
        "shards" => s.desired.shards = parse(value)?,
        "replicas" => s.desired.replicas = parse(value)?,
        "maxDisruptedShards" => s.desired.max_disrupted_shards = parse(value)?,
        "purge" => s.desired.purge = parse(value)?,
        "paused" => s.desired.paused = parse(value)?,
        "deleting" => s.desired.deleting = parse(value)?,
        "revision" => s.revision = Revision::new(value),
        _ => match key.strip_prefix("config.") {
            Some(k) => drop(s.desired.config.insert(k.to_owned(), value.to_owned())),
            None => return Err(format!("unknown field {key:?}")),
        },
    }
    Ok(())
}

fn status(s: &mut Snapshot, word: &str) -> Done {
    let (key, value) = pair(word);
    match key {
        "formed" => s.formed = parse(value)?,
        "whole" => s.whole = parse(value)?,
        // shape=<shards>/<revision>
        "shape" => s.shape = Some(value.parse()?),
        "served" => {
            let all: Result<Vec<u16>, String> =
                value.split(',').filter(|t| !t.is_empty()).map(parse).collect();
            s.served = all?.into_iter().map(Shard).collect();
        }
        "budget" => s.low_timeout_budget = parse(value)?,
        _ => return Err(format!("unknown field {key:?}")),
    }
    Ok(())
}

fn machine(s: &mut Snapshot, name: &str, word: &str) -> Done {
    let (key, value) = pair(word);
    let entry = s.workers.entry(WorkerName::new(name)).or_insert_with(|| worker(name).1);
    match key {
        "open" => entry.open = true,
        "closed" => entry.open = false,
        "cordoned" => (entry.open, entry.leaving) = (false, true),
        "zone" => entry.zone = Some(Zone::new(value)),
        // lost=<ms ago>
        "lost" => entry.lost_since = Some(Moment(NOW - parse::<i64>(value)?)),
        "out-of-service" => entry.out_of_service = true,
        "shunned" => entry.shunned = true,
        "room" => entry.room = Some(parse(value)?),
        "removed" => drop(s.workers.remove(&WorkerName::new(name))),
        _ => return Err(format!("unknown word {key:?}")),
    }
    Ok(())
}

fn pod_line(s: &mut Snapshot, at: (Shard, u16), words: &[&str]) -> Done {
    let name = pod_name(at.0, at.1);
    if words == ["absent"] {
        let pod = s.pods.remove(&name).ok_or("no such Pod")?;
        s.nodes.remove(&pod.uid);
        return Ok(());
    }
    if words == ["fresh"] || words == ["pending"] {
        let state = if words == ["fresh"] { State::Fresh } else { State::Pending };
        member(s, at.0, at.1, state);
        return Ok(());
    }
    words.iter().try_for_each(|w| pod(s, &name, w))
}

fn pod(s: &mut Snapshot, name: &PodName, word: &str) -> Done {
    let (key, value) = pair(word);
    let pod = s.pods.get_mut(name).ok_or("no such Pod")?;
    match key {
        "terminating" => pod.terminating = true,
        "disrupted" => pod.disrupted = true,
        "pending" => pod.phase = Phase::Pending,
        // finished=<ran ms>:<ended ms ago>
        "finished" => {
            let (ran, ago) = value.split_once(':').ok_or("finished=<ran ms>:<ms ago>")?;
            pod.phase = Phase::Finished { ran_ms: parse(ran)?, at: Moment(NOW - parse::<i64>(ago)?) };
            s.nodes.remove(&pod.uid);
        }
        "ip" => pod.ip = if value == "none" { None } else { Some(parse(value)?) },
        "worker" => pod.worker = (value != "none").then(|| WorkerName::new(value)),
        "leads" => pod.leads = parse(value)?,
        "given" => value.clone_into(&mut pod.given),
        "asked" => pod.place.asked = Some(WorkerName::new(value)),
        "pinned" => pod.place.pinned = Some(Zone::new(value)),
        "counted" => pod.place.counted = true,
        "instead-of" => {
            let (shard, index) = place(value)?;
            pod.place.instead_of = Some(PodUid::new(format!("u{shard}-{index}")));
        }
        "gate" => pod.gate = if value == "none" { None } else { Some(parse(value)?) },
        "revision" => pod.revision = Revision::new(value),
        "failures" => pod.failures = parse(value)?,
        "bare" => pod.encrypted = false,
        "no-exporter" => pod.exporting = false,
        "nudged" => pod.nudged = Some(value.into()),
        "trouble" => {
            pod.trouble = Some(Trouble { reason: value.to_owned(), message: "it says why".to_owned() });
        }
        "age" => pod.created = Moment(NOW - parse::<i64>(value)?),
        _ if key.starts_with("before.") => {
            drop(pod.before.insert(key.trim_start_matches("before.").to_owned(), value.to_owned()));
        }
        _ => return Err(format!("unknown word {key:?}")),
    }
    Ok(())
}

fn silence(text: &str) -> Result<Silence, String> {
    Ok(match text {
        "Refused" => Silence::Refused,
        "Timeout" => Silence::Timeout,
        "Auth" => Silence::Auth,
        "Busy" => Silence::Busy,
        _ => return Err(format!("unknown silence {text:?}")),
    })
}

pub(super) fn node(s: &mut Snapshot, uid: &PodUid, word: &str) -> Done {
    let (key, value) = pair(word);
    if key == "silent" {
        s.nodes.insert(uid.clone(), Seen::Silent(silence(value)?));
        return Ok(());
    }
    if key == "known" {
        acquaint(s);
        return Ok(());
    }
    let Some(Seen::Now(n)) = s.nodes.get_mut(uid) else { return Err("no such node answers".to_owned()) };
    if key == "says" {
        let own = std::mem::replace(&mut n.id, NodeId::new(value));
        // Who asks for the id that it really has finds somebody else.
        s.ghosts.insert(own, Seen::Silent(Silence::Refused));
        return Ok(());
    }
    match key {
        "primary" => n.role = Role::Primary { slots: value.replace(',', " ").parse::<Slots>()? },
        "replica" => {
            let (shard, index) = place(value)?;
            n.role = Role::Replica {
                of: node_id(shard, index),
                link: Link { up: true, syncing: false, offset: 1 },
            };
        }
        "follows" => {
            n.role =
                Role::Replica { of: NodeId::new(value), link: Link { up: false, syncing: false, offset: 1 } };
        }
        "link" => link(n, value)?,
        "offset" => match &mut n.role {
            Role::Replica { link, .. } => link.offset = parse(value)?,
            Role::Primary { .. } => return Err("it is no replica".to_owned()),
        },
        "epoch" => n.epoch = parse(value)?,
        "tls" => {
            n.config.extend(files::settings(&trust(value)?));
            n.config.insert("tls-auth-clients".into(), "optional".into());
        }
        "speaks" => speaks(n, value)?,
        "keys" => n.keys = parse(value)?,
        "isolated" => n.peers.lines_mut().clear(),
        "admitted" => {
            n.admitted = parse(value)?;
            n.users = Some(super::shown(&["old"], n.version, n.admitted));
        }
        "state" => n.state_ok = value == "ok",
        "loading" => n.loading = true,
        "data" => n.memory.get_or_insert_default().data = parse(value)?,
        "used" => n.memory.get_or_insert_default().used = parse(value)?,
        "limit" => n.memory.get_or_insert_default().limit = parse(value)?,
        "out" => drop(n.open_slots.outgoing.insert(far_end(value)?.0, far_end(value)?.1)),
        "in" => drop(n.open_slots.incoming.insert(far_end(value)?.0, far_end(value)?.1)),
        "job" | "incoming" => {
            let (other, slots) = far_end(value)?;
            let failed = value.ends_with(":failed");
            let state = if failed { JobState::Failed } else { JobState::Running };
            let message = if failed { "it says why".to_owned() } else { String::new() };
            n.jobs.push(Job {
                incoming: key == "incoming",
                slots,
                other: Some(other),
                state,
                message,
                age_ms: 200,
            });
        }
        "version" => {
            n.version = value.parse()?;
            n.users = Some(super::shown(&["old"], n.version, n.admitted));
        }
        "online" => {
            n.online_replicas =
                value.split(',').filter(|t| !t.is_empty()).map(parse).collect::<Result<_, _>>()?;
        }
        _ => match key.strip_prefix("config.") {
            Some(k) if value.is_empty() => drop(n.config.remove(k)),
            Some(k) => drop(n.config.insert(k.to_owned(), value.to_owned())),
            None => node_users(n, key, value)?,
        },
    }
    Ok(())
}

/// `<shard>-<index>:<slots>`: the node at the other end, and what is on its way.
fn far_end(value: &str) -> Result<(NodeId, Slots), String> {
    let mut parts = value.split(':');
    let (shard, index) = place(parts.next().unwrap_or_default())?;
    Ok((node_id(shard, index), parts.next().unwrap_or_default().replace(',', " ").parse()?))
}

fn link(n: &mut NodeReport, value: &str) -> Done {
    let Role::Replica { link, .. } = &mut n.role else { return Err("it is no replica".to_owned()) };
    *link = match value {
        "up" => Link { up: true, syncing: false, ..*link },
        "down" => Link { up: false, syncing: false, ..*link },
        "syncing" => Link { up: false, syncing: true, ..*link },
        _ => return Err(format!("unknown link {value:?}")),
    };
    Ok(())
}

fn peer(s: &mut Snapshot, who: (Shard, u16), whom: (Shard, u16), words: &[&str]) -> Done {
    let report = s.nodes.get(&PodUid::new(format!("u{}-{}", whom.0, whom.1))).and_then(Seen::now).cloned();
    let Some(Seen::Now(n)) = s.nodes.get_mut(&PodUid::new(format!("u{}-{}", who.0, who.1))) else {
        return Err("the first does not answer".to_owned());
    };
    let id = node_id(whom.0, whom.1);
    for word in words {
        let (key, value) = pair(word);
        if key == "listed" {
            let report = report.as_ref().ok_or("the second does not answer")?;
            n.peers.lines_mut().insert(id.clone(), listed(ip(whom.0, whom.1), report));
            continue;
        }
        if key == "absent" {
            n.peers.lines_mut().remove(&id);
            continue;
        }
        let p = n.peers.lines_mut().get_mut(&id).ok_or("it is not listed")?;
        match key {
            "handshake" => p.handshake = true,
            "failed" => p.failed = true,
            "suspected" => p.suspected = true,
            "unlinked" => p.connected = false,
            "linked" => p.connected = true,
            "slots" => p.slots = value.replace(',', " ").parse()?,
            "ip" => p.ip = Some(parse(value)?),
            "noaddr" => p.ip = None,
            "epoch" => p.epoch = parse(value)?,
            _ => return Err(format!("unknown word {key:?}")),
        }
    }
    Ok(())
}

/// The Pod object of a member is gone, and its process answers as before.
fn unpodded(s: &mut Snapshot, (shard, index): (Shard, u16)) -> Done {
    let uid = PodUid::new(format!("u{shard}-{index}"));
    s.pods.retain(|_, pod| pod.uid != uid);
    let seen = s.nodes.remove(&uid).ok_or("it has no node")?;
    s.ghosts.insert(node_id(shard, index), seen);
    Ok(())
}

/// The process of a member has ended: how its address looks, and what all others see of it.
fn dead(s: &mut Snapshot, at: (Shard, u16), how: &str) -> Done {
    let id = node_id(at.0, at.1);
    let uid = PodUid::new(format!("u{}-{}", at.0, at.1));
    s.nodes.insert(uid, Seen::Silent(silence(how)?));
    s.ghosts.insert(id.clone(), Seen::Silent(silence(how)?));
    for seen in s.nodes.values_mut() {
        let Seen::Now(n) = seen else { continue };
        if let Some(p) = n.peers.lines_mut().get_mut(&id) {
            p.connected = how != "Refused";
        }
        if let Role::Replica { of, link } = &mut n.role
            && *of == id
        {
            *link = Link { up: how != "Refused", ..*link };
        }
    }
    Ok(())
}

fn ghost(s: &mut Snapshot, id: &str, words: &[&str]) -> Done {
    let mut p = Peer {
        ip: None,
        replica_of: None,
        slots: Slots::none(),
        epoch: 9,
        handshake: false,
        failed: true,
        suspected: false,
        connected: false,
    };
    let (mut by, mut seen) = (None, None);
    for word in words {
        let (key, value) = pair(word);
        match key {
            "ip" => p.ip = Some(parse(value)?),
            "slots" => p.slots = value.replace(',', " ").parse()?,
            "by" => by = Some(value.split(',').map(place).collect::<Result<Vec<_>, _>>()?),
            "seen" => seen = Some(value.to_owned()),
            _ => return Err(format!("unknown word {key:?}")),
        }
    }
    let id = NodeId::new(id);
    let listed_by = |uid: &PodUid| {
        by.as_ref().is_none_or(|l| l.iter().any(|(sh, i)| uid.as_str() == format!("u{sh}-{i}")))
    };
    let some = s.nodes.values().find_map(Seen::now).cloned().ok_or("nobody lists it")?;
    for (uid, seen) in &mut s.nodes {
        if let Seen::Now(n) = seen
            && listed_by(uid)
        {
            n.peers.lines_mut().insert(id.clone(), p.clone());
        }
    }
    match seen.as_deref() {
        None => {}
        Some("Now") => drop(s.ghosts.insert(id.clone(), Seen::Now(NodeReport { id, ..some }))),
        Some(text) => drop(s.ghosts.insert(id, Seen::Silent(silence(text)?))),
    }
    Ok(())
}
