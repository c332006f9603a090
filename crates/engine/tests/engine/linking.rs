//! Guests that cannot run, and the one line that says why.

use crate::guests::{World, guest, guest_with, wat};
use crate::stage::{Stage, file_of, plan_of_file};
use engine::{CompileJob, Host, Metering, Variant, compile};
use plan::{Calls, Failure, Report};

fn check_load(wasm: &[u8], export: Option<&str>, expected: &str) {
    let line = Stage::new().load_failure(wasm, &plan_of_file(export));
    assert_eq!(line, expected);
}

fn check_compile(wasm: &[u8], expected: &str) {
    let Err(Failure::Message(line)) = Stage::new().compile(wasm) else {
        panic!("{expected}: compiled");
    };
    assert!(line.starts_with(expected), "{line}");
    assert!(!line.contains('\n'), "{line}");
}

#[test]
fn unknown_import_of_a_module_is_named() {
    let wasm = wat(r#"(module (import "foo" "bar" (func)) (func (export "_start")))"#);
    check_load(
        &wasm,
        None,
        "/app.wasm imports foo::bar, which this runtime does not provide (provided: wasi_snapshot_preview1)",
    );
}

#[test]
fn unknown_import_of_a_component_is_named() {
    let wasm = wat(r#"(component (import "foo:bar/baz@1.0.0" (instance (export "f" (func)))))"#);
    check_load(
        &wasm,
        None,
        "/app.wasm imports foo:bar/baz@1.0.0, which this runtime does not provide (provided: wasi:cli, wasi:clocks, wasi:filesystem, wasi:http, wasi:random and wasi:sockets 0.2 and 0.3, wasi:io 0.2)",
    );
}

#[test]
fn function_that_a_known_interface_lacks_is_named() {
    let wasm = wat(r#"(component (import "wasi:cli/exit@0.2.0" (instance (export "f" (func)))))"#);
    check_load(
        &wasm,
        None,
        "/app.wasm imports wasi:cli/exit@0.2.0 (instance export `f` has the wrong type: function implementation is \
         missing), which this runtime does not provide (provided: wasi:cli, wasi:clocks, wasi:filesystem, wasi:http, wasi:random and wasi:sockets 0.2 and 0.3, wasi:io 0.2)",
    );
}

#[test]
fn missing_entry_point_is_told() {
    check_load(
        &wat("(module)"),
        None,
        "/app.wasm exports no _start function: build it as a WASI command, or name a function to call as path#function (it has none)",
    );
    check_load(
        &wat("(component)"),
        None,
        "/app.wasm exports no wasi:cli/run and no handler of wasi:http: build it for the world wasi:cli/command or wasi:http/proxy, or name a function to call as path#function (it has none)",
    );
}

#[test]
fn component_of_two_worlds_is_refused() {
    let wasm = wat(r#"(component
            (component $empty)
            (instance $nothing (instantiate $empty))
            (export "wasi:cli/run@0.2.0" (instance $nothing))
            (export "wasi:http/incoming-handler@0.2.0" (instance $nothing)))"#);
    check_load(
        &wasm,
        None,
        "/app.wasm exports both wasi:cli/run and a handler of wasi:http: build it for one of the worlds",
    );
}

#[test]
fn unknown_export_is_named() {
    let wasm = guest_with(World::Module, "", "", r#"(func (export "add") (param i32) (result i32) (i32.const 0))"#);
    check_load(
        &wasm,
        Some("job"),
        "/app.wasm exports no \"job\": name a function that it exports (it has add, _start)",
    );
    check_load(
        &wasm,
        Some("memory"),
        "/app.wasm exports \"memory\", which is no function: name one (it has add, _start)",
    );
    check_load(
        &wasm,
        Some("add"),
        "/app.wasm exports \"add\", whose arguments (s32) are given wrong: they are 1, and 0 follow args[0]",
    );
}

#[test]
fn unknown_export_of_a_component_is_named() {
    check_load(
        &guest(World::Component, "", ""),
        Some("job"),
        "/app.wasm exports no \"job\": name a function that it exports (it has wasi:cli/run@0.2.12#run)",
    );
    let resource = r#"(component
            (type $file (resource (rep i32)))
            (export $it "file" (type $file))
            (core func $new (canon resource.new $file))
            (core module $code (import "" "new" (func $new (param i32) (result i32)))
                (func (export "open") (result i32) (call $new (i32.const 1))))
            (core instance $code (instantiate $code (with "" (instance (export "new" (func $new))))))
            (func (export "open") (result (own $it)) (canon lift (core func $code "open"))))"#;
    check_load(
        &wat(resource),
        Some("open"),
        "/app.wasm exports \"open\", which gives values that cannot be written down: call another export",
    );
}

#[test]
fn invalid_wasm_is_told_in_one_line() {
    let good = guest(World::Module, "", "");
    check_compile(&good[..good.len() / 2], "invalid wasm module: ");
    check_compile(&guest(World::Component, "", "")[..200], "invalid wasm component: ");
    check_compile(b"\0asm\x01", "invalid wasm: it ends within its first 8 bytes");
    check_compile(b"\0asm\x09\0\0\0", "invalid wasm: unknown version [09, 00, 00, 00]");
    check_compile(b"", "invalid wasm: it does not start with the magic bytes \\0asm");
    check_compile(b"#!/bin/sh", "invalid wasm: it does not start with the magic bytes \\0asm");
}

#[test]
fn precompiled_code_is_refused() {
    let stage = Stage::new();
    let artifact = stage.compile(&guest(World::Module, "", "")).unwrap();
    let mut code = Vec::new();
    std::io::Read::read_to_end(&mut artifact.file(), &mut code).unwrap();
    check_compile(&code, "precompiled code is never loaded from an image");
}

#[test]
fn code_that_is_not_the_compiler_s_output_is_stale() {
    let stage = Stage::new();
    let wasm = guest(World::Module, "", "");
    let mut code = Vec::new();
    std::io::Read::read_to_end(&mut stage.compile(&wasm).unwrap().file(), &mut code).unwrap();
    for content in [&b"garbage"[..], &code[..100], &code[..code.len() / 2], b""] {
        let pending = stage.cache.begin(&stage.key(&wasm)).unwrap();
        std::io::Write::write_all(&mut &pending.output, content).unwrap();
        let artifact = crate::stage::block_on(stage.cache.commit(pending, Calls::Synchronous)).unwrap();
        let failure = Host::new(Variant::PLAIN).unwrap().load(&plan_of_file(None), &artifact).map(|_| ());
        assert!(matches!(failure, Err(Failure::StaleArtifact(_))), "{} bytes: {failure:?}", content.len());
    }
}

#[test]
fn code_of_another_variant_is_stale() {
    let stage = Stage::new();
    let artifact = stage.compile_variant(&guest(World::Module, "", ""), Metering::Fuel).unwrap();
    let failure = Host::new(Variant::PLAIN).unwrap().load(&plan_of_file(None), &artifact).map(|_| ());
    assert!(matches!(failure, Err(Failure::StaleArtifact(_))), "{failure:?}");
}

#[test]
fn compile_child_that_is_told_no_writes_nothing() {
    let stage = Stage::new();
    let wasm = guest(World::Module, "", "");
    let pending = stage.cache.begin(&stage.key(&wasm)).unwrap();
    let job = CompileJob {
        wasm: file_of(&wasm),
        output: pending.output.try_clone().unwrap(),
        lock: pending.lock.try_clone().unwrap(),
        metering: Metering::None,
    };
    let mut reports = Vec::new();
    compile(job, || false, &mut |report| reports.push(report));
    assert_eq!(reports, [Report::Locked]);
    assert_eq!(pending.output.metadata().unwrap().len(), 0);
}
