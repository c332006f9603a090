// A reactor of another toolchain: functions that are called by name, after its runtime was initialized.
package main

import (
	"fmt"
	"os"
)

//go:wasmexport add
func add(a, b int32) int32 { return a + b }

//go:wasmexport halve
func halve(x float64) float64 { return x / 2 }

//go:wasmexport greet
func greet() { fmt.Println("greeted", os.Args[1:]) }

func main() {}
