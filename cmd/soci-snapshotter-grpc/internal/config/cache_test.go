// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"strings"
	"testing"
)

func TestCache(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		file       string
		size, free int64 // of the disk
	}{
		{"", 20 * gib, 20 * gib / 100 * 18},
		{"", 1000 * gib, 10 * gib},
		{"[cache]\nmin_free_percent = 18", 1000 * gib, 1000 * gib / 100 * 18},
		{"[cache]\nmin_free_bytes = 0", 1000 * gib, 0},
		{"[cache]\nmin_free_percent = 0", 1000 * gib, 0},
		{"[cache]\nmin_free_bytes = 5368709120\nmin_free_percent = 10", 20 * gib, 5 * gib},
		{"[cache]\nmin_free_bytes = 5368709120\nmin_free_percent = 10\nmax_bytes = 7", 100 * gib, 100 * gib / 100 * 10},
	} {
		conf, warnings, err := Parse([]byte(c.file))
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%q: %v, %v", c.file, warnings, err)
		}
		o := conf.Options().Spans
		if got := o.Reserve(c.size); got != c.free {
			t.Errorf("%q: %d of %d bytes are left free, want %d", c.file, got, c.size, c.free)
		}
		if want := int64(7); strings.Contains(c.file, "max_bytes") && o.MaxBytes != want {
			t.Errorf("%q: at most %d bytes", c.file, o.MaxBytes)
		}
		p, err := conf.Marshal()
		if err != nil || strings.Contains(string(p), "[cache]") != (c.file != "") {
			t.Errorf("%q is written as %s, %v", c.file, p, err)
		}
		again, _, err := Parse(p)
		if q, e := again.Marshal(); err != nil || e != nil || !bytes.Equal(p, q) {
			t.Errorf("%q is read back as %s, %v", c.file, q, err)
		}
	}
	for _, key := range []string{"max_bytes", "min_free_bytes", "min_free_percent"} {
		for _, value := range []string{"-1", "101"} {
			_, _, err := Parse([]byte("[cache]\n" + key + " = " + value))
			if bad := value == "-1" || key == "min_free_percent"; bad != (err != nil) || bad && !strings.Contains(err.Error(), "cache."+key) {
				t.Errorf("%s = %s: %v", key, value, err)
			}
		}
	}
}
