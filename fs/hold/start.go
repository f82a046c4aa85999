// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// processName is what the holder is called with, and how it knows that it is one.
const processName = "@soci-holder"

// startWait bounds the start of a holder.
const startWait = 10 * time.Second

// What a holder says when it starts; anything else is an error.
const (
	saysReady  = "."
	saysLocked = "!"
)

// The descriptors that a holder is started with.
const (
	fdDir   = 3 // its directory
	fdReady = 4 // a pipe that it says on that daemons can connect
)

// Invoked reports whether a program with these arguments is to be a holder: Main.
func Invoked(args []string) bool { return len(args) > 0 && args[0] == processName }

// Main is the holder that a Client starts. It returns the program's exit code.
func Main() int {
	unix.CloseOnExec(fdDir)
	unix.CloseOnExec(fdReady)
	told := false
	tell := func(what string) {
		if told {
			return
		}
		told = true
		_, _ = unix.Write(fdReady, []byte(what))
		unix.Close(fdReady)
	}
	err := serve(fdDir, WithMount, func() { tell(saysReady) })
	switch {
	case errors.Is(err, errLocked):
		tell(saysLocked)
	case err != nil:
		tell(err.Error())
	}
	if err != nil {
		return 1
	}
	return 0
}

// start starts a holder of the directory, and returns when it is there. The error matches
// errLocked where there is another one.
func start(dir int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	dup, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return errors.Join(os.NewSyscallError("fcntl", err), w.Close())
	}
	d := os.NewFile(uintptr(dup), "holder directory")
	cmd := exec.Cmd{
		Path:        "/proc/self/exe", // this very program, also if its file was replaced
		Args:        []string{processName},
		Env:         []string{"GOMAXPROCS=2", "GOGC=20", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Dir:         "/",
		ExtraFiles:  []*os.File{d, w},
		SysProcAttr: &unix.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	err = errors.Join(err, d.Close(), w.Close())
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	// This goroutine ends with the holder, which is to outlive whoever started it: only
	// a holder that dies before leaves something to be collected.
	go func() { _ = cmd.Wait() }()

	if err := r.SetReadDeadline(time.Now().Add(startWait)); err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	p, err := io.ReadAll(io.LimitReader(r, 1024))
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	switch says := string(p); says {
	case saysReady:
		return nil
	case saysLocked:
		return fmt.Errorf("start holder: %w", errLocked)
	case "":
		return errors.New("start holder: it ended at once")
	default:
		return fmt.Errorf("start holder: %s", says)
	}
}
