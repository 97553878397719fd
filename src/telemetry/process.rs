//! Decides what `process_*` says of this process. Reads `/proc/self` only.
//!
//! All of it is the Prometheus crate's own collector, except the processor time: the crate counts whole seconds, the kernel
//! counts ticks, and an operator that is hardly busy shows for minutes nothing at all in whole seconds.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

/// The one family whose value is replaced.
const CPU: &str = "process_cpu_seconds_total";
/// Ticks a second on every architecture that Rust's Linux targets have (`USER_HZ`), should the kernel not say.
const TICKS: u64 = 100;
/// `AT_CLKTCK` of the auxiliary vector (`getauxval(3)`): ticks a second.
const AT_CLKTCK: u64 = 17;

/// The collector.
pub(super) struct Process {
    rest: ProcessCollector,
    ticks: u64,
}

impl Process {
    pub(super) fn new() -> Self {
        let said = std::fs::read("/proc/self/auxv").ok().and_then(|auxv| ticks(&auxv));
        Self { rest: ProcessCollector::for_self(), ticks: said.unwrap_or(TICKS) }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.rest.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.rest.collect();
        // Without /proc the whole seconds stay.
        let used = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| used(&stat));
        if let Some(used) = used {
            for family in families.iter_mut().filter(|family| family.name() == CPU) {
                for metric in family.mut_metric() {
                    let mut counter = Counter::default();
                    counter.set_value(seconds(used, self.ticks));
                    metric.set_counter(counter);
                }
            }
        }
        families
    }
}

/// User and system time of all threads in ticks: fields 14 and 15 of `/proc/PID/stat` (`proc_pid_stat(5)`). The second
/// field is the program's name in brackets, which may hold anything.
fn used(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    user.checked_add(system)
}

/// Exact up to 2^53 ticks, which are millions of years.
#[allow(clippy::cast_precision_loss)]
fn seconds(used: u64, ticks: u64) -> f64 {
    used as f64 / ticks as f64
}

/// The auxiliary vector is pairs of machine words: what it is, and its value.
fn ticks(auxv: &[u8]) -> Option<u64> {
    let word = |bytes: &[u8]| match bytes.len() {
        8 => bytes.try_into().ok().map(u64::from_ne_bytes),
        4 => bytes.try_into().ok().map(u32::from_ne_bytes).map(u64::from),
        _ => None,
    };
    let size = size_of::<usize>();
    let mut pairs = auxv.chunks_exact(2 * size).map(|pair| pair.split_at(size));
    let (_, value) = pairs.find(|(kind, _)| word(kind) == Some(AT_CLKTCK))?;
    word(value).filter(|ticks| *ticks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 123 45 6 7 20 0 9 0 100 1 1";
        assert_eq!(used(stat), Some(168));
        assert_eq!(used("7 (a"), None);
        assert!((seconds(168, 100) - 1.68).abs() < 1e-9);
    }

    #[test]
    fn the_kernel_says_how_long_a_tick_is() {
        let auxv = std::fs::read("/proc/self/auxv").unwrap();
        assert_eq!(ticks(&auxv), Some(TICKS));
        assert_eq!(ticks(&[]), None);
    }

    #[test]
    fn processor_time_is_counted_in_ticks() {
        let process = Process::new();
        let families = process.collect();
        let cpu = families.iter().find(|family| family.name() == CPU).unwrap();
        assert_eq!(cpu.get_field_type(), prometheus::proto::MetricType::COUNTER);
        let shown = cpu.get_metric()[0].get_counter().get_value();
        let now = used(&std::fs::read_to_string("/proc/self/stat").unwrap()).unwrap();
        // What the test itself uses between the two readings is a few ticks at most.
        assert!((seconds(now, process.ticks) - shown).abs() < 0.5, "{shown} of {now} ticks");
    }
}
