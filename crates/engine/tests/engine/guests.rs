//! Guests, one per behaviour, as WAT for WASI 0.1. The same module with the official adapter is a `wasi:cli/command`
//! component.

use std::fmt::Write;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

/// The kinds of guest that one WAT module can become.
#[derive(Debug, Clone, Copy)]
pub(crate) enum World {
    Module,
    Component,
}

pub(crate) const WORLDS: [World; 2] = [World::Module, World::Component];

/// Imports, one page of memory and these helpers for a guest: `$print fd address length`, which writes all of it.
const PRELUDE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read"
        (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff"
        (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename"
        (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get"
        (func $fd_prestat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name"
        (func $fd_prestat_dir_name (param i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func $print (param $fd i32) (param $at i32) (param $length i32)
        (block $done
            (loop $more
                (br_if $done (i32.eqz (local.get $length)))
                (i32.store (i32.const 8) (local.get $at))
                (i32.store (i32.const 12) (local.get $length))
                (br_if $done (call $fd_write (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 16)))
                (local.set $at (i32.add (local.get $at) (i32.load (i32.const 16))))
                (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 16))))
                (br $more))))
"#;

/// A module of the prelude, data at 1024 and this body of `_start`. Locals: $a, $b, $c.
pub(crate) fn guest(world: World, data: &str, start: &str) -> Vec<u8> {
    guest_with(world, data, start, "")
}

/// As [`guest`], with more functions.
pub(crate) fn guest_with(world: World, data: &str, start: &str, functions: &str) -> Vec<u8> {
    let mut text = String::new();
    write!(
        text,
        r#"(module {PRELUDE} (data (i32.const 1024) "{data}") {functions}
            (func $main (export "_start") (local $a i32) (local $b i32) (local $c i32) {start}))"#
    )
    .unwrap();
    let module = wat(&text);
    match world {
        World::Module => module,
        World::Component => component(&module),
    }
}

pub(crate) fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn component(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .module(module)
        .unwrap()
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// Prints a line to stdout.
pub(crate) fn hello(world: World) -> Vec<u8> {
    guest(world, "hello\\n", "(call $print (i32.const 1) (i32.const 1024) (i32.const 6))")
}

/// Leaves with a code.
pub(crate) fn exit(world: World, code: u32) -> Vec<u8> {
    guest(world, "", &format!("(call $proc_exit (i32.const {code}))"))
}

/// Prints its arguments, then its environment, each ended by a zero byte.
pub(crate) fn describe(world: World) -> Vec<u8> {
    guest(
        world,
        "",
        "(drop (call $args_sizes_get (i32.const 32) (i32.const 36)))
         (drop (call $args_get (i32.const 2048) (i32.const 4096)))
         (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 36)))
         (drop (call $environ_sizes_get (i32.const 32) (i32.const 36)))
         (drop (call $environ_get (i32.const 2048) (i32.const 4096)))
         (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 36)))",
    )
}

/// Copies stdin to stdout.
pub(crate) fn cat(world: World) -> Vec<u8> {
    guest(
        world,
        "",
        "(block $end
            (loop $more
                (i32.store (i32.const 32) (i32.const 4096))
                (i32.store (i32.const 36) (i32.const 65536))
                (br_if $end (call $fd_read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))
                (br_if $end (i32.eqz (i32.load (i32.const 40))))
                (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 40)))
                (br $more)))",
    )
}

/// Writes the numbers from 0 as 32 bits each, `bytes` in all, in writes of 40,000 bytes.
pub(crate) fn count(world: World, bytes: u32) -> Vec<u8> {
    guest(
        world,
        "",
        &format!(
            "(loop $chunk
                (local.set $a (i32.const 0))
                (loop $fill
                    (i32.store (i32.add (i32.const 4096) (local.get $a)) (local.get $b))
                    (local.set $b (i32.add (local.get $b) (i32.const 1)))
                    (local.set $a (i32.add (local.get $a) (i32.const 4)))
                    (br_if $fill (i32.lt_u (local.get $a) (i32.const 40000))))
                (call $print (i32.const 1) (i32.const 4096) (i32.const 40000))
                (br_if $chunk (i32.lt_u (local.get $b) (i32.const {}))))",
            bytes / 4
        ),
    )
}

/// Says so on stderr, then does this.
pub(crate) fn ready_then(world: World, rest: &str) -> Vec<u8> {
    guest(world, "ready\\n", &format!("(call $print (i32.const 2) (i32.const 1024) (i32.const 6)) {rest}"))
}
