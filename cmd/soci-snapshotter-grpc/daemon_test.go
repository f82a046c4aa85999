// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/seekoci/seekoci/fs/hold"
	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// image is an indexed image in a registry.
type image struct {
	ref    string
	desc   ocispec.Descriptor
	layers []ocispec.Descriptor
	diffs  []digest.Digest
	chains []digest.Digest
	files  map[string][]byte // contents by path
	tars   [][]byte
}

// smallImage is the layers of an image of two files.
func smallImage() [][]ztoctest.File {
	return [][]ztoctest.File{{ztoctest.Big(0, "file0", 1<<20)}, {ztoctest.Big(1, "file1", 1<<20)}}
}

// pushImage pushes an image of these layers, and its v1 index through our own client.
func pushImage(t *testing.T, reg *registrytest.Server, layers [][]ztoctest.File) *image {
	t.Helper()
	i := &image{ref: reg.Host() + "/app:1", files: make(map[string][]byte)}
	for _, files := range layers {
		for _, f := range files {
			if f.Typeflag == 0 || f.Typeflag == '0' {
				i.files[f.Name] = f.Data
			}
		}
		tar := must(ztoctest.Tar(files, ztoctest.TarOptions{}))(t)
		i.tars = append(i.tars, tar)
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		must(z.Write(tar))(t)
		check(t, z.Close())
		d := must(reg.AddBlob("app", &b))(t)
		d.MediaType = ocispec.MediaTypeImageLayerGzip
		i.layers, i.diffs = append(i.layers, d), append(i.diffs, digest.FromBytes(tar))
	}
	i.chains = identity.ChainIDs(append([]digest.Digest(nil), i.diffs...))
	config := must(json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: i.diffs},
	}))(t)
	cd := must(reg.AddBlob("app", bytes.NewReader(config)))(t)
	cd.MediaType = ocispec.MediaTypeImageConfig
	p := must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cd, Layers: i.layers,
	}))(t)
	i.desc = must(reg.AddManifest("app", "1", ocispec.MediaTypeImageManifest, p))(t)
	client := must(registry.NewClient(registry.Options{}))(t)
	repo := must(client.Repository(i.ref))(t)
	_, _, err := index.Build(t.Context(), repo, i.desc, index.V1, index.BuildOptions{
		ZTOC: ztoc.BuildOptions{SpanSize: 128 << 10}, MinLayerSize: -1,
	})
	check(t, err)
	return i
}

// process is a running daemon.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	notify *net.UnixConn
	sn     snapshots.Snapshotter
	exited chan error
	store  map[string]*os.File // systemd's

	mu  sync.Mutex
	log []map[string]any // guarded by mu
}

// start starts the daemon on root and waits until it says that it is ready.
// prefix, if any, is a program that becomes the daemon.
func start(t *testing.T, root string, extra []*os.File, prefix ...string) *process {
	t.Helper()
	return startProgram(t, must(os.Executable())(t), root, extra, prefix...)
}

// startProgram is start for a daemon of another version.
func startProgram(t *testing.T, program, root string, extra []*os.File, prefix ...string) *process {
	t.Helper()
	p := &process{t: t, exited: make(chan error, 1), store: make(map[string]*os.File)}
	sock := filepath.Join(t.TempDir(), "notify")
	p.notify = must(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: sock, Net: "unixgram"}))(t)
	t.Cleanup(func() { p.notify.Close() })
	address := filepath.Join(root, "run", "d.sock")
	listenOn := address
	if extra != nil {
		listenOn = "fd://"
	}
	args := append(prefix, program, "--root", filepath.Join(root, "lib"), "--address", listenOn,
		"--config", filepath.Join(root, "config.toml"), "--log-level", "debug")
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), "TEST_IS_DAEMON=1", "NOTIFY_SOCKET="+sock, "GORACE=atexit_sleep_ms=0") // it would wait a second
	p.cmd.ExtraFiles = extra
	stderr := must(p.cmd.StderrPipe())(t)
	check(t, p.cmd.Start())
	var logs sync.WaitGroup
	logs.Go(func() { p.read(stderr) })
	go func() { logs.Wait(); p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			<-p.exited
		}
		if _, err := run(t, "--root", filepath.Join(root, "lib"), "unmount"); err != nil {
			t.Error(err)
		}
	})
	p.wait("READY=1")
	conn := must(grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials())))(t)
	t.Cleanup(func() { conn.Close() })
	p.sn = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "soci")
	return p
}

