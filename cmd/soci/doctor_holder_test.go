// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/fs/hold"
)

// holderEnv makes TestHolderHelper a holder of that directory.
const holderEnv = "SOCI_TEST_HOLDER"

// TestHolderHelper is a holder, in a process of its own.
func TestHolderHelper(t *testing.T) {
	if dir := os.Getenv(holderEnv); dir != "" {
		t.Fatal(hold.Serve(dir, hold.Stay))
	}
}

// TestDoctorHolder finds the holder that there is, and says where there is none.
func TestDoctorHolder(t *testing.T) {
	d := &doctor{root: t.TempDir(), proc: t.TempDir(), config: "/nonexistent"}
	if got := d.holder(t.Context()); got.Status != statusWarn || got.Do == "" {
		t.Errorf("before there was one: %+v", got)
	}
	dir := filepath.Join(d.root, "soci", "holder")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := d.holder(t.Context()); got.Status != statusWarn || !strings.Contains(got.Detail, dir) {
		t.Errorf("none: %+v", got)
	}
	c := exec.Command(os.Args[0], "-test.run=^TestHolderHelper$")
	c.Env = append(os.Environ(), holderEnv+"="+dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	want := fmt.Sprintf("pid %d", c.Process.Pid)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for got := d.holder(t.Context()); got.Status != statusOK || got.Detail != want; got = d.holder(t.Context()) {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("alive: %+v, want %s", got, want)
		}
	}
	of := filepath.Join(d.proc, fmt.Sprint(c.Process.Pid))
	if err := os.Mkdir(of, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(of, "oom_score_adj"), "17\n")
	if got := d.holder(t.Context()); got.Status != statusOK || !strings.Contains(got.Detail, "oom_score_adj 17") {
		t.Errorf("not spared: %+v", got)
	}
	write(t, filepath.Join(d.root, "c.toml"), "[holder]\ndisable = true\n")
	d.config = filepath.Join(d.root, "c.toml")
	if got := d.holder(t.Context()); got.Status != statusWarn || !strings.Contains(got.Do, d.config) {
		t.Errorf("disabled: %+v", got)
	}
}

// TestDoctorContainerd2 judges what containerd 2 makes of the shipped drop-in: it writes its
// configuration in a newer version of the format than it was given.
func TestDoctorContainerd2(t *testing.T) {
	path, err := filepath.Abs("../../out/containerd2/containerd")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("needs containerd 2, which make test builds: %v", err)
	}
	conf, err := filepath.Abs("../../deploy/containerd/2.x.toml")
	if err != nil {
		t.Fatal(err)
	}
	dump, err := exec.Command(path, "--config", conf, "config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	const address = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock"
	for _, f := range judgeConfig(dump, address) {
		if f.Status != statusOK {
			t.Errorf("%+v", f)
		}
	}
	if got := judgeConfig(dump, "/other"); got[0].Status != statusWarn {
		t.Errorf("another socket: %+v", got)
	}
}
