;; A program whose objects are in the heap of the garbage collector.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (type $pair (struct (field $number i64) (field $next (ref null $pair))))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\0a\00\00\00")
  (data (i32.const 16) "collected\n")
  (global $kept (mut (ref null $pair)) (ref.null $pair))

  ;; Makes two million objects, and keeps the last one.
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 2000000))
    (loop $again
      (global.set $kept (struct.new $pair (i64.extend_i32_u (local.get $left)) (ref.null $pair)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (if (i64.ne (struct.get $pair $number (global.get $kept)) (i64.const 1)) (then unreachable))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))

  ;; Keeps all that it makes.
  (func (export "keep")
    (loop $again
      (global.set $kept (struct.new $pair (i64.const 7) (global.get $kept)))
      (br $again))))