// read collects the log, each line of which must be JSON.
func (p *process) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(s.Bytes(), &line); err != nil || line["time"] == nil || line["level"] == nil || line["msg"] == nil {
			p.t.Errorf("log line %q: %v", s.Text(), err)
		}
		p.mu.Lock()
		p.log = append(p.log, line)
		p.mu.Unlock()
	}
}

// lines returns how many log lines have this field.
func (p *process) lines(key string, value any) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.log {
		if l[key] == value {
			n++
		}
	}
	return n
}

// wait waits for a message to systemd.
func (p *process) wait(want string) {
	p.t.Helper()
	check(p.t, p.notify.SetReadDeadline(time.Now().Add(30*time.Second)))
	for {
		buf := make([]byte, 1024)
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := p.notify.ReadMsgUnix(buf, oob)
		if err == nil && strings.HasPrefix(string(buf[:n]), "FDSTORE") {
			p.stored(string(buf[:n]), oob[:oobn])
			continue
		}
		if err != nil || string(buf[:n]) != want {
			p.t.Fatalf("systemd was told %q, %v, want %q; log %v", buf[:n], err, want, p.log)
		}
		return
	}
}

// mounted reports whether the root's file system is mounted.
func mounted(t *testing.T, root string) bool {
	t.Helper()
	return strings.Contains(string(must(os.ReadFile("/proc/self/mountinfo"))(t)), filepath.Join(root, "lib", "snapshotter", "mnt")+" ")
}

// stop stops the daemon, which must end well.
func (p *process) stop(sig os.Signal) {
	p.t.Helper()
	check(p.t, p.cmd.Process.Signal(sig))
	p.wait("STOPPING=1")
	select {
	case err := <-p.exited:
		if err != nil {
			p.t.Fatalf("daemon ended with %v; log %v", err, p.log)
		}
	case <-time.After(30 * time.Second):
		p.t.Fatalf("daemon does not end; log %v", p.log)
	}
}

// pull prepares the image's layers as containerd does, and returns the last one's name.
func (p *process) pull(ctx context.Context, img *image) string {
	p.t.Helper()
	parent := ""
	for n, l := range img.layers {
		_, err := p.sn.Prepare(ctx, fmt.Sprint("extract-", n), parent, snapshots.WithLabels(map[string]string{
			snapshots.LabelSnapshotRef:             img.chains[n].String(),
			snapshotters.TargetRefLabel:            img.ref,
			snapshotters.TargetManifestDigestLabel: img.desc.Digest.String(),
			snapshotters.TargetLayerDigestLabel:    l.Digest.String(),
		}))
		if !errdefs.IsAlreadyExists(err) {
			p.t.Fatalf("prepare layer %d: %v", n, err)
		}
		parent = img.chains[n].String()
		must(p.sn.Stat(ctx, parent))(p.t)
	}
	return parent
}

// checkFiles mounts a snapshot and compares the files in it.
func checkFiles(t *testing.T, mounts []mount.Mount, want map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	check(t, mount.All(mounts, dir))
	defer func() { check(t, mount.UnmountAll(dir, 0)) }()
	compareFiles(t, dir, want)
}

// compareFiles compares the files in dir.
func compareFiles(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	for name, data := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(data))
		}
	}
}

func testRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	f.Close()
	root := t.TempDir()
	check(t, os.WriteFile(filepath.Join(root, "config.toml"), fmt.Appendf(nil, `
unheard_of = 1
metrics_network = "unix"
metrics_address = %q
[pull_modes.soci_v1]
enable = true
`, filepath.Join(root, "metrics.sock")), 0o600))
	return root
}

