// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a program to measure.
type command struct {
	args  []string
	cpus  int       // it is bound to processors 0 to cpus-1; 0: to none
	stdin io.Reader // nil: none
	out   io.Writer // nil: /dev/null itself, not a pipe
}

// usage is what one run took, as the operating system counts it, set-up of the process included.
type usage struct {
	Wall, CPU float64 // seconds; CPU is user and system time
	Peak      int64   // bytes resident at most
}

// execMode is the argument that makes this program the parent of the measured one.
// A child's peak memory cannot read lower than its parent's memory at the fork, and
// this program holds layers, so a small process stands in between. It also binds
// itself to the processors, which the child inherits.
const execMode = "-exec"

// run runs the command. A run that fails is an error that ends in what it said.
func (c *command) run(ctx context.Context) (usage, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return usage{}, err
	}
	defer r.Close()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, append([]string{execMode, fmt.Sprint(c.cpus)}, c.args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.out, &stderr
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return usage{}, err
	}
	p, readErr := io.ReadAll(r)
	if err := cmd.Wait(); err != nil {
		return usage{}, fmt.Errorf("run %s: %w: %s", strings.Join(c.args, " "), err, lastLine(stderr.String()))
	}
	var u usage
	if err := errors.Join(readErr, json.Unmarshal(p, &u)); err != nil {
		return usage{}, fmt.Errorf("run %s: %w", strings.Join(c.args, " "), err)
	}
	return u, nil
}

// execMeasured is the process in between: it runs args[1:] on the first args[0]
// processors, writes the usage to file descriptor 3 and returns the exit status.
func execMeasured(args []string) int {
	u, err := execChild(args)
	if err == nil {
		err = json.NewEncoder(os.NewFile(3, "usage")).Encode(u)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 127
	}
	return 0
}

func execChild(args []string) (usage, error) {
	var cpus int
	if len(args) < 2 {
		return usage{}, errors.New("no command")
	}
	if _, err := fmt.Sscan(args[0], &cpus); err != nil {
		return usage{}, fmt.Errorf("number of processors %q: %w", args[0], err)
	}
	runtime.LockOSThread() // the thread whose affinity and whose end count for the child
	if cpus > 0 {
		if err := pin(0, cpus); err != nil {
			return usage{}, err
		}
	}
	syscall.CloseOnExec(3)
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	err := cmd.Wait()
	wall := time.Since(start)
	s := cmd.ProcessState
	u := usage{Wall: wall.Seconds(), CPU: (s.UserTime() + s.SystemTime()).Seconds()}
	if r, ok := s.SysUsage().(*syscall.Rusage); ok {
		u.Peak = r.Maxrss << 10
	}
	return u, err
}

// pin binds the calling thread to the processors [first, end), counted among those it may run on.
func pin(first, end int) error {
	var have, want unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil {
		return fmt.Errorf("read the processors to run on: %w", err)
	}
	if end > have.Count() {
		return fmt.Errorf("run on %d processors: there are %d", end, have.Count())
	}
	for cpu, n := 0, 0; n < end; cpu++ {
		if have.IsSet(cpu) {
			if n >= first {
				want.Set(cpu)
			}
			n++
		}
	}
	if err := unix.SchedSetaffinity(0, &want); err != nil {
		return fmt.Errorf("choose the processors to run on: %w", err)
	}
	return nil
}

// lastLine is the last line of s that is not empty.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
