//! Lives as text: how the world begins, and what happens to it when.
//!
//! ```text
//! cluster 3x1 workers 3 seed 7          # shards x replicas; zones 2, strict (copies of a shard never share a worker), strict-zones,
//!                                       # brief (the operator looks as it does at large clusters)
//! at 12.5 kill primary 0                # seconds since the beginning
//! quiet replicas 2                      # as soon as the operator has been quiet for a while
//! ```

use std::fmt;
use std::str::FromStr;

use valkey_cluster_operator::model::Version;

use super::world::Start;

/// Which Pod something happens to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// The slot owner of a shard.
    Primary(u16),
    /// The first replica of a shard.
    Replica(u16),
    /// A Pod by shard and index.
    Pod(u16, u16),
}

/// What happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Shards(u16),
    Replicas(u16),
    Image(String),
    Config(String, Option<String>),
    Paused(bool),
    /// `spec.maxDisruptedShards`.
    Disrupted(u16),
    /// A change of the shards or of the image drops all keys.
    Purge(bool),
    /// SIGKILL of the server.
    Kill(Who),
    /// `kubectl delete pod`.
    Delete(Who),
    /// `kubectl delete pod --force`: the object goes at once, the process a few seconds later.
    ForceDelete(Who),
    Cordon(u16),
    Uncordon(u16),
    /// Room for so many Pods on a worker.
    Capacity(u16, usize),
    /// The worker's network is gone; its processes live on.
    Cut(u16),
    Heal(u16),
    /// The operator alone cannot reach the nodes on this worker: they hear each other, and clients reach them.
    Hide(u16),
    Show(u16),
    /// The API server is back, or goes away.
    Api(bool),
    /// The worker loses its power: its processes are gone, and nobody there refuses or reports anything.
    Power(u16),
    Boot(u16),
    /// The kubelet ends all Pods within a short grace, without deleting them; then the worker is off.
    Shutdown(u16),
    /// A person vouches that the worker is off.
    Fence(u16),
    /// A person vouches for the end of every process that others list and that has ended.
    Vouch,
    /// SIGKILL of every member of a shard at one moment.
    KillShard(u16),
    /// SIGKILL of the primaries of the first so many shards at one moment.
    KillPrimaries(u16),
    /// SIGKILL of everything.
    KillAll,
    /// So many operators work at the same time.
    Operators(usize),
    /// The next pass that has more steps dies after so many, with all memory.
    Crash(usize),
    /// So many passes see the world of so many looks ago.
    Stale(usize, usize),
    /// The same for the Pods alone.
    StalePods(usize, usize),
    Refuse(usize),
    Lose(usize),
    Slow(usize),
    /// A process of another cluster takes the next free address.
    Stranger,
    /// Somebody changes the `ConfigMap`.
    Drift,
    /// A certificate of the first of these CAs, and the CAs, are written into the Secret that the spec names.
    Certificate(String, Vec<String>),
    /// Somebody asks for new passwords of the system users.
    Rotate,
    /// A user of the spec and what it may do; none takes it out.
    User(String, Option<String>),
}

/// When it happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// At this tick.
    At(i64),
    /// When nothing is left to do.
    Quiet,
}

