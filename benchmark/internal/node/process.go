// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long a daemon may take to answer and to stop, and how often it is asked. Generous: the machine may be busy.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
	pollEvery    = 2 * time.Millisecond
)

// Process is a daemon of the node.
type Process struct {
	Name    string
	LogFile string // its standard output and error, appended to by each start
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has ended
	err     error         // of Wait; valid once done is closed
}

// startProcess starts argv with its output appended to logFile. env is added to the environment.
func startProcess(logFile string, env []string, argv ...string) (*Process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	p := &Process{Name: filepath.Base(argv[0]), LogFile: logFile, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us, we stop it in order
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ready waits until ok says true, the process ends, or startTimeout passes.
func (p *Process) ready(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting (%v):\n%s", p.Name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w:\n%s", p.Name, ctx.Err(), p.tail())
		case <-tick.C:
			if ok() {
				return nil
			}
		}
	}
}

// listens reports whether somebody accepts connections at the unix socket path.
func listens(path string) func() bool {
	return func() bool {
		c, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}
}

// Stop sends the signal and waits; a process that does not heed it is killed, which is an error.
func (p *Process) Stop(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		err := p.cmd.Process.Kill()
		<-p.done
		return errors.Join(fmt.Errorf("stop %s: it did not heed %s in %s and was killed", p.Name, unix.SignalName(sig), stopTimeout), err)
	}
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

func (p *Process) tail() []byte { return tail(p.LogFile) }

// tail is the end of a log, for error messages.
func tail(logFile string) []byte {
	b, err := os.ReadFile(logFile)
	if err != nil {
		return []byte(err.Error())
	}
	const most = 4096
	return bytes.TrimSpace(b[max(0, len(b)-most):])
}
