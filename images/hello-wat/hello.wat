;; Prints one line and returns, written for the machine: all that a command of WASI preview 1 needs.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; One piece of text: where it is, how long it is, and then itself.
  (data (i32.const 0) "\08\00\00\00\0f\00\00\00hello from wat\n")
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))
