// The one program of the images that stand for critest's: what it does is chosen by the name it is called by.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The tests look for these words in the command line of process 1.
const master = "nginx: master process "

func main() {
	name := filepath.Base(os.Args[0])
	var err error
	switch {
	case strings.HasPrefix(os.Args[0], master):
		pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
		if err = os.WriteFile("/var/run/nginx.pid", pid, 0o644); err == nil {
			err = serve("nginx")
		}
	case name == "nginx":
		err = syscall.Exec(os.Args[0], []string{master + os.Args[0]}, os.Environ())
	case name == "httpd":
		err = serve("httpd")
	case name == "pause":
		pause()
	case name == "nnp":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case name == "ipcs":
		var table []byte
		if table, err = os.ReadFile("/proc/sysvipc/shm"); err == nil {
			fmt.Print(string(table))
		}
	default:
		err = fmt.Errorf("no part of %q here: expected pause, nginx, httpd, nnp or ipcs", name)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Holds the namespaces of a pod and, where it is their process 1, buries orphans.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}

func serve(name string) error {
	address := os.Getenv("LISTEN")
	log.Printf("%s serves on %s", name, address)
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "Welcome to what stands for %s\n", name)
	}))
}
