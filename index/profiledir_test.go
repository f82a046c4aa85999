// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/index"
)

// TestProfileDir holds which profile is found, and what becomes of those that are in the way.
func TestProfileDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "profiles")
	d := index.ProfileDir(dir)
	load := func(manifest digest.Digest) string {
		p, exact, err := d.Load(dgstA, manifest)
		if err != nil {
			return fmt.Sprintf("not there %t, malformed %t", errors.Is(err, os.ErrNotExist), errors.Is(err, index.ErrFormat))
		}
		return fmt.Sprint(p.Size, exact)
	}
	expect := func(manifest digest.Digest, want string) {
		t.Helper()
		if got := load(manifest); got != want {
			t.Errorf("loaded %s, want %s", got, want)
		}
	}
	save := func(manifest digest.Digest, size int64) {
		t.Helper()
		if err := d.Save(dgstA, manifest, index.NewProfile(size, ranges(0, 1))); err != nil {
			t.Fatal(err)
		}
		// What was saved is older than what comes next, on any file system.
		name := filepath.Join(dir, dgstA.Encoded(), manifest.Encoded()+".json")
		if err := os.Chtimes(name, time.Time{}, time.Unix(1_000_000+size, 0)); err != nil {
			t.Fatal(err)
		}
	}
	expect(dgstB, "not there true, malformed false")
	save(dgstB, 1)
	expect(dgstB, "1 true")
	expect(dgstC, "1 false")
	save(dgstC, 2)
	expect(dgstB, "1 true")
	expect(dgstA, "2 false")
	save(dgstB, 3)
	expect(dgstB, "3 true")
	expect(dgstA, "3 false")
	if err := os.WriteFile(filepath.Join(dir, dgstA.Encoded(), dgstB.Encoded()+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(dgstB, "not there false, malformed true")
	for i := range int64(9) {
		save(digest.FromString(fmt.Sprint(i)), 100+i)
	}
	files, err := os.ReadDir(filepath.Join(dir, dgstA.Encoded()))
	if err != nil || len(files) != 4 {
		t.Errorf("%d profiles, %v", len(files), err)
	}
	expect(digest.FromString("8"), "108 true")
	if err := d.Save("../x", dgstA, index.NewProfile(1, nil)); err == nil {
		t.Error("a layer outside of the directory")
	}
	if _, _, err := d.Load(dgstA, "sha256:../../x"); err == nil {
		t.Error("a manifest outside of the directory")
	}
	if err := d.Save(dgstA, dgstA, &index.Profile{Size: 1, Ranges: ranges(0, 2)}); err == nil {
		t.Error("a profile was saved that does not validate")
	}
}
