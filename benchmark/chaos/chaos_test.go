// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// shortForm is how long faults are injected; $SEEKOCI_CHAOS is another duration.
const shortForm = 25 * time.Second

// programs builds what a run needs into dir, the daemon with the race detector.
func programs(t *testing.T, dir string) {
	t.Helper()
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"0", []string{".", "../../cmd/soci", "./checker", "../internal/probe"}},
		{"1", []string{"-race", "../../cmd/soci-snapshotter-grpc"}},
	} {
		c := exec.Command("go", append([]string{"build", "-buildvcs=false", "-o", dir + "/"}, b.args...)...)
		c.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build: %v: %s", err, out)
		}
	}
}

// TestChaos is the short form of this program: all kinds of faults for some seconds, from a seed
// that is another one each time, and logged; $SEEKOCI_SEED is a certain one. The program runs by itself, as
// under the race detector it would take minutes to make its images.
func TestChaos(t *testing.T) {
	if err := sandbox.Check(); err != nil {
		t.Skip(err)
	}
	if _, err := node.FindContainerd(""); err != nil {
		t.Skip(err)
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skipf("the race detector needs a C compiler: %v", err)
	}
	seed, length := os.Getenv("SEEKOCI_SEED"), os.Getenv("SEEKOCI_CHAOS")
	if seed == "" {
		seed = strconv.FormatInt(time.Now().UnixNano()%1e6, 10)
	}
	if length == "" {
		length = shortForm.String()
	}
	bin := t.TempDir()
	programs(t, bin)
	c := exec.CommandContext(t.Context(), filepath.Join(bin, "chaos"), "-bin", bin, "-race", "-seed", seed, "-for", length)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("something was wrong; the same faults again: SEEKOCI_SEED=%s: %v\n%s", seed, err, out)
	}
	t.Logf("%s", out)
}
