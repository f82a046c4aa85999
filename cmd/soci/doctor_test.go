// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func statuses(all []finding) string {
	var s []string
	for _, f := range all {
		s = append(s, f.Check+":"+f.Status)
	}
	return strings.Join(s, " ")
}

// TestDoctorKernel holds from which kernel on a daemon's end is survived.
func TestDoctorKernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.9.0": statusOK, "6.18.44-x": statusOK, "7.0": statusOK, "6.8.12": statusWarn, "5.15.0-91": statusWarn, "odd": statusUnseen,
	} {
		if got := kernelRelease(release); got.Status != want {
			t.Errorf("%s is %s, want %s", release, got.Status, want)
		}
	}
}

// TestDoctorSpace holds when a disk is too full.
func TestDoctorSpace(t *testing.T) {
	fine := unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bavail: 1 << 19, Files: 1 << 20, Ffree: 1 << 19}
	for _, tc := range []struct {
		want   string
		change func(*unix.Statfs_t)
	}{
		{statusOK, func(*unix.Statfs_t) {}},
		{statusOK, func(s *unix.Statfs_t) { s.Files, s.Ffree = 0, 0 }}, // btrfs
		{statusWarn, func(s *unix.Statfs_t) { s.Bavail = 1 << 16 }},
		{statusFail, func(s *unix.Statfs_t) { s.Bavail = 1 << 10 }},
		{statusFail, func(s *unix.Statfs_t) { s.Ffree = 0 }},
		{statusFail, func(s *unix.Statfs_t) { s.Flags = unix.ST_RDONLY }},
	} {
		st := fine
		tc.change(&st)
		if got := space("/r", st); got.Status != tc.want {
			t.Errorf("%+v, want %s", got, tc.want)
		}
	}
}

// TestDoctorPlugin holds what is made of containerd's plugins.
func TestDoctorPlugin(t *testing.T) {
	d := &doctor{snapshotter: "/s"}
	full := map[string]string{"address": "/s", "root": "/r", "enable_remote_snapshot_annotations": "true"}
	for _, tc := range []struct {
		version, id string
		exports     map[string]string
		want        string
	}{
		{"1.6.20~ds1", "soci", nil, "plugin:ok"},
		{"v2.1.0", "soci", full, "plugin:ok transfer:ok"},
		{"v2.1.0", "lazy", full, "plugin:ok transfer:ok"},
		{"v2.1.0", "soci", map[string]string{"address": "/s"}, "plugin:ok transfer:warn exports:warn"},
		{"v2.1.0", "soci", map[string]string{"address": "/other"}, "plugin:fail"},
		{"v2.1.0", "overlayfs", nil, "plugin:fail"},
	} {
		got := statuses(d.plugin(tc.version, []*introspection.Plugin{{ID: tc.id, Exports: tc.exports}}))
		if got != tc.want {
			t.Errorf("%s %s %v: %s, want %s", tc.version, tc.id, tc.exports, got, tc.want)
		}
	}
}

