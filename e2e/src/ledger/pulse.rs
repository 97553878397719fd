//! Decides how much of a gap may be the ledger's own: it beats at a lane's interval and touches nothing, so where it
//! comes late, the process did not run, and no lane could have written.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::report::ms;

/// Stalls that are kept one by one, the first ones.
const MAX_STALLS: usize = 1000;

/// The control of a run: how late the ledger itself came, without any server in between.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// The longest time that the ledger itself stood still, beyond a lane's interval.
    pub longest_stall_ms: f64,
    /// The stalls that were longer than the listing floor, the first thousand.
    pub stalls: Vec<Stall>,
}

/// One time that the ledger stood still.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// The last beat before it, from the start of the ledger.
    pub start_ms: f64,
    /// How late the next one was.
    pub length_ms: f64,
}

impl Control {
    fn beat(&mut self, start: Duration, late: Duration, floor: Duration) {
        self.longest_stall_ms = self.longest_stall_ms.max(ms(late));
        if late >= floor && self.stalls.len() < MAX_STALLS {
            self.stalls.push(Stall { start_ms: ms(start), length_ms: ms(late) });
        }
    }
}

/// Beats every `every` from `zero` on until told to stop.
pub(crate) async fn run(zero: Instant, every: Duration, floor: Duration, stop: CancellationToken) -> Control {
    let mut control = Control::default();
    let mut beats = interval_at(zero + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = zero;
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = stop.cancelled() => return control,
        }
        let late = last.elapsed().saturating_sub(every);
        control.beat(last - zero, late, floor);
        last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_is_held_up_is_a_stall_of_that_length() {
        let (every, floor, stop) =
            (Duration::from_millis(4), Duration::from_millis(30), CancellationToken::new());
        let zero = Instant::now();
        let pulse = tokio::spawn(run(zero, every, floor, stop.clone()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        // The only thread of this runtime: nothing beats while it is held up.
        std::thread::sleep(Duration::from_millis(60));
        tokio::time::sleep(Duration::from_millis(20)).await;
        stop.cancel();
        let control = pulse.await.unwrap();
        assert!(control.longest_stall_ms > 55.0, "{control:?}");
        assert!(control.stalls.iter().any(|stall| stall.length_ms > 55.0), "{control:?}");
    }
}
