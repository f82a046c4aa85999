// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/ztoc"
	"github.com/seekoci/seekoci/ztoc/ztoctest"
)

// capSetgid is a security.capability that gives CAP_SETGID, permitted and effective.
const capSetgid = "\x01\x00\x00\x02" + "\x40\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00"

func TestPrivileged(t *testing.T) {
	caps := []ztoc.Record{{Key: "SCHILY.xattr.security.capability", Value: capSetgid}}
	of := func(typ ztoc.EntryType, mode int64, pax []ztoc.Record) ztoc.Entry {
		return ztoc.Entry{Name: "a", Type: typ, Mode: mode, Linkname: "x", PAX: pax}
	}
	for name, c := range map[string]struct {
		toc  []ztoc.Entry
		want bool
	}{
		"plain":              {[]ztoc.Entry{of(ztoc.TypeReg, 0o755, nil)}, false},
		"sticky":             {[]ztoc.Entry{of(ztoc.TypeReg, 0o1755, nil)}, false},
		"setuid":             {[]ztoc.Entry{of(ztoc.TypeReg, 0o4755, nil)}, true},
		"setgid":             {[]ztoc.Entry{of(ztoc.TypeReg, 0o2755, nil)}, true},
		"capabilities":       {[]ztoc.Entry{of(ztoc.TypeReg, 0o755, caps)}, true},
		"another attribute":  {[]ztoc.Entry{of(ztoc.TypeReg, 0o755, []ztoc.Record{{Key: "SCHILY.xattr.user.a"}})}, false},
		"setgid directory":   {[]ztoc.Entry{of(ztoc.TypeDir, 0o2755, nil)}, false},
		"symbolic link":      {[]ztoc.Entry{of(ztoc.TypeSymlink, 0o6777, caps)}, false},
		"type bits":          {[]ztoc.Entry{of(ztoc.TypeReg, 0o104755, nil)}, true},
		"by a hard link":     {[]ztoc.Entry{of(ztoc.TypeReg, 0o755, nil), {Name: "b", Type: ztoc.TypeHardlink, Linkname: "a", Mode: 0o4755}}, true},
		"no more by a later": {[]ztoc.Entry{of(ztoc.TypeReg, 0o4755, nil), of(ztoc.TypeReg, 0o755, nil)}, false},
	} {
		tr, err := newTree(entries(c.toc), layerSize, false, plenty())
		must(t, err)
		i, _ := tr.lookup(&tr.nodes[0], "a")
		if got := tr.nodes[i].flags&flagPrivileged != 0; got != c.want {
			t.Errorf("%s: privileged is %t", name, got)
		}
	}
}

func TestGuard(t *testing.T) {
	g := newGuard()
	if err := g.wait(t.Context(), time.Millisecond); !errors.Is(err, ErrUnverified) {
		t.Errorf("nobody says anything: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	later := fmt.Errorf("%w: later", ErrUnverified)
	g.tell(later)
	if err := g.wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("no verdict yet: %v", err)
	}
	if err := g.wait(t.Context(), time.Millisecond); err != later {
		t.Errorf("no verdict in time: %v", err)
	}
	bad := errors.New("bad")
	for _, c := range []struct{ tell, want error }{{bad, bad}, {later, bad}, {errors.ErrUnsupported, errors.ErrUnsupported}, {nil, nil}, {bad, nil}} {
		g.tell(c.tell)
		if err := g.wait(t.Context(), time.Hour); err != c.want {
			t.Errorf("told %v: %v, want %v", c.tell, err, c.want)
		}
	}
}

// privilegedLayer has copies of programs of the host: "plain" and "suid" are id, "caps" is grep.
func privilegedLayer(t *testing.T) *built {
	t.Helper()
	program := func(name, of string, mode int64, records map[string]string) ztoctest.File {
		path, err := exec.LookPath(of)
		must(t, err)
		data, err := os.ReadFile(path)
		must(t, err)
		return ztoctest.File{Header: tar.Header{Name: name, Mode: mode, PAXRecords: records}, Data: data}
	}
	return mustBuild(t, []ztoctest.File{
		program("plain", "id", 0o755, nil), program("suid", "id", 0o4755, nil),
		program("caps", "grep", 0o755, map[string]string{"SCHILY.xattr.security.capability": capSetgid}),
	})
}

// nobody returns a command that is run without privileges. Programs in the mount are run by
// another process: one that waits in execve holds up the process that starts it.
func nobody(t *testing.T, arg ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `exec "$@"`, "sh"}, arg...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return c
}