// TestDoctorContainerdConfig holds the drop-ins of deploy to be right, and what lacks them wrong.
func TestDoctorContainerdConfig(t *testing.T) {
	const address = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock"
	read := func(name string) string {
		p, err := os.ReadFile(filepath.Join("..", "..", "deploy", "containerd", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	two := strings.Replace(read("2.x.toml"), "snapshotter = 'soci'", "snapshotter = 'soci'\n  use_local_image_pull = false", 1)
	for _, tc := range []struct{ name, config, want string }{
		{"1.7", read("1.7.toml"), "containerd-config:ok cri:ok"},
		{"1.7 untold", strings.Replace(read("1.7.toml"), "annotations = false", "annotations = true", 1), "containerd-config:ok cri:warn"},
		{"2.x", two, "containerd-config:ok cri:ok unpack:ok"},
		{"2.x not unpacked", strings.Replace(two, "platform = 'linux'\n  snapshotter = 'soci'", "platform = 'linux'", 1), "containerd-config:ok cri:ok unpack:warn"},
		{"empty", "version = 2", "containerd-config:warn"},
		{"other", "[proxy_plugins.soci]\naddress = '/x'", "containerd-config:warn"},
		{"odd", "plugins = 3\nproxy_plugins = 'x'", "containerd-config:warn"},
		{"no toml", "[", "containerd-config:unseen"},
	} {
		if got := statuses(judgeConfig([]byte(tc.config), address)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// spanState is a state file of fs/span, format version 1, written as that is documented
// there: the format is on people's disks.
func spanState(spans, present int) []byte {
	id := make([]byte, 32)
	b := binary.LittleEndian.AppendUint32([]byte("SOCISPAN"), 1)
	b = append(binary.LittleEndian.AppendUint32(b, uint32(spans)), id...)
	for i := range present {
		sum := binary.LittleEndian.AppendUint32(nil, uint32(i+7))
		signed := append(binary.LittleEndian.AppendUint32(slices.Clone(id), uint32(i)), sum...)
		b = append(b, sum...)
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(signed, crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

// TestDoctorLayers holds what is read from the state on disk, damaged or not.
func TestDoctorLayers(t *testing.T) {
	d := &doctor{root: t.TempDir()}
	z := digest.FromString("ztoc")
	add := func(name, extra string, spans, present int) {
		l := digest.FromString(name)
		key := l.Encoded() + "-" + z.Encoded()
		write(t, filepath.Join(d.root, "soci/layers", key, "layer.json"),
			fmt.Sprintf(`{"version":1,"layer":%q,"ztoc":%q,"size":9,"images":["i"]%s}`, l, z, extra))
		b := spanState(spans, present)
		write(t, filepath.Join(d.root, "soci/spans", key, "state"), string(b))
	}
	add("lazy", "", 3, 1)
	add("complete", "", 2, 2)
	add("verified", `,"verified":true`, 2, 2)
	r := d.layers(t.Context())
	if got := r.Checks[0]; got.Status != statusOK || got.Detail != "3: 1 being fetched, 1 complete, 1 verified" {
		t.Errorf("%+v", got)
	}
	write(t, filepath.Join(d.root, "soci/layers/x/layer.json"), `{"version":1,"layer":"../..","ztoc":""}`)
	write(t, filepath.Join(d.root, "soci/condemned/y"), "")
	if got := statuses(d.layers(t.Context()).Checks); got != "layers:warn condemned:warn" {
		t.Errorf("damaged: %s", got)
	}
}

// TestDoctorDecisions holds that the reasons come from the metrics that the configuration names.
func TestDoctorDecisions(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "m.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP x\nsoci_snapshotter_decisions_total{kind=\"fallback\",reason=\"no-index\"} 4\nsoci_snapshotter_decisions_total{kind=\"refused\",reason=\"device\"} 2\nsoci_snapshotter_decisions_total{kind=\"lazy\",reason=\"\"} 1e+01\n")
	})}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	d := &doctor{config: filepath.Join(dir, "c.toml")}
	write(t, d.config, fmt.Sprintf("metrics_address = %q\nmetrics_network = 'unix'", l.Addr().String()))
	r := d.decisions(t.Context())
	if want := "10 layers lazy, 6 not since the daemon started: fallback no-index 4, refused device 2"; r.Checks[0].Detail != want {
		t.Errorf("%+v, want %s", r.Checks[0], want)
	}
}

// TestDoctorMount tells a mount that is alive, dead and missing, without being served: whoever asked it would hang.
func TestDoctorMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mount needs root")
	}
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("mount needs /dev/fuse: %v", err)
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{root: root, proc: "/proc"}
	look := func(serving bool) (finding, mountState) {
		table, err := mountTable("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return d.mount(table, serving)
	}
	if got, state := look(true); got.Status != statusFail || state != mountMissing {
		t.Errorf("missing: %+v", got)
	}
	if err := os.MkdirAll(d.mountPoint(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("soci", d.mountPoint(), "fuse.rawBridge", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(d.mountPoint(), unix.MNT_DETACH) })
	if got, state := look(true); got.Status != statusOK || state != mountServed {
		t.Errorf("alive: %+v", got)
	}
	if got, state := look(false); got.Status != statusWarn || state != mountHeld {
		t.Errorf("silent: %+v", got)
	}
	if _, ok := mountID(d.mountPoint()); !ok {
		t.Log("the kernel does not number mounts")
	}
	unix.Close(fuse)
	if got, state := look(false); got.Status == statusOK || state != mountDead && state != mountUnknown {
		t.Errorf("dead: %+v", got)
	}
	snapshots := filepath.Join(root, "snapshotter", "snapshots")
	write(t, filepath.Join(snapshots, "8", "work"), "")
	if err := os.Symlink("../../mnt/x", filepath.Join(snapshots, "8", "fs")); err != nil {
		t.Fatal(err)
	}
	table := []mountEntry{{point: "/c/rootfs", fsType: "overlay", options: "rw,lowerdir=" + snapshots + "/8/fs:9/fs,upperdir=" + snapshots + "/10/fs"}}
	if got := d.containers(table, mountDead); got.Status != statusFail || !strings.Contains(got.Detail, "/c/rootfs") {
		t.Errorf("containers: %+v", got)
	}
}
