//! Lives a script: event by event, tick by tick, until the operator is quiet and stays so, or something breaks.

use super::operator::Pass;
use super::script::{Script, When};
use super::trace::Trace;
use super::world::World;

/// Quiet for so many ticks is quiet.
const CALM: i64 = 60;

/// So many ticks after the last event everything must be done.
const PATIENCE: i64 = 3000;

/// How a life ended.
#[derive(Debug)]
pub(crate) struct End {
    pub world: World,
    /// Why it is a failure.
    pub failure: Option<String>,
}

/// Lives it.
pub(crate) fn live(script: &Script, trace: Trace) -> End {
    let mut world = World::new(&script.start, trace);
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
            let why = if world.resource.desired.paused {
                None
            } else {
                world.unfinished(&pass.plan).map(|why| format!("quiet, and yet: {why}"))
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

fn end(mut world: World, failure: Option<String>) -> End {
    if let Some(why) = &failure {
        let line = format!("FAILED: {why}");
        world.note(&line);
    }
    End { world, failure }
}