/// A life before it is lived.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Script {
    pub start: Start,
    pub events: Vec<(When, Action)>,
    /// Kills happen only where the shard survives them.
    pub gentle: bool,
    /// So many events at the end give the world its peace back: they are never left out.
    pub peace: usize,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Primary(s) => write!(f, "primary {s}"),
            Who::Replica(s) => write!(f, "replica {s}"),
            Who::Pod(s, i) => write!(f, "pod {s}-{i}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Shards(n) => write!(f, "shards {n}"),
            Action::Replicas(n) => write!(f, "replicas {n}"),
            Action::Image(name) => write!(f, "image {name}"),
            Action::Config(k, Some(v)) => write!(f, "config {k}={v}"),
            Action::Config(k, None) => write!(f, "config {k}"),
            Action::Paused(yes) => write!(f, "paused {yes}"),
            Action::Purge(yes) => write!(f, "purge {yes}"),
            Action::Kill(who) => write!(f, "kill {who}"),
            Action::Delete(who) => write!(f, "delete {who}"),
            Action::ForceDelete(who) => write!(f, "force-delete {who}"),
            Action::Cordon(w) => write!(f, "cordon w{w}"),
            Action::Uncordon(w) => write!(f, "uncordon w{w}"),
            Action::Capacity(w, n) => write!(f, "capacity w{w} {n}"),
            Action::Cut(w) => write!(f, "cut w{w}"),
            Action::Heal(w) => write!(f, "heal w{w}"),
            Action::Hide(w) => write!(f, "hide w{w}"),
            Action::Show(w) => write!(f, "show w{w}"),
            Action::Api(back) => write!(f, "api {}", if *back { "back" } else { "away" }),
            Action::Disrupted(n) => write!(f, "max-disrupted {n}"),
            Action::Power(w) => write!(f, "power-off w{w}"),
            Action::Boot(w) => write!(f, "boot w{w}"),
            Action::Shutdown(w) => write!(f, "shut-down w{w}"),
            Action::Fence(w) => write!(f, "out-of-service w{w}"),
            Action::Vouch => write!(f, "vouch for the dead"),
            Action::KillShard(s) => write!(f, "kill shard {s}"),
            Action::KillPrimaries(n) => write!(f, "kill primaries {n}"),
            Action::KillAll => write!(f, "kill everything"),
            Action::Operators(n) => write!(f, "operators {n}"),
            Action::Crash(n) => write!(f, "crash after {n}"),
            Action::Stale(age, n) => write!(f, "stale {age} for {n}"),
            Action::StalePods(age, n) => write!(f, "stale-pods {age} for {n}"),
            Action::Refuse(n) => write!(f, "refuse {n}"),
            Action::Lose(n) => write!(f, "lose {n}"),
            Action::Slow(n) => write!(f, "slow {n}"),
            Action::Stranger => write!(f, "stranger"),
            Action::Drift => write!(f, "drift"),
            Action::Certificate(leaf, authorities) => {
                write!(f, "certificate {leaf} {}", authorities.join(" "))
            }
            Action::Rotate => write!(f, "rotate"),
            Action::User(name, Some(rule)) => write!(f, "user {name} {rule}"),
            Action::User(name, None) => write!(f, "user {name}"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.start;
        let reuse = if s.reuse_addresses { " reuse-addresses" } else { "" };
        let gentle = if self.gentle { " gentle" } else { "" };
        let strict = if s.strict { " strict" } else { "" };
        let zoned = if s.strict_zones { " strict-zones" } else { "" };
        let brief = if s.brief { " brief" } else { "" };
        let zones = if s.zones > 0 { format!(" zones {}", s.zones) } else { String::new() };
        writeln!(
            f,
            "cluster {}x{} workers {} seed {} version {}{reuse}{gentle}{zones}{strict}{zoned}{brief}",
            s.shards, s.replicas, s.workers, s.seed, s.version
        )?;
        for (when, action) in &self.events {
            match when {
                When::At(tick) => writeln!(f, "at {}.{} {action}", tick / 10, tick % 10)?,
                When::Quiet => writeln!(f, "quiet {action}")?,
            }
        }
        Ok(())
    }
}

fn number<T: FromStr>(text: Option<&str>, what: &str) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("{what} is missing"))?;
    text.trim_start_matches('w').parse().map_err(|_| format!("{what}: not a number: {text:?}"))
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
        let mut lines = lines.filter(|l| !l.is_empty());
        let (start, gentle) = start(lines.next().ok_or("a life begins with: cluster <shards>x<replicas>")?)?;
        let events: Result<Vec<_>, String> = lines.map(event).collect();
        Ok(Self { start, events: events?, gentle, peace: 0 })
    }
}

fn start(line: &str) -> Result<(Start, bool), String> {
    let mut words = line.split_whitespace();
    if words.next() != Some("cluster") {
        return Err(format!("a life begins with: cluster <shards>x<replicas>, not {line:?}"));
    }
    let size = words.next().and_then(|w| w.split_once('x')).ok_or("cluster <shards>x<replicas>")?;
    let mut gentle = false;
    let mut start = Start {
        shards: number(Some(size.0), "shards")?,
        replicas: number(Some(size.1), "replicas")?,
        workers: 3,
        zones: 0,
        strict: false,
        strict_zones: false,
        version: Version::new(9, 1, 2),
        seed: 1,
        reuse_addresses: false,
        brief: false,
    };
    while let Some(word) = words.next() {
        match word {
            "workers" => start.workers = number(words.next(), word)?,
            "seed" => start.seed = number(words.next(), word)?,
            "version" => start.version = words.next().unwrap_or_default().parse()?,
            "zones" => start.zones = number(words.next(), word)?,
            "strict" => start.strict = true,
            "strict-zones" => start.strict_zones = true,
            "reuse-addresses" => start.reuse_addresses = true,
            "brief" => start.brief = true,
            "gentle" => gentle = true,
            _ => return Err(format!("unknown word {word:?} in {line:?}")),
        }
    }
    Ok((start, gentle))
}

