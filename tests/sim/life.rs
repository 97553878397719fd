//! Lives a script: event by event, tick by tick, until the operator is quiet and stays so, or something breaks.

use valkey_cluster_operator::model::Code;

use super::TICK_MS;
use super::mutant::Mutant;
use super::operator::Pass;
use super::script::{Script, When};
use super::tally;
use super::trace::Trace;
use super::world::World;

/// Quiet for so many ticks is quiet.
pub(crate) const CALM: i64 = 60;

/// So many ticks after the last event everything must be done.
pub(crate) const PATIENCE: i64 = 3000;

/// How a life ended.
#[derive(Debug)]
pub(crate) struct End {
    pub world: World,
    /// Why it is a failure.
    pub failure: Option<String>,
}

/// Lives it.
pub(crate) fn live(script: &Script, trace: Trace) -> End {
    live_as(script, trace, Mutant::None)
}

/// Lives it with an operator of which something is left out.
pub(crate) fn live_as(script: &Script, trace: Trace, mutant: Mutant) -> End {
    let mut world = World::new(&script.start, trace);
    world.mutant = mutant;
    let mut events = script.events.iter().peekable();
    let (mut calm_since, mut last_event) = (0, 0);
    loop {
        let calm = world.now - calm_since >= CALM;
        while let Some((when, action)) = events.peek() {
            let due = match when {
                When::At(tick) => *tick <= world.now,
                When::Quiet => calm && last_event + CALM <= world.now,
            };
            if !due {
                break;
            }
            world.happen(action, script.gentle);
            world.happened.push(world.now);
            events.next();
            (calm_since, last_event) = (world.now, world.now);
        }
        world.tick();
        let passes = due_passes(&mut world);
        if passes.iter().any(busy) {
            calm_since = world.now;
        }
        if let Some((_, why)) = world.watch.first_break.clone() {
            return end(world, Some(why));
        }
        if events.peek().is_none() && world.now - calm_since >= 2 * CALM {
            let pass = world.pass(0);
            // A member moves to a better place after a minute of peace, which may be now; a step that failed often waits for longer
            // than it takes to be calm.
            if (busy(&pass) || held_back(&world, &pass)) && world.now - last_event <= PATIENCE {
                calm_since = world.now;
                continue;
            }
            let why = if world.resource.desired.paused {
                None
            } else {
                world.unfinished(&pass.plan, false).map(|why| format!("quiet, and yet: {why}"))
            };
            return end(world, why);
        }
        if world.now - last_event > PATIENCE
            && !matches!(events.peek(), Some((When::At(t), _)) if *t > world.now)
        {
            let why = format!("not quiet {} s after the last event", PATIENCE / 10);
            return end(world, Some(why));
        }
    }
}

fn due_passes(world: &mut World) -> Vec<Pass> {
    let mut passes = Vec::new();
    for number in 0..world.operators.len() {
        if world.operators[number].next_pass <= world.now {
            passes.push(world.pass(number));
        }
    }
    passes
}

/// A pass with steps, or one that waits for something that can still come.
fn busy(pass: &Pass) -> bool {
    !pass.fresh || !pass.plan.quiet()
}

/// A step is tried again later, and will be taken: nobody asks for settings that servers refuse.
fn held_back(world: &World, pass: &Pass) -> bool {
    let later = pass.plan.blocked.iter().any(|b| b.code == Code::BackingOff);
    later && world.resource.desired.config.is_empty()
}

fn end(mut world: World, failure: Option<String>) -> End {
    world.tally.one(tally::LIVES);
    world.tally.many(tally::SECONDS, u64::try_from(world.now).unwrap_or(0) * TICK_MS.unsigned_abs() / 1000);
    world.tally.many(tally::HAND_OVERS, world.watch.hand_overs.0 as u64);
    world.tally.many(tally::WRITES, world.clients.acknowledged_writes);
    if let Some(why) = &failure {
        let line = format!("FAILED: {why}");
        world.note(&line);
    }
    End { world, failure }
}

impl World {
    /// The next pass of the only operator and the time until the one after it; whether it was busy.
    pub(crate) fn step(&mut self) -> bool {
        let pass = self.pass(0);
        while self.operators[0].next_pass > self.now && self.watch.first_break.is_none() {
            self.tick();
        }
        busy(&pass)
    }

    /// Steps until the operator is quiet and stays so, and everything is done.
    pub(crate) fn rest(&mut self) -> Result<(), String> {
        let (began, mut calm_since) = (self.now, self.now);
        while self.now - calm_since < 2 * CALM {
            if self.step() {
                calm_since = self.now;
            }
            if let Some((_, why)) = self.watch.first_break.clone() {
                return Err(why);
            }
            if self.now - began > PATIENCE {
                return Err("the end is not reached".to_owned());
            }
        }
        let pass = self.pass(0);
        self.unfinished(&pass.plan, false).map_or(Ok(()), |why| Err(format!("quiet, and yet: {why}")))
    }
}