// TestDaemon pulls an image through the daemon's socket, stops the daemon with
// SIGTERM, and has the image again after a start without the registry.
func TestDaemon(t *testing.T) {
	root := testRoot(t)
	reg := registrytest.New(registrytest.Options{})
	defer reg.Close()
	img := pushImage(t, reg, smallImage())
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")

	p := start(t, root, nil)
	parent := p.pull(ctx, img)
	checkFiles(t, must(p.sn.Prepare(ctx, "container", parent))(t), img.files)
	checkMetrics(t, filepath.Join(root, "metrics.sock"), img)
	p.stop(unix.SIGTERM)
	if p.lines("remote-snapshot-prepared", "true") != 2 || p.lines("msg", "fetching SOCI artifacts using index descriptor") != 1 || p.lines("key", "unheard_of") != 1 {
		t.Errorf("log is %v", p.log)
	}
	if !mounted(t, root) {
		t.Error("the mount is gone")
	}

	reg.Close()
	p = start(t, root, nil)
	checkFiles(t, must(p.sn.Mounts(ctx, "container"))(t), img.files)
	checkFiles(t, must(p.sn.View(ctx, "view", parent))(t), img.files)
	p.takenOver()

	// Killed and stopped with a container running, which does not notice.
	running := t.TempDir()
	check(t, mount.All(must(p.sn.Mounts(ctx, "container"))(t), running))
	t.Cleanup(func() { mount.UnmountAll(running, unix.MNT_DETACH) })
	check(t, p.cmd.Process.Kill())
	<-p.exited
	p = start(t, root, nil)
	compareFiles(t, running, img.files)
	if _, err := run(t, "--root", filepath.Join(root, "lib"), "unmount"); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("unmount under a daemon: %v", err)
	}
	begin := time.Now()
	p.stop(unix.SIGINT)
	if d := time.Since(begin); d >= stopTimeout {
		t.Errorf("stop took %v", d)
	}
	p = start(t, root, nil)
	compareFiles(t, running, img.files)

	// Daemon and holder are both gone: what ran is named, and what starts works.
	check(t, p.cmd.Process.Kill())
	<-p.exited
	check(t, hold.Release(holderDir(filepath.Join(root, "lib"))))
	p = start(t, root, nil)
	await(t, "the container is named", func() bool { return p.lines("key", "container") == 1 })
	check(t, mount.UnmountAll(running, unix.MNT_DETACH))
	checkFiles(t, must(p.sn.Mounts(ctx, "container"))(t), img.files)
	p.stop(unix.SIGTERM)
	_, err := run(t, "--root", filepath.Join(root, "lib"), "unmount")
	check(t, err)
	if mounted(t, root) {
		t.Error("mounted after unmount")
	}

	// After a reboot nothing is mounted, and nothing is fetched again.
	p = start(t, root, nil)
	checkFiles(t, must(p.sn.Mounts(ctx, "container"))(t), img.files)
	if p.lines("key", "container") != 0 {
		t.Errorf("after a reboot a container is named: %v", p.log)
	}
	p.stop(unix.SIGTERM)
}

func checkMetrics(t *testing.T, sock string, img *image) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}}
	defer client.CloseIdleConnections()
	resp := must(client.Get("http://metrics/metrics"))(t)
	defer resp.Body.Close()
	body := string(must(io.ReadAll(resp.Body))(t))
	layer := img.layers[0]
	for _, want := range []string{
		fmt.Sprintf(`soci_fs_operation_count{layer=%q,operation_type="mount"} 1`, layer.Digest),
		fmt.Sprintf(`soci_fs_operation_count{layer=%q,operation_type="ztoc_fetch"} 1`, layer.Digest),
		fmt.Sprintf(`soci_fs_operation_duration_milliseconds_count{layer=%q,operation_type="mount"} 1`, layer.Digest),
		`operation_type="soci_index_fetch"} 1`,
		fmt.Sprintf(`soci_fs_layer_fetched_size_bytes{digest=%q,mountpoint=`, layer.Digest),
		fmt.Sprintf(`soci_fs_layer_size_bytes{digest=%q,mountpoint=`, layer.Digest),
		`soci_snapshotter_decisions_total{kind="lazy",reason=""} 2`,
		`soci_snapshotter_decisions_total{kind="active",reason=""} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

// TestActivation holds that the daemon serves on a socket that systemd passes.
func TestActivation(t *testing.T) {
	root := testRoot(t)
	check(t, os.Mkdir(filepath.Join(root, "run"), 0o700))
	l := must(net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(root, "run", "d.sock"), Net: "unix"}))(t)
	defer l.Close()
	f := must(l.File())(t)
	defer f.Close()
	t.Setenv("LISTEN_FDS", "1")
	p := start(t, root, []*os.File{f}, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh")
	must(p.sn.Prepare(namespaces.WithNamespace(t.Context(), "k8s.io"), "c", ""))(t)
	p.stop(unix.SIGTERM)
}