// TestGuardPrivileged runs programs through an overlay: those that give privileges wait for their
// layer to be verified, fail while it is not, and give them once it is, without a new mount.
func TestGuardPrivileged(t *testing.T) {
	f := mustMountWith(t, Options{GuardPrivileged: true})
	must(t, os.Chmod(filepath.Dir(filepath.Dir(f.dir)), 0o755))
	d, _ := mustAttach(t, f, "layer", privilegedLayer(t))
	m := overlay(t, []string{d, t.TempDir()})
	for p := m; p != "/"; p = filepath.Dir(p) {
		if st, err := os.Stat(filepath.Dir(p)); err == nil && st.Mode()&0o005 != 0o005 {
			must(t, os.Chmod(filepath.Dir(p), st.Mode()|0o055))
		}
	}
	suid, caps := filepath.Join(m, "suid"), filepath.Join(m, "caps")
	run := func(arg ...string) (string, error) {
		out, err := nobody(t, arg...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := run("stat", "-c", "%a", suid); err != nil || out != "4755" {
		t.Errorf("mode of suid is %s, %v", out, err)
	}
	if out, err := run(filepath.Join(m, "plain"), "-u"); err != nil || out != "65534" {
		t.Errorf("plain: %s, %v", out, err)
	}

	killed := nobody(t, suid, "-u")
	must(t, killed.Start())
	until(t, func() bool { return f.Stats().Guarded > 0 && waiting(t, killed) })
	must(t, killed.Process.Signal(unix.SIGKILL))
	if err := killed.Wait(); err == nil {
		t.Error("suid ran before its layer was verified")
	}
	waits := nobody(t, suid, "-u")
	var out strings.Builder
	waits.Stdout, waits.Stderr = &out, &out
	must(t, waits.Start())
	until(t, func() bool { return waiting(t, waits) })
	must(t, f.Verified("layer", errors.New("of the test")))
	if err := waits.Wait(); err == nil {
		t.Errorf("suid of a layer that cannot be verified: %s", &out)
	}
	for _, p := range []string{suid, caps} {
		if got, err := run("cat", p); err == nil {
			t.Errorf("read of %s: %d bytes", p, len(got))
		}
	}

	must(t, f.Verified("layer", nil))
	if out, err := run(suid, "-u"); err != nil || out != "0" {
		t.Errorf("suid: user %s, %v", out, err)
	}
	if out, err := run(caps, "^CapEff", "/proc/self/status"); err != nil || !strings.HasSuffix(out, fmt.Sprintf("%016x", 1<<unix.CAP_SETGID)) {
		t.Errorf("caps: %s, %v", out, err)
	}
	if err := f.Verified("another", nil); !errors.Is(err, ErrNotAttached) {
		t.Errorf("verdict on a layer that is not there: %v", err)
	}
}

// TestGuardDetached holds that who waits for a layer that is taken away is told.
func TestGuardDetached(t *testing.T) {
	f := mustMountWith(t, Options{GuardPrivileged: true})
	d, _ := mustAttach(t, f, "layer", privilegedLayer(t))
	c := exec.CommandContext(t.Context(), "cat", filepath.Join(d, "suid"))
	must(t, c.Start())
	until(t, func() bool { return f.Stats().Guarded > 0 })
	must(t, f.Detach("layer"))
	if err := c.Wait(); err == nil {
		t.Error("read all of suid")
	}
}

// TestGuardOff holds that nothing waits unless it is asked for.
func TestGuardOff(t *testing.T) {
	f := mustMount(t)
	d, _ := mustAttach(t, f, "layer", privilegedLayer(t))
	must(t, exec.CommandContext(t.Context(), "cmp", filepath.Join(d, "suid"), filepath.Join(d, "plain")).Run())
}

// TestGuardCrowd holds that those who wait for a verdict leave room for others: of one layer half
// of the room for all.
func TestGuardCrowd(t *testing.T) {
	f := mustMountWith(t, Options{GuardPrivileged: true, maxWaiting: 2})
	var dirs []string
	for i, b := range []*built{privilegedLayer(t), privilegedLayer(t), privilegedLayer(t)} {
		d, _ := mustAttach(t, f, fmt.Sprint(i), b)
		dirs = append(dirs, d)
	}
	head := func(layer int, name string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "head", "-c", "1", filepath.Join(dirs[layer], name))
	}
	refused := func(layer int, name string) {
		t.Helper()
		if out, err := head(layer, name).CombinedOutput(); err == nil || !strings.Contains(strings.ToLower(string(out)), unix.EIO.Error()) {
			t.Errorf("one too many: %v: %s", err, out)
		}
	}
	var waits []*exec.Cmd
	for i := range 2 {
		waits = append(waits, head(i, "suid"))
		must(t, waits[i].Start())
		until(t, func() bool { return f.waiting.Load() == int64(i)+1 })
		refused(i, "caps")
	}
	refused(2, "suid")
	must(t, head(2, "plain").Run())
	for i, c := range waits {
		must(t, f.Verified(fmt.Sprint(i), nil))
		must(t, c.Wait())
		must(t, head(i, "caps").Run())
	}
	if n := f.waiting.Load(); n != 0 {
		t.Errorf("%d requests wait", n)
	}
}
