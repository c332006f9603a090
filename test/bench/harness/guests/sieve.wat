;; Counts the primes below a million by a sieve, 100 times, and prints the last count and the nanoseconds that all took:
;; short loops over memory, which an interruption has to be looked for in.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (memory (export "memory") 32)
  (global $most i32 (i32.const 1000000))
  ;; A byte for each number, from here on.
  (global $marks i32 (i32.const 65536))
  (func $now (result i64)
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 16)))
    (i64.load (i32.const 16)))
  (func $primes (result i32) (local $number i32) (local $multiple i32) (local $count i32)
    (memory.fill (global.get $marks) (i32.const 0) (global.get $most))
    (local.set $number (i32.const 2))
    (loop $numbers
      (if (i32.eqz (i32.load8_u (i32.add (global.get $marks) (local.get $number))))
        (then
          (local.set $count (i32.add (local.get $count) (i32.const 1)))
          (local.set $multiple (i32.add (local.get $number) (local.get $number)))
          (block $marked
            (loop $multiples
              (br_if $marked (i32.ge_u (local.get $multiple) (global.get $most)))
              (i32.store8 (i32.add (global.get $marks) (local.get $multiple)) (i32.const 1))
              (local.set $multiple (i32.add (local.get $multiple) (local.get $number)))
              (br $multiples)))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $numbers (i32.lt_u (local.get $number) (global.get $most))))
    (local.get $count))
  ;; Writes a number in decimal digits, and a line feed.
  (func $print (param $value i64) (local $at i32)
    (local.set $at (i32.const 63))
    (i32.store8 (local.get $at) (i32.const 10))
    (loop $digits
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $value) (i64.const 10)))))
      (local.set $value (i64.div_u (local.get $value) (i64.const 10)))
      (br_if $digits (i64.ne (local.get $value) (i64.const 0))))
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.sub (i32.const 64) (local.get $at)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $_start (export "_start") (local $begun i64) (local $round i32) (local $count i32)
    (local.set $begun (call $now))
    (loop $rounds
      (local.set $count (call $primes))
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $rounds (i32.lt_u (local.get $round) (i32.const 100))))
    (local.set $begun (i64.sub (call $now) (local.get $begun)))
    (call $print (i64.extend_i32_u (local.get $count)))
    (call $print (local.get $begun))))
