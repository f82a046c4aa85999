// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/benchmark/internal/node"
	"github.com/seekoci/seekoci/benchmark/internal/sandbox"
)

// sandboxDir is the sandbox's directory; "" where there is none, for the reason noSandbox.
var (
	sandboxDir string
	noSandbox  error
)

func TestMain(m *testing.M) {
	if noSandbox = sandbox.Check(); noSandbox != nil {
		os.Exit(m.Run())
	}
	os.Exit(sandbox.Run(sandbox.Options{}, func(dir string) int {
		sandboxDir = dir
		return m.Run()
	}))
}

// shortForm is how long faults are injected; $SEEKOCI_CHAOS is another duration.
const shortForm = 25 * time.Second

// programs builds what a run needs into dir, the daemon with the race detector.
func programs(t *testing.T, dir string) {
	t.Helper()
	for _, b := range []struct {
		cgo  string
		args []string
	}{
		{"0", []string{"../../cmd/soci", "./checker", "../internal/probe"}},
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
// that is another one each time, and logged; $SEEKOCI_SEED is a certain one.
func TestChaos(t *testing.T) {
	if noSandbox != nil {
		t.Skip(noSandbox)
	}
	if _, err := node.FindContainerd(""); err != nil {
		t.Skip(err)
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skipf("the race detector needs a C compiler: %v", err)
	}
	o := options{length: shortForm, seed: uint64(time.Now().UnixNano()) % 1e6, kinds: allKinds(), race: true, bin: filepath.Join(sandboxDir, "bin")}
	var err error
	if s := os.Getenv("SEEKOCI_SEED"); s != "" {
		if o.seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEEKOCI_SEED: %v", err)
		}
	}
	if s := os.Getenv("SEEKOCI_CHAOS"); s != "" {
		if o.length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("SEEKOCI_CHAOS: %v", err)
		}
	}
	t.Logf("SEEKOCI_SEED=%d", o.seed)
	programs(t, o.bin)
	dir := filepath.Join(sandboxDir, "r")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	rep, err := chaos(t.Context(), o, dir)
	if err != nil {
		t.Error(err)
	}
	var text strings.Builder
	rep.write(&text)
	if !rep.ok() {
		t.Errorf("something was wrong; the same faults again: SEEKOCI_SEED=%d\n%s", o.seed, text.String())
		return
	}
	if rep.total() == 0 || rep.injected() == 0 {
		t.Errorf("nothing was looked at, or nothing went wrong:\n%s", text.String())
	}
	t.Log(text.String())
}