fn event(line: &str) -> Result<(When, Action), String> {
    let (first, rest) = line.split_once(' ').ok_or_else(|| format!("not an event: {line:?}"))?;
    match first {
        "quiet" => Ok((When::Quiet, action(rest)?)),
        "at" => {
            let (time, rest) =
                rest.split_once(' ').ok_or_else(|| format!("at <seconds> <what>: {line:?}"))?;
            let (whole, tenth) = time.split_once('.').unwrap_or((time, "0"));
            let tick = number::<i64>(Some(whole), "seconds")? * 10 + number::<i64>(Some(tenth), "tenths")?;
            Ok((When::At(tick), action(rest)?))
        }
        _ => Err(format!("an event begins with at or quiet: {line:?}")),
    }
}

fn who(words: &[&str]) -> Result<Who, String> {
    match words {
        ["primary", s] => Ok(Who::Primary(number(Some(s), "shard")?)),
        ["replica", s] => Ok(Who::Replica(number(Some(s), "shard")?)),
        ["pod", name] => {
            let (s, i) = name.split_once('-').ok_or_else(|| format!("pod <shard>-<index>: {name:?}"))?;
            Ok(Who::Pod(number(Some(s), "shard")?, number(Some(i), "index")?))
        }
        _ => Err(format!("primary <shard>, replica <shard> or pod <shard>-<index>, not {words:?}")),
    }
}

fn action(text: &str) -> Result<Action, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let n = |i: usize| number::<usize>(words.get(i).copied(), text);
    let short = |i: usize| number::<u16>(words.get(i).copied(), text);
    Ok(match words.as_slice() {
        ["shards", _] => Action::Shards(short(1)?),
        ["replicas", _] => Action::Replicas(short(1)?),
        ["image", name] => Action::Image((*name).to_owned()),
        ["config", pair] => match pair.split_once('=') {
            Some((k, v)) => Action::Config(k.to_owned(), Some(v.to_owned())),
            None => Action::Config((*pair).to_owned(), None),
        },
        ["paused", yes] => Action::Paused(yes.parse().map_err(|_| format!("true or false: {text:?}"))?),
        ["purge", yes] => Action::Purge(yes.parse().map_err(|_| format!("true or false: {text:?}"))?),
        ["kill", "shard", _] => Action::KillShard(short(2)?),
        ["kill", "primaries", _] => Action::KillPrimaries(short(2)?),
        ["kill", "everything"] => Action::KillAll,
        ["kill", rest @ ..] => Action::Kill(who(rest)?),
        ["delete", rest @ ..] => Action::Delete(who(rest)?),
        ["force-delete", rest @ ..] => Action::ForceDelete(who(rest)?),
        ["cordon", _] => Action::Cordon(short(1)?),
        ["uncordon", _] => Action::Uncordon(short(1)?),
        ["capacity", _, _] => Action::Capacity(short(1)?, n(2)?),
        ["cut", _] => Action::Cut(short(1)?),
        ["heal", _] => Action::Heal(short(1)?),
        ["hide", _] => Action::Hide(short(1)?),
        ["show", _] => Action::Show(short(1)?),
        ["api", "away"] => Action::Api(false),
        ["api", "back"] => Action::Api(true),
        ["max-disrupted", _] => Action::Disrupted(short(1)?),
        ["power-off", _] => Action::Power(short(1)?),
        ["boot", _] => Action::Boot(short(1)?),
        ["shut-down", _] => Action::Shutdown(short(1)?),
        ["out-of-service", _] => Action::Fence(short(1)?),
        ["vouch", "for", "the", "dead"] => Action::Vouch,
        ["operators", _] => Action::Operators(n(1)?),
        ["crash", "after", _] => Action::Crash(n(2)?),
        ["stale", _, "for", _] => Action::Stale(n(1)?, n(3)?),
        ["stale-pods", _, "for", _] => Action::StalePods(n(1)?, n(3)?),
        ["refuse", _] => Action::Refuse(n(1)?),
        ["lose", _] => Action::Lose(n(1)?),
        ["slow", _] => Action::Slow(n(1)?),
        ["stranger"] => Action::Stranger,
        ["drift"] => Action::Drift,
        ["certificate", leaf, authorities @ ..] => {
            Action::Certificate((*leaf).to_owned(), authorities.iter().map(|a| (*a).to_owned()).collect())
        }
        ["rotate"] => Action::Rotate,
        ["user", name] => Action::User((*name).to_owned(), None),
        ["user", name, rule] => Action::User((*name).to_owned(), Some((*rule).to_owned())),
        _ => return Err(format!("unknown event {text:?}")),
    })
}
