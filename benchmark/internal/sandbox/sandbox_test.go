// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// scriptVar holds a shell script: then the test binary runs it in a sandbox, $1 being the directory.
const scriptVar = "SEEKOCI_SANDBOX_TEST"

func TestMain(m *testing.M) {
	script := os.Getenv(scriptVar)
	if script == "" {
		os.Exit(m.Run())
	}
	os.Exit(Run(Options{}, func(dir string) int {
		c := exec.Command("/bin/sh", "-c", script, "sh", dir)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		err := c.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			return 99
		}
		return c.ProcessState.ExitCode()
	}))
}

// command is the test binary about to run script in a sandbox below an own temporary directory.
func command(t *testing.T, script string) (c *exec.Cmd, temp string) {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	temp = t.TempDir()
	c = exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), scriptVar+"="+script, "TMPDIR="+temp)
	c.Stderr = os.Stderr
	return c, temp
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("%s was left behind", filepath.Join(dir, left[0].Name()))
	}
}

func TestRunIsPrivateAndCleansUp(t *testing.T) {
	c, temp := command(t, `
		mount -t tmpfs none "$1" && touch "$1/file" || exit 1
		mkdir /run/containerd && echo "$1 $$"
		setsid sleep 1000 >/dev/null 2>&1 &
		exit 7`)
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Fatalf("exit code: %v, want 7", err)
	}
	dir, _, _ := strings.Cut(string(out), " ")
	if !strings.HasPrefix(dir, temp+"/") {
		t.Errorf("directory is %q, want one in %s", dir, temp)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mount at %s is seen outside", dir)
	}
	wantEmpty(t, temp)
}

func TestRunPassesSignalsOn(t *testing.T) {
	c, temp := command(t, `echo ready; sleep 1000`)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var ready [6]byte
	if _, err := out.Read(ready[:]); err != nil {
		t.Fatal(err)
	}
	// It reaches the program proper, which dies of it; the script, its child, dies with the namespace.
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		t.Fatalf("exit after SIGTERM: %v, want a failure", err)
	}
	wantEmpty(t, temp)
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		script string
		want   int
	}{{"exit 0", 0}, {"exit 42", 42}, {"kill -KILL $$", 128 + 9}} {
		c := exec.Command("/bin/sh", "-c", tt.script)
		err := c.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := exitCode(c.ProcessState.Sys().(syscall.WaitStatus)); got != tt.want {
			t.Errorf("exitCode of %q = %d, want %d", tt.script, got, tt.want)
		}
	}
}
