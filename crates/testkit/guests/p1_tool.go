// A program of another toolchain: prints its arguments and WHO, reads the file its first argument names, writes to
// stderr, and leaves with the code its second argument says.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	fmt.Printf("args %s\n", strings.Join(os.Args[1:], ","))
	fmt.Printf("who %s\n", os.Getenv("WHO"))
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(100)
	}
	fmt.Printf("file %s\n", text)
	fmt.Fprintln(os.Stderr, "go to stderr")
	code, _ := strconv.Atoi(os.Args[2])
	os.Exit(code)
}
