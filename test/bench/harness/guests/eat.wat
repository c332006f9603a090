;; Takes 1 MiB after the other and fills it, until the host refuses; then asks for more ten times a second.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "eating\n")
  (func $_start (export "_start") (local $pages i32)
    (i32.store (i32.const 0) (i32.const 8))
    (i32.store (i32.const 4) (i32.const 7))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 40)))
    ;; A subscription at 64: tag clock (0) at 72, clock id monotonic (1) at 80, timeout at 88 in ns, flags 0 at 104.
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 100000000))
    (loop $forever
      (local.set $pages (memory.grow (i32.const 16)))
      (if (i32.eq (local.get $pages) (i32.const -1))
        (then (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192))))
        (else (memory.fill (i32.shl (local.get $pages) (i32.const 16)) (i32.const 7) (i32.const 1048576))))
      (br $forever))))
