// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/registry/registrytest"
)

const unitFile = "../../deploy/soci-snapshotter.service"

// unit returns the settings of the shipped unit.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	settings := make(map[string][]string)
	for line := range strings.Lines(string(must(os.ReadFile(unitFile))(t))) {
		if key, val, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = append(settings[key], val)
		}
	}
	return settings
}

// TestUnit holds what the unit must say, or not, for containers to survive the daemon.
func TestUnit(t *testing.T) {
	u := unit(t)
	for key, want := range map[string]string{
		"Type": "notify", "Restart": "always", "StartLimitIntervalSec": "0",
		"KillMode": "process", "FileDescriptorStoreMax": "8", "NoNewPrivileges": "yes",
	} {
		if got := strings.Join(u[key], " "); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	// These make a mount namespace, where containers see nothing of the daemon's mounts.
	for _, key := range []string{
		"PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC", "ProtectSystem", "ProtectHome", "ProtectKernelTunables",
		"ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProtectHostname", "ProcSubset", "RootDirectory",
		"ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths",
		"MountFlags", "DynamicUser", "StateDirectory", "CacheDirectory", "LogsDirectory", "RuntimeDirectory", "LoadCredential",
		// These change the modes of what is unpacked.
		"UMask", "RestrictSUIDSGID",
	} {
		if val, ok := u[key]; ok {
			t.Errorf("%s=%v in the unit", key, val)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Logf("not verified: %v", err)
		return
	}
	dir := t.TempDir() // where the program exists
	text := strings.Replace(string(must(os.ReadFile(unitFile))(t)), "/usr/local/bin/soci-snapshotter-grpc", "/bin/true", 1)
	check(t, os.WriteFile(filepath.Join(dir, "soci-snapshotter.service"), []byte(text), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "soci-snapshotter.socket"), must(os.ReadFile("../../deploy/soci-snapshotter.socket"))(t), 0o600))
	out, err := exec.Command(analyze, "verify", filepath.Join(dir, "soci-snapshotter.service")).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
	// What is left comes of what it is for: root, mounts, the network, the host's files.
	const exposure = "--threshold=55"
	if out, err := exec.Command(analyze, "security", "--offline=yes", exposure, filepath.Join(dir, "soci-snapshotter.service")).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security %s: %v: %s", exposure, err, out)
	}
}

// TestLeastPrivileges runs the daemon, and its holder, with the capabilities that the unit
// leaves it.
func TestLeastPrivileges(t *testing.T) {
	root := testRoot(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skipf("needs setpriv: %v", err)
	}
	caps := strings.Fields(strings.ToLower(strings.Join(unit(t)["CapabilityBoundingSet"], " ")))
	if len(caps) < 5 || len(caps) > 15 {
		t.Fatalf("capabilities are %v", caps)
	}
	set := "-all"
	for _, c := range caps {
		set += ",+" + strings.TrimPrefix(c, "cap_")
	}
	survives(t, root, setpriv, "--bounding-set", set, "--inh-caps", "-all", "--no-new-privs")
}

// survives has a daemon that is started by a command serve a container, be killed, and go on.
func survives(t *testing.T, root string, by ...string) {
	t.Helper()
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	img := pushImage(t, reg, smallImage())
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	p := start(t, root, nil, by...)
	running := t.TempDir()
	check(t, mount.All(must(p.sn.Prepare(ctx, "container", p.pull(ctx, img)))(t), running))
	t.Cleanup(func() { mount.UnmountAll(running, unix.MNT_DETACH) })
	check(t, p.cmd.Process.Kill())
	<-p.exited
	p = start(t, root, nil, by...)
	p.takenOver()
	compareFiles(t, running, img.files)
	check(t, mount.UnmountAll(running, 0))
	p.stop(unix.SIGTERM)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.log {
		if l["level"] == "warning" && l["key"] == nil || l["level"] == "error" {
			t.Errorf("daemon says %v", l)
		}
	}
}
