//! Guests that are asked to end, whatever they are doing.

use crate::guests::{WORLDS, World, count, ready_then};
use crate::stage::{Running, Stage, plan};
use plan::ExitStatus;

fn check(what: &str, running: Running) {
    running.signal(15);
    let (status, _) = running.join();
    assert_eq!(status, ExitStatus::Signal(15), "{what}");
}

fn check_after_ready(what: &str, rest: &str) {
    for world in WORLDS {
        let mut running = Stage::new().start(&ready_then(world, rest), &plan());
        running.wait_for_line();
        check(&format!("{what} {world:?}"), running);
    }
}

#[test]
fn spinning_guest_ends() {
    check_after_ready("spin", "(loop $spin (br $spin))");
}

#[test]
fn guest_that_waits_for_stdin_ends() {
    check_after_ready(
        "read",
        "(i32.store (i32.const 32) (i32.const 4096))
         (i32.store (i32.const 36) (i32.const 100))
         (drop (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))",
    );
}

#[test]
fn sleeping_guest_ends() {
    // A subscription to the monotonic clock, an hour from now.
    check_after_ready(
        "sleep",
        "(i32.store (i32.const 4112) (i32.const 1))
         (i64.store (i32.const 4120) (i64.const 3600000000000))
         (drop (call $poll_oneoff (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 64)))",
    );
}

#[test]
fn guest_whose_output_nobody_reads_ends() {
    for world in WORLDS {
        let mut running = Stage::new().start(&count(world, 1_000_000), &plan());
        // It is writing once the first byte is there, and the pipe holds less than it writes.
        let mut byte = [0];
        std::io::Read::read_exact(running.stdout.as_mut().unwrap(), &mut byte).unwrap();
        check(&format!("write {world:?}"), running);
    }
}

#[test]
fn signal_at_any_moment_of_the_start_ends_the_guest() {
    let stage = Stage::new();
    let wasm = ready_then(World::Module, "(loop $spin (br $spin))");
    for _ in 0..100 {
        check("early", stage.start(&wasm, &plan()));
    }
}

#[test]
fn sleep_wakes_by_itself() {
    let wasm = ready_then(
        World::Module,
        "(i32.store (i32.const 4112) (i32.const 1))
         (i64.store (i32.const 4096) (i64.const 5))
         (i64.store (i32.const 4120) (i64.const 5000000))
         (local.set $a (call $poll_oneoff (i32.const 4096) (i32.const 8192) (i32.const 1) (i32.const 64)))
         (if (i32.ne (local.get $a) (i32.const 0)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 64)) (i32.const 1)) (then unreachable))
         (if (i64.ne (i64.load (i32.const 8192)) (i64.const 5)) (then unreachable))",
    );
    let run = Stage::new().run(&wasm, &plan(), b"");
    assert_eq!(run.status, ExitStatus::Code(0), "{run:?}");
}
