;; A reactor: `greet` says whether `_initialize` ran before it.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "greeted uninitialized\n")
  (data (i32.const 48) "greeted after initialization\n")
  (global $ready (mut i32) (i32.const 0))
  (func $_initialize (export "_initialize") (global.set $ready (i32.const 1)))
  (func $greet (export "greet")
    (i32.store (i32.const 0) (select (i32.const 48) (i32.const 16) (global.get $ready)))
    (i32.store (i32.const 4) (select (i32.const 29) (i32.const 22) (global.get $ready)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
