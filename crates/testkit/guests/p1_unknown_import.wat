;; Asks for an import that no host has.
(module
  (import "acme:bank" "withdraw" (func $withdraw (param i32)))
  (memory (export "memory") 1)
  (func $_start (export "_start") (call $withdraw (i32.const 7))))
