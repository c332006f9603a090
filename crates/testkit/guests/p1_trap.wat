;; Traps four named functions deep, after a line on stdout.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "before the trap\n")
  (func $deepest_of_all unreachable)
  (func $open_ledger (param i32)
    (if (local.get 0) (then (call $deepest_of_all))))
  (func $serve_customer (param i32) (call $open_ledger (local.get 0)))
  (func $_start (export "_start")
    (i32.store (i32.const 0) (i32.const 8))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 40)))
    (call $serve_customer (i32.const 1))))
