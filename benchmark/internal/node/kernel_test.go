// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"
)

func TestParseStatus(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\nRssFile:\t 512 kB\n"
	m, err := parseStatus(status)
	if want := (Memory{Resident: 1 << 20, Peak: 2 << 20, Anonymous: 512 << 10}); err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	for _, bad := range []string{"", strings.ReplaceAll(status, "1024", "many"), strings.ReplaceAll(status, "RssAnon", "Other")} {
		if m, err := parseStatus(bad); err == nil {
			t.Errorf("%q: %+v", bad, m)
		}
	}
}

func TestFUSEBelow(t *testing.T) {
	const table = `21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 21 0:50 / /srv/other/soci/mnt rw - fuse.rawBridge soci rw
41 21 0:51 / /srv/n/soci2/mnt rw - fuse.rawBridge soci rw
42 21 0:52 / /srv/n/soci/x ro - overlay overlay rw
43 21 0:53 / /srv/n/soci/mnt ro,relatime shared:9 - fuse.rawBridge soci ro
`
	if d, err := fuseBelow(table, "/srv/n/soci"); err != nil || d != "0:53" {
		t.Errorf("device %q, %v", d, err)
	}
	if d, err := fuseBelow(table, "/srv/none"); err == nil {
		t.Errorf("device %q of nothing", d)
	}
}
