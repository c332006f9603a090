// Shows what a container gives a Go program: arguments, environment, files of a volume, an exit code.
//
//	app | app read FILE | app write FILE TEXT | app exit CODE
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	arguments := os.Args[1:]
	if len(arguments) == 0 {
		show()
		return
	}
	if err := run(arguments); err != nil {
		fmt.Fprintln(os.Stderr, "show:", err)
		os.Exit(1)
	}
}

func show() {
	fmt.Println("program:", os.Args[0])
	for _, pair := range os.Environ() {
		fmt.Println("env:", pair)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		fmt.Println("files:", err)
	}
	for _, entry := range entries {
		fmt.Println("file: /" + entry.Name())
	}
}

func run(arguments []string) error {
	verb, rest := arguments[0], arguments[1:]
	switch {
	case verb == "read" && len(rest) == 1:
		content, err := os.ReadFile(rest[0])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(content)
		return err
	case verb == "write" && len(rest) == 2:
		return os.WriteFile(rest[0], []byte(rest[1]+"\n"), 0o644)
	case verb == "exit" && len(rest) == 1:
		code, err := strconv.Atoi(rest[0])
		if err != nil {
			return err
		}
		os.Exit(code)
	}
	return fmt.Errorf("expected read FILE, write FILE TEXT or exit CODE, not %q", arguments)
}
