// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/snapshotter"
)

// TestSecurity holds what [security] means, and that it is not written out where it means nothing.
func TestSecurity(t *testing.T) {
	all := snapshotter.Policy{
		BoundIndex: true, GuardPrivileged: true, RefuseDevices: true, MaxIndexSize: 1, MaxZTOCSize: 2, MaxFiles: 3, MaxLayerSize: 4, MaxExpansion: 5,
	}
	for _, c := range []struct {
		file string
		want snapshotter.Policy
		err  string
	}{
		{file: ""},
		{file: "[security]\nrequire_v2_index = true\n", want: snapshotter.Policy{BoundIndex: true}},
		{file: "[security]\nrequire_complete_for_setuid = true\n", want: snapshotter.Policy{GuardPrivileged: true}},
		{file: "[security]\nrefuse_devices = true\n", want: snapshotter.Policy{RefuseDevices: true}},
		{file: "[security]\nrequire_v2_index = true\nrequire_complete_for_setuid = true\nrefuse_devices = true\nmax_index_size = 1\nmax_ztoc_size = 2\n" +
			"max_layer_files = 3\nmax_layer_size = 4\nmax_expansion_ratio = 5\n", want: all},
		{file: "[security]\nmax_index_size = -1\n", err: "security.max_index_size: -1 is out of range"},
		{file: "[security]\nmax_ztoc_size = -1\n", err: "security.max_ztoc_size"},
		{file: "[security]\nmax_layer_files = -1\n", err: "security.max_layer_files"},
		{file: "[security]\nmax_layer_size = -1\n", err: "security.max_layer_size"},
		{file: "[security]\nmax_expansion_ratio = -1\n", err: "security.max_expansion_ratio"},
		{file: "[background_fetch]\ndisable = true\n[security]\nrequire_complete_for_setuid = true\n", err: "background_fetch.disable"},
	} {
		got, warnings, err := Parse([]byte(c.file))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error is %v", c.file, err)
			}
			continue
		}
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%q: warnings %v, error %v", c.file, warnings, err)
		}
		if p := got.Options().Policy; p != c.want {
			t.Errorf("%q: %+v, want %+v", c.file, p, c.want)
		}
		p, err := got.Marshal()
		if err != nil || strings.Contains(string(p), "security") != (c.file != "") {
			t.Errorf("%q is written as %s, %v", c.file, p, err)
		}
		again, _, err := Parse(p)
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q is read back as %+v, %v", c.file, again, err)
		}
	}
}
