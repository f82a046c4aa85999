// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// chart is where the files of the Helm chart are.
const chart = "../../deploy/helm/soci-snapshotter/files"

// TestChartFiles holds that the chart installs what is shipped.
func TestChartFiles(t *testing.T) {
	for file, original := range map[string]string{
		"soci-snapshotter.service": "soci-snapshotter.service",
		"soci-snapshotter.socket":  "soci-snapshotter.socket",
		"containerd-1.7.toml":      "containerd/1.7.toml",
		"containerd-2.x.toml":      "containerd/2.x.toml",
	} {
		got := must(os.ReadFile(filepath.Join(chart, file)))(t)
		if string(got) != string(must(os.ReadFile(filepath.Join("../../deploy", original)))(t)) {
			t.Errorf("%s is not deploy/%s: copy it", file, original)
		}
	}
}

// fakeHost is a host for the chart's installation.
type fakeHost struct {
	t       *testing.T
	dir     string
	version string // containerd's
	reads   bool   // whether containerd reads its conf.d
	fails   string // the command that fails
	env     []string
	src     string
}

func newFakeHost(t *testing.T) *fakeHost {
	t.Helper()
	h := &fakeHost{t: t, dir: t.TempDir(), version: "containerd github.com/containerd/containerd v2.1.0 x", reads: true, src: t.TempDir()}
	for _, name := range []string{"soci-snapshotter-grpc", "soci"} {
		check(t, os.WriteFile(filepath.Join(h.src, name), []byte(name), 0o755))
	}
	return h
}

// install runs the chart's script, and returns what it did on the host: a line for each command.
func (h *fakeHost) install() (calls, output string, err error) {
	h.t.Helper()
	log := filepath.Join(h.t.TempDir(), "calls")
	dump := ""
	if h.reads {
		dump = "[proxy_plugins.soci]"
	}
	fake := filepath.Join(h.t.TempDir(), "on-host")
	check(h.t, os.WriteFile(fake, []byte(`#!/bin/sh
echo "$*" >> "$CALLS"
[ "$*" != "$FAILS" ] || exit 1
case "$*" in
"containerd --version") echo "$VERSION" ;;
"containerd config dump") echo "$DUMP" ;;
esac
`), 0o755))
	c := exec.Command("/bin/sh", filepath.Join(chart, "install.sh"))
	c.Env = append(os.Environ(), "HOST="+h.dir, "SRC="+h.src, "FILES="+must(filepath.Abs(chart))(h.t), "ON_HOST="+fake,
		"CALLS="+log, "VERSION="+h.version, "DUMP="+dump, "FAILS="+h.fails)
	c.Env = append(c.Env, h.env...)
	out, err := c.CombinedOutput()
	p, _ := os.ReadFile(log)
	return string(p), string(out), err
}

// has compares a file of the host.
func (h *fakeHost) has(path, original string, mode os.FileMode) {
	h.t.Helper()
	info, err := os.Stat(filepath.Join(h.dir, path))
	if err != nil || info.Mode() != mode {
		h.t.Errorf("%s: %v, %v", path, info, err)
		return
	}
	if string(must(os.ReadFile(filepath.Join(h.dir, path)))(h.t)) != string(must(os.ReadFile(original))(h.t)) {
		h.t.Errorf("%s is not %s", path, original)
	}
}

// TestChartInstall installs the chart on a host, does it again, and upgrades it.
func TestChartInstall(t *testing.T) {
	h := newFakeHost(t)
	conf := filepath.Join(t.TempDir(), "config.toml")
	check(t, os.WriteFile(conf, []byte("x = 1\n"), 0o600))
	h.env = []string{"CONFIG=" + conf}
	calls, out, err := h.install()
	const restart, reload, containerd = "systemctl restart soci-snapshotter.service", "systemctl daemon-reload", "systemctl restart containerd.service"
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{reload, "systemctl enable soci-snapshotter.socket soci-snapshotter.service", restart, containerd} {
		if !strings.Contains(calls, want+"\n") {
			t.Errorf("not done: %s", want)
		}
	}
	if strings.Index(calls, containerd) < strings.Index(calls, restart) {
		t.Errorf("containerd is there before the snapshotter: %s", calls)
	}
	h.has("usr/local/bin/soci-snapshotter-grpc", filepath.Join(h.src, "soci-snapshotter-grpc"), 0o755)
	h.has("usr/local/bin/soci", filepath.Join(h.src, "soci"), 0o755)
	h.has("etc/systemd/system/soci-snapshotter.service", chart+"/soci-snapshotter.service", 0o644)
	h.has("etc/systemd/system/soci-snapshotter.socket", chart+"/soci-snapshotter.socket", 0o644)
	h.has("etc/soci-snapshotter-grpc/config.toml", conf, 0o600)
	h.has("etc/containerd/conf.d/50-soci.toml", chart+"/containerd-2.x.toml", 0o644)

	// The pod starts again: nothing is restarted.
	if calls, out, err = h.install(); err != nil || strings.Contains(calls, "restart") || strings.Contains(calls, "reload") || out != "" {
		t.Errorf("again: %v: %s%s", err, calls, out)
	}
	// An upgrade restarts the daemon, and not containerd.
	check(t, os.WriteFile(filepath.Join(h.src, "soci-snapshotter-grpc"), []byte("new"), 0o755))
	if calls, out, err = h.install(); err != nil || !strings.Contains(calls, restart) || strings.Contains(calls, containerd) || strings.Contains(calls, reload) {
		t.Errorf("upgrade: %v: %s%s", err, calls, out)
	}
	h.has("usr/local/bin/soci-snapshotter-grpc", filepath.Join(h.src, "soci-snapshotter-grpc"), 0o755)
}

