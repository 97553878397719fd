//! `CLUSTER GETSLOTMIGRATIONS` (9.0 and newer): the jobs that run and a log of those that ended, the newest first.

use crate::model::{Job, JobState, NodeId, Slots};
use crate::valkey::error::WireError;
use crate::valkey::reply::Reply;

/// Jobs that ended and are still told of: enough to see how often one failed in a row. The server keeps a thousand.
const ENDED: usize = 16;

/// Reads the answer. `now_us` is the server's own clock (`server_time_usec`), so that no two clocks are compared.
pub fn jobs(reply: &Reply, now_us: i64) -> Result<Vec<Job>, WireError> {
    let Reply::List(items) = reply else {
        return Err(WireError::Protocol("CLUSTER GETSLOTMIGRATIONS is no list".to_owned()));
    };
    let mut all = Vec::new();
    let mut ended = 0;
    for item in items {
        let job = job(item, now_us)?;
        ended += usize::from(job.state != JobState::Running);
        if job.state == JobState::Running || ended <= ENDED {
            all.push(job);
        }
    }
    Ok(all)
}

fn job(item: &Reply, now_us: i64) -> Result<Job, WireError> {
    let fields = item.fields()?;
    let text = |name: &str| match fields.get(name) {
        Some(value) => value.text().map(str::to_owned),
        None => Ok(String::new()),
    };
    let incoming = text("operation")? == "IMPORT";
    let other = text(if incoming { "source_node" } else { "target_node" })?;
    let since = fields.get("last_update_time").map_or(Ok(0), Reply::int)?;
    Ok(Job {
        incoming,
        slots: text("slot_ranges")?.parse::<Slots>().map_err(WireError::Protocol)?,
        other: Some(other).filter(|id| !id.is_empty()).map(NodeId::new),
        state: match text("state")?.as_str() {
            "success" => JobState::Done,
            "failed" | "cancelled" => JobState::Failed,
            _ => JobState::Running,
        },
        message: text("message")?,
        age_ms: (now_us / 1000).saturating_sub(since.saturating_mul(1000)).max(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 9.1.2 answered (RESP2): a job that was refused, one that succeeded, one seen by a replica of its target.
    const RECORDED: [&str; 3] = [
        "name|887e1c33cbba082ed9064c3190a3c17059a915ca|operation|EXPORT|slot_ranges|13000-13500|target_node|\
         9eab1714f07cdf110bdebffec90385929d5bae48|source_node|14ff686da6be9b62a8cec72779bde31dc5cc255e|create_time|\
         1795266045|last_update_time|1795266045|last_ack_time|1795266045|state|failed|message|Received error during \
         handshake to target: -NOPERM User _replication has no permissions to run the 'cluster|syncslots' command",
        "name|f81d8dc919687ecf6ed1e41892c369ff1387e69d|operation|IMPORT|slot_ranges|0-99 200-8191|target_node|\
         9eab1714f07cdf110bdebffec90385929d5bae48|source_node|14ff686da6be9b62a8cec72779bde31dc5cc255e|create_time|\
         1795265834|last_update_time|1795265834|last_ack_time|1795265834|state|success|message||cow_size|0|\
         remaining_repl_size|0",
        "name|f81d8dc919687ecf6ed1e41892c369ff1387e69d|operation|IMPORT|slot_ranges|0-99|create_time|1795265834|\
         last_update_time|1795265834|last_ack_time|1795265834|state|occurring-on-primary|message|",
    ];

    fn recorded(line: &str) -> Reply {
        let mut words: Vec<Reply> = line.split('|').map(|w| Reply::Text(w.to_owned())).collect();
        // The message of the first quotes a command that has the separator in it.
        if let [.., before, Reply::Text(last)] = words.as_mut_slice()
            && let Reply::Text(text) = before
            && text.starts_with("Received")
        {
            *text = format!("{text}|{last}");
            words.pop();
        }
        Reply::List(words)
    }

    #[test]
    fn recorded_jobs_are_read() {
        let reply = Reply::List(RECORDED.iter().map(|l| recorded(l)).collect());
        let all = jobs(&reply, 1_795_266_046_291_722).unwrap();
        assert_eq!(
            all.iter().map(|j| j.state).collect::<Vec<_>>(),
            [JobState::Failed, JobState::Done, JobState::Running]
        );
        assert!(all[0].message.ends_with("to run the 'cluster|syncslots' command"), "{}", all[0].message);
        assert_eq!((all[0].incoming, all[0].age_ms), (false, 1291));
        assert_eq!(all[0].other, Some(NodeId::new("9eab1714f07cdf110bdebffec90385929d5bae48")));
        assert_eq!(all[1].other, Some(NodeId::new("14ff686da6be9b62a8cec72779bde31dc5cc255e")));
        assert_eq!(all[1].slots.to_string(), "0-99 200-8191");
        assert_eq!(all[2].other, None);
    }

    #[test]
    fn of_the_jobs_that_ended_only_the_last_are_told() {
        let reply = Reply::List(vec![recorded(RECORDED[1]); 100]);
        assert_eq!(jobs(&reply, 0).unwrap().len(), ENDED);
        assert!(jobs(&Reply::Nil, 0).is_err());
    }
}
