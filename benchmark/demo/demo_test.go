// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// demo builds the demo and the binaries, without the race detector, and returns the command that runs it below an
// own temporary directory.
func demo(t *testing.T) (c *exec.Cmd, temp string) {
	t.Helper()
	if err := sandbox.Check(); err != nil {
		t.Skip(err)
	}
	if _, err := node.FindContainerd(""); err != nil {
		t.Skip(err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", ".", "../../cmd/soci", "../../cmd/soci-snapshotter-grpc")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	// Not t.TempDir(): its names are too long for unix sockets below them.
	temp, err := os.MkdirTemp("/var/tmp", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(temp); err != nil {
			t.Error(err)
		}
	})
	c = exec.Command(filepath.Join(bin, "demo"), "-bin", bin)
	c.Env = append(os.Environ(), "TMPDIR="+temp)
	return c, temp
}

// wantClean checks that nothing of the demo in temp is left: files, mounts, processes.
func wantClean(t *testing.T, temp string) {
	t.Helper()
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
	if left, err := node.Mounts(temp); err != nil || len(left) > 0 {
		t.Errorf("mounts left: %q, %v", left, err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if cmdline, err := os.ReadFile(p); err == nil && strings.Contains(string(cmdline), temp) {
			t.Errorf("still runs: %q", cmdline)
		}
	}
}

func TestDemo(t *testing.T) {
	c, temp := demo(t)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		`# soci create 127\.0\.0\.1:\d+/go:`, `(?m)^layer sha256:[0-9a-f]{64} -> ztoc sha256:[0-9a-f]{64}$`, `# soci push --plain-http `, `# soci image rpull --plain-http `,
		`(?m)^ +full pull +lazy$`, `(?m)^spans fetched of [1-9]\d+ +all +[1-9]\d*$`, `Both printed the same`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the demo does not print %s:\n%s", want, out)
		}
	}
	wantClean(t, temp)
}

// TestInterruptedDemoCleansUp interrupts the demo while a container runs.
func TestInterruptedDemoCleansUp(t *testing.T) {
	c, temp := demo(t)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), " run2 ") {
			if err := c.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
	}
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("interrupted, the demo ends with %v, want exit status 130", err)
	}
	wantClean(t, temp)
}

func TestSame(t *testing.T) {
	right := leg{version: node.Result{Output: "go version go1.26 linux/amd64\n"}, compile: node.Result{Output: "hello from a compiled program\n"}}
	wrong := right
	wrong.compile.Output = "hello\n"
	for _, tt := range []struct {
		name       string
		full, lazy leg
		ok         bool
	}{{"same", right, right, true}, {"different", right, wrong, false}, {"both wrong", wrong, wrong, false}, {"nothing", leg{}, leg{}, false}} {
		if err := same(tt.full, tt.lazy); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTable(t *testing.T) {
	full := leg{pull: 4 * time.Second, version: node.Result{First: time.Second, Total: time.Second}, compile: node.Result{Total: 5 * time.Second}, wire: 69_000_000, layers: 68_900_000}
	lazy := leg{pull: 300 * time.Millisecond, version: node.Result{First: 700 * time.Millisecond, Total: time.Second}, compile: node.Result{Total: 6 * time.Second},
		wire: 30_000_000, fetched: fetched{bytes: 25_000_000, spans: 20, allSpans: 58}}
	var out bytes.Buffer
	if err := table(&out, full, lazy); err != nil {
		t.Fatal(err)
	}
	const want = `
                                          full pull         lazy
pull                                         4.00 s       0.30 s
pull to first output of ` + "`go version`" + `         5.00 s       1.00 s
pull to end of ` + "`go run .`" + `                   10.00 s       7.30 s
bytes fetched of 69.0 MB                    69.0 MB      30.0 MB
  layer data among them                     68.9 MB      25.0 MB
spans fetched of 58                             all           20

Both printed the same. The first output came 5.0 times as fast, with 43% of the bytes in the end.
`
	if out.String() != want {
		t.Errorf("the table is:\n%s\nwant:\n%s", out.String(), want)
	}
}
