//! The clock of the passes: that of the machine, but it never steps. When the machine's is set, this one follows it at half to one and a
//! half times its pace, so that what is waited for (a silence, a pause after a failure) is never over in an instant and never begins anew.

use std::sync::Mutex;
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;

use crate::model::Moment;
use crate::mutex::lock;

/// What it tells is never earlier than what it told before. One for the whole process.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Told>>);

/// What was told last, and when that was by the clock that nobody sets.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    now: Moment,
}

impl Clock {
    /// Now.
    pub fn now(&self) -> Moment {
        self.read(Instant::now(), Moment(Timestamp::now().as_millisecond()))
    }

    /// The same from two readings: of a clock that nobody sets, and of the machine's.
    fn read(&self, at: Instant, machine: Moment) -> Moment {
        let mut told = lock(&self.0);
        let now = match *told {
            None => machine,
            Some(last) => {
                let passed = at.saturating_duration_since(last.at).as_millis();
                let passed = i64::try_from(passed).unwrap_or(i64::MAX / 2);
                let wanted = machine.0.saturating_sub(last.now.0);
                last.now.plus_ms(wanted.clamp(passed / 2, passed + passed / 2))
            }
        };
        // Readings that are too close to tell apart add up.
        if told.is_none_or(|last| now > last.now) {
            *told = Some(Told { at, now });
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const START: i64 = 1_767_323_045_000;

    /// Reads every `step` ms while the machine's clock is off by what `off` says for that moment; what was told, from the start.
    fn told(step: u64, count: u64, off: impl Fn(u64) -> i64) -> Vec<i64> {
        let (clock, begun) = (Clock::default(), Instant::now());
        let read = |i: u64| {
            let passed = i * step;
            let machine = START + i64::try_from(passed).unwrap() + off(passed);
            clock.read(begun + Duration::from_millis(passed), Moment(machine)).0 - START
        };
        (0..=count).map(read).collect()
    }

    #[test]
    fn a_clock_that_nobody_sets_is_told_as_it_is() {
        assert_eq!(told(250, 4, |_| 0), [0, 250, 500, 750, 1000]);
    }

    #[test]
    fn an_hour_forwards_or_backwards_is_caught_up_with_slowly() {
        const HOUR: i64 = 3_600_000;
        for off in [HOUR, -HOUR] {
            let told = told(1000, 10_000, |passed| if passed < 5000 { 0 } else { off });
            for pair in told.windows(2) {
                let step = pair[1] - pair[0];
                assert!((500..=1500).contains(&step), "{step} ms in a second");
            }
            assert_eq!(told[5], if off > 0 { 5500 } else { 4500 });
            assert_eq!(*told.last().unwrap(), 10_000_000 + off, "in two hours it is there");
        }
    }

    #[test]
    fn many_quick_readings_stand_still_no_more_than_few() {
        let told = told(1, 1000, |passed| if passed == 0 { 0 } else { -1_000_000 });
        let last = *told.last().unwrap();
        assert!((450..=500).contains(&last), "{last} ms of 1000");
    }
}