// TestChartContainerd holds which drop-in a containerd gets, and what is said where it does
// not read it.
func TestChartContainerd(t *testing.T) {
	for version, want := range map[string]string{
		"containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da":        "containerd-1.7.toml",
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1":     "containerd-1.7.toml",
		"containerd github.com/containerd/containerd v1.7.2 x":                            "containerd-1.7.toml",
		"containerd github.com/containerd/containerd/v2 v2.2.6 dea7da592f5d1d2b7755e3a16": "containerd-2.x.toml",
		"containerd github.com/containerd/containerd/v2 2.4.2+unknown":                    "containerd-2.x.toml",
		"something else": "",
	} {
		h := newFakeHost(t)
		h.version = version
		_, out, err := h.install()
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v: %s", version, err, out)
		}
		if want != "" {
			h.has("etc/containerd/conf.d/50-soci.toml", filepath.Join(chart, want), 0o644)
		}
	}
	h := newFakeHost(t)
	h.env = []string{"DROP_IN=none"}
	if calls, out, err := h.install(); err != nil || strings.Contains(calls, "containerd.service") {
		t.Errorf("none: %v: %s%s", err, calls, out)
	}
	h = newFakeHost(t)
	h.reads = false
	calls, out, err := h.install()
	if err == nil || !strings.Contains(out, `imports = ["/etc/containerd/conf.d/*.toml"]`) || strings.Contains(calls, "restart containerd") {
		t.Errorf("not read: %v: %s%s", err, calls, out)
	}
	h.reads = true
	if calls, out, err = h.install(); err != nil || !strings.Contains(calls, "restart containerd") {
		t.Errorf("read since: %v: %s%s", err, calls, out)
	}
}

// TestChartResumed holds that an installation that fails in the middle is finished by the next one.
func TestChartResumed(t *testing.T) {
	for _, fails := range []string{
		"systemctl daemon-reload", "systemctl restart soci-snapshotter.service",
		"systemctl is-active --quiet soci-snapshotter.service", "containerd --version", "containerd config dump",
		"systemctl enable soci-snapshotter.socket soci-snapshotter.service", "systemctl restart containerd.service",
	} {
		h := newFakeHost(t)
		h.fails = fails
		before, out, err := h.install()
		if err == nil {
			t.Errorf("%s fails, and nobody says so: %s", fails, out)
		}
		h.fails = ""
		after, out, err := h.install()
		if err != nil {
			t.Errorf("after %s: %v: %s", fails, err, out)
		}
		for _, want := range []string{"systemctl daemon-reload\n", "systemctl restart soci-snapshotter.service\n", "systemctl restart containerd.service\n"} {
			done := strings.Contains(before, want) && strings.TrimSpace(want) != fails
			if strings.Contains(after, want) == done {
				t.Errorf("after %s: done at first: %t, then: %q", fails, done, after)
			}
		}
		h.has("etc/containerd/conf.d/50-soci.toml", chart+"/containerd-2.x.toml", 0o644)
	}
	// What works stays where it is, whatever containerd says for a moment.
	h := newFakeHost(t)
	if _, out, err := h.install(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.fails = "containerd config dump"
	if _, out, err := h.install(); err == nil || strings.Contains(out, "imports") {
		t.Errorf("dump fails: %v: %s", err, out)
	}
	h.has("etc/containerd/conf.d/50-soci.toml", chart+"/containerd-2.x.toml", 0o644)
	h.fails, h.reads = "", false
	if _, out, err := h.install(); err == nil || !strings.Contains(out, "imports") {
		t.Errorf("not read: %v: %s", err, out)
	}
	h.has("etc/containerd/conf.d/50-soci.toml", chart+"/containerd-2.x.toml", 0o644)
}
