//! Arguments, environment and standard streams.

use crate::guests::{WORLDS, World, cat, count, describe, guest, hello};
use crate::stage::{Stage, plan};
use plan::ExitStatus;

#[test]
fn hello_reaches_stdout() {
    for world in WORLDS {
        let run = Stage::new().run(&hello(world), &plan(), b"");
        assert_eq!(run.status, ExitStatus::Code(0), "{world:?} {run:?}");
        assert_eq!(run.stdout_text(), "hello\n", "{world:?} {run:?}");
    }
}

#[test]
fn arguments_and_environment_reach_the_guest() {
    let mut plan = plan();
    plan.invocation.args = vec!["guest".into(), "one".into(), String::new(), "ü".into()];
    plan.invocation.env = vec![("A".into(), "1".into()), ("B".into(), "x=y".into()), ("A".into(), "2".into())];
    plan.invocation.cwd = "/work".into();
    for world in WORLDS {
        let run = Stage::new().run(&describe(world), &plan, b"");
        let pwd = match world {
            World::Module => "PWD=/work\0",
            World::Component => "",
        };
        let expected = format!("guest\0one\0\0ü\0A=2\0B=x=y\0{pwd}");
        assert_eq!(run.stdout_text(), expected, "{world:?} {run:?}");
    }
}

#[test]
fn stdin_is_read_to_its_end() {
    let input: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for world in WORLDS {
        let run = Stage::new().run(&cat(world), &plan(), &input);
        assert_eq!(run.status, ExitStatus::Code(0), "{world:?}");
        assert!(run.stdout == input, "{world:?}: {} bytes", run.stdout.len());
    }
}

#[test]
fn output_that_nobody_can_read_is_an_error_to_the_guest() {
    const BROKEN_PIPE: u8 = 64;
    // Waits for the end of stdin, then leaves with the errno of a write to stdout.
    let wasm = guest(
        World::Module,
        "x",
        "(i32.store (i32.const 32) (i32.const 4096))
         (i32.store (i32.const 36) (i32.const 1))
         (drop (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))
         (i32.store (i32.const 8) (i32.const 1024))
         (i32.store (i32.const 12) (i32.const 1))
         (call $proc_exit (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))",
    );
    let mut running = Stage::new().start(&wasm, &plan());
    drop(running.stdout.take());
    drop(running.stdin.take());
    let (status, _) = running.join();
    assert_eq!(status, ExitStatus::Code(BROKEN_PIPE));
}

#[test]
fn ten_megabytes_of_output_arrive_unchanged_and_in_order() {
    const BYTES: u32 = 10_000_000;
    let expected: Vec<u8> = (0..BYTES / 4).flat_map(u32::to_le_bytes).collect();
    for world in WORLDS {
        let run = Stage::new().run(&count(world, BYTES), &plan(), b"");
        assert_eq!(run.status, ExitStatus::Code(0), "{world:?}");
        assert!(run.stdout == expected, "{world:?}: {} bytes", run.stdout.len());
    }
}
