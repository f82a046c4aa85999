// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a small tree with something for every way.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d", "small"), bytes.Repeat([]byte("small"), 100), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "d", "large"), bytes.Repeat([]byte("large"), 100<<10), 0o644))
	must(t, os.Symlink("small", filepath.Join(dir, "d", "link")))
	return dir
}

// look runs a checker on root until its last pass is over, and returns what it wrote.
func look(t *testing.T, root, truth string) (failures []Failure, last Progress) {
	t.Helper()
	out := t.TempDir()
	must(t, os.WriteFile(filepath.Join(out, FinishFile), nil, 0o644))
	must(t, Run(Options{Root: root, Truth: truth, Out: out, Seed: 1}))
	p, err := os.ReadFile(filepath.Join(out, LogFile))
	must(t, err)
	for line := range bytes.Lines(p) {
		var r Record
		must(t, json.Unmarshal(line, &r))
		switch {
		case r.Failure != nil:
			failures = append(failures, *r.Failure)
		case r.Progress != nil:
			last = *r.Progress
		default:
			t.Errorf("line %q says nothing", line)
		}
	}
	return failures, last
}

// same makes the times of root those of truth, so that stat has nothing to say.
func same(t *testing.T, root, truth string) {
	t.Helper()
	for _, name := range []string{"d/small", "d/large", "d/link"} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(truth, name), &st))
		times := []unix.Timespec{st.Mtim, st.Mtim}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// TestRunRight: equal trees are right in every way, and every way has looked at something.
func TestRunRight(t *testing.T) {
	truth, root := tree(t), tree(t)
	same(t, root, truth)
	failures, last := look(t, root, truth)
	if len(failures) > 0 || !last.Final {
		t.Errorf("%+v, final %v", failures, last.Final)
	}
	for way := range ways() {
		if last.Ops[way] == 0 {
			t.Errorf("%s has looked at nothing", way)
		}
	}
	if last.Bytes == 0 || last.Longest <= 0 {
		t.Errorf("%+v", last)
	}
}

// TestRunWrong: whatever differs is found, by the ways that can see it, and told from errors.
func TestRunWrong(t *testing.T) {
	flip := func(name string, off int64) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			f, err := os.OpenFile(filepath.Join(root, name), os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("X"), off)
			must(t, err)
			must(t, f.Close())
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(*testing.T, string)
		path  string
		ways  []string // that see it
		errno unix.Errno
	}{
		{"byte of a small file", flip("d/small", 7), "d/small", []string{"small"}, 0},
		{"byte of a large file", flip("d/large", 300<<10), "d/large", []string{"whole"}, 0},
		{"mode", func(t *testing.T, root string) { must(t, os.Chmod(filepath.Join(root, "d/small"), 0o600)) }, "d/small", []string{"stat"}, 0},
		{"another name", func(t *testing.T, root string) { must(t, os.WriteFile(filepath.Join(root, "d/more"), nil, 0o644)) }, "d", []string{"names"}, 0},
		{"link", func(t *testing.T, root string) {
			link := filepath.Join(root, "d/link")
			must(t, os.Remove(link))
			must(t, os.Symlink("large", link))
		}, "d/link", []string{"names"}, 0},
		{"cut off", func(t *testing.T, root string) { must(t, os.Truncate(filepath.Join(root, "d/small"), 3)) }, "d/small", []string{"small", "stat"}, 0},
		{"page fault", func(t *testing.T, root string) { must(t, os.Truncate(filepath.Join(root, "d/large"), 0)) }, "d/large", []string{"mmap"}, unix.EIO},
		{"missing", func(t *testing.T, root string) { must(t, os.Remove(filepath.Join(root, "d/small"))) }, "d/small", []string{"small", "stat"}, unix.ENOENT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			truth, root := tree(t), tree(t)
			tt.spoil(t, root)
			if _, err := os.Lstat(filepath.Join(root, "d/small")); err == nil {
				same(t, root, truth)
			}
			failures, last := look(t, root, truth)
			if !last.Final {
				t.Error("the checker gave up")
			}
			for _, way := range tt.ways {
				found := false
				for _, f := range failures {
					if f.Way == way && f.Path == tt.path && f.Errno == int(tt.errno) && f.Wrong == (tt.errno == 0) && f.Begin <= f.End {
						found = true
					}
				}
				if !found {
					t.Errorf("%s does not see it: %+v", way, failures)
				}
			}
		})
	}
}
