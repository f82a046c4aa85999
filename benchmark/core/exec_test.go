// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// TestMain makes the test binary the process in between, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == execMode {
		os.Exit(execMeasured(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	var out bytes.Buffer
	big := make([]byte, 64<<20) // must not show in the peak of what is run
	for i := 0; i < len(big); i += 4096 {
		big[i] = 1
	}
	u, err := (&command{args: []string{"sh", "-c", "cat; nproc"}, cpus: 1, stdin: strings.NewReader("in\n"), out: &out}).run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(big)
	if out.String() != "in\n1\n" {
		t.Errorf("on one processor it printed %q", out.String())
	}
	if u.Wall <= 0 || u.Wall > 60 || u.CPU < 0 || u.Peak < 1<<19 || u.Peak > 60<<20 {
		t.Errorf("usage %+v", u)
	}
}

// TestCommandFails: the error has the command, its exit status and the last it said.
func TestCommandFails(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"sh", "-c", "echo one >&2; echo two >&2; exit 3"}, "exit status 3: two"},
		{[]string{"sh", "-c", "kill -9 $$"}, "exit status 1"},
		{[]string{"/nonexistent"}, "no such file"},
	} {
		_, err := (&command{args: tt.args}).run(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.args[0]) {
			t.Errorf("%v: %v, want %q", tt.args, err, tt.want)
		}
	}
	if _, err := (&command{args: []string{"true"}, cpus: 1 << 20}).run(t.Context()); err == nil {
		t.Error("there are a million processors")
	}
}

// TestRace: contenders alternate, the first round does not count, and each begins a round in turn.
func TestRace(t *testing.T) {
	var order strings.Builder
	named := func(name string) *contender {
		return inProcess(name, func() error { order.WriteString(name); return nil })
	}
	a, b := named("a"), named("b")
	if err := race(t.Context(), 3, []*contender{a, b}); err != nil {
		t.Fatal(err)
	}
	if got, want := order.String(), "abbaabba"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(a.wall) != 3 || len(b.cpu) != 3 {
		t.Errorf("%d and %d rounds, want 3", len(a.wall), len(b.cpu))
	}
	sleep := program("sleep", 0, "true")
	if u, err := atOnce("both", sleep, sleep).once(t.Context()); err != nil || u.Wall <= 0 {
		t.Errorf("usage %+v, error %v", u, err)
	}
	fails := inProcess("fails", func() error { return fmt.Errorf("no") })
	if err := race(t.Context(), 1, []*contender{a, fails}); err == nil || err.Error() != "fails: no" {
		t.Errorf("error %v", err)
	}
}
