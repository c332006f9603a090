//! The limit of the guest's memory.

use crate::guests::{WORLDS, World, guest, ready_then};
use crate::stage::{DEADLINE, Stage, plan};
use plan::{ExitStatus, Report, RunPlan};

const LIMIT: u64 = 4 << 20;

fn limited() -> RunPlan {
    let mut plan = plan();
    plan.limits.guest_memory_bytes = Some(LIMIT);
    plan
}

fn refusal() -> Vec<Report> {
    vec![Report::GrowthRefused { limit_bytes: LIMIT }]
}

/// Grows page by page until it is refused, then does this.
fn grow_then(world: World, rest: &str) -> Vec<u8> {
    guest(world, "", &format!("(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) {rest}"))
}

#[test]
fn refused_growth_then_trap_is_the_memory_limit() {
    for world in WORLDS {
        let run = Stage::new().run(&grow_then(world, "unreachable"), &limited(), b"");
        let ExitStatus::MemoryLimit { limit_bytes, reason: Some(reason) } = &run.status else {
            panic!("{world:?} {run:?}");
        };
        assert_eq!(*limit_bytes, LIMIT);
        assert!(reason.starts_with("wasm trap: wasm `unreachable` instruction executed"), "{reason}");
        assert_eq!(run.reports, refusal(), "{world:?}");
    }
}

#[test]
fn refused_growth_then_failure_is_the_memory_limit() {
    let wasm = grow_then(World::Module, "(call $proc_exit (i32.const 3))");
    let run = Stage::new().run(&wasm, &limited(), b"");
    let expected = ExitStatus::MemoryLimit { limit_bytes: LIMIT, reason: Some("exited with code 3".into()) };
    assert_eq!(run.status, expected);
}

#[test]
fn guest_that_copes_with_a_refusal_ends_as_it_likes() {
    let run = Stage::new().run(&grow_then(World::Module, ""), &limited(), b"");
    assert_eq!(run.status, ExitStatus::Code(0));
    assert_eq!(run.reports, refusal());
}

#[test]
fn initial_memory_beyond_the_limit_is_refused_by_name() {
    let mut plan = plan();
    plan.limits.guest_memory_bytes = Some(64 << 10);
    for world in WORLDS {
        let line = Stage::new().grant_failure(&guest(world, "", ""), &plan);
        assert!(line.contains(" begins with "), "{line}");
        assert!(line.ends_with(" of memory, above its limit of 64Ki: raise limits.memory"), "{line}");
    }
}

#[test]
fn refusal_is_told_while_the_guest_runs() {
    // After the refusal it never calls the host again.
    let wasm = ready_then(World::Module, "(drop (memory.grow (i32.const 1000))) (loop $spin (br $spin))");
    let running = Stage::new().start(&wasm, &limited());
    let report = running.reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!(vec![report], refusal());
    running.signal(15);
    let (status, more) = running.join();
    assert_eq!(status, ExitStatus::Signal(15));
    assert_eq!(more, []);
}
