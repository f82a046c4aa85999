// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// journal is a log that is read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) has(s string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.b.String(), s)
}

// TestCrash has a holder crash: it is replaced, and the log says what it said.
func TestCrash(t *testing.T) {
	dir := testDir(t)
	var log journal
	c := must(Open(t.Context(), Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}))(t)
	defer c.Close()
	check(t, unix.Kill(holderPID(t, c), unix.SIGSEGV))
	until(t, "the holder is replaced", func() bool { return c.Stats().Restarts == 1 })
	if !log.has("the holder before has crashed") || !log.has("SIGSEGV") {
		t.Errorf("the log says nothing of the crash: %s", log.b.String())
	}
	if p := must(os.ReadFile(filepath.Join(dir, crashName)))(t); len(p) > 0 {
		t.Errorf("the crash of the holder before is still there: %.80s", p)
	}
}
