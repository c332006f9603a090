;; Writes one line to stdout and another to stderr.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "to stdout\n")
  (data (i32.const 32) "to stderr\n")
  (func $say (param $fd i32) (param $text i32)
    (i32.store (i32.const 0) (local.get $text))
    (i32.store (i32.const 4) (i32.const 10))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $_start (export "_start")
    (call $say (i32.const 1) (i32.const 16))
    (call $say (i32.const 2) (i32.const 32))))
