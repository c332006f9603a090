//! Exit codes and traps.

use crate::guests::{WORLDS, World, exit, guest, guest_with, wat};
use crate::stage::{Stage, plan, plan_of_file};
use plan::ExitStatus;

#[test]
fn guests_leave_with_their_own_code() {
    for world in WORLDS {
        for code in [0, 1, 7, 125, 126, 255] {
            // The adapter from WASI 0.1 to 0.2 knows success and failure only.
            let expected = match world {
                World::Module => code,
                World::Component => code.min(1),
            };
            let run = Stage::new().run(&exit(world, u32::from(code)), &plan(), b"");
            assert_eq!(run.status, ExitStatus::Code(expected), "{world:?} {code}");
        }
    }
}

#[test]
fn component_leaves_with_a_code_of_its_own() {
    let component = wat(r#"
        (component
            (import "wasi:cli/exit@0.2.8" (instance $exit
                (export "exit-with-code" (func (param "status-code" u8)))))
            (core func $exit (canon lower (func $exit "exit-with-code")))
            (core module $main
                (import "wasi" "exit" (func $exit (param i32)))
                (func (export "run") (result i32) (call $exit (i32.const 77)) i32.const 0))
            (core instance $main (instantiate $main
                (with "wasi" (instance (export "exit" (func $exit))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $cli (export "run" (func $run)))
            (export "wasi:cli/run@0.2.8" (instance $cli)))
    "#);
    let run = Stage::new().run(&component, &plan(), b"");
    assert_eq!(run.status, ExitStatus::Code(77), "{run:?}");
}

#[test]
fn trap_names_the_functions_that_led_to_it() {
    for world in WORLDS {
        let wasm = guest_with(
            world,
            "",
            "(call $caller_of_crash)",
            "(func $caller_of_crash (call $crash_here)) (func $crash_here unreachable)",
        );
        let run = Stage::new().run(&wasm, &plan(), b"");
        let ExitStatus::Trap { reason } = &run.status else {
            panic!("{world:?} {run:?}");
        };
        let mut lines = reason.lines();
        assert_eq!(lines.next(), Some("wasm `unreachable` instruction executed"), "{reason}");
        assert!(lines.next().unwrap().contains("crash_here"), "{reason}");
        assert!(lines.next().unwrap().contains("caller_of_crash"), "{reason}");
    }
}

#[test]
fn endless_recursion_is_a_trap_with_a_bounded_reason() {
    let wasm = guest_with(World::Module, "", "(call $deeper)", "(func $deeper (call $deeper) (call $deeper))");
    let run = Stage::new().run(&wasm, &plan(), b"");
    let ExitStatus::Trap { reason } = &run.status else {
        panic!("{run:?}");
    };
    assert!(reason.starts_with("call stack exhausted"), "{reason}");
    assert!(reason.len() <= 4096, "{} bytes", reason.len());
}

#[test]
fn access_out_of_bounds_is_a_trap() {
    let wasm = guest(World::Module, "", "(drop (i32.load (i32.const -4)))");
    let run = Stage::new().run(&wasm, &plan(), b"");
    let ExitStatus::Trap { reason } = &run.status else {
        panic!("{run:?}");
    };
    assert!(reason.starts_with("out of bounds memory access"), "{reason}");
}

#[test]
fn reactor_is_initialized_and_its_export_called() {
    let wasm = guest_with(
        World::Module,
        "job\\n",
        "unreachable",
        r#"(global $length (mut i32) (i32.const 0))
           (func (export "_initialize") (global.set $length (i32.const 4)))
           (func (export "job") (call $print (i32.const 1) (i32.const 1024) (global.get $length)))"#,
    );
    let run = Stage::new().run(&wasm, &plan_of_file(Some("job")), b"");
    assert_eq!(run.status, ExitStatus::Code(0), "{run:?}");
    assert_eq!(run.stdout_text(), "job\n");
}
